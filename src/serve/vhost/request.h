// SPDX-License-Identifier: Apache-2.0
//
// One request of a guest, from its chain to its answer.
//
//   free -> taken -> in the device (for each segment of a discard in turn) -> done -> published
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/limits.h"
#include "base/list.h"
#include "block/block_device.h"
#include "serve/vhost/virtio.h"

namespace holdfast::vhost {

class Queue;

// Room for the vectors of a request with many, or for the segments of a discard.
struct LongRequest {
  std::array<iovec, limits::kVhostVectorsPerRequestMax> vectors;
  std::array<std::byte, limits::kVhostDiscardSegmentsMax * kDiscardSegmentBytes> segments;
};

class LongRequestPool {
 public:
  bool is_exhausted() const {
    return free_.empty() && all_.size() >= limits::kVhostLongRequestsMax;
  }
  LongRequest& get() {
    if (free_.empty()) {
      all_.push_back(std::make_unique<LongRequest>());
      return *all_.back();
    }
    LongRequest* const taken = free_.back();
    free_.pop_back();
    return *taken;
  }
  void put(LongRequest& request) { free_.push_back(&request); }

 private:
  std::vector<std::unique_ptr<LongRequest>> all_;
  std::vector<LongRequest*> free_;
};

struct Request {
  static constexpr std::size_t kShortVectors = 6;

  BlockRequest block;
  Queue* queue = nullptr;
  ListLink link;  // done
  std::uint16_t head = 0;
  bool is_taken = false;
  BlkStatus status = BlkStatus::ok;
  std::byte* status_at = nullptr;    // in the guest's memory
  std::uint32_t writable_bytes = 0;  // of the chain, without the status
  std::uint64_t memory_generation = 0;

  std::array<std::byte, kRequestHeaderBytes> header;
  std::array<iovec, kShortVectors> short_vectors;
  LongRequest* long_request = nullptr;
  std::size_t vector_count = 0;
  std::span<iovec> payload;  // of what the guest reads or writes
  std::uint64_t payload_bytes = 0;

  std::size_t segment_count = 0;
  std::size_t segment_next = 0;

  iovec* vectors() {
    return long_request == nullptr ? short_vectors.data() : long_request->vectors.data();
  }
  // The vectors move, and the payload with them.
  void make_long(LongRequestPool& pool) {
    if (long_request != nullptr) return;
    long_request = &pool.get();
    std::copy(short_vectors.begin(), short_vectors.end(), long_request->vectors.begin());
    if (payload.empty()) return;
    const std::ptrdiff_t first = payload.data() - short_vectors.data();
    payload = {long_request->vectors.data() + first, payload.size()};
  }
};

}  // namespace holdfast::vhost
