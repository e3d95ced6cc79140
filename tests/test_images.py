# SPDX-License-Identifier: Apache-2.0
"""The usual tools over NBD: nbdcopy, qemu-img, qemu-io, nbdinfo."""

import hashlib
import json
import random
import unittest

from support import nbd, programs
from support.daemon import MIB, HoldfastTest

KIB = 1024


def write_image(path, size_bytes, seed=1):
    """A sparse image: runs of random data and holes, some at odd places."""
    source = random.Random(seed)
    with open(path, "wb") as image:
        image.truncate(size_bytes)
        at = 0
        while at < size_bytes:
            length = source.choice([512, 4 * KIB, 64 * KIB, MIB, 5 * MIB + 512])
            length = min(length, size_bytes - at)
            if source.random() < 0.5:
                image.seek(at)
                image.write(source.randbytes(length))
            at += length
    return path


def digest(path):
    with open(path, "rb") as image:
        return hashlib.file_digest(image, "sha256").hexdigest()


class Images(HoldfastTest):
    size_bytes = 96 * MIB

    def setUp(self):
        super().setUp()
        self.daemon.create_pool(segment_size="8M")
        self.uri = self.daemon.attach_new("pool/disk", str(self.size_bytes))
        self.image = write_image(self.directory / "image.raw", self.size_bytes)

    def extents(self):
        """[(offset, length, hole, zero)] of base:allocation."""
        listed = json.loads(programs.run("nbdinfo", "--map", "--json", self.uri).stdout)
        return [(entry["offset"], entry["length"], bool(entry["type"] & 1), bool(entry["type"] & 2))
                for entry in listed]

    def assert_live_bytes(self, data_bytes):
        """The map's own pages are live as well: a few of them."""
        live_bytes = self.daemon.volume()["statistics"]["live_bytes"]
        self.assertGreaterEqual(live_bytes, data_bytes)
        self.assertLessEqual(live_bytes, data_bytes + MIB // 4)

    def test_nbdcopy_in_and_out_gives_the_same_bytes(self):
        programs.run("nbdcopy", "--destination-is-zero", self.image, self.uri)
        programs.run("nbdcopy", "--flush", self.uri, self.directory / "back.raw")
        self.assertEqual(digest(self.image), digest(self.directory / "back.raw"))
        # Also from the storage, and not only from what the daemon remembers.
        self.daemon.kill_and_start()
        programs.run("nbdcopy", self.uri, self.directory / "again.raw")
        self.assertEqual(digest(self.image), digest(self.directory / "again.raw"))

    def test_nbdcopy_between_two_volumes_gives_the_same_bytes(self):
        other = self.daemon.attach_new("pool/other", str(self.size_bytes))
        programs.run("nbdcopy", self.image, self.uri)
        programs.run("nbdcopy", self.uri, other)
        programs.run("qemu-img", "compare", "-f", "raw", "-F", "raw", self.image, other)
        # Holes are kept: the copy has no more live bytes than the original.
        original, copy = (self.daemon.volume(name)["statistics"]["live_bytes"]
                          for name in ("pool/disk", "pool/other"))
        self.assertAlmostEqual(original, copy, delta=MIB // 4)

    def test_qemu_img_converts_in_and_out(self):
        qcow2 = self.directory / "image.qcow2"
        programs.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.image, qcow2)
        programs.run("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", qcow2, self.uri)
        programs.run("qemu-img", "compare", "-f", "raw", "-F", "raw", self.image, self.uri)
        out = self.directory / "out.qcow2"
        programs.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.uri, out)
        programs.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", self.image, out)
        programs.run("qemu-img", "check", out)

    def test_qemu_img_compare_sees_a_changed_byte(self):
        programs.run("nbdcopy", self.image, self.uri)
        with nbd.Client(self.export_path()).connect("disk") as client:
            at = 50 * MIB + 777
            client.write(at, bytes([client.read(at, 1)[0] ^ 1]))
        programs.run("qemu-img", "compare", "-f", "raw", "-F", "raw", self.image, self.uri,
                     status=1)

    def test_qemu_io_patterns_at_any_alignment(self):
        commands = [
            "write -P 0x11 0 1M", "write -P 0x22 4096 8192", "write -P 0x33 513 1",
            "write -P 0x44 1048000 2000", "write -P 0x55 10000001 333333",
            "read -P 0x11 0 513", "read -P 0x33 513 1", "read -P 0x11 514 3582",
            "read -P 0x22 4096 8192", "read -P 0x44 1048000 2000", "read -P 0x55 10000001 333333",
            "read -P 0 10333334 4096", "read -P 0 9999000 1001",
            "write -z 8192 4096", "read -P 0x22 4096 4096", "read -P 0 8192 4096",
            "write -z -u 100 5000", "read -P 0x11 0 100", "read -P 0 100 5000",
            "read -P 0x22 5100 3092", "discard 10002432 4096", "read -P 0 10002432 4096",
            "write -f -P 0x66 20M 12k", "flush", "read -P 0x66 20M 12k",
            "writev -P 0x77 30M 512 4096 100", "read -P 0x77 30M 4708",
        ]
        words = [word for command in commands for word in ("-c", command)]
        programs.run("qemu-io", "-f", "raw", "-t", "none", self.uri, *words)
        reads = [word for command in commands[-4:] if command.startswith("read")
                 for word in ("-c", command)]
        self.daemon.kill_and_start()
        programs.run("qemu-io", "-f", "raw", "-t", "none", self.uri, *reads)

    def test_one_request_of_32_mib(self):
        data = random.Random(5).randbytes(32 * MIB)
        with nbd.Client(self.export_path(), timeout_seconds=60).connect("disk") as client:
            client.write(12345, data)
            self.assertEqual(client.read(12345, 32 * MIB), data)
            self.assertEqual(client.read(12344, 1), b"\0")

    def test_the_last_byte_is_there_and_the_one_after_it_is_not(self):
        with nbd.Client(self.export_path()).connect("disk") as client:
            client.write(self.size_bytes - 1, b"x")
            self.assertEqual(client.read(self.size_bytes - 1, 1), b"x")
            for command, data in ((nbd.CMD_WRITE, b"yy"), (nbd.CMD_READ, b""),
                                  (nbd.CMD_TRIM, b""), (nbd.CMD_WRITE_ZEROES, b"")):
                error, _ = client.command(command, self.size_bytes - 1, 2, data)
                self.assertIn(error, (nbd.EINVAL, nbd.ENOSPC), f"command {command}")
            self.assertEqual(client.read(self.size_bytes - 1, 1), b"x")

    def test_a_fresh_volume_is_one_hole(self):
        self.assertEqual(self.extents(), [(0, self.size_bytes, True, True)])

    def test_the_map_shows_what_was_written_and_what_was_trimmed(self):
        programs.run("qemu-io", "-f", "raw", "-d", "unmap", self.uri, "-c", "write -P 1 8M 16M",
                     "-c", "discard 12M 4M", "-c", "write -z -u 20M 1M", "-c", "flush")
        expected = [(0, 8 * MIB, True, True), (8 * MIB, 4 * MIB, False, False),
                    (12 * MIB, 4 * MIB, True, True), (16 * MIB, 4 * MIB, False, False),
                    (20 * MIB, 1 * MIB, True, True), (21 * MIB, 3 * MIB, False, False),
                    (24 * MIB, self.size_bytes - 24 * MIB, True, True)]
        self.assertEqual(self.extents(), expected)
        self.daemon.kill_and_start()
        self.assertEqual(self.extents(), expected)
        mapped = json.loads(programs.run("qemu-img", "map", "--output=json", "-f", "raw",
                                         self.uri).stdout)
        data = [(entry["start"], entry["length"]) for entry in mapped if entry["data"]]
        self.assertEqual(data, [extent[:2] for extent in expected if not extent[2]])

    def test_zeroes_without_hole_stay_allocated(self):
        # qemu-io sets NO_HOLE unless -u is given.
        programs.run("qemu-io", "-f", "raw", self.uri, "-c", "write -z 4M 1M")
        at = [extent for extent in self.extents() if extent[0] == 4 * MIB]
        self.assertEqual(at, [(4 * MIB, MIB, False, True)])
        programs.run("qemu-io", "-f", "raw", self.uri, "-c", "read -P 0 4M 1M")

    def test_trimmed_space_is_given_back(self):
        programs.run("qemu-io", "-f", "raw", self.uri, "-c", "write -P 1 0 32M", "-c",
                     "write -P 2 32M 32M", "-c", "flush")
        self.assert_live_bytes(64 * MIB)
        before = self.daemon.volume()["allocated_bytes"]
        programs.run("qemu-io", "-f", "raw", "-d", "unmap", self.uri, "-c", "discard 0 64M", "-c",
                     "flush")
        self.assert_live_bytes(0)
        programs.wait_until(lambda: self.daemon.volume()["allocated_bytes"] < before - 32 * MIB,
                            what="dead segments to be freed")


class Resize(HoldfastTest):
    def test_a_new_connection_sees_the_grown_size_and_old_data_stays(self):
        self.daemon.create_pool()
        uri = self.daemon.attach_new("pool/disk", "64M")
        with nbd.Client(self.export_path()).connect("disk") as old:
            old.write(63 * MIB, b"a" * MIB)
            self.daemon.call("volume", "resize", "pool/disk", "--size", "128M")
            self.assertEqual(old.read(63 * MIB, MIB), b"a" * MIB)
            self.assertEqual(programs.run("nbdinfo", "--size", uri).stdout.strip(), str(128 * MIB))
            programs.run("qemu-io", "-f", "raw", uri, "-c", "read -P 97 63M 1M", "-c",
                         "read -P 0 64M 64M", "-c", "write -P 8 100M 1M")
        self.daemon.kill_and_start()
        self.assertEqual(self.daemon.volume()["size_bytes"], 128 * MIB)
        programs.run("qemu-io", "-f", "raw", uri, "-c", "read -P 97 63M 1M", "-c",
                     "read -P 8 100M 1M")

    def test_what_was_cut_off_does_not_come_back(self):
        self.daemon.create_pool()
        uri = self.daemon.attach_new("pool/disk", "64M")
        programs.run("qemu-io", "-f", "raw", uri, "-c", "write -P 5 0 64M", "-c", "flush")
        self.daemon.call("detach", "pool/disk")
        self.daemon.call("volume", "resize", "pool/disk", "--size", str(32 * MIB + 512), "--force")
        self.daemon.call("volume", "resize", "pool/disk", "--size", "64M")
        self.daemon.call("attach", "pool/disk")
        programs.run("qemu-io", "-f", "raw", uri, "-c", f"read -P 5 0 {32 * MIB + 512}", "-c",
                     f"read -P 0 {32 * MIB + 512} {32 * MIB - 512}")


class ReadOnly(HoldfastTest):
    def test_a_read_only_export_reads_and_refuses_every_change(self):
        self.daemon.create_pool()
        uri = self.daemon.attach_new("pool/disk", "64M")
        programs.run("qemu-io", "-f", "raw", uri, "-c", "write -P 3 1M 1M", "-c", "flush")
        self.daemon.call("detach", "pool/disk")
        self.daemon.call("attach", "pool/disk", "--read-only")
        information = json.loads(programs.run("nbdinfo", "--json", uri).stdout)
        self.assertTrue(information["exports"][0]["is_read_only"])
        refused = programs.run("qemu-io", "-f", "raw", uri, "-c", "write 0 4k", status=1)
        self.assertNotIn("wrote", refused.stdout)
        with nbd.Client(self.export_path()).connect("disk") as client:
            self.assertTrue(client.flags & 2, "NBD_FLAG_READ_ONLY")
            for command, data in ((nbd.CMD_WRITE, b"x" * 4096), (nbd.CMD_TRIM, b""),
                                  (nbd.CMD_WRITE_ZEROES, b"")):
                error, _ = client.command(command, MIB, 4096, data)
                self.assertEqual(error, nbd.EPERM, f"command {command}")
            self.assertEqual(client.read(MIB, MIB), b"\x03" * MIB)
        programs.run("nbdcopy", uri, self.directory / "out.raw")
        self.daemon.call("detach", "pool/disk")
        self.daemon.call("attach", "pool/disk")
        programs.run("qemu-io", "-f", "raw", uri, "-c", "read -P 3 1M 1M", "-c", "write -P 4 1M 1M")


if __name__ == "__main__":
    unittest.main()
