# SPDX-License-Identifier: Apache-2.0
"""The load generator tests/vhost_load.cc, and a peer to try it on."""

import os
import select
import subprocess
import time

from support import programs


class VhostLoad:
    """vhost_load on some sockets; what it says is kept in lost, stalls_us and completed."""

    def __init__(self, test, sockets, **options):
        self.disk_count = len(sockets)
        words = [programs.binary_directory() / "vhost_load"]
        for socket in sockets:
            words += ["--socket", socket]
        for name, value in options.items():
            words += ["--" + name.replace("_", "-"), value]
        self.process = programs.start(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE)
        test.addCleanup(self.end)
        self.buffer = b""
        self.lost = []        # requests in flight at each loss
        self.stalls_us = []   # of each resumption
        self.completed = [0] * self.disk_count
        self.loading = 0
        self.verified = 0

    def end(self):
        programs.stop(self.process)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()

    def wait_loading(self):
        """Each disk's load flows (again)."""
        self._read_until(lambda: self.loading >= self.disk_count + self.verified, "to load")

    def verify(self):
        """All in flight completes, and every sector of every disk is as it must be."""
        wanted = self.verified + self.disk_count
        self._say("verify")
        self._read_until(lambda: self.verified >= wanted, "to verify")

    def stop(self):
        """The same, and the end."""
        wanted = self.verified + self.disk_count
        self._say("stop")
        self._read_until(lambda: self.verified >= wanted, "to stop")
        if self.process.wait(30) != 0:
            raise AssertionError(self._last_words())

    def _say(self, word):
        try:
            os.write(self.process.stdin.fileno(), word.encode() + b"\n")
        except BrokenPipeError:
            raise AssertionError(self._last_words()) from None

    def _last_words(self):
        self.process.wait()
        return (f"vhost_load ended with status {self.process.returncode}: "
                + self.process.stderr.read().decode(errors="replace").strip())

    def _read_until(self, condition, what, timeout_seconds=180):
        deadline = time.monotonic() + timeout_seconds
        while True:
            while b"\n" in self.buffer:
                line, _, self.buffer = self.buffer.partition(b"\n")
                self._take(line.decode().split())
            if condition():
                return
            left = max(0, deadline - time.monotonic())
            if not select.select([self.process.stdout], [], [], left)[0]:
                raise AssertionError(f"waited {timeout_seconds} s for vhost_load {what}")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                raise AssertionError(self._last_words())
            self.buffer += piece

    def _take(self, words):
        event, disk, number = words[0], int(words[1]), int(words[2])
        if event == "loading":
            self.loading += 1
        elif event == "lost":
            self.lost.append(number)
        elif event == "resumed":
            self.stalls_us.append(number)
        elif event == "verified":
            self.verified += 1
            self.completed[disk] = number
        else:
            raise AssertionError("vhost_load says " + " ".join(words))


class StorageDaemon:
    """qemu-storage-daemon with a vhost-user-blk export of a sparse raw file."""

    def __init__(self, test, directory, size_bytes, queues=4, writable=True):
        self.path = directory / "disk.raw"
        with open(self.path, "wb") as file:
            file.truncate(size_bytes)
        self.socket = directory / "qsd.sock"
        self.process = programs.start([
            "qemu-storage-daemon", "--blockdev",
            f"driver=file,node-name=disk,filename={self.path},discard=unmap",
            "--export", "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,"
            f"addr.path={self.socket},num-queues={queues},writable={'on' if writable else 'off'}"])
        test.addCleanup(programs.stop, self.process)
        programs.wait_until(self.socket.exists, what="qemu-storage-daemon")


def describe_stalls(stalls_us):
    """Median, 90th percentile and maximum, for people."""
    if not stalls_us:
        return "no stalls"
    ordered = sorted(stalls_us)
    names = (("median", ordered[len(ordered) // 2]), ("p90", ordered[len(ordered) * 9 // 10]),
             ("max", ordered[-1]))
    return f"{len(ordered)} stalls, " + ", ".join(
        f"{name} {value / 1e6:.3f} s" for name, value in names)
