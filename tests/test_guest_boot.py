# SPDX-License-Identifier: Apache-2.0
"""A guest whose only disk is a volume: firmware, boot loader, kernel and root filesystem come from
there, over vhost-user-blk.

HOLDFAST_GUEST_SERVER=qemu-storage-daemon runs the tests against that instead."""

import re
import time
import unittest
import xml.etree.ElementTree as ElementTree

from support import boot_disk, guest, programs
from support.guest_test import SERVER, GuestTest, Load, guest_load, only_holdfast

MIB = 1024 * 1024


class GuestBoot(GuestTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image = cls.shared_directory / "disk"
        boot_disk.build(cls.image, cls.shared_directory, 256 * MIB, [guest_load()])

    def setUp(self):
        super().setUp()
        self.daemon.call("volume", "create", "pool/disk", "--size", "256M")
        uri = self.daemon.call("attach", "pool/disk", "--nbd")["uri"]
        programs.run("nbdcopy", self.image, uri)
        self.daemon.call("detach", "pool/disk")

    def attach(self):
        return self.daemon.call("attach", "pool/disk", "--vhost")["socket"]

    def attach_and_read_what_it_prints(self):
        """(socket, words for QEMU, XML for libvirt), as a person pastes them."""
        if SERVER != "holdfastd":
            return self.attach(), [*guest.shared_memory("512M"), *guest.vhost_disk("")], ""
        text = self.daemon.run("attach", "pool/disk", "--vhost", status=0).stdout
        socket, empty, *lines = text.split("\n")
        self.assertEqual(empty, "")
        pasted = "\n".join(line for line in lines if line.startswith("-"))
        words = programs.run("sh", "-c", f"printf '%s\\n' {pasted}").stdout.splitlines()
        xml = [line for line in lines if line.lstrip().startswith("<")]
        return socket, words, "\n".join(xml)

    def power_off(self, running):
        self.assert_healthy(running)
        running.tell("mount -o remount,ro / && poweroff -f")
        running.process.wait(60)

    def assert_file_system_clean(self):
        """The volume's own filesystem, once no guest has it: looked at from the host."""
        self.daemon.call("detach", "pool/disk")
        uri = self.daemon.call("attach", "pool/disk", "--nbd")["uri"]
        copy = self.directory / "copy"
        programs.run("nbdcopy", uri, copy)
        offset = boot_disk.PARTITION_FIRST_SECTOR * boot_disk.SECTOR_BYTES
        programs.run(guest.find_program("e2fsck"), "-f", "-n", f"{copy}?offset={offset}")

    @only_holdfast
    def test_what_attach_prints_for_libvirt_is_a_shared_memory_machine_with_the_disk(self):
        socket, _, xml = self.attach_and_read_what_it_prints()
        domain = ElementTree.fromstring(f"<domain>{xml}</domain>")
        self.assertEqual(domain.find("memoryBacking/source").get("type"), "memfd")
        self.assertEqual(domain.find("memoryBacking/access").get("mode"), "shared")
        disk = domain.find("devices/disk")
        self.assertEqual(disk.get("type"), "vhostuser")
        self.assertEqual(disk.find("source").attrib, {"type": "unix", "path": socket})
        self.assertEqual(disk.find("source/reconnect").get("enabled"), "yes")

    def test_a_guest_boots_from_its_only_disk_with_what_attach_prints(self):
        socket, words, _ = self.attach_and_read_what_it_prints()
        words = [re.sub(r"(^|size=)4G", r"\g<1>512M", word) for word in words]
        if SERVER != "holdfastd":
            words = [word.replace("path=", f"path={socket}") for word in words]
        running = self.start_guest("guest", words).wait_until_ready()
        self.assertEqual(running.run("ls /sys/block"), "vda")
        self.assertIn("/dev/vda1 on / type ext4 (rw", running.run("mount"))
        running.run("seq 100000 >/numbers && sync")
        self.power_off(running)
        self.assert_file_system_clean()

    def test_a_guest_comes_back_after_a_reset_in_the_middle_of_its_io(self):
        running = self.start_guest("guest", guest.vhost_disk(self.attach())).wait_until_ready()
        running.run("head -c 5000000 /dev/urandom >/data; sha256sum /data >/sum; sync")
        Load(running, "/load", 32 * MIB).wait_for_writes(500)
        running.qmp.execute("system_reset")
        running.wait_until_ready(boots=2)
        running.run("sha256sum -c /sum")
        checked = running.run(f"guest_load --check /load {32 * MIB} 1")
        self.assertGreater(int(checked.split()[2]), 500)
        self.power_off(running)
        self.assert_file_system_clean()

    @only_holdfast
    def test_the_daemon_may_die_at_any_time_while_a_guest_boots(self):
        running = self.start_guest("guest", guest.vhost_disk(self.attach()))
        # Firmware and boot loader, which poll their rings, then the kernel: some seconds each.
        for _ in range(6):
            time.sleep(1.5)
            self.daemon.kill_and_start()
        running.wait_until_ready()
        self.assertIn("/dev/vda1 on / type ext4 (rw", running.run("mount"))
        running.run("seq 100000 >/numbers && sync")
        self.power_off(running)
        self.assert_file_system_clean()


if __name__ == "__main__":
    unittest.main()
