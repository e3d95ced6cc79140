# SPDX-License-Identifier: Apache-2.0
"""Everything has a bound: open files and memory."""

import socket
import unittest

from support import fio, programs
from support.daemon import MIB, HoldfastTest


class OpenFiles(HoldfastTest):
    open_files_max = 64

    def test_a_volume_of_more_segments_than_open_files_works(self):
        self.daemon.create_pool(segment_size="1M")
        uri = self.daemon.attach_new("pool/disk", "256M")
        fio.run_jobs(uri, [{"rw": "write", "bs": "64k", "iodepth": 8, "size": "200M",
                            "verify": "crc32c", "verify_fatal": 1}], self.directory)
        self.assertGreater(self.daemon.volume()["statistics"]["segment_count"], 150)
        fio.run_jobs(uri, [{"rw": "randrw", "bs": "4k", "iodepth": 32, "size": "200M",
                            "io_size": "32M", "verify": "crc32c", "verify_fatal": 1}],
                     self.directory)
        self.daemon.kill_and_start()
        programs.run("nbdcopy", uri, "null:")
        self.assertEqual(self.daemon.volume()["statistics"]["errors"], 0)
        self.assertIsNone(self.daemon.volume()["hold"])

    def test_more_clients_than_open_files_do_not_take_the_daemon_down(self):

        self.daemon.create_pool(segment_size="1M")
        uri = self.daemon.attach_new("pool/disk", "64M")
        held = []
        try:
            for _ in range(100):
                client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                client.settimeout(0.5)
                held.append(client)
                try:
                    client.connect(str(self.export_path()))
                except OSError:
                    break  # its backlog is full: refused, which is an answer
        finally:
            for client in held:
                client.close()
        programs.wait_until(
            lambda: programs.run("nbdinfo", "--size", uri, status=None).returncode == 0, 20,
            "the daemon to serve again")
        self.assertTrue(self.daemon.is_running())


@unittest.skipIf(programs.is_sanitized(), "a sanitizer's memory is not the product's")
class Memory(HoldfastTest):
    def resident_bytes(self):
        return programs.memory_bytes(self.daemon.pid, "VmRSS")

    def test_an_idle_attached_volume_costs_under_1_mib(self):
        self.daemon.create_pool()
        # The first volumes pay for what all share.
        for number in range(3):
            self.daemon.attach_new(f"pool/first{number}", "10G")
        before = self.resident_bytes()
        count = 50
        for number in range(count):
            self.daemon.attach_new(f"pool/idle{number}", "10G")
        each = (self.resident_bytes() - before) / count
        print(f"an idle attached volume costs {each / 1024:.0f} KiB")
        self.assertLess(each, MIB)
        # Also when they are opened again by a daemon that starts.
        self.daemon.restart()
        each = self.resident_bytes() / (count + 3)
        print(f"after a restart {each / 1024:.0f} KiB a volume, the daemon itself included")
        self.assertLess(each, MIB)

    def test_a_daemon_with_one_busy_volume_stays_under_200_mib(self):
        self.daemon.create_pool()
        uri = self.daemon.attach_new("pool/disk", "2G")
        for rw, bs, depth, size in (("write", "1M", 16, "2G"), ("randwrite", "4k", 64, "256M"),
                                    ("randread", "4k", 64, "256M"), ("read", "1M", 16, "1G"),
                                    ("randwrite", "512", 64, "8M")):
            fio.run_jobs(uri, [{"rw": rw, "bs": bs, "iodepth": depth, "size": "2G",
                                "io_size": size}], self.directory)
        self.assert_peak_below_200_mib("one busy client")
        # Four clients with big requests at once.
        jobs = [{"rw": rw, "bs": "16M", "iodepth": 4, "size": "512M", "offset": f"{512 * n}M"}
                for n, rw in enumerate(("write", "read", "randwrite", "randread"))]
        fio.run_jobs(uri, jobs, self.directory)
        peak = programs.memory_bytes(self.daemon.pid, "VmHWM")
        print(f"peak with four clients of 16 MiB requests: {peak / MIB:.0f} MiB")
        self.assertLess(peak, 500 * MIB)

    def assert_peak_below_200_mib(self, what):
        peak = programs.memory_bytes(self.daemon.pid, "VmHWM")
        print(f"peak with {what}: {peak / MIB:.0f} MiB")
        self.assertLess(peak, 200 * MIB)


if __name__ == "__main__":
    unittest.main()
