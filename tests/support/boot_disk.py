# SPDX-License-Identifier: Apache-2.0
"""The image of a disk that a PC's firmware boots from: GRUB, and one partition with a small root
filesystem. Made without mounting anything."""

import struct
from pathlib import Path

from support import guest, programs

SECTOR_BYTES = 512
PARTITION_FIRST_SECTOR = 2048
GRUB = Path("/usr/lib/grub/i386-pc")
GRUB_MODULES = ["biosdisk", "part_msdos", "ext2", "linux", "serial", "terminal"]
GRUB_CONFIGURATION = f"""\
serial --unit=0 --speed=115200
terminal_output serial
set root=(hd0,msdos1)
linux /boot/vmlinuz {guest.KERNEL_OPTIONS} holdfast.root=/dev/vda1
initrd /boot/initramfs
boot
"""


def root_filesystem(directory, more_programs):
    """The folder that becomes the root filesystem; its guest takes commands."""
    tree = guest.user_space(guest.SUPPORT / "guest_agent", "sbin/init", more_programs)
    for name in ("dev", "mnt", "proc", "sys", "tmp"):
        tree.add_folder(name)
    image, _ = guest.kernel()
    tree.add("boot/vmlinuz", Path(image).read_bytes(), 0o100644)
    guest.build_boot_initramfs(directory / "boot-initramfs")
    tree.add("boot/initramfs", (directory / "boot-initramfs").read_bytes(), 0o100644)
    tree.write_folder(directory / "root")
    return directory / "root"


def build(path, directory, size_bytes, more_programs=()):
    sectors = size_bytes // SECTOR_BYTES - PARTITION_FIRST_SECTOR
    partition = directory / "partition"
    folder = root_filesystem(directory, more_programs)
    programs.run(guest.find_program("mke2fs"), "-q", "-F", "-t", "ext4", "-E", "root_owner=0:0",
                 "-d", folder, partition, f"{sectors // 2}K")
    if not (GRUB / "boot.img").exists():
        raise guest.GuestFailed("GRUB is missing; run: tools/install_packages test")
    (directory / "grub.cfg").write_text(GRUB_CONFIGURATION)
    programs.run("grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub", "-c", directory / "grub.cfg",
                 "-o", directory / "core.img", *GRUB_MODULES)
    core = (directory / "core.img").read_bytes()
    assert len(core) <= (PARTITION_FIRST_SECTOR - 1) * SECTOR_BYTES, "no room for GRUB"
    # The boot sector loads sector 1, which loads the rest: what boot.img and core.img say when
    # nobody changes them. Active partition of type Linux.
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff",
                        PARTITION_FIRST_SECTOR, sectors)
    boot = (GRUB / "boot.img").read_bytes()[:440] + bytes(6) + entry + bytes(48) + b"\x55\xaa"
    with open(path, "wb") as disk:
        disk.truncate(size_bytes)
        disk.write(boot + core)
    programs.run("dd", f"if={partition}", f"of={path}", "bs=1M", "conv=notrunc,sparse",
                 f"seek={PARTITION_FIRST_SECTOR * SECTOR_BYTES}", "oflag=seek_bytes")
