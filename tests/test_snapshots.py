# SPDX-License-Identifier: Apache-2.0
"""Snapshots and clones, as a person and as a client see them, also while a daemon is killed."""

import hashlib
import threading
import unittest

from support import fio, nbd, programs
from support.daemon import MIB, HoldfastTest

BLOCK = 4096


class Writer(threading.Thread):
    """Writes 1, 2, 3, ... to one block of each of several exports, in their order, until stop()."""

    def __init__(self, exports):
        super().__init__(daemon=True)
        self.exports = exports
        self.stopping = threading.Event()
        self.count = 0
        self.error = None

    def run(self):
        try:
            clients = [nbd.Client(path) for path, _ in self.exports]
            for client, (_, name) in zip(clients, self.exports):
                client.connect(name)
            while not self.stopping.is_set():
                self.count += 1
                for client in clients:
                    client.write(0, self.count.to_bytes(8, "little").ljust(BLOCK, b"\0"))
            for client in clients:
                client.close()
        except Exception as error:  # told by stop()
            self.error = error

    def stop(self):
        self.stopping.set()
        self.join(30)
        if self.error is not None:
            raise self.error


class Snapshots(HoldfastTest):
    def setUp(self):
        super().setUp()
        self.daemon.create_pool(segment_size="4M")

    def digest_of(self, volume, keep=False):
        """SHA-256 of what a volume or snapshot shows over NBD."""
        uri = self.daemon.call("attach", volume)["uri"]
        path = self.directory / "copy.raw"
        path.unlink(missing_ok=True)
        programs.run("nbdcopy", uri, path)
        if not keep:
            self.daemon.call("detach", volume)
        with open(path, "rb") as image:
            return hashlib.file_digest(image, "sha256").hexdigest()

    def fill(self, uri, seed, size="32M", pattern="randwrite"):
        fio.run_jobs(uri, [{"rw": pattern, "bs": "4k", "iodepth": 16, "size": size,
                            "randseed": seed, "refill_buffers": 1}], self.directory)

    def first_number(self, volume):
        uri_path = self.daemon.call("attach", volume)["socket"]
        with nbd.Client(uri_path) as client:
            client.connect(volume.split("/")[1])
            number = int.from_bytes(client.read(0, 8), "little")
        self.daemon.call("detach", volume)
        return number

    def test_a_snapshot_stays_as_it_was_through_writes_kills_and_removals_of_others(self):
        uri = self.daemon.attach_new("pool/disk", "64M")
        digests = {}
        for seed, name in enumerate(("one", "two", "three")):
            self.fill(uri, seed)
            self.daemon.call("snapshot", "create", f"pool/disk@{name}")
            digests[name] = self.digest_of(f"pool/disk@{name}")
        self.assertEqual(len(set(digests.values())), 3)
        self.daemon.kill_and_start()
        self.fill(uri, 9)
        self.daemon.call("snapshot", "remove", "pool/disk@two")
        self.daemon.kill_and_start()
        self.fill(uri, 10)
        listed = self.daemon.call("snapshot", "list", "pool/disk")["snapshots"]
        self.assertEqual([entry["name"] for entry in listed], ["one", "three"])
        for name in ("one", "three"):
            self.assertEqual(self.digest_of(f"pool/disk@{name}"), digests[name], name)

    def test_rollback_and_what_it_refuses(self):
        uri = self.daemon.attach_new("pool/disk", "64M")
        self.fill(uri, 1)
        self.daemon.call("snapshot", "create", "pool/disk@good")
        good = self.digest_of("pool/disk@good")
        self.fill(uri, 2)
        self.assert_refused("busy", "snapshot", "rollback", "pool/disk@good",
                            said=["attached", "holdfast detach pool/disk"])
        self.daemon.call("detach", "pool/disk")
        self.assert_refused("not-found", "snapshot", "rollback", "pool/disk@god",
                            said=["pool/disk@god", "snapshot list"])
        self.daemon.call("snapshot", "rollback", "pool/disk@good")
        self.assertEqual(self.digest_of("pool/disk"), good)
        self.daemon.kill_and_start()
        self.assertEqual(self.digest_of("pool/disk"), good)

    def test_a_clone_is_a_volume_of_its_own_and_protects_its_snapshot(self):
        uri = self.daemon.attach_new("pool/base", "64M")
        self.fill(uri, 1)
        self.daemon.call("snapshot", "create", "pool/base@gold")
        gold = self.digest_of("pool/base@gold")
        self.daemon.call("clone", "pool/base@gold", "pool/vm1")
        self.daemon.call("clone", "pool/base@gold", "pool/vm2")
        self.assertEqual(self.digest_of("pool/vm1"), gold)
        self.fill(self.daemon.call("attach", "pool/vm1")["uri"], 5)
        self.fill(uri, 6)
        self.daemon.kill_and_start()
        self.assertEqual(self.digest_of("pool/vm2"), gold)
        self.assertNotEqual(self.digest_of("pool/vm1"), gold)
        self.assert_refused("busy", "snapshot", "remove", "pool/base@gold", said=["clone", "vm1"])
        self.assert_refused("busy", "volume", "remove", "pool/base",
                            said=["attached"])
        self.daemon.call("detach", "pool/base")
        self.assert_refused("busy", "volume", "remove", "pool/base", said=["snapshot", "gold"])
        for name in ("vm1", "vm2"):
            self.daemon.call("volume", "remove", "--now", f"pool/{name}")
        self.daemon.call("snapshot", "remove", "pool/base@gold")
        self.daemon.call("volume", "remove", "--now", "pool/base")
        self.assertEqual(list((self.directory / "pool" / "volumes").iterdir()), [])

    def test_an_attached_snapshot_is_read_only_stays_over_restarts_and_is_not_removed(self):
        uri = self.daemon.attach_new("pool/disk", "64M")
        self.fill(uri, 1)
        self.daemon.call("snapshot", "create", "pool/disk@s")
        before = self.digest_of("pool/disk@s", keep=True)
        self.assert_refused("busy", "snapshot", "remove", "pool/disk@s",
                            said=["holdfast detach pool/disk@s"])
        self.daemon.call("detach", "pool/disk")
        self.assert_refused("busy", "volume", "rename", "pool/disk", "other", said=["pool/disk@s"])
        self.daemon.restart()
        status = self.daemon.call("status")["volumes"]
        self.assertEqual([(volume["name"], volume["attachment"]["read_only"], volume["state"])
                          for volume in status], [("disk@s", True, "serving")])
        with nbd.Client(self.export_path("pool.disk@s")) as client:
            client.connect("disk@s")
            with self.assertRaises(Exception):
                client.write(0, b"x" * BLOCK)
        self.assertEqual(self.digest_of("pool/disk@s"), before)

    def test_a_group_is_of_one_moment(self):
        exports = []
        for name in ("a", "b", "c"):
            self.daemon.attach_new(f"pool/{name}", "16M")
            exports.append((self.export_path(f"pool.{name}"), name))
        writer = Writer(exports)
        writer.start()
        rounds = 20
        for number in range(rounds):
            self.daemon.call("snapshot", "create",
                             *(f"pool/{name}@g{number}" for name in ("a", "b", "c")))
        writer.stop()
        self.assertGreater(writer.count, rounds)
        seen = []
        for number in range(rounds):
            a, b, c = (self.first_number(f"pool/{name}@g{number}") for name in ("a", "b", "c"))
            # Each count is written to a, then b, then c: so many are there, in that order.
            self.assertTrue(a >= b >= c >= a - 1, (number, a, b, c))
            seen.append(a)
        self.assertEqual(seen, sorted(seen))

    def test_a_group_is_taken_whole_or_not_at_all(self):
        for name in ("a", "b"):
            self.daemon.call("volume", "create", f"pool/{name}", "--size", "16M")
        self.daemon.call("snapshot", "create", "pool/b@s")
        self.assert_refused("already-exists", "snapshot", "create", "pool/a@s", "pool/b@s",
                            said=["pool/b@s"])
        self.assertEqual(self.daemon.call("snapshot", "list", "pool/a")["snapshots"], [])
        self.assert_refused("not-found", "snapshot", "create", "pool/a@s", "pool/none@s")
        self.assertEqual(self.daemon.call("snapshot", "list", "pool/a")["snapshots"], [])
        self.assertEqual(self.daemon.run("snapshot", "create", "pool/a").returncode, 2)
        self.assertEqual(self.daemon.run("snapshot", "create", "pool/a@").returncode, 2)
        self.assert_refused("invalid-argument", "snapshot", "create", "pool/a@s s", said=["name"])

    def test_removing_snapshots_gives_their_space_back(self):
        uri = self.daemon.attach_new("pool/disk", "64M")
        for seed in range(4):
            self.fill(uri, seed, size="64M", pattern="write")
            self.daemon.call("snapshot", "create", f"pool/disk@s{seed}")
        full = self.daemon.volume()["allocated_bytes"]
        self.assertGreater(full, 4 * 64 * MIB)
        for seed in range(4):
            self.daemon.call("snapshot", "remove", f"pool/disk@s{seed}")
        programs.wait_until(
            lambda: self.daemon.volume()["allocated_bytes"] < 64 * MIB * 1.3 + 3 * 4 * MIB,
            60, "the space of the snapshots comes back")


if __name__ == "__main__":
    unittest.main()
