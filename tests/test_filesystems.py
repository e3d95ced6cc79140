# SPDX-License-Identifier: Apache-2.0
"""Real filesystems on a volume: made, filled, checked, also after SIGKILL of the daemon.

The kernel here mounts the export through nbdfuse and a loop device. (A filesystem inside a guest
that lives through the daemon's death is what demo/demo.py does.)"""

import hashlib
import random
import unittest

from support import mounts, programs
from support.daemon import HoldfastTest


@unittest.skipUnless(mounts.loop_devices_work() and mounts.fuse_works(),
                     "no loop devices or no FUSE on this machine")
class Filesystems(HoldfastTest):
    def setUp(self):
        super().setUp()
        self.daemon.create_pool()
        self.uri = self.daemon.attach_new("pool/disk", "1G")
        self.source = random.Random(4)

    def fill(self, root):
        """Writes files of all sorts of sizes; returns {name: sha256}."""
        digests = {}
        for number in range(60):
            data = self.source.randbytes(self.source.choice([0, 1, 100, 4096, 70_000, 1_500_000]))
            path = root / f"d{number % 7}" / f"file{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            digests[str(path.relative_to(root))] = hashlib.sha256(data).hexdigest()
        for name in list(digests)[::5]:
            (root / name).unlink()
            del digests[name]
        return digests

    def assert_files(self, root, digests):
        for name, expected in digests.items():
            self.assertEqual(hashlib.sha256((root / name).read_bytes()).hexdigest(), expected, name)

    def make_fill_check(self, make, check, mount_options="defaults"):
        def device_steps(steps):
            with mounts.exported_file(self.uri, self.directory / "fuse") as file:
                with mounts.loop_device(file) as device:
                    return steps(device)

        def make_and_fill(device):
            programs.run(*make, device)
            with mounts.mounted(device, self.directory / "mnt", mount_options) as root:
                digests = self.fill(root)
                programs.run("sync", "-f", root)
                programs.run("fstrim", root)
                return digests

        def check_all(device):
            programs.run(*check, device)
            with mounts.mounted(device, self.directory / "mnt", mount_options) as root:
                self.assert_files(root, digests)

        digests = device_steps(make_and_fill)
        self.assertGreater(len(digests), 40)
        device_steps(check_all)
        self.daemon.kill_and_start()
        device_steps(check_all)
        self.assertEqual(self.daemon.volume()["statistics"]["errors"], 0)

    def test_ext4_is_made_filled_and_clean(self):
        self.make_fill_check(["mkfs.ext4", "-q", "-F"], ["e2fsck", "-f", "-n"])

    def test_xfs_is_made_filled_and_clean(self):
        self.make_fill_check(["mkfs.xfs", "-q", "-f"], ["xfs_repair", "-n"], "nouuid")


if __name__ == "__main__":
    unittest.main()
