# SPDX-License-Identifier: Apache-2.0
"""Filesystems of this machine's kernel: on an image file, or over an NBD export (FUSE and loop)."""

import contextlib
import os
import subprocess

from support import programs


def loop_devices_work():
    """Root, and a loop device to be had: in some containers there is none."""
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        return False
    return programs.run("losetup", "-f", status=None).returncode == 0


def fuse_works():
    return os.geteuid() == 0 and os.path.exists("/dev/fuse")


@contextlib.contextmanager
def loop_device(path, direct_io=False):
    words = ["losetup", "--show", "-f", path]
    if direct_io:
        words.insert(1, "--direct-io=on")
    device = programs.run(*words).stdout.strip()
    try:
        yield device
    finally:
        programs.run("losetup", "-d", device, status=None)


@contextlib.contextmanager
def mounted(device, directory, options="defaults"):
    directory.mkdir(exist_ok=True)
    programs.run("mount", "-o", options, device, directory)
    try:
        yield directory
    finally:
        # Something of the test may still be letting go of a file.
        programs.wait_until(
            lambda: programs.run("umount", directory, status=None).returncode == 0, 20,
            f"{directory} to be unmounted", step_seconds=0.1)


@contextlib.contextmanager
def exported_file(uri, directory):
    """The export as a file, by nbdfuse."""
    directory.mkdir(exist_ok=True)
    server = programs.start(["nbdfuse", directory, uri], stderr=subprocess.DEVNULL)
    try:
        file = directory / "nbd"
        programs.wait_until(lambda: file.exists() or server.poll() is not None, 20, "nbdfuse")
        assert server.poll() is None, "nbdfuse ended at its start"
        yield file
    finally:
        programs.run("umount", directory, status=None)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            programs.stop(server)
