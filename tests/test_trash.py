# SPDX-License-Identifier: Apache-2.0
"""The trash: a removed volume comes back with every byte, or goes when its time is over."""

import os
import time
import unittest

from support import mounts, nbd, programs
from support.daemon import MIB, HoldfastTest
from test_space import SmallStorageTest, disk_usage, metrics_of, qemu_io


def pattern_of(daemon, volume, pattern, megabytes=20):
    """Makes a volume with content and detaches it."""
    uri = daemon.attach_new(volume, "64M")
    qemu_io(uri, f"write -P {pattern} 1M {megabytes}M", "flush")
    daemon.call("detach", volume)
    return daemon.volume(volume)["id"]


def check_pattern(daemon, volume, pattern, megabytes=20):
    uri = daemon.call("attach", volume)["uri"]
    qemu_io(uri, f"read -P {pattern} 1M {megabytes}M", "read -P 0 0 1M",
            f"read -P 0 {megabytes + 1}M 8M")
    daemon.call("detach", volume)


class Trash(HoldfastTest):
    def make_daemon(self):
        config = self.directory / "holdfast.toml"
        config.write_text(f'state_dir = "{self.directory}/state"\n[trash]\ndefer = "2d"\n')
        self.daemon_arguments = ["--config", str(config)]
        return super().make_daemon()

    def setUp(self):
        super().setUp()
        self.daemon.create_pool(segment_size="4M")
        self.volumes = self.directory / "pool" / "volumes"

    def trash(self, *pool):
        return self.daemon.call("trash", "list", *pool)["trash"]

    def test_a_removed_volume_comes_back_with_its_content_after_kills_and_restarts(self):
        made = pattern_of(self.daemon, "pool/disk", 7)
        before = self.daemon.volume()["allocated_bytes"]
        removed = self.daemon.call("volume", "remove", "pool/disk")
        kept = removed["trashed"]["until_unix_seconds"] - removed["trashed"]["removed_unix_seconds"]
        self.assertEqual(kept, 2 * 86400, "as configured")
        self.daemon.kill_and_start()
        self.assertEqual(self.daemon.call("volume", "list")["volumes"], [])
        self.assert_refused("not-found", "attach", "pool/disk", said=["trash restore pool/disk"])
        # Its name is free at once.
        pattern_of(self.daemon, "pool/disk", 9)
        self.daemon.restart()
        listed = self.trash("pool")
        self.assertEqual([(entry["name"], entry["id"], entry["allocated_bytes"], entry["expired"])
                          for entry in listed], [("disk", made, before, False)])
        shown = self.daemon.call("pool", "show", "pool")
        self.assertEqual((shown["trash_count"], shown["trash_bytes"], shown["volume_count"]),
                         (1, before, 1))
        self.assert_refused("already-exists", "trash", "restore", "pool/disk",
                            said=["trash restore pool/" + made[:8] + " NEW"])
        restored = self.daemon.call("trash", "restore", "pool/disk", "pool/old")
        self.assertEqual((restored["name"], restored["id"]), ("old", made))
        self.daemon.kill_and_start()
        check_pattern(self.daemon, "pool/old", 7)
        check_pattern(self.daemon, "pool/disk", 9)
        self.assertEqual(self.trash(), [])

    def test_what_people_read(self):
        self.assertEqual(self.daemon.run("trash", "list", status=0).stdout,
                         "The trash is empty.\n")
        self.assertIn("nothing to remove", self.daemon.run("trash", "empty", status=0).stdout)
        made = pattern_of(self.daemon, "pool/disk", 7)
        text = self.daemon.run("volume", "remove", "pool/disk", "--defer", "7d", status=0).stdout
        for words in ("Volume pool/disk is in the trash until ", "It keeps its ",
                      "holdfast trash restore pool/disk", "holdfast trash empty pool/disk"):
            self.assertIn(words, text)
        text = self.daemon.run("trash", "list", status=0).stdout
        self.assertRegex(text, rf"pool/disk +{made[:8]} +64 MiB +2\d(\.\d)? MiB +0 +20")
        text = self.daemon.run("pool", "show", "pool", status=0).stdout
        self.assertRegex(text, r"in trash: +1 volumes, 2\d(\.\d)? MiB: 'holdfast trash empty pool'")
        self.assertIn(" in the trash, ", text)
        text = self.daemon.run("status", status=0).stdout
        self.assertRegex(text, r"IN TRASH(.*\n)pool .* 0 +2\d(\.\d)? MiB ")
        metrics = metrics_of(self.daemon)
        self.assertEqual(metrics['holdfast_pool_trash_volumes{pool="pool"}'], 1)
        self.assertGreater(metrics['holdfast_pool_trash_bytes{pool="pool"}'], 20 * MIB)
        text = self.daemon.run("trash", "empty", status=0).stdout
        self.assertRegex(text, rf"Volume pool/disk \({made[:8]}, 2\d(\.\d)? MiB\) is removed\n"
                               r"2\d(\.\d)? MiB are free again\n")
        self.assertEqual(list(self.volumes.iterdir()), [])
        for arguments in (["--now", "--defer", "1d"], ["--defer", "soon"], ["--defer", "11y"]):
            done = self.daemon.run("volume", "remove", "pool/disk", *arguments)
            self.assertEqual(done.returncode, 2, done.stderr)

    def test_what_expires_goes_also_after_a_restart_and_the_rest_stays(self):
        for name, defer in (("short", "6s"), ("long", "1h"), ("other", "2s")):
            pattern_of(self.daemon, f"pool/{name}", 5)
            self.daemon.call("volume", "remove", f"pool/{name}", "--defer", defer)
        emptied = self.daemon.call("trash", "empty", "pool/long", "--expired")["removed"]
        self.assertEqual(emptied, [])
        programs.wait_until(lambda: len(self.trash()) <= 2, 20, "the first to go")
        due = {entry["name"]: entry["until_unix_seconds"] for entry in self.trash()}
        if "short" in due:
            self.daemon.kill()
            if time.time() < due["short"]:
                self.assertEqual(len(list(self.volumes.iterdir())), 2, "none before its time")
            time.sleep(max(0, due["short"] + 1 - time.time()))
            self.daemon.start()
        programs.wait_until(lambda: len(list(self.volumes.iterdir())) == 1, 20, "the second to go")
        self.assertEqual([entry["name"] for entry in self.trash()], ["long"])
        self.daemon.call("trash", "restore", "pool/long")
        check_pattern(self.daemon, "pool/long", 5)

    def test_a_clone_comes_back_and_what_it_reads_stays_meanwhile(self):
        pattern_of(self.daemon, "pool/base", 3)
        self.daemon.call("snapshot", "create", "pool/base@gold")
        self.daemon.call("clone", "pool/base@gold", "pool/web")
        uri = self.daemon.call("attach", "pool/base")["uri"]
        qemu_io(uri, "write -P 4 0 30M", "flush")  # the snapshot alone has the old blocks now
        self.daemon.call("detach", "pool/base")
        self.daemon.call("volume", "remove", "pool/web")
        self.daemon.kill_and_start()
        for command in (["snapshot", "remove", "pool/base@gold"], ["volume", "remove", "pool/base"],
                        ["volume", "remove", "pool/base", "--now", "--with-snapshots"]):
            self.assert_refused("busy", *command, said=["trash empty pool/web"])
        listed = self.daemon.run("snapshot", "list", "pool/base", status=0).stdout
        self.assertIn("web in the trash", listed)
        self.assertIn("web (in the trash)",
                      self.daemon.run("volume", "show", "pool/base", status=0).stdout)
        self.daemon.call("trash", "restore", "pool/web")
        check_pattern(self.daemon, "pool/web", 3)
        shown = self.daemon.volume("pool/web")
        self.assertEqual(shown["parent"],
                         {"volume": "base", "snapshot": "gold", "in_trash": False})
        self.daemon.call("volume", "remove", "--now", "pool/web")
        self.daemon.call("volume", "remove", "pool/base")  # with its snapshot
        self.assertEqual([entry["snapshot_count"] for entry in self.trash()], [1])
        self.daemon.call("trash", "restore", "pool/base")
        self.daemon.call("clone", "pool/base@gold", "pool/again")
        check_pattern(self.daemon, "pool/again", 3)

    def test_volume_show_tells_relatives_and_what_is_live_of_a_detached_volume(self):
        pattern_of(self.daemon, "pool/base", 3)
        shown = self.daemon.volume("pool/base")
        self.assertEqual((shown["parent"], shown["snapshot_count"], shown["newest_snapshot"],
                          shown["clones"]), (None, 0, None, []))
        self.assertGreaterEqual(shown["live_bytes"], 20 * MIB)
        self.assertLess(shown["live_bytes"], 21 * MIB)
        for name in ("one", "two"):
            self.daemon.call("snapshot", "create", f"pool/base@{name}")
        self.daemon.call("clone", "pool/base@one", "pool/web")
        uri = self.daemon.call("attach", "pool/base")["uri"]
        qemu_io(uri, "write -P 4 1M 10M", "flush")
        for attached in (True, False):
            shown = self.daemon.volume("pool/base")
            self.assertEqual((shown["snapshot_count"], shown["newest_snapshot"], shown["clones"]),
                             (2, "two", ["web"]))
            text = self.daemon.run("volume", "show", "pool/web", status=0).stdout
            self.assertIn("pool/base@one", text)
            if attached:
                self.daemon.call("detach", "pool/base")
        self.assertGreaterEqual(shown["live_bytes"], 20 * MIB)
        self.assertLess(shown["live_bytes"], 21 * MIB)
        self.assertGreaterEqual(shown["garbage_bytes"], 10 * MIB, "what only snapshots need")
        self.assertLess(self.daemon.volume("pool/web")["garbage_bytes"], MIB, "all is its parent's")


@unittest.skipUnless(mounts.loop_devices_work(), "no loop devices on this machine")
class FullStorage(SmallStorageTest):
    storage_bytes = 512 * MIB

    def fill_to_the_last_byte(self):
        for name, unit in (("rest", "64k"), ("crumbs", "1k")):
            programs.run("dd", "if=/dev/zero", f"of={self.storage}/{name}", f"bs={unit}",
                         "conv=fsync", status=None)
        with self.assertRaises(OSError), open(self.storage / "probe", "wb", buffering=0) as file:
            file.write(b"x" * 65536)
            os.fsync(file.fileno())

    def test_a_volume_goes_into_the_trash_and_back_without_a_free_byte(self):
        pattern_of(self.daemon, "pool/disk", 7)
        self.fill_to_the_last_byte()
        for _ in range(3):
            self.daemon.call("volume", "remove", "pool/disk")
            self.daemon.kill_and_start()
            self.assertEqual(len(self.daemon.call("trash", "list")["trash"]), 1)
            self.daemon.call("trash", "restore", "pool/disk")
        (self.storage / "rest").unlink()
        check_pattern(self.daemon, "pool/disk", 7)

    def test_a_full_pool_says_what_the_trash_holds_and_emptying_it_lets_writes_go_on(self):
        pattern_of(self.daemon, "pool/old", 7, megabytes=40)
        self.daemon.call("volume", "remove", "pool/old")
        used = disk_usage(self.pool_path)
        self.assertGreater(used, 40 * MIB, "it still counts as used")
        self.daemon.attach_new("pool/disk", "300M")
        self.fill(leave_bytes=10 * MIB)
        client = nbd.Client(self.daemon.volume()["attachment"]["socket"], timeout_seconds=60)
        self.addCleanup(client.close)
        writer = client.connect("disk")
        handles = [writer.send_request(nbd.CMD_WRITE, number * MIB, MIB, b"w" * MIB)
                   for number in range(30)]
        hold = programs.wait_until(lambda: self.daemon.volume()["hold"], 30, "the hold")
        self.assertIn("holdfast trash empty pool", hold["detail"])
        programs.wait_until(lambda: self.pool()["level"] == "full", 10, "the level full")
        status = self.daemon.run("status", status=0).stdout
        self.assertRegex(
            status, r"the trash holds 4\d(\.\d)? MiB, which 'holdfast trash empty pool' frees")
        self.assertRegex(self.daemon.log_path.read_text(),
                         r"pool pool is full: .*the trash holds 4\d(\.\d)? MiB")
        self.assert_refused("no-space", "volume", "create", "pool/thick", "--size", "100M",
                            "--thick", said=["trash empty pool"])
        emptied = self.daemon.call("trash", "empty", "pool")["removed"]
        self.assertEqual([entry["name"] for entry in emptied], ["old"])
        for handle in handles:
            error, answered, _ = writer.receive_reply()
            self.assertEqual((error, answered), (0, handle))


if __name__ == "__main__":
    unittest.main()
