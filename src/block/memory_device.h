// SPDX-License-Identifier: Apache-2.0
//
// MemoryDevice: a block device in RAM, for tests, fuzz targets and for measuring a frontend alone.
// Space is allocated block by block on first write, so that holes are real. Completions come after
// a chosen delay, or at the end of the turn; they can be held back to keep requests in flight, and
// ranges can be made to fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "block/block_device.h"
#include "io/executor.h"

namespace holdfast {

class MemoryDevice final : public BlockDevice {
 public:
  struct Options {
    std::string name = "memory";
    std::uint64_t size_bytes = 0;
    bool read_only = false;
    Duration delay{0};          // from submit to completion
    bool discard_data = false;  // a null device: writes vanish, reads leave the buffers as they are
  };

  MemoryDevice(Executor& executor, Options options);
  ~MemoryDevice() override;  // nothing in flight

  const BlockDeviceInfo& info() const override { return info_; }
  void submit(BlockRequest& request) override;
  bool is_holding() const override { return says_holding_; }
  void cancel(BlockRequest& request) override;
  Task<Result<std::vector<BlockExtent>>> block_status(std::uint64_t offset_bytes,
                                                      std::uint64_t length_bytes,
                                                      std::size_t extents_max) override;

  // Grows or shrinks; blocks behind a new end are gone. No request may be in flight.
  void resize(std::uint64_t size_bytes);
  // From now on requests stay in flight until release().
  void hold() { held_ = true; }
  void release();
  // From now on it says that it holds (hold() alone is only slow).
  void set_holding(bool value) { says_holding_ = value; }
  // Requests that touch the range fail with `status`, until ok is given for it.
  void fail_range(std::uint64_t offset_bytes, std::uint64_t length_bytes, BlockStatus status);

  std::size_t in_flight_count() const { return waiting_.size(); }
  std::uint64_t operation_count(BlockOperation operation) const {
    return operation_counts_[static_cast<std::size_t>(operation)];
  }
  std::uint64_t force_unit_access_count() const { return force_unit_access_count_; }
  std::uint64_t allocated_block_count() const;

 private:
  struct Block {
    std::unique_ptr<std::byte[]> data;  // null reads as zeros
    bool allocated = false;
  };
  struct Waiting {
    BlockRequest* request;
    MonotonicTime due;
    bool is_cancelled = false;
  };

  void complete_due();
  void complete_cancelled();
  BlockStatus perform(BlockRequest& request);
  void transfer(BlockRequest& request);
  void clear(std::uint64_t offset_bytes, std::uint64_t length_bytes, bool keep_allocated);
  void schedule();

  Executor& executor_;
  BlockDeviceInfo info_;
  Options options_;
  std::vector<Block> blocks_;
  std::deque<Waiting> waiting_;  // in the order of submission, which is that of completion
  bool held_ = false;
  bool says_holding_ = false;
  std::uint64_t fail_offset_bytes_ = 0;
  std::uint64_t fail_length_bytes_ = 0;
  BlockStatus fail_status_ = BlockStatus::ok;
  std::uint64_t operation_counts_[5] = {};
  std::uint64_t force_unit_access_count_ = 0;
  Timer timer_{[](void* context) { static_cast<MemoryDevice*>(context)->complete_due(); }, this};
  Deferred deferred_{[](void* context) { static_cast<MemoryDevice*>(context)->complete_due(); },
                     this};
  Deferred deferred_cancelled_{
      [](void* context) { static_cast<MemoryDevice*>(context)->complete_cancelled(); }, this};
};

}  // namespace holdfast
