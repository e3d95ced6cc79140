# SPDX-License-Identifier: Apache-2.0
"""Storage that fails, hangs and fills up under a running guest, and what each server makes of it.

Two equal guests work on ext4 mounted errors=remount-ro, one disk served by holdfastd, the other by
qemu-storage-daemon from a raw file. Below both is one file system that goes wrong on command
(tests/fault_fs.cc), at the same time for both. The control's guest loses its file system, which
proves that the fault is real; Holdfast's guest only waits.

HOLDFAST_FAULT_SECONDS: how long each of the long faults lasts, 10 by default."""

import os
import subprocess
import time
import unittest

from support import fio, guest, mounts, programs
from support.daemon import MIB, CommandFailed, HoldfastTest
from support.fault_fs import FaultFs
from support.guest_test import GuestTest, Load
from support.storage_daemon import StorageDaemon

FAULT_SECONDS = float(os.environ.get("HOLDFAST_FAULT_SECONDS", "10"))
FILE_BYTES = 24 * MIB


class FaultTest(HoldfastTest):
    """A test whose pool is on a FaultFs."""

    def setUp(self):
        super().setUp()
        self.storage = FaultFs(self.directory)
        # In the opposite order: the storage answers, the daemon is gone, then its storage is.
        self.addCleanup(self.storage.end)
        self.addCleanup(self.daemon.end)
        self.addCleanup(self.storage.clear)

    def wait_for_hold(self, reason, volume="pool/disk", timeout_seconds=30):
        """Until the volume is shown as held for this reason; returns what is shown."""
        def held():
            hold = self.daemon.volume(volume)["hold"]
            return hold if hold is not None and hold["reason"] == reason else None
        return programs.wait_until(held, timeout_seconds, f"the hold '{reason}' to be shown")

    def wait_for_no_hold(self, volume="pool/disk"):
        programs.wait_until(lambda: self.daemon.volume(volume)["hold"] is None, 30,
                            "the volume to go on")

    def log_lines(self, words):
        return [line for line in self.daemon.log_path.read_text().splitlines() if words in line]


@unittest.skipUnless(mounts.fuse_works(), "no FUSE on this machine")
class GuestOnBadStorage(FaultTest, GuestTest):
    def make_pool(self):
        pass  # its place is not there yet

    def setUp(self):
        super().setUp()
        self.daemon.create_pool(path=self.storage.path / "pool", segment_size="4M")
        raw = self.storage.path / "raw"
        raw.mkdir()
        control_directory = self.directory / "control"
        control_directory.mkdir()
        (control_directory / "pool").symlink_to(raw)
        self.control_daemon = StorageDaemon(control_directory)
        self.addCleanup(self.control_daemon.end)
        self.addCleanup(self.storage.clear)
        self.control_daemon.start()
        self.control_daemon.call("volume", "create", "pool/disk", "--size", "128M")
        control_socket = self.control_daemon.call("attach", "pool/disk", "--vhost")["socket"]
        sockets = {"guest": self.serve(size="128M"), "control": control_socket}
        started = {name: self.start_guest(name, [
            *guest.direct_boot(self.initramfs), *guest.vhost_disk(socket)])
            for name, socket in sockets.items()}
        self.guest, self.control = (started[name].wait_until_ready() for name in sockets)
        for running in (self.guest, self.control):
            # To wait is what is asked of the guest here: its kernel is not to complain of that.
            running.run("echo 0 >/proc/sys/kernel/hung_task_timeout_secs")
            running.run("mkfs.ext4 -q -F /dev/vda && "
                        "mount -t ext4 -o errors=remount-ro /dev/vda /mnt")
            running.run("mkdir /mnt/small")
            # Names and small files: what a guest's own daemons write all the time.
            running.run("(i=0; while [ ! -e /tmp/stop ]; do i=$((i + 1)); "
                        "echo $i >/mnt/small/$((i % 50)) && sync && echo $i >/tmp/count || "
                        "sleep 1; done) >/dev/null 2>&1 & echo started")
        self.load = Load(self.guest, "/mnt/file", FILE_BYTES)
        self.control_load = Load(self.control, "/mnt/file", FILE_BYTES)
        self.load.wait_for_writes(100)
        self.control_load.wait_for_writes(100)

    def is_read_only(self, running):
        """What its kernel says: newer ones go on to show "rw" in /proc/mounts."""
        return "remounting filesystem read-only" in running.kernel_errors().lower()

    def assert_unharmed(self):
        self.assert_healthy(self.guest)
        self.assertEqual(self.daemon.volume()["statistics"]["errors"], 0)

    def wait_until_writes_stop(self):
        def stopped():
            before = self.load.progress()[0]
            time.sleep(1.5)
            return self.load.progress()[0] == before
        programs.wait_until(stopped, 30, "the guest to do nothing but wait")

    def assert_waits(self, reason, seconds, writes_stop=True):
        """The guest does nothing but wait, and it is shown why."""
        hold = self.wait_for_hold(reason)
        self.assertTrue(hold["detail"])
        self.assertGreaterEqual(hold["waiting"], 1)
        shown_at = time.monotonic()
        if writes_stop:
            self.wait_until_writes_stop()
        before = self.load.progress()[0]
        time.sleep(seconds)
        if writes_stop:
            self.assertEqual(self.load.progress()[0], before)
        hold = self.daemon.volume()["hold"]
        self.assertEqual(hold["reason"], reason)
        self.assertGreaterEqual(hold["seconds"], time.monotonic() - shown_at - 1)
        self.assertIn(reason, self.daemon.run("status", status=0).stdout)
        self.assert_unharmed()

    def assert_goes_on(self):
        self.load.wait_for_writes(50)
        self.wait_for_no_hold()
        self.assert_unharmed()

    def lose_every_path(self):
        """The control's guest is the one that a path failure harms."""
        with self.storage.fault("EIO"):
            self.assert_waits("path failure", FAULT_SECONDS)
            programs.wait_until(lambda: self.is_read_only(self.control), 60,
                                "the control's file system to go read-only")
        self.assert_goes_on()
        self.guest.run("touch /mnt/new && sync")
        # It stays so, now that the storage is good again.
        status, said = self.control.try_run("touch /mnt/new")
        self.assertNotEqual(status, 0)
        self.assertIn("Read-only file system", said)
        self.assertIn("load: failed", self.control.run("cat /tmp/load.log"))

    def get_no_answer(self):
        with self.storage.fault("hang") as rule:
            self.assert_waits("storage does not answer", FAULT_SECONDS)
            self.assertGreaterEqual(self.storage.waiting(rule), 1)
        self.assert_goes_on()

    def get_no_answer_and_then_an_error(self):
        """As when a path is given up after a time: first silence, then ETIMEDOUT, then good."""
        hang = self.storage.add("hang", "read,write,sync,create,open")
        self.wait_for_hold("storage does not answer")
        with self.storage.fault("ETIMEDOUT", "read,write,sync,create,open"):
            self.storage.remove(hang)
            hold = self.wait_for_hold("path failure")
            self.assertGreaterEqual(hold["seconds"], 3)  # one hold from the silence on
        self.assert_goes_on()

    def fill_the_pool(self):
        self.storage.set_available(0)
        with self.storage.fault("ENOSPC", "create,allocate"):
            self.assert_waits("pool full", FAULT_SECONDS)
            self.storage.set_available(None)
        self.assert_goes_on()

    def exhaust_the_array_below(self):
        """A thin volume below the pool: space that was allocated long ago is not there."""
        with self.storage.fault("ENOSPC", "write"):
            self.assert_waits("pool full", FAULT_SECONDS / 3)
        self.assert_goes_on()
        with self.storage.fault("EDQUOT", "write,create,allocate"):
            self.assert_waits("pool full", 2)
        self.assert_goes_on()

    def fail_only_syncs(self):
        """What a failed sync lost is written again; no guest hears of it."""
        with self.storage.fault("EIO", "sync"):
            self.assert_waits("path failure", 3, writes_stop=False)
        self.assert_goes_on()

    def meet_one_errno_after_the_other(self):
        for error in ("ESTALE", "ENODEV", "ENXIO", "ENOTCONN", "EROFS"):
            with self.storage.fault(error):
                self.wait_for_hold("path failure")
            self.assert_goes_on()

    def check_everything(self):
        self.guest.run("touch /tmp/stop")
        done = self.load.finish()
        print(f"\n{done}", end=" ", flush=True)
        self.assertGreater(done["writes"], 500)
        self.assertGreater(done["longest_ms"], FAULT_SECONDS * 1000)  # it waited, and that was all
        self.guest.run("while [ \"$(cat /mnt/small/$(($(cat /tmp/count) % 50)))\" != "
                       "\"$(cat /tmp/count)\" ]; do sleep 0.1; done", 20)
        self.guest.run("umount /mnt && e2fsck -f -n /dev/vda")
        self.assert_healthy(self.guest)
        statistics = self.daemon.volume()["statistics"]
        self.assertEqual(statistics["errors"], 0)
        self.assertEqual(statistics["corrupt_blocks"], 0)

    def test_a_guest_waits_out_what_ends_its_equal_on_another_server(self):
        self.lose_every_path()
        self.get_no_answer()
        self.get_no_answer_and_then_an_error()
        self.fill_the_pool()
        self.exhaust_the_array_below()
        self.fail_only_syncs()
        self.meet_one_errno_after_the_other()
        self.check_everything()


@unittest.skipUnless(mounts.fuse_works(), "no FUSE on this machine")
class PoolOnBadStorage(FaultTest):
    """Every operation of a pool, and who else notices."""

    def make_daemon(self):
        daemon = super().make_daemon()
        # All volumes share one loop: there they have the most to fear of each other.
        config = self.directory / "holdfast.toml"
        config.write_text(f"loops = 1\nstate_dir = '{self.directory / 'state'}'\n")
        daemon.arguments += ["--config", str(config)]
        return daemon

    def setUp(self):
        super().setUp()
        self.daemon.create_pool(path=self.storage.path / "pool", segment_size="4M")

    def qemu_io(self, uri, *commands, timeout=120):
        words = [word for command in commands for word in ("-c", command)]
        done = programs.run("qemu-io", "-f", "raw", "-t", "none", uri, *words, timeout=timeout)
        self.assertNotIn("failed", done.stdout)

    def start_writer(self, uri, *commands):
        words = [word for command in commands for word in ("-c", command)]
        writer = programs.start(["qemu-io", "-f", "raw", "-t", "none", uri, *words])
        self.addCleanup(programs.stop, writer)
        return writer

    def test_whatever_operation_fails_is_waited_out(self):
        uri = self.daemon.attach_new("pool/disk", "256M")
        job = {"rw": "randwrite", "bs": "16k", "iodepth": 16, "fsync": 8, "size": "64M",
               "loops": 1000, "time_based": 1, "runtime": 35, "verify": "crc32c",
               "verify_fatal": 1, "do_verify": 1}
        reader = {"rw": "randread", "bs": "16k", "iodepth": 4, "offset": "128M", "size": "64M",
                  "time_based": 1, "runtime": 35}
        self.qemu_io(uri, "write -P 9 128M 64M", "flush")
        loads = [fio.start_job(uri, load, self.directory, name)
                 for name, load in (("writer", job), ("reader", reader))]
        for load in loads:
            self.addCleanup(programs.stop, load)
        programs.wait_until(lambda: min(self.daemon.volume()["statistics"][kind]
                                        for kind in ("reads", "writes", "flushes")) > 50, 60,
                            "the load to begin")
        faults = [("EIO", "read"), ("EIO", "write"), ("EIO", "sync"), ("EDQUOT", "create"),
                  ("ENOSPC", "allocate"), ("EIO", "create,open"), ("ESTALE", "rename"),
                  ("EIO", "unlink"), ("ENODEV", "list"), ("ETIMEDOUT", "statfs"),
                  ("ESTALE", "look"), ("EIO", "all")]
        # The others come only now and then.
        always_hit = ("read", "write", "sync", "create", "statfs", "all")
        hits = {}
        for error, operations in faults:
            with self.storage.fault(error, operations) as rule:
                time.sleep(1.5)
                if operations in always_hit:
                    programs.wait_until(lambda: self.storage.hits(rule) > 0, 30,
                                        f"an operation of the kind '{operations}'")
                hits[operations] = self.storage.hits(rule)
            time.sleep(0.3)
        print(f"\n{hits}", end=" ", flush=True)
        for load in loads:
            self.assertEqual(load.wait(180), 0)
        self.wait_for_no_hold()
        statistics = self.daemon.volume()["statistics"]
        self.assertEqual((statistics["errors"], statistics["corrupt_blocks"]), (0, 0))

    def test_a_root_that_cannot_be_published_is_held_and_published_later(self):
        uri = self.daemon.attach_new("pool/disk", "256M")
        checkpoints = self.daemon.volume()["statistics"]["checkpoints"]
        with self.storage.fault("EIO", "rename") as rule:
            self.qemu_io(uri, "write -P 5 0 8M", "flush")  # guests do not wait for it
            self.wait_for_hold("path failure")
            self.assertGreater(self.storage.hits(rule), 0)
            self.qemu_io(uri, "write -P 6 0 4M", "flush", "read -P 6 0 4M", "read -P 5 4M 4M")
        self.wait_for_no_hold()
        programs.wait_until(
            lambda: self.daemon.volume()["statistics"]["checkpoints"] > checkpoints, 20,
            "the checkpoint")
        self.daemon.kill_and_start()
        self.qemu_io(uri, "read -P 6 0 4M", "read -P 5 4M 4M")

    def test_syncs_that_hang_leave_the_volumes_of_other_pools_alone(self):
        self.daemon.create_pool("good", path=self.directory / "good")
        good = self.daemon.attach_new("good/disk", "256M")
        # More than the kernel gives a loop for such calls by default.
        names = [f"pool/disk{number}" for number in range(12)]
        uris = [self.daemon.attach_new(name, "64M") for name in names]
        for uri in uris:
            self.qemu_io(uri, "write -P 1 0 1M", "flush")
        with self.storage.fault("hang", "sync") as rule:
            writers = [self.start_writer(uri, "write -P 2 0 1M", "flush") for uri in uris]
            programs.wait_until(lambda: self.storage.waiting(rule) >= len(uris), 30,
                                "all of them to wait")
            self.qemu_io(good, "write -P 3 0 64M", "flush", "read -P 3 0 64M", timeout=60)
            for name in names:
                self.wait_for_hold("storage does not answer", name)
            self.assertIsNone(self.daemon.volume("good/disk")["hold"])
            status = self.daemon.run("status", status=0).stdout
            self.assertEqual(status.count("is held: storage does not answer"), len(names))
        for writer in writers:
            self.assertEqual(writer.wait(60), 0)
        for name, uri in zip(names, uris, strict=True):
            self.wait_for_no_hold(name)
            self.qemu_io(uri, "read -P 2 0 1M")
            # One line when it begins, one when it ends, of each volume: not one of each request.
            volume = name.removeprefix("pool/")
            self.assertEqual(len(self.log_lines(f"volume {volume} is held")), 1)
            self.assertEqual(len(self.log_lines(f"volume {volume} goes on")), 1)

    def test_a_pool_that_does_not_answer_at_all_delays_no_other_command(self):
        self.daemon.create_pool("good", path=self.directory / "good")
        uri = self.daemon.attach_new("pool/disk", "64M")
        self.qemu_io(uri, "write -P 1 0 8M", "flush")
        with self.storage.fault("hang"):
            writer = self.start_writer(uri, "write -P 2 0 8M", "flush")
            hold = self.wait_for_hold("storage does not answer")
            self.assertIn("no answer for", hold["detail"])
            self.assertIn("does not answer", self.daemon.run("status", status=0).stdout)
            self.assertIn("disk", self.daemon.run("volume", "list", status=0).stdout)
            reasons = {pool["name"]: pool["reason"]
                       for pool in self.daemon.call("pool", "list")["pools"]}
            self.assertIn("does not answer", reasons["pool"])
            self.assertIsNone(reasons["good"])
            # Asking again and again costs nothing: `volume show` is what people do now.
            for _ in range(6):
                self.assertEqual(self.daemon.volume()["hold"]["reason"], hold["reason"])
            good = self.daemon.attach_new("good/disk", "64M")
            self.qemu_io(good, "write -P 3 0 8M", "flush", "read -P 3 0 8M", timeout=60)
            self.daemon.call("detach", "good/disk")
            self.daemon.call("volume", "remove", "--now", "good/disk")
            # Stopping a machine does not hang with its storage either.
            programs.stop(writer)
            answer = self.daemon.call("detach", "pool/disk")
            self.assertIn("still holds requests", answer["warning"])

        # Storage that was just asked too much may still refuse questions for a moment.
        def is_closed():
            try:
                return self.daemon.volume()["attachment"] is None
            except CommandFailed:
                return False

        programs.wait_until(is_closed, 60, "the volume to be closed")
        uri = self.daemon.call("attach", "pool/disk")["uri"]
        self.qemu_io(uri, "write -P 4 0 8M", "flush", "read -P 4 0 8M")

    def test_a_volume_that_cannot_be_opened_now_says_why_and_is_served_later(self):
        uri = self.daemon.attach_new("pool/disk", "64M")
        self.qemu_io(uri, "write -P 1 0 8M")
        self.daemon.kill()
        with self.storage.fault("EIO"):
            self.daemon.start()
            volume = programs.wait_until(
                lambda: next((volume for volume in self.daemon.call("status")["volumes"]
                              if volume["state"] == "failed"), None), 30, "the failure to be shown")
            self.assertIn("Input/output error", volume["reason"])
            self.assertIn("Input/output error", self.daemon.run("status", status=0).stdout)
            reader = self.start_writer(uri, "read -P 1 0 8M")  # its socket is there, and it waits
            time.sleep(1)
            self.assertIsNone(reader.poll())
        self.assertEqual(reader.wait(60), 0)
        self.assertEqual(self.daemon.volume()["state"], "serving")
        self.assertEqual(self.daemon.volume()["statistics"]["errors"], 0)

    def test_a_pool_that_does_not_answer_at_a_start_is_shown_and_opened_later(self):
        uri = self.daemon.attach_new("pool/disk", "64M")
        self.qemu_io(uri, "write -P 1 0 8M")
        self.daemon.kill()
        with self.storage.fault("hang"):
            self.daemon.start()
            status = self.daemon.call("status")
            self.assertEqual([pool["state"] for pool in status["pools"]], ["opening"])
            self.assertIn("has not answered", status["pools"][0]["reason"])
            reader = self.start_writer(uri, "read -P 1 0 8M")
            time.sleep(1)
            self.assertIsNone(reader.poll())
        self.assertEqual(reader.wait(60), 0)
        self.assertEqual(self.daemon.volume()["statistics"]["errors"], 0)

    def test_places_that_can_never_be_written_are_left_for_others(self):
        uri = self.daemon.attach_new("pool/disk", "64M")
        self.qemu_io(uri, "write -P 1 0 2M", "flush")
        checkpoints = self.daemon.volume()["statistics"]["checkpoints"]
        # Every segment that there is, of the log and of map pages; the next ones are good.
        rules = [self.storage.add("EIO", "write", "/" + str(path.relative_to(self.storage.below)))
                 for path in self.storage.below.glob("pool/volumes/*/*")
                 if path.stat().st_size >= MIB]
        self.assertGreaterEqual(len(rules), 1)
        writer = self.start_writer(uri, "write -P 2 0 1M", "flush", "read -P 2 0 1M")
        self.wait_for_hold("path failure")
        self.assertEqual(writer.wait(120), 0)
        self.assertTrue(self.log_lines("going on in a new segment"))
        programs.wait_until(
            lambda: self.daemon.volume()["statistics"]["checkpoints"] > checkpoints, 120,
            "a checkpoint")
        self.wait_for_no_hold()
        self.daemon.kill_and_start()
        self.qemu_io(uri, "read -P 2 0 1M", "read -P 1 1M 1M")

    def test_files_that_went_stale_are_opened_again(self):
        uri = self.daemon.attach_new("pool/disk", "128M")
        self.qemu_io(uri, "write -P 1 0 32M", "flush")
        for pattern in (2, 3):
            self.storage.make_stale()
            self.qemu_io(uri, "read -P 1 8M 24M", timeout=60)
            self.qemu_io(uri, f"write -P {pattern} 0 8M", "flush", f"read -P {pattern} 0 8M",
                         timeout=60)
        self.wait_for_no_hold()
        self.assertEqual(self.daemon.volume()["statistics"]["errors"], 0)

    def test_a_resize_waits_for_its_storage(self):
        self.daemon.attach_new("pool/disk", "64M")
        with self.storage.fault("EIO", "rename"):
            resize = programs.start([programs.binary_directory() / "holdfast", "--runtime-dir",
                                     self.daemon.runtime, "volume", "resize", "pool/disk",
                                     "--size", "128M"], stdout=subprocess.DEVNULL)
            self.addCleanup(programs.stop, resize)
            self.wait_for_hold("path failure")
            self.assertIsNone(resize.poll())
        self.assertEqual(resize.wait(60), 0)
        self.assertEqual(self.daemon.volume()["size_bytes"], 128 * MIB)


if __name__ == "__main__":
    unittest.main()
