// SPDX-License-Identifier: Apache-2.0
//
// The waist between frontends (serve/) and volumes: a frontend knows only this.
//
// Threading: everything on the executor of the device. Lifetime: a request belongs to the frontend
// and stays alive and untouched from submit() to its on_complete, and so does the memory behind
// `buffers`. on_complete is never called from inside submit(), and may submit again.
//
// Ordering: requests in flight together have no order among themselves. A flush covers every write,
// discard and write_zeroes that completed before the flush was submitted (it may cover more).
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/list.h"
#include "base/result.h"
#include "io/task.h"

namespace holdfast {

enum class BlockOperation : std::uint8_t { read, write, flush, discard, write_zeroes };

enum class BlockStatus : std::uint8_t {
  ok,
  out_of_range,   // beyond the end of the device
  read_only,
  medium_error,   // the stored bytes failed their check
  shutting_down,  // the device is being closed, or lost its ownership
};

struct BlockRequest {
  using Callback = void (*)(BlockRequest& request, BlockStatus status);

  BlockOperation operation = BlockOperation::read;
  bool force_unit_access = false;  // write, discard, write_zeroes: durable at completion
  bool keep_allocated = false;     // write_zeroes: the range stays allocated (NBD's NO_HOLE)
  std::uint64_t offset_bytes = 0;  // any alignment
  std::uint64_t length_bytes = 0;  // any; 0 completes ok
  std::span<const iovec> buffers;  // read, write: exactly length_bytes in all
  Callback on_complete = nullptr;
  void* context = nullptr;

  // For the device.
  ListLink device_link;
  void* device_state = nullptr;
  // Set by a volume when a write enters its log: the position of the write in the one order that
  // recovery restores a prefix of. For checkers.
  std::uint64_t log_order = 0;
};

struct BlockDeviceInfo {
  std::string name;
  Uuid id;
  std::uint64_t size_bytes = 0;
  std::uint32_t minimum_io_bytes = 1;
  std::uint32_t preferred_io_bytes = 4096;
  bool read_only = false;
};

// A run of blocks with one state; the extents of one answer are consecutive.
struct BlockExtent {
  std::uint64_t length_bytes = 0;
  bool hole = false;  // no space is allocated
  bool zero = false;  // reads as zeros
};

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;
  virtual const BlockDeviceInfo& info() const = 0;
  virtual void submit(BlockRequest& request) = 0;
  // At least one extent, at most `extents_max`, from offset_bytes on, merged where equal; covers at
  // most length_bytes. The range must be inside the device.
  virtual Task<Result<std::vector<BlockExtent>>> block_status(std::uint64_t offset_bytes,
                                                              std::uint64_t length_bytes,
                                                              std::size_t extents_max) = 0;
};

}  // namespace holdfast
