# SPDX-License-Identifier: Apache-2.0
"""The real sanlock understands what Holdfast writes to its leases, and the other way round.

Each host is a sanlock daemon of the test's own (support/sanlock.py). An I/O timeout of one second
makes them quick; that a host is dead takes sanlock 8 of these, and the minute that it gives a
watchdog."""

import json
import shutil
import tempfile
import unittest
from pathlib import Path

from support import programs, sanlock
from support.daemon import test_root

SPACE = "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f0"
VOLUME = "fedcba98-7654-4210-8123-456789abcdef"
GEOMETRIES = [(512, 1), (4096, 1), (4096, 2), (4096, 4), (4096, 8)]


def setUpModule():
    sanlock.require()


def lease_areas(*words):
    return programs.run(programs.binary_directory() / "lease_areas", *words).stdout


def show(kind, path):
    return json.loads(lease_areas("show", kind, path))


class SanlockTest(unittest.TestCase):
    def setUp(self):
        self.directory = Path(tempfile.mkdtemp(prefix="holdfast-sanlock-", dir=test_root()))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.hosts = self.directory / "hosts"
        self.lease = self.directory / "lease"

    def make_areas(self, io_timeout=1):
        lease_areas("make_hosts", self.hosts, 512, 1, SPACE, io_timeout)
        lease_areas("make_volume", self.lease, 512, 1, SPACE, VOLUME)

    def start(self, name):
        host = sanlock.Sanlock(self.directory, name)
        self.addCleanup(host.end)
        return host.start()

    def join(self, name, host_id):
        host = self.start(name)
        host.add_lockspace(SPACE, host_id, self.hosts)
        return host

    def hold(self, host, mode=""):
        held = host.hold(SPACE, VOLUME, self.lease, mode)
        if held is not None:
            self.addCleanup(held.kill)
        return held

    def assert_again_equal(self, kind, path):
        """What we decode says all that the bytes say."""
        again = self.directory / "again"
        lease_areas("again", kind, path, again)
        self.assertEqual(again.read_bytes(), path.read_bytes())

    def assert_leader_equal(self, ours, theirs):
        for key, value in ours.items():
            if key in theirs:
                self.assertEqual(value, theirs[key], key)
        compared = set(ours) & set(theirs)
        self.assertGreaterEqual(len(compared), 10, theirs)


class Areas(SanlockTest):
    def test_fresh_areas_are_byte_for_byte_those_of_sanlock(self):
        for sector, align in GEOMETRIES:
            with self.subTest(sector=sector, align_mib=align):
                theirs = self.directory / "theirs"
                geometry = ("-Z", sector, "-A", f"{align}M")
                for path in (self.hosts, self.lease, theirs):
                    path.unlink(missing_ok=True)
                theirs.write_bytes(bytes(align << 20))
                programs.run("sanlock", "direct", "init", "-s", f"{SPACE}:0:{theirs}:0", *geometry)
                lease_areas("make_hosts", self.hosts, sector, align, SPACE, 10)
                self.assertEqual(self.hosts.read_bytes(), theirs.read_bytes())
                theirs.write_bytes(bytes(align << 20))
                programs.run("sanlock", "direct", "init", "-r", f"{SPACE}:{VOLUME}:{theirs}:0",
                             *geometry)
                lease_areas("make_volume", self.lease, sector, align, SPACE, VOLUME)
                self.assertEqual(self.lease.read_bytes(), theirs.read_bytes())

    def test_sanlock_prints_what_we_made(self):
        self.make_areas()
        row, = sanlock.dump(self.lease)
        self.assertEqual((row["lockspace"], row["resource"]), (SPACE, VOLUME))
        leader = sanlock.read_leader("-r", f"{SPACE}:{VOLUME}:{self.lease}:0")
        self.assert_leader_equal(show("volume", self.lease)["leader"], leader)
        host = sanlock.read_leader("-s", f"{SPACE}:7:{self.hosts}:0")
        self.assertEqual((host["space_name"], host["io_timeout"]), (SPACE, 1))


class Daemons(SanlockTest):
    def test_a_sanlock_works_with_our_areas_and_we_read_what_it_wrote(self):
        self.make_areas()
        host = self.join("host-b", 2)
        held = self.hold(host)
        self.assertIsNotNone(held)
        self.assert_volume_held_by(2, lver=1)
        row, = sanlock.dump(self.hosts)
        self.assertEqual((row["resource"], int(row["own"])), ("host-b", 2))
        ours = show("hosts", self.hosts)
        self.assertEqual(list(ours), ["2"])
        self.assertEqual(ours["2"]["resource_name"], "host-b")
        self.assertEqual(ours["2"]["io_timeout"], 1)
        self.assert_again_equal("hosts", self.hosts)

        held.release()
        programs.wait_until(lambda: self.leader()["timestamp"] == 0, 20, "the lease to be free")
        freed = show("volume", self.lease)
        self.assertEqual(freed["leader"]["owner_id"], 2)
        self.assertEqual(freed["blocks"]["2"]["released"], 1)
        self.assert_again_equal("volume", self.lease)

        host.remove_lockspace(SPACE, 2, self.hosts)
        left = show("hosts", self.hosts)["2"]
        self.assertEqual((left["timestamp"], left["owner_generation"]), (0, 1))
        self.assert_again_equal("hosts", self.hosts)

    def test_a_lease_goes_from_host_to_host_and_we_read_each_ballot(self):
        self.make_areas()
        hosts = {1: self.join("host-a", 1), 2000: self.join("host-z", 2000)}
        for lver, host_id in enumerate((1, 2000, 1), start=1):
            held = self.hold(hosts[host_id])
            self.assertIsNotNone(held)
            other, = set(hosts) - {host_id}
            self.assertIsNone(self.hold(hosts[other]))
            self.assert_volume_held_by(host_id, lver)
            held.release()
            programs.wait_until(lambda: self.leader()["timestamp"] == 0, 20, "a free lease")
        self.assertEqual(set(show("volume", self.lease)["blocks"]), {"1", "2000"})

    def test_we_read_a_lease_that_is_shared(self):
        self.make_areas()
        host = self.join("host-a", 1)
        self.assertIsNotNone(self.hold(host, ":SH"))
        lease = show("volume", self.lease)
        self.assertEqual(lease["blocks"]["1"]["shared"], 1)
        self.assertEqual(lease["blocks"]["1"]["shared_generation"], 1)
        self.assertEqual(lease["blocks"]["1"]["released"], 1)
        self.assertEqual(lease["leader"]["timestamp"], 0)
        self.assert_again_equal("volume", self.lease)

    def test_we_read_what_a_sanlock_asks_the_holder_for(self):
        self.make_areas()
        holder = self.join("host-a", 1)
        self.assertIsNotNone(self.hold(holder))
        # To be asked to release, as a migration asks its source: lver is the one wanted next.
        asking = self.join("host-b", 2)
        asking.client("request", "-r", f"{SPACE}:{VOLUME}:{self.lease}:0:2", "-f", 2)
        self.assertEqual(show("volume", self.lease)["request"], {"lver": 2, "force_mode": 2})
        self.assert_again_equal("volume", self.lease)
        # From its next renewal on the asking host's lease names the one that shall look.
        programs.wait_until(lambda: show("hosts", self.hosts)["2"]["host_bits"] == [1], 20,
                            "the bit of the host that is asked", step_seconds=0.1)
        self.assert_again_equal("hosts", self.hosts)

    def leader(self):
        return show("volume", self.lease)["leader"]

    def assert_volume_held_by(self, host_id, lver):
        lease = show("volume", self.lease)
        leader = sanlock.read_leader("-r", f"{SPACE}:{VOLUME}:{self.lease}:0")
        self.assert_leader_equal(lease["leader"], leader)
        self.assertEqual((lease["leader"]["owner_id"], lease["leader"]["lver"]), (host_id, lver))
        self.assertNotEqual(lease["leader"]["timestamp"], 0)
        block = lease["blocks"][str(host_id)]
        self.assertEqual((block["inp"], block["inp2"], block["lver"]), (host_id, 1, lver))
        self.assertEqual(block["inp3"], lease["leader"]["timestamp"])
        self.assertEqual((block["mbal"], block["released"]), (block["bal"], 0))
        row, = sanlock.dump(self.lease)
        self.assertEqual((int(row["own"]), row["lver"]), (host_id, str(lver)))
        self.assert_again_equal("volume", self.lease)


if __name__ == "__main__":
    unittest.main()
