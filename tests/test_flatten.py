# SPDX-License-Identifier: Apache-2.0
"""Flattening clones, as a person and as a client see it: online, cancelled, killed, resumed."""

import hashlib
import json
import random
import signal
import subprocess
import threading
import time
import unittest

from support import fio, mounts, nbd, programs
from support.daemon import MIB, HoldfastTest
from support.fault_fs import FaultFs

BLOCK = 4096
BASE = "pool/base"
CLONE = "pool/vm"


class Guest(threading.Thread):
    """Writes versions to the first blocks of an export, flushes now and then, and checks what it
    reads, until stop(). Goes on with another connection when the daemon was killed."""

    BLOCKS = 64

    def __init__(self, path, name):
        super().__init__(daemon=True)
        self.path, self.name_of_export = path, name
        self.stopping = threading.Event()
        self.versions = [0] * self.BLOCKS  # acknowledged; a cut write may be there or not
        self.possible = [{0} for _ in range(self.BLOCKS)]
        self.count = 0
        self.error = None
        self.random = random.Random(1)

    def run(self):
        try:
            while not self.stopping.is_set():
                try:
                    self.work()
                except OSError:
                    time.sleep(0.05)
        except Exception as error:  # told by stop()
            self.error = error

    def work(self):
        with nbd.Client(self.path) as client:
            client.connect(self.name_of_export)
            while not self.stopping.is_set():
                block = self.random.randrange(self.BLOCKS)
                if self.versions[block] != 0 and self.random.random() < 0.5:
                    found = int.from_bytes(client.read(block * BLOCK, 8), "little")
                    if found not in self.possible[block]:
                        raise AssertionError(f"block {block} is {found}, not one of "
                                             f"{self.possible[block]}")
                    continue
                self.count += 1
                self.possible[block].add(self.count)
                client.write(block * BLOCK, self.count.to_bytes(8, "little").ljust(BLOCK, b"\0"))
                self.versions[block] = self.count
                self.possible[block] = {self.count}

    def stop(self):
        self.stopping.set()
        self.join(60)
        if self.error is not None:
            raise self.error


class FlattenTest(HoldfastTest):
    def make_clone(self, size="64M", data="48M"):
        """A base with a snapshot, what differs after it, and a clone that has a snapshot too."""
        uri = self.daemon.attach_new(BASE, size)
        self.fill(uri, 1, data)
        self.daemon.call("snapshot", "create", f"{BASE}@gold")
        self.daemon.call("clone", f"{BASE}@gold", CLONE)
        self.fill(uri, 2, data)
        self.daemon.call("attach", CLONE)
        self.daemon.call("snapshot", "create", f"{CLONE}@before")
        return self.digest_of(f"{CLONE}@before")

    def fill(self, uri, seed, size):
        fio.run_jobs(uri, [{"rw": "randwrite", "bs": "16k", "iodepth": 16, "size": size,
                            "randseed": seed, "refill_buffers": 1}], self.directory)

    def digest_of(self, volume):
        uri = self.daemon.call("attach", volume)["uri"]
        path = self.directory / "copy.raw"
        path.unlink(missing_ok=True)
        programs.run("nbdcopy", uri, path)
        self.daemon.call("detach", volume)
        with open(path, "rb") as image:
            return hashlib.file_digest(image, "sha256").hexdigest()

    def remove_base(self):
        self.daemon.call("snapshot", "remove", f"{BASE}@gold")
        self.daemon.call("detach", BASE)
        self.daemon.call("volume", "remove", BASE, "--now")

    def start_flatten(self):
        return programs.start(
            [programs.binary_directory() / "holdfast", "--runtime-dir", self.daemon.runtime,
             "--json", "flatten", CLONE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def guest(self):
        return Guest(self.daemon.runtime / "pool.vm.nbd.sock", "vm")


class Flatten(FlattenTest):
    def setUp(self):
        super().setUp()
        self.daemon.create_pool(segment_size="1M")

    def test_online_under_load_and_then_the_parent_goes(self):
        before = self.make_clone()
        self.assert_refused("busy", "snapshot", "remove", f"{BASE}@gold",
                            said=["clone", f"holdfast flatten {CLONE}"])
        guest = self.guest()
        guest.start()
        programs.wait_until(lambda: guest.count > 100, 30, "the guest to write")
        answer = self.daemon.call("flatten", CLONE)
        self.assertEqual(answer["state"], "done")
        self.assertGreater(answer["segments_done"], 20)
        self.assertEqual(answer["segments_done"], answer["segments_total"])
        self.assertEqual(answer["bytes_done"], answer["bytes_total"])
        self.remove_base()
        self.assertEqual(self.digest_of(f"{CLONE}@before"), before)
        guest.stop()
        self.daemon.kill_and_start()
        names = [volume["name"] for volume in self.daemon.call("volume", "list")["volumes"]]
        self.assertEqual(names, ["vm"])
        self.assertEqual(self.digest_of(f"{CLONE}@before"), before)
        with nbd.Client(self.daemon.runtime / "pool.vm.nbd.sock") as client:
            client.connect("vm")
            for block, version in enumerate(guest.versions):
                if version != 0:
                    found = int.from_bytes(client.read(block * BLOCK, 8), "little")
                    self.assertEqual(found, version)
        again = self.daemon.call("flatten", CLONE)
        self.assertEqual((again["state"], again["segments_done"]), ("done", 0))
        said = self.daemon.run("flatten", CLONE).stdout
        self.assertIn("reads from no other volume", said)
        # Back to what the parent gave it.
        self.daemon.call("detach", CLONE)
        self.daemon.call("snapshot", "rollback", f"{CLONE}@before")
        self.assertEqual(self.digest_of(CLONE), before)

    def test_detached_and_what_it_refuses(self):
        self.make_clone()
        self.daemon.call("detach", CLONE)
        self.assert_refused("not-found", "flatten", "pool/none", said=["pool/none"])
        self.assert_refused("not-found", "flatten", CLONE, "--cancel", said=["not being flattened"])
        self.assertEqual(self.daemon.run("flatten", "pool", status=2).returncode, 2)
        self.assertEqual(self.daemon.call("flatten", CLONE)["state"], "done")
        self.assertEqual(self.daemon.call("flatten", BASE)["segments_done"], 0, "it is no clone")
        self.remove_base()

    def test_a_grandchild_that_is_attached_loses_its_grandparent(self):
        self.make_clone()
        self.fill(self.daemon.volume(CLONE)["attachment"]["uri"], 5, "8M")
        self.daemon.call("snapshot", "create", f"{CLONE}@now")
        self.daemon.call("clone", f"{CLONE}@now", "pool/grandchild")
        self.daemon.call("attach", "pool/grandchild")
        self.daemon.call("snapshot", "create", "pool/grandchild@start")
        content = self.digest_of("pool/grandchild@start")
        self.daemon.call("flatten", CLONE)
        self.remove_base()
        self.assertEqual(self.digest_of("pool/grandchild@start"), content)
        self.daemon.kill_and_start()
        self.assertEqual(self.digest_of("pool/grandchild@start"), content)

    def test_a_daemon_that_is_killed_meanwhile(self):
        before = self.make_clone()
        self.daemon.call("volume", "convert", CLONE, "--thick")  # it copies, and that takes a while
        guest = self.guest()
        guest.start()
        moments = random.Random(7)
        for _ in range(6):
            waiting = self.start_flatten()
            time.sleep(moments.uniform(0, 0.4))
            self.daemon.kill()
            said = waiting.communicate(timeout=30)[0]
            if waiting.returncode != 0:
                self.assertEqual(json.loads(said)["error"]["code"], "daemon-unreachable")
            self.daemon.start()
        self.assertEqual(self.daemon.call("flatten", CLONE)["state"], "done")
        self.remove_base()
        guest.stop()
        self.assertEqual(self.digest_of(f"{CLONE}@before"), before)
        self.daemon.kill_and_start()
        self.assertEqual(self.digest_of(f"{CLONE}@before"), before)


@unittest.skipUnless(mounts.fuse_works(), "no FUSE on this machine")
class FlattenWithoutLinks(FlattenTest):
    """On a file system that has no hard links, and is slow."""

    def setUp(self):
        super().setUp()
        self.storage = FaultFs(self.directory)
        self.addCleanup(self.storage.end)
        self.addCleanup(self.daemon.end)
        self.addCleanup(self.storage.clear)
        self.daemon.create_pool(path=self.storage.path / "pool", segment_size="1M")

    def test_it_copies_shows_how_far_it_is_stops_and_goes_on(self):
        before = self.make_clone("32M", "24M")
        with self.storage.fault("slow=100", "rename"):
            waiting = self.start_flatten()

            def progress():
                shown = self.daemon.run("--json", "flatten", CLONE, "--cancel", status=None)
                return json.loads(shown.stdout) if shown.returncode == 0 else None
            time.sleep(1.5)
            cancelled = programs.wait_until(progress, 30, "it to be cancelled")
            self.assertEqual(cancelled["state"], "cancelled")
            self.assertGreater(cancelled["segments_done"], 0)
            self.assertLess(cancelled["segments_done"], cancelled["segments_total"])
            said, complaint = waiting.communicate(timeout=30)
            self.assertEqual(waiting.returncode, 1, said)
            self.assertIn("goes on with it", complaint)
            # The same by Ctrl-C.
            waiting = self.start_flatten()
            time.sleep(0.7)
            waiting.send_signal(signal.SIGINT)
            said = json.loads(waiting.communicate(timeout=30)[0])
            self.assertEqual((waiting.returncode, said["state"]), (1, "cancelled"))
            self.assertLess(said["segments_total"], cancelled["segments_total"])
        self.assert_refused("busy", "snapshot", "remove", f"{BASE}@gold", said=["clone"])
        self.assertEqual(self.daemon.call("flatten", CLONE)["state"], "done")
        self.remove_base()
        self.assertEqual(self.digest_of(f"{CLONE}@before"), before)

    def test_a_full_pool_stops_it_and_it_goes_on_when_there_is_space(self):
        before = self.make_clone("32M", "24M")
        self.storage.set_available(2 * MIB)
        done = self.start_flatten()
        said, complaint = done.communicate(timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(json.loads(said)["state"], "failed")
        self.assertIn("full", complaint)
        self.assertIn("goes on with it", complaint)
        self.storage.set_available(None)
        self.assertEqual(self.daemon.call("flatten", CLONE)["state"], "done")
        self.remove_base()
        self.assertEqual(self.digest_of(f"{CLONE}@before"), before)


if __name__ == "__main__":
    unittest.main()
