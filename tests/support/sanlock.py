# SPDX-License-Identifier: Apache-2.0
"""Real sanlock daemons, each of which is a host: with a directory of its own for its socket there
may be several on one machine.

They run without a watchdog: nothing is rebooted. Run as a program, it takes a lease as often as a
test says, through sanlock's own client library:
  python3 -B -P tests/support/sanlock.py count|share SPACE RESOURCE FILE COUNTER ROUNDS
"""

import os
import random
import shutil
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import programs  # noqa: E402: the line above finds it

PYTHON = "/usr/bin/python3"  # Debian's, which has the library


def require():
    """Skips the test where there is no sanlock."""
    missing = [name for name in ("sanlock",) if shutil.which(name) is None]
    probe = subprocess.run([PYTHON, "-c", "import sanlock"], stderr=subprocess.DEVNULL)
    missing += ["python3-sanlock"] if probe.returncode != 0 else []
    if missing:
        raise unittest.SkipTest(
            f"{', '.join(missing)} is not installed (tools/install_packages test)")


def dump(path):
    """What `sanlock direct dump` prints of a file: a list of {column: word}; `sanlock direct` needs
    no daemon."""
    lines = programs.run("sanlock", "direct", "dump", path).stdout.splitlines()
    columns = lines[0].split()
    rows = []
    for line in lines[1:]:
        words = line.split()
        rows.append(dict(zip(columns, words)) | {"rest": words[len(columns):]})
    return rows


def read_leader(option, name):
    """`sanlock direct read_leader -s|-r NAME`: {field: int or text}."""
    fields = {}
    for line in programs.run("sanlock", "direct", "read_leader", option, name).stdout.splitlines():
        key, _, value = line.partition(" ")
        if key != "read_leader":
            fields[key] = value if key.endswith("_name") else int(value, 0)
    return fields


class Sanlock:
    """One host. `name` is its name in the leases; its files are in a directory of that name."""

    def __init__(self, directory, name):
        self.name = name
        self.directory = Path(directory) / name
        self.environment = {**os.environ, "SANLOCK_RUN_DIR": str(self.directory),
                            "SANLOCK_PRIVILEGED": "0"}
        self.process = None

    def start(self):
        self.directory.mkdir()
        with open(self.directory / "log", "ab") as log:
            self.process = programs.start(
                ["sanlock", "daemon", "-D", "-w", "0", "-h", "0", "-l", "0", "-L", "-1", "-S", "-1",
                 "-U", "root", "-G", "root", "-e", self.name],
                stdout=log, stderr=log, env=self.environment)
        programs.wait_until((self.directory / "sanlock.sock").exists, 10, "sanlock's socket")
        return self

    def kill(self):
        """SIGKILL: the death of a host, as far as others see it. It takes its helper along."""
        self.process.kill()
        self.process.wait()

    def end(self):
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def log(self):
        return (self.directory / "log").read_text(errors="replace")

    def client(self, *arguments, status=0, timeout=120):
        return programs.run("sanlock", "client", *arguments, env=self.environment, status=status,
                            timeout=timeout)

    def add_lockspace(self, space, host_id, path, io_timeout=1):
        self.client("add_lockspace", "-s", f"{space}:{host_id}:{path}:0", "-o", io_timeout)

    def remove_lockspace(self, space, host_id, path):
        self.client("rem_lockspace", "-s", f"{space}:{host_id}:{path}:0")

    def hold(self, space, resource, path, mode=""):
        """A process that has the lease until it is released, or None if somebody else has it."""
        held = Held(self, f"{space}:{resource}:{path}:0{mode}")
        return held if held.is_held else None

    def take_turns(self, action, space, resource, path, counter, rounds):
        """A process that takes the lease `rounds` times, and each time does "count", which makes
        the number in a file one more, or "share", which takes it shared and looks at that."""
        # -P: `import sanlock` is to find the library, not this file.
        return programs.start(
            [PYTHON, "-B", "-P", __file__, action, space, resource, path, counter, rounds],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Held:
    """`sanlock client command`: the lease goes with the process that it runs."""

    def __init__(self, host, resource):
        self.process = programs.start(
            ["sanlock", "client", "command", "-r", resource, "-c", "/bin/sh", "-c",
             "echo HELD; exec cat"], env=host.environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        # The command runs only once the lease is there.
        lines = iter(self.process.stdout.readline, "")
        self.is_held = any(line.strip() == "HELD" for line in lines)
        if not self.is_held:
            self._close()

    def release(self):
        """The client ends, of which sanlock hears a moment later."""
        self.process.stdin.close()
        self._close()

    def kill(self):
        self.process.kill()
        self._close()

    def _close(self):
        if not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def take_turns(action, space, resource, path, counter, rounds):
    """Every round: take the lease, read the number, give others a chance to do so wrongly, then
    write it back by one higher ("count") or see that it has stayed ("share"), release."""
    import sanlock
    slk = sanlock.register()
    lease = (space.encode(), resource.encode(), [(path, 0)])
    done = refused = 0
    while done < rounds:
        try:
            sanlock.acquire(*lease, slkfd=slk, shared=action == "share")
        except sanlock.SanlockException as error:
            refused += 1
            if refused > 1000 * (rounds + 10):
                raise
            assert error.errno < 0, error
            time.sleep(random.uniform(0.001, 0.02))
            continue
        value = int(Path(counter).read_text())
        # Sharing is for longer than a ballot takes, which others could begin meanwhile.
        time.sleep(random.uniform(0, 0.003 if action == "count" else 0.1))
        if action == "count":
            Path(counter).write_text(f"{value + 1}\n")
        else:
            assert int(Path(counter).read_text()) == value, "written to while it was shared"
        sanlock.release(*lease, slkfd=slk)
        done += 1
        time.sleep(random.uniform(0, 0.02))
    print(f"done {done}, refused {refused}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 7 or sys.argv[1] not in ("count", "share"):
        sys.exit(__doc__)
    take_turns(*sys.argv[1:6], int(sys.argv[6]))
