# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: a daemon, real programs around it, an NBD client."""
