// SPDX-License-Identifier: Apache-2.0
//
// Volumes in a pool that is full: what goes on, what frees space and how soon, and what is kept.
#include <gtest/gtest.h>

#include <optional>
#include <set>
#include <vector>

#include "pool/testing_forwarding_pool.h"
#include "volume/testing_volume.h"
#include "volume/volume.h"

namespace holdfast {
namespace {

constexpr std::uint64_t kVolumeBytes = 32 * kMiB;
constexpr std::uint64_t kRunBlocks = 64;  // of one request
constexpr std::uint64_t kRunBytes = kRunBlocks * kBlockBytes;
constexpr std::uint64_t kRuns = kVolumeBytes / kRunBytes;

// A pool with room for so many segments of guests, and a reserve.
class SmallPool final : public ForwardingPool {
 public:
  using ForwardingPool::ForwardingPool;

  std::size_t room = 1'000'000;  // for guests
  std::size_t reserve = 0;       // more for discards; metadata has no bound
  bool refuse_all = false;       // metadata too
  std::set<SegmentId> segments;

  Task<Result<std::unique_ptr<File>>> create_segment(SegmentId segment,
                                                     SegmentPurpose purpose) override {
    const std::size_t most = purpose == SegmentPurpose::guest_data      ? room
                             : purpose == SegmentPurpose::guest_discard ? room + reserve
                                                                        : 1'000'000;
    if (refuse_all || segments.size() >= most)
      co_return Error(ErrorCode::no_space, "the test's pool is full");
    auto made = co_await below_.create_segment(segment, SegmentPurpose::metadata);
    if (made.ok()) segments.insert(segment);
    co_return made;
  }
  Task<Result<void>> remove_segment(SegmentId segment) override {
    segments.erase(segment);
    return below_.remove_segment(segment);
  }
};

class SpaceTest : public VolumeFixture {
 protected:
  struct Request {
    BlockRequest block;
    std::vector<std::byte> bytes;
    iovec buffer{};
    std::optional<BlockStatus> status;
  };

  SpaceTest() : small_pool_(std::make_unique<SmallPool>(*pool_)) {
    // Checkpoints only where space asks for them.
    options_.checkpoint_idle = std::chrono::hours(1);
    options_.cleaner_start_percent = 101;
  }
  ~SpaceTest() override {
    for (auto* volume : {&volume_, &other_}) {
      if (*volume != nullptr) {
        EXPECT_TRUE(run((*volume)->close()).ok());
      }
      volume->reset();
    }
  }

  void pass(Duration time) {
    loop_->run_until([] { return false; }, time);
  }
  std::unique_ptr<Volume> open_new(unsigned char number) {
    create_volume(number, kVolumeBytes);
    return run(Volume::open(*loop_, *small_pool_, id_of(number), options_)).value();
  }
  Request& submit(Volume& volume, BlockOperation operation, std::uint64_t run,
                  std::uint64_t runs = 1, unsigned char value = 0) {
    auto owned = std::make_unique<Request>();
    Request& request = *owned;
    requests_.push_back(std::move(owned));
    request.block.operation = operation;
    request.block.offset_bytes = run * kRunBytes;
    request.block.length_bytes = operation == BlockOperation::flush ? 0 : runs * kRunBytes;
    if (operation == BlockOperation::write || operation == BlockOperation::read) {
      request.bytes.assign(runs * kRunBytes, std::byte{value});
      request.buffer = {request.bytes.data(), request.bytes.size()};
      request.block.buffers = std::span<const iovec>(&request.buffer, 1);
    }
    request.block.context = &request;
    request.block.on_complete = [](BlockRequest& done, BlockStatus status) {
      static_cast<Request*>(done.context)->status = status;
    };
    volume.submit(request.block);
    return request;
  }
  void finish(const Request& request) {
    wait_for([&] { return request.status.has_value(); });
    EXPECT_EQ(request.status, BlockStatus::ok);
  }
  void write_all(Volume& volume, unsigned char value) {
    for (std::uint64_t i = 0; i < kRuns; ++i) {
      finish(submit(volume, BlockOperation::write, i, 1, value));
    }
    finish(submit(volume, BlockOperation::flush, 0));
  }
  unsigned char first_byte(Volume& volume, std::uint64_t run) {
    const Request& request = submit(volume, BlockOperation::read, run, 1, 0xee);
    finish(request);
    return std::to_integer<unsigned char>(request.bytes[0]);
  }

  // How many of them are gone. Others may have been made meanwhile, for the log or the map.
  std::size_t freed_since(const std::set<SegmentId>& before) const {
    std::size_t freed = 0;
    for (const SegmentId& segment : before)
      freed += small_pool_->segments.contains(segment) ? 0 : 1;
    return freed;
  }

  std::unique_ptr<SmallPool> small_pool_;
  VolumeOptions options_;
  std::unique_ptr<Volume> volume_;
  std::unique_ptr<Volume> other_;
  std::vector<std::unique_ptr<Request>> requests_;
};

TEST_F(SpaceTest, AHeldVolumeReadsFlushesAndTrimsAndGoesOnByWhatItTrimmed) {
  volume_ = open_new(1);
  write_all(*volume_, 7);
  small_pool_->room = small_pool_->segments.size();
  small_pool_->reserve = 2;
  std::vector<Request*> writes;
  for (std::uint64_t i = 0; i < 2 * kRuns / 8; ++i) {
    writes.push_back(&submit(*volume_, BlockOperation::write, i, 1, 9));
  }
  wait_for([&] { return volume_->statistics().hold.reason == HoldReason::space; });
  EXPECT_FALSE(writes.back()->status.has_value());
  EXPECT_EQ(first_byte(*volume_, kRuns - 1), 7);
  finish(submit(*volume_, BlockOperation::flush, 0));
  // The trim lies behind the held writes in the log; it may have some of the reserve.
  finish(submit(*volume_, BlockOperation::discard, kRuns / 2, kRuns / 2));
  for (const Request* write : writes) finish(*write);
  EXPECT_EQ(first_byte(*volume_, 0), 9);
  EXPECT_EQ(first_byte(*volume_, kRuns / 2), 0);
  wait_for([&] { return volume_->statistics().hold.reason == HoldReason::none; });
  volume_->hint_space_is_short(true);  // as the host does while the reserve is not whole
  wait_for([&] { return small_pool_->segments.size() < small_pool_->room; });
}

TEST_F(SpaceTest, AWriteAloneGetsNothingOfTheReserve) {
  volume_ = open_new(1);
  write_all(*volume_, 7);
  small_pool_->room = small_pool_->segments.size();
  small_pool_->reserve = 100;
  std::vector<Request*> writes;
  for (std::uint64_t i = 0; i < 16; ++i) {
    writes.push_back(&submit(*volume_, BlockOperation::write, i, 1, 9));
  }
  pass(3s);
  EXPECT_FALSE(writes.back()->status.has_value());
  EXPECT_LE(small_pool_->segments.size(), small_pool_->room + 1) << "but a segment for the map";
  small_pool_->room = 1'000'000;
  for (const Request* write : writes) finish(*write);
}

TEST_F(SpaceTest, AVolumeFreesWhatIsDeadAtOnceWhenAnotherOneWaits) {
  volume_ = open_new(1);
  other_ = open_new(2);
  write_all(*other_, 5);
  finish(submit(*other_, BlockOperation::discard, 0, 14));  // three segments and a bit
  const std::set<SegmentId> before = small_pool_->segments;
  pass(600ms);
  EXPECT_EQ(freed_since(before), 0u) << "nothing hurries";
  other_->hint_space_is_short(true);
  wait_for([&] { return freed_since(before) >= 2; });
}

TEST_F(SpaceTest, AVolumeCleansSmallSharesOfGarbageWhenAnotherOneWaits) {
  options_.cleaner_start_percent = limits::kCleanerStartPercent;
  other_ = open_new(2);
  write_all(*other_, 5);
  for (std::uint64_t i = 0; i < kRuns; i += 4) {
    finish(submit(*other_, BlockOperation::discard, i));
  }
  const std::set<SegmentId> before = small_pool_->segments;
  pass(600ms);
  EXPECT_EQ(freed_since(before), 0u);
  EXPECT_EQ(other_->statistics().moved_blocks, 0u);
  other_->hint_space_is_short(true);
  wait_for([&] { return small_pool_->segments.size() + 2 < before.size(); });
  EXPECT_EQ(first_byte(*other_, 1), 5);
  EXPECT_EQ(first_byte(*other_, 8), 0);
}

// Live data, a twentieth more, and the segments that are open for log, maps and copies.
std::uint64_t bound_after_trim(std::uint64_t live_bytes) {
  return live_bytes * 105 / 100 + 5 * limits::kSegmentBytesMin;
}

TEST_F(SpaceTest, AfterATrimAnIdleVolumeGivesBackAllButAFewPercent) {
  options_.cleaner_start_percent = limits::kCleanerStartPercent;
  options_.checkpoint_idle = 50ms;
  volume_ = open_new(1);
  write_all(*volume_, 5);
  for (std::uint64_t i = 0; i < kRuns; i += 4) {  // a quarter: less than the cleaner's start
    finish(submit(*volume_, BlockOperation::discard, i));
  }
  wait_for([&] {
    const VolumeStatistics now = volume_->statistics();
    return now.segment_bytes <= bound_after_trim(now.live_bytes);
  });
  EXPECT_EQ(first_byte(*volume_, 0), 0);
  EXPECT_EQ(first_byte(*volume_, 1), 5);
  // It comes to rest.
  bool rests = false;
  for (int looks = 0; looks < 30 && !rests; ++looks) {
    const VolumeStatistics before = volume_->statistics();
    pass(1s);
    const VolumeStatistics now = volume_->statistics();
    rests = now.moved_blocks == before.moved_blocks && now.checkpoints == before.checkpoints;
  }
  EXPECT_TRUE(rests) << "it cleans on and on";
}

TEST_F(SpaceTest, WithoutATrimAnIdleVolumeKeepsItsGarbageUpToTheCleanersStart) {
  options_.cleaner_start_percent = limits::kCleanerStartPercent;
  options_.checkpoint_idle = 50ms;
  volume_ = open_new(1);
  write_all(*volume_, 5);
  for (std::uint64_t i = 0; i < kRuns; i += 8) {
    finish(submit(*volume_, BlockOperation::write, i, 1, 6));
  }
  pass(1s);
  EXPECT_EQ(volume_->statistics().moved_blocks, 0u);
}

TEST_F(SpaceTest, WhatIsAllocatedIsLiveOrUnwrittenOrGarbage) {
  volume_ = open_new(1);
  write_all(*volume_, 5);
  EXPECT_TRUE(run(volume_->checkpoint()).ok());
  const VolumeStatistics now = volume_->statistics();
  EXPECT_GT(now.unwritten_bytes, 0u);
  const std::uint64_t known_bytes = now.live_bytes + now.unwritten_bytes;
  EXPECT_LE(known_bytes, now.segment_bytes);
  // Nothing was overwritten: what is left are the headers of records, one for up to 127 blocks.
  EXPECT_LT(now.segment_bytes - known_bytes, kVolumeBytes / 32);
}

TEST_F(SpaceTest, AVolumeThatIsHeldWhileItIsOpenedShowsWhy) {
  volume_ = open_new(1);
  write_all(*volume_, 7);
  pass(100ms);
  volume_.reset();  // dies; the next opening replays its log, and needs a segment for the map
  const HoldState* hold = nullptr;
  options_.opening_hold = &hold;
  small_pool_->refuse_all = true;
  std::optional<Result<std::unique_ptr<Volume>>> opened;
  TaskScope scope;
  scope.spawn(
      detail::store_result(Volume::open(*loop_, *small_pool_, id_of(1), options_), &opened));
  wait_for([&] { return hold != nullptr && hold->reason == HoldReason::space; });
  EXPECT_EQ(hold->detail, "the test's pool is full");
  EXPECT_FALSE(opened.has_value());
  small_pool_->refuse_all = false;
  wait_for([&] { return opened.has_value(); });
  EXPECT_EQ(hold, nullptr);
  volume_ = std::move(opened->value());
  EXPECT_EQ(first_byte(*volume_, 3), 7);
}

}  // namespace
}  // namespace holdfast
