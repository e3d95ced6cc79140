#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed with SIGKILL under vhost-user load: every request that was in flight
completes exactly once and without an error, and every sector holds what it must."""

import os
import random
import shutil
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from support import programs
from support.daemon import MIB, HoldfastTest, test_root
from support.vhost import StorageDaemon, VhostLoad, describe_stalls

ROUNDS = int(os.environ.get("HOLDFAST_KILL_ROUNDS", "100"))


class KillVhost(HoldfastTest):
    def attach_new(self, name, size):
        self.daemon.call("volume", "create", f"pool/{name}", "--size", size)
        return self.daemon.call("attach", f"pool/{name}", "--vhost")["socket"]

    def kill_while_it_recovers(self, random_source, times):
        for _ in range(times):
            process = programs.start(self.daemon.command_line(), stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            time.sleep(random_source.uniform(0.001, 0.4))
            process.kill()
            process.wait()

    def kill_rounds(self, load, rounds, seed):
        random_source = random.Random(seed)
        for _ in range(rounds):
            load.wait_loading()
            time.sleep(random_source.uniform(0.01, 0.4))
            self.daemon.kill()
            if random_source.random() < 0.3:
                self.kill_while_it_recovers(random_source, random_source.randint(1, 4))
            self.daemon.start()
            load.verify()
        load.stop()

    def test_every_request_in_flight_at_sigkill_completes_once(self):
        self.daemon.create_pool()
        load = VhostLoad(self, [self.attach_new("disk", "128M")], queues=4, depth=32)
        self.kill_rounds(load, ROUNDS, seed=1)
        print(f"{len(load.lost)} kills with {sum(load.lost)} requests in flight, "
              f"{sum(load.completed)} completed, {describe_stalls(load.stalls_us)}")
        self.assertGreaterEqual(len(load.lost), ROUNDS)
        # Kills of an idle daemon would prove nothing.
        self.assertGreater(sum(load.lost), 20 * ROUNDS)

    def test_one_queue_of_small_requests_survives_sigkill(self):
        self.daemon.create_pool(segment_size="2M")
        rounds = max(1, ROUNDS // 5)
        load = VhostLoad(self, [self.attach_new("disk", "64M")], queues=1, depth=128,
                         disk_bytes=8 * MIB, request_bytes_max=8192, seed=2)
        self.kill_rounds(load, rounds, seed=2)
        print(f"{len(load.lost)} kills, {describe_stalls(load.stalls_us)}")
        self.assertGreater(sum(load.lost), 20 * rounds)

    def test_a_clean_restart_is_no_error_either(self):
        self.daemon.create_pool()
        load = VhostLoad(self, [self.attach_new("disk", "128M")], queues=2, depth=16, seed=3)
        for _ in range(3):
            load.wait_loading()
            time.sleep(0.2)
            self.daemon.restart()
            load.verify()
        load.stop()
        self.assertEqual(len(load.lost), 3)

    def test_fifty_volumes_resume_after_one_sigkill(self):
        self.daemon.create_pool(segment_size="2M")
        sockets = [self.attach_new(f"disk{number}", "16M") for number in range(50)]
        load = VhostLoad(self, sockets, queues=1, depth=4, disk_bytes=4 * MIB,
                         request_bytes_max=65536, pause_ms=50, seed=4)
        for _ in range(3):
            load.wait_loading()
            time.sleep(0.5)
            self.daemon.kill()
            self.daemon.start()
            load.verify()
        load.stop()
        print(f"50 volumes, 3 kills: {describe_stalls(load.stalls_us)}")
        self.assertEqual(len(load.stalls_us), 150)


class Harness(unittest.TestCase):
    """The load generator must catch a server that damages or forgets, or it proves nothing."""

    def setUp(self):
        self.directory = Path(tempfile.mkdtemp(prefix="holdfast-", dir=test_root()))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.server = StorageDaemon(self, self.directory, 64 * MIB)

    def load(self, **options):
        load = VhostLoad(self, [self.server.socket], disk_bytes=16 * MIB, **options)
        load.wait_loading()
        time.sleep(0.3)
        return load

    def test_a_good_server_passes(self):
        load = self.load(queues=4, depth=32)
        load.verify()
        time.sleep(0.2)
        load.stop()
        self.assertGreater(load.completed[0], 200)
        self.assertEqual(load.lost, [])

    def test_a_server_that_damages_a_sector_is_caught(self):
        load = self.load(queues=1, depth=4)
        with open(self.server.path, "r+b") as file:
            for sector in range(100, 32768, 1000):  # not all may be written again before the check
                file.seek(sector * 512 + 100)
                file.write(b"damage")
        with self.assertRaisesRegex(AssertionError, "DAMAGED"):
            load.stop()

    def test_a_server_that_forgets_writes_is_caught(self):
        load = self.load(queues=1, depth=4)
        old = self.server.path.read_bytes()[:16 * MIB]
        time.sleep(0.3)
        with open(self.server.path, "r+b") as file:
            file.write(old)
        with self.assertRaisesRegex(AssertionError, "WRONG VERSION"):
            load.stop()

    def test_a_server_that_misplaces_a_sector_is_caught(self):
        load = self.load(queues=1, depth=4)
        bytes_now = self.server.path.read_bytes()[:16 * MIB]
        written = [start for start in range(0, len(bytes_now), 512)
                   if any(bytes_now[start:start + 8])]
        with open(self.server.path, "r+b") as file:
            for start in written[1:]:
                file.seek(start)
                file.write(bytes_now[written[0]:written[0] + 512])
        with self.assertRaisesRegex(AssertionError, "MISPLACED"):
            load.stop()


if __name__ == "__main__":
    unittest.main()
