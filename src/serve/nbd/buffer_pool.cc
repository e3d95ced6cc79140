// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/buffer_pool.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/assert.h"

namespace holdfast::nbd {

BufferPool::~BufferPool() {
  HOLDFAST_ASSERT(used_bytes_ == 0);
}

std::size_t BufferPool::class_bytes(std::size_t bytes) {
  return std::bit_ceil(std::max<std::size_t>(bytes, kBlockBytes));
}

std::size_t BufferPool::class_index(std::size_t bytes) {
  const auto index = static_cast<std::size_t>(std::countr_zero(bytes / kBlockBytes));
  HOLDFAST_ASSERT(index < kClassCount);
  return index;
}

AlignedBuffer BufferPool::get(std::size_t bytes) {
  const std::size_t rounded_bytes = class_bytes(bytes);
  used_bytes_ += rounded_bytes;
  std::vector<AlignedBuffer>& free = free_[class_index(rounded_bytes)];
  if (free.empty()) return AlignedBuffer(rounded_bytes);
  AlignedBuffer buffer = std::move(free.back());
  free.pop_back();
  free_bytes_ -= rounded_bytes;
  return buffer;
}

void BufferPool::put(AlignedBuffer buffer) {
  const std::size_t bytes = buffer.size();
  HOLDFAST_ASSERT(bytes <= used_bytes_);
  used_bytes_ -= bytes;
  if (free_bytes_ + bytes > free_bytes_max_) return;
  free_bytes_ += bytes;
  free_[class_index(bytes)].push_back(std::move(buffer));
}

ReceiveChunk* BufferPool::get_chunk(std::size_t bytes) {
  std::unique_ptr<ReceiveChunk> chunk;
  if (free_chunks_.empty()) {
    chunk = std::make_unique<ReceiveChunk>();
  } else {
    chunk = std::move(free_chunks_.back());
    free_chunks_.pop_back();
  }
  chunk->memory = get(bytes);
  chunk->references = 1;
  return chunk.release();  // drop() takes it back
}

void BufferPool::drop(ReceiveChunk* chunk) {
  HOLDFAST_ASSERT(chunk->references != 0);
  if (--chunk->references != 0) return;
  put(std::exchange(chunk->memory, {}));
  free_chunks_.emplace_back(chunk);
}

void BufferPool::trim() {
  for (std::vector<AlignedBuffer>& free : free_) {
    free.clear();
    free.shrink_to_fit();
  }
  free_bytes_ = 0;
  free_chunks_.clear();
}

}  // namespace holdfast::nbd
