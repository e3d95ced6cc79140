# SPDX-License-Identifier: Apache-2.0
"""A small real Linux guest in QEMU: Debian's kernel, and this machine's programs in an initramfs or
in a root filesystem."""

import atexit
import functools
import lzma
import os
import re
import socket
import struct
import subprocess
import tempfile
import time
import zlib
from pathlib import Path

from support import programs
from support.qmp import Qmp

MODULES = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"]
PROGRAMS = ["mkfs.ext4", "e2fsck", "resize2fs"]
# The last two make it boot sooner.
KERNEL_OPTIONS = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr"
SUPPORT = Path(__file__).parent


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


# Setup header of a kernel image: Documentation/arch/x86/boot.rst of Linux.
SETUP_SECTORS_AT = 0x1F1
PAYLOAD_OFFSET_AT = 0x248
DECOMPRESSORS = {b"\xfd7zXZ\0": lzma.LZMADecompressor, b"\x1f\x8b": functools.partial(
    zlib.decompressobj, wbits=31)}


@functools.cache
def unpacked_kernel():
    """The kernel as an ELF file, which QEMU starts directly: to unpack itself takes an emulated
    processor longer than to boot. The image itself where its compression is unknown here."""
    image, _ = kernel()
    data = Path(image).read_bytes()
    offset, length = struct.unpack_from("<II", data, PAYLOAD_OFFSET_AT)
    start = (data[SETUP_SECTORS_AT] + 1) * 512 + offset
    payload = data[start:start + length]
    for magic, decompressor in DECOMPRESSORS.items():
        if payload.startswith(magic):
            elf = decompressor().decompress(payload)
            directory = tempfile.TemporaryDirectory(prefix="holdfast-kernel-", dir="/var/tmp")
            atexit.register(directory.cleanup)
            unpacked = Path(directory.name, "vmlinux")
            unpacked.write_bytes(elf)
            return unpacked
    return image


def find_program(name):
    for folder in ("/usr/sbin", "/sbin", "/usr/bin", "/bin"):
        path = Path(folder, name)
        if path.exists():
            return path
    raise GuestFailed(f"{name} is missing; run: tools/install_packages demo")


class FileTree:
    """Files of a guest: {path: (mode, bytes)}, folders before what is in them."""

    def __init__(self):
        self.entries = {}

    def add(self, name, data=b"", mode=0o100755):
        parent = os.path.dirname(name)
        if parent and parent not in self.entries:
            self.add_folder(parent)
        self.entries[name] = (mode, data)

    def add_folder(self, name):
        self.add(name, mode=0o040755)

    def add_program(self, path, name):
        """A program and the shared libraries that it says it needs."""
        self.add(name, Path(path).read_bytes())
        listed = programs.run("ldd", path, status=None).stdout
        for library in re.findall(r"(/\S+)", listed):
            if library.lstrip("/") not in self.entries:
                self.add(library.lstrip("/"), Path(library).read_bytes())

    def write_cpio(self, path):
        """As a newc cpio archive, which the kernel takes for an initramfs."""
        with open(path, "wb") as archive:
            for number, (name, (mode, data)) in enumerate(
                    [*self.entries.items(), ("TRAILER!!!", (0, b""))], 1):
                encoded = name.encode() + b"\0"
                fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
                archive.write(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded)
                archive.write(bytes(-archive.tell() % 4) + data)
                archive.write(bytes(-archive.tell() % 4))

    def write_folder(self, folder):
        for name, (mode, data) in self.entries.items():
            path = Path(folder, name)
            if mode & 0o040000:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.write_bytes(data)
                path.chmod(mode & 0o777)


def user_space(job, init_name, more_programs=()):
    """busybox and the filesystem programs, guest_init as the first program, `job` as its work."""
    tree = FileTree()
    tree.add(init_name, (SUPPORT / "guest_init").read_bytes())
    tree.add("job", Path(job).read_bytes(), 0o100644)
    tree.add("bin/busybox", find_program("busybox").read_bytes())
    for name in PROGRAMS:
        tree.add_program(find_program(name), f"sbin/{name}")
    for path in more_programs:
        tree.add_program(path, f"bin/{Path(path).name}")
    tree.add("etc/mke2fs.conf", Path("/etc/mke2fs.conf").read_bytes(), 0o100644)
    tree.add("etc/mtab", b"", 0o100644)
    return tree


def add_modules(tree, version, more_modules=()):
    order = []
    for module in [*MODULES, *more_modules]:
        listed = programs.run(find_program("modprobe"), "-S", version, "--show-depends", module)
        for line in listed.stdout.splitlines():
            words = line.split()
            if words and words[0] == "insmod":
                name = os.path.basename(words[1])
                if name not in order:
                    order.append(name)
                    tree.add(f"modules/{name}", Path(words[1]).read_bytes(), 0o100644)
    tree.add("modules/order", ("\n".join(order) + "\n").encode(), 0o100644)


def build_initramfs(path, job, more_programs=(), more_modules=()):
    """A guest that lives in memory."""
    tree = user_space(job, "init", more_programs)
    add_modules(tree, kernel()[1], more_modules)
    tree.write_cpio(path)


def build_boot_initramfs(path):
    """Only what it takes to go over to a root filesystem."""
    tree = FileTree()
    tree.add("init", (SUPPORT / "guest_init").read_bytes())
    tree.add("bin/busybox", find_program("busybox").read_bytes())
    add_modules(tree, kernel()[1])
    tree.write_cpio(path)


# Disks, as words of QEMU's command line.


def nbd_disk(socket_path, export, name="disk", reconnect_seconds=60):
    return ["-blockdev", f"driver=nbd,node-name={name},export={export},server.type=unix,"
            f"server.path={socket_path},reconnect-delay={reconnect_seconds},cache.direct=on",
            "-device", f"virtio-blk-pci,drive={name}"]


def vhost_disk(socket_path, name="disk", **properties):
    more = "".join(f",{key.replace('_', '-')}={value}" for key, value in properties.items())
    return ["-chardev", f"socket,id={name},path={socket_path},reconnect=1",
            "-device", f"vhost-user-blk-pci,id={name},chardev={name}{more}"]


def shared_memory(bytes_text):
    """Memory that a vhost-user server can map."""
    return ["-m", bytes_text,
            "-object", f"memory-backend-memfd,id=memory,size={bytes_text},share=on",
            "-machine", "memory-backend=memory"]


def direct_boot(initramfs, kernel_options=KERNEL_OPTIONS, **settings):
    """The kernel from the host; `settings` become shell variables of the guest's job."""
    words = " ".join(f"holdfast.{key}={value}" for key, value in settings.items())
    return ["-kernel", unpacked_kernel(), "-initrd", initramfs,
            "-append", f"{kernel_options} {words}"]


class Guest:
    """One QEMU. `arguments` say what it boots from and which disks it has; without -m it has
    512 MiB that a vhost-user server can map. Its files are in `directory`, named after it."""

    def __init__(self, directory, name, arguments, accelerator=None):
        self.directory = Path(directory)
        self.name = name
        self.console_path = self.directory / f"console-{name}.log"
        self.console_path.write_bytes(b"")
        self.qmp_path = self.directory / f"qmp-{name}.sock"
        self.agent_path = self.directory / f"agent-{name}.sock"
        self.agent_socket = None
        self.agent_received = bytearray()
        self.qmp_client = None
        arguments = [str(word) for word in arguments]
        command = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-accel", accelerator or choose_accelerator(),
            "-serial", f"file:{self.console_path}",
            "-serial", f"unix:{self.agent_path},server=on,wait=off",
            "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
            *(shared_memory("512M") if "-m" not in arguments else []), *arguments,
        ]
        self.errors_path = self.directory / f"qemu-{name}.log"
        with open(self.errors_path, "ab") as errors:
            self.process = programs.start(command, stdout=errors, stderr=errors)

    def end(self):
        if self.qmp_client is not None:
            self.qmp_client.close()
            self.qmp_client = None
        if self.agent_socket is not None:
            self.agent_socket.close()
            self.agent_socket = None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def is_running(self):
        return self.process.poll() is None

    @property
    def qmp(self):
        if self.qmp_client is None:
            self.qmp_client = Qmp(self.qmp_path)
        return self.qmp_client

    # What the guest says by itself.

    def console(self):
        return self.console_path.read_text(errors="replace").replace("\r", "")

    def said_all(self, pattern):
        return re.findall(r"^guest: " + pattern, self.console(), re.MULTILINE)

    def said(self, pattern):
        """The last match of a pattern in what the guest said, or None."""
        matches = self.said_all(pattern)
        return matches[-1] if matches else None

    def fail(self, what):
        errors = self.errors_path.read_text(errors="replace")
        raise GuestFailed(f"{what}\n--- console of {self.name}\n{self.console()[-3000:]}\n"
                          f"--- QEMU\n{errors[-2000:]}")

    def wait_for(self, pattern, timeout_seconds=90, times=1):
        """The last match of `pattern` once the guest said it `times` times."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            matches = self.said_all(pattern)
            if len(matches) >= times:
                return matches[-1]
            failed = self.said(r"failed.*")
            if failed:
                self.fail(failed)
            if not self.is_running():
                self.fail(f"the guest ended before it said '{pattern}'")
            if time.monotonic() > deadline:
                self.fail(f"the guest did not say '{pattern}' in {timeout_seconds} s")
            time.sleep(0.01)

    def wait_for_end(self, timeout_seconds=120):
        """Powered off, without an error in its kernel log."""
        self.wait_for(r"done", timeout_seconds)
        errors = int(self.wait_for(r"kernel-errors (\d+)", 1))
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.fail("the guest did not power off")
        if errors:
            self.fail(f"the guest's kernel reports {errors} errors")

    # What the guest does when told to; its job is then guest_agent.

    def wait_until_ready(self, timeout_seconds=120, boots=1):
        """The guest takes commands, for the `boots`-th time on this console."""
        self._connect_agent()
        self.wait_for(r"ready", timeout_seconds, times=boots)
        # What the guest said before a reset may come first.
        self._exchange(f"boot {boots} of {self.name}", timeout_seconds)
        return self

    def go_on(self, timeout_seconds=60):
        """The guest was ready in another QEMU, and is here now."""
        self._connect_agent()
        self._exchange(f"in {self.name}", timeout_seconds)

    def _connect_agent(self):
        if self.agent_socket is None:
            self.agent_socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            programs.wait_until(self._agent_connects, 30, "QEMU to start")

    def _exchange(self, token, timeout_seconds):
        self.agent_socket.settimeout(timeout_seconds)
        self.tell(f"echo {token} >&3")
        while self._receive_line() != token:
            pass
        assert self._receive_line() == "0 0", "the agent does not answer a command with its status"

    def _agent_connects(self):
        if not self.is_running():
            self.fail("QEMU ended at its start")
        try:
            self.agent_socket.connect(str(self.agent_path))
            return True
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    def _receive(self):
        try:
            piece = self.agent_socket.recv(65536)
        except TimeoutError:
            self.fail("the guest did not answer in time")
        if not piece:
            self.fail("QEMU ended while the guest was to answer")
        self.agent_received += piece

    def _receive_line(self):
        while b"\n" not in self.agent_received:
            self._receive()
        line, _, rest = bytes(self.agent_received).partition(b"\n")
        self.agent_received = bytearray(rest)
        return line.decode(errors="replace")

    def try_run(self, command, timeout_seconds=60):
        """Runs one line of shell in the guest: (exit status, what it printed)."""
        assert "\n" not in command, "the agent reads one line"
        self.agent_socket.settimeout(timeout_seconds)
        self.agent_socket.sendall(command.encode() + b"\n")
        status, count = (int(word) for word in self._receive_line().split())
        while len(self.agent_received) < count:
            self._receive()
        output = bytes(self.agent_received[:count])
        del self.agent_received[:count]
        return status, output.decode(errors="replace").strip()

    def run(self, command, timeout_seconds=60):
        """As try_run, and it has to succeed; returns what it printed."""
        status, output = self.try_run(command, timeout_seconds)
        if status != 0:
            self.fail(f"in the guest: {command}\nstatus {status}\n{output}")
        return output

    def tell(self, command):
        """For a command after which the guest does not answer, such as a reboot."""
        self.agent_socket.sendall(command.encode() + b"\n")

    def kernel_errors(self):
        """Lines of the guest's kernel log that no healthy disk causes."""
        return self.run('dmesg | grep -E "$kernel_errors" || true')


@functools.cache
def choose_accelerator():
    """"kvm" where it boots this kernel, else "tcg" (with a thread for each processor)."""
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        with tempfile.TemporaryDirectory() as directory:
            initramfs = Path(directory, "initramfs")
            tree = FileTree()
            tree.add("init", b"#!/bin/busybox sh\necho 'guest: booted'\nexec sleep 1000\n")
            tree.add("bin/busybox", find_program("busybox").read_bytes())
            tree.write_cpio(initramfs)
            probe = Guest(directory, "probe", direct_boot(initramfs), "kvm")
            try:
                probe.wait_for(r"booted", 3)
                return "kvm"
            except GuestFailed:
                pass
            finally:
                probe.end()
    return "tcg"
