# SPDX-License-Identifier: Apache-2.0
"""What is said of space is true: against du and statvfs, level by level, and after trims."""

import json
import os
import random
import subprocess
import time
import unittest

from support import mounts, programs
from support.daemon import MIB, Daemon, HoldfastTest

SEGMENT = 4 * MIB
# Segments of an open volume that are allocated before they are full: log and its next, map, copies.
OPEN_SEGMENTS = 4


def qemu_io(uri, *commands, options=(), timeout=120):
    words = [word for command in commands for word in ("-c", command)]
    programs.run("qemu-io", "-f", "raw", "-t", "none", *options, uri, *words, timeout=timeout)


def disk_usage(path):
    """Bytes that a folder's files take; files that go away meanwhile are none of it."""
    total = 0
    for root, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def metrics_of(daemon):
    """{"name{labels}": value}"""
    lines = daemon.run("metrics", status=0).stdout.splitlines()
    return {name: float(value) for name, value in
            (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


class SmallStorageTest(HoldfastTest):
    """A pool on a filesystem of its own."""

    storage_bytes = 1024 * MIB
    settings = ""

    def setUp(self):
        super().setUp()
        image = self.directory / "storage.img"
        with open(image, "wb") as file:
            file.truncate(self.storage_bytes)
        programs.run("mkfs.ext4", "-q", "-F", "-m", "0", image)
        # Left in the opposite order: the daemon must be gone before its filesystem is.
        self.storage = self.enterContext(
            mounts.mounted(image, self.directory / "storage", "loop"))
        self.addCleanup(self.daemon.end)
        self.pool_path = self.storage / "pool"
        self.filler = self.storage / "filler"
        self.daemon.create_pool(path=self.pool_path, segment_size="4M")

    def make_daemon(self):
        if not self.settings:
            return super().make_daemon()
        config = self.directory / "holdfast.toml"
        state = self.directory / "state"
        config.write_text(f'state_dir = "{state}"\n{self.settings}')
        return Daemon(self.directory, ["--config", str(config)])

    def pool(self):
        return self.daemon.call("pool", "show", "pool")

    def usage(self, volume):
        return disk_usage(self.pool_path / "volumes" / self.daemon.volume(volume)["id"])

    def fill(self, leave_bytes, path=None):
        """Takes space that is not Holdfast's, but so much for guests."""
        pool = self.pool()
        programs.run("fallocate", "-l", pool["available_bytes"] - pool["reserve_bytes"]
                     - leave_bytes, path or self.filler)


@unittest.skipUnless(mounts.loop_devices_work(), "no loop devices on this machine")
class Accounting(SmallStorageTest):
    def test_what_is_shown_is_what_the_storage_says(self):
        names = ["pool/a", "pool/b", "pool/c"]
        uris = {name: self.daemon.attach_new(name, "400M") for name in names}
        with open(self.filler, "wb") as file:
            file.write(b"x" * (50 * MIB))
        before = os.statvfs(self.storage)
        source = random.Random(11)
        for round_number in range(6):
            for name in names[:1 + round_number % (3 if round_number < 3 else 2)]:
                offset = source.randrange(0, 300) * MIB
                length = source.choice([4096, 64 * 1024, 9 * MIB, 40 * MIB])
                qemu_io(uris[name], f"write -P {round_number + 1} {offset} {length}", "flush")
            if round_number == 3:
                self.daemon.call("detach", "pool/c")
            # Taken before and after: what is said in between lies between them.
            usage = {name: self.usage(name) for name in names}
            shown = self.pool()
            later = {name: self.usage(name) for name in names}
            open_count = 2 if round_number >= 3 else 3
            total = min(sum(usage.values()), sum(later.values()))
            total_max = max(sum(usage.values()), sum(later.values()))
            slack = open_count * SEGMENT
            self.assertGreaterEqual(shown["allocated_bytes"], total - slack)
            self.assertLessEqual(shown["allocated_bytes"], total_max + slack)
            for name in names:
                volume = self.daemon.volume(name)
                self.assertAlmostEqual(volume["allocated_bytes"], later[name], delta=SEGMENT)
            said = os.statvfs(self.storage)
            self.assertEqual(shown["capacity_bytes"], said.f_blocks * said.f_frsize)
            self.assertAlmostEqual(shown["available_bytes"], said.f_bavail * said.f_frsize,
                                   delta=slack)
            self.assertEqual(shown["used_bytes"],
                             shown["capacity_bytes"] - shown["available_bytes"])
            # Others: the filler, and what the filesystem and the pool need for themselves.
            others = shown["used_by_others_bytes"]
            self.assertGreaterEqual(others, 50 * MIB - slack)
            self.assertLessEqual(others, (before.f_blocks - before.f_bavail) * before.f_frsize)
            self.assertEqual(shown["provisioned_bytes"], 1200 * MIB)
            usable = shown["capacity_bytes"] - shown["reserve_bytes"] - others
            self.assertAlmostEqual(shown["overcommit_ratio"], 1200 * MIB / usable, delta=0.01)

    def test_it_is_true_while_a_guest_writes_as_well(self):
        uri = self.daemon.attach_new("pool/disk", "600M")
        writer = programs.start(
            ["qemu-io", "-f", "raw", "-t", "none", uri,
             *[word for number in range(60)
               for word in ("-c", f"write -q -P {number} {number * 9}M 9M", "-c", "flush")]],
            stdout=subprocess.DEVNULL)
        self.addCleanup(programs.stop, writer)
        checks = 0
        while writer.poll() is None or checks < 3:
            # It only grows meanwhile: what is said lies between what was and what is then.
            before = self.usage("pool/disk")
            volume = self.daemon.volume()["allocated_bytes"]
            pool = self.pool()
            after = self.usage("pool/disk")
            for said in (volume, pool["allocated_bytes"]):
                self.assertGreaterEqual(said, before - SEGMENT)
                self.assertLessEqual(said, after + SEGMENT)
            parts = pool["live_bytes"] + pool["garbage_bytes"] + pool["unwritten_bytes"]
            self.assertAlmostEqual(parts, pool["allocated_bytes"], delta=5 * SEGMENT)
            checks += 1
        self.assertEqual(writer.wait(), 0)
        self.assertGreater(self.usage("pool/disk"), 540 * MIB)
        print(f"{checks} checks beside a writer")

    def test_what_a_volume_has_is_live_garbage_or_still_to_be_written(self):
        uri = self.daemon.attach_new("pool/disk", "400M")
        qemu_io(uri, "write -P 1 0 60M", "flush")
        volume = programs.wait_until(
            lambda: (lambda now: now if now["live_bytes"] >= 60 * MIB else None)(
                self.daemon.volume()), 20, "the writes to be live")
        self.assertLess(volume["live_bytes"], 62 * MIB)
        self.assertLess(volume["garbage_bytes"], 3 * MIB)
        self.assertLessEqual(volume["unwritten_bytes"], OPEN_SEGMENTS * SEGMENT)
        self.assertEqual(volume["allocated_bytes"], volume["live_bytes"] + volume["garbage_bytes"]
                         + volume["unwritten_bytes"])
        qemu_io(uri, "write -P 2 0 12M", "flush")
        volume = self.daemon.volume()
        self.assertLess(volume["live_bytes"], 62 * MIB)
        self.assertGreater(volume["garbage_bytes"], 11 * MIB)
        pool = self.pool()
        for key in ("live_bytes", "garbage_bytes"):
            self.assertAlmostEqual(pool[key], volume[key], delta=SEGMENT)
        text = self.daemon.run("volume", "show", "pool/disk", status=0).stdout
        self.assertRegex(text, r"allocated: .* live, .* garbage, .* still to be written")
        self.daemon.call("detach", "pool/disk")
        volume = self.daemon.volume()
        self.assertGreaterEqual(volume["live_bytes"], 60 * MIB)
        self.assertLess(volume["live_bytes"], 62 * MIB)
        self.assertEqual(volume["allocated_bytes"], volume["live_bytes"] + volume["garbage_bytes"])
        listed = self.daemon.call("volume", "list")["volumes"][0]
        self.assertIsNone(listed["live_bytes"], "a list does not look through all tables")

    def test_status_and_metrics_say_the_same(self):
        uri = self.daemon.attach_new("pool/disk", "400M")
        qemu_io(uri, "write -P 1 0 60M", "flush")
        shown = self.pool()
        status = self.daemon.call("status")["pools"][0]
        self.assertEqual(set(status), set(shown))
        figures = metrics_of(self.daemon)
        for key, metric in (("capacity_bytes", "capacity_bytes"),
                            ("reserve_bytes", "reserve_bytes"),
                            ("provisioned_bytes", "provisioned_bytes"),
                            ("overcommit_ratio", "overcommit_ratio"),
                            ("volume_count", "volumes")):
            self.assertEqual(status[key], shown[key])
            self.assertAlmostEqual(figures['holdfast_pool_' + metric + '{pool="pool"}'], shown[key],
                                   delta=0.01)
        for key in ("available_bytes", "used_bytes", "allocated_bytes"):
            self.assertAlmostEqual(figures['holdfast_pool_' + key + '{pool="pool"}'], shown[key],
                                   delta=SEGMENT)
        self.assertEqual(figures['holdfast_pool_level{pool="pool"}'], 0)
        volume = 'holdfast_volume_allocated_bytes{pool="pool",volume="disk"}'
        self.assertAlmostEqual(figures[volume], self.usage("pool/disk"), delta=SEGMENT)
        self.assertIsNone(shown["growth_bytes_per_hour"], "nobody knows after so short a time")
        self.assertIsNone(shown["seconds_to_full"])


@unittest.skipUnless(mounts.loop_devices_work(), "no loop devices on this machine")
class Levels(SmallStorageTest):
    settings = ("[space]\nwarn_percent = 5\ncritical_percent = 10\n"
                "[space.pools.pool]\nwarn_percent = 50\ncritical_percent = 75\n")

    def wait_for_level(self, level):
        programs.wait_until(lambda: self.pool()["level"] == level, 20, f"the level {level}")

    def log_lines(self, text):
        return [line for line in self.daemon.log_path.read_text().splitlines() if text in line]

    def test_levels_are_reached_shown_and_logged_once(self):
        usable = self.pool()["capacity_bytes"] - self.pool()["reserve_bytes"]
        self.assertEqual(self.pool()["level"], "ok")
        self.fill(leave_bytes=int(usable * 0.45), path=self.storage / "one")
        self.wait_for_level("warn")
        self.assertEqual(self.pool()["warn_percent"], 50)
        text = self.daemon.run("status", status=0).stdout
        self.assertIn("Pool pool is at level warn", text)
        self.assertIn("add space, remove volumes for good", text)
        self.fill(leave_bytes=int(usable * 0.2), path=self.storage / "two")
        self.wait_for_level("critical")
        self.fill(leave_bytes=SEGMENT // 2, path=self.storage / "three")
        self.wait_for_level("full")
        self.assertGreater(self.pool()["used_percent"], 99)
        self.assertIn("writes that need space are held",
                      self.daemon.run("pool", "show", "pool", status=0).stdout)
        self.assertEqual(metrics_of(self.daemon)['holdfast_pool_level{pool="pool"}'], 3)
        time.sleep(2.5)
        for line in ("at its warn level", "at its critical level", "pool pool is full"):
            self.assertEqual(len(self.log_lines(line)), 1, line)
        for name in ("one", "two", "three"):
            (self.storage / name).unlink()
        self.wait_for_level("ok")
        self.assertEqual(self.log_lines("below its warn level"), [], "not before it stays so")
        programs.wait_until(lambda: self.log_lines("below its warn level"), 20, "the log to say so")


@unittest.skipUnless(mounts.loop_devices_work() and mounts.fuse_works(),
                     "no loop devices or no FUSE on this machine")
class Trimmed(SmallStorageTest):
    def test_after_a_trim_the_pool_holds_what_the_guest_uses(self):
        uri = self.daemon.attach_new("pool/disk", "800M")
        source = random.Random(3)
        with mounts.exported_file(uri, self.directory / "fuse") as file, \
                mounts.loop_device(file) as device:
            programs.run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", device)
            with mounts.mounted(device, self.directory / "mnt") as root:
                for number in range(350):
                    (root / f"file{number}").write_bytes(source.randbytes(MIB))
                programs.run("sync", "-f", root)
                # Here and there: few segments die as a whole, the rest is the cleaner's.
                for number in range(350):
                    if source.random() < 0.4:
                        (root / f"file{number}").unlink()
                programs.run("sync", "-f", root)
                programs.run("fstrim", root)
                programs.run("sync", "-f", root)
                used = os.statvfs(root)
                text = programs.run("dumpe2fs", "-h", device).stdout
                header = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
                guest_uses = (used.f_blocks - used.f_bfree) * used.f_frsize
                # Its journal, inode tables and the like, which statvfs leaves out.
                overhead = (int(header["Block count"]) - used.f_blocks) * used.f_frsize
                self.assertGreater(guest_uses, 150 * MIB)
                bound = (guest_uses + overhead) * 1.05 + OPEN_SEGMENTS * SEGMENT
                began = time.monotonic()
                programs.wait_until(lambda: self.usage("pool/disk") <= bound, 60,
                                    f"the volume to take at most {bound / MIB:.0f} MiB, for "
                                    f"{guest_uses / MIB:.0f} + {overhead / MIB:.0f} MiB",
                                    step_seconds=0.2)
                volume = self.daemon.volume()
                print(f"guest uses {guest_uses / MIB:.1f} MiB + {overhead / MIB:.1f} MiB overhead, "
                      f"volume takes {volume['allocated_bytes'] / MIB:.1f} MiB after "
                      f"{time.monotonic() - began:.1f} s: " + json.dumps(
                          {key: round(volume[key] / MIB, 1) for key in
                           ("live_bytes", "garbage_bytes", "unwritten_bytes")}))
                # In the end: little garbage, whatever it was that the guest left.
                programs.wait_until(
                    lambda: (lambda now: now["garbage_bytes"] <= 0.055 * now["live_bytes"])(
                        self.daemon.volume()), 60, "the garbage to be cleaned", step_seconds=0.2)
                # The pool as a whole says so, too.
                pool = self.pool()
                self.assertLessEqual(pool["allocated_bytes"], bound + SEGMENT)
            programs.run("e2fsck", "-f", "-n", device)


if __name__ == "__main__":
    unittest.main()
