# SPDX-License-Identifier: Apache-2.0
"""Thick volumes: what is preallocated is theirs, whoever fills the pool."""

import os
import random
import re
import struct
import subprocess
import threading
import time
import unittest

from support import mounts, nbd, programs
from support.daemon import MIB, CommandFailed, HoldfastTest

BLOCK = 4096


class Overwriter:
    """Overwrites whole blocks at random, and knows what each of them holds."""

    def __init__(self, socket, export, size_bytes, seed=1, depth=32):
        self.socket, self.export, self.depth = socket, export, depth
        self.blocks = size_bytes // BLOCK
        self.versions = [0] * self.blocks
        self.random = random.Random(seed)
        self.written = 0
        self.worst_seconds = 0.0
        self.failure = None
        self.stopping = False

    def content(self, block, version):
        return struct.pack("<QQ", block, version) * (BLOCK // 16) if version else bytes(BLOCK)

    def batch(self, client):
        chosen = self.random.sample(range(self.blocks), min(self.depth, self.blocks))
        began = time.monotonic()
        for block in chosen:
            self.versions[block] += 1
            client.send_request(nbd.CMD_WRITE, block * BLOCK, BLOCK,
                                self.content(block, self.versions[block]))
        for _ in chosen:
            error, _, _ = client.receive_reply()
            assert error == 0, f"a write was answered with error {error}"
        self.written += len(chosen)
        self.worst_seconds = max(self.worst_seconds, time.monotonic() - began)

    def write(self, passes):
        """As many writes as there are blocks, `passes` times."""
        with nbd.Client(self.socket, timeout_seconds=60).connect(self.export) as client:
            goal = self.written + passes * self.blocks
            while self.written < goal and not self.stopping:
                self.batch(client)
            client.flush()

    def start(self):
        def run():
            try:
                self.write(passes=1000)
            except Exception as error:  # shown by stop()
                self.failure = error
        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def stop(self):
        self.stopping = True
        self.thread.join(90)
        assert not self.thread.is_alive(), "a write is never answered"
        if self.failure is not None:
            raise self.failure
        self.stopping = False

    def verify(self):
        step = 128
        with nbd.Client(self.socket, timeout_seconds=60).connect(self.export) as client:
            for first in range(0, self.blocks, step):
                count = min(step, self.blocks - first)
                data = client.read(first * BLOCK, count * BLOCK)
                for i in range(count):
                    expected = self.content(first + i, self.versions[first + i])
                    found = data[i * BLOCK:(i + 1) * BLOCK]
                    assert found == expected, (
                        f"block {first + i}: {found[:16].hex()}, not version "
                        f"{self.versions[first + i]}")


@unittest.skipUnless(mounts.loop_devices_work(), "no loop devices on this machine")
class Thick(HoldfastTest):
    def setUp(self):
        super().setUp()
        image = self.directory / "small.img"
        with open(image, "wb") as file:
            file.truncate(640 * MIB)
        programs.run("mkfs.ext4", "-q", "-F", "-m", "0", image)
        self.enterContext(mounts.mounted(image, self.directory / "small", "loop"))
        self.addCleanup(self.daemon.end)
        self.pool_path = self.directory / "small" / "pool"
        self.daemon.create_pool(path=self.pool_path, segment_size="1M")

    def available_bytes(self):
        space = os.statvfs(self.directory / "small")
        return space.f_bavail * space.f_frsize

    def socket_of(self, volume):
        return self.daemon.runtime / f"{volume.replace('/', '.')}.nbd.sock"

    def segment_files(self, volume="pool/disk"):
        """Inode numbers of all files of a segment's size, by the kind in their name."""
        directory = self.pool_path / "volumes" / self.daemon.volume(volume)["id"]
        found = {"seg": set(), "spare": set()}
        for entry in os.scandir(directory):
            kind = entry.name.partition("-")[0]
            if kind in found and entry.name != "spare-root":
                found[kind].add(entry.inode())
        return found

    def wait_until_preallocated(self, volume="pool/disk", timeout_seconds=60):
        return programs.wait_until(
            lambda: (lambda report: report["state"] == "complete" and report)(
                self.daemon.volume(volume)["preallocation"]),
            timeout_seconds, f"{volume} to be preallocated")

    def create_thick(self, volume="pool/disk", size="128M"):
        self.daemon.call("volume", "create", volume, "--size", size, "--thick")
        return self.wait_until_preallocated(volume)

    def start_filling(self, volume="pool/thin", size="600M"):
        """A thin neighbour that takes all it can get; returns its writer, which is held at last."""
        uri = self.daemon.attach_new(volume, size)
        writer = programs.start(["qemu-io", "-f", "raw", "-t", "none", uri, "-c",
                                 f"write -P 9 0 {size}"], stdout=subprocess.DEVNULL)
        self.addCleanup(programs.stop, writer)
        programs.wait_until(lambda: self.daemon.volume(volume)["hold"], 90, "the pool to be full")
        return writer

    def test_it_is_never_held_beside_a_thin_volume_that_fills_the_pool(self):
        report = self.create_thick()
        self.assertEqual(report["done_bytes"], report["total_bytes"])
        self.assertGreater(report["total_bytes"], 128 * MIB)
        self.daemon.call("attach", "pool/disk")
        self.start_filling()
        writer = Overwriter(self.socket_of("pool/disk"), "disk", 128 * MIB)
        writer.start()
        for _ in range(400):
            time.sleep(0.1)
            self.assertIsNone(self.daemon.volume()["hold"])
            if writer.written > 5 * writer.blocks or writer.failure:
                break
        writer.stop()
        self.assertGreater(writer.written, 3 * writer.blocks, "too little to mean anything")
        self.assertEqual(self.daemon.volume("pool/thin")["hold"]["reason"], "pool full")
        shown = self.daemon.volume()
        self.assertEqual(shown["statistics"]["errors"], 0)
        self.assertLessEqual(shown["allocated_bytes"], report["total_bytes"] + 2 * MIB)
        print(f"{writer.written} random writes of 4 KiB in a full pool, none held; the longest "
              f"batch of {writer.depth} took {writer.worst_seconds:.2f} s; "
              f"{shown['statistics']['cleaned_segments']} segments cleaned, "
              f"{shown['statistics']['waits_for_cleaner']} waits for the cleaner")
        writer.verify()
        # The same after a crash in the middle of it, and the pool still full.
        writer.write(passes=1)
        self.daemon.kill_and_start()
        writer.verify()
        writer.write(passes=1)
        self.assertIsNone(self.daemon.volume()["hold"])
        writer.verify()

    def test_it_goes_on_when_others_have_taken_the_last_block_of_the_filesystem(self):
        self.create_thick(size="32M")
        self.daemon.call("attach", "pool/disk")
        writer = Overwriter(self.socket_of("pool/disk"), "disk", 32 * MIB)
        writer.write(passes=1)
        with open(self.directory / "small" / "rest", "wb", buffering=0) as rest:
            for size in (MIB, BLOCK):
                try:
                    while True:
                        rest.write(bytes(size))
                except OSError:
                    pass
        self.assertLess(self.available_bytes(), MIB)
        writer.write(passes=6)
        self.assertIsNone(self.daemon.volume()["hold"])
        writer.verify()

    def test_what_does_not_fit_is_refused_with_the_numbers(self):
        with self.assertRaises(CommandFailed) as refused:
            self.daemon.call("volume", "create", "pool/large", "--size", "2G", "--thick")
        self.assertEqual(refused.exception.code, "no-space")
        message = refused.exception.message
        numbers = re.search(r"needs ([\d.]+) GiB.* has ([\d.]+) MiB for it after the reserve of "
                            r"([\d.]+) MiB", message)
        self.assertIsNotNone(numbers, message)
        needed, available, reserve = (float(number) for number in numbers.groups())
        self.assertGreater(needed, 2 * 1.3)
        pool = self.daemon.call("pool", "show", "pool")
        self.assertAlmostEqual(reserve, pool["reserve_bytes"] / MIB, delta=1)
        self.assertAlmostEqual(available + reserve, pool["available_bytes"] / MIB, delta=2)
        self.assertEqual(self.daemon.call("volume", "list", "pool")["volumes"], [])
        # What others were promised counts, also while they do not have it yet.
        self.daemon.call("volume", "create", "pool/first", "--size", "200M", "--thick")
        with self.assertRaises(CommandFailed) as refused:
            self.daemon.call("volume", "create", "pool/second", "--size", "200M", "--thick")
        self.assertEqual(refused.exception.code, "no-space")
        self.wait_until_preallocated("pool/first")
        # Nor does a thin one become thick, or a thick one larger, than there is space for.
        self.daemon.call("volume", "create", "pool/thin", "--size", "300M")
        for command in (("volume", "convert", "pool/thin", "--thick"),
                        ("volume", "resize", "pool/first", "--size", "500M")):
            with self.assertRaises(CommandFailed) as refused:
                self.daemon.call(*command)
            self.assertIn("needs", refused.exception.message)
        self.assertFalse(self.daemon.volume("pool/thin")["thick"])
        self.assertEqual(self.daemon.volume("pool/first")["size_bytes"], 200 * MIB)

    def test_preallocation_goes_on_after_sigkill(self):
        self.daemon.call("volume", "create", "pool/disk", "--size", "200M", "--thick")
        self.assertTrue(self.daemon.volume()["thick"])
        before = self.segment_files()["spare"]
        self.daemon.kill()
        self.daemon.start()
        report = self.wait_until_preallocated()
        files = self.segment_files()
        self.assertEqual(len(files["spare"]) * MIB, report["total_bytes"])
        self.assertLessEqual(before, files["spare"], "what had been allocated was thrown away")
        directory = self.pool_path / "volumes" / self.daemon.volume()["id"]
        self.assertEqual([name for name in os.listdir(directory) if name.startswith(".")], [])
        self.daemon.call("attach", "pool/disk")
        writer = Overwriter(self.socket_of("pool/disk"), "disk", 200 * MIB)
        writer.write(passes=0.3)
        self.daemon.kill_and_start()
        writer.verify()

    def test_it_is_converted_both_ways_while_it_is_written(self):
        self.daemon.attach_new("pool/disk", "64M")
        writer = Overwriter(self.socket_of("pool/disk"), "disk", 64 * MIB)
        writer.write(passes=1)
        writer.start()
        self.assertIsNone(self.daemon.volume()["preallocation"])
        for _ in range(2):
            self.assertTrue(self.daemon.call("volume", "convert", "pool/disk", "--thick")["thick"])
            report = self.wait_until_preallocated()
            # A look may miss files that are renamed meanwhile; not every look does.
            programs.wait_until(
                lambda: self.daemon.volume()["allocated_bytes"] >= report["total_bytes"], 10,
                "all of its space to be seen in one look")
            self.assertFalse(self.daemon.call("volume", "convert", "pool/disk", "--thin")["thick"])
            programs.wait_until(lambda: not self.segment_files()["spare"], 30,
                                "the spares to be given back")
        self.daemon.call("volume", "convert", "pool/disk", "--thick")
        self.wait_until_preallocated()
        self.start_filling()
        programs.wait_until(lambda: writer.written > 5 * writer.blocks, 90, "enough writes")
        self.assertIsNone(self.daemon.volume()["hold"])
        writer.stop()
        writer.verify()
        self.daemon.kill_and_start()
        writer.verify()
        self.assertTrue(self.daemon.volume()["thick"])

    def test_its_space_stays_over_detach_and_attach_and_goes_with_it(self):
        empty_bytes = self.available_bytes()
        total_bytes = self.create_thick()["total_bytes"]
        socket = self.socket_of("pool/disk")
        writer = Overwriter(socket, "disk", 128 * MIB)
        for _ in range(3):
            self.daemon.call("attach", "pool/disk")
            writer.write(passes=0.5)
            self.daemon.call("detach", "pool/disk")
            self.assertGreaterEqual(self.daemon.volume()["allocated_bytes"], total_bytes)
        self.daemon.restart()
        self.assertEqual(self.wait_until_preallocated()["total_bytes"], total_bytes)
        self.daemon.call("attach", "pool/disk")
        writer.verify()
        # Larger, then as it was: the space follows.
        self.daemon.call("volume", "resize", "pool/disk", "--size", "192M")
        larger_bytes = self.daemon.volume()["preallocation"]["total_bytes"]
        self.assertGreater(larger_bytes, total_bytes + 64 * MIB)
        self.assertGreaterEqual(self.daemon.volume()["allocated_bytes"], larger_bytes)
        self.daemon.call("volume", "resize", "pool/disk", "--size", "128M", "--force")
        programs.wait_until(
            lambda: self.daemon.volume()["allocated_bytes"] < larger_bytes - 32 * MIB, 40,
            "what was too much to be given back")
        writer.verify()
        self.daemon.call("detach", "pool/disk")
        self.daemon.call("volume", "remove", "--now", "pool/disk")
        programs.wait_until(lambda: self.available_bytes() > empty_bytes - 2 * MIB, 20,
                            "the space to come back")


if __name__ == "__main__":
    unittest.main()
