# SPDX-License-Identifier: Apache-2.0
"""What `make install` puts where, with DESTDIR honoured."""

import os
import shutil
import tempfile
import unittest
from pathlib import Path

from support import programs


class Install(unittest.TestCase):
    def test_everything_lands_below_destdir_and_runs_from_there(self):
        build = os.environ.get("HOLDFAST_BUILD_DIR")
        if not build:
            self.skipTest("HOLDFAST_BUILD_DIR is not set")
        root = Path(tempfile.mkdtemp(prefix="holdfast-install-"))
        self.addCleanup(shutil.rmtree, root, ignore_errors=True)
        programs.run("cmake", "--install", build, env=dict(os.environ, DESTDIR=str(root)))
        installed = {path.name: path for path in root.rglob("*") if path.is_file()}
        for name in ("holdfast", "holdfastd", "holdfastd.service", "holdfast.1", "holdfastd.8"):
            self.assertIn(name, installed)
        for name in ("holdfast", "holdfastd"):
            program = next(path for path in root.rglob(name)
                           if path.is_file() and path.parent.name in ("bin", "sbin"))
            programs.run(program, "--help")
            installed[name] = program
        # The unit starts the daemon from where it will be once DESTDIR is the root.
        unit = installed["holdfastd.service"].read_text()
        self.assertIn(f"ExecStart={'/' / installed['holdfastd'].relative_to(root)}", unit)


if __name__ == "__main__":
    unittest.main()
