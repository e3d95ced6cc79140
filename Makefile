# SPDX-License-Identifier: Apache-2.0
#
# A thin front door: each target installs the Debian packages that it needs, builds, and runs one
# thing. The real build is CMake's (CMakePresets.json); docs/HACKING.md says how to use it directly.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

PREFIX ?= /usr/local
DESTDIR ?=
JOBS ?= $(shell nproc)
BUILD_DIR ?= build/release
ASAN_DIR ?= build/asan
FUZZ_DIR ?= build/fuzz
SOAK_SECONDS ?= 3600
FAULT_SECONDS ?= 600
FUZZ_SECONDS ?= 60

# Tests run three at a time whatever the number of cores: they measure and kill things, and many of
# them wait most of the time.
CTEST := ctest --output-on-failure --no-tests=error -j 3

.PHONY: help demo test bench soak fuzz format install build asan clean

help:
	@echo 'Holdfast: virtual disks for KVM. Targets:'
	@echo
	@echo '  make demo      a Linux guest on a Holdfast volume, its daemon killed while it writes'
	@echo '  make test      all tests; ends with the summary of ctest'
	@echo '  make bench     Holdfast beside qemu-storage-daemon and nbdkit, in one run;'
	@echo '                 snapshots and clones beside qcow2 chains; what leases cost'
	@echo '  make soak      the simulator on fresh seeds for SOAK_SECONDS ($(SOAK_SECONDS)), a'
	@echo '                 quarter of that with several hosts, then a'
	@echo '                 guest on bad storage, FAULT_SECONDS ($(FAULT_SECONDS)) for each fault'
	@echo '  make fuzz      every fuzz target for FUZZ_SECONDS ($(FUZZ_SECONDS)) each'
	@echo '  make build     release build in $(BUILD_DIR)'
	@echo '  make install   into DESTDIR ("$(DESTDIR)") PREFIX ($(PREFIX))'
	@echo '  make format    clang-format over the sources'
	@echo '  make clean     removes build/'
	@echo
	@echo 'Packages that are missing are installed with apt-get (as root, or through sudo).'

build:
	@tools/install_packages build
	@cmake --preset release -B $(BUILD_DIR) $(CMAKE_ARGUMENTS)
	@cmake --build $(BUILD_DIR) -j $(JOBS) --target holdfastd holdfast

demo: build
	@tools/install_packages demo
	@demo/demo.py --bin-dir $(BUILD_DIR)/bin

# Unit tests and fuzz seeds run under the sanitizers, all else without (some with them too): nothing
# is built twice for nothing. Sanitizers first: the last thing printed is the summary of the
# end-to-end tests. -O0: g++ takes three times as long over instrumented code with -O1, and on two
# cores that is what a run waits for. Without optimisation g++ makes no tail calls between
# coroutines, so those tests want a big stack.
test:
	@tools/install_packages build test
	cmake --preset release -B $(BUILD_DIR) $(CMAKE_ARGUMENTS)
	cmake --build $(BUILD_DIR) -j $(JOBS) --target end_to_end
	cmake --preset asan -B $(ASAN_DIR) -DCMAKE_CXX_FLAGS_RELWITHDEBINFO='-O0 -g1' $(CMAKE_ARGUMENTS)
	cmake --build $(ASAN_DIR) -j $(JOBS)
	ulimit -s unlimited 2>/dev/null; $(CTEST) --test-dir $(ASAN_DIR) -L 'unit|fuzz|sanitized'
	$(CTEST) --test-dir $(BUILD_DIR) -LE 'unit|fuzz'

bench: build
	@tools/install_packages bench
	@cmake --build $(BUILD_DIR) -j $(JOBS) --target vhost_bench
	@bench/run.py --bin-dir $(BUILD_DIR)/bin $(BENCH_ARGUMENTS)
	@bench/snapshots.py --bin-dir $(BUILD_DIR)/bin
	@bench/leases.py --bin-dir $(BUILD_DIR)/bin

soak:
	@tools/install_packages build test
	@cmake --preset release -B $(BUILD_DIR) $(CMAKE_ARGUMENTS)
	@cmake --build $(BUILD_DIR) -j $(JOBS) --target holdfast-sim holdfastd holdfast fault_fs \
	  guest_load lease_areas lease_contender
	$(BUILD_DIR)/bin/holdfast-sim --seconds $(SOAK_SECONDS)
	$(BUILD_DIR)/bin/holdfast-sim --shared --seconds $$(($(SOAK_SECONDS) / 4))
	HOLDFAST_BIN_DIR=$(BUILD_DIR)/bin HOLDFAST_SANLOCK_PEERS=1 \
	  python3 -B tests/test_sanlock.py -v
	HOLDFAST_BIN_DIR=$(BUILD_DIR)/bin HOLDFAST_FAULT_SECONDS=$(FAULT_SECONDS) \
	  python3 -B tests/test_storage_faults.py -v GuestOnBadStorage

fuzz:
	@tools/install_packages build fuzz
	@cmake --preset fuzz -B $(FUZZ_DIR) $(CMAKE_ARGUMENTS)
	@cmake --build $(FUZZ_DIR) -j $(JOBS) --target fuzz/all
	@tools/run_fuzzers $(FUZZ_DIR) $(FUZZ_SECONDS)

# Builds only what is missing, so that `make build && sudo make install` compiles nothing as root.
# The prefix is known to the build as well: the systemd unit names the daemon by its full path.
install:
	@test -x $(BUILD_DIR)/bin/holdfastd || $(MAKE) build
	cmake -B $(BUILD_DIR) -DCMAKE_INSTALL_PREFIX='$(PREFIX)' >/dev/null
	DESTDIR='$(DESTDIR)' cmake --install $(BUILD_DIR)

format:
	@tools/install_packages format
	find src sim fuzz bench tests -name '*.h' -o -name '*.cc' | xargs clang-format -i

clean:
	rm -rf build
