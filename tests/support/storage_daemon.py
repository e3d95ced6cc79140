# SPDX-License-Identifier: Apache-2.0
"""qemu-storage-daemon in the place of holdfastd, for the guest tests: what fails with both is not
Holdfast's. It takes the few `holdfast` commands that those tests use, on raw files."""

import subprocess

from support import programs
from support.qmp import Qmp

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
QUEUES = 4


class StorageDaemon:
    def __init__(self, directory):
        self.directory = directory
        self.runtime = directory / "run"
        self.log_path = directory / "run.log"
        self.attached = {}
        self.process = None
        self.qmp = None

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        self.runtime.mkdir(exist_ok=True)
        socket = self.runtime / "qmp.sock"
        with open(self.log_path, "ab") as log:
            self.process = programs.start(
                ["qemu-storage-daemon", "--chardev", f"socket,id=qmp,path={socket},server=on,"
                 "wait=off", "--monitor", "chardev=qmp"], stdout=log, stderr=subprocess.STDOUT)
        self.qmp = Qmp(socket)

    def stop(self):
        self.qmp.close()
        programs.stop(self.process)

    def end(self):
        if self.process is not None:
            self.stop()

    def log_tail(self):
        return self.log_path.read_text(errors="replace")[-3000:]

    def create_pool(self):
        (self.directory / "pool").mkdir()

    def volume(self, name="pool/disk"):
        blocks = self.file(name).stat().st_blocks * 512
        return {"id": "vhost_user_blk", "allocated_bytes": blocks,
                "statistics": {"live_bytes": blocks, "errors": 0, "flushes": 0}}

    def file(self, name):
        return self.directory / name

    def call(self, *words):
        command, words = words[0], list(words[1:])
        if command == "volume":
            return getattr(self, "volume_" + words[0])(*words[1:])
        return getattr(self, command)(*words)

    def volume_create(self, name, _, size):
        self.file(name).touch()
        with open(self.file(name), "r+b") as file:
            file.truncate(int(size[:-1]) * UNITS[size[-1]])

    def volume_resize(self, name, _, size):
        self.qmp.execute("block_resize", node_name=self.attached[name],
                         size=int(size[:-1]) * UNITS[size[-1]])

    def attach(self, name, protocol, *options):
        read_only = "--read-only" in options
        node = name.replace("/", ".")
        socket = self.runtime / f"{node}.{protocol.lstrip('-')}.sock"
        self.qmp.execute(
            "blockdev-add", driver="raw", node_name=node, read_only=read_only, discard="unmap",
            file={"driver": "file", "filename": str(self.file(name)), "discard": "unmap"})
        address = {"type": "unix", "path": str(socket)}
        if protocol == "--vhost":
            self.qmp.execute("block-export-add", type="vhost-user-blk", id=node, node_name=node,
                             writable=not read_only, num_queues=QUEUES, addr=address)
        else:
            self.qmp.execute("nbd-server-start", addr={"type": "unix",
                                                       "data": {"path": str(socket)}})
            self.qmp.execute("block-export-add", type="nbd", id=node, node_name=node,
                             name="disk", writable=True)
        self.attached[name] = node
        return {"socket": str(socket), "protocol": protocol.lstrip("-"),
                "uri": f"nbd+unix:///disk?socket={socket}"}

    def detach(self, name):
        node = self.attached.pop(name)
        self.qmp.execute("block-export-del", id=node, mode="hard")
        self.qmp.wait_for_event("BLOCK_EXPORT_DELETED", id=node)
        self.qmp.execute("blockdev-del", node_name=node)
        for socket in self.runtime.glob(f"{node}.nbd.sock"):
            self.qmp.execute("nbd-server-stop")
            socket.unlink(missing_ok=True)
