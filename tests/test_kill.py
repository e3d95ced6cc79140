# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed with SIGKILL under load, and every acknowledged write is there after it."""

import os
import random
import select
import shutil
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from support import fio, programs
from support.daemon import HoldfastTest

ROUNDS = int(os.environ.get("HOLDFAST_KILL_ROUNDS", "50"))


class KillLoad:
    """The load generator tests/kill_load.cc, and its lines."""

    def __init__(self, test, socket, export, **options):
        words = [programs.binary_directory() / "kill_load", "--socket", socket, "--export", export]
        for name, value in options.items():
            words += ["--" + name.replace("_", "-"), value]
        self.process = programs.start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        test.addCleanup(self.end)
        self.buffer = b""

    def end(self):
        programs.stop(self.process)
        self.process.stdout.close()
        self.process.stderr.close()

    def has_line(self):
        return b"\n" in self.buffer or select.select([self.process.stdout], [], [], 0)[0]

    def next_line(self, expected, timeout_seconds=120):
        deadline = time.monotonic() + timeout_seconds
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.process.stdout], [], [],
                                        max(0, deadline - time.monotonic()))
            if not ready:
                raise AssertionError(f"kill_load said nothing for {timeout_seconds} s")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                self.process.wait()
                raise AssertionError("kill_load ended: " + self.process.stderr.read().decode())
            self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\n")
        words = line.decode().split()
        if words[0] != expected:
            raise AssertionError(f"kill_load says '{line.decode()}', expected '{expected}'")
        return [int(word) for word in words[1:]]


class Kill(HoldfastTest):
    def kill_rounds(self, rounds, **options):
        """Returns (acknowledged writes, in-doubt units that landed)."""
        random_source = random.Random(options.get("seed", 1))
        load = KillLoad(self, self.export_path(), "disk", rounds=rounds, **options)
        acknowledged = landed = 0
        load.next_line("verified")
        for round_number in range(rounds):
            self.assertEqual(load.next_line("loading"), [round_number])
            time.sleep(random_source.uniform(0.02, 0.4))
            self.assertFalse(load.has_line(), "the connection broke before the kill")
            self.daemon.kill()
            acknowledged += load.next_line("lost")[0]
            self.daemon.start()
            landed += load.next_line("verified")[1]
        load.next_line("done")
        self.assertEqual(load.process.wait(30), 0)
        return acknowledged, landed

    def test_every_acknowledged_write_survives_sigkill(self):
        self.daemon.create_pool()
        self.daemon.attach_new("pool/disk", "256M")
        acknowledged, landed = self.kill_rounds(ROUNDS)
        print(f"{ROUNDS} kills, {acknowledged} acknowledged writes, all there; "
              f"{landed} that were in flight landed too")
        # A load that writes nothing proves nothing.
        self.assertGreater(acknowledged, 100 * ROUNDS)

    def test_every_acknowledged_write_below_a_block_survives_sigkill(self):
        self.daemon.create_pool(segment_size="2M")
        self.daemon.attach_new("pool/disk", "64M")
        rounds = max(1, ROUNDS // 5)
        acknowledged, _ = self.kill_rounds(rounds, unit_bytes=512, units=65536, write_units_max=20,
                                           flush_percent=5, fua_percent=5, seed=2)
        self.assertGreater(acknowledged, 20 * rounds)

    def test_a_volume_is_open_soon_after_sigkill(self):
        self.daemon.create_pool()
        uri = self.daemon.attach_new("pool/disk", "4G")
        fio.run_jobs(uri, [{"rw": "randwrite", "bs": "4k", "iodepth": 32, "size": "4G",
                            "time_based": 1, "runtime": 5}], self.directory)
        self.daemon.kill()
        seconds = self.daemon.start()
        statistics = self.daemon.volume()["statistics"]
        print(f"open {seconds:.3f} s after SIGKILL, of it the volume "
              f"{statistics['open_time_seconds']:.3f} s, {statistics['replayed_records']} records")
        self.assertGreater(statistics["replayed_records"], 0)
        if not programs.is_sanitized():
            self.assertLess(seconds, 2.0)

    def test_a_daemon_killed_while_it_recovers_loses_nothing(self):
        self.daemon.create_pool(segment_size="2M")
        uri = self.daemon.attach_new("pool/disk", "64M")
        programs.run("qemu-io", "-f", "raw", uri, "-c", "write -P 9 0 48M", "-c", "flush")
        self.daemon.kill()
        random_source = random.Random(3)
        for _ in range(20):
            process = programs.start(self.daemon.command_line(), stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            time.sleep(random_source.uniform(0.001, 0.06))
            process.kill()
            process.wait()
        self.daemon.start()
        programs.run("qemu-io", "-f", "raw", uri, "-c", "read -P 9 0 48M", "-c",
                     "read -P 0 48M 16M")


class KillUnderFio(HoldfastTest):
    def test_what_fio_wrote_verifies_after_kills_under_its_load(self):
        """fio writes a range with checksums and ends, so all of it is acknowledged; then the daemon
        dies under another fio that writes elsewhere; after it the first range must verify."""
        self.daemon.create_pool()
        uri = self.daemon.attach_new("pool/disk", "512M")
        written = {"rw": "randwrite", "bs": "4k", "iodepth": 32, "size": "32M",
                   "verify": "crc32c", "verify_fatal": 1}
        load = {"rw": "randwrite", "bs": "4k", "iodepth": 32, "offset": "256M", "size": "128M",
                "time_based": 1, "runtime": 60}
        random_source = random.Random(6)
        for round_number in range(max(1, ROUNDS // 5)):
            place = {"offset": f"{32 * (round_number % 8)}M", "randseed": 100 + round_number}
            fio.run_jobs(uri, [{**written, **place, "do_verify": 0}], self.directory)
            noise = fio.start_job(uri, load, self.directory, "noise")
            before = self.daemon.volume()["statistics"]["writes"]
            programs.wait_until(
                lambda: self.daemon.volume()["statistics"]["writes"] > before + 100, 30, "the load")
            time.sleep(random_source.uniform(0.0, 0.1))
            self.assertIsNone(noise.poll(), "the load ended before the kill")
            self.daemon.kill()
            programs.stop(noise)
            self.daemon.start()
            fio.run_jobs(uri, [{**written, **place, "verify_only": 1}], self.directory)


class Harness(unittest.TestCase):
    """The load generator must catch a server that forgets, or it proves nothing."""

    def test_a_server_that_loses_writes_is_caught(self):
        directory = Path(tempfile.mkdtemp(prefix="holdfast-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        socket = directory / "nbd.sock"

        def serve():
            socket.unlink(missing_ok=True)
            server = programs.start(["nbdkit", "-f", "-U", socket, "-e", "disk", "memory", "128M"])
            self.addCleanup(programs.stop, server)
            programs.wait_until(socket.exists, what="nbdkit")
            return server

        server = serve()
        load = KillLoad(self, socket, "disk", rounds=2)
        load.next_line("verified")
        load.next_line("loading")
        time.sleep(0.2)
        server.kill()
        server.wait()
        load.next_line("lost")
        serve()
        with self.assertRaisesRegex(AssertionError, "LOST WRITE"):
            load.next_line("verified")
        self.assertEqual(load.process.wait(10), 1)


if __name__ == "__main__":
    unittest.main()
