# SPDX-License-Identifier: Apache-2.0
"""`holdfast import` and `export`: files of qemu-img's formats, pipes, and what goes wrong."""

import json
import os
import signal
import struct
import subprocess
import unittest

from support import mounts, nbd, programs
from support.daemon import MIB, HoldfastTest
from test_images import digest, write_image
from test_space import SmallStorageTest

SIZE_BYTES = 96 * MIB


def run_holdfast(daemon, *arguments, **options):
    return programs.start([programs.binary_directory() / "holdfast", "--runtime-dir",
                           daemon.runtime, *arguments], **options)


class ImageFiles(HoldfastTest):
    def setUp(self):
        super().setUp()
        self.daemon.create_pool(segment_size="8M")
        self.image = write_image(self.directory / "image.raw", SIZE_BYTES)

    def names(self):
        return [volume["name"] for volume in self.daemon.call("volume", "list")["volumes"]]

    def assert_nothing_left(self, names=()):
        """Nothing is left of what was begun, also not in the pool's directory."""
        volumes = self.directory / "pool" / "volumes"
        programs.wait_until(lambda: self.names() == list(names)
                            and len(list(volumes.iterdir())) == len(names),
                            what="the import to be undone")
        programs.wait_until(lambda: self.daemon.call("status")["volumes"] == [],
                            what="the volume to be detached")

    def content(self, name):
        """The digest of a volume's or snapshot's bytes, read over NBD."""
        path = self.directory / "content.raw"
        programs.run("nbdcopy", self.daemon.call("attach", name)["uri"], path)
        self.daemon.call("detach", name)
        return digest(path)

    def convert(self, source, target, *options):
        programs.run("qemu-img", "convert", "-f", source[1], "-O", target[1], *options, source[0],
                     target[0])
        return target[0]

    def test_images_of_every_format_come_in_and_go_out(self):
        raw = (self.image, "raw")
        for name, driver, options in (("qcow2", "qcow2", ()), ("vmdk", "vmdk", ()),
                                      ("vhd", "vpc", ("-o", "force_size=on")),
                                      ("compressed.qcow2", "qcow2", ("-c",)),
                                      ("fixed.vhd", "vpc",
                                       ("-o", "subformat=fixed,force_size=on"))):
            with self.subTest(name=name):
                file = self.convert(raw, (self.directory / f"in.{name}", driver), *options)
                volume = "pool/" + name.replace(".", "-")
                made = self.daemon.call("import", file, volume)
                self.assertEqual(made["size_bytes"], SIZE_BYTES)
                self.assertFalse(made["attached"])
                self.assertEqual(self.content(volume), digest(self.image))
                extension = name.rsplit(".", maxsplit=1)[-1]
                out = self.directory / f"out-{name}"
                done = self.daemon.call("export", volume, out, "--format", extension)
                self.assertEqual((done["format"], done["size_bytes"]), (extension, SIZE_BYTES))
                programs.run("qemu-img", "compare", "-f", "raw", "-F", driver, self.image, out)
                # Sparse stays sparse, both ways.
                self.assertLess(os.stat(out).st_blocks * 512,
                                os.stat(self.image).st_blocks * 512 * 1.1 + MIB)
                self.assertEqual(self.daemon.call("snapshot", "list", volume)["snapshots"], [])
        self.assertEqual(self.daemon.call("status")["volumes"], [])

    def test_raw_files_and_pipes(self):
        self.daemon.call("import", self.image, "pool/file")
        with open(self.image, "rb") as source:
            piped = run_holdfast(self.daemon, "--json", "import", "-", "pool/pipe",
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            out, _ = piped.communicate(source.read(), timeout=60)
        self.assertEqual(piped.returncode, 0)
        self.assertEqual(json.loads(out)["size_bytes"], SIZE_BYTES)
        for volume in ("pool/file", "pool/pipe"):
            self.assertEqual(self.content(volume), digest(self.image), volume)
            live = self.daemon.call("attach", volume) and self.daemon.volume(volume)
            self.assertLess(live["statistics"]["live_bytes"],
                            os.stat(self.image).st_blocks * 512 + MIB)
            self.daemon.call("detach", volume)
        out = self.directory / "out.raw"
        self.daemon.call("export", "pool/file", out)
        self.assertEqual(digest(out), digest(self.image))
        self.assertLessEqual(os.stat(out).st_blocks, os.stat(self.image).st_blocks + 2048)
        stream = self.directory / "stream.raw"
        with open(stream, "wb") as target:
            status = run_holdfast(self.daemon, "export", "pool/pipe", "-", stdout=target).wait(60)
        self.assertEqual(status, 0)
        self.assertEqual(digest(stream), digest(self.image))

    def test_a_snapshot_is_exported_beside_a_writer_and_the_head_as_it_was_at_one_moment(self):
        self.daemon.call("import", self.image, "pool/disk")
        self.daemon.call("snapshot", "create", "pool/disk@first")
        self.daemon.call("attach", "pool/disk")
        with nbd.Client(self.export_path()).connect("disk") as client:
            client.write(0, b"\x05" * MIB)
            client.flush()
            first, head = self.directory / "first.raw", self.directory / "head.qcow2"
            self.daemon.call("export", "pool/disk@first", first)
            self.daemon.call("export", "pool/disk", head)
        self.assertEqual(digest(first), digest(self.image))
        programs.run("qemu-io", "-f", "qcow2", "-r", head, "-c", "read -P 5 0 1M")
        listed = self.daemon.call("snapshot", "list", "pool/disk")["snapshots"]
        self.assertEqual([snapshot["name"] for snapshot in listed], ["first"])
        # One that somebody has attached is read beside them, and stays attached.
        self.daemon.call("attach", "pool/disk@first")
        again = self.directory / "again.raw"
        self.daemon.call("export", "pool/disk@first", again)
        self.assertEqual(digest(again), digest(self.image))
        self.assertEqual([volume["name"] for volume in self.daemon.call("status")["volumes"]],
                         ["disk", "disk@first"])

    def test_images_that_lie_or_were_cut_off_are_refused_and_leave_nothing(self):
        raw = (self.image, "raw")
        qcow2 = self.convert(raw, (self.directory / "good.qcow2", "qcow2"))
        vmdk = self.convert(raw, (self.directory / "good.vmdk", "vmdk"))
        vhd = self.convert(raw, (self.directory / "good.vhd", "vpc"))

        def changed(source, name, change):
            path = self.directory / name
            data = bytearray(source.read_bytes())
            change(data)
            path.write_bytes(data)
            return path

        def cut(data):
            del data[len(data) * 2 // 3:]

        def put(at, form, value):
            def change(data):
                struct.pack_into(form, data, at, value)
            return change

        backed = self.directory / "backed.qcow2"
        programs.run("qemu-img", "create", "-f", "qcow2", "-b", qcow2, "-F", "qcow2", backed)
        odd = self.directory / "odd.raw"
        odd.write_bytes(b"x" * (2 * MIB + 100))
        small = self.directory / "small.raw"
        small.write_bytes(b"x" * 4096)
        for file, options, said in (
                (changed(qcow2, "cut.qcow2", cut), (), "cut off"),
                (changed(vmdk, "cut.vmdk", cut), (), "cut off"),
                (changed(vhd, "cut.vhd", cut), (), "cut off"),
                (changed(qcow2, "magic.qcow2", put(0, ">I", 7)), ("--format", "qcow2"),
                 "no qcow2 image"),
                (changed(qcow2, "header.qcow2", lambda data: data.__delitem__(
                    slice(60, len(data)))), (), "no qcow2 image"),
                (changed(qcow2, "huge.qcow2", put(24, ">Q", 1 << 62)), (), "image"),
                (changed(qcow2, "l1.qcow2", put(40, ">Q", 1 << 50)), (), "image"),
                (backed, (), "backing file"),
                (odd, (), "multiple of 512"),
                (small, (), "1 MiB"),
                (self.image, ("--size", "95M"), "--size says"),
                (self.image, ("--format", "qcow2"), "no qcow2 image"),
                (self.image, ("--format", "rbd-diff"), "no RBD stream"),
                (self.directory / "none", (), "No such file"),
                (self.directory, (), "directory")):
            with self.subTest(file=file.name, options=options):
                with self.assertRaises(AssertionError) as caught:
                    self.daemon.call("import", file, "pool/bad", *options)
                error = caught.exception
                self.assertEqual(error.status, 1, str(error))
                self.assertIn(said, error.message)
                self.assertEqual(error.message.count("\n"), 0, error.message)
                self.assert_nothing_left()

    def test_what_makes_no_sense_is_refused_before_anything_is_done(self):
        self.daemon.call("volume", "create", "pool/disk", "--size", "16M")
        self.assert_refused("already-exists", "import", self.image, "pool/disk", said=["pool/disk"])
        self.assert_refused("not-found", "import", self.image, "none/disk", said=["none"])
        self.assert_refused("invalid-argument", "import", self.image, "pool/x", "--format", "qcow3",
                            said=["qcow3", "vmdk"])
        self.assert_refused("not-found", "export", "pool/none", self.directory / "x", said=["none"])
        self.assert_refused("not-found", "export", "pool/disk@none", self.directory / "x",
                            said=["none"])
        self.assert_refused("already-exists", "export", "pool/disk", self.image,
                            said=["exists already"])
        self.assert_refused("invalid-argument", "export", "pool/disk", self.directory / "x",
                            "--since", "s", said=["rbd-diff"])
        self.assertFalse((self.directory / "x").exists())
        self.assertEqual(list(self.directory.glob("*.partial")), [])
        self.assertEqual(self.daemon.run("export", "pool/disk", "-", "--format",
                                         "qcow2").returncode, 1)
        self.assertEqual(self.daemon.run("import", self.image, "disk").returncode, 2)
        self.assertEqual(self.names(), ["disk"])
        self.assertEqual(self.daemon.call("status")["volumes"], [])

    def begin_import(self, data):
        """An import that has written some of its image, and waits for the rest."""
        running = run_holdfast(self.daemon, "import", "-", "pool/new", "--format", "raw",
                               stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        running.stdin.write(data)
        running.stdin.flush()
        programs.wait_until(
            lambda: self.names() == ["new.importing"] and self.daemon.volume(
                "pool/new.importing")["statistics"]["written_bytes"] >= len(data) // 2,
            what="the import to be under way")
        return running

    def test_what_is_being_imported_is_nobody_elses(self):
        running = self.begin_import(b"y" * 16 * MIB)
        for arguments in (("attach", "pool/new.importing"), ("detach", "pool/new.importing"),
                          ("volume", "remove", "pool/new.importing"),
                          ("volume", "rename", "pool/new.importing", "mine"),
                          ("volume", "resize", "pool/new.importing", "--size", "2T"),
                          ("volume", "create", "pool/new", "--size", "1G"),
                          ("snapshot", "create", "pool/new.importing@s"),
                          ("import", self.image, "pool/new"),
                          ("export", "pool/new.importing", self.directory / "x")):
            self.assert_refused("busy", *arguments, said=["import"])
        running.stdin.close()
        self.assertEqual(running.wait(60), 0)
        self.assertEqual(self.names(), ["new"])
        self.assertEqual(self.daemon.volume("pool/new")["size_bytes"], 16 * MIB)
        running.stderr.close()

    def test_an_import_that_is_killed_leaves_nothing(self):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            running = self.begin_import(b"z" * 24 * MIB)
            running.send_signal(number)
            self.assertEqual(running.wait(30), -number)
            self.assert_nothing_left()
            running.stdin.close()
            running.stderr.close()

    def test_an_import_whose_daemon_is_killed_fails_and_leaves_nothing(self):
        running = self.begin_import(b"z" * 24 * MIB)
        self.daemon.kill()
        _, errors = running.communicate(b"z" * 8 * MIB, timeout=60)
        self.assertEqual(running.returncode, 1, errors)
        self.assertIn(b"when it is running again", errors)
        self.daemon.start()
        self.assert_nothing_left()
        self.daemon.call("import", self.image, "pool/new")
        self.assertEqual(self.content("pool/new"), digest(self.image))

    def test_an_export_that_is_killed_leaves_no_snapshot_and_goes_well_the_next_time(self):
        self.daemon.call("import", self.image, "pool/disk")
        for number in (signal.SIGKILL, signal.SIGTERM):
            running = run_holdfast(self.daemon, "export", "pool/disk", "-", stdout=subprocess.PIPE)
            self.assertEqual(len(running.stdout.read(MIB)), MIB)  # and no more: it waits
            running.send_signal(number)
            self.assertEqual(running.wait(30), -number)
            running.stdout.close()
            programs.wait_until(lambda: self.daemon.call("status")["volumes"] == [],
                                what="the export to be undone")
            self.assertEqual(self.daemon.call("snapshot", "list", "pool/disk")["snapshots"], [])
        out = self.directory / "out.raw"
        (self.directory / "out.raw.partial").write_bytes(b"what a killed one has left" * 1000)
        self.daemon.call("export", "pool/disk", out)
        self.assertEqual(digest(out), digest(self.image))
        self.assertEqual(list(self.directory.glob("*.partial")), [])


@unittest.skipUnless(mounts.loop_devices_work(), "no loop devices on this machine")
class FullPool(SmallStorageTest):
    storage_bytes = 256 * MIB

    def begin_held(self):
        running = run_holdfast(self.daemon, "import", "-", "pool/big", stdin=subprocess.PIPE)
        feeder = programs.start(["head", "-c", str(100 * MIB), "/dev/urandom"],
                                stdout=running.stdin)
        running.stdin.close()
        programs.wait_until(
            lambda: self.daemon.run("volume", "show", "pool/big.importing").returncode == 0
            and self.daemon.volume("pool/big.importing")["hold"], what="the import to be held")
        running.kill()
        running.wait()
        feeder.wait()

    def assert_undone(self, available_bytes):
        programs.wait_until(lambda: self.daemon.call("volume", "list")["volumes"] == []
                            and self.pool()["available_bytes"] > available_bytes,
                            what="the import to be undone")

    def test_an_import_killed_while_it_waits_for_space_is_undone_when_there_is_some(self):
        self.fill(leave_bytes=40 * MIB)
        available = self.pool()["available_bytes"]
        self.begin_held()
        self.filler.unlink()
        self.assert_undone(available)

    def test_an_import_killed_while_it_waits_for_space_is_undone_by_a_restart(self):
        self.fill(leave_bytes=40 * MIB)
        available = self.pool()["available_bytes"]
        self.begin_held()
        self.daemon.kill_and_start()
        self.assert_undone(available - 4 * MIB)


if __name__ == "__main__":
    unittest.main()
