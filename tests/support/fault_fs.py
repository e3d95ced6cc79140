# SPDX-License-Identifier: Apache-2.0
"""A file system that fails, hangs and fills up on command: tests/fault_fs.cc, mounted by FUSE."""

import contextlib
import socket
import subprocess

from support import programs


class FaultFs:
    """Mounted while it lives; `end` it after everything that uses it, or kill that first: what
    hangs in it cannot be killed before it is released."""

    def __init__(self, directory, name="storage"):
        self.below = directory / f"{name}.below"
        self.path = directory / name
        self.control_path = directory / f"{name}.control"
        self.below.mkdir()
        self.path.mkdir()
        self.process = programs.start(
            [programs.binary_directory() / "fault_fs", self.below, self.path, self.control_path],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise AssertionError(f"fault_fs: {self.process.stderr.read()}")
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.control.settimeout(30)
        self.control.connect(str(self.control_path))
        self.answers = self.control.makefile("r")

    def end(self):
        self.answers.close()
        self.control.close()
        programs.stop(self.process)
        self.process.stdout.close()
        self.process.stderr.close()
        # Nothing is left of it after SIGTERM; after anything worse the mount is.
        programs.run("umount", "-l", self.path, status=None)

    def call(self, *words):
        self.control.sendall((" ".join(str(word) for word in words) + "\n").encode())
        answer = self.answers.readline().split()
        assert answer and answer[0] == "ok", f"fault_fs: {words}: {' '.join(answer)}"
        return [int(word) for word in answer[1:]]

    # `action`: an errno's name, "hang" or "slow=MILLISECONDS"; `operations` and `pattern`: see
    # fault_fs.cc.

    def add(self, action, operations="all", pattern=""):
        return self.call("add", action, operations, pattern)[0]

    def remove(self, rule):
        self.call("remove", rule)

    def clear(self):
        self.call("clear")

    def make_stale(self):
        """Every open file is of no use any more; opening it again helps."""
        self.call("stale")

    def hits(self, rule):
        return self.call("show", rule)[0]

    def waiting(self, rule):
        return self.call("show", rule)[1]

    def set_available(self, bytes_count):
        """What it says is free; None: the truth."""
        self.call("available", "real" if bytes_count is None else bytes_count)

    @contextlib.contextmanager
    def fault(self, action, operations="all", pattern=""):
        rule = self.add(action, operations, pattern)
        try:
            yield rule
        finally:
            self.remove(rule)
