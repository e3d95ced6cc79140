# SPDX-License-Identifier: Apache-2.0
"""A full pool holds writes, says so, and goes on when there is space: no guest sees an error."""

import subprocess
import unittest

from support import mounts, programs
from support.daemon import MIB, HoldfastTest


@unittest.skipUnless(mounts.loop_devices_work(), "no loop devices on this machine")
class DiskFull(HoldfastTest):
    def setUp(self):
        super().setUp()
        image = self.directory / "small.img"
        with open(image, "wb") as file:
            file.truncate(512 * MIB)
        programs.run("mkfs.ext4", "-q", "-F", "-m", "0", image)
        # Left in the opposite order: the daemon must be gone before its filesystem is.
        self.enterContext(mounts.mounted(image, self.directory / "small", "loop"))
        self.addCleanup(self.daemon.end)
        self.pool_path = self.directory / "small" / "pool"
        self.filler = self.directory / "small" / "filler"

    def fill_filesystem(self, leave_bytes):
        """Takes space that is not Holdfast's, as a careless neighbour does."""
        available = self.daemon.call("pool", "show", "pool")["available_bytes"]
        programs.run("fallocate", "-l", available - leave_bytes, self.filler)

    def start_writer(self, uri, pattern, bytes_count):
        writer = programs.start(
            ["qemu-io", "-f", "raw", "-t", "none", uri, "-c", f"write -P {pattern} 0 {bytes_count}",
             "-c", "flush"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(writer.stdout.close)
        self.addCleanup(programs.stop, writer)
        return writer

    def assert_held(self):
        # What the writes made dead is freed first, so a first hold may be short.
        hold = programs.wait_until(
            lambda: (lambda now: now if now and now["seconds"] >= 1 else None)(
                self.daemon.volume()["hold"]), 60, "a hold that lasts")
        self.assertEqual(hold["reason"], "pool full")
        self.assertTrue(hold["detail"])
        self.assertGreaterEqual(hold["waiting"], 1)
        self.assertIn("pool full", self.daemon.run("status", status=0).stdout)

    def test_writes_are_held_and_finish_once_there_is_space(self):
        self.daemon.create_pool(path=self.pool_path, segment_size="4M")
        uri = self.daemon.attach_new("pool/disk", "300M")
        self.fill_filesystem(leave_bytes=160 * MIB)
        writer = self.start_writer(uri, 7, 200 * MIB)
        self.assert_held()
        self.assertIsNone(writer.poll(), "the writer ended though it was held")
        # Reading what is there goes on meanwhile.
        programs.run("qemu-io", "-f", "raw", "-r", uri, "-c", "read -P 0 299M 1M", timeout=20)
        self.filler.unlink()
        self.assertEqual(writer.wait(60), 0, writer.stdout.read())
        self.assertNotIn("failed", writer.stdout.read())
        self.assertIsNone(self.daemon.volume()["hold"])
        self.assertEqual(self.daemon.volume()["statistics"]["errors"], 0)
        programs.run("qemu-io", "-f", "raw", uri, "-c", "read -P 7 0 200M")
        self.daemon.kill_and_start()
        programs.run("qemu-io", "-f", "raw", uri, "-c", "read -P 7 0 200M")

    def test_trimming_works_on_a_full_pool_and_lets_held_writes_go_on(self):
        self.daemon.create_pool(path=self.pool_path, segment_size="4M")
        uri = self.daemon.attach_new("pool/disk", "300M")
        other = self.daemon.attach_new("pool/other", "300M")
        programs.run("qemu-io", "-f", "raw", other, "-c", "write -P 9 0 100M", "-c", "flush")
        self.fill_filesystem(leave_bytes=120 * MIB)
        writer = self.start_writer(uri, 7, 120 * MIB)
        self.assert_held()
        programs.run("qemu-io", "-f", "raw", "-d", "unmap", other, "-c", "discard 0 100M",
                     "-c", "flush", timeout=60)
        self.assertEqual(writer.wait(60), 0)
        programs.run("qemu-io", "-f", "raw", uri, "-c", "read -P 7 0 120M")
        programs.run("qemu-io", "-f", "raw", other, "-c", "read -P 0 0 100M")

    def test_removing_a_volume_works_on_a_full_pool(self):
        self.daemon.create_pool(path=self.pool_path, segment_size="4M")
        uri = self.daemon.attach_new("pool/disk", "300M")
        other = self.daemon.attach_new("pool/other", "300M")
        programs.run("qemu-io", "-f", "raw", other, "-c", "write -P 9 0 100M", "-c", "flush")
        self.fill_filesystem(leave_bytes=120 * MIB)
        writer = self.start_writer(uri, 7, 120 * MIB)
        self.assert_held()
        self.daemon.call("detach", "pool/other")
        self.daemon.call("volume", "remove", "--now", "pool/other")
        self.assertEqual(writer.wait(60), 0)
        programs.run("qemu-io", "-f", "raw", uri, "-c", "read -P 7 0 120M")

    def test_detaching_and_stopping_do_not_wait_for_a_full_pool(self):
        self.daemon.create_pool(path=self.pool_path, segment_size="4M")
        uri = self.daemon.attach_new("pool/disk", "300M")
        programs.run("qemu-io", "-f", "raw", uri, "-c", "write -P 7 250M 40M", "-c", "flush")
        self.fill_filesystem(leave_bytes=120 * MIB)
        writer = self.start_writer(uri, 8, 200 * MIB)
        self.assert_held()
        self.assertIn("still holds", self.daemon.call("detach", "pool/disk")["warning"])
        self.assertNotEqual(writer.wait(60), 0, "its connection is lost")
        self.daemon.process.terminate()
        self.assertIn(self.daemon.process.wait(60), (0, 1))
        self.assertIn("left as after a crash", self.daemon.log_path.read_text())
        self.daemon.start()
        # A pool that is full keeps nobody from attaching.
        uri = self.daemon.call("attach", "pool/disk")["uri"]
        self.filler.unlink()
        programs.run("qemu-io", "-f", "raw", uri, "-c", "write -P 8 0 200M", "-c",
                     "read -P 8 0 200M", "-c", "read -P 7 250M 40M", timeout=60)

    def test_requests_fail_after_as_long_as_the_operator_says(self):
        self.daemon.create_pool(path=self.pool_path, segment_size="4M")
        uri = self.daemon.attach_new("pool/disk", "300M")
        self.daemon.call("volume", "set", "pool/disk", "hold.fail_after=3s")
        self.fill_filesystem(leave_bytes=120 * MIB)
        writer = self.start_writer(uri, 7, 200 * MIB)
        self.assert_held()
        self.assertNotEqual(writer.wait(60), 0)
        self.assertIn("Input/output error", writer.stdout.read())
        programs.run("qemu-io", "-f", "raw", "-r", uri, "-c", "read 250M 1M", timeout=20)
        self.filler.unlink()
        programs.wait_until(lambda: self.daemon.volume()["hold"] is None, 30, "requests to flow")
        programs.run("qemu-io", "-f", "raw", uri, "-c", "write -P 8 0 200M", "-c",
                     "read -P 8 0 200M", timeout=60)

    def test_a_daemon_killed_while_it_holds_comes_back_with_all_that_was_acknowledged(self):
        self.daemon.create_pool(path=self.pool_path, segment_size="4M")
        uri = self.daemon.attach_new("pool/disk", "300M")
        programs.run("qemu-io", "-f", "raw", uri, "-c", "write -P 7 0 40M")
        self.fill_filesystem(leave_bytes=120 * MIB)
        writer = self.start_writer(uri, 7, 200 * MIB)
        self.assert_held()
        self.daemon.kill()
        programs.stop(writer)
        # Even what Holdfast keeps in reserve is taken by a neighbour when it starts: to be opened,
        # a volume needs a root of its own, so it waits, says why, and opens by itself later.
        programs.run("sh", "-c", f"cat /dev/zero > {self.directory}/small/rest", status=None)
        self.daemon.start()
        self.assertIn(self.daemon.volume()["state"], ("opening", "serving"))
        since_start = self.daemon.log_path.read_text().rpartition("pool pool is open")[2]
        self.assertIn("held: pool full", since_start)
        if self.daemon.volume()["state"] == "opening":
            hold = programs.wait_until(lambda: self.daemon.volume()["hold"], 20,
                                       "the hold of the opening to be shown")
            self.assertEqual(hold["reason"], "pool full")
            self.assertIn("opening, held: pool full", self.daemon.run("status", status=0).stdout)
        (self.directory / "small" / "rest").unlink()
        self.filler.unlink()
        programs.wait_until(lambda: self.daemon.volume()["state"] == "serving"
                            and self.daemon.volume()["hold"] is None, 30, "the volume to be served")
        programs.run("qemu-io", "-f", "raw", uri, "-c", "read -P 7 0 40M")
        programs.run("qemu-io", "-f", "raw", uri, "-c", "write -P 8 0 200M", "-c",
                     "read -P 8 0 200M", timeout=60)


if __name__ == "__main__":
    unittest.main()
