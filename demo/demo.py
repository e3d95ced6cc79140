#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The main job, before your eyes: a Linux guest runs on a Holdfast volume, and the daemon behind
the volume is killed with SIGKILL while the guest writes. Exit status 0 only when all is right."""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.dont_write_bytecode = True

from support import guest  # noqa: E402
from support.daemon import Daemon  # noqa: E402

FILES = 40
KILLS = (8, 20, 29)  # the daemon dies soon after the guest wrote these
DOWN_SECONDS = 2.0
VOLUME = "vms/guest"
PROTOCOL_NAMES = {"vhost": "vhost-user-blk", "nbd": "NBD"}


class Account:
    def __init__(self):
        self.began = time.monotonic()

    def say(self, text):
        print(f"  {time.monotonic() - self.began:6.1f} s  {text}", flush=True)


def kill_and_start(account, daemon, running, number):
    """Kills the daemon while the guest writes, and starts it again after a while."""
    running.wait_for(rf"wrote {number}\b", 120)
    # Somewhere inside the next file, not at its start.
    time.sleep(random.uniform(0.0, 0.06))
    daemon.kill()
    killed = time.monotonic()
    at_kill = int(running.said(r"wrote (\d+)"))
    account.say(f"SIGKILL to the daemon while the guest writes file {at_kill + 1} of {FILES}")
    time.sleep(DOWN_SECONDS)
    waiting = int(running.said(r"wrote (\d+)"))
    if waiting > at_kill + 1:
        raise guest.GuestFailed("the guest went on without its disk: the demo shows nothing")
    answered_after = daemon.start()
    running.wait_for(rf"wrote {waiting + 1}\b", 60)
    resumed = time.monotonic() - killed
    replayed = daemon.volume(VOLUME)["statistics"]["replayed_records"]
    account.say(f"started again: answers after {answered_after:.2f} s "
                f"({replayed} records replayed); the guest had waited, and went on "
                f"{resumed - DOWN_SECONDS:.2f} s after the start")


def run_guest(directory, phase, attachment):
    socket = attachment["socket"]
    if attachment["protocol"] == "vhost":
        disk = guest.vhost_disk(socket)
    else:
        disk = guest.nbd_disk(socket, export=VOLUME.split("/")[1])
    boot = guest.direct_boot(directory / "initramfs.cpio", phase=phase, files=FILES)
    return guest.Guest(directory, phase, [*boot, *disk, "-no-reboot"])


def demo(directory, daemon, account, protocol):
    guest.build_initramfs(directory / "initramfs.cpio", Path(__file__).parent / "guest_job")
    _, version = guest.kernel()
    account.say(f"guest: Linux {version} in QEMU ({guest.choose_accelerator()})")

    daemon.start()
    daemon.create_pool("vms")
    daemon.call("volume", "create", VOLUME, "--size", "2G")
    attachment = daemon.call("attach", VOLUME, f"--{protocol}")
    account.say(f"daemon {daemon.pid} serves {VOLUME}, 2 GiB, over {PROTOCOL_NAMES[protocol]} at "
                f"{attachment['socket']}")

    running = run_guest(directory, "write", attachment)
    try:
        running.wait_for(r"booted", 90)
        account.say("the guest is up and makes ext4 on its disk")
        running.wait_for(r"formatted", 60)
        account.say(f"the guest writes {FILES} files, fsync after each, and their SHA-256")
        for number in KILLS:
            kill_and_start(account, daemon, running, number)
        running.wait_for_end(120)
    finally:
        running.end()
    account.say(f"the guest wrote all {FILES} files, saw no I/O error, and powered off")

    daemon.kill_and_start()
    account.say("SIGKILL once more, and a second boot of the guest")
    running = run_guest(directory, "verify", attachment)
    try:
        running.wait_for_end(120)
        verified = int(running.wait_for(r"verified (\d+)", 1))
    finally:
        running.end()
    if verified != FILES:
        raise guest.GuestFailed(f"{verified} of {FILES} files verified")
    account.say(f"e2fsck finds the filesystem clean; the checksums of all {verified} files "
                "are right")

    volume = daemon.volume(VOLUME)
    errors = volume["statistics"]["errors"]
    if errors:
        raise guest.GuestFailed(f"the daemon counts {errors} failed requests")
    daemon.call("detach", VOLUME)
    daemon.stop()
    account.say(f"{volume['allocated_bytes'] / 2**20:.0f} MiB of the pool used; daemon stopped")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin-dir", help="the folder with holdfastd and holdfast")
    parser.add_argument("--nbd", action="store_true",
                        help="connect the guest over NBD, and not over vhost-user-blk")
    parser.add_argument("--keep", action="store_true", help="keep the files of the run")
    arguments = parser.parse_args()
    if arguments.bin_dir:
        os.environ["HOLDFAST_BIN_DIR"] = os.path.abspath(arguments.bin_dir)

    directory = Path(tempfile.mkdtemp(prefix="holdfast-demo-", dir="/var/tmp"))
    daemon = Daemon(directory)
    account = Account()
    failure = None
    print("Holdfast demo: a virtual machine outlives the death of its disk's daemon", flush=True)
    try:
        demo(directory, daemon, account, "nbd" if arguments.nbd else "vhost")
    except (AssertionError, RuntimeError, OSError) as error:
        failure = error
    except KeyboardInterrupt:
        failure = "interrupted"
    finally:
        daemon.end()
    if failure is not None:
        print(f"\nFAILED: {failure}\n{daemon.log_tail()}", file=sys.stderr)
    if arguments.keep:
        print(f"  files kept in {directory}")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    if failure is None:
        print(f"Done in {time.monotonic() - account.began:.0f} s: "
              f"{len(KILLS) + 1} kills, no I/O error in the guest, every file intact.")
    return 0 if failure is None else 1


if __name__ == "__main__":
    sys.exit(main())
