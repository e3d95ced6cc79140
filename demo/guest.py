# SPDX-License-Identifier: Apache-2.0
"""A small real Linux guest: Debian's kernel, and an initramfs of this machine's programs."""

import os
import re
import subprocess
import time
from pathlib import Path

from support import programs

MODULES = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"]


class GuestFailed(AssertionError):
    pass


def kernel():
    """(kernel image, version) of the newest kernel here that has its modules."""
    found = []
    for image in Path("/boot").glob("vmlinuz-*"):
        version = image.name.removeprefix("vmlinuz-")
        if Path("/lib/modules", version, "modules.dep").exists():
            key = [int(number) for number in re.findall(r"\d+", version)]
            found.append((key, image, version))
    if not found:
        raise GuestFailed("no kernel with modules in /boot; run: tools/install_packages demo")
    _, image, version = max(found)
    return image, version


class Initramfs:
    """A newc cpio archive, written field by field."""

    def __init__(self):
        self.entries = {}

    def add(self, name, data=b"", mode=0o100755):
        parent = os.path.dirname(name)
        if parent and parent not in self.entries:
            self.add(parent, mode=0o040755)
        self.entries[name] = (mode, data)

    def add_program(self, path, name):
        """A program and the shared libraries that it says it needs."""
        self.add(name, Path(path).read_bytes())
        listed = programs.run("ldd", path, status=None).stdout
        for library in re.findall(r"(/\S+)", listed):
            if library.lstrip("/") not in self.entries:
                self.add(library.lstrip("/"), Path(library).read_bytes())

    def write(self, path):
        with open(path, "wb") as archive:
            for number, (name, (mode, data)) in enumerate(
                    [*self.entries.items(), ("TRAILER!!!", (0, b""))], 1):
                encoded = name.encode() + b"\0"
                fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
                archive.write(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded)
                archive.write(bytes(-archive.tell() % 4) + data)
                archive.write(bytes(-archive.tell() % 4))


def find_program(name):
    for folder in ("/usr/sbin", "/sbin", "/usr/bin", "/bin"):
        path = Path(folder, name)
        if path.exists():
            return path
    raise GuestFailed(f"{name} is missing; run: tools/install_packages demo")


def build_initramfs(path, version):
    archive = Initramfs()
    archive.add("init", (Path(__file__).parent / "guest_init").read_bytes())
    archive.add("bin/busybox", find_program("busybox").read_bytes())
    archive.add_program(find_program("mkfs.ext4"), "sbin/mkfs.ext4")
    archive.add_program(find_program("e2fsck"), "sbin/e2fsck")
    archive.add("etc/mke2fs.conf", Path("/etc/mke2fs.conf").read_bytes(), 0o100644)
    archive.add("etc/mtab", b"", 0o100644)
    order = []
    for module in MODULES:
        listed = programs.run(find_program("modprobe"), "-S", version, "--show-depends", module)
        for line in listed.stdout.splitlines():
            words = line.split()
            if words and words[0] == "insmod":
                name = os.path.basename(words[1])
                if name not in order:
                    order.append(name)
                    archive.add(f"modules/{name}", Path(words[1]).read_bytes(), 0o100644)
    archive.add("modules/order", ("\n".join(order) + "\n").encode(), 0o100644)
    archive.write(path)


class Guest:
    """One run of the guest. `socket` and `export` say where its disk is; None: it has none."""

    def __init__(self, directory, phase, accelerator, files, socket=None, export=None,
                 reconnect_seconds=60):
        self.console_path = Path(directory) / f"console-{phase}.log"
        self.console_path.write_bytes(b"")
        self.seen = 0
        image, _ = kernel()
        command = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-accel", accelerator, "-m", "512", "-kernel", image,
            "-initrd", Path(directory) / "initramfs.cpio",
            "-append",
            f"console=ttyS0 quiet panic=-1 holdfast.phase={phase} holdfast.files={files}",
            "-serial", f"file:{self.console_path}",
        ]
        if socket is not None:
            command += [
                "-blockdev", f"driver=nbd,node-name=disk,export={export},server.type=unix,"
                f"server.path={socket},reconnect-delay={reconnect_seconds},cache.direct=on",
                "-device", "virtio-blk-pci,drive=disk",
            ]
        self.errors = open(Path(directory) / f"qemu-{phase}.log", "wb")
        self.process = programs.start(command, stdout=self.errors, stderr=self.errors)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.errors.close()

    def console(self):
        return self.console_path.read_text(errors="replace").replace("\r", "")

    def said(self, pattern):
        """The last match of a pattern in what the guest said, or None."""
        matches = re.findall(r"^guest: " + pattern, self.console(), re.MULTILINE)
        return matches[-1] if matches else None

    def wait_for(self, pattern, timeout_seconds):
        deadline = time.monotonic() + timeout_seconds
        while True:
            match = self.said(pattern)
            if match is not None:
                return match
            failed = self.said(r"failed.*")
            if failed:
                raise GuestFailed(f"{failed}\n{self.console()[-3000:]}")
            if self.process.poll() is not None:
                raise GuestFailed(f"the guest ended before it said '{pattern}'\n"
                                  f"{self.console()[-3000:]}\n"
                                  f"{Path(self.errors.name).read_text(errors='replace')[-2000:]}")
            if time.monotonic() > deadline:
                raise GuestFailed(f"the guest did not say '{pattern}' in {timeout_seconds} s\n"
                                  f"{self.console()[-3000:]}")
            time.sleep(0.01)

    def wait_for_end(self, timeout_seconds):
        """Powered off, without an error in its kernel log."""
        self.wait_for(r"done", timeout_seconds)
        errors = int(self.wait_for(r"kernel-errors (\d+)", 1))
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            raise GuestFailed("the guest did not power off") from None
        if errors:
            raise GuestFailed(f"the guest's kernel saw {errors} I/O errors\n"
                              f"{self.console()[-3000:]}")


def choose_accelerator(directory):
    """"kvm" where it boots this kernel, else "tcg"."""
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        probe = Guest(directory, "probe", "kvm", 0)
        try:
            probe.wait_for(r"booted", 6)
            return "kvm"
        except GuestFailed:
            pass
        finally:
            probe.end()
    return "tcg"
