# SPDX-License-Identifier: Apache-2.0
"""Live migration of a guest from one QEMU to another on this machine: whatever serves their disks,
the two processes share nothing but a socket.

    source = migration.boot(self, "source", disk)
    destination = migration.incoming(self, "destination", disk_of_the_destination)
    report = migration.migrate(source, destination)     # {"downtime_ms", ...}, as QEMU reports it
    load.guest = destination                            # what ran in the guest runs on
"""

from support import guest, programs

DOWNTIME_LIMIT_MS = 300
BANDWIDTH = 10**9  # bytes per second
# With these limits a guest that keeps busy() is never done: its migration goes on until they are
# changed.
ENDLESS = {"downtime_limit_ms": 1, "bandwidth": 8 * 1024 * 1024}
# QEMU before 9.0 forgets writes of emulated processors where memory is a multiple of 256 KiB: it
# takes the marks of 64 pages at a time, and does not tell the processors, which then write without
# marking ("physmem: Fix migration dirty bitmap coherency with TCG memory access").
MEMORY = f"{512 * 1024 + 8}k"
# The processors do not write to memory before a disk does: only the disk's marks tell of it.
KERNEL_OPTIONS = f"{guest.KERNEL_OPTIONS} init_on_alloc=0"


def arguments(test, disks, processors):
    return [*guest.direct_boot(test.initramfs, KERNEL_OPTIONS), "-smp", processors,
            *guest.shared_memory(MEMORY), *disks]


def boot(test, name, disks, processors=1):
    """As GuestTest.boot(), a guest that can be migrated."""
    return test.start_guest(name, arguments(test, disks, processors)).wait_until_ready()


def busy(source):
    """Lets the guest change some of its memory all the time, also while its disk stands still."""
    source.run("(while true; do head -c 8000000 /dev/urandom >/tmp/busy; done) >/dev/null 2>&1 &")


def incoming(test, name, disks, processors=1):
    """A QEMU like that of boot(), whose guest is to come from another one."""
    return test.start_guest(name, [*arguments(test, disks, processors), "-incoming", "defer"])


def begin(source, destination, **limits):
    address = f"unix:{destination.directory}/migration-{destination.name}.sock"
    destination.qmp.execute("migrate-incoming", uri=address)
    begin_into(source, address, **limits)


def begin_into(source, address, **limits):
    """Without a destination: what is written there is for one that comes later."""
    limit(source, **limits)
    source.qmp.execute("migrate", uri=address)


def limit(source, downtime_limit_ms=DOWNTIME_LIMIT_MS, bandwidth=BANDWIDTH):
    source.qmp.execute("migrate-set-parameters", downtime_limit=downtime_limit_ms,
                       max_bandwidth=bandwidth)


def progress(source):
    """What QEMU says of it; fails with the migration."""
    said = source.qmp.execute("query-migrate")
    if said.get("status") in ("failed", "cancelled"):
        source.fail(f"the migration {said['status']}: {said.get('error-desc', 'no reason given')}")
    return said


def wait_for_rounds(source, count, timeout_seconds=120):
    """Until an endless migration has gone through the memory so many times: each round finds what
    changed since."""
    programs.wait_until(lambda: progress(source).get("ram", {}).get("dirty-sync-count", 0) > count,
                        timeout_seconds, f"{count} rounds of the migration", step_seconds=0.05)


def wait_until_sent(source, timeout_seconds=120):
    """The guest stands still, and all of it is at its destination."""
    programs.wait_until(lambda: progress(source).get("status") == "completed", timeout_seconds,
                        "the migration to end", step_seconds=0.02)


def wait_for_end(source, destination, timeout_seconds=120):
    """The guest runs at the destination, which takes its commands from now on."""
    wait_until_sent(source, timeout_seconds)
    programs.wait_until(lambda: destination.qmp.execute("query-status")["running"],
                        timeout_seconds, "the guest to run at its destination", step_seconds=0.02)
    said = progress(source)
    destination.go_on()
    return {
        "downtime_ms": said["downtime"],
        "total_ms": said["total-time"],
        "transferred_bytes": said["ram"]["transferred"],
        "rounds": said["ram"]["dirty-sync-count"],
    }


def migrate(source, destination, timeout_seconds=120, **limits):
    begin(source, destination, **limits)
    return wait_for_end(source, destination, timeout_seconds)
