# SPDX-License-Identifier: Apache-2.0
"""A real guest takes its volume on Ceph along to another host."""

import unittest

import test_migration
from support.daemon import Daemon
from test_rados import OnCeph


class MigrationOnCeph(OnCeph, test_migration.MigrationBetweenHosts):
    def make_pool(self):
        self.create_pool_here()
        self.other = Daemon(self.directory, name="other")
        self.addCleanup(self.other.end)
        self.other.start()
        self.open_pool(self.other)

    # What else can happen to a migration does not depend on the kind of pool.
    test_a_guest_takes_its_volume_along_over_nbd = None
    test_a_migration_that_is_given_up_leaves_the_volume_where_it_was = None


if __name__ == "__main__":
    unittest.main()
