#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Verifies models/leases.pml with Spin: every configuration must hold, every mutation must be caught.

  check.py [--jobs N] [--only TEXT] [--trail NAME]

Prints a table, one line for each run; exit status 1 if any result is not the expected one. README.md says what the
names mean. --trail NAME prints the shortest counterexample of a run instead.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

MODEL = pathlib.Path(__file__).resolve().parent / "leases.pml"
MEMORY_MIB = 3000
SECONDS_MAX = 600
DEPTH_MAX = 100_000


@dataclasses.dataclass(frozen=True)
class Run:
    name: str
    defines: str
    holds: bool = True


def bounds(lvers, rounds, lapses=0, crashes=0, lates=0, more=""):
    return (f"LVER_MAX={lvers} ROUND_MAX={rounds} LAPSES={lapses} CRASHES={crashes} LATES={lates} "
            f"GEN_MAX=2 {more}")


FAULTS = bounds(2, 2, crashes=1, lates=1)

RUNS = [
    # The longest first.
    Run("2 hosts, a late write, a crash, a lapse, one is owner",
        bounds(2, 2, lapses=1, crashes=1, lates=1, more="OWNED AGREEMENT")),
    Run("2 hosts, 3 versions, 2 lapses", bounds(3, 2, lapses=2, more="AGREEMENT")),
    Run("2 hosts, a late write, a crash", bounds(2, 2, crashes=1, lates=1, more="AGREEMENT")),
    Run("2 hosts, 3 versions, a crash", bounds(3, 2, crashes=1, more="AGREEMENT")),
    Run("2 hosts, 3 versions, a late write", bounds(3, 2, lates=1, more="AGREEMENT")),
    Run("3 hosts, 1 version", bounds(1, 2, more="HOSTS=3 AGREEMENT")),
    Run("3 hosts, take-over of a lapsed owner",
        bounds(2, 1, lapses=1, more="HOSTS=3 OWNED AGREEMENT")),
    Run("3 hosts, take-over of a crashed owner",
        bounds(2, 1, crashes=1, more="HOSTS=3 OWNED AGREEMENT")),
    Run("liveness: no faults", bounds(3, 4, more="LIVENESS=3")),
    Run("liveness: a crash", bounds(4, 4, crashes=1, more="OWNED LIVENESS=2")),
    Run("liveness: a lapse", bounds(4, 4, lapses=1, more="OWNED LIVENESS=2")),
    Run("liveness: a late write", bounds(4, 4, lates=1, more="OWNED LIVENESS=2")),
] + [
    Run(f"without: {name}", f"{at} {name}", holds=False) for name, at in [
        ("ACK_PAST_DEADLINE", bounds(2, 2, lapses=1)),
        ("DEAD_TOO_EARLY", bounds(2, 2)),
        ("TAKE_WITHOUT_WAITING", bounds(2, 2)),
        ("RENEWAL_REOPENS", bounds(2, 2, lapses=1)),
        ("REREAD_REOPENS", bounds(2, 2, lapses=1)),
        ("LAPSE_DURING_BALLOT", bounds(2, 2, lapses=1)),
        ("PHASE1_NOT_READ", bounds(2, 2, more="AGREEMENT")),
        ("PHASE1_ZEROES", bounds(2, 2)),
        ("LVER_REUSED", bounds(2, 2)),
        ("ADOPTED_IS_MINE", FAULTS),
        ("IN_FLIGHT_IGNORED", FAULTS),
        ("PREDECESSOR_IGNORED", FAULTS),
        ("FREE_OF_ANY_GENERATION", FAULTS),
        ("GENERATION_NOT_FORGOTTEN", FAULTS),
    ]
]


def defines_of(run):
    return ["-D" + each for each in run.defines.split()]


def build(run, folder, options):
    spin = subprocess.run(["spin", "-a", *defines_of(run), str(MODEL)], cwd=folder,
                          capture_output=True, text=True, check=False)
    if spin.returncode != 0 or not (folder / "pan.c").exists():
        raise RuntimeError(f"{run.name}: spin -a failed:\n{spin.stdout}{spin.stderr}")
    if "LIVENESS" in run.defines:
        options = [*options, "-DNFAIR=3"]
    else:
        options = [*options, "-DSAFETY"]
    # A mutation is found sooner than better code is compiled.
    level = "-O2" if run.holds and "LIVENESS" not in run.defines else "-O1"
    subprocess.run(["gcc", level, "-w", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MIB}", *options, "-o", "pan",
                    "pan.c"], cwd=folder, check=True)


def search(run, folder):
    # -E: that all hosts have reached the bounds and rest is no error.
    command = ["./pan", "-E", "-n", f"-m{DEPTH_MAX}"]
    if "LIVENESS" in run.defines:
        command += ["-a", "-f"]  # acceptance cycles, weak fairness
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS_MAX,
                          check=False).stdout


def judge(run, output):
    """What came of it, and whether that was expected."""
    found = re.search(r"errors: (\d+)", output)
    if found is None:
        return "no result", False
    if int(found.group(1)) > 0:
        kind = "acceptance cycle" if "acceptance cycle" in output else "assertion"
        return f"violated ({kind})", not run.holds
    if re.search(r"Search not completed|max search depth too small|out of memory", output):
        return "not finished", False
    return "holds", run.holds


def verify(run):
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="holdfast-model-") as name:
        folder = pathlib.Path(name)
        try:
            build(run, folder, [])
            output = search(run, folder)
        except subprocess.TimeoutExpired:
            output = ""
    result, expected = judge(run, output)
    states = re.search(r"([\d.e+]+) states, stored", output)
    return run, result, expected, int(float(states.group(1))) if states else 0, time.monotonic() - begin


def trail(run):
    with tempfile.TemporaryDirectory(prefix="holdfast-model-") as name:
        folder = pathlib.Path(name)
        build(run, folder, ["-DBFS"] if "LIVENESS" not in run.defines else [])
        print(search(run, folder))
        # Spin looks for the trail beside the model.
        (folder / MODEL.name).symlink_to(MODEL)
        steps = subprocess.run(["spin", "-t", "-p", "-g", *defines_of(run), MODEL.name], cwd=folder,
                               capture_output=True, text=True, check=False).stdout
    for line in steps.splitlines():
        if re.search(r"proc .*\[.*(leader|dblock|delta|late|own|open|up|valid|stale)\b.*\]|assert", line):
            print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--only", default="", help="only runs whose names contain this")
    parser.add_argument("--trail", help="the shortest counterexample of the run of this name")
    options = parser.parse_args()
    if options.trail is not None:
        trail(next(run for run in RUNS if options.trail in run.name))
        return 0

    begin = time.monotonic()
    failed = 0
    runs = [run for run in RUNS if options.only in run.name]
    if not runs:
        print("there is no such run", file=sys.stderr)
        return 1
    print(f"{'run':<58} {'states':>10} {'seconds':>8}  result")
    with concurrent.futures.ThreadPoolExecutor(max_workers=options.jobs) as pool:
        for run, result, expected, states, seconds in pool.map(verify, runs):
            note = "" if expected else "   <-- NOT EXPECTED"
            print(f"{run.name:<58} {states:>10} {seconds:>8.1f}  {result}{note}", flush=True)
            failed += not expected
    print(f"{len(runs)} runs, {failed} not as expected, {time.monotonic() - begin:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
