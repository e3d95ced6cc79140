# SPDX-License-Identifier: Apache-2.0
"""A running guest and its disks: each test plugs disks into it over QMP, and takes them out again.

HOLDFAST_GUEST_SERVER=qemu-storage-daemon runs the tests against that instead."""

import unittest

from support import guest, programs
from support.guest_test import GuestTest, Load, only_holdfast

MIB = 1024 * 1024


class RunningGuest(GuestTest):
    """One guest for all tests of the class; a test that fails costs it, and the next boots another.
    Each test has a daemon of its own."""

    running = None

    def setUp(self):
        super().setUp()
        cls = type(self)
        if cls.running is None:
            cls.running = guest.Guest(self.shared_directory, "guest", [
                *guest.direct_boot(self.initramfs), "-smp", "2"])
            cls.addClassCleanup(cls.end_guest)
            cls.running.wait_until_ready()
        self.guest = cls.running
        self.plugged = []

    @classmethod
    def end_guest(cls):
        if cls.running is not None:
            cls.running.end()
            cls.running = None

    def tearDown(self):
        try:
            for name in list(self.plugged):
                self.unplug(name)
            self.assertEqual(self.guest.kernel_errors(), "")
        except BaseException:
            self.end_guest()
            raise
        finally:
            super().tearDown()

    def plug(self, socket, name="disk", **properties):
        """Hot-plugs a disk; returns its name in the guest, such as vda."""
        before = set(self.disks())
        address = {"type": "unix", "data": {"path": socket}}
        self.guest.qmp.execute("chardev-add", id=name, backend={
            "type": "socket", "data": {"addr": address, "server": False, "reconnect": 1}})
        self.guest.qmp.execute("device_add", driver="vhost-user-blk-pci", id=name, chardev=name,
                               **properties)
        self.plugged.append(name)
        fresh = programs.wait_until(lambda: set(self.disks()) - before, 30, "the new disk",
                                    step_seconds=0.1)
        return fresh.pop()

    def unplug(self, name="disk"):
        self.guest.qmp.execute("device_del", id=name)
        self.guest.qmp.wait_for_event("DEVICE_DELETED", device=name)
        self.guest.qmp.execute("chardev-remove", id=name)
        self.plugged.remove(name)

    def disks(self):
        return self.guest.run("ls /sys/block").split()

    def attribute(self, disk, name):
        return self.guest.run(f"cat /sys/block/{disk}/{name}")

    def test_a_disk_is_plugged_in_and_out_of_a_running_guest(self):
        socket = self.serve()
        self.daemon.call("volume", "create", "pool/other", "--size", "64M")
        other = self.daemon.call("attach", "pool/other", "--vhost")["socket"]
        disk = self.plug(socket)
        self.assertEqual(self.attribute(disk, "size"), str(256 * MIB // 512))
        self.guest.run(f"echo hello >/tmp/hello; dd if=/tmp/hello of=/dev/{disk} conv=fsync")
        second = self.plug(other, "second")
        self.assertEqual(self.attribute(second, "size"), str(64 * MIB // 512))
        self.unplug()
        self.assertEqual(self.disks(), [second])
        disk = self.plug(socket)
        self.assertEqual(self.guest.run(f"head -n 1 /dev/{disk}"), "hello")

    def test_a_filesystem_is_made_filled_and_clean(self):
        disk = self.plug(self.serve())
        self.guest.run(f"mkfs.ext4 -q -F /dev/{disk} && mount -t ext4 /dev/{disk} /mnt")
        self.guest.run("for i in $(seq 50); do head -c $((i * 9000)) /dev/urandom >/mnt/$i; done")
        sums = self.guest.run("cd /mnt && sha256sum [0-9]*")
        self.guest.run("umount /mnt")
        self.guest.run(f"e2fsck -f -n /dev/{disk}")
        self.unplug()
        self.daemon.call("detach", "pool/disk")
        disk = self.plug(self.daemon.call("attach", "pool/disk", "--vhost")["socket"])
        self.guest.run(f"mount -t ext4 -o ro /dev/{disk} /mnt")
        self.assertEqual(self.guest.run("cd /mnt && sha256sum [0-9]*"), sums)
        self.guest.run("umount /mnt")

    @only_holdfast  # qemu-storage-daemon 7.2 does not tell the guest
    def test_the_guest_sees_the_volume_grow(self):
        disk = self.plug(self.serve())
        self.guest.run(f"mkfs.ext4 -q -F /dev/{disk} && mount -t ext4 /dev/{disk} /mnt")
        self.daemon.call("volume", "resize", "pool/disk", "--size", "512M")
        programs.wait_until(lambda: self.attribute(disk, "size") == str(512 * MIB // 512), 10,
                            "the guest to see the new size")
        self.guest.run(f"resize2fs /dev/{disk}")
        self.guest.run("dd if=/dev/zero of=/mnt/large bs=1M count=350 conv=fsync")
        self.guest.run(f"umount /mnt && e2fsck -f -n /dev/{disk}")

    def test_a_read_only_attachment_is_a_read_only_disk(self):
        disk = self.plug(self.serve())
        self.guest.run(f"echo hello >/tmp/hello; dd if=/tmp/hello of=/dev/{disk} conv=fsync")
        self.assertEqual(self.attribute(disk, "ro"), "0")
        self.unplug()
        self.daemon.call("detach", "pool/disk")
        again = self.daemon.call("attach", "pool/disk", "--vhost", "--read-only")
        disk = self.plug(again["socket"])
        self.assertEqual(self.attribute(disk, "ro"), "1")
        self.assertEqual(self.guest.run(f"head -n 1 /dev/{disk}"), "hello")
        status, _ = self.guest.try_run(f"dd if=/dev/zero of=/dev/{disk} bs=4k count=1 conv=fsync")
        self.assertNotEqual(status, 0)
        self.assertEqual(self.guest.run(f"head -n 1 /dev/{disk}"), "hello")

    def test_the_serial_is_the_beginning_of_the_volumes_id(self):
        disk = self.plug(self.serve())
        serial = self.attribute(disk, "serial")
        identity = self.daemon.volume()["id"]
        self.assertGreaterEqual(len(serial), 12)
        self.assertTrue(identity.startswith(serial)
                        or identity.replace("-", "").startswith(serial), (serial, identity))

    def test_what_the_guest_discards_is_free_again(self):
        disk = self.plug(self.serve())
        live = lambda: self.daemon.volume()["statistics"]["live_bytes"]  # noqa: E731
        self.guest.run(f"dd if=/dev/urandom of=/dev/{disk} bs=1M count=96 conv=fsync")
        before = live()
        self.assertGreaterEqual(before, 96 * MIB)
        self.guest.run(f"blkdiscard -o {16 * MIB} -l {64 * MIB} /dev/{disk}")
        programs.wait_until(lambda: live() <= before - 64 * MIB, 10, "live bytes to fall")
        self.guest.run(f"dd if=/dev/{disk} bs=1M skip=16 count=64 | cmp -n {64 * MIB} - /dev/zero")
        # fstrim: what a filesystem does not use.
        self.guest.run(f"mkfs.ext4 -q -F /dev/{disk} && mount -t ext4 /dev/{disk} /mnt")
        self.guest.run("dd if=/dev/urandom of=/mnt/large bs=1M count=100 conv=fsync; sync")
        before = live()
        self.guest.run("rm /mnt/large; sync; fstrim /mnt; umount /mnt")
        programs.wait_until(lambda: live() <= before - 90 * MIB, 10, "live bytes to fall")

    @only_holdfast
    def test_after_fstrim_the_pool_holds_what_the_guest_uses(self):
        self.daemon.create_pool("small", segment_size="4M")
        disk = self.plug(self.serve("small/disk", "256M"))
        # Not lazily: else ext4 goes on to write behind our back, and the guest does not rest.
        self.guest.run(f"mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 /dev/{disk} && "
                       f"mount -t ext4 /dev/{disk} /mnt")
        self.guest.run("for i in $(seq 120); do yes $i | head -c 1048576 >/mnt/$i; done; sync",
                       timeout_seconds=180)
        # Here and there: few segments die as a whole, the rest is the cleaner's.
        self.guest.run("for i in $(seq 1 5 120) $(seq 2 7 120); do rm -f /mnt/$i; done; sync")
        sums = self.guest.run("cd /mnt && cat [0-9]* | md5sum", timeout_seconds=180)
        self.guest.run("fstrim /mnt; sync", timeout_seconds=180)
        total, used = self.guest.run("df -k /mnt | tail -n 1 | awk '{print $2, $3}'").split()
        # Journal, inode tables and the like, which df leaves out of both.
        overhead = 256 * MIB - int(total) * 1024
        bound = (int(used) * 1024 + overhead) * 1.05 + 4 * 4 * MIB  # segments that are being filled
        shown = lambda: self.daemon.volume("small/disk")  # noqa: E731
        programs.wait_until(lambda: shown()["allocated_bytes"] <= bound, 60,
                            f"the volume to take at most {bound / MIB:.0f} MiB", step_seconds=0.2)
        programs.wait_until(lambda: shown()["garbage_bytes"] <= 0.055 * shown()["live_bytes"], 120,
                            "the garbage to be cleaned", step_seconds=0.2)
        self.assertLessEqual(self.daemon.call("pool", "show", "small")["allocated_bytes"], bound)
        self.assertEqual(self.guest.run("cd /mnt && cat [0-9]* | md5sum", timeout_seconds=180),
                         sums)
        self.guest.run(f"umount /mnt && e2fsck -f -n /dev/{disk}")

    def test_the_guest_turns_the_write_cache_off_and_on(self):
        disk = self.plug(self.serve(), config_wce=True)
        for mode in ("write through", "write back"):
            self.guest.run(f"echo '{mode}' >/sys/block/{disk}/cache_type")
            self.assertEqual(self.attribute(disk, "cache_type"), mode)
            self.guest.run(f"dd if=/dev/urandom of=/tmp/data bs=4k count=64; "
                           f"dd if=/tmp/data of=/dev/{disk} bs=4k oflag=direct; "
                           f"dd if=/dev/{disk} bs=4k count=64 iflag=direct | cmp - /tmp/data")
            # The driver asks the device anew when it is bound again: the server has kept it.
            device = self.guest.run(f"basename $(readlink -f /sys/block/{disk}/device)")
            self.guest.run(f"cd /sys/bus/virtio/drivers/virtio_blk; "
                           f"echo {device} >unbind; echo {device} >bind")
            self.assertEqual(self.attribute(disk, "cache_type"), mode)

    def test_a_second_qemu_waits_until_the_first_lets_go_of_the_disk(self):
        socket = self.serve()
        disk = self.plug(socket)
        load = Load(self.guest, f"/dev/{disk}", 64 * MIB)
        load.wait_for_writes()
        second = self.start_guest("second", [
            *guest.direct_boot(self.initramfs), *guest.vhost_disk(socket)])
        # It cannot get beyond the driver's first request, and the first guest does not notice.
        for _ in range(3):
            load.wait_for_writes(500)
        self.assertGreater(load.finish()["writes"], 1500)
        self.assertIsNone(second.said("ready"))
        self.unplug()
        second.wait_until_ready()
        checked = second.run(f"guest_load --check /dev/vda {64 * MIB} 1")
        self.assertGreater(int(checked.split()[2]), 1000)

    def test_a_driver_of_the_legacy_interface_works(self):
        disk = self.plug(self.serve(), disable_modern="on")
        load = Load(self.guest, f"/dev/{disk}", 32 * MIB)
        load.wait_for_writes(300)
        self.assertGreater(load.finish()["flushes"], 0)

    @only_holdfast
    def test_a_disk_is_served_on_after_the_daemons_death(self):
        disk = self.plug(self.serve())
        load = Load(self.guest, f"/dev/{disk}", 64 * MIB)
        load.wait_for_writes()
        self.daemon.kill_and_start()
        load.wait_for_writes()
        self.daemon.restart()
        load.wait_for_writes()
        load.finish()
        self.assertEqual(self.daemon.volume()["statistics"]["errors"], 0)


if __name__ == "__main__":
    unittest.main()
