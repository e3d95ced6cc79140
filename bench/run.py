#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holdfast and its peers side by side, in one run, with fio. Rounds go over all servers in turn,
and medians are compared: the machine's own noise hits all alike. Compare only within one run."""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.dont_write_bytecode = True

import servers  # noqa: E402
from support import programs  # noqa: E402
from support.daemon import GIB, MIB  # noqa: E402

# name, fio options, the unit that is reported
WORKLOADS = [
    ("randwrite 4k d1", {"rw": "randwrite", "bs": "4k", "iodepth": 1}, "IOPS"),
    ("randwrite 4k d32", {"rw": "randwrite", "bs": "4k", "iodepth": 32}, "IOPS"),
    ("write 4k + fdatasync", {"rw": "randwrite", "bs": "4k", "iodepth": 1, "fsync": 1}, "IOPS"),
    ("randread 4k d1", {"rw": "randread", "bs": "4k", "iodepth": 1}, "IOPS"),
    ("randread 4k d32", {"rw": "randread", "bs": "4k", "iodepth": 32}, "IOPS"),
    ("write 1M d8", {"rw": "write", "bs": "1M", "iodepth": 8}, "MiB/s"),
    ("read 1M d8", {"rw": "read", "bs": "1M", "iodepth": 8}, "MiB/s"),
]
PHASES = ["fresh", "full"]

# (workload, peer, Holdfast must reach this multiple of it)
TARGETS = [
    ("randwrite 4k d32", "qemu raw", 2.5), ("randwrite 4k d32", "qemu qcow2", 5.0),
    ("randread 4k d32", "qemu raw", 1.0), ("randread 4k d1", "qemu raw", 1.0),
    ("write 4k + fdatasync", "qemu raw", 0.9), ("write 1M d8", "qemu raw", 0.9),
    ("read 1M d8", "qemu raw", 0.9),
]


def run_fio(server, options, directory, timeout):
    """fio's JSON for one job on the server's disk."""
    lines = ["[job]"]
    if isinstance(server, servers.RawFile):
        # The nbd engine knows a flush as fsync; a file's nearest like is fdatasync.
        options = {"fdatasync" if key == "fsync" else key: value for key, value in options.items()}
        lines += ["ioengine=io_uring", "direct=1", f"filename={server.path}"]
    else:
        lines += ["ioengine=nbd", f"uri={server.uri}"]
    lines += [f"{key}={value}" for key, value in options.items()]
    job_file = directory / "job.fio"
    job_file.write_text("\n".join(lines) + "\n")
    done = programs.run("fio", "--output-format=json", job_file, cwd=directory, timeout=timeout)
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    if job["error"]:
        raise RuntimeError(f"fio: error {job['error']}")
    return job


def measure(server, options, unit, directory, arguments):
    """One workload on one server."""
    cpu_before = server.cpu_seconds()
    job = run_fio(server, {
        **options, "size": server.size_bytes, "time_based": 1,
        "runtime": f"{arguments.seconds * 1000:.0f}ms", "norandommap": 1, "randrepeat": 0,
    }, directory, arguments.seconds + 120)
    side = job["write" if "write" in options["rw"] else "read"]
    count = side["total_ios"]
    if count == 0:
        raise RuntimeError("fio did no I/O")
    cpu = server.cpu_seconds()
    percentiles = side["clat_ns"].get("percentile", {})
    return {
        "value": side["iops"] if unit == "IOPS" else side["bw_bytes"] / MIB,
        "unit": unit,
        "ios": count,
        "latency_us_mean": side["lat_ns"]["mean"] / 1000,
        "latency_us_p99": percentiles.get("99.000000", 0) / 1000,
        "server_cpu_seconds_per_million_ios":
            None if cpu is None else (cpu - cpu_before) / count * 1e6,
    }


def run_server(kind, phase, directory, arguments, record):
    """All workloads of a phase on a server of its own; what fails is recorded as failed."""
    server = None
    try:
        server = kind(directory / "server", arguments.size_bytes)
        if phase == "full":
            run_fio(server, {"rw": "write", "bs": "1M", "iodepth": 8, "size": server.size_bytes,
                             "end_fsync": 1}, directory, 600)
        for name, options, unit in arguments.workloads:
            if not arguments.smoke:
                servers.settle()
            try:
                record(name, measure(server, options, unit, directory, arguments))
            except (AssertionError, RuntimeError, OSError, ValueError, KeyError) as error:
                record(name, {"failed": str(error)[-400:]})
        record("peak memory", {"value": server.peak_bytes() or 0, "unit": "bytes"})
    except Exception as error:  # the other servers' figures are worth having all the same
        record("server", {"failed": f"{type(error).__name__}: {str(error)[-400:]}"})
    finally:
        if server is not None:
            server.close()
        shutil.rmtree(directory / "server", ignore_errors=True)


def run_all(arguments, directory):
    runs = []
    for round_number in range(arguments.rounds):
        for phase in arguments.phases:
            # Another order each round: who comes first has the cleanest machine.
            shift = (round_number * 2 + arguments.phases.index(phase)) % len(arguments.servers)
            for kind in arguments.servers[shift:] + arguments.servers[:shift]:
                def record(workload, result, kind=kind, phase=phase, round_number=round_number):
                    runs.append({"round": round_number, "phase": phase, "server": kind.name,
                                 "workload": workload, **result})
                    if "failed" in result:
                        print(f"FAILED {phase} {kind.name} {workload}: {result['failed']}",
                              file=sys.stderr, flush=True)
                began = time.monotonic()
                run_server(kind, phase, directory, arguments, record)
                print(f"  round {round_number + 1}/{arguments.rounds} {phase:5} {kind.name:12} "
                      f"{time.monotonic() - began:5.0f} s", file=sys.stderr, flush=True)
    return runs


def medians(runs, key="value"):
    """{(phase, workload, server): median}"""
    found = {}
    for run in runs:
        if run.get(key) is not None:
            found.setdefault((run["phase"], run["workload"], run["server"]), []).append(run[key])
    return {place: statistics.median(values) for place, values in found.items()}


def human(value, unit):
    if value is None:
        return "-"
    if unit == "IOPS":
        return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"
    return f"{value:.0f} MiB/s"


def print_tables(arguments, runs):
    values = medians(runs)
    cpu = medians(runs, "server_cpu_seconds_per_million_ios")
    names = [kind.name for kind in arguments.servers]
    peers = [name for name in names if name != "holdfast"]
    width = max(len(name) for name, _, _ in arguments.workloads) + 2
    for phase in arguments.phases:
        print(f"\n{phase} volume of {arguments.size_bytes / GIB:.3g} GiB: medians of "
              f"{arguments.rounds} rounds of {arguments.seconds} s; in brackets Holdfast / peer")
        print(" " * width + "".join(f"{name:>20}" for name in names))
        for workload, _, unit in arguments.workloads:
            own = values.get((phase, workload, "holdfast"))
            row = f"{workload:<{width}}"
            for name in names:
                value = values.get((phase, workload, name))
                text = human(value, unit)
                if name in peers and own and value:
                    text += f" ({own / value:.2f}x)"
                row += f"{text:>20}"
            print(row)
        print(f"\n{phase}: CPU seconds of the server per million I/Os, and its peak memory")
        for workload, _, _ in arguments.workloads:
            cells = [cpu.get((phase, workload, name)) for name in names]
            print(f"{workload:<{width}}"
                  + "".join(f"{'-' if cell is None else f'{cell:.1f}':>20}" for cell in cells))
        cells = [values.get((phase, "peak memory", name)) for name in names]
        print(f"{'peak MiB':<{width}}"
              + "".join(f"{f'{cell / MIB:.0f}' if cell else '-':>20}" for cell in cells))


def print_targets(arguments, runs):
    """Returns [(phase, workload, peer, ratio, target)]."""
    values = medians(runs)
    judged = []
    for phase in arguments.phases:
        for workload, peer, target in TARGETS:
            own = values.get((phase, workload, "holdfast"))
            other = values.get((phase, workload, peer))
            if own and other:
                judged.append({"phase": phase, "workload": workload, "peer": peer,
                               "ratio": own / other, "target": target})
    if judged:
        print("\ntargets")
    for entry in judged:
        word = "reached" if entry["ratio"] >= entry["target"] else "MISSED"
        print(f"  {word:8} {entry['phase']:5} {entry['workload']:<22} {entry['ratio']:5.2f}x "
              f"{entry['peer']} (wanted {entry['target']}x)")
    return judged


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin-dir", help="the folder with holdfastd and holdfast")
    parser.add_argument("--directory", default="/var/tmp", help="where the disks are made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of each workload")
    parser.add_argument("--size-gib", type=float, default=4)
    parser.add_argument("--quick", action="store_true", help="one round of 1 s each, 1 GiB")
    parser.add_argument("--smoke", action="store_true",
                        help="only that it works: tiny, and every cell must be there")
    parser.add_argument("--only", default="", metavar="WORD,...",
                        help="workloads, servers or phases whose name has the word")
    parser.add_argument("--json", default="", metavar="FILE",
                        help="all runs and medians (default: bench-results.json in --directory)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.size_gib = 1, 1, 1
    if arguments.smoke:
        arguments.rounds, arguments.seconds, arguments.size_gib = 1, 0.3, 0.0625
    arguments.size_bytes = int(arguments.size_gib * GIB) // MIB * MIB
    if arguments.bin_dir:
        os.environ["HOLDFAST_BIN_DIR"] = os.path.abspath(arguments.bin_dir)
    choose(parser, arguments)
    return arguments


def choose(parser, arguments):
    """--only: a word narrows down whichever of workloads, servers, phases it is a part of."""
    arguments.workloads, arguments.servers, arguments.phases = WORKLOADS, servers.ALL, PHASES
    words = [word.strip() for word in arguments.only.split(",") if word.strip()]
    for attribute, name_of in (("workloads", lambda one: one[0]), ("servers", lambda one: one.name),
                               ("phases", lambda one: one)):
        everything = getattr(arguments, attribute)
        wanted = [one for one in everything if any(word in name_of(one) for word in words)]
        setattr(arguments, attribute, wanted or everything)
        words = [word for word in words if not any(word in name_of(one) for one in everything)]
    if words:
        parser.error(f"--only: nothing is named like {', '.join(words)}")


def check_space(arguments):
    """A disk, what its writers add to it in a log, and as much again to be on the safe side."""
    writers = sum("write" in name for name, _, _ in arguments.workloads)
    needed = arguments.size_bytes * 3 + int(writers * arguments.seconds * 1.5 * GIB)
    free = shutil.disk_usage(arguments.directory).free
    if free < needed:
        sys.exit(f"bench: {arguments.directory} has {free / GIB:.1f} GiB free, a run needs up to "
                 f"{needed / GIB:.1f} GiB; free some, or give --directory or --seconds")


def main():
    arguments = parse_arguments()
    check_space(arguments)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
          f"{arguments.directory}")
    for kind in arguments.servers:
        print(f"  {kind.name:12} {kind.note}")
    directory = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=arguments.directory))
    try:
        runs = run_all(arguments, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    failed = [run for run in runs if "failed" in run]
    print_tables(arguments, runs)
    judged = [] if arguments.smoke else print_targets(arguments, runs)
    print(f"\n{len(runs)} figures, {len(failed)} failed runs")
    if not arguments.smoke:
        path = arguments.json or os.path.join(arguments.directory, "bench-results.json")
        Path(path).write_text(json.dumps({
            "machine": platform.machine(), "cores": os.cpu_count(), "kernel": platform.release(),
            "size_bytes": arguments.size_bytes, "rounds": arguments.rounds,
            "seconds": arguments.seconds, "targets": judged, "runs": runs}, indent=1) + "\n")
        print(f"all of it in {path}")
    expected = arguments.rounds * len(arguments.phases) * len(arguments.servers) * (
        len(arguments.workloads) + 1)
    return 1 if failed or len(runs) != expected else 0


if __name__ == "__main__":
    sys.exit(main())
