# SPDX-License-Identifier: Apache-2.0
"""What the tests with real guests share."""

import os
import tempfile
import unittest
from pathlib import Path

from support import guest, programs
from support.daemon import HoldfastTest, test_root
from support.storage_daemon import StorageDaemon

# "qemu-storage-daemon": the same tests against it, where it can do what they ask for.
SERVER = os.environ.get("HOLDFAST_GUEST_SERVER", "holdfastd")

only_holdfast = unittest.skipUnless(SERVER == "holdfastd", "only Holdfast is to do this")


def guest_load():
    return programs.binary_directory() / "guest_load"


class GuestTest(HoldfastTest):
    """A test with a daemon and guests; every guest ends with it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.shared = tempfile.TemporaryDirectory(prefix="holdfast-guest-", dir=test_root())
        cls.addClassCleanup(cls.shared.cleanup)
        cls.shared_directory = Path(cls.shared.name)
        cls.initramfs = cls.shared_directory / "initramfs"
        guest.build_initramfs(cls.initramfs, guest.SUPPORT / "guest_agent", [guest_load()])

    def make_daemon(self):
        if SERVER == "qemu-storage-daemon":
            return StorageDaemon(self.directory)
        return super().make_daemon()

    def setUp(self):
        super().setUp()
        self.make_pool()

    def make_pool(self):
        self.daemon.create_pool()

    def serve(self, volume="pool/disk", size="256M", options=()):
        """A new volume, attached; returns its socket."""
        self.daemon.call("volume", "create", volume, "--size", size)
        return self.daemon.call("attach", volume, "--vhost", *options)["socket"]

    def start_guest(self, name, arguments):
        started = guest.Guest(self.directory, name, arguments)
        self.addCleanup(started.end)
        return started

    def boot(self, name, arguments, processors=1):
        """A guest that runs in memory and takes commands."""
        started = self.start_guest(
            name, [*guest.direct_boot(self.initramfs), "-smp", processors, *arguments])
        return started.wait_until_ready()

    def assert_healthy(self, running):
        self.assertEqual(running.kernel_errors(), "")


class Load:
    """guest_load, running in a guest."""

    def __init__(self, running, target, size_bytes, name="load", threads=4, seed=1):
        self.guest = running
        self.output = f"/tmp/{name}.log"
        command = f"guest_load {target} {size_bytes} {seed} {threads}"
        self.pid = running.run(f"{command} >{self.output} 2>&1 & echo $!")

    def progress(self):
        """How many writes, reads and flushes are done."""
        line = self.guest.run(f"tail -n 1 {self.output}")
        words = line.split()
        if words[:2] == ["load:", "progress"]:
            return tuple(int(word) for word in words[2:])
        if line:
            raise guest.GuestFailed(f"the load ended: {line}")
        return 0, 0, 0

    def wait_for_writes(self, more=100, timeout_seconds=60):
        """Until so many more writes are done."""
        target = self.progress()[0] + more
        programs.wait_until(lambda: self.progress()[0] >= target, timeout_seconds,
                            f"the guest to write on\n{self.guest.console()[-2000:]}",
                            step_seconds=0.1)

    def finish(self, timeout_seconds=120):
        """Ends it and lets it read everything back: {"writes", "reads", ...}."""
        self.guest.run(f"kill {self.pid}")
        self.guest.run(f"while [ -e /proc/{self.pid}/exe ]; do sleep 0.1; done", timeout_seconds)
        line = self.guest.run(f"tail -n 1 {self.output}")
        words = line.split()
        if words[:2] != ["load:", "done"]:
            raise guest.GuestFailed(f"the load failed: {line}")
        names = ("writes", "reads", "flushes", "blocks", "longest_ms")
        return dict(zip(names, (int(word) for word in words[2:]), strict=True))
