# SPDX-License-Identifier: Apache-2.0
"""A Ceph of one node on 127.0.0.1: a monitor, OSDs that keep everything in memory, and a manager
where a test wants to know about space.

Run as a program, it writes the streams that the unit tests read:
  python3 -B tests/support/ceph.py write_streams DIRECTORY
"""

import json
import shutil
import socket
import sys
import tempfile
import time
import unittest
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import programs  # noqa: E402: the line above finds it

POOL = "rbd"

CONFIGURATION = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{port}
ms bind ipv6 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
auth cluster required = {auth}
auth service required = {auth}
auth client required = {auth}
run dir = {directory}
admin socket = {directory}/$name.asok
pid file = {directory}/$name.pid
log file = {directory}/$name.log
crash dir = {directory}/crash
keyring = {directory}/keyring
setuser =
setgroup =
mon data = {directory}/mon
osd data = {directory}/$name
osd objectstore = memstore
osd fast shutdown = false
memstore device bytes = {device_bytes}
mgr data = {directory}/$name
mgr stats period = 1
mgr tick period = 1
mon cpu threads = 1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false
mon data avail crit = 1
mon data avail warn = 1
mon osd full ratio = 0.99
osd max object name len = 256
osd max object namespace len = 64
osd class load list = *
osd class default list = *
rbd default features = 1
rbd cache = false
plugin dir = /usr/lib/ceph
"""


def missing(*more):
    """What of Ceph is not installed; empty: nothing."""
    return [name for name in ("ceph-mon", "ceph-osd", "monmaptool", "rbd", "ceph", *more)
            if shutil.which(name) is None]


def require(*more):
    """Skips the test where there is no Ceph."""
    if missing(*more):
        raise unittest.SkipTest(
            f"{', '.join(missing(*more))} is not installed (tools/install_packages test)")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Ceph:
    """Its files are in a directory below `directory`; end() stops what start() started."""

    def __init__(self, directory, osds=1, with_manager=False, with_keys=False, device_bytes=2**31):
        self.directory = Path(directory) / "ceph"
        self.configuration = self.directory / "ceph.conf"
        self.osd_count = osds
        self.with_manager = with_manager
        self.with_keys = with_keys  # clients and daemons prove who they are (cephx)
        self.device_bytes = device_bytes
        self.monitor = self.manager = None
        self.osds = []

    def start(self, timeout_seconds=60):
        self.directory.mkdir()
        fsid = str(uuid.uuid4())
        port = free_port()
        self.configuration.write_text(CONFIGURATION.format(
            fsid=fsid, port=port, directory=self.directory, device_bytes=self.device_bytes,
            auth="cephx" if self.with_keys else "none"))
        monmap = self.directory / "monmap"
        programs.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a",
                     f"[v2:127.0.0.1:{port}]", monmap)
        keys = self._make_keys() if self.with_keys else []
        programs.run("ceph-mon", "-c", self.configuration, "--mkfs", "-i", "a", "--monmap", monmap,
                     *keys)
        self.start_monitor()
        for number in range(self.osd_count):
            self._make_osd(number, timeout_seconds)
        if self.with_manager:
            self._make_manager()
        self.ceph("osd", "pool", "create", POOL, "8", "8")
        programs.wait_until(
            lambda: f"{self.osd_count} up" in self.ceph("osd", "stat").stdout, timeout_seconds,
            "the OSDs to be up")
        self.rbd("pool", "init", POOL, timeout=timeout_seconds)
        if self.with_manager:
            programs.wait_until(lambda: self.free_bytes(POOL), timeout_seconds,
                                "the manager to tell the free space", step_seconds=0.2)
        return self

    def _make_keys(self):
        keyring = self.directory / "keyring"
        everything = [word for part in ("mon", "osd", "mgr") for word in ("--cap", part, "allow *")]
        programs.run("ceph-authtool", "--create-keyring", keyring)
        for name in ["mon.", "client.admin", "mgr.x",
                     *(f"osd.{number}" for number in range(self.osd_count))]:
            programs.run("ceph-authtool", keyring, "--gen-key", "-n", name, *everything)
        return ["--keyring", keyring]

    def _make_osd(self, number, timeout_seconds):
        (self.directory / f"osd.{number}").mkdir()
        osd_uuid = str(uuid.uuid4())
        self.ceph("osd", "new", osd_uuid, str(number), timeout=timeout_seconds)
        programs.run("ceph-osd", "-c", self.configuration, "-i", number, "--mkfs", "--osd-uuid",
                     osd_uuid)
        self.osds.append(None)
        self.start_osd(number)
        self.ceph("osd", "crush", "add", f"osd.{number}", "1", "host=here", "root=default")

    def _make_manager(self):
        (self.directory / "mgr.x").mkdir()
        self.manager = self._spawn("ceph-mgr", "x")

    def start_monitor(self):
        self.monitor = self._spawn("ceph-mon", "a")

    def start_osd(self, number=0):
        """What an OSD has in memory survives only an orderly stop."""
        self.osds[number] = self._spawn("ceph-osd", number)

    def stop_osd(self, number=0):
        self.osds[number].terminate()
        self.osds[number].wait(60)

    def _spawn(self, program, name):
        log = open(self.directory / f"{program}.{name}.out", "ab")  # closed with its own copy
        with log:
            return programs.start([program, "-f", "-c", self.configuration, "-i", name],
                                  stdout=log, stderr=log)

    def end(self):
        for process in [self.manager, *reversed(self.osds), self.monitor]:
            if process is not None:
                process.kill()
                process.wait()
        self.manager = self.monitor = None
        self.osds = []

    def create_pool(self, name, pgs=8):
        self.ceph("osd", "pool", "create", name, pgs, pgs)
        self.ceph("osd", "pool", "application", "enable", name, "holdfast")

    def free_bytes(self, pool):
        """As `ceph df` has it; None: not known yet."""
        pools = json.loads(self.ceph("df", "--format", "json").stdout)["pools"]
        return next((each["stats"]["max_avail"] for each in pools if each["name"] == pool), None)

    def rados(self, *arguments, timeout=60, **options):
        return programs.run("rados", "-c", self.configuration, *arguments, timeout=timeout,
                            **options)

    def ceph(self, *arguments, timeout=60):
        return programs.run("ceph", "-c", self.configuration, *arguments, timeout=timeout)

    def rbd(self, *arguments, timeout=60, **options):
        return programs.run(*self.rbd_command(*arguments), timeout=timeout, **options)

    def rbd_command(self, *arguments):
        return ["rbd", "-c", self.configuration, *arguments]

    def write(self, image, data, offset_bytes, scratch):
        """Writes bytes at an offset of an image, through librbd in qemu-io."""
        source = Path(scratch) / "rbd-write"
        source.write_bytes(data)
        programs.run("qemu-io", "-f", "raw", f"rbd:{POOL}/{image}:conf={self.configuration}",
                     "-c", f"write -s {source} {offset_bytes} {len(data)}", "-c", "flush")

    def discard(self, image, offset_bytes, length_bytes):
        programs.run("qemu-io", "-f", "raw", "-d", "unmap",
                     f"rbd:{POOL}/{image}:conf={self.configuration}",
                     "-c", f"discard {offset_bytes} {length_bytes}", "-c", "flush")

    def export_diff(self, path, name, since=None):
        path.unlink(missing_ok=True)
        extra = ["--from-snap", since] if since else []
        self.rbd("export-diff", "--no-progress", *extra, f"{POOL}/{name}", path)
        return path


def write_streams(directory):
    """The golden streams of src/base/testdata."""
    scratch = Path(tempfile.mkdtemp(prefix="holdfast-ceph-", dir="/var/tmp"))
    cluster = Ceph(scratch)
    try:
        began = time.monotonic()
        cluster.start()
        print(f"up after {time.monotonic() - began:.1f} s")
        cluster.rbd("create", "--size", "3M", "--object-size", "64K", f"{POOL}/img")
        cluster.write("img", b"first" * 100, 4096, scratch)
        cluster.write("img", b"gone" * 128, 131072, scratch)
        cluster.rbd("snap", "create", "--no-progress", f"{POOL}/img@a")
        cluster.write("img", b"second" * 50, 1048576 + 512, scratch)
        cluster.discard("img", 131072, 65536)
        cluster.rbd("snap", "create", "--no-progress", f"{POOL}/img@b")
        cluster.rbd("resize", "--no-progress", "--size", "4M", f"{POOL}/img")
        cluster.write("img", b"third" * 60, 3 * 1048576, scratch)
        target = Path(directory)
        cluster.export_diff(target / "rbd_diff_a", "img@a")
        cluster.export_diff(target / "rbd_diff_a_b", "img@b", "a")
        cluster.export_diff(target / "rbd_diff_b_head", "img", "b")
        (target / "rbd_image").unlink(missing_ok=True)
        cluster.rbd("export", "--no-progress", "--export-format", "2", f"{POOL}/img",
                    target / "rbd_image")
    finally:
        cluster.end()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "write_streams":
        sys.exit(__doc__)
    write_streams(sys.argv[2])
