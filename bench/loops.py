#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a busy volume does to a quiet one: the quiet one's latency alone, beside a busy volume on
another loop, beside one on its own loop, and beside one of another daemon, which shows what the
machine itself (processors, disk) makes of so much work. Rounds go over the cases in turn; medians
are compared. Says something of the loops only where there are processors to spare: two threads of
the daemon and two fio run at once."""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.dont_write_bytecode = True

import options  # noqa: E402
from support import fio, programs  # noqa: E402
from support.daemon import Daemon, test_root  # noqa: E402

PROCESSORS_NEEDED = 4
QUIET = {"rw": "randrw", "bs": "4k", "iodepth": 1, "rate_iops": "100,100", "time_based": 1,
         "norandommap": 1}
BUSY = {"rw": "randwrite", "bs": "4k", "iodepth": 32, "time_based": 1, "norandommap": 1,
        "runtime": 3600}
ALONE, OTHER_LOOP, SAME_LOOP, OTHER_DAEMON = (
    "alone", "busy on another loop", "busy on the same loop", "busy in another daemon")


class Bench:
    def __init__(self, directory, arguments):
        self.directory = directory
        self.seconds = arguments.seconds
        self.sizes = {"quiet": "64m", "busy": "64m" if arguments.smoke else "1g"}
        self.daemons = {}
        self.uris = {}
        for loops in (1, 2):
            for role in ("quiet", "busy"):
                self.add_volume(f"loops{loops}", loops, role)
        self.add_volume("other", 1, "busy")
        attached = self.daemons["loops2"].call("volume", "list")["volumes"]
        assert len({volume["attachment"]["loop"] for volume in attached}) == 2, attached

    def add_volume(self, name, loops, role):
        if name not in self.daemons:
            daemon = Daemon(self.directory, ("--loops", str(loops)), name=name)
            self.daemons[name] = daemon
            daemon.start()
            daemon.create_pool(path=self.directory / f"{name}-pool")
        uri = self.daemons[name].attach_new(f"pool/{role}", self.sizes[role].upper())
        self.uris[name, role] = uri
        # Reads of blocks that were never written would not reach the disk.
        fio.run_jobs(uri, [{"rw": "write", "bs": "1m", "iodepth": 4, "size": self.sizes[role],
                            "end_fsync": 1}], self.directory)

    def measure(self, case):
        quiet = ("loops1" if case == SAME_LOOP else "loops2", "quiet")
        busy = {OTHER_LOOP: ("loops2", "busy"), SAME_LOOP: ("loops1", "busy"),
                OTHER_DAEMON: ("other", "busy")}.get(case)
        load = None
        try:
            if busy is not None:
                load = fio.start_job(self.uris[busy], {**BUSY, "size": self.sizes["busy"]},
                                     self.directory, "busy")
                time.sleep(1)
            quiet_job = {**QUIET, "size": self.sizes["quiet"], "runtime": self.seconds}
            done = fio.run_jobs(self.uris[quiet], [quiet_job], self.directory,
                                timeout=self.seconds + 120)
            if load is not None and load.poll() is not None:
                raise RuntimeError("the busy load ended by itself")
        finally:
            if load is not None:
                programs.stop(load)
        job = done["jobs"][0]
        return {side: job[side]["clat_ns"]["percentile"]["99.000000"] / 1000
                for side in ("read", "write")}

    def end(self):
        for daemon in self.daemons.values():
            daemon.end()


def main():
    parser = options.parser_with(__doc__, "where holdfastd and holdfast are", 5, 10)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.seconds = 1, 1
    options.use_programs_of(arguments)
    cases = [ALONE, OTHER_LOOP, SAME_LOOP, OTHER_DAEMON]
    runs = {case: [] for case in cases}
    with tempfile.TemporaryDirectory(prefix="holdfast-loops-", dir=test_root()) as directory:
        bench = None
        try:
            bench = Bench(Path(directory), arguments)
            for round_number in range(arguments.rounds):
                shift = round_number % len(cases)
                for case in cases[shift:] + cases[:shift]:
                    runs[case].append(bench.measure(case))
                    print(f"round {round_number + 1}: {case}: {runs[case][-1]}", file=sys.stderr)
        finally:
            if bench is not None:
                bench.end()
    processors = len(os.sched_getaffinity(0))
    print(f"p99 of a volume with 200 I/Os of 4 KiB a second at depth 1, in us: medians of "
          f"{arguments.rounds} rounds")
    print(f"{'':24}{'read':>8}{'write':>8}   against alone")
    base = {side: statistics.median(run[side] for run in runs[ALONE]) for side in ("read", "write")}
    for case in cases:
        median = {side: statistics.median(run[side] for run in runs[case]) for side in base}
        change = "" if case == ALONE else ", ".join(
            f"{side} {100 * (median[side] / base[side] - 1):+.0f} %" for side in base)
        print(f"{case:24}{median['read']:8.0f}{median['write']:8.0f}   {change}")
    if processors < PROCESSORS_NEEDED:
        print(f"{processors} processors: too few to judge the loops by the line '{OTHER_LOOP}'; "
              f"compare it with '{OTHER_DAEMON}'.")
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"processors": processors, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
