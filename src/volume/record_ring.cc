// SPDX-License-Identifier: Apache-2.0
#include "volume/record_ring.h"

#include <algorithm>

#include "base/assert.h"
#include "base/units.h"

namespace holdfast {

RecordRing::RecordRing(std::uint32_t capacity_blocks) : capacity_blocks_(capacity_blocks) {
  HOLDFAST_ASSERT(capacity_blocks >= 4);
}

std::optional<RecordRing::Space> RecordRing::peek(std::uint32_t blocks_min,
                                                  std::uint32_t blocks_wanted) {
  std::uint32_t start = head_;
  std::uint32_t room = 0;
  if (empty()) {
    head_ = tail_ = start = 0;
    room = capacity_blocks_;
  } else if (head_ > tail_) {
    room = capacity_blocks_ - head_;
    if (room < blocks_wanted && tail_ > room) {  // the run at the front is longer: wrap
      start = 0;
      room = tail_;
    }
  } else {
    room = tail_ - head_;  // 0 when full
  }
  if (room < blocks_min) return std::nullopt;
  if (memory_.empty()) memory_ = AlignedBuffer(std::size_t{capacity_blocks_} * kBlockBytes);
  return Space{memory_.data() + std::size_t{start} * kBlockBytes, start,
               std::min(room, blocks_wanted)};
}

void RecordRing::commit(const Space& space, std::uint32_t used_blocks) {
  HOLDFAST_ASSERT(used_blocks != 0 && used_blocks <= space.capacity_blocks);
  head_ = space.offset_blocks + used_blocks;
  if (head_ == capacity_blocks_) head_ = 0;
  if (record_count_ == 0) tail_ = space.offset_blocks;
  used_blocks_ += used_blocks;
  ++record_count_;
}

void RecordRing::release_oldest(std::uint32_t offset_blocks, std::uint32_t used_blocks) {
  HOLDFAST_ASSERT(record_count_ != 0 && used_blocks <= used_blocks_);
  tail_ = offset_blocks + used_blocks;
  if (tail_ == capacity_blocks_) tail_ = 0;
  used_blocks_ -= used_blocks;
  --record_count_;
}

void RecordRing::shrink() {
  if (empty()) memory_ = AlignedBuffer();
}

}  // namespace holdfast
