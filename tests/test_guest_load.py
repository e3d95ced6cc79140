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
RAW_BYTES = 48 * MIB
FILE_BYTES = 32 * MIB
ROUNDS = int(os.environ.get("HOLDFAST_KILL_ROUNDS", "10"))


class GuestLoad(GuestTest):
    def setUp(self):
        super().setUp()
        # With room for more memory.
        memory = ["-m", "512M,slots=1,maxmem=1G", *guest.shared_memory("512M")[2:]]
        self.disks = [
            word for name in ("raw", "files")
            for word in guest.vhost_disk(self.serve(f"pool/{name}", "256M"), name, num_queues=2)]
        self.guest = self.boot("guest", [*memory, *self.disks], processors=2)
        self.assertEqual(self.guest.run("ls /sys/block").split(), ["vda", "vdb"])
        self.guest.run("mkfs.ext4 -q -F /dev/vdb && mount -t ext4 /dev/vdb /mnt")
        self.start_loads()

    def start_loads(self):
        self.loads = [Load(self.guest, "/dev/vda", RAW_BYTES, "raw", seed=1),
                      Load(self.guest, "/mnt/file", FILE_BYTES, "files", seed=2)]

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

    def test_memory_is_plugged_into_a_guest_under_load(self):
        self.wait_for_writes(150)
        self.guest.qmp.execute("object-add", qom_type="memory-backend-memfd", id="more",
                               size=256 * MIB, share=True)
        self.guest.qmp.execute("device_add", driver="pc-dimm", id="dimm", memdev="more")
        block = "/sys/devices/system/memory/memory32"
        self.guest.run(f"until [ -e {block}/state ]; do sleep 0.1; done")
        self.guest.run("for i in /sys/devices/system/memory/memory*/state; do "
                       "[ $(cat $i) = online ] || echo online >$i; done")
        # What the guest takes for its buffers now is above 4 GiB, where there was nothing before.
        free = self.guest.run("sed -n '/zone *Normal/,/nr_free/p' /proc/zoneinfo | grep nr_free")
        self.assertGreater(int(free.split()[1]), 1000)
        self.guest.run("dd if=/dev/vda of=/dev/null bs=1M")
        used = self.guest.run("sed -n '/zone *Normal/,/nr_free/p' /proc/zoneinfo | grep nr_free")
        self.assertLess(int(used.split()[1]), int(free.split()[1]) - 1000)
        self.wait_for_writes(150)
        self.finish()

    def check_after_reset(self):
        """Nothing is torn or out of place after a guest stopped in the middle of its load."""
        checked = self.guest.run(f"guest_load --check /dev/vda {RAW_BYTES} 1")
        self.assertGreater(int(checked.split()[2]), 1000)
        self.guest.run("e2fsck -p /dev/vdb; e2fsck -f -n /dev/vdb")
        self.guest.run("mount -t ext4 /dev/vdb /mnt")
        self.guest.run(f"guest_load --check /mnt/file {FILE_BYTES} 2")
        self.assert_healthy(self.guest)

    def test_a_guest_that_reboots_or_is_killed_under_load_leaves_its_disks_whole(self):
        self.wait_for_writes(500)
        self.guest.tell("reboot -f -n")
        self.guest.wait_until_ready(boots=2)
        self.check_after_reset()
        self.guest.run("rm /mnt/file; blkdiscard /dev/vda")
        self.start_loads()
        self.wait_for_writes(500)
        self.guest.end()
        self.guest = self.boot("next", self.disks)
        self.check_after_reset()

    @only_holdfast
    def test_the_daemon_dies_ten_times_under_load_and_the_guest_sees_nothing(self):
        source = random.Random(7)
        for _ in range(ROUNDS):
            self.wait_for_writes(150)
            time.sleep(source.uniform(0.0, 0.5))
            self.daemon.kill()
            time.sleep(source.choice([0.0, 0.0, 0.5, 2.0]))
            self.daemon.start()
        # A clean stop is no other thing for the guest.
        self.wait_for_writes(150)
        self.daemon.restart()
        self.wait_for_writes(150)
        self.finish()


if __name__ == "__main__":
    unittest.main()
