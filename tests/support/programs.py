# SPDX-License-Identifier: Apache-2.0
"""Finding and running programs. Every process that is started here ends with the test."""

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    """For preexec_fn: a child must not outlive a test that ctest ended at its time limit."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def binary_directory():
    given = os.environ.get("HOLDFAST_BIN_DIR")
    if given:
        return Path(given)
    source = Path(__file__).resolve().parents[2]
    for preset in ("release", "dev"):
        if (source / "build" / preset / "bin" / "holdfastd").exists():
            return source / "build" / preset / "bin"
    raise RuntimeError("set HOLDFAST_BIN_DIR to the folder that has holdfastd and holdfast")


def is_sanitized():
    """True in an asan or tsan build, where memory and time mean nothing."""
    return bool(os.environ.get("HOLDFAST_SANITIZE"))


def start(command, **options):
    options.setdefault("preexec_fn", die_with_parent)
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen([str(word) for word in command], **options)


class ProgramFailed(AssertionError):
    pass


def run(*command, timeout=120, status=0, **options):
    """Runs to the end and returns the CompletedProcess; another exit status than `status` fails the
    test with all that the program said. status=None accepts any."""
    command = [str(word) for word in command]
    options.setdefault("preexec_fn", die_with_parent)
    options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout,
        **options
    )
    if status is not None and done.returncode != status:
        raise ProgramFailed(
            f"{' '.join(command)}\nexit status {done.returncode}, expected {status}\n"
            f"--- standard output\n{done.stdout[-4000:]}\n--- standard error\n{done.stderr[-4000:]}"
        )
    return done


def wait_until(condition, timeout_seconds=30, what="the condition", step_seconds=0.02):
    """Returns the first true value of condition()."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_seconds} s for {what}")
        time.sleep(step_seconds)


def stop(process, timeout_seconds=30):
    """SIGTERM, then SIGKILL; returns the exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


def memory_bytes(pid, field):
    """VmRSS, VmHWM, RssAnon... of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/{pid}/status has no {field}")
