#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What leases cost, with two daemons on one shared pool and on one machine:

  attach     a free volume of a shared pool beside one of a local pool: the whole command
  hand-over  how long a client has no I/O: from the last answer of the host that has the volume to
             the first of the one that takes it, with write after write until then. The taker had
             attached it 1.5 s before: within one the holder hears of that, and listens
  renewals   of the leases of many pools on the disk that bulk I/O saturates, beside the same writes
             (one sector, made durable) by another program on that disk, and without the load"""

import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.dont_write_bytecode = True

import options  # noqa: E402
from support import fio, nbd, programs  # noqa: E402
from support.daemon import Daemon, test_root  # noqa: E402

IO_TIMEOUT = 1  # N of the pools: a renewal every 2 s
BULK = {"rw": "write", "bs": "1m", "iodepth": 32, "time_based": 1, "runtime": 3600}


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def start(directory, name):
    daemon = Daemon(directory, name=name)
    daemon.start()
    return daemon


def measure_attach(directory, rounds):
    """Seconds of each `holdfast attach`, and of a command that does nothing."""
    daemon = start(directory, "attach")
    try:
        daemon.create_pool("local", path=directory / "local")
        daemon.create_pool("shared", path=directory / "shared", shared="True",
                           io_timeout=IO_TIMEOUT)
        for pool in ("local", "shared"):
            daemon.call("volume", "create", f"{pool}/disk", "--size", "1G")
        taken = {"local": [], "shared": [], "nothing": []}
        for _ in range(rounds):
            for pool in ("local", "shared"):
                begin = time.monotonic()
                daemon.call("attach", f"{pool}/disk")
                taken[pool].append(time.monotonic() - begin)
                daemon.call("detach", f"{pool}/disk")
            begin = time.monotonic()
            daemon.call("pool", "list")
            taken["nothing"].append(time.monotonic() - begin)
        return taken
    finally:
        daemon.end()


def connect(daemon):
    return nbd.Client(daemon.volume("pool/disk")["attachment"]["socket"]).connect("disk")


def measure_hand_over(directory, rounds, seconds):
    """Seconds without I/O for a client, of each hand-over."""
    store = directory / "handed"
    store.mkdir()
    source, target = start(directory, "one"), start(directory, "two")
    gaps = []
    try:
        source.create_pool(path=store / "pool", shared="True", io_timeout=IO_TIMEOUT)
        target.call("pool", "open", "pool", f"dir:{store}/pool")
        source.attach_new("pool/disk", "1G")
        block = bytes(range(256)) * 16
        for _ in range(rounds):
            with connect(source) as before:
                target.call("attach", "pool/disk", "--incoming")
                with connect(target) as after:
                    end = time.monotonic() + seconds
                    offset = 0
                    while time.monotonic() < end:
                        before.write(offset, block)
                        offset = (offset + 257 * 4096) % (1 << 30)
                    last = time.monotonic()
                    after.write(0, block)
                    gaps.append(time.monotonic() - last)
            source.call("detach", "pool/disk")
            source, target = target, source
        return gaps
    finally:
        source.end()
        target.end()


class Prober(threading.Thread):
    """Writes one sector and makes it durable, as a renewal does, as another program would."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.taken = []
        self.ended = threading.Event()

    def run(self):
        memory = mmap.mmap(-1, 4096)
        file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o600)
        try:
            os.pwrite(file, memory, 0)
            while not self.ended.wait(0.1):
                begin = time.monotonic()
                os.pwrite(file, memory, 0)
                os.fdatasync(file)
                self.taken.append(time.monotonic() - begin)
        finally:
            os.close(file)


def renewals_of(daemon, pools, seconds):
    """Seconds that each renewal of that time took, and how many failed."""
    taken, failed = [], 0
    for pool in pools:
        this = next(host for host in daemon.call("host", "list", pool)["hosts"] if host["this"])
        for each in this["renewals"]["history"]:
            if each["seconds_ago"] > seconds:
                continue
            failed += 0 if each["ok"] else 1
            taken.append(each["read_seconds"] + each["write_seconds"])
    return taken, failed


def measure_renewals(directory, count, seconds):
    """(of the renewals, failed, of the other program), without load and with it."""
    daemon = start(directory, "renewals")
    loads = []
    found = {}
    try:
        pools = [f"pool{i}" for i in range(count)]
        for pool in pools:
            daemon.create_pool(pool, path=directory / pool, shared="True", io_timeout=IO_TIMEOUT)
        uri = daemon.attach_new("pool0/disk", "4G")
        for case, duration in (("without load", min(seconds, 20)), ("with load", seconds)):
            if case == "with load":
                loads.append(fio.start_job(uri, {**BULK, "size": "4g"}, directory, "volume"))
                job = ["fio", "--name=raw", f"--filename={directory}/raw", "--size=4g",
                       "--direct=1", "--ioengine=io_uring"]
                job += [f"--{key}={value}" for key, value in BULK.items()]
                loads.append(programs.start(job, cwd=directory, stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL))
            prober = Prober(directory / "probe")
            prober.start()
            time.sleep(duration)
            prober.ended.set()
            prober.join()
            renewals, failed = renewals_of(daemon, pools, duration)
            found[case] = (renewals, failed, prober.taken)
            if any(load.poll() is not None for load in loads):
                raise RuntimeError("the load ended by itself")
        return found
    finally:
        for load in loads:
            programs.stop(load)
        daemon.end()


def main():
    parser = options.parser_with(__doc__, "where holdfastd and holdfast are", 20, 120)
    parser.add_argument("--pools", type=int, default=20, help="whose leases are renewed")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.seconds, arguments.pools = 2, 3, 2
    options.use_programs_of(arguments)
    with tempfile.TemporaryDirectory(prefix="holdfast-leases-", dir=test_root()) as name:
        directory = Path(name)
        attach = measure_attach(directory, arguments.rounds)
        gaps = measure_hand_over(directory, arguments.rounds, 1.5)
        renewals = measure_renewals(directory, arguments.pools, arguments.seconds)
    medians = {what: 1000 * statistics.median(taken) for what, taken in attach.items()}
    print(f"attach of a free volume, whole command, ms, median of {arguments.rounds}: shared pool "
          f"{medians['shared']:.1f}, local pool {medians['local']:.1f}; a command that does "
          f"nothing {medians['nothing']:.1f}")
    print(f"hand-over, ms without I/O: median {1000 * statistics.median(gaps):.1f}, "
          f"most {1000 * max(gaps):.1f} of {len(gaps)}")
    print(f"{'renewals, ms':24}{'median':>9}{'p99.9':>9}{'most':>9}{'count':>8}{'failed':>8}"
          f"   another program's: median, p99.9")
    for case, (taken, failed, others) in renewals.items():
        print(f"{case:24}{1000 * statistics.median(taken):9.1f}"
              f"{1000 * percentile(taken, 0.999):9.1f}{1000 * max(taken):9.1f}{len(taken):8}"
              f"{failed:8}   {1000 * statistics.median(others):.1f}, "
              f"{1000 * percentile(others, 0.999):.1f}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(
            {"attach_seconds": attach, "hand_over_seconds": gaps,
             "renewals": {case: {"seconds": taken, "failed": failed, "other_seconds": others}
                          for case, (taken, failed, others) in renewals.items()}},
            indent=2) + "\n")


if __name__ == "__main__":
    main()
