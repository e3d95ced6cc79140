# SPDX-License-Identifier: Apache-2.0
"""Options that the benchmarks of our own programs have in common."""

import argparse
import os
from pathlib import Path


def parser_with(description, bin_dir_help, rounds, seconds):
    """A parser with what all of them understand."""
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin-dir", help=bin_dir_help)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=int, default=seconds, help="of each measurement")
    parser.add_argument("--smoke", action="store_true",
                        help="one round far too short to say anything: does it run?")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    return parser


def use_programs_of(arguments):
    """For tests/support, which starts them."""
    if arguments.bin_dir:
        os.environ["HOLDFAST_BIN_DIR"] = str(Path(arguments.bin_dir).resolve())
