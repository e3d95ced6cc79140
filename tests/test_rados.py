# SPDX-License-Identifier: Apache-2.0
"""A pool on a real Ceph: what a user does with it, and what happens to a guest's I/O when parts of
the cluster, of the daemon, or of a key go away."""

import os
import shutil
import signal
import tempfile
import time
import unittest

import test_shared_pool
from support import ceph, programs
from support.ceph import POOL
from support.daemon import MIB, Daemon, HoldfastTest, test_root
from test_shared_pool import IO_TIMEOUT


class OnCeph:
    """A cluster for all tests of a class, a namespace for each."""

    osds = 1
    with_keys = False
    count = 0

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        ceph.require("ceph-mgr")
        directory = tempfile.mkdtemp(prefix="holdfast-ceph-", dir=test_root())
        cls.addClassCleanup(shutil.rmtree, directory, ignore_errors=True)
        cls.cluster = ceph.Ceph(directory, osds=cls.osds, with_manager=True,
                                with_keys=cls.with_keys)
        cls.addClassCleanup(cls.cluster.end)
        cls.cluster.start()

    def new_location(self):
        OnCeph.count += 1
        self.location = f"rados:{POOL}/test-{OnCeph.count}"

    def open_pool(self, daemon, *options):
        return daemon.call("pool", "open", "pool", self.location, "--conf",
                           self.cluster.configuration, *options)

    def create_pool_here(self, *options):
        self.new_location()
        return self.daemon.call("pool", "create", "pool", self.location, "--conf",
                                self.cluster.configuration, "--io-timeout", IO_TIMEOUT, *options)

    def rados(self, *arguments):
        name_space = self.location.rsplit("/", 1)[1]
        return self.cluster.rados("-p", POOL, "--namespace", name_space, *arguments).stdout

    def object_names(self):
        return sorted(self.rados("ls").split())

    def attribute(self, name, attribute):
        return self.rados("getxattr", name, attribute).strip()


class SharedPoolOnCeph(OnCeph, test_shared_pool.SharedPool):
    """What two hosts do with a pool in a directory, they do with one on Ceph."""

    osds = 3

    def create_pool(self):
        self.create_pool_here()

    def start_other(self, name):
        other = Daemon(self.directory, name=name)
        self.addCleanup(other.end)
        other.start()
        self.open_pool(other)
        return other

    def test_a_dead_owners_client_is_kept_from_the_cluster(self):
        self.attach_new()
        volume = "holdfast.volume." + self.daemon.volume()["id"]
        owner = self.attribute(volume, "owner")
        self.daemon.kill()
        self.other.run("attach", "pool/disk", "--wait", "1", timeout=60, status=0)
        self.qemu_io(self.other, "read -P 1 0 8M")
        self.assertNotEqual(self.attribute(volume, "owner"), owner)
        nonce = owner.rsplit("/", 1)[1].rstrip("]")
        programs.wait_until(lambda: nonce in self.cluster.ceph("osd", "blocklist", "ls").stdout, 20,
                            "the old owner to be on the blocklist")
        # Whoever ends well leaves nobody to keep away.
        self.other.call("detach", "pool/disk")
        self.assertEqual(self.attribute(volume, "owner"), "")

    def test_nothing_is_left_behind(self):
        self.attach_new()
        self.daemon.call("snapshot", "create", "pool/disk@s")
        self.daemon.call("clone", "pool/disk@s", "pool/clone")
        self.daemon.call("flatten", "pool/clone")
        programs.wait_until(lambda: self.daemon.volume("pool/clone")["parent"] is None, 30,
                            "the flattening")
        self.assertGreater(len(self.object_names()), 10)
        self.daemon.call("snapshot", "remove", "pool/disk@s")
        self.daemon.call("detach", "pool/disk")
        self.other.call("volume", "remove", "--now", "pool/disk")
        self.other.call("volume", "remove", "--now", "pool/clone")
        self.assertEqual(self.object_names(), ["holdfast.hosts", "holdfast.pool"])


class Cluster(OnCeph, HoldfastTest):
    def setUp(self):
        super().setUp()
        self.create_pool_here()

    def io(self, *commands, volume="pool/disk", timeout=60):
        words = [word for command in commands for word in ("-c", command)]
        done = programs.run("qemu-io", "-f", "raw", self.uri(volume), *words, status=0,
                            timeout=timeout)
        self.assertNotIn("failed", done.stdout)

    def uri(self, volume="pool/disk"):
        return self.daemon.volume(volume)["attachment"]["uri"]

    def start_writer(self, seed, seconds=None):
        """Writes what it can check itself."""
        command = ["fio", "--name=load", "--ioengine=nbd", f"--uri={self.uri()}",
                   "--rw=randwrite", "--bs=16k", "--iodepth=8", "--size=48M",
                   f"--randseed={seed}", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1"]
        if seconds is not None:
            command += ["--runtime", str(seconds), "--time_based"]
        with open(self.directory / "fio.out", "wb") as output:
            writer = programs.start(command, stdout=output, stderr=output, cwd=self.directory)
        self.addCleanup(programs.stop, writer)
        return writer

    def assert_writer_is_fine(self, writer, timeout=120):
        self.assertEqual(writer.wait(timeout), 0,
                         (self.directory / "fio.out").read_text())


class DataOnCeph(Cluster):
    def test_what_was_acknowledged_survives_sigkill(self):
        self.daemon.attach_new("pool/disk", "64M")
        self.io("write -P 1 0 48M", "flush")
        for turn in range(2, 7):
            self.io(f"write -P {turn} {turn}M 1M", f"write -P {turn + 100} {turn * 5}M 4k")
            self.daemon.kill_and_start()
            self.io(f"read -P {turn} {turn}M 1M", f"read -P {turn + 100} {turn * 5}M 4k",
                    "read -P 1 0 2M")

    def test_snapshots_clones_rollback_and_removal(self):
        self.daemon.attach_new("pool/disk", "64M")
        self.io("write -P 1 0 40M", "flush")
        self.daemon.call("snapshot", "create", "pool/disk@a")
        self.io("write -P 2 0 20M", "flush")
        self.daemon.call("clone", "pool/disk@a", "pool/clone")
        self.daemon.call("attach", "pool/clone")
        self.io("read -P 1 0 40M", "write -P 3 0 1M", volume="pool/clone")
        self.io("read -P 2 0 20M", "read -P 1 20M 20M")
        self.daemon.restart()
        self.io("read -P 3 0 1M", "read -P 1 1M 39M", volume="pool/clone")
        self.daemon.call("flatten", "pool/clone")
        programs.wait_until(lambda: self.daemon.volume("pool/clone")["parent"] is None, 60,
                            "the flattening")
        self.daemon.call("detach", "pool/disk")
        self.daemon.call("snapshot", "rollback", "pool/disk@a")
        self.daemon.call("attach", "pool/disk")
        self.io("read -P 1 0 40M")
        self.daemon.call("snapshot", "remove", "pool/disk@a")
        self.daemon.call("detach", "pool/disk")
        self.daemon.call("volume", "remove", "pool/disk")
        self.io("read -P 3 0 1M", "read -P 1 1M 39M", volume="pool/clone")
        trash = self.daemon.call("trash", "list")
        self.assertEqual([item["name"] for item in trash["trash"]], ["disk"])
        self.daemon.call("trash", "restore", "pool/disk", "pool/back")
        self.daemon.call("attach", "pool/back")
        self.io("read -P 1 0 40M", volume="pool/back")

    def test_nothing_of_rbd_is_touched_in_the_same_pool(self):
        self.cluster.rbd("create", "--size", "8M", f"{POOL}/image")
        self.cluster.write("image", b"rbd's own" * 100, 4096, self.directory)
        before = self.cluster.rados("-p", POOL, "ls").stdout
        self.daemon.call("pool", "create", "beside", f"rados:{POOL}", "--conf",
                         self.cluster.configuration)
        self.daemon.attach_new("beside/disk", "64M")
        self.io("write -P 1 0 40M", "flush", volume="beside/disk")
        names = self.cluster.rados("-p", POOL, "ls").stdout.split()
        self.assertTrue(all(name.startswith("holdfast.") or name in before.split()
                            for name in names), names)
        self.daemon.call("detach", "beside/disk")
        self.daemon.call("volume", "remove", "--now", "beside/disk")
        left = [name for name in self.cluster.rados("-p", POOL, "ls").stdout.split()
                if name not in before.split()]
        self.assertEqual(sorted(left), ["holdfast.hosts", "holdfast.pool"])
        self.cluster.rbd("export", "--no-progress", f"{POOL}/image", self.directory / "image")
        self.assertEqual((self.directory / "image").read_bytes()[4096:4096 + 900],
                         b"rbd's own" * 100)

    def test_an_osd_that_stands_still_or_restarts_holds_writes_and_fails_none(self):
        self.daemon.attach_new("pool/disk", "64M")
        writer = self.start_writer(1, seconds=12)
        time.sleep(2)
        osd = self.cluster.osds[0]
        os.kill(osd.pid, signal.SIGSTOP)
        self.addCleanup(lambda: osd.poll() is None and os.kill(osd.pid, signal.SIGCONT))
        programs.wait_until(lambda: self.daemon.volume()["hold"] is not None, 30, "the hold")
        self.assertIsNone(writer.poll())
        os.kill(osd.pid, signal.SIGCONT)
        programs.wait_until(lambda: self.daemon.volume()["hold"] is None, 30, "it to go on")
        time.sleep(1)
        self.cluster.stop_osd()
        programs.wait_until(lambda: self.daemon.volume()["hold"] is not None, 30, "the hold")
        self.cluster.start_osd()
        self.assert_writer_is_fine(writer)
        programs.wait_until(lambda: self.daemon.volume()["hold"] is None, 30, "it to go on")

    def test_monitors_that_stand_still_do_not_stop_io(self):
        self.daemon.attach_new("pool/disk", "64M")
        self.io("write -P 1 0 8M", "flush")
        monitor = self.cluster.monitor
        os.kill(monitor.pid, signal.SIGSTOP)
        try:
            self.io("write -P 2 0 40M", "flush", "read -P 2 0 40M")
            self.daemon.call("snapshot", "create", "pool/disk@s")
        finally:
            os.kill(monitor.pid, signal.SIGCONT)
        self.io("read -P 2 0 40M")

    def test_a_used_up_quota_holds_writes_until_it_is_raised(self):
        self.daemon.call("pool", "close", "pool")
        self.cluster.create_pool("small")
        self.location = "rados:small"
        self.daemon.call("pool", "create", "pool", self.location, "--conf",
                         self.cluster.configuration, "--io-timeout", IO_TIMEOUT, "--segment-size",
                         "4M")
        self.cluster.ceph("osd", "pool", "set-quota", "small", "max_bytes", 64 * MIB)
        programs.wait_until(
            lambda: self.daemon.call("pool", "show", "pool")["capacity_bytes"] <= 64 * MIB,
            30, "the quota to be seen")
        self.daemon.attach_new("pool/disk", "1G")
        writer = programs.start(["qemu-io", "-f", "raw", self.uri(), "-c", "write -P 7 0 100M",
                                 "-c", "write -P 7 100M 100M", "-c", "flush"])
        self.addCleanup(programs.stop, writer)
        programs.wait_until(lambda: self.daemon.volume()["hold"] is not None, 60, "the hold")
        self.assertEqual(self.daemon.volume()["hold"]["reason"], "pool full")
        epoch = self.daemon.call("lease", "show", "pool/disk")["epoch"]
        time.sleep(8 * IO_TIMEOUT + 2)  # leases are renewed all the same
        self.assertEqual(self.daemon.call("lease", "show", "pool/disk")["epoch"], epoch)
        self.assertIsNone(writer.poll())
        self.cluster.ceph("osd", "pool", "set-quota", "small", "max_bytes", 0)
        self.assertEqual(writer.wait(90), 0)
        self.io("read -P 7 0 100M", "read -P 7 100M 100M")

    def test_a_client_on_the_blocklist_connects_anew_and_goes_on(self):
        self.daemon.attach_new("pool/disk", "64M")
        writer = self.start_writer(2, seconds=10)
        time.sleep(2)
        owner = self.attribute("holdfast.volume." + self.daemon.volume()["id"], "owner")
        self.assertTrue(owner)
        self.cluster.ceph("osd", "blocklist", "add", owner)
        self.assert_writer_is_fine(writer)
        self.assertIn("blocklist", self.daemon.log_path.read_text())
        self.assertIsNone(self.daemon.volume()["hold"])


class KeysOnCeph(OnCeph, HoldfastTest):
    """Clients that have to prove who they are, and may not do everything."""

    with_keys = True

    def key_of(self, name, *capabilities):
        path = self.directory / f"{name}.keyring"
        self.cluster.ceph("auth", "get-or-create", f"client.{name}", *capabilities, "-o", path)
        return path

    def create(self, name, keyring):
        return self.daemon.run("pool", "create", "pool", self.location, "--conf",
                               self.cluster.configuration, "--id", name, "--keyring", keyring)

    def test_a_key_with_the_capabilities_that_are_told_is_enough(self):
        self.new_location()
        name_space = self.location.rsplit("/", 1)[1]
        keyring = self.key_of("enough", "mon", "profile rbd", "osd",
                              f"allow rwx pool={POOL} namespace={name_space}")
        done = self.create("enough", keyring)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.daemon.attach_new("pool/disk", "64M")
        uri = self.daemon.volume()["attachment"]["uri"]
        programs.run("qemu-io", "-f", "raw", uri, "-c", "write -P 1 0 40M", "-c", "flush", status=0)
        self.daemon.restart()
        programs.run("qemu-io", "-f", "raw", uri, "-c", "read -P 1 0 40M", status=0)

    def test_what_a_key_lacks_is_told_with_the_line_that_helps(self):
        self.new_location()
        reader = self.key_of("reader", "mon", "allow r", "osd", f"allow r pool={POOL}")
        stranger = self.key_of("stranger", "mon", "allow r")
        for name, keyring in (("reader", reader), ("stranger", stranger)):
            done = self.create(name, keyring)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn(f"ceph auth caps client.{name} mon 'profile rbd' osd 'allow rwx "
                          f"pool={POOL} namespace=", done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)
        admin = self.daemon.call("pool", "create", "pool", self.location, "--conf",
                                 self.cluster.configuration)
        self.assertTrue(admin)
        self.daemon.call("pool", "close", "pool")
        done = self.daemon.run("pool", "open", "pool", self.location, "--conf",
                               self.cluster.configuration, "--id", "reader", "--keyring", reader)
        self.assertEqual(done.returncode, 1)
        self.assertIn("ceph auth caps client.reader", done.stderr)

    def test_a_wrong_or_missing_key_is_told(self):
        self.new_location()
        wrong = self.directory / "wrong.keyring"
        programs.run("ceph-authtool", "--create-keyring", wrong, "--gen-key", "-n", "client.admin")
        done = self.create("admin", wrong)
        self.assertEqual(done.returncode, 1)
        self.assertIn("key", done.stderr)
        done = self.create("nobody", wrong)
        self.assertEqual(done.returncode, 1)
        self.assertIn("client.nobody", done.stderr)
        self.assertIn("--keyring", done.stderr)


if __name__ == "__main__":
    unittest.main()
