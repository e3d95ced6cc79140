// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/buffer_pool.h"

#include <gtest/gtest.h>

#include <set>
#include <string_view>
#include <utility>

#include "base/limits.h"
#include "serve/nbd/statistics.h"

namespace holdfast::nbd {
namespace {

TEST(NbdBufferPool, BuffersAreAlignedAndOfAPowerOfTwo) {
  BufferPool pool(kMiB);
  for (const std::size_t bytes : {1u, 4096u, 4097u, 100'000u, limits::kNbdRequestBytesMax}) {
    AlignedBuffer buffer = pool.get(bytes);
    EXPECT_GE(buffer.size(), bytes);
    EXPECT_EQ(buffer.size(), BufferPool::class_bytes(bytes));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 4096, 0u);
    pool.put(std::move(buffer));
  }
  EXPECT_EQ(BufferPool::class_bytes(0), 4096u);
  EXPECT_EQ(BufferPool::class_bytes(5000), 8192u);
}

TEST(NbdBufferPool, ReusesWhatWasGivenBack) {
  BufferPool pool(kMiB);
  AlignedBuffer buffer = pool.get(4096);
  const std::byte* memory = buffer.data();
  pool.put(std::move(buffer));
  EXPECT_EQ(pool.free_bytes(), 4096u);
  buffer = pool.get(100);
  EXPECT_EQ(buffer.data(), memory);
  EXPECT_EQ(pool.free_bytes(), 0u);
  pool.put(std::move(buffer));
}

TEST(NbdBufferPool, KeepsNoMoreThanItsBound) {
  BufferPool pool(10'000);
  AlignedBuffer buffers[4];
  for (AlignedBuffer& buffer : buffers) buffer = pool.get(4096);
  EXPECT_EQ(pool.used_bytes(), 4 * 4096u);
  for (AlignedBuffer& buffer : buffers) pool.put(std::exchange(buffer, {}));
  EXPECT_EQ(pool.free_bytes(), 2 * 4096u);
  EXPECT_EQ(pool.used_bytes(), 0u);
  pool.trim();
  EXPECT_EQ(pool.free_bytes(), 0u);
}

TEST(NbdBufferPool, ChunkLivesAsLongAsAnybodyNeedsIt) {
  BufferPool pool(kMiB);
  ReceiveChunk* chunk = pool.get_chunk(BufferPool::kSmallChunkBytes);
  ++chunk->references;
  pool.drop(chunk);
  EXPECT_EQ(pool.used_bytes(), BufferPool::kSmallChunkBytes);
  pool.drop(chunk);
  EXPECT_EQ(pool.used_bytes(), 0u);
  EXPECT_EQ(pool.free_bytes(), BufferPool::kSmallChunkBytes);
}

TEST(NbdStatistics, EveryFaultHasItsOwnName) {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < kNbdFaultCount; ++i)
    names.insert(nbd_fault_name(static_cast<NbdFault>(i)));
  EXPECT_EQ(names.size(), kNbdFaultCount);
  EXPECT_FALSE(names.contains("unknown"));
}

}  // namespace
}  // namespace holdfast::nbd
