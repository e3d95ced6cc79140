// SPDX-License-Identifier: Apache-2.0
//
// The cleaner on the kernel's file system: that it keeps space bounded, loses nothing, and leaves
// what is damaged. Crashes at every point of it are the simulator's (sim/).
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "volume/testing_volume.h"
#include "volume/volume.h"

namespace holdfast {
namespace {

class CleanerTest : public StampedVolumeFixture {
 protected:
  CleanerTest() { create_volume(kNumber, kVolumeBytes); }
};

TEST_F(CleanerTest, RandomOverwritesTakeBoundedSpaceAndLoseNothing) {
  open();
  write_everything();
  overwrite_at_random(6 * kBlocks);
  wait_until_clean(*volume_);
  const VolumeStatistics now = volume_->statistics();
  EXPECT_GT(now.moved_blocks, 0u);
  EXPECT_GT(now.cleaned_segments, 0u);
  // Live data at no less than 70 %, and the few segments that are open or hold the map.
  EXPECT_LT(now.segment_bytes, kVolumeBytes * 10 / 7 + 7 * kMiB);
  EXPECT_EQ(verify(), 0u);
  close();
  open();
  EXPECT_EQ(verify(), 0u);
}

TEST_F(CleanerTest, WithoutTheCleanerTheSameOverwritesTakeMoreSpace) {
  options_.cleaner_start_percent = 101;
  open();
  write_everything();
  overwrite_at_random(6 * kBlocks);
  EXPECT_TRUE(run(volume_->checkpoint()).ok());
  EXPECT_EQ(volume_->statistics().moved_blocks, 0u);
  EXPECT_GT(volume_->statistics().segment_bytes, kVolumeBytes * 2);
}

TEST_F(CleanerTest, GarbageLeftBehindByAnEarlierDaemonIsCleanedToo) {
  options_.cleaner_start_percent = 101;
  open();
  overwrite_at_random(3 * kBlocks);
  volume_.reset();  // dies
  options_.cleaner_start_percent = limits::kCleanerStartPercent;
  open();
  const std::uint64_t before = volume_->statistics().segment_bytes;
  wait_for([&] { return volume_->statistics().segment_bytes < before; });
  EXPECT_EQ(verify(), 0u);
}

TEST_F(CleanerTest, DamagedBlocksStayWhereTheyAreAndTheRestMoves) {
  options_.cleaner_start_percent = 101;
  open();
  write_everything();
  overwrite_at_random(2 * kBlocks);
  close();
  // One byte in each of some segments: most likely of a payload.
  std::vector<std::filesystem::path> segments;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_.path())) {
    if (entry.path().filename().string().starts_with("seg-")) segments.push_back(entry.path());
  }
  std::sort(segments.begin(), segments.end());
  for (std::size_t i = 1; i < 6; ++i) {
    std::fstream file(segments[segments.size() - 1 - i],
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(5 * kBlockBytes + 100);
    file.put('\x77');
  }
  open();
  const std::uint64_t damaged = verify();
  close();
  options_.cleaner_start_percent = options_.cleaner_stop_percent = 1;
  open();
  wait_until_clean(*volume_);
  EXPECT_GT(volume_->statistics().moved_blocks, 0u);
  EXPECT_EQ(verify(), damaged);
}

}  // namespace
}  // namespace holdfast
