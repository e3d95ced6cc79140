// SPDX-License-Identifier: Apache-2.0
//
// The waist between frontends (serve/) and volumes: a frontend knows only this.
//
// Threading: everything on the executor of the device. Lifetime: a request belongs to the frontend
// and stays alive and untouched from submit() to its on_complete, and so does the memory behind
// `buffers`. on_complete is never called from inside submit(), and may submit again.
//
// Holding: a device whose storage is full or unreachable keeps requests waiting instead of failing
// them, for hours if need be. A frontend whose client does not wait so long may cancel() them. A
// write that was cancelled may take effect later, but before any request that was submitted after
// its completion sees that range: to submit it again is safe.
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
#include "base/time.h"
#include "io/task.h"

namespace holdfast {

enum class BlockOperation : std::uint8_t { read, write, flush, discard, write_zeroes };

enum class BlockStatus : std::uint8_t {
  ok,
  out_of_range,  // beyond the end of the device
  read_only,
  medium_error,   // the stored bytes failed their check
  shutting_down,  // the device is being closed, or lost its ownership
  // The outcome is open: what was written may be there now, or later, or never.
  cancelled,     // by cancel()
  hold_expired,  // held for longer than the operator wants requests to wait
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
  std::uint8_t device_stage = 0;
  MonotonicTime device_submitted{};
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
  // Requests that need its storage wait now.
  virtual bool is_holding() const { return false; }
  // Of a request in flight: it completes as soon as nobody will touch its buffers any more, as
  // `cancelled` or with its outcome. Never from inside the call; may be called again.
  virtual void cancel(BlockRequest&) {}
  // At least one extent, at most `extents_max`, from offset_bytes on, merged where equal; covers at
  // most length_bytes. The range must be inside the device.
  virtual Task<Result<std::vector<BlockExtent>>> block_status(std::uint64_t offset_bytes,
                                                              std::uint64_t length_bytes,
                                                              std::size_t extents_max) = 0;
};

}  // namespace holdfast
