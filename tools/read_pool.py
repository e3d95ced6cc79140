#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A second implementation of the reader, written from docs/format.md alone. Writes nothing.

  read_pool.py POOL_DIRECTORY                      lists volumes, also in the trash, and snapshots;
                                                   of a shared pool also who holds which lease
  read_pool.py POOL_DIRECTORY UUID[@NAME] FILE     writes the content of a volume, or of its
                                                   snapshot NAME, to FILE, sparse

Of a volume that a daemon has open it sees what recovery would see at that moment. It keeps the map
in memory and computes CRCs in Python: for golden pools and for emergencies, not for speed. Blocks
that fail their check are named and left out; the exit status is then 1."""

import re
import struct
import sys
import uuid
from pathlib import Path

from golden_formats import BLOCK, crc32c, lease_checksum

NUMBERED = re.compile(r"(root|seg)-([0-9a-f]{16})-([0-9a-f]{16})$")
SNAPSHOT = re.compile(r"snap-([0-9a-f]{16})$")
TRASHED = re.compile(r"trashed-([0-9a-f]{16})-([0-9a-f]{16})$")
FEATURES = 15  # cold segments, snapshots, lineage, adopted segments
POOL_FEATURES = 1  # leases
ANCESTORS_PER_BLOCK = 170
HOLE, ZERO = 0, 1
MAP, TABLE = 1, 2
LEVELS = 4


class Damaged(Exception):
    pass


def unsealed(block, magic):
    """The block when its seal is right, else None."""
    if len(block) != BLOCK or block[:4] != magic:
        return None
    return block if struct.unpack_from("<I", block, 4)[0] == crc32c(block[8:]) else None


def numbered_files(directory, kind):
    """{number: (epoch, path)} of segments; of roots [(epoch, number, path)]."""
    found = []
    for path in directory.iterdir():
        match = NUMBERED.fullmatch(path.name)
        if match and match[1] == kind:
            found.append((int(match[2], 16), int(match[3], 16), path))
    return {number: (epoch, path) for epoch, number, path in found} if kind == "seg" else found


def decode_root(data, volume, epoch, number):
    """The fields of an intact root of that identity, or None."""
    block = unsealed(data[:BLOCK], b"HFRT")
    if block is None:
        return None
    version, levels = struct.unpack_from("<HB", block, 8)
    fields = struct.unpack_from("<QQQQQQQQIIQQ", block, 32)
    if version != 1 or levels != LEVELS or fields[11] & ~FEATURES != 0:
        raise Damaged("the root is of another version or has unknown features")
    if block[16:32] != volume or fields[:2] != (epoch, number):
        return None
    names = ("epoch", "number", "size", "segment_bytes", "map", "table", "sequence", "segment",
             "block")
    root = dict(zip(names, fields))
    count, = struct.unpack_from("<I", block, 148)
    root["lineage"] = []
    for at in range(count):
        start = BLOCK * (1 + at // ANCESTORS_PER_BLOCK)
        further = unsealed(data[start:start + BLOCK], b"HFRL")
        if further is None:
            return None
        end, ancestor = struct.unpack_from("<Q16s", further, 8 + 24 * (at % ANCESTORS_PER_BLOCK))
        root["lineage"].append((end, ancestor))
    return root


def snapshots(directory):
    """{name: root} of the intact snapshots of a volume."""
    volume = bytes.fromhex(directory.name.replace("-", ""))
    found = {}
    for path in sorted(directory.iterdir()):
        match = SNAPSHOT.fullmatch(path.name)
        data = path.read_bytes() if match else b""
        block = unsealed(data[:BLOCK], b"HFSN")
        if block is None or block[16:32] != volume:
            continue
        version, = struct.unpack_from("<H", block, 8)
        number, _, name, epoch, root_number = struct.unpack_from("<Qq64sQQ", block, 32)
        root = decode_root(data[BLOCK:], volume, epoch, root_number)
        if version == 1 and number == int(match[1], 16) and root is not None:
            found[name.rstrip(b"\0").decode("ascii", "replace")] = root
    return found


class Volume:
    def __init__(self, directory, snapshot=None):
        self.directory = Path(directory)
        self.id = bytes.fromhex(self.directory.name.replace("-", ""))
        self.files = {}
        self.replayed = 0
        if snapshot is None:
            self.root = self.newest_root()
        else:
            self.root = snapshots(self.directory).get(snapshot)
            if self.root is None:
                raise Damaged(f"no intact snapshot {snapshot}")
        self.segments = {}  # number -> (epoch, path)
        # In the directory of the volume that wrote it, or of a later one, which adopted it.
        places = [*self.root["lineage"], (1 << 64, self.id)]
        for end, volume in places:
            folder = self.directory.parent / str(uuid.UUID(bytes=volume))
            if folder.is_dir():
                self.segments |= {number: file for number, file in
                                  numbered_files(folder, "seg").items() if number < end}
        self.table = dict(self.leaf_entries(TABLE, self.root["table"]))
        self.map = dict(self.leaf_entries(MAP, self.root["map"]))
        if snapshot is None:
            self.replay()

    def newest_root(self):
        for epoch, number, path in sorted(numbered_files(self.directory, "root"), reverse=True):
            root = decode_root(path.read_bytes(), self.id, epoch, number)
            if root is not None:
                return root
        raise Damaged("no intact root")

    def owner(self, segment):
        return next((ancestor for end, ancestor in self.root["lineage"] if segment < end), self.id)

    def read(self, segment, block, count=1):
        if segment not in self.files:
            if segment not in self.segments:
                raise Damaged(f"segment {segment} is missing")
            self.files[segment] = self.segments[segment][1].open("rb")
        file = self.files[segment]
        file.seek(block * BLOCK)
        return file.read(count * BLOCK)

    def leaf_entries(self, array, top):
        """(number, entry) of every entry that is not zero, below the page at `top`."""
        pages = [(LEVELS - 1, 0, top)] if top != HOLE else []
        size, form = (12, "<QI") if array == MAP else (32, "<QIIIBB")
        per_page = 336 if array == MAP else 126
        while pages:
            level, index, place = pages.pop()
            segment, block = place >> 24, place & 0xFFFFFF
            page = unsealed(self.read(segment, block), b"HFPG")
            head = struct.pack("<HBBI", 1, array, level, 0) + self.owner(segment)
            head += struct.pack("<QQIIQ", self.segments[segment][0], segment, block, 0, index)
            if page is None or page[8:64] != head:
                raise Damaged(f"page {index} of level {level} in segment {segment} is damaged")
            if level == 0:
                for slot in range(per_page):
                    entry = struct.unpack_from(form, page, 64 + slot * size)
                    if any(entry):
                        yield index * per_page + slot, entry
                continue
            for slot, child in enumerate(struct.unpack_from("<504Q", page, 64)):
                if child != HOLE:
                    pages.append((level - 1, index * 504 + slot, child))

    def record(self, segment, block):
        """(sequence, payload blocks, extents, checksums) of an intact record, or None."""
        header = unsealed(self.read(segment, block), b"HFRC")
        if header is None:
            return None
        version, kind, _, payload_blocks = struct.unpack_from("<HBBI", header, 8)
        place = struct.unpack_from("<QQI", header, 32)
        count, sequence = struct.unpack_from("<IQ", header, 52)
        if (version, kind) != (1, 1) or header[16:32] != self.id:
            return None
        if place != (self.segments[segment][0], segment, block):
            return None
        checksums = [struct.unpack_from("<I", header, BLOCK - 4 * (i + 1))[0]
                     for i in range(payload_blocks)]
        payload = self.read(segment, block + 1, payload_blocks)
        for i, checksum in enumerate(checksums):
            if crc32c(payload[i * BLOCK:(i + 1) * BLOCK]) != checksum:
                return None
        extents = [struct.unpack_from("<QIB", header, 72 + 16 * i) for i in range(count)]
        return sequence, payload_blocks, extents, checksums

    def replay(self):
        found = {}  # sequence -> (segment, block, record): the latest segment's copy
        for number in sorted(self.segments):
            if self.segments[number][0] != self.root["epoch"] or self.owner(number) != self.id:
                continue
            entry = self.table.get(number)
            block = 0
            if number == self.root["segment"]:
                block = self.root["block"]
            elif number < self.root["segment"]:
                continue
            elif entry is not None and (entry[4] == 2 or (self.root["segment"] == 0
                                                          and entry[5] == 2)):
                continue
            expected = None
            while block < self.root["segment_bytes"] // BLOCK:
                record = self.record(number, block)
                if record is None or expected not in (None, record[0]):
                    break
                found[record[0]] = (number, block, record)
                expected = record[0] + 1
                block += 1 + record[1]
        sequence = self.root["sequence"]
        while sequence in found:
            self.apply(*found[sequence])
            sequence += 1
            self.replayed += 1

    def apply(self, segment, block, record):
        payload = 0
        for first, count, kind in record[2]:
            for number in range(first, first + count):
                if kind == 1:
                    self.map[number] = (segment << 24 | (block + 1 + payload), record[3][payload])
                    payload += 1
                else:
                    self.map[number] = (HOLE if kind == 2 else ZERO, 0)

    def write_to(self, path):
        damaged = []
        with open(path, "wb") as out:
            out.truncate(self.root["size"])
            for number, (place, checksum) in sorted(self.map.items()):
                if place in (HOLE, ZERO) or number * BLOCK >= self.root["size"]:
                    continue
                data = self.read(place >> 24, place & 0xFFFFFF)
                if len(data) != BLOCK or crc32c(data) != checksum:
                    damaged.append(number)
                    continue
                out.seek(number * BLOCK)
                out.write(data[:self.root["size"] - number * BLOCK])
        return damaged


def lease_times(pool):
    """(N, W) of a shared pool, else None."""
    path = pool / "holdfast.pool"
    if not path.exists():
        return None
    block = unsealed(path.read_bytes(), b"HFPL")
    if block is None:
        raise Damaged("the pool record is damaged")
    features, = struct.unpack_from("<Q", block, 64)
    if features & ~POOL_FEATURES != 0:
        raise Damaged("the pool has unknown features")
    return struct.unpack_from("<HH", block, 72) if features & 1 else None


def lease_leader(sector, magic):
    """Owner, generation, lver, resource name and timestamp; None unless it is an intact leader."""
    if len(sector) != 512 or struct.unpack_from("<I", sector)[0] != magic:
        return None
    if struct.unpack_from("<I", sector, 168)[0] != lease_checksum(sector[:168]):
        return None
    name = sector[104:152].split(b"\0")[0].decode("ascii", "replace")
    return *struct.unpack_from("<QQQ", sector, 32), name, struct.unpack_from("<Q", sector, 152)[0]


def lease_lines(directory):
    """What the leases of a shared pool say; not whether those hosts are still alive."""
    if directory.name != "hosts":
        leader = lease_leader((directory / "lease").read_bytes()[:512], 0x06152010)
        if leader is None:
            return ["  lease: damaged"]
        owner, generation, lver, _, timestamp = leader
        holder = f"held by host {owner} (generation {generation})" if timestamp else "free"
        return [f"  lease: {holder}, epoch {lver}"]
    lines, area = [], directory.read_bytes()
    for host in range(1, 2001):
        leader = lease_leader(area[512 * (host - 1):512 * host], 0x12212010)
        if leader is None:
            lines.append(f"host {host}: damaged")
        elif leader[0] != 0:
            state = f"renewed at {leader[4]} s of its clock" if leader[4] else "has left"
            lines.append(f"host {host}: {leader[3]}, generation {leader[1]}, {state}")
    return lines


def list_pool(pool):
    times = lease_times(pool)
    if times is not None:
        print(f"shared: I/O timeout {times[0]} s, watchdog allowance {times[1]} s")
        print("".join(line + "\n" for line in lease_lines(pool / "hosts")), end="")
    for directory in sorted((pool / "volumes").iterdir()):
        if directory.name.startswith("."):
            continue
        records = [path for path in directory.iterdir() if path.name == "volume"]
        trashed = sorted((path for path in directory.iterdir() if TRASHED.fullmatch(path.name)),
                         key=lambda path: TRASHED.fullmatch(path.name)[2])
        for record in records or trashed[-1:]:
            block = unsealed(record.read_bytes(), b"HFVL")
            if block is None:
                continue
            name = block[40:104].rstrip(b"\0").decode("ascii", "replace")
            print(directory.name, name, *([] if records else ["(in the trash)"]))
            if times is not None:
                print("".join(line + "\n" for line in lease_lines(directory)), end="")
            for snapshot in snapshots(directory):
                print(f"{directory.name}@{snapshot}")


def main():
    if len(sys.argv) not in (2, 4):
        print(__doc__, file=sys.stderr)
        return 2
    pool = Path(sys.argv[1])
    if len(sys.argv) == 2:
        try:
            list_pool(pool)
        except (Damaged, OSError) as error:
            print(f"read_pool.py: cannot list {pool}: {error}", file=sys.stderr)
            return 1
        return 0
    name, _, snapshot = sys.argv[2].partition("@")
    try:
        volume = Volume(pool / "volumes" / name, snapshot or None)
        damaged = volume.write_to(sys.argv[3])
    except (Damaged, OSError) as error:
        print(f"read_pool.py: cannot read volume {sys.argv[2]}: {error}", file=sys.stderr)
        return 1
    for number in damaged:
        print(f"read_pool.py: block {number} is damaged and left out", file=sys.stderr)
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(main())
