#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A second implementation of the encoders, written from docs/format.md alone.

  golden_formats.py            compares src/format/testdata/*.hex with what this program makes, and
                               reads the golden pools there with tools/read_pool.py
  golden_formats.py --write    writes them (only for a new format version: old bytes never change)
  golden_formats.py --seeds    writes the seeds of the fuzz targets (fuzz/corpus) for stored blocks

The unit tests of src/format hold the C++ encoders and decoders to the same files. A line of a file
is the offset of 16 bytes and the bytes; lines of zeros are left out."""

import struct
import sys
import tempfile
from pathlib import Path

BLOCK = 4096
SOURCE = Path(__file__).resolve().parent.parent
TESTDATA = SOURCE / "src" / "format" / "testdata"
CORPUS = SOURCE / "fuzz" / "corpus"
VOLUME_NAME = "fedcba98-7654-4210-8123-456789abcdef"
VOLUME = bytes.fromhex(VOLUME_NAME.replace("-", ""))
SPACE_NAME = "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f0"  # a pool's id
PARENT = bytes.fromhex("00112233445546778899aabbccddeeff")


def crc32c_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc32c_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283  # RFC 3720


def sealed(magic, body):
    body = body.ljust(BLOCK - 8, b"\0")
    return magic + struct.pack("<I", crc32c(body)) + body


def location(segment, block):
    return segment << 24 | block


def payload_block(number):
    return bytes((number * 7 + i) & 0xFF for i in range(BLOCK))


def record_header(place, sequence, durable, extents, payload, kind=1):
    """`place`: epoch, segment, block. Extents: first block, count, kind (1 data, 2 hole)."""
    body = struct.pack("<HBBI", 1, kind, 0, len(payload)) + VOLUME
    body += struct.pack("<QQIIQQ", *place, len(extents), sequence, durable)
    for first, count, kind in extents:
        body += struct.pack("<QIBBBB", first, count, kind, 0, 0, 0)
    checksums = b"".join(struct.pack("<I", crc32c(block)) for block in reversed(payload))
    return sealed(b"HFRC", body.ljust(BLOCK - 8 - len(checksums), b"\0") + checksums)


def record():
    extents = [(0x1000, 3, 1), (0x2000, 0x10000, 2), (1, 5, 3), ((1 << 33) - 1, 1, 1)]
    return record_header((0x0102, 0x0304050607, 0x0A0B), 0x1112131415161718, 0x1112131415160000,
                         extents, [payload_block(i) for i in range(4)])


def record_of_copies():
    extents = [(0x1000, 2, 1), (7, 1, 1)]
    return record_header((0x0102, 0x0304050607, 0x0A0B), 0x11, 0, extents,
                         [payload_block(i) for i in range(3)], kind=2)


def page(array, level, epoch, segment, block, index, entries):
    body = struct.pack("<HBBI", 1, array, level, 0) + VOLUME
    body += struct.pack("<QQIIQ", epoch, segment, block, 0, index)
    return sealed(b"HFPG", body + entries)


def spread(slots, bytes_each):
    out = bytearray(BLOCK - 64)
    for slot, data in slots.items():
        out[slot * bytes_each:slot * bytes_each + len(data)] = data
    return bytes(out)


def map_leaf():
    entries = {
        1: struct.pack("<QI", 1, 0),
        2: struct.pack("<QI", location(7, 9), 0xDEADBEEF),
        335: struct.pack("<QI", location((1 << 40) - 1, (1 << 24) - 1), 1),
    }
    return page(1, 0, 3, 4, 5, 0x0102030405, spread(entries, 12))


def map_inner():
    children = {0: struct.pack("<Q", location(3, 4)), 503: struct.pack("<Q", location(5, 6))}
    return page(1, 2, 8, 9, 10, 11, spread(children, 8))


def segment_leaf():
    # epoch, owner, live, used, stream, state
    entries = {
        1: struct.pack("<QIIIBB", 1, 0, 10, 256, 1, 2),
        2: struct.pack("<QIIIBB", 0x0102030405060708, 0, 1 << 24, 0, 2, 1),
        125: struct.pack("<QIIIBB", 2, 0, 0, 1 << 24, 1, 1),
    }
    return page(2, 0, 12, 13, 14, 15, spread(entries, 32))


def segment_leaf_kept():
    entries = {3: struct.pack("<QIIIBBHQ", 2, 0, 0, 256, 1, 2, 0, 0x0102030405060708)}
    return page(2, 0, 12, 13, 14, 15, spread(entries, 32))


def first_root(size, segment_bytes):
    body = struct.pack("<HBBI", 1, 4, 0, 0) + VOLUME + struct.pack("<QQ", 1, 0)
    body += struct.pack("<QQQQ", size, segment_bytes, 0, 0)
    return sealed(b"HFRT", body + struct.pack("<QQIIQ", 1, 0, 0, 0, 1))


def root():
    body = struct.pack("<HBBI", 1, 4, 0, 0) + VOLUME
    body += struct.pack("<QQ", 0x1112, 0x1314)                        # epoch, number
    body += struct.pack("<QQ", 20 << 30, 32 << 20)                    # size, segment bytes
    body += struct.pack("<QQ", location(0x21, 0x22), location(0x23, 0x24))
    body += struct.pack("<QQII", 0x3132333435, 0x25, 0x26, 0)         # the log's position
    body += struct.pack("<QQ", 0x4142, 0)                             # next segment, features
    body += PARENT + struct.pack("<QI", 0x27, 0x2000)                 # the page segment
    return sealed(b"HFRT", body)


GRANDPARENT = b"\x10" + PARENT[1:]


def root_of_clone():
    body = struct.pack("<HBBI", 1, 4, 0, 0) + VOLUME
    body += struct.pack("<QQ", 0x1112, 0x1314) + struct.pack("<QQ", 20 << 30, 32 << 20)
    body += struct.pack("<QQ", location(0x21, 0x22), location(0x23, 0x24))
    body += struct.pack("<QQII", 0x3132333435, 0, 0, 0)
    body += struct.pack("<QQ", 0x4142, 7) + PARENT                    # cold, snapshots, lineage
    body += struct.pack("<QIIQQ", 0, 0, 2, 0x51, 0x52)                # ancestors, snapshots
    return sealed(b"HFRT", body)


def root_of_clone_lineage():
    ancestors = struct.pack("<Q", 0x10) + GRANDPARENT + struct.pack("<Q", 0x1F) + PARENT
    return sealed(b"HFRL", ancestors)


def snapshot():
    body = struct.pack("<HHI", 1, 0, 0) + VOLUME + struct.pack("<QQ", 0x51, 1_700_000_000)
    return sealed(b"HFSN", body + b"before-upgrade".ljust(64, b"\0")
                  + struct.pack("<QQ", 0x1112, 0x1314))


def pool_record():
    body = struct.pack("<II", 1, 0) + PARENT
    body += struct.pack("<QQQQQ", 32 << 20, 0x0102030405, 0x8000000000000001, 0, 0)
    return sealed(b"HFPL", body)


def pool_record_shared():
    body = struct.pack("<II", 1, 1) + PARENT
    body += struct.pack("<QQQQQ", 32 << 20, 0x0102030405, 0x8000000000000001, 0, 1)
    return sealed(b"HFPL", body + struct.pack("<HH", 7, 60))


def volume_record():
    body = struct.pack("<II", 1, 1) + VOLUME + struct.pack("<Q", 0x66554433)
    return sealed(b"HFVL", body + b"vm-1.disk_0".ljust(64, b"\0"))


def lease_checksum(data):
    crc = 0xFFFFFFFE
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc


assert lease_checksum(b"123456789") == 0xE8C7BB34


def lease_leader(magic, version, flags, sector, numbers, names, timestamp, behind, host_bits=()):
    """`numbers`: hosts, hosts max, owner id, owner generation, lver. `behind` the checksum: I/O
    timeout, write id, write generation, write timestamp."""
    head = struct.pack("<IIII5Q", magic, version, flags, sector, *numbers)
    head += b"".join(name.encode().ljust(48, b"\0") for name in names)
    head += struct.pack("<QQ", timestamp, 0)
    record = head + struct.pack("<IHHQQQ", lease_checksum(head), 0, *behind)
    bits = sum(1 << (host - 1) for host in host_bits)
    return (record.ljust(256, b"\0") + bits.to_bytes(256, "little")).ljust(sector, b"\0")


def lease_host():
    return lease_leader(0x12212010, 0x00030004, 0x10, 512, (0, 1, 1999, 0x0102030405, 0),
                        (SPACE_NAME, "host-c.00c0ffee00c0ffee" + "x" * 25), 0x0A0B0C0D,
                        (5, 0x21, 0x22, 0x23), (1, 10, 2000))


def lease_volume():
    return lease_leader(0x06152010, 0x00060004, 0x81, 4096,
                        (1000, 2000, 3, 0x0102030405, 0x1112131415), (SPACE_NAME, VOLUME_NAME),
                        0x0A0B0C0D, (0, 4, 0x22, 0x23))


def lease_block():
    head = struct.pack("<6Q", 0x0FA3, 0x07D3, 3, 0x0102030405, 0x0A0B0C0D, 0x1112131415)
    mode = struct.pack("<IIQ", 1, 0, 0x2122232425)
    return (head + struct.pack("<II", lease_checksum(head), 1)).ljust(128, b"\0") + mode


def lease_request():
    return struct.pack("<IIQII", 0x08292011, 0x00010001, 0x1112131416, 2, 0)


def changed(data, offset, value):
    return data[:offset] + value + data[offset + len(value):]


def write_seeds():
    """A byte of flags (1: make the checksum right), then the block without the zeros at its end."""
    seeds = {
        "record": {"golden": (0, record()), "resealed": (1, record()),
                   "two_extents": (1, changed(record(), 52, b"\2")),
                   "other_version": (1, changed(record(), 8, b"\2"))},
        "page": {"map_leaf": (1, map_leaf()), "map_inner": (1, map_inner()),
                 "segment_leaf": (1, segment_leaf()), "golden": (0, map_leaf()),
                 "empty": (1, page(1, 0, 3, 4, 5, 6, b""))},
        "root": {"golden": (0, root()), "resealed": (1, root()),
                 "feature": (1, changed(root(), 112, b"\1")),
                 "size": (1, changed(root(), 48, b"\1"))},
        "snapshot": {"golden": (0, snapshot() + root_of_clone() + root_of_clone_lineage()),
                     "resealed": (1, snapshot() + root_of_clone() + root_of_clone_lineage()),
                     "name": (1, changed(snapshot(), 48, b"\0") + root_of_clone()
                              + root_of_clone_lineage())},
        "pool_record": {"golden": (0, pool_record()), "resealed": (1, pool_record()),
                        "features": (1, changed(pool_record(), 64, b"\3\0\1")),
                        "shared": (1, pool_record_shared()),
                        "newer": (1, changed(pool_record(), 8, b"\2"))},
        "volume_record": {"golden": (0, volume_record()), "resealed": (1, volume_record()),
                          "behind_name": (1, changed(volume_record(), 60, b"x"))},
        "lease_block": {"host": (2, lease_host()), "host_resealed": (3, lease_host()),
                        "volume": (4, lease_volume()), "volume_resealed": (5, lease_volume()),
                        "short_sector": (3, changed(lease_host(), 12, b"\0\x10")),
                        "block": (6, lease_block()), "block_resealed": (7, lease_block()),
                        "request": (0, lease_request()), "empty": (6, b"")},
    }
    for target, inputs in seeds.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, (flags, data) in inputs.items():
            (folder / name).write_bytes(bytes([flags]) + data.rstrip(b"\0"))
    texts = ["0", "512", "20G", "1.5T", "64MiB", "16384P", "18446744073709551615", "0.000001K",
             "1.", ".5G", "-1", "1.5", "20 G", "1e3", "7Kb", "999999999999999999999"]
    folder = CORPUS / "parse_bytes"
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"text_{number:02}").write_text(text)


def dump(data):
    lines = []
    for offset in range(0, len(data), 16):
        piece = data[offset:offset + 16]
        if any(piece):
            lines.append(f"{offset:04x}: {piece.hex()}\n")
    return "".join(lines)


def pattern(block, version):
    return (b"HOLD" + struct.pack("<IQ", version, block)) * (BLOCK // 16)


def rewritten_pool():
    """{name: bytes} of a pool whose daemon died while it wrote records again after a failed sync.

    Segment 1 has records 1 to 3, the last one damaged; 2 has 4 and 5; 3 has 3 again, and 4 again
    but torn; 4 has 6; 5 begins with 8, behind a gap; 6 is of an epoch that has no root, and has 7.
    So 1 to 6 are restored. Record s writes block 50 + s; 5 also writes 51 anew, 6 discards 52."""
    segment_bytes = 1 << 20
    extents = {s: [(50 + s, 1, 1)] for s in range(1, 9)}
    extents[5] = [(51, 1, 1), (55, 1, 1)]
    extents[6] = [(56, 1, 1), (52, 1, 2)]
    payload = {s: [pattern(50 + s, 1)] for s in range(1, 9)}
    payload[5] = [pattern(51, 2), pattern(55, 1)]

    def segment(epoch, number, sequences):
        data = b""
        for sequence in sequences:
            place = (epoch, number, len(data) // BLOCK)
            data += record_header(place, sequence, 0, extents[sequence], payload[sequence])
            data += b"".join(payload[sequence])
        return bytearray(data.ljust(segment_bytes, b"\0"))

    segments = {(1, 1): segment(1, 1, [1, 2, 3]), (1, 2): segment(1, 2, [4, 5]),
                (1, 3): segment(1, 3, [3, 4]), (1, 4): segment(1, 4, [6]),
                (1, 5): segment(1, 5, [8]), (2, 6): segment(2, 6, [7])}
    segments[1, 1][5 * BLOCK + 9] ^= 1
    segments[1, 3][3 * BLOCK:4 * BLOCK] = bytes(BLOCK)
    pool = struct.pack("<II", 1, 0) + PARENT + struct.pack("<QQQQQ", segment_bytes, 0, 0, 0, 0)
    volume = struct.pack("<II", 1, 0) + VOLUME + struct.pack("<Q", 0) + b"golden".ljust(64, b"\0")
    folder = f"volumes/{VOLUME_NAME}"
    files = {"holdfast.pool": sealed(b"HFPL", pool),
             f"{folder}/volume": sealed(b"HFVL", volume),
             f"{folder}/root-{1:016x}-{0:016x}": first_root(10240 * BLOCK, segment_bytes)}
    for (epoch, number), data in segments.items():
        files[f"{folder}/seg-{epoch:016x}-{number:016x}"] = bytes(data)
    return files


def dump_pool(files):
    """As src/volume/golden_pool_test.cc does it."""
    text = []
    for name, data in sorted(files.items()):
        text.append(f"file {name}\n")
        last, starred = None, False
        for offset in range(0, len(data), 16):
            line = data[offset:offset + 16]
            if line != last:
                text.append(f"{offset:08x}: {line.hex()}\n")
            elif not starred:
                text.append("*\n")
            starred, last = line == last, line
        text.append(f"{len(data):08x}:\n")
    return "".join(text)


def unpack(dump, pool):
    """src/volume/golden_pool_test.cc says how a dump is written."""
    for line in dump.read_text().splitlines():
        if line.startswith("file "):
            path = pool / line[5:]
            path.parent.mkdir(parents=True, exist_ok=True)
            content, last = bytearray(), b""
        elif line != "*":
            offset = int(line[:8], 16)
            content += last * ((offset - len(content)) // 16)
            assert len(content) == offset, line
            last = bytes.fromhex(line[10:])
            content += last
            if not last:
                path.write_bytes(content)


def golden_content():
    """What Script in src/volume/golden_pool_test.cc leaves: {block: bytes}."""
    blocks = {n: pattern(n, 1) for n in [*range(40), 335, 337, 5000, 9000, 9001]}
    blocks |= {5: pattern(5, 2), 6: pattern(6, 3), 10239: pattern(10239, 4)}
    for gone in (10, 11, 12, 20, 21, 30, 31):
        del blocks[gone]
    blocks[100] = (b"\0" * 512 + b"\xab" * 488 + b"\xcd" * 100 + b"\xab" * 412).ljust(BLOCK, b"\0")
    return blocks


def family_content():
    """{volume or volume@snapshot: {block: bytes}} of the volumes of make_family() there."""
    first = {n: pattern(n, 1) for n in [*range(40), 335, 336, 337, 5000]} | {5: pattern(5, 2)}
    for gone in (10, 11, 12, 20, 21):
        del first[gone]
    first[100] = (b"\0" * 512 + b"\xab" * 1000).ljust(BLOCK, b"\0")
    second = golden_content()
    head = second | {n: pattern(n, 5) for n in [*range(20), 9500]}
    for gone in (335, 337):
        del head[gone]
    of_clone = {n: pattern(n, 6) for n in (1, 2, 8888, 8889)}
    clone = first | of_clone
    del clone[5000]
    return {f"{VOLUME_NAME}@first": first, f"{VOLUME_NAME}@second": second, VOLUME_NAME: head,
            "c10ecba9-7654-4210-8123-456789abcdef": clone,
            "d1e2cba9-7654-4210-8123-456789abcdef": of_clone}


def holds(folder, name, blocks, replays):
    """Whether the reader gets that content, out of the volume or its snapshot."""
    from read_pool import Volume
    directory, _, snapshot = name.partition("@")
    volume = Volume(folder / "volumes" / directory, snapshot or None)
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image"
        damaged = volume.write_to(image)
        content = image.read_bytes()
    expected = bytearray(10240 * BLOCK)
    for number, data in blocks.items():
        expected[number * BLOCK:(number + 1) * BLOCK] = data
    return not damaged and content == expected and (volume.replayed in replays)


def check_pool(dump, contents, replays):
    with tempfile.TemporaryDirectory() as directory:
        unpack(dump, Path(directory))
        return all([holds(Path(directory), name, blocks, replays)
                    for name, blocks in contents.items()])


def listing(pool):
    """The lines of `read_pool.py POOL`."""
    import contextlib
    import io
    from read_pool import list_pool
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        list_pool(pool)
    return out.getvalue().splitlines()


def check_listing(dump, expected):
    with tempfile.TemporaryDirectory() as directory:
        unpack(dump, Path(directory))
        return listing(Path(directory)) == expected


def check_leases():
    """A shared pool of which only the records and the leases are there."""
    names = (SPACE_NAME, VOLUME_NAME)
    with tempfile.TemporaryDirectory() as directory:
        pool = Path(directory)
        volume = pool / "volumes" / VOLUME_NAME
        volume.mkdir(parents=True)
        (pool / "holdfast.pool").write_bytes(pool_record_shared())
        (pool / "hosts").write_bytes((bytes(512 * 1998) + lease_host()).ljust(1 << 20, b"\0"))
        (volume / "volume").write_bytes(volume_record())
        lines = []
        for timestamp in (77, 0):
            leader = lease_leader(0x06152010, 0x00060004, 0x10, 512, (2000, 2000, 1999, 9, 12),
                                  names, timestamp, (0, 0, 0, 0))
            (volume / "lease").write_bytes(leader)
            lines += [line for line in listing(pool) if not line.endswith("damaged")]
    before = ["shared: I/O timeout 7 s, watchdog allowance 60 s",
              f"host 1999: host-c.00c0ffee00c0ffee{'x' * 25}, generation {0x0102030405}, "
              f"renewed at {0x0A0B0C0D} s of its clock", f"{VOLUME_NAME} vm-1.disk_0"]
    return lines == [*before, "  lease: held by host 1999 (generation 9), epoch 12",
                     *before, "  lease: free, epoch 12"]


def main():
    if sys.argv[1:] == ["--seeds"]:
        write_seeds()
        return 0
    files = {"record": record(), "record_of_copies": record_of_copies(),
             "page_map_leaf": map_leaf(), "page_map_inner": map_inner(),
             "page_segment_leaf": segment_leaf(), "page_segment_leaf_kept": segment_leaf_kept(),
             "root": root(), "root_of_clone": root_of_clone(),
             "root_of_clone_lineage": root_of_clone_lineage(), "snapshot": snapshot(),
             "pool_record_shared": pool_record_shared(),
             "lease_host": lease_host(), "lease_volume": lease_volume(),
             "lease_block": lease_block(), "lease_request": lease_request()}
    texts = {f"{name}.hex": dump(data) for name, data in files.items()}
    texts["pool_v1_rewritten.dump"] = dump_pool(rewritten_pool())
    bad = 0
    for name, text in texts.items():
        path = TESTDATA / name
        if sys.argv[1:] == ["--write"]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path}: differs from what docs/format.md describes", file=sys.stderr)
            bad += 1
    rewritten = {n: pattern(n, 1) for n in (53, 54, 55, 56)} | {51: pattern(51, 2)}
    for name, blocks, replays in (("pool_v1_closed", golden_content(), [0]),
                                  ("pool_v1_killed", golden_content(), range(1, 100)),
                                  ("pool_v1_rewritten", rewritten, [6])):
        if not check_pool(TESTDATA / f"{name}.dump", {VOLUME_NAME: blocks}, replays):
            print(f"{name}: docs/format.md does not lead to its content", file=sys.stderr)
            bad += 1
    family = TESTDATA / "pool_v1_family.dump"
    lines = ["c10ecba9-7654-4210-8123-456789abcdef branch",
             "d1e2cba9-7654-4210-8123-456789abcdef removed (in the trash)",
             f"{VOLUME_NAME} golden", f"{VOLUME_NAME}@first", f"{VOLUME_NAME}@second"]
    if not check_pool(family, family_content(), [0]) or not check_listing(family, lines):
        print("pool_v1_family: docs/format.md does not lead to its content", file=sys.stderr)
        bad += 1
    if not check_leases():
        print("docs/format.md does not lead to what the leases of a pool say", file=sys.stderr)
        bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
