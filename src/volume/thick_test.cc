// SPDX-License-Identifier: Apache-2.0
//
// A thick volume in a pool that is full for everybody: it writes on, in what is its own.
#include <gtest/gtest.h>

#include <random>

#include "io/disk.h"
#include "io/run_task.h"
#include "io/temporary_directory.h"
#include "pool/open_pool.h"
#include "pool/preallocation.h"
#include "pool/testing_forwarding_pool.h"
#include "volume/volume.h"

namespace holdfast {
namespace {

constexpr std::uint64_t kVolumeBytes = 8 * kMiB;
constexpr std::uint64_t kBlocks = kVolumeBytes / kBlockBytes;

// Gives out no space while it is full, not even the reserve, and counts who asked.
class FullPool final : public ForwardingPool {
 public:
  explicit FullPool(std::unique_ptr<Pool> below)
      : ForwardingPool(*below), owned_(std::move(below)) {}
  bool full = false;
  std::uint64_t refusals = 0;

  Task<Result<std::unique_ptr<File>>> create_segment(SegmentId segment,
                                                     SegmentPurpose purpose) override {
    if (full) {
      ++refusals;
      co_return Error(ErrorCode::no_space, "full, for the test");
    }
    co_return co_await below_.create_segment(segment, purpose);
  }

 private:
  std::unique_ptr<Pool> owned_;
};

class ThickTest : public testing::Test {
 protected:
  ThickTest() : loop_(Loop::create().value()), disk_(std::make_unique<Disk>(*loop_)) {
    PoolCreateOptions options;
    options.segment_bytes = limits::kSegmentBytesMin;
    pool_ =
        std::make_unique<FullPool>(run(create_pool(PoolContext{*loop_, *disk_, "a test"},
                                                   "dir:" + directory_.path() + "/pool", options))
                                       .value());
    id_.bytes[0] = std::byte{7};
    VolumeCreateOptions volume;
    volume.id = id_;
    volume.name = "disk";
    volume.size_bytes = kVolumeBytes;
    volume.thick = true;
    EXPECT_TRUE(run(Volume::create(*loop_, *pool_, volume)).ok());
  }
  ~ThickTest() override {
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
  void preallocate_all() {
    const bool never = false;
    ASSERT_TRUE(run(preallocate(*pool_, id_, total(), &progress_, &never)).ok());
    ASSERT_TRUE(progress_.is_complete());
  }
  static std::uint64_t total() {
    return thick_layout(kVolumeBytes, limits::kSegmentBytesMin).segments;
  }
  SegmentFiles files() { return run(pool_->count_segment_files(id_)).value(); }
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
    wait_for([&] {
      const HoldState hold = volume_->statistics().hold;
      if (hold.reason != HoldReason::none && !was_held_) {
        ADD_FAILURE() << "held: " << hold.detail << "; spares "
                      << volume_->statistics().spare_count;
      }
      was_held_ |= hold.reason != HoldReason::none;
      return status.has_value();
    });
    return *status;
  }
  void write(std::uint64_t block) {
    std::vector<std::byte> bytes(kBlockBytes);
    model_[block] = ++version_;
    for (std::byte& b : bytes) b = static_cast<std::byte>(model_[block] * 31 + block);
    ASSERT_EQ(submit(BlockOperation::write, block, bytes.data()), BlockStatus::ok);
  }
  void write_everything() {
    for (std::uint64_t block = 0; block < kBlocks; ++block) write(block);
  }
  void overwrite_at_random(std::uint64_t writes) {
    for (std::uint64_t i = 0; i < writes; ++i) write(random_() % kBlocks);
  }
  void verify() {
    std::vector<std::byte> bytes(kBlockBytes);
    for (std::uint64_t block = 0; block < kBlocks; ++block) {
      ASSERT_EQ(submit(BlockOperation::read, block, bytes.data()), BlockStatus::ok);
      const auto expected =
          model_[block] == 0 ? std::byte{0} : static_cast<std::byte>(model_[block] * 31 + block);
      ASSERT_EQ(bytes, std::vector<std::byte>(kBlockBytes, expected)) << "block " << block;
    }
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Disk> disk_;
  std::unique_ptr<FullPool> pool_;
  VolumeId id_;
  VolumeOptions options_{.checkpoint_idle = 20ms};
  std::unique_ptr<Volume> volume_;
  Preallocation progress_;
  bool was_held_ = false;
  std::vector<std::uint64_t> model_ = std::vector<std::uint64_t>(kBlocks);
  std::uint64_t version_ = 0;
  std::mt19937_64 random_{1};
};

TEST_F(ThickTest, InAFullPoolItOverwritesAllOfItselfOnAndOnAndIsNeverHeld) {
  preallocate_all();
  pool_->full = true;
  open();
  write_everything();
  overwrite_at_random(8 * kBlocks);
  EXPECT_FALSE(was_held_);
  EXPECT_GT(volume_->statistics().cleaned_segments, 0u) << "too little was written";
  verify();
  close();  // files that are being renamed may be counted twice or not at all
  EXPECT_EQ(files().guaranteed(), total()) << "segments are recycled, none is added or lost";
}

TEST_F(ThickTest, ItIsOpenedAndClosedInAFullPoolAgainAndAgain) {
  preallocate_all();
  pool_->full = true;
  for (int round = 0; round < 6; ++round) {
    open();
    verify();
    if (round == 0) write_everything();
    overwrite_at_random(kBlocks + random_() % kBlocks);
    EXPECT_FALSE(was_held_) << "round " << round;
    close();
    EXPECT_EQ(files().guaranteed(), total()) << "round " << round;
  }
  open();
  verify();
}

TEST_F(ThickTest, SequentialOverwritesRecycleSegmentsWithoutWaitingForAnIdleTime) {
  options_.checkpoint_idle = 1h;
  preallocate_all();
  pool_->full = true;
  open();
  for (int pass = 0; pass < 5; ++pass) write_everything();
  EXPECT_FALSE(was_held_);
  verify();
}

TEST_F(ThickTest, UntilItIsPreallocatedItTakesFromThePoolAsOthersDo) {
  open();
  write_everything();
  EXPECT_FALSE(was_held_);
  EXPECT_LT(volume_->statistics().spare_count, total()) << "only what was freed";
  preallocate_all();
  pool_->full = true;
  pool_->refusals = 0;
  overwrite_at_random(4 * kBlocks);
  EXPECT_FALSE(was_held_);
  verify();
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
  pool_->full = true;
  was_held_ = false;
  overwrite_at_random(4 * kBlocks);
  EXPECT_FALSE(was_held_);
  verify();
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
  verify();
  close();
  EXPECT_GE(files().guaranteed(), total());
}

}  // namespace
}  // namespace holdfast
