#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The vhost-user socket from outside: a proper virtio-blk device, whatever its peers do."""

import os
import shutil
import tempfile
import unittest
from pathlib import Path

from support import programs
from support.daemon import MIB, HoldfastTest, test_root
from support.vhost import StorageDaemon


def run_suites(suites, timeout=300, **settings):
    """Suites of tests/vhost/conformance; fails with what they print."""
    settings = {name: str(value) for name, value in settings.items()}
    done = programs.run(
        programs.binary_directory() / "vhost_conformance",
        "--gtest_filter=" + ":".join(f"{suite}.*" for suite in suites), "--gtest_brief=1",
        status=None, timeout=timeout, env={**os.environ, **settings})
    if done.returncode != 0 or " 0 tests from " in done.stdout:
        said = done.stdout[-8000:] + done.stderr[-8000:]
        raise AssertionError(f"status {done.returncode}\n{said}")


class Vhost(HoldfastTest):
    def setUp(self):
        super().setUp()
        self.daemon.create_pool(segment_size="2M")
        self.socket = self.attach("disk")
        self.other_socket = self.attach("other")

    def tearDown(self):
        # Whatever was done to it: the same process serves, and has kept nothing.
        self.assertTrue(self.daemon.is_running(), self.daemon.log_tail())
        super().tearDown()

    def attach(self, name, *options):
        self.daemon.call("volume", "create", f"pool/{name}", "--size", "64M")
        return self.daemon.call("attach", f"pool/{name}", "--vhost", *options)["socket"]

    def open_file_count(self):
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def mapping_count(self):
        return len(Path(f"/proc/{self.daemon.pid}/maps").read_text().splitlines())

    def test_it_conforms(self):
        run_suites(["Conformance*", "Holdfast*"], VHOST_SOCKET=self.socket)

    def test_a_read_only_one_stays_as_it_is(self):
        run_suites(["ReadOnly"], VHOST_READ_ONLY_SOCKET=self.attach("fixed", "--read-only"))

    def test_a_guest_hears_of_a_larger_size(self):
        command = (f"{programs.binary_directory()}/holdfast --runtime-dir {self.daemon.runtime} "
                   "volume resize pool/disk --size 96M")
        run_suites(["Resize"], VHOST_SOCKET=self.socket, VHOST_RESIZE_COMMAND=command)

    def hostile(self, suite):
        run_suites(["ConformanceProtocol"], VHOST_SOCKET=self.socket)  # warm: pools, threads, logs
        files, mappings = self.open_file_count(), self.mapping_count()
        run_suites([suite], VHOST_SOCKET=self.socket, VHOST_OTHER_SOCKET=self.other_socket)
        programs.wait_until(lambda: self.open_file_count() <= files + 16, 10,
                            f"the daemon to close what its peers sent ({files} files before)")
        programs.wait_until(lambda: self.mapping_count() <= mappings + 64, 10,
                            f"the daemon to unmap its peers' memory ({mappings} mappings before)")

    def test_hostile_rings_hurt_only_their_own_guest(self):
        self.hostile("HostileRings")

    def test_hostile_messages_hurt_only_their_own_guest(self):
        self.hostile("HostileMessages")


class Harness(unittest.TestCase):
    """The conformance tests hold for a server that is not ours, and fail for a wrong one."""

    def setUp(self):
        self.directory = Path(tempfile.mkdtemp(prefix="holdfast-", dir=test_root()))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def test_another_server_conforms(self):
        server = StorageDaemon(self, self.directory, 64 * MIB)
        run_suites(["Conformance*"], VHOST_SOCKET=server.socket)

    def test_a_read_only_server_of_others_conforms(self):
        server = StorageDaemon(self, self.directory, 64 * MIB, writable=False)
        run_suites(["ReadOnly"], VHOST_READ_ONLY_SOCKET=server.socket)

    def test_a_disk_that_cannot_be_written_does_not_conform(self):
        server = StorageDaemon(self, self.directory, 64 * MIB, writable=False)
        with self.assertRaisesRegex(AssertionError, "FAILED"):
            run_suites(["ConformanceRequests"], VHOST_SOCKET=server.socket)


if __name__ == "__main__":
    unittest.main()
