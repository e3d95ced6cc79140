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
  std::string
      holder;  // a line for people about this daemon: "holdfastd pid 123 on host x since ..."
};

struct PoolCreateOptions {
  bool shared = false;
  std::uint64_t segment_bytes = limits::kSegmentBytesDefault;
};

// `location` is "dir:/absolute/path" (rados: and lun: are refused with a message until they exist).
// create_pool makes the directory if needed, refuses one that holds anything, and returns it
// opened.
Task<Result<std::unique_ptr<Pool>>> create_pool(PoolContext context, std::string location,
                                                PoolCreateOptions options);
// Takes the pool's lock: busy, with the holder, when another daemon has it. An unknown incompatible
// feature bit is refused with its name.
Task<Result<std::unique_ptr<Pool>>> open_pool(PoolContext context, std::string location);

}  // namespace holdfast
