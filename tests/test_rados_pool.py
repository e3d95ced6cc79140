# SPDX-License-Identifier: Apache-2.0
"""What every pool must do, on a real cluster, whose clients prove who they are."""

import os
import shutil
import tempfile
import unittest

from support import ceph, programs
from support.daemon import test_root


class RadosPoolContract(unittest.TestCase):
    def test_a_pool_on_a_cluster_does_what_every_pool_must(self):
        ceph.require("ceph-mgr")
        directory = tempfile.mkdtemp(prefix="holdfast-ceph-", dir=test_root())
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        cluster = ceph.Ceph(directory, osds=3, with_manager=True, with_keys=True)
        self.addCleanup(cluster.end)
        cluster.start()
        done = programs.run(
            programs.binary_directory() / "rados_pool_contract", status=None, timeout=240,
            env=dict(os.environ, HOLDFAST_RADOS=f"{ceph.POOL}?conf={cluster.configuration}"))
        self.assertEqual(done.returncode, 0, done.stdout[-8000:] + done.stderr[-2000:])


if __name__ == "__main__":
    unittest.main()
