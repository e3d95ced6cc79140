// SPDX-License-Identifier: Apache-2.0
//
// Memory of one export's connections: buffers by size class, and the chunks that input is received
// into. What was used lately is kept for the next request (bounded); trim() gives it back.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/units.h"
#include "io/aligned_buffer.h"

namespace holdfast::nbd {

// Input lands in chunks, and write payloads are handed to the device from there: a chunk is kept by
// the connection that receives into it and by every request whose payload lies in it.
struct ReceiveChunk {
  AlignedBuffer memory;
  std::uint32_t references = 0;
};

class BufferPool {
 public:
  // Small for a connection that is idle or sends little, large while requests pour in.
  static constexpr std::size_t kSmallChunkBytes = 16 * kKiB;
  static constexpr std::size_t kLargeChunkBytes = 256 * kKiB;

  explicit BufferPool(std::size_t free_bytes_max) : free_bytes_max_(free_bytes_max) {}
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;
  ~BufferPool();

  // The size that get() would give: a power of two, at least a block.
  static std::size_t class_bytes(std::size_t bytes);
  AlignedBuffer get(std::size_t bytes);
  void put(AlignedBuffer buffer);

  // With one reference, the caller's.
  ReceiveChunk* get_chunk(std::size_t bytes);
  void drop(ReceiveChunk* chunk);  // one reference

  void trim();  // frees everything that is not in use
  std::size_t free_bytes() const { return free_bytes_; }
  std::size_t used_bytes() const { return used_bytes_; }

 private:
  static constexpr std::size_t kClassCount = 14;  // 4 KiB to 32 MiB
  static std::size_t class_index(std::size_t bytes);

  std::size_t free_bytes_max_;
  std::size_t free_bytes_ = 0;
  std::size_t used_bytes_ = 0;
  std::array<std::vector<AlignedBuffer>, kClassCount> free_;
  std::vector<std::unique_ptr<ReceiveChunk>> free_chunks_;  // without memory
};

}  // namespace holdfast::nbd
