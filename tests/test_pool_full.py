# SPDX-License-Identifier: Apache-2.0
"""At the reserve: what needs space is held, everything else goes on, and held writes finish soon
after there is space, in their order. (What happens beyond the reserve: test_disk_full.py.)"""

import errno
import os
import time
import unittest

from support import mounts, nbd, programs
from support.daemon import MIB, Daemon
from test_space import SEGMENT, SmallStorageTest, qemu_io

# How soon held writes go on once there is space; more than that on a machine that is busy.
RESUME_SECONDS = 2
MACHINE_SECONDS = 3


@unittest.skipUnless(mounts.loop_devices_work(), "no loop devices on this machine")
class PoolFull(SmallStorageTest):
    storage_bytes = 512 * MIB

    def connect(self, volume="pool/disk"):
        socket = self.daemon.volume(volume)["attachment"]["socket"]
        client = nbd.Client(socket, timeout_seconds=60)
        self.addCleanup(client.close)
        return client.connect(volume.split("/")[1])

    def hold(self, volume="pool/disk"):
        return self.daemon.volume(volume)["hold"]

    def wait_until_held(self, volume="pool/disk"):
        hold = programs.wait_until(lambda: self.hold(volume), 30, "the hold to be shown")
        self.assertEqual(hold["reason"], "pool full")
        self.assertGreaterEqual(hold["waiting"], 1)
        return hold

    def hold_writes(self, client, count=40, first=0):
        """Sends writes of 1 MiB, which the pool has no room for; returns their handles."""
        handles = [client.send_request(nbd.CMD_WRITE, (first + number) * MIB, MIB,
                                       bytes([number + 1]) * MIB) for number in range(count)]
        self.wait_until_held()
        return handles

    def replies(self, client, handles):
        """All replies, which must come in the order of the requests; and how long they took."""
        began = time.monotonic()
        for handle in handles:
            error, answered, _ = client.receive_reply()
            self.assertEqual(error, 0)
            self.assertEqual(answered, handle, "out of order")
        return time.monotonic() - began

    def assert_soon(self, seconds):
        print(f"held writes went on and finished within {seconds:.2f} s")
        self.assertLess(seconds, RESUME_SECONDS + MACHINE_SECONDS)

    def log_bytes(self):
        return self.daemon.log_path.stat().st_size

    def test_held_writes_go_on_in_order_within_two_seconds_after_space_appears(self):
        self.daemon.attach_new("pool/disk", "300M")
        self.fill(leave_bytes=10 * MIB)
        writer = self.connect()
        handles = self.hold_writes(writer)
        time.sleep(4)  # the longest pause between retries is reached
        self.assertGreaterEqual(self.hold()["seconds"], 3)
        self.filler.unlink()
        self.assert_soon(self.replies(writer, handles))
        programs.wait_until(lambda: self.hold() is None, 10, "the hold to end")
        for number in (0, 17, 39):
            self.assertEqual(writer.read(number * MIB, 4096), bytes([number + 1]) * 4096)

    def test_while_writes_are_held_everything_else_goes_on_and_the_log_is_quiet(self):
        uri = self.daemon.attach_new("pool/disk", "300M")
        self.daemon.attach_new("pool/other", "300M")
        qemu_io(uri, "write -P 9 200M 20M", "flush")
        self.fill(leave_bytes=6 * MIB)
        writer = self.connect()
        self.hold_writes(writer)
        self.assertEqual(self.pool()["level"], "full")
        quiet = self.log_bytes()
        other = self.connect()
        for number in range(500):
            self.assertEqual(other.read((200 + number % 20) * MIB, 4096), b"\x09" * 4096)
            other.flush()
        for number in range(20):  # more that is held
            writer.send_request(nbd.CMD_WRITE, (100 + number) * MIB, 4096, b"x" * 4096)
        time.sleep(3)
        grown = self.daemon.log_path.read_bytes()[quiet:]
        self.assertLess(len(grown), 2000, grown.decode())
        # Commands.
        self.daemon.call("volume", "create", "pool/new", "--size", "100M")
        self.daemon.call("attach", "pool/new")
        fresh = self.connect("pool/new")
        self.assertEqual(fresh.read(0, 4096), bytes(4096))
        fresh.close()
        self.daemon.call("detach", "pool/new")
        self.daemon.call("volume", "rename", "pool/new", "old")
        self.daemon.call("volume", "remove", "pool/old")  # to the trash: needs no space
        self.daemon.call("volume", "resize", "pool/other", "--size", "350M")
        self.daemon.call("detach", "pool/other")
        self.assertIsNotNone(self.hold())

    def test_a_discard_behind_held_writes_of_the_same_guest_gets_through_and_frees_them(self):
        uri = self.daemon.attach_new("pool/disk", "300M")
        qemu_io(uri, "write -P 9 200M 60M", "flush")
        self.fill(leave_bytes=6 * MIB)
        writer = self.connect()
        handles = self.hold_writes(writer, count=24)
        # Nobody makes room but the guest itself.
        handles.append(writer.send_request(nbd.CMD_TRIM, 200 * MIB, 60 * MIB))
        self.assert_soon(self.replies(writer, handles))
        self.assertEqual(writer.read(200 * MIB, 4096), bytes(4096))
        self.assertEqual(writer.read(23 * MIB, 4096), bytes([24]) * 4096)
        programs.wait_until(lambda: self.pool()["available_bytes"] > self.pool()["reserve_bytes"],
                            20, "the reserve to be whole again")

    def test_a_discard_of_one_volume_lets_the_writes_of_another_go_on(self):
        self.daemon.attach_new("pool/disk", "300M")
        other = self.daemon.attach_new("pool/other", "300M")
        qemu_io(other, "write -P 9 0 60M", "flush")
        self.fill(leave_bytes=6 * MIB)
        writer = self.connect()
        handles = self.hold_writes(writer)
        programs.wait_until(lambda: self.pool()["level"] == "full", 10, "the level full")
        time.sleep(1.5)  # until the other volume knows
        qemu_io(other, "discard 0 60M", options=("-d", "unmap"))
        self.assert_soon(self.replies(writer, handles))

    def test_small_shares_of_garbage_of_another_volume_are_cleaned_when_it_is_needed(self):
        self.daemon.attach_new("pool/disk", "300M")
        other = self.daemon.attach_new("pool/other", "300M")
        qemu_io(other, "write -P 9 0 120M", "flush")
        for megabyte in range(0, 120, 4):  # a quarter of each segment
            qemu_io(other, f"discard {megabyte}M 1M", options=("-d", "unmap"))
        self.fill(leave_bytes=6 * MIB)
        writer = self.connect()
        handles = [writer.send_request(nbd.CMD_WRITE, number * MIB, MIB, bytes([7]) * MIB)
                   for number in range(14)]
        # Nobody trims or makes room: it is the cleaner that does.
        self.replies(writer, handles)
        qemu_io(other, "read -P 9 1M 3M", "read -P 0 0 1M", "read -P 9 117M 3M")

    def test_a_daemon_that_dies_while_it_holds_starts_again_and_serves(self):
        uri = self.daemon.attach_new("pool/disk", "300M")
        qemu_io(uri, "write -P 9 200M 20M", "flush")
        self.fill(leave_bytes=6 * MIB)
        writer = self.connect()
        handles = self.hold_writes(writer)
        acknowledged = 0
        writer.socket.settimeout(0.5)
        try:
            for handle in handles:
                error, answered, _ = writer.receive_reply()
                self.assertEqual((error, answered), (0, handle))
                acknowledged += 1
        except TimeoutError:
            pass
        writer.close()
        self.daemon.kill_and_start()
        self.assertEqual(self.daemon.volume()["state"], "serving")
        reader = self.connect()
        # A prefix of the order, with all that was acknowledged.
        written = [reader.read(number * MIB, MIB) == bytes([number + 1]) * MIB
                   for number in range(len(handles))]
        self.assertEqual(written, sorted(written, reverse=True), "not a prefix")
        self.assertGreaterEqual(sum(written), acknowledged)
        self.assertLess(sum(written), len(handles))
        self.filler.unlink()
        reader.write(0, b"z" * MIB)
        reader.flush()

    def test_a_clean_restart_at_the_reserve_needs_no_space_for_guests(self):
        uri = self.daemon.attach_new("pool/disk", "300M")
        qemu_io(uri, "write -P 9 0 20M", "flush")
        self.fill(leave_bytes=SEGMENT // 2)
        programs.wait_until(lambda: self.pool()["level"] == "full", 10, "the level full")
        self.daemon.restart()
        qemu_io(uri, "read -P 9 0 20M")
        self.daemon.call("detach", "pool/disk")
        self.daemon.call("attach", "pool/disk")
        self.daemon.kill_and_start()
        qemu_io(uri, "read -P 9 0 20M")


@unittest.skipUnless(mounts.loop_devices_work(), "no loop devices on this machine")
class HostDiskFull(SmallStorageTest):
    """The daemon's own directories are on a filesystem without a free byte; the pool is not."""

    def setUp(self):
        super().setUp()
        self.daemon.attach_new("pool/first", "100M")
        self.daemon.call("volume", "create", "pool/second", "--size", "100M")
        self.daemon.stop()
        image = self.directory / "host.img"
        with open(image, "wb") as file:
            file.truncate(32 * MIB)
        programs.run("mkfs.ext4", "-q", "-F", "-m", "0", image)
        self.host_disk = self.enterContext(
            mounts.mounted(image, self.directory / "host", "loop"))
        self.addCleanup(self.end_host_daemon)
        self.host_daemon = None

    def end_host_daemon(self):
        if self.host_daemon is not None:
            self.host_daemon.end()

    def start_on_host_disk(self):
        """With runtime directory, state and log file all there."""
        self.host_daemon = Daemon(self.host_disk, [
            "--config", str(self.config), "--state-dir", str(self.host_disk / "state")])
        self.host_daemon.start()
        return self.host_daemon

    def write_config(self):
        self.config = self.directory / "host.toml"
        self.config.write_text(f'[log]\nfile = "{self.host_disk}/holdfastd.log"\n'
                               f'[pools]\npool = "dir:{self.pool_path}"\n')

    def fill_host_disk(self):
        for name, unit in (("rest", "64k"), ("crumbs", "1k")):
            programs.run("dd", "if=/dev/zero", f"of={self.host_disk}/{name}", f"bs={unit}",
                         "conv=fsync", status=None)
        # ext4 sets some blocks aside; what counts is that nothing can be written.
        probe = self.host_disk / "probe"
        with self.assertRaises(OSError) as refused, open(probe, "wb", buffering=0) as file:
            file.write(b"x" * 1024)
            os.fsync(file.fileno())
        self.assertEqual(refused.exception.errno, errno.ENOSPC)
        probe.unlink()

    def use_everything(self, daemon):
        for volume in ("pool/first", "pool/second"):
            uri = daemon.call("attach", volume)["uri"]
            qemu_io(uri, "write -P 5 0 8M", "flush", "read -P 5 0 8M")
        daemon.call("detach", "pool/first")
        daemon.call("status")

    def test_a_daemon_that_ran_before_starts_attaches_detaches_and_stops(self):
        self.write_config()
        daemon = self.start_on_host_disk()
        daemon.call("status")
        daemon.stop()
        self.fill_host_disk()
        daemon.start()
        self.use_everything(daemon)
        self.assertTrue(daemon.call("status")["daemon"]["state_saved"])
        daemon.stop()
        daemon.start()
        states = {volume["name"]: volume["state"] for volume in daemon.call("status")["volumes"]}
        self.assertEqual(states, {"second": "serving"}, "what was attached on a full disk is known")
        daemon.kill_and_start()
        self.assertEqual(daemon.volume("pool/second")["state"], "serving")
        daemon.call("detach", "pool/second")
        daemon.stop()

    def test_the_first_start_of_all_works_on_a_full_disk_and_says_what_is_not_saved(self):
        self.write_config()
        for name in ("run", "state"):  # a package makes them
            (self.host_disk / name).mkdir()
        self.fill_host_disk()
        daemon = self.start_on_host_disk()
        self.use_everything(daemon)
        status = daemon.call("status")["daemon"]
        if not status["state_saved"]:
            self.assertTrue(status["state_error"])
            (self.host_disk / "rest").unlink()
            programs.wait_until(lambda: daemon.call("status")["daemon"]["state_saved"], 40,
                                "the state to be saved once there is room")
        daemon.stop()
        daemon.start()
        self.assertEqual(daemon.volume("pool/second")["state"], "serving")
        daemon.stop()


if __name__ == "__main__":
    unittest.main()
