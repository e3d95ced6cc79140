// SPDX-License-Identifier: Apache-2.0
//
// The only switch on the kind of a pool.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/limits.h"
#include "io/executor.h"
#include "io/file_system.h"
#include "pool/pool.h"

namespace holdfast {

// Where pools live and who asks.
struct PoolContext {
  Executor& executor;
  FileSystem& file_system;
  // A line for people about this daemon: "holdfastd pid 123 on host x since ..."
  std::string holder;
  // Of this daemon, in shared pools; empty: it can use none.
  std::string host_name = {};
};

struct PoolCreateOptions {
  bool shared = false;
  std::uint16_t io_timeout_seconds = limits::kLeaseIoTimeoutSecondsDefault;  // of a shared one: N
  std::uint16_t watchdog_seconds = 0;                                        // and W
  std::uint64_t segment_bytes = limits::kSegmentBytesDefault;
};

// invalid_argument: no pool may have these (in seconds), and what is possible.
Result<void> check_lease_times(std::uint32_t io_timeout_seconds, std::uint32_t watchdog_seconds);

// `location` is "dir:/absolute/path" or "rados:POOL[/NAMESPACE][?conf=FILE&id=NAME&keyring=FILE]"
// (lun: is refused with a message until it exists). create_pool makes the directory if needed,
// refuses one that holds anything, and returns it opened. Pools on Ceph are always shared ones. In
// a new shared pool this host is host 1, generation 1, from now on.
Task<Result<std::unique_ptr<Pool>>> create_pool(PoolContext context, std::string location,
                                                PoolCreateOptions options);
// Takes the pool's lock: busy, with the holder, when another daemon has it. An unknown incompatible
// feature bit is refused with its name.
Task<Result<std::unique_ptr<Pool>>> open_pool(PoolContext context, std::string location);

// The same open pool for volumes on another executor; `info` is that of the pool that open_pool or
// create_pool returned which outlives the view: the lock is its alone.
// A view is for the segments and roots of the volumes that live on its executor, each of which is
// on one view at a time. Volumes are created, renamed, removed and listed only through the first.
std::unique_ptr<Pool> view_pool(PoolInfo info, PoolContext context);

}  // namespace holdfast
