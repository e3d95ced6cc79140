# SPDX-License-Identifier: Apache-2.0
"""The real sanlock understands what Holdfast writes to its leases, and the other way round.

Each host is a sanlock daemon of the test's own (support/sanlock.py). An I/O timeout of one second
makes them quick; that a host is dead takes sanlock 8 of these, and the minute that it gives a
watchdog."""

import json
import os
import shutil
import tempfile
import time
import unittest
from pathlib import Path

from support import programs, sanlock
from support.daemon import HoldfastTest, test_root
from support.lease_contender import LeaseContender, make_pool

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


@unittest.skipUnless(os.environ.get("HOLDFAST_SANLOCK_PEERS"),
                     "leases of a second: `make soak` runs it, on a machine that is not busy")
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


@unittest.skipUnless(os.environ.get("HOLDFAST_SANLOCK_PEERS"),
                     "leases of a second: `make soak` runs it, on a machine that is not busy")
class SideBySide(SanlockTest):
    """Our keeper of leases and sanlock use one pool."""

    watchdog = 0

    def setUp(self):
        super().setUp()
        self.pool = self.directory / "pool"
        self.pool_id, (self.volume,) = make_pool(self.pool, watchdog=self.watchdog)
        self.hosts = self.pool / "hosts"
        self.lease = self.pool / "volumes" / self.volume / "lease"

    def start_ours(self, name="host-h"):
        ours = LeaseContender(self.pool, name)
        self.addCleanup(ours.end)
        return ours

    def join_both(self):
        """Side by side, since each of them waits to see whether it is alone."""
        ours = self.start_ours()
        theirs = self.start("host-s")
        theirs.add_lockspace(self.pool_id, 7, self.hosts)
        return ours.joined(), theirs

    def hold(self, host, mode=""):
        held = host.hold(self.pool_id, self.volume, self.lease, mode)
        if held is not None:
            self.addCleanup(held.kill)
        return held

    def hold_soon(self, host, timeout_seconds):
        return programs.wait_until(lambda: self.hold(host), timeout_seconds,
                                   "sanlock to take the lease", step_seconds=0.1)

    def lver(self):
        return show("volume", self.lease)["leader"]["lver"]

    def test_what_sanlock_holds_is_refused_to_us_with_its_name_until_it_lets_go(self):
        ours, theirs = self.join_both()
        held = self.hold(theirs)
        lver = self.lver()
        self.assertEqual(ours.ask("acquire", self.volume), "refused held host-s live")
        self.assertEqual(ours.ask("wait", self.volume), "waits for host-s live")
        held.release()
        self.assertEqual(ours.next_line(), f"held {lver + 1}")
        self.assertIsNone(self.hold(theirs))
        row, = sanlock.dump(self.lease)
        self.assertEqual((row["lockspace"], row["resource"]), (self.pool_id, self.volume))
        self.assertEqual((int(row["own"]), int(row["lver"])), (ours.host_id, lver + 1))
        names = {int(row["own"]): row["resource"] for row in sanlock.dump(self.hosts)}
        self.assertEqual(names, {ours.host_id: "host-h", 7: "host-s"})

    def test_what_we_hold_is_refused_to_sanlock_until_we_let_go(self):
        ours, theirs = self.join_both()
        first = ours.ask("acquire", self.volume)
        lver = self.lver()
        self.assertEqual(first, f"held {lver}")
        self.assertIsNone(self.hold(theirs))
        self.assertEqual(ours.ask("release", self.volume), "released")
        held = self.hold(theirs)
        self.assertIsNotNone(held)
        self.assertEqual(self.lver(), lver + 1)
        held.release()
        # And what we still hold when we leave.
        self.assertGreater(ours.wait_until_held(self.volume), lver + 1)
        ours.leave()
        self.assertIsNotNone(self.hold(theirs))
        self.assertEqual(self.lver(), lver + 3)

    def test_we_take_over_from_a_sanlock_that_died_and_not_before(self):
        ours, theirs = self.join_both()
        held = self.hold(theirs)
        lver = self.lver()
        self.assertEqual(ours.ask("wait", self.volume), "waits for host-s live")
        theirs.kill()
        held.kill()
        renewed = show("hosts", self.hosts)["7"]["timestamp"]
        began = time.monotonic()
        self.assertEqual(ours.next_line(), f"held {lver + 1}")
        # 8 I/O timeouts after the last renewal, which was at most 2 before it died.
        self.assertGreater(time.monotonic() - began, 8 - 2 - 0.5)
        self.assertEqual(show("hosts", self.hosts)["7"]["timestamp"], renewed)
        self.assertEqual(ours.ask("release", self.volume), "released")

    def test_a_sanlock_takes_over_from_our_host_in_its_next_life(self):
        ours, theirs = self.join_both()
        self.assertEqual(ours.ask("acquire", self.volume).split()[0], "held")
        lver = self.lver()
        ours.kill()
        began = time.monotonic()
        again = self.start_ours().joined()
        self.assertEqual((again.host_id, again.generation), (ours.host_id, ours.generation + 1))
        self.assertIsNotNone(self.hold(theirs))
        # Not by waiting until our host is dead, which takes it a minute more.
        self.assertLess(time.monotonic() - began, 60)
        self.assertEqual(self.lver(), lver + 1)
        self.assertEqual(again.ask("acquire", self.volume), "refused held host-s live")

    def test_a_sanlock_takes_over_from_our_host_that_died_and_not_before(self):
        ours, theirs = self.join_both()
        self.assertEqual(ours.ask("acquire", self.volume).split()[0], "held")
        lver = self.lver()
        ours.kill()
        began = time.monotonic()
        self.hold_soon(theirs, 120)
        # As above, and the minute in which a watchdog would have reset us.
        self.assertGreater(time.monotonic() - began, 60 + 8 - 2 - 0.5)
        self.assertEqual(self.lver(), lver + 1)
        self.assertEqual(self.start_ours().joined().ask("acquire", self.volume),
                         "refused held host-s live")

    def test_what_sanlocks_share_is_refused_to_us_until_they_let_go(self):
        ours, theirs = self.join_both()
        held = self.hold(theirs, ":SH")
        self.assertIsNotNone(held)
        self.assertEqual(ours.ask("acquire", self.volume), "refused held host-s live")
        held.release()
        ours.wait_until_held(self.volume)
        self.assertIsNone(self.hold(theirs, ":SH"))

    def take_turns(self, action, rounds):
        """Ours counts, the other one does `action`. Returns how often we were the owner."""
        ours, theirs = self.join_both()
        counter = self.directory / "counter"
        counter.write_text("0\n")
        before = self.lver()
        process = theirs.take_turns(action, self.pool_id, self.volume, self.lease, counter, rounds)
        self.addCleanup(programs.stop, process)
        ours.tell("count", self.volume, counter, rounds)
        said = process.communicate(timeout=250)[0]
        self.assertIn(f"done {rounds}", said)
        self.assertRegex(ours.next_line(), f"^counted {rounds} refused [1-9]")  # they did meet
        self.assertGreaterEqual(self.lver(), before + 2 * rounds)  # a ballot each
        self.assert_again_equal("volume", self.lease)
        return int(counter.read_text())

    def test_in_400_turns_of_both_no_two_have_it_at_a_time(self):
        self.assertEqual(self.take_turns("count", 200), 400)

    def test_in_200_turns_nobody_has_it_while_sanlocks_share_it(self):
        self.assertEqual(self.take_turns("share", 100), 100)


@unittest.skipUnless(os.environ.get("HOLDFAST_SANLOCK_PEERS"),
                     "leases of a second: `make soak` runs it, on a machine that is not busy")
class WithDaemon(HoldfastTest):
    """A holdfastd serves volumes of a pool that a sanlock uses as well."""

    def setUp(self):
        super().setUp()
        pool = self.directory / "pool"
        self.daemon.call("pool", "create", "pool", f"dir:{pool}", "--shared", "--io-timeout", 1)
        self.pool_id = self.daemon.call("pool", "show", "pool")["id"]
        self.daemon.call("volume", "create", "pool/disk", "--size", "64M")
        self.volume = self.daemon.volume()["id"]
        self.hosts = pool / "hosts"
        self.lease = pool / "volumes" / self.volume / "lease"
        self.theirs = sanlock.Sanlock(self.directory, "host-s")
        self.addCleanup(self.theirs.end)
        self.theirs.start().add_lockspace(self.pool_id, 7, self.hosts)

    def hold(self):
        held = self.theirs.hold(self.pool_id, self.volume, self.lease)
        if held is not None:
            self.addCleanup(held.kill)
        return held

    def qemu_io(self, uri, *commands):
        words = [word for command in commands for word in ("-c", command)]
        programs.run("qemu-io", "-f", "raw", "-t", "none", uri, *words)

    def test_a_volume_that_sanlock_holds_is_not_attached_and_one_that_is_attached_not_held(self):
        held = self.hold()
        self.assertIsNotNone(held)
        self.assert_refused("lease-held", "attach", "pool/disk", "--wait", 0,
                            said=("host 'host-s'", "live"))
        lease = self.daemon.call("lease", "show", "pool/disk")
        self.assertEqual((lease["host"], lease["host_id"], lease["holder_state"]),
                         ("host-s", 7, "live"))
        held.release()
        uri = self.daemon.call("attach", "pool/disk", "--wait", 20)["uri"]
        self.qemu_io(uri, "write -P 5 0 1M", "flush")
        self.assertIsNone(self.hold())
        self.qemu_io(uri, "read -P 5 0 1M")
        # sanlock's own words for it.
        row, = sanlock.dump(self.lease)
        lease = self.daemon.call("lease", "show", "pool/disk")
        self.assertEqual((row["lockspace"], row["resource"]), (self.pool_id, self.volume))
        self.assertEqual((int(row["own"]), int(row["lver"])), (lease["host_id"], lease["epoch"]))
        names = {int(row["own"]): row["resource"] for row in sanlock.dump(self.hosts)}
        self.assertEqual(names, {lease["host_id"]: lease["host"], 7: "host-s"})
        self.daemon.call("detach", "pool/disk")
        held = self.hold()
        self.assertIsNotNone(held)
        held.release()
        uri = self.daemon.call("attach", "pool/disk", "--wait", 20)["uri"]
        self.qemu_io(uri, "read -P 5 0 1M", "read -P 0 1M 1M")

    def test_a_volume_of_a_sanlock_that_died_is_attached_once_that_is_certain(self):
        held = self.hold()
        before = self.daemon.call("lease", "show", "pool/disk")
        self.theirs.kill()
        held.kill()
        began = time.monotonic()
        self.daemon.call("attach", "pool/disk", "--wait", 30)
        self.assertGreater(time.monotonic() - began, 8 - 2 - 0.5)
        after = self.daemon.call("lease", "show", "pool/disk")
        self.assertEqual(after["epoch"], before["epoch"] + 1)
        self.assertNotEqual(after["host_id"], 7)

    def test_a_volume_that_sanlock_took_over_meanwhile_is_not_served_again_by_itself(self):
        uri = self.daemon.call("attach", "pool/disk")["uri"]
        self.qemu_io(uri, "write -P 6 0 1M", "flush")
        self.daemon.kill()
        held = programs.wait_until(self.hold, 120, "sanlock to take the volume over")
        self.daemon.start()
        show = programs.wait_until(
            lambda: self.daemon.volume()["attachment"]["lease"], 30, "the volume's lease")
        self.assertEqual(show["state"], "fenced")
        held.release()
        self.daemon.call("detach", "pool/disk")
        uri = self.daemon.call("attach", "pool/disk", "--wait", 20)["uri"]
        self.qemu_io(uri, "read -P 6 0 1M")


if __name__ == "__main__":
    unittest.main()
