// SPDX-License-Identifier: Apache-2.0
//
// A volume on the kernel's file system: what it stores, across closing, dying and damage. Crashes
// at every point and hostile storage are the simulator's (sim/).
#include "volume/volume.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "volume/testing_volume.h"

namespace holdfast {
namespace {

class VolumeTest : public VolumeFixture {
 protected:
  void make(std::uint64_t size_bytes) {
    create_volume(7, size_bytes);
    open();
  }
  void open() {
    auto opened = run(Volume::open(*loop_, *pool_, id_, options_));
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    volume_ = std::move(opened).value();
  }
  void close() {
    const Result<void> closed = run(volume_->close());
    ASSERT_TRUE(closed.ok()) << closed.error().message();
    volume_.reset();
  }
  // Nothing is in flight: dropping the object is what SIGKILL leaves behind.
  void die() {
    wait_for([] { return true; });
    volume_.reset();
  }

  BlockStatus submit(BlockOperation operation, std::uint64_t offset, std::uint64_t length,
                     std::byte* data = nullptr, bool fua = false, bool keep = false) {
    BlockRequest request;
    const iovec buffer{data, length};
    std::optional<BlockStatus> status;
    request.operation = operation;
    request.offset_bytes = offset;
    request.length_bytes = length;
    request.force_unit_access = fua;
    request.keep_allocated = keep;
    if (data != nullptr) request.buffers = std::span<const iovec>(&buffer, 1);
    request.context = &status;
    request.on_complete = [](BlockRequest& done, BlockStatus result) {
      static_cast<std::optional<BlockStatus>*>(done.context)->emplace(result);
    };
    volume_->submit(request);
    EXPECT_FALSE(status.has_value()) << "completed inside submit()";
    wait_for([&] { return status.has_value(); });
    return *status;
  }
  void write(std::uint64_t offset, Bytes bytes) {
    ASSERT_EQ(submit(BlockOperation::write, offset, bytes.size(), bytes.data()), BlockStatus::ok);
  }
  Bytes read(std::uint64_t offset, std::size_t length) {
    Bytes bytes(length, std::byte{0xee});
    EXPECT_EQ(submit(BlockOperation::read, offset, length, bytes.data()), BlockStatus::ok);
    return bytes;
  }

  VolumeId id_ = id_of(7);
  VolumeOptions options_{.checkpoint_idle = 1h};  // nothing in the background where tests die
  std::unique_ptr<Volume> volume_;
};

TEST_F(VolumeTest, UnwrittenSpaceReadsAsZeros) {
  make(kGiB);
  EXPECT_EQ(read(0, 8192), Bytes(8192));
  EXPECT_EQ(read(kGiB - 512, 512), Bytes(512));
  EXPECT_EQ(submit(BlockOperation::read, kGiB - 512, 1024), BlockStatus::out_of_range);
}

TEST_F(VolumeTest, WritesOfAnyAlignmentReadBackAlsoAfterClosingAndDying) {
  make(64 * kMiB);
  Bytes model(64 * kMiB);
  std::mt19937_64 random(1);
  const auto write_some = [&](int count) {
    for (int i = 0; i < count; ++i) {
      const std::uint64_t length = 1 + random() % (i % 10 == 0 ? 600'000 : 20'000);
      const std::uint64_t offset = random() % (model.size() - length);
      const Bytes bytes = pattern(length, random());
      std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
      write(offset, bytes);
    }
  };
  write_some(60);
  EXPECT_TRUE(read(0, model.size()) == model);
  close();
  open();
  EXPECT_TRUE(read(0, model.size()) == model);
  write_some(60);
  die();
  open();
  EXPECT_GT(volume_->statistics().replayed_records, 0u);
  EXPECT_TRUE(read(0, model.size()) == model);
  write_some(30);
  die();
  open();
  EXPECT_TRUE(read(0, model.size()) == model);
  close();
}

TEST_F(VolumeTest, DiscardAndWriteZeroesReadAsZerosAndSayWhatIsAllocated) {
  make(64 * kMiB);
  write(0, pattern(4 * kMiB, 3));
  ASSERT_EQ(submit(BlockOperation::discard, 4096, 8192), BlockStatus::ok);
  ASSERT_EQ(submit(BlockOperation::write_zeroes, 1 * kMiB, kMiB, nullptr, true, true),
            BlockStatus::ok);
  EXPECT_EQ(read(4096, 8192), Bytes(8192));
  EXPECT_EQ(read(kMiB, kMiB), Bytes(kMiB));
  auto status = run(volume_->block_status(0, 64 * kMiB, 100));
  ASSERT_TRUE(status.ok());
  std::vector<BlockExtent>& extents = *status;
  ASSERT_EQ(extents.size(), 6u);
  EXPECT_EQ(extents[0].length_bytes, 4096u);
  EXPECT_FALSE(extents[0].zero);
  EXPECT_EQ(extents[1].length_bytes, 8192u);
  EXPECT_TRUE(extents[1].hole && extents[1].zero);
  EXPECT_EQ(extents[3].length_bytes, kMiB);
  EXPECT_TRUE(!extents[3].hole && extents[3].zero);
  EXPECT_EQ(extents[5].length_bytes, 60 * kMiB);
  EXPECT_TRUE(extents[5].hole);
  close();
  open();
  EXPECT_EQ(read(4096, 8192), Bytes(8192));
  const Bytes bytes = pattern(4 * kMiB, 3);
  EXPECT_EQ(read(0, 4096), Bytes(bytes.begin(), bytes.begin() + 4096));
}

TEST_F(VolumeTest, DiscardOfAHugeEmptyRangeTakesNoSpace) {
  make(16 * kTiB);
  ASSERT_EQ(submit(BlockOperation::discard, 0, 16 * kTiB), BlockStatus::ok);
  EXPECT_EQ(volume_->statistics().log_bytes_written, 0u);
  auto status = run(volume_->block_status(0, 16 * kTiB, 10));
  ASSERT_TRUE(status.ok());
  ASSERT_EQ((*status).size(), 1u);
  EXPECT_EQ((*status)[0].length_bytes, 16 * kTiB);
}

TEST_F(VolumeTest, WhollyDeadSegmentsAreFreed) {
  make(8 * kMiB);
  for (int round = 0; round < 10; ++round)
    write(0, pattern(8 * kMiB, 100u + static_cast<unsigned>(round)));
  ASSERT_TRUE(run(volume_->checkpoint()).ok());
  ASSERT_TRUE(run(volume_->checkpoint()).ok());
  EXPECT_LT(volume_->statistics().segment_count, 16u)
      << volume_->statistics().live_bytes << " bytes live";
  EXPECT_EQ(read(0, 8 * kMiB), pattern(8 * kMiB, 109));
  close();
  open();
  EXPECT_EQ(read(0, 8 * kMiB), pattern(8 * kMiB, 109));
}

TEST_F(VolumeTest, AWorkingSetLargerThanThePageCacheIsServed) {
  options_.page_cache_bytes = limits::kPageCacheBytesMin;
  make(8 * kGiB);
  std::mt19937_64 random(5);
  std::vector<std::uint64_t> offsets;
  for (int i = 0; i < 1500; ++i) {
    offsets.push_back(random() % (8 * kGiB / 4096) * 4096);
    write(offsets.back(), pattern(4096, offsets.back()));
  }
  EXPECT_GT(volume_->statistics().checkpoints, 2u);
  EXPECT_LE(volume_->statistics().cached_page_bytes, 2 * limits::kPageCacheBytesMin);
  close();
  open();
  for (const std::uint64_t offset : offsets) {
    ASSERT_EQ(read(offset, 4096), pattern(4096, offset)) << offset;
  }
  close();
}

TEST_F(VolumeTest, ResizingKeepsDataAndShrinkingDropsWhatLiesBeyond) {
  make(8 * kMiB);
  write(0, pattern(8 * kMiB, 1));
  ASSERT_TRUE(run(volume_->resize(32 * kMiB)).ok());
  EXPECT_EQ(volume_->info().size_bytes, 32 * kMiB);
  write(30 * kMiB, pattern(4096, 2));
  ASSERT_TRUE(run(volume_->resize(2 * kMiB + 512)).ok());
  ASSERT_TRUE(run(volume_->resize(32 * kMiB)).ok());
  Bytes expected = pattern(8 * kMiB, 1);
  std::fill(expected.begin() + 2 * kMiB + 512, expected.end(), std::byte{0});
  EXPECT_TRUE(read(0, 8 * kMiB) == expected);
  EXPECT_EQ(read(30 * kMiB, 4096), Bytes(4096));
  close();
  open();
  EXPECT_EQ(volume_->info().size_bytes, 32 * kMiB);
  EXPECT_TRUE(read(0, 8 * kMiB) == expected);
  EXPECT_EQ(run(volume_->resize(1000)).error().code(), ErrorCode::invalid_argument);
}

TEST_F(VolumeTest, DamagedBlocksAreMediumErrorsAndNeverData) {
  make(8 * kMiB);
  write(0, pattern(64 * 4096, 1));
  close();
  // Turn one byte of every segment's payload of block 10 over: found by its content.
  const Bytes needle = pattern(64 * 4096, 1);
  int damaged = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_.path())) {
    if (entry.path().filename().string().rfind("seg-", 0) != 0) continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const std::string_view wanted(reinterpret_cast<const char*>(needle.data()) + 10 * 4096, 4096);
    const std::size_t at = content.find(wanted);
    if (at == std::string::npos) continue;
    file.clear();
    file.seekp(static_cast<std::streamoff>(at + 100));
    file.put(static_cast<char>(content[at + 100] ^ 1));
    ++damaged;
  }
  ASSERT_EQ(damaged, 1);
  open();
  Bytes bytes(4096);
  EXPECT_EQ(submit(BlockOperation::read, 10 * 4096, 4096, bytes.data()), BlockStatus::medium_error);
  EXPECT_EQ(bytes, Bytes(4096)) << "damaged bytes must not be handed out";
  EXPECT_EQ(volume_->statistics().corrupt_blocks, 1u);
  EXPECT_EQ(submit(BlockOperation::read, 9 * 4096, 4096, bytes.data()), BlockStatus::ok);
  write(10 * 4096, pattern(4096, 9));
  EXPECT_EQ(read(10 * 4096, 4096), pattern(4096, 9));
}

TEST_F(VolumeTest, ManyRequestsInFlightCompleteAndSurvive) {
  make(64 * kMiB);
  constexpr int kRequests = 2000;
  struct Item {
    BlockRequest request;
    Bytes bytes;
    iovec buffer{};
    int* left = nullptr;
  };
  std::vector<std::unique_ptr<Item>> items;
  int left = kRequests;
  for (int i = 0; i < kRequests; ++i) {
    auto item = std::make_unique<Item>();
    item->bytes = pattern(4096, static_cast<std::uint64_t>(i));
    item->buffer = {item->bytes.data(), 4096};
    item->left = &left;
    item->request.operation = BlockOperation::write;
    item->request.offset_bytes = static_cast<std::uint64_t>(i) * 4096;
    item->request.length_bytes = 4096;
    item->request.buffers = std::span<const iovec>(&item->buffer, 1);
    item->request.context = item.get();
    item->request.force_unit_access = i % 7 == 0;
    item->request.on_complete = [](BlockRequest& done, BlockStatus status) {
      EXPECT_EQ(status, BlockStatus::ok);
      --*static_cast<Item*>(done.context)->left;
    };
    volume_->submit(item->request);
    items.push_back(std::move(item));
  }
  wait_for([&] { return left == 0; });
  die();
  open();
  for (int i = 0; i < kRequests; ++i) {
    ASSERT_EQ(read(static_cast<std::uint64_t>(i) * 4096, 4096),
              pattern(4096, static_cast<std::uint64_t>(i)));
  }
}

TEST_F(VolumeTest, RecoveryOfManyAbsentPagesIsALoopNotARecursion) {
  make(16 * kGiB);
  ASSERT_EQ(submit(BlockOperation::write_zeroes, 0, 16 * kGiB, nullptr, true, true),
            BlockStatus::ok);
  die();
  open();  // would overflow the stack if each absent leaf took a frame of it
  auto status = run(volume_->block_status(0, 16 * kGiB, 10));
  ASSERT_TRUE(status.ok());
  ASSERT_EQ(status->size(), 1u);
  EXPECT_TRUE((*status)[0].zero && !(*status)[0].hole);
}

TEST_F(VolumeTest, AWriteThatWaitsForPageMemoryIsBoundedAndDoesNotStopClosing) {
  options_.page_cache_bytes = limits::kPageCacheBytesMin;
  make(kTiB);
  BlockRequest request;
  std::optional<BlockStatus> status;
  request.operation = BlockOperation::write_zeroes;
  request.keep_allocated = true;
  request.length_bytes = 8 * kGiB;  // 6,242 leaves; the cache holds 256
  request.context = &status;
  request.on_complete = [](BlockRequest& done, BlockStatus result) {
    static_cast<std::optional<BlockStatus>*>(done.context)->emplace(result);
  };
  volume_->submit(request);
  for (int turn = 0; turn < 20; ++turn) loop_->run_turn(1ms);
  EXPECT_LE(volume_->statistics().cached_page_bytes, 4 * limits::kPageCacheBytesMin);
  close();
  EXPECT_EQ(status, BlockStatus::ok);
}

TEST_F(VolumeTest, ADamagedNewestRootIsRefusedRatherThanTakenBackInTime) {
  make(8 * kMiB);
  write(0, pattern(4096, 1));
  close();
  int damaged = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_.path())) {
    if (entry.path().filename().string().rfind("root-", 0) != 0) continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(100);
    file.put('x');
    ++damaged;
  }
  ASSERT_EQ(damaged, 1) << "superseded roots are removed";
  const auto opened = run(Volume::open(*loop_, *pool_, id_, options_));
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code(), ErrorCode::corrupt);
}

}  // namespace
}  // namespace holdfast
