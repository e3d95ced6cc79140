// SPDX-License-Identifier: Apache-2.0
//
// The cleaner on the kernel's file system: that it keeps space bounded, loses nothing, and leaves
// what is damaged. Crashes at every point of it are the simulator's (sim/).
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "io/disk.h"
#include "io/run_task.h"
#include "io/temporary_directory.h"
#include "pool/open_pool.h"
#include "volume/volume.h"

namespace holdfast {
namespace {

constexpr std::uint64_t kVolumeBytes = 8 * kMiB;
constexpr std::uint64_t kBlocks = kVolumeBytes / kBlockBytes;

class CleanerTest : public testing::Test {
 protected:
  CleanerTest() : loop_(Loop::create().value()), disk_(std::make_unique<Disk>(*loop_)) {
    PoolCreateOptions options;
    options.segment_bytes = limits::kSegmentBytesMin;
    pool_ = run(create_pool(PoolContext{*loop_, *disk_, "a test"},
                            "dir:" + directory_.path() + "/pool", options))
                .value();
    id_.bytes[0] = std::byte{7};
    VolumeCreateOptions volume;
    volume.id = id_;
    volume.name = "disk";
    volume.size_bytes = kVolumeBytes;
    EXPECT_TRUE(run(Volume::create(*loop_, *pool_, volume)).ok());
  }
  ~CleanerTest() override {
    volume_.reset();
    pool_.reset();
  }

  template <typename T>
  T run(Task<T> task) {
    return run_task<T>([this](const auto& done) { wait_for(done); }, std::move(task));
  }
  void wait_for(const std::function<bool()>& done) {
    ASSERT_TRUE(loop_->run_until(done, 60s)) << "it did not come within a minute";
  }
  void open() { volume_ = run(Volume::open(*loop_, *pool_, id_, options_)).value(); }
  void close() {
    ASSERT_TRUE(run(volume_->close()).ok());
    volume_.reset();
  }

  BlockStatus submit(BlockOperation operation, std::uint64_t block, std::byte* data) {
    BlockRequest request;
    const iovec buffer{data, kBlockBytes};
    std::optional<BlockStatus> status;
    request.operation = operation;
    request.offset_bytes = block * kBlockBytes;
    request.length_bytes = kBlockBytes;
    request.buffers = std::span<const iovec>(&buffer, 1);
    request.context = &status;
    request.on_complete = [](BlockRequest& done, BlockStatus result) {
      static_cast<std::optional<BlockStatus>*>(done.context)->emplace(result);
    };
    volume_->submit(request);
    wait_for([&] { return status.has_value(); });
    return *status;
  }
  void write(std::uint64_t block) {
    std::vector<std::byte> bytes(kBlockBytes);
    model_[block] = ++version_;
    for (std::byte& b : bytes) b = static_cast<std::byte>(model_[block] * 31 + block);
    ASSERT_EQ(submit(BlockOperation::write, block, bytes.data()), BlockStatus::ok);
  }
  void overwrite_at_random(std::uint64_t writes, std::uint64_t blocks = kBlocks) {
    for (std::uint64_t i = 0; i < writes; ++i) write(random_() % blocks);
  }
  // Every block is its newest version; returns how many could not be read.
  std::uint64_t verify() {
    std::uint64_t unreadable = 0;
    std::vector<std::byte> bytes(kBlockBytes);
    for (std::uint64_t block = 0; block < kBlocks; ++block) {
      if (submit(BlockOperation::read, block, bytes.data()) != BlockStatus::ok) {
        ++unreadable;
        continue;
      }
      const auto expected =
          model_[block] == 0 ? std::byte{0} : static_cast<std::byte>(model_[block] * 31 + block);
      EXPECT_EQ(bytes, std::vector<std::byte>(kBlockBytes, expected)) << "block " << block;
    }
    return unreadable;
  }
  void wait_until_clean() {
    std::uint64_t moved = ~std::uint64_t{0};
    while (volume_->statistics().moved_blocks != moved) {
      moved = volume_->statistics().moved_blocks;
      loop_->run_until([] { return false; }, 500ms);
    }
    EXPECT_TRUE(run(volume_->checkpoint()).ok());
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Disk> disk_;
  std::unique_ptr<Pool> pool_;
  VolumeId id_;
  VolumeOptions options_{.checkpoint_log_bytes = 4 * kMiB, .checkpoint_idle = 20ms};
  std::unique_ptr<Volume> volume_;
  std::vector<std::uint64_t> model_ = std::vector<std::uint64_t>(kBlocks);
  std::uint64_t version_ = 0;
  std::mt19937_64 random_{1};
};

TEST_F(CleanerTest, RandomOverwritesTakeBoundedSpaceAndLoseNothing) {
  open();
  for (std::uint64_t block = 0; block < kBlocks; ++block) write(block);
  overwrite_at_random(6 * kBlocks);
  wait_until_clean();
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
  for (std::uint64_t block = 0; block < kBlocks; ++block) write(block);
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
  wait_until_clean();
  EXPECT_LT(volume_->statistics().segment_bytes, before);
  EXPECT_EQ(verify(), 0u);
}

TEST_F(CleanerTest, DamagedBlocksStayWhereTheyAreAndTheRestMoves) {
  options_.cleaner_start_percent = 101;
  open();
  for (std::uint64_t block = 0; block < kBlocks; ++block) write(block);
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
  wait_until_clean();
  EXPECT_GT(volume_->statistics().moved_blocks, 0u);
  EXPECT_EQ(verify(), damaged);
}

}  // namespace
}  // namespace holdfast
