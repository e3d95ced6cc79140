#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the cleaner costs: the latency of random 4 KiB overwrites with it and without it, and how
much is written for each byte of the guest's, at a given share of live data.

Two daemons serve a filled volume each; one cleans, the other never does. Each case first overwrites
the cleaned volume until its garbage has settled, then measures the two in turn, several rounds, and
compares medians. Write amplification is over all rounds: what went into segments (log with its
headers, pages of the map, copies) to what the guest wrote; "blocks only" counts guest blocks and
copied blocks alone, which is what theory is about. Latencies say something on a quiet machine only;
the amplification does not depend on it."""

import json
import math
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.dont_write_bytecode = True

import options  # noqa: E402
from support import programs  # noqa: E402
from support.daemon import MIB, Daemon, test_root  # noqa: E402

BLOCK_BYTES = 4096
NEVER = 95  # percent of garbage, which no round gets near
WRITTEN = ("log_bytes_written", "page_bytes_written", "cleaner_bytes_written")


def theory_uniform(live_share):
    """Blocks written for each of the guest's, in large segments, the oldest cleaned first
    (Desnoyers, "Analytic modeling of SSD write performance", 2012)."""
    victim_live = live_share / 2
    for _ in range(1000):
        victim_live = math.exp((victim_live - 1) / live_share)
    return 1 / (1 - victim_live)


class Served:
    """A daemon with one volume."""

    def __init__(self, directory, name, start_percent, arguments):
        self.pool = directory / f"{name}-pool"
        self.arguments = arguments
        config = directory / f"{name}.toml"
        config.write_text(f'state_dir = "{directory / name}"\n'
                          "[volume]\n"
                          f"cleaner_start_percent = {start_percent}\n"
                          f"cleaner_stop_percent = {start_percent}\n")  # no head start when idle
        self.daemon = Daemon(directory, ("--config", str(config)), name=name)
        self.daemon.start()
        self.daemon.create_pool(path=self.pool, segment_size=arguments.segment_size)
        self.socket = self.daemon.runtime / "pool.disk.vhost.sock"
        self.is_there = False
        self.loads = 0

    def fill(self):
        """A new volume, every block of it written."""
        if self.is_there:
            self.daemon.call("detach", "pool/disk")
            self.daemon.call("volume", "remove", "--now", "pool/disk")
        self.daemon.call("volume", "create", "pool/disk", "--size", f"{self.arguments.size_mib}M")
        self.daemon.call("attach", "pool/disk", "--vhost")
        self.is_there = True
        self.load("--op", "fill", "--block-bytes", MIB, "--depth", 8)

    def load(self, *arguments):
        done = programs.run(programs.binary_directory() / "vhost_bench", "--socket", self.socket,
                            *arguments, status=0, timeout=900)
        return json.loads(done.stdout)

    def overwrite(self, seconds, depth, theta):
        self.loads += 1  # the same blocks in the same order again would be no random overwrite
        skew = ("--zipf", theta) if theta else ()
        return self.load("--op", "randwrite", "--seconds", seconds, "--depth", depth,
                         "--seed", self.loads, *skew)

    def garbage_is_near(self, percent):
        counters = self.counters()
        return counters["live_bytes"] < 2 * counters["segment_bytes"] * (100 - percent) / 100

    def counters(self):
        return self.daemon.call("volume", "show", "pool/disk")["statistics"]


class Window:
    """What happened between two looks at the counters."""

    def __init__(self, before, after):
        guest = after["written_bytes"] - before["written_bytes"]

        def per_guest(key):
            return (after[key] - before[key]) / guest

        self.parts = {key.split("_")[0]: round(per_guest(key), 3) for key in WRITTEN}
        self.all = round(sum(per_guest(key) for key in WRITTEN), 3)
        self.blocks = round(1 + per_guest("moved_bytes"), 3)
        self.guest_bytes = guest


def shares(counters):
    sealed = counters["sealed_bytes"]
    return {"live_of_sealed": round(counters["sealed_live_bytes"] / max(1, sealed), 3),
            "live_of_all": round(counters["live_bytes"] / counters["segment_bytes"], 3),
            "segment_mib": counters["segment_bytes"] // MIB,
            "unfreed_mib": counters["unfreed_bytes"] // MIB}


def settle(served, case, arguments):
    """Overwrites until as much as `--warm-up` volumes was written, in short pieces."""
    wanted = arguments.warm_up * arguments.size_mib * MIB
    begin = served.counters()["written_bytes"]
    trace = []
    while (written := served.counters()["written_bytes"] - begin) < wanted:
        served.overwrite(min(5, arguments.seconds), 32, case["theta"])
        trace.append({"written_mib": written // MIB, **shares(served.counters())})
    return trace


def run_case(directory, case, arguments):
    with_cleaner = Served(directory, "with", 100 - case["live"], arguments)
    without = Served(directory, "without", NEVER, arguments)
    try:
        with_cleaner.fill()
        result = dict(case, warm_up=settle(with_cleaner, case, arguments), rounds=[],
                      windows=[])
        begin = with_cleaner.counters()
        for number in range(arguments.rounds):
            if number == 0 or without.garbage_is_near(NEVER):
                without.fill()
                without.overwrite(min(3, arguments.seconds), case["depth"], case["theta"])
            pair = {}
            order = (with_cleaner, without) if number % 2 == 0 else (without, with_cleaner)
            for served in order:
                before = served.counters()
                figures = served.overwrite(arguments.seconds, case["depth"], case["theta"])
                after = served.counters()
                side = "with" if served is with_cleaner else "without"
                if side == "without" and after["cleaned_segments"] != 0:
                    raise RuntimeError("the cleaner worked where it should not")
                pair[side] = {"iops": figures["iops"], **figures["latency_us"]}
                if side == "with":
                    pair["window"] = vars(Window(before, after))
                    pair["shares"] = shares(after)
                    pair["delayed_writes"] = after["delayed_writes"] - before["delayed_writes"]
            result["rounds"].append(pair)
            print(f"{name_of(case)}: round {number + 1}: {pair}", file=sys.stderr)
        result["window"] = vars(Window(begin, with_cleaner.counters()))
        return result
    finally:
        with_cleaner.daemon.end()
        without.daemon.end()


def name_of(case):
    skew = f"zipf {case['theta']}" if case["theta"] else "uniform"
    return f"{case['live']} % live, {skew}, depth {case['depth']}"


def summary(result):
    def median(side, figure):
        return statistics.median(pair[side][figure] for pair in result["rounds"])

    def mean_share(key):
        return statistics.mean(pair["shares"][key] for pair in result["rounds"])

    ratio = statistics.median(pair["with"]["p99"] / pair["without"]["p99"]
                              for pair in result["rounds"])
    line = (f"| {name_of(result)} | {median('without', 'p50'):.0f} / {median('without', 'p99'):.0f}"
            f" | {median('with', 'p50'):.0f} / {median('with', 'p99'):.0f} | {ratio:.2f}"
            f" | {median('with', 'iops') / median('without', 'iops'):.2f}"
            f" | {result['window']['all']:.2f} | {result['window']['blocks']:.2f}"
            f" | {100 * mean_share('live_of_sealed'):.1f} | {100 * mean_share('live_of_all'):.1f}"
            f" | {theory_uniform(mean_share('live_of_sealed')):.2f} |")
    return line


def main():
    parser = options.parser_with(__doc__, "where holdfastd, holdfast and vhost_bench are", 5, 10)
    parser.add_argument("--size-mib", type=int, default=1024, help="of the volume")
    parser.add_argument("--segment-size", default="8M")
    parser.add_argument("--warm-up", type=float, default=4,
                        help="volumes to overwrite before measuring")
    parser.add_argument("--live", type=int, nargs="+", default=[70, 85], help="percent")
    parser.add_argument("--theta", type=float, nargs="+", default=[0, 0.99, 1.2],
                        help="of Zipf's law; 0: uniform")
    parser.add_argument("--depth", type=int, nargs="+", default=[32, 1])
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.seconds, arguments.size_mib = 1, 1, 64
        arguments.segment_size, arguments.live, arguments.theta = "1M", [70], [0, 1.2]
        arguments.depth, arguments.warm_up = [32], 1
    options.use_programs_of(arguments)
    results = []
    for live in arguments.live:
        for theta in arguments.theta:
            for depth in arguments.depth:
                case = {"live": live, "theta": theta, "depth": depth}
                with tempfile.TemporaryDirectory(prefix="holdfast-cleaner-",
                                                 dir=test_root()) as directory:
                    results.append(run_case(Path(directory), case, arguments))
    print(f"4 KiB random overwrites of {arguments.size_mib} MiB in segments of "
          f"{arguments.segment_size}; {arguments.rounds} rounds of {arguments.seconds} s, medians")
    print("| case | without: p50 / p99 us | with: p50 / p99 us | p99 ratio | IOPS ratio "
          "| written per guest byte: all | blocks only | live, % of sealed | live, % of all "
          "| theory at that share of sealed, uniform |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for result in results:
        print(summary(result))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
