// SPDX-License-Identifier: Apache-2.0
#include "volume/page_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <set>
#include <vector>

#include "base/limits.h"
#include "base/units.h"

namespace holdfast {
namespace {

constexpr std::uint64_t kFrames = limits::kPageCacheBytesMin / kBlockBytes;

TEST(PageMemoryTest, FramesAreAlignedDistinctBlocks) {
  PageMemory memory(limits::kPageCacheBytesMin);
  std::set<std::byte*> frames;
  for (std::uint64_t i = 0; i < kFrames; ++i) {
    std::byte* const frame = memory.allocate();
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(frame) % kBlockBytes, 0u);
    std::memset(frame, 1, kBlockBytes);
    EXPECT_TRUE(frames.insert(frame).second);
  }
  EXPECT_EQ(memory.bytes_in_use(), memory.bytes_max());
  for (std::byte* frame : frames) memory.release(frame);
  EXPECT_EQ(memory.bytes_in_use(), 0u);
}

TEST(PageMemoryTest, TheBoundIsSoftWhereNothingCanBeGivenUp) {
  PageMemory memory(0);
  EXPECT_EQ(memory.bytes_max(), limits::kPageCacheBytesMin) << "the least there is";
  std::vector<std::byte*> frames;
  for (std::uint64_t i = 0; i < kFrames + 10; ++i) frames.push_back(memory.allocate());
  EXPECT_GT(memory.bytes_in_use(), memory.bytes_max());
  for (std::byte* frame : frames) memory.release(frame);
}

TEST(PageMemoryTest, ReleasedFramesAreUsedAgain) {
  PageMemory memory(limits::kPageCacheBytesMin);
  std::byte* const kept = memory.allocate();
  std::byte* const first = memory.allocate();
  memory.release(first);
  EXPECT_EQ(memory.allocate(), first);
  memory.release(first);
  memory.release(kept);
}

TEST(PageMemoryTest, BusyFramesAskForACheckpointAndThenCrowd) {
  PageMemory memory(limits::kPageCacheBytesMin);
  memory.add_busy(kFrames / 2 - 1);
  EXPECT_FALSE(memory.wants_checkpoint());
  memory.add_busy(1);
  EXPECT_TRUE(memory.wants_checkpoint());
  EXPECT_FALSE(memory.is_crowded());
  memory.add_busy(kFrames / 2);
  EXPECT_TRUE(memory.is_crowded());
  memory.add_busy(-1);
  EXPECT_FALSE(memory.is_crowded());
  memory.add_busy(-static_cast<std::int64_t>(memory.busy_frames()));
  EXPECT_EQ(memory.busy_frames(), 0u);
}

}  // namespace
}  // namespace holdfast
