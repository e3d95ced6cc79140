#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holdfast on Ceph beside librbd in qemu-storage-daemon, both over NBD (fio), each on a
cluster that the bench starts on this machine: one monitor, one manager, one OSD in memory.

Beside the speed: what the OSD does for it (operations, processor time). Figures of different runs
cannot be compared, and one OSD that shares the processors with all else says nothing about a
cluster; the ratios say what a client asks of it."""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.dont_write_bytecode = True

import options  # noqa: E402
from servers import EXPORT, QemuStorageDaemon, Server, settle  # noqa: E402
from run import run_fio  # noqa: E402
from support import ceph, programs  # noqa: E402
from support.ceph import POOL  # noqa: E402
from support.daemon import GIB, MIB, Daemon, test_root  # noqa: E402

SIZE_BYTES = 512 * MIB

# What is written at random comes last: it leaves a log in pieces, and work for the cleaner.
WORKLOADS = {
    "1 MiB sequential write": {"rw": "write", "bs": "1m", "iodepth": 8},
    "1 MiB sequential read": {"rw": "read", "bs": "1m", "iodepth": 8},
    "64 KiB sequential write": {"rw": "write", "bs": "64k", "iodepth": 8},
    "64 KiB sequential read": {"rw": "read", "bs": "64k", "iodepth": 8},
    "4 KiB random read, depth 32": {"rw": "randread", "bs": "4k", "iodepth": 32},
    "4 KiB random read, depth 1": {"rw": "randread", "bs": "4k", "iodepth": 1},
    "4 KiB write + flush": {"rw": "randwrite", "bs": "4k", "iodepth": 1, "fsync": 1},
    "4 KiB random write, depth 1": {"rw": "randwrite", "bs": "4k", "iodepth": 1},
    "4 KiB random write, depth 32": {"rw": "randwrite", "bs": "4k", "iodepth": 32},
}


class HoldfastOnCeph(Server):
    name = "holdfast"
    cluster = None  # of all of them, for now

    def open(self):
        self.daemon = Daemon(self.directory)
        self.daemon.start()
        self.process = self.daemon.process
        self.daemon.call("pool", "create", "pool", f"rados:{POOL}/bench", "--conf",
                         self.cluster.configuration)
        self.daemon.call("volume", "create", f"pool/{EXPORT}", "--size", str(self.size_bytes))
        self.socket = self.daemon.call("attach", f"pool/{EXPORT}")["socket"]


class Librbd(QemuStorageDaemon):
    name = "librbd"
    cluster = None

    def open(self):
        self.cluster.rbd("create", "--size", f"{self.size_bytes}B", f"{POOL}/bench")
        self.serve("qemu-storage-daemon", "--blockdev",
                   f"driver=rbd,node-name=disk,pool={POOL},image=bench,cache.direct=on,"
                   f"conf={self.cluster.configuration}", *self.export_options())


class Osd:
    """What the OSD has done since it was made."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.begin = self.read()

    def read(self):
        dump = json.loads(programs.run(
            "ceph", "--admin-daemon", self.cluster.directory / "osd.0.asok", "perf",
            "dump").stdout)["osd"]
        stat = Path(f"/proc/{self.cluster.osds[0].pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        # A write that expects something of its object counts as both.
        return {"writes": dump["op_w"] + dump["op_rw"], "reads": dump["op_r"], "seconds": seconds}

    def since(self):
        now = self.read()
        return {key: now[key] - self.begin[key] for key in now}


def measure(server, workload, directory, seconds):
    osd = Osd(server.cluster)
    job = run_fio(server, {**workload, "size": SIZE_BYTES, "time_based": 1, "runtime": seconds,
                           "norandommap": 1, "randrepeat": 0}, directory, seconds + 120)
    side = job["write" if "write" in workload["rw"] else "read"]
    done = osd.since()
    operations = done["writes"] if "write" in workload["rw"] else done["reads"]
    return {
        "per_second": side["iops"],
        "latency_us": side["lat_ns"]["mean"] / 1000,
        "operations_each": operations / max(1, side["total_ios"]),
        "osd_seconds_per_gib": done["seconds"] / max(1, side["io_bytes"]) * GIB,
    }


def run_server(kind, cluster, names, arguments, results):
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=test_root()) as directory:
        directory = Path(directory)
        kind.cluster = cluster
        server = kind(directory / "server", SIZE_BYTES)
        try:
            fill = {"rw": "write", "bs": "1m", "iodepth": 8, "size": SIZE_BYTES}
            run_fio(server, fill, directory, 300)
            for _ in range(arguments.rounds):
                for name in names:
                    settle()
                    results.setdefault(name, {}).setdefault(kind.name, []).append(
                        measure(server, WORKLOADS[name], directory, arguments.seconds))
        finally:
            server.close()


def median(figures, key):
    return statistics.median(figure[key] for figure in figures)


def print_results(results):
    print(f"\n{'':30}{'holdfast/s':>12}{'librbd/s':>12}{'ratio':>8}"
          f"{'OSD ops each':>20}{'OSD s per GiB':>20}")
    for name, kinds in results.items():
        ours, theirs = kinds["holdfast"], kinds["librbd"]
        print(f"{name:30}{median(ours, 'per_second'):12.0f}{median(theirs, 'per_second'):12.0f}"
              f"{median(ours, 'per_second') / median(theirs, 'per_second'):8.2f}"
              f"{median(ours, 'operations_each'):11.3f} /{median(theirs, 'operations_each'):7.3f}"
              f"{median(ours, 'osd_seconds_per_gib'):11.1f} /"
              f"{median(theirs, 'osd_seconds_per_gib'):7.1f}")


def main():
    parser = options.parser_with(__doc__, "where holdfastd is", rounds=3, seconds=3)
    arguments = parser.parse_args()
    options.use_programs_of(arguments)
    if ceph.missing("ceph-mgr", "fio", "qemu-storage-daemon"):
        sys.exit("not installed: " + ", ".join(
            ceph.missing("ceph-mgr", "fio", "qemu-storage-daemon")))
    names = list(WORKLOADS)
    if arguments.smoke:
        arguments.rounds, arguments.seconds = 1, 1
        names = names[-1:]
    results = {}
    for kind in (HoldfastOnCeph, Librbd):
        # Each a new cluster: what one has left behind is not the other's.
        with tempfile.TemporaryDirectory(prefix="holdfast-ceph-", dir=test_root()) as directory:
            cluster = ceph.Ceph(directory, with_manager=True, device_bytes=4 * GIB)
            try:
                cluster.start()
                run_server(kind, cluster, names, arguments, results)
            finally:
                cluster.end()
    print_results(results)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
