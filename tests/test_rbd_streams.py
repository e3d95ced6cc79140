# SPDX-License-Identifier: Apache-2.0
"""RBD images move between a real Ceph and Holdfast, both ways, with their snapshots."""

import random
import shutil
import struct
import subprocess
import tempfile
import unittest

from support import ceph, programs
from support.ceph import POOL
from support.daemon import MIB, HoldfastTest, test_root
from test_images import digest
from test_image_files import run_holdfast

IMAGE_BYTES = 24 * MIB


class RbdStreams(HoldfastTest):
    cluster = None

    @classmethod
    def setUpClass(cls):
        ceph.require()
        directory = tempfile.mkdtemp(prefix="holdfast-ceph-", dir=test_root())
        cls.addClassCleanup(shutil.rmtree, directory, ignore_errors=True)
        cls.cluster = ceph.Ceph(directory)
        cls.addClassCleanup(cls.cluster.end)
        cls.cluster.start()

    def setUp(self):
        super().setUp()
        self.daemon.create_pool(segment_size="8M")
        self.source = random.Random(7)
        name = self.id().rsplit(".", maxsplit=1)[-1][-40:]
        self.image = f"from-{name}"
        self.other = f"to-{name}"

    def make_image(self):
        """An image with snapshots a and b, which grew, shrank and was trimmed in between."""
        self.cluster.rbd("create", "--size", f"{IMAGE_BYTES}B", "--object-size", "1M",
                    f"{POOL}/{self.image}")
        for offset in (0, 5 * MIB + 512, 9 * MIB, 20 * MIB):
            self.write(offset, 700 * 1024)
        self.snapshot("a")
        self.cluster.discard(self.image, 9 * MIB, MIB)
        self.write(5 * MIB, 4096)
        self.write(13 * MIB + 1000 * 512, 3 * MIB)
        self.cluster.rbd("resize", "--no-progress", "--size", f"{IMAGE_BYTES + 8 * MIB}B",
                    f"{POOL}/{self.image}")
        self.write(IMAGE_BYTES + 7 * MIB, 64 * 1024)
        self.snapshot("b")
        self.cluster.rbd("resize", "--no-progress", "--allow-shrink", "--size",
                    f"{IMAGE_BYTES - 2 * MIB}B", f"{POOL}/{self.image}")
        self.write(2 * MIB, 12345 // 512 * 512)

    def write(self, offset, length):
        self.cluster.write(self.image, self.source.randbytes(length), offset, self.directory)

    def snapshot(self, name):
        self.cluster.rbd("snap", "create", "--no-progress", f"{POOL}/{self.image}@{name}")

    def rbd_digest(self, name):
        path = self.directory / "rbd.raw"
        path.unlink(missing_ok=True)
        self.cluster.rbd("export", "--no-progress", f"{POOL}/{name}", path)
        return digest(path)

    def holdfast_digest(self, name):
        path = self.directory / "holdfast.raw"
        path.unlink(missing_ok=True)
        self.daemon.call("export", name, path)
        return digest(path)

    def pipe(self, from_command, to_command):
        """from | to, both of which must end well."""
        producer = programs.start(from_command, stdout=subprocess.PIPE)
        consumer = programs.start(to_command, stdin=producer.stdout, stdout=subprocess.DEVNULL)
        producer.stdout.close()
        self.assertEqual((consumer.wait(60), producer.wait(60)), (0, 0),
                         (from_command, to_command))

    def holdfast(self, *arguments):
        return [programs.binary_directory() / "holdfast", "--runtime-dir", self.daemon.runtime,
                *arguments]

    def rbd(self, *arguments):
        return self.cluster.rbd_command(*arguments)

    def import_diff(self, name, since=None, volume="pool/img"):
        extra = ["--from-snap", since] if since else []
        self.pipe(self.rbd("export-diff", "--no-progress", *extra, f"{POOL}/{name}", "-"),
                  self.holdfast("import", "-", volume, "--format", "rbd-diff"))

    def export_diff(self, name, to, since=None):
        extra = ["--since", since] if since else []
        self.pipe(self.holdfast("export", name, "-", "--format", "rbd-diff", *extra),
                  self.rbd("import-diff", "--no-progress", "-", f"{POOL}/{to}"))

    def assert_same_everywhere(self, snapshots=("@a", "@b", "")):
        for snapshot in snapshots:
            self.assertEqual(self.holdfast_digest(f"pool/img{snapshot}"),
                             self.rbd_digest(f"{self.image}{snapshot}"), snapshot)

    def test_diffs_come_in_one_after_the_other_and_go_back(self):
        self.make_image()
        self.import_diff(f"{self.image}@a")
        self.import_diff(f"{self.image}@b", "a")
        self.import_diff(self.image, "b")
        listed = self.daemon.call("snapshot", "list", "pool/img")["snapshots"]
        self.assertEqual([snapshot["name"] for snapshot in listed], ["a", "b"])
        self.assert_same_everywhere()
        self.cluster.rbd("create", "--size", "1M", "--object-size", "1M", f"{POOL}/{self.other}")
        self.export_diff("pool/img@a", self.other)
        self.export_diff("pool/img@b", self.other, "a")
        self.export_diff("pool/img", self.other, "b")
        for snapshot in ("@a", "@b", ""):
            self.assertEqual(self.rbd_digest(f"{self.other}{snapshot}"),
                             self.rbd_digest(f"{self.image}{snapshot}"), snapshot)
        # The increments are small: what is in them is what changed.
        increment = self.directory / "increment"
        done = self.daemon.call("export", "pool/img@b", increment, "--format", "rbd-diff",
                                "--since", "a")
        self.assertLess(done["written_bytes"], 4 * MIB)
        self.assertEqual(increment.stat().st_size, done["written_bytes"])

    def test_an_image_comes_in_with_all_its_snapshots_and_goes_back(self):
        self.make_image()
        self.pipe(self.rbd("export", "--no-progress", "--export-format", "2",
                           f"{POOL}/{self.image}", "-"),
                  self.holdfast("import", "-", "pool/img"))  # it is recognized
        self.assert_same_everywhere()
        self.pipe(self.holdfast("export", "pool/img", "-", "--format", "rbd"),
                  self.rbd("import", "--no-progress", "--export-format", "2", "-",
                           f"{POOL}/{self.other}"))
        for snapshot in ("@a", "@b", ""):
            self.assertEqual(self.rbd_digest(f"{self.other}{snapshot}"),
                             self.rbd_digest(f"{self.image}{snapshot}"), snapshot)
        self.assertEqual(len(self.daemon.call("snapshot", "list", "pool/img")["snapshots"]), 2)
        # Only up to a snapshot, through a file.
        file = self.directory / "image.rbd"
        self.daemon.call("export", "pool/img@a", file, "--format", "rbd")
        self.daemon.call("import", file, "pool/again")
        self.assertEqual(self.holdfast_digest("pool/again"), self.rbd_digest(f"{self.image}@a"))
        self.assertEqual(self.holdfast_digest("pool/again@a"), self.rbd_digest(f"{self.image}@a"))

    def test_plain_exports_are_raw_images(self):
        self.make_image()
        self.pipe(self.rbd("export", "--no-progress", f"{POOL}/{self.image}@b", "-"),
                  self.holdfast("import", "-", "pool/img", "--format", "raw"))
        self.assertEqual(self.holdfast_digest("pool/img"), self.rbd_digest(f"{self.image}@b"))
        self.pipe(self.holdfast("export", "pool/img", "-"),
                  self.rbd("import", "--no-progress", "-", f"{POOL}/{self.other}"))
        self.assertEqual(self.rbd_digest(self.other), self.rbd_digest(f"{self.image}@b"))


class Streams(HoldfastTest):
    """What needs no Ceph, but streams that a test makes."""

    def setUp(self):
        super().setUp()
        self.daemon.create_pool(segment_size="8M")

    @staticmethod
    def diff(size, extents=(), since="", to="", end=b"e"):
        """Extents: (offset, data) or (offset, length) of zeros."""
        stream = b"rbd diff v1\n"
        for tag, name in ((b"f", since), (b"t", to)):
            if name:
                stream += tag + struct.pack("<I", len(name)) + name.encode()
        stream += b"s" + struct.pack("<Q", size)
        for offset, what in extents:
            zero = isinstance(what, int)
            stream += b"z" if zero else b"w"
            stream += struct.pack("<QQ", offset, what if zero else len(what))
            stream += b"" if zero else what
        return stream + end

    def import_stream(self, stream, volume="pool/img"):
        path = self.directory / "stream"
        path.write_bytes(stream)
        return self.daemon.call("import", path, volume, "--format", "rbd-diff")

    def assert_stream_refused(self, code, stream, said, volume="pool/img"):
        path = self.directory / "stream"
        path.write_bytes(stream)
        return self.assert_refused(code, "import", path, volume, "--format", "rbd-diff", said=said)

    def content(self, name="pool/img"):
        path = self.directory / "content.raw"
        path.unlink(missing_ok=True)
        self.daemon.call("export", name, path)
        return path.read_bytes()

    def snapshots(self):
        return [snapshot["name"]
                for snapshot in self.daemon.call("snapshot", "list", "pool/img")["snapshots"]]

    def make_base(self):
        self.import_stream(self.diff(4 * MIB, [(0, b"a" * MIB)], to="a"))
        return self.content()

    def test_a_diff_that_fails_leaves_the_volume_as_it_was(self):
        base = self.make_base()
        grown = 8 * MIB
        for end in (b"", b"w" + struct.pack("<QQ", grown, 1) + b"x"):
            self.assert_stream_refused(
                "corrupt", self.diff(grown, [(MIB // 2, b"b" * 2 * MIB)], "a", "b", end),
                ["as it was before"])
            self.assertEqual(self.content(), base)
            self.assertEqual(self.snapshots(), ["a"])
        self.import_stream(self.diff(grown, [(MIB // 2, b"b" * 2 * MIB)], "a", "b"))
        self.assertEqual(self.content()[:3 * MIB], b"a" * (MIB // 2) + b"b" * 2 * MIB
                         + bytes(MIB // 2))
        self.assertEqual(len(self.content()), grown)
        self.assertEqual(self.content("pool/img@a"), base)

    def test_a_diff_that_was_killed_is_rolled_back(self):
        self.import_stream(self.diff(24 * MIB, [(0, b"a" * MIB)], to="a"))
        base = self.content()
        stream = self.diff(24 * MIB, [(0, b"b" * 20 * MIB)], "a", "b", b"")
        for is_daemon in (False, True):
            running = run_holdfast(self.daemon, "import", "-", "pool/img", "--format", "rbd-diff",
                                   stdin=subprocess.PIPE, stderr=subprocess.PIPE)
            running.stdin.write(stream)
            running.stdin.flush()
            programs.wait_until(
                lambda: (self.daemon.volume("pool/img")["statistics"] or {}).get(
                    "written_bytes", 0) >= 8 * MIB, what="the import to be under way")
            self.assert_refused("busy", "attach", "pool/img", said=["imported"])
            self.assert_refused("busy", "snapshot", "remove", "pool/img@a", said=["imported"])
            if is_daemon:
                self.daemon.kill_and_start()
            running.kill()
            running.wait()
            running.stdin.close()
            running.stderr.close()
            programs.wait_until(lambda: not self.daemon.volume("pool/img")["attached"]
                                and self.daemon.run("snapshot", "create",
                                                    "pool/img@probe").returncode == 0,
                                what="the import to be undone")
            self.daemon.call("snapshot", "remove", "pool/img@probe")
            self.assertEqual(self.content(), base)
            self.assertEqual(self.snapshots(), ["a"])
        self.import_stream(stream + b"e")
        self.assertEqual(self.content()[:20 * MIB], b"b" * 20 * MIB)

    def test_what_does_not_fit_the_volume_is_refused_with_what_to_do(self):
        base = self.make_base()
        self.assert_stream_refused("not-found", self.diff(4 * MIB, since="x", to="b"),
                                   ["'x'", "first"])
        self.assert_stream_refused("already-exists", self.diff(4 * MIB, since="a", to="a"),
                                   ["pool/img@a"])
        self.assert_stream_refused("already-exists", self.diff(4 * MIB, to="b"), ["pool/img"])
        self.assert_stream_refused("not-found", self.diff(4 * MIB, since="a"), ["no volume"],
                                   "pool/none")
        self.assert_stream_refused("unsupported", self.diff(4 * MIB, to="my snap"), ["rename"],
                                   "pool/new")
        self.assert_stream_refused("invalid-argument", b"rbd image v2\nErbd image diffs v2\n"
                                   + struct.pack("<Q", 1) + self.diff(4 * MIB), ["--format rbd"],
                                   "pool/new")
        self.daemon.call("attach", "pool/img")
        self.assert_stream_refused("busy", self.diff(4 * MIB, since="a", to="b"),
                                   ["holdfast detach pool/img"])
        uri = self.daemon.volume("pool/img")["attachment"]["uri"]
        programs.run("qemu-io", "-f", "raw", uri, "-c", "write -P 3 2M 4k", "-c", "flush")
        self.daemon.call("detach", "pool/img")
        self.assert_stream_refused("busy", self.diff(4 * MIB, since="a", to="b"),
                                   ["holdfast snapshot rollback pool/img@a"])
        self.daemon.call("snapshot", "rollback", "pool/img@a")
        self.import_stream(self.diff(4 * MIB, [(0, MIB)], since="a", to="b"))
        self.assertEqual(self.content(), bytes(4 * MIB))
        self.assertEqual(self.content("pool/img@a"), base)
        self.assertEqual(self.snapshots(), ["a", "b"])

    def test_extents_in_any_order_and_on_top_of_each_other(self):
        extents = [(3 * MIB, b"1" * 5000), (100, b"2" * 3 * MIB), (MIB, 2 * MIB), (MIB + 7, b"3"),
                   (0, 64), (2 * MIB - 10, bytes(8192)), (2 * MIB, b"4" * 100)]
        expected = bytearray(4 * MIB)
        for offset, what in extents:
            data = bytes(what) if isinstance(what, int) else what
            expected[offset:offset + len(data)] = data
        self.import_stream(self.diff(4 * MIB, extents))
        self.assertEqual(self.content(), bytes(expected))


if __name__ == "__main__":
    unittest.main()
