# SPDX-License-Identifier: Apache-2.0
"""State survives a restart and SIGKILL; a second daemon is kept out."""

import json
import os
import shutil
import signal
import struct
import tempfile
import threading
import time
import unittest
from pathlib import Path

from support import nbd, programs
from support.daemon import MIB, Daemon, HoldfastTest, test_root


class Restart(HoldfastTest):
    def setUp(self):
        super().setUp()
        self.daemon.create_pool()
        self.uri = self.daemon.attach_new("pool/disk", "256M")
        self.daemon.call("volume", "create", "pool/reader", "--size", "64M")
        self.daemon.call("attach", "pool/reader", "--read-only")
        self.daemon.call("volume", "create", "pool/idle", "--size", "64M")

    def assert_all_is_back(self):
        listed = self.daemon.call("volume", "list")["volumes"]
        volumes = {volume["name"]: volume for volume in listed}
        self.assertEqual(sorted(volumes), ["disk", "idle", "reader"])
        self.assertEqual({name: volume["state"] for name, volume in volumes.items()},
                         {"disk": "serving", "reader": "serving", "idle": "detached"})
        self.assertTrue(volumes["reader"]["attachment"]["read_only"])
        self.assertFalse(volumes["disk"]["attachment"]["read_only"])
        programs.run("qemu-io", "-f", "raw", self.uri, "-c", "read -P 7 1M 1M", "-c",
                     "read -P 0 32M 1M")

    def test_pools_and_attachments_survive_a_clean_stop(self):
        programs.run("qemu-io", "-f", "raw", self.uri, "-c", "write -P 7 1M 1M")
        self.daemon.restart()
        self.assert_all_is_back()
        statistics = self.daemon.volume()["statistics"]
        self.assertEqual(statistics["replayed_records"], 0, "a clean stop leaves nothing to replay")

    def test_pools_and_attachments_survive_sigkill(self):
        programs.run("qemu-io", "-f", "raw", self.uri, "-c", "write -P 7 1M 1M")
        for _ in range(3):
            self.daemon.kill_and_start()
            self.assert_all_is_back()

    def test_what_was_attached_is_served_before_anything_is_answered(self):
        # A client that only waits for api.sock must find the export at once.
        for _ in range(5):
            self.daemon.kill_and_start()
            size = programs.run("nbdinfo", "--size", self.uri).stdout.strip()
            self.assertEqual(size, str(256 * MIB))

    def test_detach_and_close_survive_sigkill(self):
        self.daemon.call("detach", "pool/disk")
        self.daemon.kill_and_start()
        self.assertEqual(self.daemon.volume()["state"], "detached")
        self.daemon.call("detach", "pool/reader")
        self.daemon.call("pool", "close", "pool")
        self.daemon.kill_and_start()
        self.assertEqual(self.daemon.call("pool", "list")["pools"], [])

    def test_a_pool_that_is_away_at_the_start_is_shown_and_comes_back(self):
        programs.run("qemu-io", "-f", "raw", self.uri, "-c", "write -P 7 1M 1M")
        self.daemon.kill()
        away = self.directory / "pool-away"
        os.rename(self.directory / "pool", away)
        self.daemon.start()
        status = self.daemon.call("status")
        self.assertIn(status["pools"][0]["state"], ("failed", "opening"))
        self.assertTrue(status["pools"][0]["reason"])
        self.assertIn({volume["name"]: volume["state"] for volume in status["volumes"]}["disk"],
                      ("failed", "opening"))
        os.rename(away, self.directory / "pool")
        programs.wait_until(lambda: self.daemon.volume()["state"] == "serving",
                            what="the volume to be served once its pool is back")
        self.assert_all_is_back()

    def test_a_client_that_comes_before_its_volume_waits_and_is_served(self):
        programs.run("qemu-io", "-f", "raw", self.uri, "-c", "write -P 7 1M 1M")
        self.daemon.kill()
        away = self.directory / "pool-away"
        os.rename(self.directory / "pool", away)
        self.daemon.start()
        with nbd.Client(self.export_path(), timeout_seconds=30) as client:
            client.socket.settimeout(0.3)
            with self.assertRaises(TimeoutError, msg="it is greeted though the volume is not open"):
                client.receive(18)
            client.socket.settimeout(30)
            os.rename(away, self.directory / "pool")
            client.connect("disk")
            self.assertEqual(client.read(MIB, 4096), b"\x07" * 4096)

    def test_a_damaged_state_file_does_not_keep_the_daemon_down(self):
        self.daemon.kill()
        state = self.daemon.runtime / "state.json"
        self.assertTrue(state.exists())
        state.write_text(state.read_text()[: 40])
        self.daemon.process = None
        try:
            self.daemon.start()
        except AssertionError as error:
            # To refuse is right as well, when it is said which file and what to do.
            self.assertIn("state.json", str(error))
            self.daemon.process = None


class Writer(threading.Thread):
    """Writes numbered blocks, one after the other, over as many connections as it takes; each time
    it has connected, all that was acknowledged must be there."""

    BLOCKS = 512

    def __init__(self, path, export, number):
        super().__init__(daemon=True)
        self.path, self.export, self.number = path, export, number
        self.stopping = threading.Event()
        self.acknowledged = 0
        self.connections = 0
        self.greeted_at = None
        self.problem = None

    def stamp(self, sequence):
        return struct.pack("<QQ", self.number, sequence) * 256

    def check(self, client):
        for sequence in range(max(0, self.acknowledged - self.BLOCKS), self.acknowledged):
            found = client.read(sequence % self.BLOCKS * 4096, 4096)
            # The one write in flight may have replaced the oldest.
            in_doubt = sequence == self.acknowledged - self.BLOCKS
            if found != self.stamp(sequence) and not (
                    in_doubt and found == self.stamp(self.acknowledged)):
                raise AssertionError(f"volume {self.number}: block of write {sequence} is wrong")

    def write_until_cut_off(self):
        with nbd.Client(self.path, timeout_seconds=60) as client:
            client.greet()
            self.greeted_at = time.monotonic()
            client.go(self.export)
            self.check(client)
            self.connections += 1
            while not self.stopping.is_set():
                client.write(self.acknowledged % self.BLOCKS * 4096,
                             self.stamp(self.acknowledged))
                self.acknowledged += 1

    def run(self):
        try:
            while not self.stopping.is_set():
                try:
                    self.write_until_cut_off()
                except OSError:
                    time.sleep(0.01)
        except Exception as problem:  # pylint: disable=broad-except
            self.problem = problem


class ManyVolumes(HoldfastTest):
    VOLUMES = 50
    daemon_arguments = ("--loops", "2")

    def setUp(self):
        super().setUp()
        self.daemon.create_pool()
        names = [f"disk{number:02}" for number in range(self.VOLUMES)]
        for name in names:
            self.daemon.attach_new(f"pool/{name}", "64M")
        self.writers = [Writer(self.export_path(f"pool.{name}"), name, number)
                        for number, name in enumerate(names)]
        self.addCleanup(self.end_writers)

    def end_writers(self):
        for writer in self.writers:
            writer.stopping.set()
        for writer in self.writers:
            if writer.ident is not None:
                writer.join()

    def wait_for_connections(self, count):
        programs.wait_until(
            lambda: all(writer.connections >= count or writer.problem for writer in self.writers),
            timeout_seconds=90, what=f"every volume to be served for the {count}. time")

    def test_fifty_busy_volumes_survive_sigkill_and_their_sockets_are_never_missing(self):
        for writer in self.writers:
            writer.start()
        self.wait_for_connections(1)
        loops = [volume["attachment"]["loop"] for volume in self.daemon.call("status")["volumes"]]
        self.assertEqual({loop: loops.count(loop) for loop in loops}, {0: 25, 1: 25})
        missing = []
        watching = threading.Event()

        def watch():
            while not watching.wait(0.001):
                missing.extend(writer.path for writer in self.writers if not writer.path.exists())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        for round_number in range(2):
            time.sleep(1)
            began = time.monotonic()
            self.daemon.kill_and_start()
            self.wait_for_connections(2 + round_number)
            served = max(writer.greeted_at for writer in self.writers) - began
            print(f"all {self.VOLUMES} were served again after {served:.2f} s")
        watching.set()
        watcher.join()
        self.assertEqual(missing, [])
        self.end_writers()
        for writer in self.writers:
            self.assertIsNone(writer.problem)
            self.assertGreater(writer.acknowledged, 0)
        replayed = [volume["statistics"]["replayed_records"]
                    for volume in self.daemon.call("status")["volumes"]]
        self.assertGreater(sum(replayed), 0, "they were not busy")


class SecondDaemon(HoldfastTest):
    def other(self, name, *arguments):
        daemon = Daemon(self.directory, arguments, name=name)
        self.addCleanup(daemon.end)
        return daemon

    def test_one_runtime_directory_has_one_daemon(self):
        second = programs.run(*self.daemon.command_line(), status=1, timeout=30)
        self.assertIn("already running", second.stderr)
        self.assertIn(str(self.daemon.pid), second.stderr)
        self.assertEqual(self.daemon.call("status")["daemon"]["pid"], self.daemon.pid)

    def test_one_pool_has_one_daemon_and_the_refusal_names_the_holder(self):
        self.daemon.create_pool()
        second = self.other("second")
        second.start()
        done = second.run("--json", "pool", "open", "pool", f"dir:{self.directory}/pool")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(json.loads(done.stdout)["error"]["code"], "busy")
        self.assertIn(str(self.daemon.pid), done.stderr)
        # Once the first is gone, however it went, the second may have it.
        self.daemon.kill()
        second.call("pool", "open", "pool", f"dir:{self.directory}/pool")

    def test_a_pool_given_on_the_command_line_is_opened_when_its_holder_ends(self):
        self.daemon.create_pool()
        second = self.other("second", "--pool", f"pool=dir:{self.directory}/pool")
        second.start()
        shown = second.call("pool", "show", "pool")
        self.assertIn(shown["state"], ("failed", "opening"))
        self.assertIn(str(self.daemon.pid), shown["reason"])
        self.daemon.stop()
        programs.wait_until(lambda: second.call("pool", "show", "pool")["state"] == "open",
                            what="the pool to open once its holder is gone")

    def test_stale_sockets_and_pid_files_are_no_obstacle(self):
        self.daemon.create_pool()
        uri = self.daemon.attach_new()
        self.daemon.kill()
        self.assertTrue((self.daemon.runtime / "api.sock").exists())
        self.assertTrue((self.daemon.runtime / "holdfastd.pid").exists())
        self.daemon.process = None
        programs.wait_until(lambda: not self.daemon.answers(), what="nobody to listen")
        self.daemon.start()
        programs.run("nbdinfo", "--size", uri)


class Background(unittest.TestCase):
    """Without --foreground."""

    def test_the_parent_ends_when_the_daemon_answers(self):
        directory = Path(tempfile.mkdtemp(prefix="holdfast-", dir=test_root()))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        binaries = programs.binary_directory()
        # No die_with_parent here: the daemon is nobody's child.
        programs.run(binaries / "holdfastd", "--runtime-dir", directory / "run", preexec_fn=None)
        pid = int((directory / "run" / "holdfastd.pid").read_text())

        def end():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.addCleanup(end)
        status = json.loads(programs.run(binaries / "holdfast", "--json", "--runtime-dir",
                                         directory / "run", "status").stdout)
        self.assertEqual(status["daemon"]["pid"], pid)
        self.assertTrue((directory / "run" / "holdfastd.log").exists())
        refused = programs.run(binaries / "holdfastd", "--runtime-dir", directory / "run", status=1,
                               preexec_fn=None)
        self.assertTrue(refused.stderr.startswith("holdfastd: "), refused.stderr)
        self.assertEqual(len(refused.stderr.strip().splitlines()), 1)
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertFalse(os.path.exists(f"/proc/{pid}"), "it does not end on SIGTERM")
        self.assertFalse((directory / "run" / "api.sock").exists())


if __name__ == "__main__":
    unittest.main()
