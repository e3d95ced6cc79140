// SPDX-License-Identifier: Apache-2.0
//
// RecordRing: the memory of the records that are open, in flight or acknowledged but not yet
// durable, as one circular buffer: records come and go in log order. Its size is the bound on
// retained bytes. The memory is taken with the first record and given back when the ring is empty
// and idle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "io/aligned_buffer.h"

namespace holdfast {

class RecordRing {
 public:
  struct Space {
    std::byte* memory = nullptr;
    std::uint32_t offset_blocks = 0;
    std::uint32_t capacity_blocks = 0;
  };

  explicit RecordRing(std::uint32_t capacity_blocks);

  // The largest run of blocks for the next record: at least `blocks_min`, at most `blocks_wanted`;
  // nothing when there is no such run. Not taken until commit().
  std::optional<Space> peek(std::uint32_t blocks_min, std::uint32_t blocks_wanted);
  void commit(const Space& space, std::uint32_t used_blocks);
  // Gives back everything up to the end of the oldest record.
  void release_oldest(std::uint32_t offset_blocks, std::uint32_t used_blocks);
  void shrink();  // when empty: the memory goes back to the system

  bool empty() const { return record_count_ == 0; }
  std::uint32_t used_blocks() const { return used_blocks_; }
  std::uint32_t capacity_blocks() const { return capacity_blocks_; }

 private:
  std::uint32_t capacity_blocks_;
  std::uint32_t head_ = 0;  // next free block
  std::uint32_t tail_ = 0;  // first used block
  std::uint32_t used_blocks_ = 0;
  std::uint32_t record_count_ = 0;
  AlignedBuffer memory_;
};

}  // namespace holdfast
