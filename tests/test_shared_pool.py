#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two daemons, two hosts, one shared pool: each volume has one owner at a time, who needs no file
lock, and whose death nobody has to clean up after."""

import os
import signal
import time
import unittest

from support import mounts, programs, qmp
from support.daemon import MIB, CommandFailed, Daemon, HoldfastTest

IO_TIMEOUT = 2  # N; a host is dead after eight times that


class SharedPoolTest(HoldfastTest):
    def setUp(self):
        super().setUp()
        self.create_pool()
        self.other = self.start_other("other")

    def create_pool(self):
        self.store = self.directory / "store"
        self.store.mkdir()
        self.daemon.create_pool(path=self.store / "pool", shared="True", io_timeout=IO_TIMEOUT)

    def start_other(self, name):
        """Another host, which sees the same directory under another path."""
        link = self.directory / f"seen-by-{name}"
        link.symlink_to(self.store)
        other = Daemon(self.directory, name=name)
        self.addCleanup(other.end)
        other.start()
        other.call("pool", "open", "pool", f"dir:{link}/pool")
        return other

    def tearDown(self):
        result = self._outcome.result
        if len(result.failures) + len(result.errors) > self._failures_before:
            print(self.other.log_tail(), flush=True)
        super().tearDown()

    def name_of(self, daemon):
        return next(host["host"] for host in daemon.call("host", "list", "pool")["hosts"]
                    if host["this"])

    def socket(self, daemon, volume="disk"):
        return daemon.volume(f"pool/{volume}")["attachment"]["uri"]

    def qemu_io(self, daemon, *commands, volume="disk", timeout=30, read_only=False):
        words = [word for command in commands for word in ("-c", command)]
        options = ["-r"] if read_only else []
        done = programs.run("qemu-io", *options, "-f", "raw", self.socket(daemon, volume), *words,
                            status=0, timeout=timeout)
        self.assertNotIn("failed", done.stdout)

    def start_writer(self, uri, *commands):
        words = [word for command in commands for word in ("-c", command)]
        writer = programs.start(["qemu-io", "-f", "raw", uri, *words])
        self.addCleanup(programs.stop, writer)
        return writer

    def refusal(self, daemon, *arguments):
        with self.assertRaises(CommandFailed) as refused:
            daemon.call(*arguments)
        return refused.exception

    def lease(self, daemon, volume="pool/disk"):
        return daemon.call("lease", "show", volume)

    def attach_new(self):
        self.daemon.attach_new("pool/disk", "64M")
        self.qemu_io(self.daemon, "write -P 1 0 8M", "flush")


class SharedPool(SharedPoolTest):
    def test_a_volume_is_one_hosts_until_that_lets_it_go(self):
        self.attach_new()
        refused = self.refusal(self.other, "attach", "pool/disk", "--wait", "1")
        self.assertEqual(refused.code, "lease-held")
        self.assertIn(self.name_of(self.daemon), refused.message)
        for command in (("volume", "remove", "--now", "pool/disk"),
                        ("volume", "rename", "pool/disk", "new"),
                        ("volume", "resize", "pool/disk", "--size", "128M"),
                        ("snapshot", "create", "pool/disk@s")):
            self.assertEqual(self.refusal(self.other, *command).code, "lease-held", command)
        lease = self.lease(self.other)
        self.assertTrue(lease["held"])
        self.assertEqual(lease["host"], self.name_of(self.daemon))
        self.assertFalse(lease["ours"])
        self.assertIn("live", self.refusal(self.other, "lease", "break", "pool/disk").message)
        self.daemon.call("detach", "pool/disk")
        self.other.call("attach", "pool/disk")
        self.qemu_io(self.other, "read -P 1 0 8M", "write -P 2 0 8M")
        self.assertGreater(self.lease(self.other)["epoch"], lease["epoch"])
        self.other.call("detach", "pool/disk")
        self.daemon.call("attach", "pool/disk")
        self.qemu_io(self.daemon, "read -P 2 0 8M")

    def test_a_dead_hosts_volume_is_taken_over_by_itself_and_never_too_early(self):
        self.attach_new()
        time.sleep(3)  # so that it has been seen to renew its lease
        self.daemon.kill()
        died = time.monotonic()
        done = self.other.run("attach", "pool/disk", "--wait", "1", timeout=60)
        took = time.monotonic() - died
        self.assertEqual(done.returncode, 0, done.stderr)
        # It renewed at most twice N before it died; what it acknowledged until then counts.
        self.assertGreater(took, 8 * IO_TIMEOUT - 2 * IO_TIMEOUT - 1)
        self.qemu_io(self.other, "read -P 1 0 8M", "write -P 2 0 8M", "flush")
        # Its old owner comes back: its machine must not go on with what it knew.
        self.daemon.start()
        shown = programs.wait_until(
            lambda: next((volume for volume in self.daemon.call("status")["volumes"]
                          if volume["state"] == "failed"), None), 60, "it to be fenced")
        self.assertEqual(shown["attachment"]["lease"]["state"], "fenced")
        programs.wait_until(
            lambda: self.daemon.volume("pool/disk")["attachment"]["lease"]["holder"] ==
            self.name_of(self.other), 10, "it to say who has the volume now")
        self.daemon.call("detach", "pool/disk")
        self.other.call("detach", "pool/disk")
        self.daemon.call("attach", "pool/disk")
        self.qemu_io(self.daemon, "read -P 2 0 8M")

    def test_a_daemon_that_is_killed_and_started_again_keeps_its_volumes(self):
        self.attach_new()
        for round_number in range(3):
            self.qemu_io(self.daemon, f"write -P {round_number + 3} 8M 4M", "flush")
            self.daemon.kill_and_start()
            self.qemu_io(self.daemon, f"read -P {round_number + 3} 8M 4M", "read -P 1 0 8M")
            self.assertTrue(self.lease(self.daemon)["ours"])
            self.assertEqual(self.refusal(self.other, "attach", "pool/disk", "--wait", "0").code,
                             "lease-held")
        self.daemon.restart()
        self.qemu_io(self.daemon, "read -P 1 0 8M")

    def test_a_host_that_stands_still_past_its_deadline_is_fenced_and_loses_nothing_of_others(self):
        self.attach_new()
        self.daemon.attach_new("pool/kept", "64M")
        time.sleep(3)
        uri = self.socket(self.daemon)
        os.kill(self.daemon.pid, signal.SIGSTOP)
        self.addCleanup(lambda: self.daemon.is_running() and
                        os.kill(self.daemon.pid, signal.SIGCONT))
        writer = self.start_writer(uri, "write -P 9 0 8M", "flush")
        self.other.run("attach", "pool/disk", "--wait", "1", status=0, timeout=60)
        self.qemu_io(self.other, "read -P 1 0 8M", "write -P 2 0 4M", "flush")
        os.kill(self.daemon.pid, signal.SIGCONT)
        programs.wait_until(
            lambda: self.daemon.volume()["attachment"]["lease"]["state"] == "fenced", 30,
            "it to be fenced")
        time.sleep(2)
        self.assertIsNone(writer.poll(), "a fenced host answered its guest")
        # Its other volume goes on, under the same lease of its host.
        self.qemu_io(self.daemon, "write -P 5 0 1M", "flush", "read -P 5 0 1M", volume="kept")
        # What the fenced host wrote late landed where nobody reads.
        self.qemu_io(self.other, "read -P 2 0 4M", "read -P 1 4M 4M")
        programs.stop(writer)
        self.daemon.call("detach", "pool/disk")
        self.other.restart()
        self.qemu_io(self.other, "read -P 2 0 4M", "read -P 1 4M 4M")

    def test_the_machine_of_a_fenced_volume_is_paused_for_good(self):
        self.daemon.call("volume", "create", "pool/disk", "--size", "64M")
        monitor = self.directory / "machine.qmp"
        machine = programs.start([
            "qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults",
            "-qmp", f"unix:{monitor},server=on,wait=off",
            "-qmp", f"unix:{self.directory}/ours.qmp,server=on,wait=off"])
        self.addCleanup(programs.stop, machine)
        watching = qmp.Qmp(self.directory / "ours.qmp")
        self.addCleanup(watching.close)
        self.daemon.call("attach", "pool/disk", "--qmp", monitor)
        self.daemon.call("volume", "set", "pool/disk", "hold.pause_after=1s")
        self.qemu_io(self.daemon, "write -P 1 0 8M", "flush")
        time.sleep(3)
        uri = self.socket(self.daemon)
        os.kill(self.daemon.pid, signal.SIGSTOP)
        self.addCleanup(lambda: self.daemon.is_running() and
                        os.kill(self.daemon.pid, signal.SIGCONT))
        self.start_writer(uri, "write -P 9 0 4k")
        self.other.run("attach", "pool/disk", "--wait", "1", status=0, timeout=60)
        self.assertEqual(watching.execute("query-status")["status"], "running")
        os.kill(self.daemon.pid, signal.SIGCONT)
        watching.wait_for_event("STOP")
        time.sleep(3)
        self.assertEqual(watching.execute("query-status")["status"], "paused")
        shown = self.daemon.volume("pool/disk")
        self.assertEqual(shown["attachment"]["machine"]["state"], "paused")
        self.assertEqual(shown["attachment"]["lease"]["state"], "fenced")
        self.assertIn("lease", shown["hold"]["reason"])

    def test_a_host_that_stood_still_for_a_while_goes_on_if_nobody_took_its_volume(self):
        self.attach_new()
        os.kill(self.daemon.pid, signal.SIGSTOP)
        time.sleep(8 * IO_TIMEOUT + 3)
        os.kill(self.daemon.pid, signal.SIGCONT)
        self.qemu_io(self.daemon, "write -P 3 0 8M", "flush", "read -P 3 0 8M", timeout=60)
        self.assertEqual(self.daemon.volume()["attachment"]["lease"]["state"], "held")

    def test_many_hosts_read_a_volume_and_none_changes_it_meanwhile(self):
        self.attach_new()
        third = self.start_other("third")
        self.assertEqual(self.refusal(self.other, "attach", "pool/disk", "--shared", "--wait",
                                      "0").code, "lease-held")
        self.daemon.call("detach", "pool/disk")
        readers = [self.other, third]
        for reader in readers:
            reader.call("attach", "pool/disk", "--shared")
            self.assertTrue(reader.volume("pool/disk")["attachment"]["read_only"])
            self.qemu_io(reader, "read -P 1 0 8M", "read -P 0 8M 8M", read_only=True)
        lease = self.lease(self.daemon)
        self.assertEqual(lease["mode"], "shared")
        self.assertEqual(sorted(lease["sharers"]), sorted(self.name_of(one) for one in readers))
        for host, command in ((self.daemon, ("attach", "pool/disk", "--wait", "0")),
                              (self.daemon, ("volume", "remove", "--now", "pool/disk")),
                              (self.daemon, ("snapshot", "create", "pool/disk@s"))):
            self.assertEqual(self.refusal(host, *command).code, "lease-held", command)
        for command in (("snapshot", "create", "pool/disk@s"),
                        ("volume", "resize", "pool/disk", "--size", "128M"),
                        ("volume", "rename", "pool/disk", "new")):
            self.assertIn("attached", self.refusal(self.other, *command).message, command)
        # A reader that dies and is started again goes on; one that lets it go is not missed.
        third.kill_and_start()
        self.qemu_io(third, "read -P 1 0 8M", read_only=True)
        self.other.call("detach", "pool/disk")
        self.assertEqual(self.refusal(self.daemon, "attach", "pool/disk", "--wait", "0").code,
                         "lease-held")
        third.call("detach", "pool/disk")
        self.daemon.call("attach", "pool/disk")
        self.qemu_io(self.daemon, "read -P 1 0 8M", "write -P 2 0 8M", "flush")
        self.daemon.kill()  # so that the next reader finds a log that is to be replayed
        self.daemon.start()
        self.daemon.call("detach", "pool/disk")
        self.other.call("attach", "pool/disk", "--shared")
        self.qemu_io(self.other, "read -P 2 0 8M", read_only=True)

    def test_a_reader_that_stands_still_while_the_volume_changes_is_fenced(self):
        self.attach_new()
        self.daemon.call("detach", "pool/disk")
        self.other.call("attach", "pool/disk", "--shared")
        uri = self.socket(self.other)
        time.sleep(3)
        os.kill(self.other.pid, signal.SIGSTOP)
        self.addCleanup(lambda: self.other.is_running() and
                        os.kill(self.other.pid, signal.SIGCONT))
        done = self.daemon.run("attach", "pool/disk", "--wait", "1", timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.qemu_io(self.daemon, "write -P 2 0 8M", "flush")
        reader = programs.start(["qemu-io", "-r", "-f", "raw", uri, "-c", "read -P 1 0 4k"])
        self.addCleanup(programs.stop, reader)
        os.kill(self.other.pid, signal.SIGCONT)
        programs.wait_until(
            lambda: self.other.volume("pool/disk")["attachment"]["lease"]["state"] == "fenced",
            30, "the reader to be fenced")
        self.assertIsNone(reader.poll(), "it was answered with what is not there any more")
        self.other.call("detach", "pool/disk")
        self.daemon.call("detach", "pool/disk")
        self.other.call("attach", "pool/disk", "--shared")
        self.qemu_io(self.other, "read -P 2 0 8M", read_only=True)

    def test_clones_and_snapshots_are_seen_by_both(self):
        self.attach_new()
        self.daemon.call("snapshot", "create", "pool/disk@s")
        self.qemu_io(self.daemon, "write -P 2 0 8M", "flush")
        # The parent is the other's: it is cloned there.
        self.assertEqual(self.refusal(self.other, "clone", "pool/disk@s", "pool/clone").code,
                         "lease-held")
        self.daemon.call("clone", "pool/disk@s", "pool/clone")
        self.other.call("attach", "pool/clone")
        self.qemu_io(self.other, "read -P 1 0 8M", "write -P 7 0 1M", "flush", volume="clone")
        uri = self.other.call("attach", "pool/disk@s")["uri"]
        programs.run("qemu-io", "-r", "-f", "raw", uri, "-c", "read -P 1 0 8M", status=0)
        self.qemu_io(self.daemon, "read -P 2 0 8M")

    def test_nothing_is_left_behind(self):
        self.attach_new()
        identity = self.daemon.volume()["id"]
        directory = self.store / "pool" / "volumes" / identity
        self.assertEqual((directory / "lease").stat().st_size, MIB)
        self.daemon.call("detach", "pool/disk")
        self.other.call("volume", "remove", "--now", "pool/disk")
        self.assertFalse(directory.exists())
        self.assertEqual(self.daemon.call("lease", "list")["leases"], [])
        # A host that leaves is not waited for.
        self.daemon.attach_new("pool/next", "64M")
        self.daemon.call("detach", "pool/next")
        self.daemon.call("pool", "close", "pool")
        hosts = {host["host"]: host for host in self.other.call("host", "list", "pool")["hosts"]}
        programs.wait_until(
            lambda: sorted(host["state"] for host in
                           self.other.call("host", "list", "pool")["hosts"]) == ["free", "live"],
            10, "its leaving to be seen")
        self.assertEqual(len(hosts), 2)
        self.other.call("attach", "pool/next")

    def test_two_hosts_that_take_turns_lose_nothing(self):
        self.attach_new()
        self.daemon.call("detach", "pool/disk")
        turns = [self.daemon, self.other]
        for turn in range(20):
            host = turns[turn % 2]
            host.call("attach", "pool/disk")
            before = 1 if turn == 0 else turn + 1
            self.qemu_io(host, f"read -P {before} 0 64k", f"write -P {turn + 2} 0 64k")
            host.call("detach", "pool/disk")


@unittest.skipUnless(mounts.loop_devices_work(), "no loop devices on this machine")
class FullSharedPool(SharedPoolTest):
    def create_pool(self):
        image = self.directory / "small.img"
        with open(image, "wb") as file:
            file.truncate(300 * MIB)
        programs.run("mkfs.ext4", "-q", image, status=0)
        self.store = self.directory / "store"
        self.store.mkdir()
        self.enterContext(mounts.mounted(image, self.store, "loop"))
        self.daemon.create_pool(path=self.store / "pool", shared="True", io_timeout=IO_TIMEOUT,
                                segment_size="1M")

    def test_a_full_pool_does_not_stop_the_leases(self):
        self.daemon.attach_new("pool/disk", "1G")
        writer = self.start_writer(self.socket(self.daemon), "write 0 512M")
        programs.wait_until(lambda: self.daemon.volume()["hold"] is not None, 60, "the hold")
        # Others take the very last block, too.
        with self.assertRaises(OSError), open(self.store / "filler", "wb") as filler:
            while True:
                filler.write(bytes(MIB))
                filler.flush()
        epoch = self.lease(self.daemon)["epoch"]
        time.sleep(10 * IO_TIMEOUT)
        host = next(host for host in self.daemon.call("host", "list", "pool")["hosts"]
                    if host["this"])
        self.assertEqual(host["renewals"]["failures"], 0)
        self.assertEqual(self.daemon.volume()["attachment"]["lease"]["state"], "held")
        self.assertEqual(self.lease(self.daemon)["epoch"], epoch)
        self.assertEqual(self.refusal(self.other, "attach", "pool/disk", "--wait", "0").code,
                         "lease-held")
        # A little space, and whoever takes it over serves it.
        programs.stop(writer)
        self.daemon.kill()
        os.unlink(self.store / "filler")
        self.other.run("attach", "pool/disk", "--wait", "1", status=0, timeout=60)


if __name__ == "__main__":
    unittest.main()
