# SPDX-License-Identifier: Apache-2.0
"""The programs that the bench sets side by side: each serves one fresh disk, over NBD or over
vhost-user."""

import os
import shutil
import time
from pathlib import Path

from support import programs
from support.daemon import Daemon

EXPORT = "disk"


class Server:
    """One disk of `size_bytes`, served until close(). `uri` is what fio gets."""

    name = ""
    note = ""

    is_vhost = False

    def __init__(self, directory, size_bytes):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True)
        self.size_bytes = size_bytes
        self.socket = self.directory / "disk.sock"
        self.process = None
        self.log = open(self.directory / "server.log", "wb")
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    @classmethod
    def can(cls, options):
        """Whether a workload of these options makes sense for it."""
        return True

    @property
    def uri(self):
        return f"nbd+unix:///{EXPORT}?socket={self.socket}"

    @property
    def pid(self):
        return self.process.pid

    def open(self):
        raise NotImplementedError

    def serve(self, *command):
        self.process = programs.start(command, stdout=self.log, stderr=self.log)
        programs.wait_until(lambda: self.socket.exists() or self.process.poll() is not None, 20,
                            f"{self.name} to listen", step_seconds=0.01)
        if self.process.poll() is not None:
            self.log.flush()
            said = (self.directory / "server.log").read_text(errors="replace")[-500:]
            raise RuntimeError(f"{self.name} ended at its start: {said}")

    def close(self):
        if self.process is not None:
            programs.stop(self.process)
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def cpu_seconds(self):
        """User and system time of all its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self):
        return programs.memory_bytes(self.pid, "VmHWM")

    def sparse_file(self, name="disk.raw"):
        path = self.directory / name
        with open(path, "wb") as file:
            file.truncate(self.size_bytes)
        return path


class Holdfast(Server):
    name = "holdfast"
    note = "a local dir: pool, default settings"
    attach_options = ()

    def open(self):
        self.daemon = Daemon(self.directory)
        self.daemon.start()
        self.process = self.daemon.process
        self.daemon.create_pool("pool")
        self.daemon.call("volume", "create", f"pool/{EXPORT}", "--size", str(self.size_bytes))
        attached = self.daemon.call("attach", f"pool/{EXPORT}", *self.attach_options)
        self.socket = attached["socket"]

    def close(self):
        self.process = self.process or self.daemon.process
        super().close()


class HoldfastVhost(Holdfast):
    is_vhost = True
    attach_options = ("--vhost",)


class QemuStorageDaemon(Server):
    image_format = ""

    def open(self):
        image = self.directory / f"disk.{self.image_format}"
        programs.run("qemu-img", "create", "-q", "-f", self.image_format, image, self.size_bytes)
        self.serve(
            "qemu-storage-daemon",
            "--blockdev",
            f"driver=file,node-name=file,filename={image},cache.direct=on,aio=io_uring",
            "--blockdev", f"driver={self.image_format},node-name=disk,file=file",
            *self.export_options())

    def export_options(self):
        return ("--nbd-server", f"addr.type=unix,addr.path={self.socket},max-connections=16",
                "--export", f"type=nbd,id=export,node-name=disk,name={EXPORT},writable=on")


class QemuRaw(QemuStorageDaemon):
    name = "qemu raw"
    note = "qemu-storage-daemon, cache.direct=on, aio=io_uring"
    image_format = "raw"


class QemuQcow2(QemuStorageDaemon):
    name = "qemu qcow2"
    note = "the same with qcow2"
    image_format = "qcow2"


class VhostExport:
    """Makes a QemuStorageDaemon export over vhost-user."""

    is_vhost = True

    def export_options(self):
        return ("--export", "type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues=4,"
                f"addr.type=unix,addr.path={self.socket}")


class QemuRawVhost(VhostExport, QemuRaw):
    pass


class QemuQcow2Vhost(VhostExport, QemuQcow2):
    pass


class NbdkitFile(Server):
    name = "nbdkit file"
    note = "writes to the page cache, so its writes without a flush are memory speed"

    def open(self):
        self.serve("nbdkit", "-f", "-U", self.socket, "-e", EXPORT, "file", self.sparse_file())


class RawFile(Server):
    name = "raw file"
    note = "no server: fio's io_uring engine on the file, direct"

    @classmethod
    def can(cls, options):
        return "numjobs" not in options or options["numjobs"] == 1

    def open(self):
        self.path = self.sparse_file()

    def cpu_seconds(self):
        return None

    def peak_bytes(self):
        return None


OVER_NBD = [Holdfast, QemuRaw, QemuQcow2, NbdkitFile, RawFile]
OVER_VHOST = [HoldfastVhost, QemuRawVhost, QemuQcow2Vhost, RawFile]


def settle():
    """What one server left to be written must not be paid by the next."""
    os.sync()
    time.sleep(0.3)
