# SPDX-License-Identifier: Apache-2.0
"""A guest works on two volumes while their daemon is killed, over and over.

One disk is loaded raw, the other through ext4; every read of the load is checked in the guest
(tests/guest_load.cc). HOLDFAST_KILL_ROUNDS: how many deaths, 10 by default.

HOLDFAST_GUEST_SERVER=qemu-storage-daemon runs the tests against that, without deaths."""

import os
import random
import time
import unittest

from support import guest
from support.guest_test import GuestTest, Load, only_holdfast

MIB = 1024 * 1024
ROUNDS = int(os.environ.get("HOLDFAST_KILL_ROUNDS", "10"))


class GuestLoad(GuestTest):
    def setUp(self):
        super().setUp()
        disks = [word for name in ("raw", "files") for word in guest.vhost_disk(
            self.serve(f"pool/{name}", "256M"), name, num_queues=2)]
        self.guest = self.boot("guest", disks, processors=2)
        self.assertEqual(self.guest.run("ls /sys/block").split(), ["vda", "vdb"])
        self.guest.run("mkfs.ext4 -q -F /dev/vdb && mount -t ext4 /dev/vdb /mnt")
        self.loads = [Load(self.guest, "/dev/vda", 96 * MIB, "raw", seed=1),
                      Load(self.guest, "/mnt/file", 48 * MIB, "files", seed=2)]

    def wait_for_writes(self, more):
        for load in self.loads:
            load.wait_for_writes(more)

    def finish(self):
        for load in self.loads:
            done = load.finish()
            print(f"\n{done}", end=" ", flush=True)
            self.assertGreater(done["writes"], 1000)
            self.assertGreater(done["flushes"], 10)
        self.guest.run("umount /mnt")
        self.guest.run("e2fsck -f -n /dev/vdb")
        self.assert_healthy(self.guest)
        for name in ("raw", "files"):
            self.assertEqual(self.daemon.volume(f"pool/{name}")["statistics"]["errors"], 0)

    def test_two_disks_of_one_guest_are_loaded_at_once(self):
        self.wait_for_writes(2000)
        self.finish()

    @only_holdfast
    def test_the_daemon_dies_ten_times_under_load_and_the_guest_sees_nothing(self):
        source = random.Random(7)
        for _ in range(ROUNDS):
            self.wait_for_writes(150)
            time.sleep(source.uniform(0.0, 0.5))
            self.daemon.kill()
            time.sleep(source.choice([0.0, 0.0, 0.5, 2.0]))
            self.daemon.start()
        self.wait_for_writes(150)
        self.finish()

    @only_holdfast
    def test_the_daemon_is_stopped_and_started_under_load_and_the_guest_sees_nothing(self):
        for _ in range(3):
            self.wait_for_writes(150)
            self.daemon.restart()
        self.wait_for_writes(150)
        self.finish()


if __name__ == "__main__":
    unittest.main()
