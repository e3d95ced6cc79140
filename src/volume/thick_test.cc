// SPDX-License-Identifier: Apache-2.0
//
// A thick volume in a pool that is full for everybody: it writes on, in what is its own.
#include <gtest/gtest.h>

#include <functional>
#include <utility>
#include <vector>

#include "pool/preallocation.h"
#include "pool/testing_forwarding_pool.h"
#include "volume/testing_volume.h"
#include "volume/volume.h"

namespace holdfast {
namespace {

// Gives out no space while it is full, not even the reserve, and counts who asked.
class FullPool final : public ForwardingPool {
 public:
  using ForwardingPool::ForwardingPool;
  bool full = false;
  std::uint64_t refusals = 0;
  std::function<void()> on_recycle;  // called once, when a segment is about to become a spare

  Task<Result<SpareId>> recycle_segment(SegmentId segment) override {
    if (on_recycle) std::exchange(on_recycle, nullptr)();
    co_return co_await below_.recycle_segment(segment);
  }
  Task<Result<std::unique_ptr<File>>> create_segment(SegmentId segment,
                                                     SegmentPurpose purpose) override {
    if (full) {
      ++refusals;
      co_return Error(ErrorCode::no_space, "full, for the test");
    }
    co_return co_await below_.create_segment(segment, purpose);
  }
};

class ThickTest : public StampedVolumeFixture {
 protected:
  ThickTest() : full_(*pool_) {
    options_ = VolumeOptions{.checkpoint_idle = 20ms};
    create_volume(kNumber, kVolumeBytes, true);
  }
  // What it does in the background ends with it, before its pool and the disk go.
  ~ThickTest() override {
    if (volume_ != nullptr) close();
  }

  Pool& pool() override { return full_; }
  void look() override {
    const HoldState hold = volume_->statistics().hold;
    if (hold.reason != HoldReason::none && !was_held_) {
      ADD_FAILURE() << "held: " << hold.detail << "; spares " << volume_->statistics().spare_count;
    }
    was_held_ |= hold.reason != HoldReason::none;
  }
  void preallocate_all() {
    const bool never = false;
    ASSERT_TRUE(run(preallocate(full_, id_, total(), &progress_, &never)).ok());
    ASSERT_TRUE(progress_.is_complete());
  }
  static std::uint64_t total() {
    return thick_layout(kVolumeBytes, limits::kSegmentBytesMin).segments;
  }
  SegmentFiles files() { return run(full_.count_segment_files(id_)).value(); }

  FullPool full_;
  Preallocation progress_;
  bool was_held_ = false;
};

TEST_F(ThickTest, InAFullPoolItOverwritesAllOfItselfOnAndOnAndIsNeverHeld) {
  preallocate_all();
  full_.full = true;
  open();
  write_everything();
  overwrite_at_random(8 * kBlocks);
  EXPECT_FALSE(was_held_);
  EXPECT_GT(volume_->statistics().cleaned_segments, 0u) << "too little was written";
  EXPECT_EQ(verify(), 0u);
  close();  // files that are being renamed may be counted twice or not at all
  EXPECT_EQ(files().guaranteed(), total()) << "segments are recycled, none is added or lost";
}

TEST_F(ThickTest, ItIsOpenedAndClosedInAFullPoolAgainAndAgain) {
  preallocate_all();
  full_.full = true;
  for (int round = 0; round < 6; ++round) {
    open();
    EXPECT_EQ(verify(), 0u);
    if (round == 0) write_everything();
    overwrite_at_random(kBlocks + random_() % kBlocks);
    EXPECT_FALSE(was_held_) << "round " << round;
    close();
    EXPECT_EQ(files().guaranteed(), total()) << "round " << round;
  }
  open();
  EXPECT_EQ(verify(), 0u);
}

TEST_F(ThickTest, SequentialOverwritesRecycleSegmentsWithoutWaitingForAnIdleTime) {
  options_.checkpoint_idle = 1h;
  preallocate_all();
  full_.full = true;
  open();
  for (int pass = 0; pass < 5; ++pass) write_everything();
  EXPECT_FALSE(was_held_);
  EXPECT_EQ(verify(), 0u);
}

TEST_F(ThickTest, UntilItIsPreallocatedItTakesFromThePoolAsOthersDo) {
  open();
  write_everything();
  EXPECT_FALSE(was_held_);
  EXPECT_LT(volume_->statistics().spare_count, total()) << "only what was freed";
  preallocate_all();
  full_.full = true;
  full_.refusals = 0;
  overwrite_at_random(4 * kBlocks);
  EXPECT_FALSE(was_held_);
  EXPECT_EQ(verify(), 0u);
}

TEST_F(ThickTest, ItBecomesThinAndThickWhileItIsWritten) {
  preallocate_all();
  open();
  write_everything();
  volume_->set_thick(false);
  ASSERT_TRUE(run(volume_->checkpoint()).ok());
  const std::uint64_t spares = files().spares;
  overwrite_at_random(4 * kBlocks);
  ASSERT_TRUE(run(volume_->checkpoint()).ok());
  EXPECT_EQ(files().spares, spares) << "what it frees now is removed, what it takes is new";
  volume_->set_thick(true);
  preallocate_all();
  full_.full = true;
  was_held_ = false;
  overwrite_at_random(4 * kBlocks);
  EXPECT_FALSE(was_held_);
  EXPECT_EQ(verify(), 0u);
}

TEST_F(ThickTest, ASegmentThatIsRecycledWhileItBecomesThinLeavesNoSpare) {
  preallocate_all();
  open();
  write_everything();
  bool is_thin = false;
  full_.on_recycle = [&] {
    volume_->set_thick(false);
    is_thin = true;
  };
  const std::vector<SpareId> listed = run(full_.list_spares(id_)).value();
  for (const SpareId& spare : listed) {
    ASSERT_TRUE(run(full_.remove_spare(spare)).ok());
  }
  while (!is_thin) {
    overwrite_at_random(kBlocks / 4);
    ASSERT_TRUE(run(volume_->checkpoint()).ok());
  }
  close();
  EXPECT_EQ(files().spares, 0u);
}

TEST_F(ThickTest, AShortSegmentOfAThinTimeIsLetGoWhereThereIsNoSpaceForAllOfIt) {
  open();
  volume_->set_thick(false);
  write_everything();
  close();  // cuts the open segments short
  EXPECT_GT(files().short_segments, 0u);
  open();
  preallocate_all();
  overwrite_at_random(6 * kBlocks);
  EXPECT_EQ(verify(), 0u);
  close();
  EXPECT_GE(files().guaranteed(), total());
}

}  // namespace
}  // namespace holdfast
