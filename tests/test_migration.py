# SPDX-License-Identifier: Apache-2.0
"""Live migration of guests that write all the time, from one QEMU to another, on one daemon: what
the frontends owe a migration, whoever owns the volume before and after it."""

import unittest

from support import guest, migration, mounts, programs
from support.daemon import MIB, Daemon
from support.guest_test import GuestTest, Load

LOAD_BYTES = 64 * MIB


class MigrationTest(GuestTest):
    volume = "pool/disk"

    def boot_with_load(self, disk, processors=1):
        source = migration.boot(self, "source", disk, processors)
        load = Load(source, "/dev/vda", LOAD_BYTES)
        load.wait_for_writes()
        return source, load

    def check(self, load, destination, more_writes=300):
        """The load goes on at the destination, and finds everything that it ever wrote."""
        load.guest = destination
        load.wait_for_writes(more_writes)
        done = load.finish()
        self.assertGreater(done["writes"], more_writes)
        self.assert_healthy(destination)
        self.assertEqual(self.daemon.volume(self.volume)["statistics"]["errors"], 0)
        return done


class Migration(MigrationTest):
    def test_a_guest_is_migrated_over_vhost_user_and_back(self):
        disk = guest.vhost_disk(self.serve())
        source, load = self.boot_with_load(disk, processors=2)
        destination = migration.incoming(self, "destination", disk, processors=2)
        report = migration.migrate(source, destination)
        self.assertGreater(report["transferred_bytes"], 0)
        source.end()
        load.guest = destination
        load.wait_for_writes()
        back = migration.incoming(self, "back", disk, processors=2)
        migration.migrate(destination, back)
        destination.end()
        self.check(load, back)

    def test_what_the_disk_read_into_memory_is_there_after_a_migration(self):
        disk = guest.vhost_disk(self.serve())
        self.daemon.call("volume", "create", "pool/other", "--size", "64M")
        other = self.daemon.call("attach", "pool/other", "--vhost")["socket"]
        disks = [*disk, *guest.vhost_disk(other, "other")]
        source, load = self.boot_with_load(disks)
        source.run("dd if=/dev/urandom of=/dev/vdb bs=1M count=64 conv=fsync", 120)
        expected = source.run("sha256sum </dev/vdb", 120)
        # Nobody but the disk writes to the memory that caches it, for as long as it is open.
        source.run("sleep 10000 </dev/vdb >/dev/null 2>&1 &")
        source.run("sync; echo 3 >/proc/sys/vm/drop_caches")
        migration.busy(source)
        destination = migration.incoming(self, "destination", disks)
        migration.begin(source, destination, **migration.ENDLESS)
        migration.wait_for_rounds(source, 2)
        source.run("cat /dev/vdb >/dev/null", 120)
        cached = int(source.run("awk '/^Buffers:/ {print $2}' /proc/meminfo"))
        self.assertGreater(cached, 60 * 1024, "the guest is to have the disk in memory")
        migration.limit(source)
        migration.wait_for_end(source, destination)
        reads = self.daemon.volume("pool/other")["statistics"]["reads"]
        self.assertEqual(destination.run("sha256sum </dev/vdb", 120), expected)
        self.assertEqual(self.daemon.volume("pool/other")["statistics"]["reads"], reads,
                         "nothing was read again")
        self.check(load, destination)

    def test_a_daemon_that_dies_during_a_migration_over_vhost_user_costs_nothing(self):
        disk = guest.vhost_disk(self.serve())
        source, load = self.boot_with_load(disk)
        migration.busy(source)
        # QEMU 7.2 gives up a back-end that dies while its guest does not run, so this destination
        # comes when that is over.
        stream = self.directory / "stream"
        migration.begin_into(source, f"exec:cat >{stream}", **migration.ENDLESS)
        migration.wait_for_rounds(source, 2)
        self.daemon.kill_and_start()
        load.wait_for_writes()
        migration.wait_for_rounds(source, 4)
        migration.limit(source)
        migration.wait_until_sent(source)
        destination = migration.incoming(self, "destination", disk)
        destination.qmp.execute("migrate-incoming", uri=f"exec:cat {stream}")
        migration.wait_for_end(source, destination)
        self.check(load, destination)

    def test_a_migration_that_is_cancelled_leaves_the_guest_where_it_was(self):
        disk = guest.vhost_disk(self.serve())
        source, load = self.boot_with_load(disk)
        migration.busy(source)
        destination = migration.incoming(self, "destination", disk)
        migration.begin(source, destination, **migration.ENDLESS)
        migration.wait_for_rounds(source, 2)
        source.qmp.execute("migrate_cancel")
        destination.end()
        load.wait_for_writes()
        again = migration.incoming(self, "again", disk)
        migration.migrate(source, again)
        self.check(load, again)

    def test_a_guest_is_migrated_over_nbd(self):
        self.daemon.call("volume", "create", "pool/disk", "--size", "256M")
        socket = self.daemon.call("attach", "pool/disk", "--nbd")["socket"]
        disk = guest.nbd_disk(socket, "disk")
        source, load = self.boot_with_load(disk)
        destination = migration.incoming(self, "destination", disk)
        migration.migrate(source, destination)
        self.check(load, destination)


class MigrationBetweenHosts(MigrationTest):
    """Two daemons, two hosts, one shared pool: the volume moves with the machine."""

    def make_pool(self):
        path = self.directory / "store"
        self.daemon.create_pool(path=path, shared=True)
        self.other = Daemon(self.directory, name="other")
        self.addCleanup(self.other.end)
        self.other.start()
        self.other.call("pool", "open", "pool", f"dir:{path}")

    def tearDown(self):
        result = self._outcome.result
        if len(result.failures) + len(result.errors) > self._failures_before:
            print(self.other.log_tail(), flush=True)
        super().tearDown()

    def owner(self, daemon):
        return daemon.volume()["attachment"]["lease"]["state"]

    def migrate_there_and_back(self, protocol, disk):
        self.daemon.call("volume", "create", "pool/disk", "--size", "256M")
        first = disk(self.daemon.call("attach", "pool/disk", protocol)["socket"])
        second = disk(self.other.call("attach", "pool/disk", protocol, "--incoming")["socket"])
        source, load = self.boot_with_load(first)
        destination = migration.incoming(self, "destination", second)
        self.assertEqual(self.owner(self.daemon), "held", "nobody has asked for it yet")
        migration.migrate(source, destination)
        load.guest = destination
        load.wait_for_writes()
        self.assertEqual(self.owner(self.other), "held")
        self.assertEqual(self.owner(self.daemon), "handed-over")
        source.end()
        self.daemon.call("detach", "pool/disk")
        # And back, which needs nobody to have remembered anything.
        self.daemon.call("attach", "pool/disk", protocol, "--incoming")
        back = migration.incoming(self, "back", first)
        migration.migrate(destination, back)
        done = self.check(load, back)
        destination.end()
        print(f"over {protocol}: {done}", flush=True)
        self.assertEqual(self.owner(self.daemon), "held")

    def test_a_guest_takes_its_volume_along_over_vhost_user(self):
        self.migrate_there_and_back("--vhost", guest.vhost_disk)

    def test_a_guest_takes_its_volume_along_over_nbd(self):
        # Without a geometry QEMU guesses one, by a read when it starts: that would ask for the
        # volume while the machine still runs elsewhere, and QEMU would wait for the answer.
        self.migrate_there_and_back("--nbd", lambda socket: [
            *guest.nbd_disk(socket, "disk")[:-1],
            guest.nbd_disk(socket, "disk")[-1] + ",cyls=520,heads=16,secs=63"])

    def test_a_migration_that_is_given_up_leaves_the_volume_where_it_was(self):
        disk = guest.vhost_disk(self.serve())
        there = guest.vhost_disk(
            self.other.call("attach", "pool/disk", "--vhost", "--incoming")["socket"])
        source, load = self.boot_with_load(disk)
        migration.busy(source)
        destination = migration.incoming(self, "destination", there)
        migration.begin(source, destination, **migration.ENDLESS)
        migration.wait_for_rounds(source, 2)
        source.qmp.execute("migrate_cancel")
        destination.end()
        load.wait_for_writes()
        self.assertEqual(self.owner(self.daemon), "held")
        self.other.call("detach", "pool/disk")
        self.check(load, source)

    def test_what_was_handed_over_and_not_taken_comes_back_with_the_next_request(self):
        disk = guest.vhost_disk(self.serve())
        source, load = self.boot_with_load(disk)
        for _ in range(3):
            answer = self.daemon.call("handover", "pool/disk")
            self.assertEqual(answer["volume"], "disk")
            programs.wait_until(lambda: self.owner(self.daemon) == "held", 30, "it to come back")
            load.wait_for_writes()
        self.check(load, source)


@unittest.skipUnless(mounts.loop_devices_work(), "no loop devices on this machine")
class MigrationOfHeldGuests(MigrationTest):
    volume = "small/disk"

    def make_pool(self):
        image = self.directory / "small.img"
        with open(image, "wb") as file:
            file.truncate(768 * MIB)
        programs.run("mkfs.ext4", "-q", "-F", "-m", "0", image)
        self.enterContext(mounts.mounted(image, self.directory / "small", "loop"))
        self.addCleanup(self.daemon.end)
        self.daemon.create_pool("small", self.directory / "small" / "pool", segment_size="4M")

    def is_held(self):
        return self.daemon.volume(self.volume)["hold"] is not None

    def test_requests_that_are_held_are_done_at_the_destination(self):
        disk = guest.vhost_disk(self.serve(self.volume, "128M"))
        source, load = self.boot_with_load(disk)
        available = self.daemon.call("pool", "show", "small")["available_bytes"]
        filler = self.directory / "small" / "filler"
        programs.run("fallocate", "-l", available - 32 * MIB, filler)
        programs.wait_until(self.is_held, 60, "the guest's writes to be held")
        destination = migration.incoming(self, "destination", disk)
        migration.migrate(source, destination)
        source.end()
        programs.wait_until(self.is_held, 10, "the same writes to be held for the destination")
        filler.unlink()
        self.check(load, destination)


if __name__ == "__main__":
    unittest.main()
