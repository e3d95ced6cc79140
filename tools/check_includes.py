#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the sources to the rules that a compiler does not know.

  check_includes.py [ROOT]     one line per violation; exit status 1 when there is any
  check_includes.py --self-test   proves that each rule catches a violation

Rules: the include table of docs/ARCHITECTURE.md; no clock, thread, lock, randomness or system call
outside io/ and cli/ (the simulator's contract); every file has its SPDX line, every header #pragma
once; 100 columns; no bare TODO; encoders only through base/bytes.h; no co_await in a conditional
expression (g++ 12 destroys the results of both branches)."""

import re
import sys
import tempfile
from pathlib import Path

COLUMNS_MAX = 100

# What each folder may include, besides itself.
SOURCE_FOLDERS = ["base", "format", "io", "block", "pool", "lease", "volume", "serve", "host",
                  "api", "cli"]
ALLOWED = {
    "base": [],
    "format": ["base"],
    "io": ["base"],
    "block": ["base", "io"],
    "pool": ["base", "format", "io"],
    "lease": ["base", "format", "io", "pool"],
    "volume": ["base", "format", "io", "block", "pool", "lease"],
    "serve": ["base", "io", "block"],
    "host": ["base", "format", "io", "block", "pool", "lease", "volume", "serve"],
    "api": ["base", "io", "host"],
    "cli": ["base", "io", "host", "api"],
    "sim": [folder for folder in SOURCE_FOLDERS if folder != "cli"] + ["sim"],
    "fuzz": [folder for folder in SOURCE_FOLDERS if folder != "cli"] + ["sim", "fuzz"],
    "bench": [folder for folder in SOURCE_FOLDERS if folder != "cli"] + ["sim", "bench"],
    "tests": ["base", "format", "io", "pool", "lease"],
}

# Headers that reach for the world: only io/ and cli/ may.
WORLD_HEADERS = re.compile(
    r"^(thread|mutex|shared_mutex|atomic|condition_variable|future|semaphore|latch|barrier"
    r"|stop_token|chrono|ctime|time\.h|random|fstream|filesystem|iostream|cstdio|stdio\.h|csignal"
    r"|signal\.h|unistd\.h|fcntl\.h|poll\.h|pthread\.h|pwd\.h|grp\.h|dirent\.h|termios\.h|dlfcn\.h"
    r"|sys/(?!types\.h|uio\.h).*|linux/.*|netinet/.*|arpa/.*|liburing(\.h|/.*))$")

# (path pattern, header pattern, reason). Every exception is here, with its reason.
WORLD_ALLOWED = [
    (r"^src/(io|cli)/", r".*", "the folders that touch the world"),
    (r"^src/base/time\.h$", r"chrono", "the strong time types are made of std::chrono's"),
    (r"^(src|sim)/", r"cstdio", "snprintf; the calls that do I/O are looked for by name"),
    (r"^src/base/(log|assert)[^/]*$", r"(chrono|atomic|mutex|condition_variable|thread)",
     "the last words of a failed assertion; the bounded log is used from every thread, and "
     "writes on one of its own, so that a slow disk under the log holds up nobody"),
    (r"^src/host/host_thread[^/]*$", r"(thread|mutex|condition_variable|atomic)",
     "where the threads of api/ hand their work to the loop and wait for it"),
    (r"^src/pool/rados_pool[^/]*$", r".*", "librados has threads of its own"),
    (r"^src/api/[^/]*$", r"(thread|mutex|condition_variable|atomic|chrono|unistd\.h"
     r"|sys/(socket|stat)\.h)",
     "cpp-httplib serves on threads and sockets of its own; they hand each request to the loop"),
    (r"^(bench|tests|fuzz)/", r".*", "programs of their own"),
    (r"^sim/[^/]*main\.cc$",
     r"(chrono|cstdio|iostream|csignal|signal\.h|fcntl\.h|unistd\.h|sys/.*)",
     "the simulator's program: --seconds, printing and ending"),
    (r"^src/.*(_test\.cc|/testing_[^/]*|_contract\.h)$", r".*",
     "tests of real files, clocks and sockets"),
    (r"^sim/.*_test\.cc$", r".*", "tests run the program"),
]

# Calls that reach for the world without a header that gives them away.
WORLD_CALLS = re.compile(
    r"(?<![\w.>:])(?:::|std::)?(rand|srand|getenv|usleep|nanosleep|clock_gettime|gettimeofday|time)"
    r"\((?!\s*\))"
    r"|(?<![\w.>:])(?:::|std::)?(?:fopen|fread|fwrite|printf|fprintf|fputs|puts|system|popen)\("
    r"|(?:std::chrono::)?(?:steady|system|high_resolution)_clock::now|std::random_device")
CALLS_ALLOWED = re.compile(
    r"^(src/(io|cli)/|src/base/(log|assert)|src/pool/rados_pool|(bench|tests|fuzz)/"
    r"|sim/[^/]*main\.cc|.*(_test\.cc|/testing_[^/]*|_contract\.h)$)")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]')
TODO = re.compile(r"\b(TODO|FIXME|XXX)\b")
CONDITIONAL_AWAIT = re.compile(r"[?:]\s+co_await\b")
SPDX = "SPDX-License-Identifier: Apache-2.0"


def folder_of(path):
    """The folder of the include table that a path (relative to the root) belongs to."""
    parts = path.split("/")
    if parts[0] == "src":
        return parts[1] if len(parts) > 2 else None
    return parts[0]


def strip_comment(line):
    return line.split("//", 1)[0]


def check_include(path, folder, bracket, header):
    top = header.split("/", 1)[0] if "/" in header else None
    if bracket == '"' or top in SOURCE_FOLDERS + ["sim", "fuzz", "bench"]:
        if top is None:
            # A neighbour by its bare name; src/ wants the full one, so that a move is seen.
            return f'write "{folder}/{header}"' if path.startswith("src/") else None
        if top == "src":
            return "headers are named from src/ on"
        if top in ALLOWED and top != folder and top not in ALLOWED[folder]:
            allowed = " ".join(ALLOWED[folder]) or "none"
            return f"{folder}/ may not include {top}/ (allowed: {allowed})"
        return None
    if WORLD_HEADERS.match(header):
        for path_pattern, header_pattern, _ in WORLD_ALLOWED:
            if re.match(path_pattern, path) and re.fullmatch(header_pattern, header):
                return None
        return f"<{header}> only in io/ and cli/: the simulator could not stand in for it"
    return None


def check_text(path, text):
    """[(line number, what)] for one source file."""
    found = []
    folder = folder_of(path)
    lines = text.split("\n")
    if not lines or SPDX not in lines[0]:
        found.append((1, f"the first line must be '// {SPDX}'"))
    if path.endswith(".h") and not any(line.strip() == "#pragma once" for line in lines):
        found.append((1, "a header needs #pragma once"))
    if folder not in ALLOWED:
        found.append((1, f"folder '{folder}' is not in the include table"))
        return found
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX:
            found.append((number, f"{len(line)} columns, at most {COLUMNS_MAX}"))
        if TODO.search(line):
            found.append((number, "no TODO: do it, or file an issue"))
        if CONDITIONAL_AWAIT.search(strip_comment(line)):
            found.append((number, "no co_await in a conditional expression: write if and else"))
        match = INCLUDE.match(line)
        if match:
            what = check_include(path, folder, *match.groups())
            if what:
                found.append((number, what))
        elif not CALLS_ALLOWED.match(path) and WORLD_CALLS.search(strip_comment(line)):
            found.append((number, "clocks, randomness and the environment only in io/ and cli/"))
    return found


def sources(root):
    for top in ("src", "sim", "fuzz", "bench", "tests"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix in (".h", ".cc") and path.is_file():
                yield path


def check_scripts(root):
    """SPDX and columns of what is not C++."""
    found = []
    names = ["Makefile", ".ci/run", ".clang-format", ".clang-tidy"]
    paths = [root / name for name in names if (root / name).exists()]
    for top in ("tools", "tests", "bench", "demo", "src", "sim", "fuzz"):
        paths += [path for path in (root / top).rglob("*")
                  if path.is_file() and (path.suffix in (".py", ".sh")
                                         or path.name == "CMakeLists.txt"
                                         or (top in ("tools", "tests", "demo")
                                             and path.suffix == ""))]
    for path in sorted(set(paths)):
        text = path.read_text(errors="replace")
        relative = str(path.relative_to(root))
        if SPDX not in "\n".join(text.split("\n")[:3]):
            found.append((relative, 1, f"one of the first lines must have '{SPDX}'"))
        for number, line in enumerate(text.split("\n"), 1):
            if len(line) > COLUMNS_MAX:
                found.append((relative, number, f"{len(line)} columns"))
    return found


def check_tree(root):
    found = []
    count = 0
    for path in sources(root):
        count += 1
        relative = str(path.relative_to(root))
        for number, what in check_text(relative, path.read_text(errors="replace")):
            found.append((relative, number, what))
    return count, found + check_scripts(root)


HEAD = f"// {SPDX}\n"

# (path, text, must it be found): each rule once broken and once kept.
CASES = [
    ("src/serve/a.cc", HEAD + '#include "volume/volume.h"\n', True),
    ("src/serve/a.cc", HEAD + '#include "block/block_device.h"\n', False),
    ("src/volume/a.cc", HEAD + '#include "serve/nbd.h"\n', True),
    ("src/base/a.h", HEAD + '#pragma once\n#include "io/task.h"\n', True),
    ("src/api/a.cc", HEAD + '#include "volume/volume.h"\n', True),
    ("src/cli/a.cc", HEAD + '#include "api/client.h"\n', False),
    ("sim/a.cc", HEAD + '#include "cli/x.h"\n', True),
    ("sim/a.cc", HEAD + '#include "volume/volume.h"\n', False),
    ("src/volume/a.cc", HEAD + '#include "map.h"\n', True),
    ("src/volume/a.cc", HEAD + "#include <thread>\n", True),
    ("src/volume/a.cc", HEAD + "#include <sys/socket.h>\n", True),
    ("src/volume/a.cc", HEAD + "#include <sys/uio.h>\n", False),
    ("src/io/a.cc", HEAD + "#include <thread>\n", False),
    ("src/volume/a.cc", HEAD + "auto now = std::chrono::steady_clock::now();\n", True),
    ("src/volume/a.cc", HEAD + "auto seed = std::random_device{}();\n", True),
    ("src/pool/a.cc", HEAD + 'auto home = getenv("HOME");\n', True),
    ("src/pool/a.cc", HEAD + "// not steady_clock::now\nauto t = executor.time(x);\n", False),
    ("src/pool/a.cc", HEAD + "#include <cstdio>\nstd::snprintf(text, 9, format);\n", False),
    ("src/pool/a.cc", HEAD + "#include <cstdio>\nstd::printf(format);\n", True),
    ("src/host/host_thread.h", HEAD + "#pragma once\n#include <mutex>\n", False),
    ("src/host/host.h", HEAD + "#pragma once\n#include <mutex>\n", True),
    ("src/pool/a.h", HEAD + "int a;\n", True),
    ("src/pool/a.h", HEAD + "#pragma once\n", False),
    ("src/pool/a.cc", "int a;\n", True),
    ("src/pool/a.cc", HEAD + "// " + "x" * 98 + "\n", True),
    ("src/pool/a.cc", HEAD + "// " + "x" * 97 + "\n", False),
    ("src/pool/a.cc", HEAD + "// TODO: later\n", True),
    ("src/pool/a.cc", HEAD + "auto a = is_b ? co_await b() : c;\n", True),
    ("src/pool/a.cc", HEAD + "                : co_await b();\n", True),
    ("src/pool/a.cc", HEAD + "auto a = co_await b();\n", False),
    ("src/new/a.cc", HEAD, True),
]


def self_test():
    failures = 0
    for path, text, must_be_found in CASES:
        found = check_text(path, text)
        if bool(found) != must_be_found:
            print(f"{path}: {text[len(HEAD):]!r}: expected "
                  f"{'a violation' if must_be_found else 'none'}, got {found}")
            failures += 1
    # The whole way: a tree with one bad file must be refused.
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "src/serve").mkdir(parents=True)
        (root / "src/serve/bad.cc").write_text(CASES[0][1])
        if len(check_tree(root)[1]) != 1:
            print("a bad file in a tree is not found")
            failures += 1
    print(f"{len(CASES) + 1 - failures} passed, {failures} failed")
    return 1 if failures else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    count, found = check_tree(root)
    for path, number, what in found:
        print(f"{path}:{number}: {what}")
    if count == 0:
        print(f"no sources under {root}")
        return 1
    print(f"{count} source files, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
