# SPDX-License-Identifier: Apache-2.0
"""A pool that is full for longer than the timers of a guest's disks: the virtual machine is paused
meanwhile and goes on by itself; nobody inside notices."""

import time
import unittest

from support import guest, mounts, programs
from support.daemon import MIB
from support.guest_test import GuestTest, Load, guest_load

FULL_SECONDS = 90
# The guest's hung-task watch is set to 30 seconds by its agent, as are the timers of its SATA disk.


def sata_disk(socket_path, export, name="sata"):
    """Over NBD: QEMU's block layer in between, and a driver with timers in the guest."""
    return ["-blockdev", f"driver=nbd,node-name={name},export={export},server.type=unix,"
            f"server.path={socket_path},reconnect-delay=60,cache.direct=on",
            "-device", "ahci,id=ahci", "-device", f"ide-hd,drive={name},bus=ahci.0"]


@unittest.skipUnless(mounts.loop_devices_work(), "no loop devices on this machine")
class HoldPause(GuestTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        guest.build_initramfs(cls.initramfs, guest.SUPPORT / "guest_agent", [guest_load()],
                              ["ahci", "sd_mod"])

    def setUp(self):
        super().setUp()
        image = self.directory / "small.img"
        with open(image, "wb") as file:
            file.truncate(768 * MIB)
        programs.run("mkfs.ext4", "-q", "-F", "-m", "0", image)
        self.enterContext(mounts.mounted(image, self.directory / "small", "loop"))
        self.addCleanup(self.daemon.end)
        self.filler = self.directory / "small" / "filler"
        self.daemon.create_pool("small", self.directory / "small" / "pool", segment_size="4M")
        self.monitor = self.directory / "holdfast.qmp"

    def serve_small(self, name, *options):
        self.daemon.call("volume", "create", f"small/{name}", "--size", "128M")
        return self.daemon.call("attach", f"small/{name}", "--qmp", self.monitor, *options)

    def boot_with(self, disks):
        """A guest whose second monitor is the daemon's."""
        started = self.boot("guest", [
            *disks, "-qmp", f"unix:{self.monitor},server=on,wait=off"], processors=2)
        started.qmp.execute("query-status")
        return started

    def start_load(self, running, disk, seed):
        """Files in an ext4 that would go read-only at the first error."""
        running.run(f"mkfs.ext4 -q -F /dev/{disk} && mkdir -p /mnt/{disk} && "
                    f"mount -t ext4 -o errors=remount-ro /dev/{disk} /mnt/{disk}")
        load = Load(running, f"/mnt/{disk}/load", 64 * MIB, name=disk, seed=seed)
        load.wait_for_writes()
        return load

    def fill(self):
        available = self.daemon.call("pool", "show", "small")["available_bytes"]
        programs.run("fallocate", "-l", available - 32 * MIB, self.filler)

    def machine(self, name):
        return self.daemon.volume(f"small/{name}")["attachment"]["machine"]

    def wait_for_hold(self, name):
        return programs.wait_until(lambda: self.daemon.volume(f"small/{name}")["hold"], 60,
                                   f"{name} to be held")

    def wait_for_flow(self, name):
        programs.wait_until(lambda: self.daemon.volume(f"small/{name}")["hold"] is None, 60,
                            "requests to flow")

    def wait_for_state(self, name, state, timeout_seconds=60):
        programs.wait_until(lambda: self.machine(name)["state"] == state, timeout_seconds,
                            f"the machine of {name} to be {state}")

    def assert_unnoticed(self, running, loads):
        for load in loads:
            load.wait_for_writes()
            self.assertGreater(load.finish()["blocks"], 0)
        self.assert_healthy(running)
        self.assertEqual(running.run(
            "dmesg | grep -E 'exception Emask|hard resetting|remounting' || true"), "")

    def test_a_pool_that_is_full_for_long_pauses_the_machine_and_no_guest_notices(self):
        vhost = self.serve_small("vhost", "--vhost")
        sata = self.serve_small("sata", "--nbd")
        running = self.boot_with([*guest.vhost_disk(vhost["socket"]),
                                  *sata_disk(sata["socket"], "sata")])
        loads = [self.start_load(running, "vda", 1), self.start_load(running, "sda", 2)]
        self.fill()
        began = time.monotonic()
        for name in ("vhost", "sata"):
            self.wait_for_hold(name)
        running.qmp.wait_for_event("STOP")
        for name in ("vhost", "sata"):
            programs.wait_until(lambda: self.machine(name)["state"] in ("pausing", "paused"), 30,
                                "the pause to be shown")
        self.assertIn("virtual machine", self.daemon.run("status", status=0).stdout)
        time.sleep(max(0, began + FULL_SECONDS - time.monotonic()))
        self.filler.unlink()
        running.qmp.wait_for_event("RESUME")
        self.assertEqual(running.qmp.execute("query-status")["status"], "running")
        self.assert_unnoticed(running, loads)
        for name in ("vhost", "sata"):
            self.wait_for_state(name, "running")
            self.assertEqual(self.machine(name)["pauses"], 1)
            self.assertEqual(self.daemon.volume(f"small/{name}")["statistics"]["errors"], 0)
        stops = [event for event in running.qmp.events if event["event"] in ("STOP", "RESUME")]
        self.assertEqual(stops, [], "paused once, resumed once")

    def test_a_machine_that_somebody_else_paused_stays_paused(self):
        vhost = self.serve_small("vhost", "--vhost")
        self.daemon.call("volume", "set", "small/vhost", "hold.pause_after=1s")
        running = self.boot_with(guest.vhost_disk(vhost["socket"]))
        load = self.start_load(running, "vda", 1)
        # Before the hold: it is never paused by us.
        self.fill()
        self.wait_for_hold("vhost")
        running.qmp.execute("stop")  # answered although its requests are held
        self.filler.unlink()
        self.wait_for_flow("vhost")
        time.sleep(4)
        self.assertEqual(running.qmp.execute("query-status")["status"], "paused")
        running.qmp.execute("cont")
        load.wait_for_writes()
        running.qmp.events.clear()
        # Resumed and paused by others after we paused it: theirs from then on.
        self.fill()
        running.qmp.wait_for_event("STOP")
        self.wait_for_state("vhost", "paused")
        running.qmp.execute("cont")
        self.wait_for_state("vhost", "left alone")
        running.qmp.execute("stop")
        self.filler.unlink()
        self.wait_for_flow("vhost")
        time.sleep(4)
        self.assertEqual(running.qmp.execute("query-status")["status"], "paused")
        running.qmp.execute("cont")
        self.assert_unnoticed(running, [load])

    def test_a_daemon_that_is_killed_resumes_the_machine_that_it_paused(self):
        # Over NBD: QEMU 7.2 loses a vhost-user disk whose daemon dies while the machine is stopped.
        sata = self.serve_small("sata", "--nbd")
        self.daemon.call("volume", "set", "small/sata", "hold.pause_after=1s")
        running = self.boot_with(sata_disk(sata["socket"], "sata"))
        load = self.start_load(running, "sda", 1)
        self.fill()
        running.qmp.wait_for_event("STOP")
        self.daemon.kill_and_start()
        self.assertEqual(self.daemon.volume("small/sata")["settings"]["hold.pause_after"], "1s")
        time.sleep(3)
        self.assertIn(self.machine("sata")["state"], ("pausing", "paused"), "nothing is better yet")
        self.filler.unlink()
        running.qmp.wait_for_event("RESUME")
        self.assert_unnoticed(running, [load])

    def test_a_daemon_that_is_restarted_leaves_no_machine_stopped_behind(self):
        vhost = self.serve_small("vhost", "--vhost")
        self.daemon.call("volume", "set", "small/vhost", "hold.pause_after=1s")
        running = self.boot_with(guest.vhost_disk(vhost["socket"]))
        load = self.start_load(running, "vda", 1)
        self.fill()
        self.wait_for_state("vhost", "paused")
        running.qmp.wait_for_event("STOP")
        self.daemon.process.terminate()
        self.daemon.process.wait(60)
        running.qmp.wait_for_event("RESUME")
        self.daemon.start()
        running.qmp.wait_for_event("STOP")  # held again
        self.filler.unlink()
        running.qmp.wait_for_event("RESUME")
        self.assert_unnoticed(running, [load])


if __name__ == "__main__":
    unittest.main()
