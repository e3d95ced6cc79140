# SPDX-License-Identifier: Apache-2.0
"""A holdfastd of the test's own, in a directory of the test's own."""

import json
import os
import resource
import shutil
import socket
import tempfile
import time
import unittest
from pathlib import Path

from support import programs

MIB = 1024 * 1024
GIB = 1024 * MIB


class CommandFailed(AssertionError):
    """`holdfast` ended with a status other than 0."""

    def __init__(self, done):
        super().__init__(
            f"{' '.join(done.args)}\nstatus {done.returncode}\n{done.stdout}{done.stderr}")
        self.status = done.returncode
        self.message = done.stderr.strip()
        self.code = None
        try:
            self.code = json.loads(done.stdout)["error"]["code"]
        except (ValueError, KeyError, TypeError):
            pass


class Daemon:
    def __init__(self, directory, arguments=(), open_files_max=None, name="run"):
        self.directory = Path(directory)
        self.runtime = self.directory / name
        self.log_path = self.directory / f"{name}.log"
        self.arguments = list(arguments)
        self.open_files_max = open_files_max
        self.process = None

    @property
    def pid(self):
        return self.process.pid

    def command_line(self):
        return [programs.binary_directory() / "holdfastd", "--foreground", "--runtime-dir",
                self.runtime, *self.arguments]

    def _prepare_child(self):
        programs.die_with_parent()
        if self.open_files_max is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.open_files_max, self.open_files_max))

    def start(self, timeout_seconds=60):
        """Starts it and returns after how many seconds it answered."""
        assert self.process is None or self.process.poll() is not None, "it is running already"
        self.runtime.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with open(self.log_path, "ab") as log:
            self.process = programs.start(self.command_line(), stdout=log, stderr=log,
                                          preexec_fn=self._prepare_child)
        deadline = began + timeout_seconds
        while not self.answers():
            if self.process.poll() is not None:
                raise AssertionError(
                    f"holdfastd ended at its start with status {self.process.returncode}\n"
                    + self.log_tail())
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"holdfastd did not answer in {timeout_seconds} s\n" + self.log_tail())
            time.sleep(0.002)
        return time.monotonic() - began

    def answers(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self.runtime / "api.sock"))
                return True
            except OSError:
                return False

    def kill(self):
        """SIGKILL: what a crash of the daemon is."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """A clean stop; anything but exit status 0 is a failure."""
        self.process.terminate()
        status = self.process.wait(60)
        assert status == 0, f"holdfastd ended with status {status} on SIGTERM\n{self.log_tail()}"

    def end(self):
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def restart(self):
        self.stop()
        return self.start()

    def kill_and_start(self):
        self.kill()
        return self.start()

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def log_tail(self, bytes_max=6000):
        try:
            text = self.log_path.read_text(errors="replace")
            return "--- log of the daemon\n" + text[-bytes_max:]
        except OSError:
            return "(no log)"

    def run(self, *arguments, status=None, timeout=60):
        """`holdfast ARGUMENTS`, as a person types it; returns the CompletedProcess."""
        return programs.run(programs.binary_directory() / "holdfast", "--runtime-dir", self.runtime,
                            *arguments, status=status, timeout=timeout)

    def call(self, *arguments, timeout=60):
        """`holdfast --json ARGUMENTS`: the object it prints, or CommandFailed."""
        done = self.run("--json", *arguments, timeout=timeout)
        if done.returncode != 0:
            raise CommandFailed(done)
        return json.loads(done.stdout)

    # The usual steps.

    def create_pool(self, name="pool", path=None, **options):
        path = path or self.directory / name
        extra = [word for key, value in options.items()
                 for word in ("--" + key.replace("_", "-"), str(value))
                 if word != "True"]  # a flag, such as shared=True
        return self.call("pool", "create", name, f"dir:{path}", *extra)

    def attach_new(self, volume="pool/disk", size="1G"):
        """Makes a volume, attaches it and returns its NBD URI."""
        self.call("volume", "create", volume, "--size", size)
        return self.call("attach", volume)["uri"]

    def volume(self, name="pool/disk"):
        return self.call("volume", "show", name)


def test_root():
    """Where tests keep files: on a disk (/tmp may be memory)."""
    return os.environ.get("HOLDFAST_TEST_DIR", "/var/tmp")


class HoldfastTest(unittest.TestCase):
    """A test with a temporary directory and a daemon, which dies only by the test's hand."""

    daemon_arguments = ()
    open_files_max = None

    def setUp(self):
        result = self._outcome.result
        self._failures_before = len(result.failures) + len(result.errors)
        self.directory = Path(tempfile.mkdtemp(prefix="holdfast-", dir=test_root()))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.daemon = self.make_daemon()
        self.addCleanup(self.daemon.end)
        self.daemon.start()

    def make_daemon(self):
        return Daemon(self.directory, self.daemon_arguments, self.open_files_max)

    def tearDown(self):
        result = self._outcome.result
        if len(result.failures) + len(result.errors) > self._failures_before:
            print(self.daemon.log_tail(), flush=True)
        process = self.daemon.process
        if process is not None and process.poll() not in (None, 0, -9):
            self.fail(f"the daemon died with status {process.poll()}\n{self.daemon.log_tail()}")

    def assert_refused(self, code, *arguments, said=()):
        """The command fails with exit status 1, one line, the given error code, and each word."""
        with self.assertRaises(CommandFailed) as caught:
            self.daemon.call(*arguments)
        error = caught.exception
        self.assertEqual(error.status, 1, str(error))
        self.assertEqual(error.code, code, str(error))
        self.assertTrue(error.message.startswith("holdfast: "), error.message)
        self.assertEqual(error.message.count("\n"), 0, error.message)
        for word in said:
            self.assertIn(word, error.message)
        return error.message

    def export_path(self, volume="pool.disk"):
        return self.daemon.runtime / f"{volume}.nbd.sock"
