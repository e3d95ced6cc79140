# SPDX-License-Identifier: Apache-2.0
"""fio writes and verifies through its nbd engine."""

import unittest

from support import fio
from support.daemon import HoldfastTest


class Fio(HoldfastTest):
    def setUp(self):
        super().setUp()
        self.daemon.create_pool(segment_size="8M")
        self.uri = self.daemon.attach_new("pool/disk", "512M")

    def verify(self, **options):
        result = fio.run_jobs(self.uri, [{"verify": "crc32c", "verify_fatal": 1, "do_verify": 1,
                                          **options}], self.directory)
        job = result["jobs"][0]
        self.assertEqual(job["error"], 0)
        # The verify phase reads what the workload wrote.
        self.assertGreaterEqual(job["read"]["total_ios"], 1)
        self.assertGreaterEqual(job["write"]["total_ios"], 1)
        self.assertEqual(self.daemon.volume()["statistics"]["errors"], 0)
        return job

    def test_random_4k_writes_verify(self):
        self.verify(rw="randwrite", bs="4k", iodepth=32, size="128M")

    def test_random_writes_of_mixed_sizes_below_a_block_verify(self):
        self.verify(rw="randwrite", bsrange="512-64k", bs_unaligned=0, blockalign=512, iodepth=16,
                    size="64M")

    def test_random_writes_at_any_alignment_of_a_sector_verify(self):
        self.verify(rw="randwrite", bs=1536, blockalign=512, iodepth=1, size="8M")

    def test_sequential_large_writes_verify(self):
        self.verify(rw="write", bs="1M", iodepth=8, size="512M")

    def test_overwrites_verify(self):
        # norandommap writes places twice while the first write may still be in flight elsewhere;
        # iodepth 1 keeps fio's own order of verification defined.
        self.verify(rw="randwrite", bs="4k", iodepth=1, size="8M", norandommap=1, io_size="24M",
                    verify_backlog=64)

    def test_writes_with_flushes_verify(self):
        job = self.verify(rw="randwrite", bs="4k", iodepth=4, size="16M", fsync=8)
        self.assertGreaterEqual(job["sync"]["total_ios"], 100)
        self.assertGreaterEqual(self.daemon.volume()["statistics"]["flushes"], 100)

    def test_several_jobs_over_connections_of_their_own_verify(self):
        jobs = [{"rw": "randwrite", "bs": "4k", "iodepth": 8, "size": "32M", "offset": f"{64 * n}M",
                 "verify": "crc32c", "verify_fatal": 1} for n in range(4)]
        fio.run_jobs(self.uri, jobs, self.directory)

    def test_each_block_trimmed_and_written_again_verifies(self):
        self.verify(rw="randtrimwrite", bs="64k", iodepth=1, size="64M")
        self.assertGreater(self.daemon.volume()["statistics"]["discards"], 100)


if __name__ == "__main__":
    unittest.main()
