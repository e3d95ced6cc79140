# SPDX-License-Identifier: Apache-2.0
"""A host that uses our leases, without a daemon: tests/lease_contender.cc says what it can do."""

import queue
import subprocess
import threading

from support import programs


def make_pool(directory, io_timeout=1, watchdog=0, volumes=1):
    """Returns the pool's id and those of its volumes, as text."""
    done = programs.run(programs.binary_directory() / "lease_contender", "make", directory,
                        io_timeout, watchdog, volumes)
    pool, *ids = done.stdout.split()
    return pool, ids


class LeaseContender:
    def __init__(self, directory, name):
        self.name = name
        self.process = programs.start(
            [programs.binary_directory() / "lease_contender", "run", directory, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.host_id = None

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))

    def next_line(self, timeout_seconds=120):
        """The next line of its own; what it logs is passed over."""
        try:
            return self.lines.get(timeout=timeout_seconds)
        except queue.Empty:
            raise AssertionError(f"{self.name} said nothing for {timeout_seconds} s; its exit "
                                 f"status is {self.process.poll()}") from None

    def joined(self):
        """Returns once it is a host of the pool."""
        words = self.next_line().split()
        assert words[0] == "joined", words
        self.host_id, self.generation = int(words[1]), int(words[2])
        return self

    def tell(self, *words):
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()

    def ask(self, *words):
        self.tell(*words)
        return self.next_line()

    def wait_until_held(self, volume):
        """Returns its lver."""
        line = self.ask("wait", volume)
        while line.startswith("waits for "):
            line = self.next_line()
        word, lver = line.split(maxsplit=1)
        assert word == "held", line
        return int(lver)

    def leave(self):
        """Gives up its leases and its host id."""
        self.process.stdin.close()
        status = self.process.wait(60)
        assert status == 0, f"{self.name} ended with status {status}: {list(self.lines.queue)}"
        self._close()

    def kill(self):
        """SIGKILL: the death of the host, as far as others see it."""
        self.process.kill()
        self._close()

    def _close(self):
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()
        if not self.process.stdin.closed:
            self.process.stdin.close()

    def end(self):
        if self.process.poll() is None:
            self.kill()
        elif not self.process.stdout.closed:
            self._close()
