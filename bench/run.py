#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holdfast and its peers side by side, in one run: over NBD with fio, over vhost-user with
vhost_bench. Rounds go over all servers in turn, and medians are compared: the machine's own noise
hits all alike. Compare only within one run."""

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
NBD_WORKLOADS = [
    ("randwrite 4k d1", {"rw": "randwrite", "bs": "4k", "iodepth": 1}, "IOPS"),
    ("randwrite 4k d32", {"rw": "randwrite", "bs": "4k", "iodepth": 32}, "IOPS"),
    ("write 4k + fdatasync", {"rw": "randwrite", "bs": "4k", "iodepth": 1, "fsync": 1}, "IOPS"),
    ("randread 4k d1", {"rw": "randread", "bs": "4k", "iodepth": 1}, "IOPS"),
    ("randread 4k d32", {"rw": "randread", "bs": "4k", "iodepth": 32}, "IOPS"),
    ("write 1M d8", {"rw": "write", "bs": "1M", "iodepth": 8}, "MiB/s"),
    ("read 1M d8", {"rw": "read", "bs": "1M", "iodepth": 8}, "MiB/s"),
]
# The same for vhost_bench: each of `numjobs` queues has `iodepth` requests in flight.
VHOST_WORKLOADS = [
    (f"{operation} 4k q{queues} d{depth}",
     {"rw": operation, "bs": "4k", "iodepth": depth, "numjobs": queues}, "IOPS")
    for operation in ("randwrite", "randread") for queues in (1, 4) for depth in (1, 32, 128)
] + [
    ("write 4k + flush", {"rw": "randwrite", "bs": "4k", "iodepth": 1, "fsync": 1}, "IOPS"),
    ("write 1M d8", {"rw": "write", "bs": "1M", "iodepth": 8}, "MiB/s"),
    ("read 1M d8", {"rw": "read", "bs": "1M", "iodepth": 8}, "MiB/s"),
]
PHASES = ["fresh", "full"]

# (workload, peer, Holdfast must reach this multiple of it)
NBD_TARGETS = [
    ("randwrite 4k d32", "qemu raw", 2.5), ("randwrite 4k d32", "qemu qcow2", 5.0),
    ("randread 4k d32", "qemu raw", 1.0), ("randread 4k d1", "qemu raw", 1.0),
    ("write 4k + fdatasync", "qemu raw", 0.9), ("write 1M d8", "qemu raw", 0.9),
    ("read 1M d8", "qemu raw", 0.9),
]
VHOST_TARGETS = [
    (f"{operation} 4k q{queues} d{depth}", peer, multiple)
    for operation, peer, multiple in (("randwrite", "qemu qcow2", 3.0),
                                      ("randwrite", "qemu raw", 2.0), ("randread", "qemu raw", 1.5))
    for queues in (1, 4) for depth in (32, 128)
]
# (workload, peer, Holdfast may spend at most this share of its CPU on a request)
VHOST_CPU_TARGETS = [
    (f"{operation} 4k q{queues} d32", "qemu raw", 0.5)
    for operation in ("randwrite", "randread") for queues in (1, 4)
]
# (workload, peer, Holdfast's median latency may be so many microseconds above its)
VHOST_LATENCY_TARGETS = [("randread 4k q1 d1", "raw file", 10.0)]


class Board:
    """One table: servers that speak the same protocol, and what they are asked to do."""

    def __init__(self, name, kinds, workloads, targets, cpu_targets=(), latency_targets=()):
        self.name = name
        self.kinds = kinds
        self.workloads = workloads
        self.targets = targets
        self.cpu_targets = cpu_targets
        self.latency_targets = latency_targets

    def cells(self):
        """[(server, workload)] that must have a figure."""
        return [(kind, workload) for kind in self.kinds for workload in self.workloads
                if kind.can(workload[1])]


BOARDS = [
    Board("nbd", servers.OVER_NBD, NBD_WORKLOADS, NBD_TARGETS),
    Board("vhost", servers.OVER_VHOST, VHOST_WORKLOADS, VHOST_TARGETS, VHOST_CPU_TARGETS,
          VHOST_LATENCY_TARGETS),
]
PERCENTILES = {"p50": "50.000000", "p99": "99.000000", "p99_9": "99.900000"}


def run_fio(server, options, directory, timeout):
    """fio's JSON for one job on the server's disk."""
    # Whole latencies, from before the submission on, as vhost_bench takes them.
    lines = ["[job]", "lat_percentiles=1", "clat_percentiles=0"]
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


def fio_figures(server, options, directory, arguments):
    """(requests, IOPS, MiB/s, latencies in microseconds) of fio."""
    job = run_fio(server, {
        **options, "size": server.size_bytes, "time_based": 1,
        "runtime": f"{arguments.seconds * 1000:.0f}ms", "norandommap": 1, "randrepeat": 0,
    }, directory, arguments.seconds + 120)
    side = job["write" if "write" in options["rw"] else "read"]
    percentiles = side["lat_ns"]["percentile"]
    latencies = {name: percentiles.get(key, 0) / 1000 for name, key in PERCENTILES.items()}
    latencies["mean"] = side["lat_ns"]["mean"] / 1000
    return side["total_ios"], side["iops"], side["bw_bytes"] / MIB, latencies


def run_vhost_bench(server, operation, timeout, **options):
    words = [word for name, value in options.items()
             for word in ("--" + name.replace("_", "-"), value)]
    done = programs.run(programs.binary_directory() / "vhost_bench", "--socket", server.socket,
                        "--op", operation, "--size-bytes", server.size_bytes, *words,
                        timeout=timeout)
    result = json.loads(done.stdout)
    if result["errors"]:
        raise RuntimeError(f"vhost_bench: {result['errors']} requests failed")
    return result


def vhost_figures(server, options, _, arguments):
    """The same of vhost_bench."""
    result = run_vhost_bench(
        server, "write+flush" if "fsync" in options else options["rw"], arguments.seconds + 120,
        queues=options.get("numjobs", 1), depth=options["iodepth"],
        block_bytes={"4k": 4096, "1M": MIB}[options["bs"]], seconds=arguments.seconds)
    return result["ios"], result["iops"], result["mib_per_second"], result["latency_us"]


def fill(server, directory):
    """Writes the whole disk once."""
    if server.is_vhost:
        run_vhost_bench(server, "fill", 600, depth=8, block_bytes=MIB)
    else:
        run_fio(server, {"rw": "write", "bs": "1M", "iodepth": 8, "size": server.size_bytes,
                         "end_fsync": 1}, directory, 600)


def measure(server, options, unit, directory, arguments):
    """One workload on one server."""
    figures = vhost_figures if server.is_vhost else fio_figures
    cpu_before = server.cpu_seconds()
    count, iops, mib_per_second, latencies = figures(server, options, directory, arguments)
    if count == 0:
        raise RuntimeError("no request completed")
    cpu = server.cpu_seconds()
    return {
        "value": iops if unit == "IOPS" else mib_per_second,
        "unit": unit,
        "ios": count,
        **{f"latency_us_{name}": latencies[name] for name in ("mean", *PERCENTILES)},
        "server_cpu_seconds_per_million_ios":
            None if cpu is None else (cpu - cpu_before) / count * 1e6,
    }


def run_server(board, kind, phase, directory, arguments, record):
    """All workloads of a phase on a server of its own; what fails is recorded as failed."""
    server = None
    try:
        server = kind(directory / "server", arguments.size_bytes)
        if phase == "full":
            fill(server, directory)
        for name, options, unit in board.workloads:
            if not kind.can(options):
                continue
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


def run_board(board, arguments, directory):
    runs = []
    for round_number in range(arguments.rounds):
        for phase in arguments.phases:
            # Another order each round: who comes first has the cleanest machine.
            shift = (round_number * 2 + arguments.phases.index(phase)) % len(board.kinds)
            for kind in board.kinds[shift:] + board.kinds[:shift]:
                def record(workload, result, kind=kind, phase=phase, round_number=round_number):
                    runs.append({"board": board.name, "round": round_number, "phase": phase,
                                 "server": kind.name, "workload": workload, **result})
                    if "failed" in result:
                        print(f"FAILED {board.name} {phase} {kind.name} {workload}: "
                              f"{result['failed']}", file=sys.stderr, flush=True)
                began = time.monotonic()
                run_server(board, kind, phase, directory, arguments, record)
                print(f"  {board.name} round {round_number + 1}/{arguments.rounds} {phase:5} "
                      f"{kind.name:12} {time.monotonic() - began:5.0f} s", file=sys.stderr,
                      flush=True)
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


def print_row(title, width, cells, columns=20):
    print(f"{title:<{width}}" + "".join(f"{cell:>{columns}}" for cell in cells))


def print_tables(board, arguments, runs):
    values = medians(runs)
    cpu = medians(runs, "server_cpu_seconds_per_million_ios")
    latencies = [medians(runs, f"latency_us_{name}") for name in PERCENTILES]
    names = [kind.name for kind in board.kinds]
    width = max(len(name) for name, _, _ in board.workloads) + 2
    for phase in arguments.phases:
        print(f"\n{board.name}, {phase} volume of {arguments.size_bytes / GIB:.3g} GiB: medians of "
              f"{arguments.rounds} rounds of {arguments.seconds} s; in brackets Holdfast / peer")
        print_row("", width, names)
        for workload, _, unit in board.workloads:
            own = values.get((phase, workload, "holdfast"))
            cells = []
            for name in names:
                value = values.get((phase, workload, name))
                ratio = f" ({own / value:.2f}x)" if name != "holdfast" and own and value else ""
                cells.append(human(value, unit) + ratio)
            print_row(workload, width, cells)
        print(f"\n{board.name}, {phase}: latency in microseconds, p50 / p99 / p99.9")
        print_row("", width, names, columns=25)
        for workload, _, _ in board.workloads:
            places = [(phase, workload, name) for name in names]
            print_row(workload, width, [
                " / ".join(f"{each[place]:.0f}" for each in latencies) if place in latencies[0]
                else "-" for place in places], columns=25)
        print(f"\n{board.name}, {phase}: CPU seconds of the server per million I/Os, and its peak "
              "memory")
        for workload, _, _ in board.workloads:
            cells = [cpu.get((phase, workload, name)) for name in names]
            print_row(workload, width, ["-" if cell is None else f"{cell:.1f}" for cell in cells])
        cells = [values.get((phase, "peak memory", name)) for name in names]
        print_row("peak MiB", width, [f"{cell / MIB:.0f}" if cell else "-" for cell in cells])


def judge(board, arguments, runs):
    """Prints which targets were reached; [{board, phase, workload, peer, kind, figure, target}]."""
    kinds = [  # what is compared, how, whether less is better, how it is said
        ("speed", board.targets, "value", lambda own, peer: own / peer, False, "x"),
        ("CPU per I/O", board.cpu_targets, "server_cpu_seconds_per_million_ios",
         lambda own, peer: own / peer, True, "x"),
        ("median latency", board.latency_targets, "latency_us_p50",
         lambda own, peer: own - peer, True, " us above"),
    ]
    judged = []
    for phase in arguments.phases:
        for kind, targets, key, compare, less_is_better, unit in kinds:
            values = medians(runs, key)
            for workload, peer, target in targets:
                own = values.get((phase, workload, "holdfast"))
                other = values.get((phase, workload, peer))
                if not own or not other:
                    continue
                figure = compare(own, other)
                reached = figure <= target if less_is_better else figure >= target
                judged.append({"board": board.name, "phase": phase, "workload": workload,
                               "peer": peer, "kind": kind, "figure": figure, "target": target,
                               "reached": reached})
                bound = "at most" if less_is_better else "at least"
                print(f"  {'reached' if reached else 'MISSED':8} {board.name:5} {phase:5} "
                      f"{workload:<22} {kind}: {figure:.2f}{unit} {peer} ({bound} {target})")
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
                        help="boards, phases, workloads or servers whose name has the word")
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
    """--only: a word narrows down the boards, phases, workloads or servers it is a part of."""
    arguments.boards, arguments.phases = BOARDS, PHASES
    words = [word.strip() for word in arguments.only.split(",") if word.strip()]
    known = set()

    def narrow(everything, name_of):
        known.update(word for word in words for one in everything if word in name_of(one))
        wanted = [one for one in everything if any(word in name_of(one) for word in words)]
        return wanted or everything

    arguments.boards = narrow(arguments.boards, lambda board: board.name)
    arguments.phases = narrow(arguments.phases, lambda phase: phase)
    for board in arguments.boards:
        board.workloads = narrow(board.workloads, lambda workload: workload[0])
        board.kinds = narrow(board.kinds, lambda kind: kind.name)
    unknown = [word for word in words if word not in known]
    if unknown:
        parser.error(f"--only: nothing is named like {', '.join(unknown)}")


def check_space(arguments):
    """A disk, what its writers add to it in a log, and as much again to be on the safe side."""
    writers = max(sum("write" in name for name, _, _ in board.workloads)
                  for board in arguments.boards)
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
    for kind in {kind.name: kind for board in arguments.boards for kind in board.kinds}.values():
        print(f"  {kind.name:12} {kind.note}")
    directory = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=arguments.directory))
    try:
        runs = {board: run_board(board, arguments, directory) for board in arguments.boards}
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for board in arguments.boards:
        print_tables(board, arguments, runs[board])
    judged = []
    if not arguments.smoke:
        print("\ntargets")
        judged = [entry for board in arguments.boards
                  for entry in judge(board, arguments, runs[board])]
    all_runs = [run for board in arguments.boards for run in runs[board]]
    failed = [run for run in all_runs if "failed" in run]
    print(f"\n{len(all_runs)} figures, {len(failed)} failed runs")
    if not arguments.smoke:
        path = arguments.json or os.path.join(arguments.directory, "bench-results.json")
        Path(path).write_text(json.dumps({
            "machine": platform.machine(), "cores": os.cpu_count(), "kernel": platform.release(),
            "size_bytes": arguments.size_bytes, "rounds": arguments.rounds,
            "seconds": arguments.seconds, "targets": judged, "runs": all_runs}, indent=1) + "\n")
        print(f"all of it in {path}")
    expected = arguments.rounds * len(arguments.phases) * sum(  # and the peak memory of each
        len(board.cells()) + len(board.kinds) for board in arguments.boards)
    return 1 if failed or len(all_runs) != expected else 0


if __name__ == "__main__":
    sys.exit(main())
