#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What snapshots and clones cost: the time of the commands on a large volume, the latency of writes
while snapshots are taken all the time, and random reads at the end of a chain of clones, and of a
volume with as many snapshots, beside a qcow2 chain of the same length.

Each link of a chain writes one block of its own, so that no link can be left out; a block is
written before each snapshot. Commands are timed whole, the start of the program included;
`holdfast volume list`, which does next to nothing, stands beside them."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.dont_write_bytecode = True

import options  # noqa: E402
from servers import QemuStorageDaemon, VhostExport  # noqa: E402
from support import nbd, programs  # noqa: E402
from support.daemon import MIB, Daemon, test_root  # noqa: E402

BLOCK_BYTES = 4096
CLUSTER_BYTES = 64 * 1024  # of a qcow2 image by default
CHANGED_BLOCKS = 1000


def start_load(socket, *arguments):
    return programs.start([programs.binary_directory() / "vhost_bench", "--socket", socket,
                           *arguments], stdout=subprocess.PIPE)


def load(socket, *arguments, while_running=lambda: None):
    """Figures of vhost_bench; `while_running` is called until it has ended."""
    process = start_load(socket, *arguments)
    try:
        while process.poll() is None:
            while_running()
            time.sleep(0.05)
        if process.returncode != 0:
            raise RuntimeError(f"vhost_bench ended with status {process.returncode}")
        return json.loads(process.stdout.read())
    finally:
        programs.stop(process)
        process.stdout.close()


def milliseconds(times, call):
    """Median and maximum of `times` calls, each with its number."""
    taken = []
    for number in range(times):
        begin = time.monotonic()
        call(number)
        taken.append((time.monotonic() - begin) * 1e3)
    return {"median": round(statistics.median(taken), 1), "max": round(max(taken), 1)}


def write_blocks(daemon, volume, blocks, value):
    """Through an attachment of its own: block numbers of 4 KiB."""
    attached = daemon.call("attach", volume)
    client = nbd.Client(attached["socket"])
    client.connect(volume.partition("/")[2])
    for block in blocks:
        client.write(block * BLOCK_BYTES, bytes([value]) * BLOCK_BYTES)
    client.close()
    daemon.call("detach", volume)


def commands(daemon, arguments):
    """The commands on a volume of 1 TiB, of which 1,000 blocks in 1,000 places changed."""
    blocks = range(0, 1 << 28, (1 << 28) // CHANGED_BLOCKS)[:CHANGED_BLOCKS]
    daemon.call("volume", "create", "pool/large", "--size", "1T")
    daemon.call("snapshot", "create", "pool/large@before")
    write_blocks(daemon, "pool/large", blocks, 1)
    daemon.call("snapshot", "create", "pool/large@after")

    def diff(_):
        found = daemon.call("diff", "pool/large@after", "--since", "before")["extents"]
        if len(found) != CHANGED_BLOCKS:
            raise RuntimeError(f"{len(found)} extents changed instead of {CHANGED_BLOCKS}")

    times = arguments.command_times
    result = {
        "volume list": milliseconds(times, lambda _: daemon.call("volume", "list")),
        "snapshot create": milliseconds(
            times, lambda n: daemon.call("snapshot", "create", f"pool/large@{n}")),
        "clone": milliseconds(
            times, lambda n: daemon.call("clone", "pool/large@after", f"pool/clone{n}")),
        "diff": milliseconds(times, diff),
    }
    for number in range(times):
        daemon.call("volume", "remove", "--now", f"pool/clone{number}")
    return result


def stalls(daemon, arguments):
    """Random writes, with a snapshot taken twice a second and without."""
    daemon.call("volume", "create", "pool/busy", "--size", f"{arguments.size_mib}M")
    socket = daemon.call("attach", "pool/busy", "--vhost")["socket"]
    load(socket, "--op", "fill", "--block-bytes", MIB, "--depth", 8)
    result = {"with": [], "without": [], "snapshots": 0}
    taken = 0
    last = 0

    def take():
        nonlocal taken, last
        if time.monotonic() - last >= 0.5:
            last = time.monotonic()
            daemon.call("snapshot", "create", f"pool/busy@{taken}")
            taken += 1

    for number in range(arguments.rounds):
        for side in ("without", "with") if number % 2 == 0 else ("with", "without"):
            figures = load(socket, "--op", "randwrite", "--seconds", arguments.seconds,
                           "--depth", 8, "--seed", number + 1,
                           **({"while_running": take} if side == "with" else {}))
            result[side].append({"iops": figures["iops"], **figures["latency_us"]})
    result["snapshots"] = taken
    daemon.call("detach", "pool/busy")
    for number in range(taken):
        daemon.call("snapshot", "remove", f"pool/busy@{number}")
    return result


def make_clones(daemon, depths, arguments):
    """A filled volume and clones of clones; the sockets of those at `depths`."""
    daemon.call("volume", "create", "pool/link0", "--size", f"{arguments.size_mib}M")
    socket = daemon.call("attach", "pool/link0", "--vhost")["socket"]
    load(socket, "--op", "fill", "--block-bytes", MIB, "--depth", 8)
    daemon.call("detach", "pool/link0")
    for depth in range(1, max(depths) + 1):
        daemon.call("snapshot", "create", f"pool/link{depth - 1}@s")
        daemon.call("clone", f"pool/link{depth - 1}@s", f"pool/link{depth}")
        write_blocks(daemon, f"pool/link{depth}", [depth], depth % 255)
    return {depth: daemon.call("attach", f"pool/link{depth}", "--vhost")["socket"]
            for depth in depths}


def make_snapshots(daemon, counts, arguments):
    """Filled volumes with so many snapshots; their sockets."""
    sockets = {}
    for count in counts:
        name = f"pool/kept{count}"
        daemon.call("volume", "create", name, "--size", f"{arguments.size_mib}M")
        attached = daemon.call("attach", name, "--vhost")
        load(attached["socket"], "--op", "fill", "--block-bytes", MIB, "--depth", 8)
        daemon.call("detach", name)
        attached = daemon.call("attach", name)
        client = nbd.Client(attached["socket"])
        client.connect(name.partition("/")[2])
        for number in range(1, count + 1):
            client.write(number * BLOCK_BYTES, bytes([number % 255]) * BLOCK_BYTES)
            daemon.call("snapshot", "create", f"{name}@{number}")
        client.close()
        daemon.call("detach", name)
        sockets[count] = daemon.call("attach", name, "--vhost")["socket"]
    return sockets


class Qcow2Chain(VhostExport, QemuStorageDaemon):
    """qemu-storage-daemon on the last of `links` images, each over the one before it."""

    def __init__(self, directory, size_bytes, links):
        self.links = links
        super().__init__(directory, size_bytes)

    def open(self):
        image = self.directory / "link0.qcow2"
        programs.run("qemu-img", "create", "-q", "-f", "qcow2", image, self.size_bytes)
        programs.run("qemu-io", "-f", "qcow2", "-c", f"write -q 0 {self.size_bytes}", image)
        for depth in range(1, self.links + 1):
            below, image = image, self.directory / f"link{depth}.qcow2"
            programs.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", below,
                         "-F", "qcow2", image, self.size_bytes)
            alone = {"driver": "qcow2", "backing": None, "file": {"driver": "file",
                                                                  "filename": str(image)}}
            programs.run("qemu-io", "-c", f"write -q {depth * CLUSTER_BYTES} {CLUSTER_BYTES}",
                         "json:" + json.dumps(alone))
        self.serve(
            "qemu-storage-daemon", "--blockdev",
            f"driver=qcow2,node-name=disk,file.driver=file,file.filename={image},"
            "file.cache.direct=on,file.aio=io_uring", *self.export_options())


def reads(socket, arguments, seed):
    return load(socket, "--op", "randread", "--seconds", arguments.seconds, "--depth", 8,
                "--seed", seed)["iops"]


def chains(daemon, directory, arguments):
    depths = arguments.depths
    sockets = {("clones", depth): socket
               for depth, socket in make_clones(daemon, depths, arguments).items()}
    sockets |= {("snapshots", count): socket
                for count, socket in make_snapshots(daemon, depths[-1:], arguments).items()}
    result = {"clones": {depth: [] for depth in depths}, "snapshots": {depths[-1]: []}, "qcow2": {}}
    for socket in sockets.values():
        reads(socket, arguments, 0)  # whose map is not in memory yet
    for number in range(arguments.rounds):
        for (kind, count), socket in sockets.items():
            result[kind][count].append(reads(socket, arguments, number + 1))
    for depth in arguments.depths:
        server = Qcow2Chain(directory / f"qcow2-{depth}", arguments.size_mib * MIB, depth)
        try:
            reads(server.socket, arguments, 0)
            result["qcow2"][depth] = [reads(server.socket, arguments, number + 1)
                                      for number in range(arguments.rounds)]
        finally:
            server.close()
    return result


def print_all(results, arguments):
    print(f"commands on a volume of 1 TiB ({CHANGED_BLOCKS} changed blocks), ms")
    print("| command | median | max |\n|---|---|---|")
    for name, figures in results["commands"].items():
        print(f"| {name} | {figures['median']} | {figures['max']} |")
    busy = results["stalls"]
    print(f"\n4 KiB random writes, depth 8, {busy['snapshots']} snapshots in "
          f"{arguments.rounds * arguments.seconds} s; medians of {arguments.rounds} rounds")
    print("| | IOPS | p50 us | p99 us |\n|---|---|---|---|")
    for side in ("without", "with"):
        cells = [statistics.median(each[key] for each in busy[side])
                 for key in ("iops", "p50", "p99")]
        print(f"| {side} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |")
    print("\n4 KiB random reads/s, depth 8; medians")
    print("| links or snapshots | clones | of no link | volume with snapshots | of no link "
          "| qcow2 chain | of no link |\n|---|---|---|---|---|---|---|")
    none = arguments.depths[0]
    for depth in arguments.depths:
        cells = []
        for kind, base in (("clones", "clones"), ("snapshots", "clones"), ("qcow2", "qcow2")):
            if depth not in results["chains"][kind]:
                cells += ["", ""]
                continue
            value = statistics.median(results["chains"][kind][depth])
            cells += [f"{value:.0f}",
                      f"{value / statistics.median(results['chains'][base][none]):.2f}"]
        print(f"| {depth} | " + " | ".join(cells) + " |")


def main():
    parser = options.parser_with(__doc__, "where holdfastd, holdfast and vhost_bench are", 3, 5)
    parser.add_argument("--size-mib", type=int, default=256, help="of the volumes that are read")
    parser.add_argument("--command-times", type=int, default=10)
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 1, 100, 500],
                        help="links of the chains, the fewest first")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.seconds, arguments.size_mib = 1, 1, 32
        arguments.command_times, arguments.depths = 2, [0, 2]
    options.use_programs_of(arguments)
    with tempfile.TemporaryDirectory(prefix="holdfast-snapshots-", dir=test_root()) as path:
        directory = Path(path)
        daemon = Daemon(directory)
        daemon.start()
        try:
            daemon.create_pool(segment_size="4M")
            results = {"commands": commands(daemon, arguments), "stalls": stalls(daemon, arguments),
                       "chains": chains(daemon, directory, arguments)}
        finally:
            daemon.end()
    print_all(results, arguments)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
