// SPDX-License-Identifier: Apache-2.0
//
// Segments and their table on a real directory pool. Full and unreachable storage is the
// simulator's.
#include "volume/segment_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <utility>

#include "io/aligned_buffer.h"
#include "io/disk.h"
#include "io/file_io.h"
#include "io/run_task.h"
#include "io/temporary_directory.h"
#include "pool/open_pool.h"
#include "pool/testing_forwarding_pool.h"

namespace holdfast {
namespace {

using format::BlockLocation;
using format::SegmentState;
using format::SegmentStream;

// Calls back in the middle of what a store does with spares.
class SparePool final : public ForwardingPool {
 public:
  using ForwardingPool::ForwardingPool;
  std::function<Task<Result<void>>()> after_listing;  // once
  std::function<void()> before_taking;

  Task<Result<std::vector<SpareId>>> list_spares(VolumeId volume) override {
    auto listed = co_await below_.list_spares(volume);
    if (const auto meanwhile = std::exchange(after_listing, nullptr)) {
      CO_TRY(co_await meanwhile());
    }
    co_return listed;
  }
  Task<Result<std::unique_ptr<File>>> create_segment_from(SpareId spare,
                                                          SegmentId segment) override {
    if (before_taking) before_taking();
    return below_.create_segment_from(spare, segment);
  }
};

class SegmentStoreTest : public testing::Test {
 protected:
  SegmentStoreTest() {
    loop_ = Loop::create().value();
    disk_ = std::make_unique<Disk>(*loop_);
    PoolCreateOptions options;
    options.segment_bytes = limits::kSegmentBytesMin;
    const PoolContext context{*loop_, *disk_, "a test"};
    auto pool = run(create_pool(context, "dir:" + directory_.path() + "/pool", options));
    EXPECT_TRUE(pool.ok()) << pool.error().message();
    pool_ = std::move(pool).value();
    VolumeRecord record;
    record.id = id_;
    record.name = "disk";
    const RootId root{id_, Epoch{1}, 0};
    EXPECT_TRUE(run(pool_->create_volume(record, root, std::vector<std::byte>(1))).ok());
    hold_ = std::make_unique<HoldTracker>(*loop_);
    start_anew();
    store_->set_epoch(Epoch{2});
  }
  ~SegmentStoreTest() override {
    store_.reset();
    pool_.reset();
    disk_.reset();
  }
  void start_anew() {
    store_.reset();
    store_ = std::make_unique<SegmentStore>(*loop_, *pool_, id_, memory_, *hold_);
  }
  template <typename T>
  T run(Task<T> task) {
    return run_task<T>([this](const auto& done) { ASSERT_TRUE(loop_->run_until(done, 60s)); },
                       std::move(task));
  }
  Segment& create(SegmentStream stream = SegmentStream::main) {
    Result<Segment*> made = run(store_->create(stream, true));
    EXPECT_TRUE(made.ok());
    return **made;
  }
  std::vector<std::uint64_t> files() {
    std::vector<std::uint64_t> numbers;
    auto listed = run(pool_->list_segments(id_));
    for (const SegmentId& id : *listed) numbers.push_back(id.number.value);
    return numbers;
  }
  static Task<int> io_task(File* file, FileOperation operation, std::uint64_t offset_bytes,
                           std::span<std::byte> buffer) {
    co_return co_await FileIo(*file, operation, offset_bytes, buffer);
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Disk> disk_;
  std::unique_ptr<Pool> pool_;
  VolumeId id_{{std::byte{7}}};
  PageMemory memory_{limits::kPageCacheBytesMin};
  std::unique_ptr<HoldTracker> hold_;
  std::unique_ptr<SegmentStore> store_;
};

TEST_F(SegmentStoreTest, ANewSegmentIsOpenEmptyAndInTheTable) {
  EXPECT_FALSE(store_->has_entry(SegmentNumber{1}));
  Segment& segment = create(SegmentStream::pages);
  EXPECT_EQ(segment.number, SegmentNumber{1});
  EXPECT_EQ(segment.epoch, Epoch{2});
  const format::SegmentEntry entry = store_->entry(segment.number);
  EXPECT_EQ(entry.state, SegmentState::open);
  EXPECT_EQ(entry.stream, SegmentStream::pages);
  EXPECT_EQ(entry.epoch, Epoch{2});
  EXPECT_EQ(entry.live_blocks, 0u);
  EXPECT_EQ(store_->segment_count(), 1u);
  EXPECT_EQ(files(), std::vector<std::uint64_t>{1});
  store_->release(segment);
}

TEST_F(SegmentStoreTest, NumbersAreNeverUsedTwice) {
  Segment& first = create();
  store_->seal(first.number, 0);
  store_->release(first);
  ASSERT_TRUE(run(store_->remove(SegmentNumber{1})).ok());
  EXPECT_TRUE(files().empty());
  Segment& second = create();
  EXPECT_EQ(second.number, SegmentNumber{2});
  EXPECT_EQ(store_->next_number(), SegmentNumber{3});
  store_->release(second);
}

TEST_F(SegmentStoreTest, AnOpenSegmentWithoutLiveBlocksIsNotDeadASealedOneIs) {
  Segment& segment = create();
  store_->add_live(segment.number, 5);
  store_->add_live(segment.number, -5);
  EXPECT_TRUE(store_->dead_candidates().empty());
  store_->seal(segment.number, 20);
  EXPECT_EQ(store_->dead_candidates(), std::vector<SegmentNumber>{SegmentNumber{1}});
  EXPECT_EQ(store_->entry(segment.number).used_blocks, 20u);
  store_->release(segment);
}

TEST_F(SegmentStoreTest, ASealedSegmentDiesWithItsLastLiveBlock) {
  Segment& segment = create();
  store_->add_live(segment.number, 5);
  store_->seal(segment.number, 20);
  EXPECT_TRUE(store_->dead_candidates().empty());
  store_->add_live(segment.number, -4);
  EXPECT_TRUE(store_->dead_candidates().empty());
  EXPECT_EQ(store_->live_blocks(), 1u);
  store_->add_live(segment.number, -1);
  EXPECT_EQ(store_->dead_candidates(), std::vector<SegmentNumber>{SegmentNumber{1}});
  EXPECT_EQ(store_->live_blocks(), 0u);
  store_->release(segment);
}

TEST_F(SegmentStoreTest, ACountThatContradictsItselfKeepsTheSegment) {
  Segment& segment = create();
  store_->add_live(segment.number, 2);
  store_->seal(segment.number, 20);
  store_->add_live(segment.number, -3);
  EXPECT_TRUE(store_->dead_candidates().empty());
  EXPECT_EQ(store_->entry(segment.number).live_blocks, 2u);
  store_->add_live(SegmentNumber{1'000'000}, 1);  // in no table at all: nothing to crash over
  store_->release(segment);
}

TEST_F(SegmentStoreTest, ARemovedSegmentIsGoneFromTableAndDirectoryAlsoWhenItsFileIsGoneAlready) {
  Segment& first = create();
  Segment& second = create();
  for (Segment* segment : {&first, &second}) {
    store_->seal(segment->number, 0);
    store_->release(*segment);
  }
  const SegmentId second_id{id_, Epoch{2}, SegmentNumber{2}};
  ASSERT_TRUE(run(pool_->remove_segment(second_id)).ok());
  ASSERT_TRUE(run(store_->remove(SegmentNumber{1})).ok());
  ASSERT_TRUE(run(store_->remove(SegmentNumber{2})).ok());
  EXPECT_FALSE(store_->has_entry(SegmentNumber{1}));
  EXPECT_FALSE(store_->has_entry(SegmentNumber{2}));
  EXPECT_EQ(store_->segment_count(), 0u);
  EXPECT_TRUE(files().empty());
  Page* const leaf = store_->table().find_leaf(0);
  ASSERT_NE(leaf, nullptr);
  EXPECT_TRUE(format::page_is_empty({leaf->image, kBlockBytes})) << "so that the table can shrink";
}

TEST_F(SegmentStoreTest, BlocksAreReadBackByTheirLocation) {
  Segment& segment = create();
  const AlignedBuffer out(kBlockBytes);
  std::memset(out.data(), 0x5a, kBlockBytes);
  ASSERT_EQ(run(io_task(segment.file.get(), FileOperation::write, 3 * kBlockBytes, out.span())), 0);
  store_->release(segment);
  const AlignedBuffer in(kBlockBytes);
  ASSERT_TRUE(run(store_->read_block(BlockLocation::at(SegmentNumber{1}, 3), in.span())).ok());
  EXPECT_EQ(std::memcmp(in.data(), out.data(), kBlockBytes), 0);
  const Result<void> beyond =
      run(store_->read_block(BlockLocation::at(SegmentNumber{1}, 1 << 20), in.span()));
  EXPECT_FALSE(beyond.ok()) << "behind the end of the file";
  const Result<void> nowhere =
      run(store_->read_block(BlockLocation::at(SegmentNumber{99}, 0), in.span()));
  EXPECT_FALSE(nowhere.ok()) << "no such segment";
}

TEST_F(SegmentStoreTest, AHandleIsSharedByThoseWhoUseItAtOnce) {
  Segment& segment = create();
  Segment* const again = store_->try_acquire(SegmentNumber{1});
  EXPECT_EQ(again, &segment);
  EXPECT_EQ(segment.users, 2u);
  store_->release(segment);
  store_->release(segment);
  Result<Segment*> later = run(store_->acquire(SegmentNumber{1}));
  ASSERT_TRUE(later.ok());
  EXPECT_EQ(later.value()->users, 1u);
  store_->release(*later.value());
}

TEST_F(SegmentStoreTest, WhatIsNotInTheTableHasTheEpochOfItsName) {
  Segment& segment = create();
  store_->release(segment);
  start_anew();
  EXPECT_EQ(store_->segment_id(SegmentNumber{1}).epoch, Epoch{});
  auto listed = run(pool_->list_segments(id_));
  store_->set_listed(*listed);
  EXPECT_EQ(store_->segment_id(SegmentNumber{1}).epoch, Epoch{2});
  Result<Segment*> opened = run(store_->acquire(SegmentNumber{1}));
  ASSERT_TRUE(opened.ok());
  store_->release(**opened);
}

TEST_F(SegmentStoreTest, EveryEntryIsVisitedOnce) {
  for (int i = 0; i < 3; ++i) store_->release(create());
  ASSERT_TRUE(run(store_->prepare_entry(SegmentNumber{1000})).ok());
  format::SegmentEntry far;
  far.epoch = Epoch{2};
  far.state = SegmentState::sealed;
  far.live_blocks = 9;
  store_->set_entry(SegmentNumber{1000}, far);
  std::vector<std::uint64_t> visited;
  store_->for_each_entry([&](SegmentNumber number, const format::SegmentEntry& entry) {
    visited.push_back(number.value);
    EXPECT_NE(entry.state, SegmentState::absent);
  });
  std::sort(visited.begin(), visited.end());
  EXPECT_EQ(visited, (std::vector<std::uint64_t>{1, 2, 3, 1000}));
  EXPECT_EQ(store_->live_blocks(), 9u);
  EXPECT_EQ(store_->segment_count(), 4u);
}

TEST_F(SegmentStoreTest, EntriesVisitedInPartsAreTheSame) {
  for (const std::uint64_t number : {1, 1000, 5000}) {
    ASSERT_TRUE(run(store_->prepare_entry(SegmentNumber{number})).ok());
    format::SegmentEntry entry;
    entry.epoch = Epoch{2};
    entry.state = SegmentState::sealed;
    store_->set_entry(SegmentNumber{number}, entry);
  }
  std::vector<std::uint64_t> visited;
  const auto visit = [&](SegmentNumber number, const format::SegmentEntry&) {
    visited.push_back(number.value);
  };
  std::size_t parts = 1;
  for (std::size_t first = 0; store_->for_some_entries(first, 1, visit); ++first) ++parts;
  EXPECT_GT(parts, 2u);
  std::sort(visited.begin(), visited.end());
  EXPECT_EQ(visited, (std::vector<std::uint64_t>{1, 1000, 5000}));
  EXPECT_FALSE(store_->for_some_entries(100, 1, visit));
}

// The cleaner's figures are kept up by every change instead of being counted.
TEST_F(SegmentStoreTest, WhatIsSealedIsCountedAsItChanges) {
  constexpr std::uint64_t kSegments = 40;
  std::mt19937_64 random(3);
  for (std::uint64_t number = 1; number <= kSegments; ++number) {
    ASSERT_TRUE(run(store_->prepare_entry(SegmentNumber{number})).ok());
  }
  for (int step = 0; step < 5000; ++step) {
    const SegmentNumber number{1 + random() % kSegments};
    const format::SegmentEntry entry = store_->entry(number);
    const std::uint64_t what = random() % 8;
    if (entry.state == SegmentState::absent || what == 0) {
      format::SegmentEntry changed;
      changed.epoch = Epoch{2};
      changed.state = static_cast<SegmentState>(random() % 3);
      changed.used_blocks = 256;
      changed.live_blocks = static_cast<std::uint32_t>(random() % 3);
      if (changed.state == SegmentState::absent) changed.live_blocks = 0;
      store_->set_entry(number, changed);
    } else if (entry.state == SegmentState::open && what == 1) {
      store_->seal(number, 200);
    } else {
      store_->add_live(number, random() % 2 == 0 ? 1 : -std::int64_t{entry.live_blocks != 0});
    }
    std::uint64_t blocks = 0;
    std::uint64_t live = 0;
    std::uint64_t dead = 0;
    store_->for_each_entry([&](SegmentNumber, const format::SegmentEntry& found) {
      if (found.state != SegmentState::sealed) return;
      if (found.live_blocks != 0) blocks += std::max(found.used_blocks, found.live_blocks);
      if (found.live_blocks == 0) ++dead;
      live += found.live_blocks;
    });
    ASSERT_EQ(store_->sealed_blocks(), blocks) << "step " << step;
    ASSERT_EQ(store_->sealed_live_blocks(), live) << "step " << step;
    ASSERT_EQ(store_->dead_segments(), dead) << "step " << step;
  }
}

TEST_F(SegmentStoreTest, WhatASnapshotKeepsIsNeitherGarbageNorDead) {
  for (std::uint64_t number = 1; number <= 4; ++number) {
    Segment& segment = create();
    store_->add_live(segment.number, 10);
    store_->seal(segment.number, 20);
    store_->release(segment);
  }
  EXPECT_EQ(store_->sealed_blocks(), 80u);
  store_->add_live(SegmentNumber{1}, -10);  // before any snapshot
  store_->set_newest_snapshot(SnapshotNumber{1});
  store_->keep_for(SnapshotNumber{1}, SegmentNumber{4});
  EXPECT_EQ(store_->sealed_blocks(), 20u) << "4 alone is younger";
  store_->add_live(SegmentNumber{2}, -10);
  store_->set_newest_snapshot(SnapshotNumber{2});
  store_->add_live(SegmentNumber{3}, -10);  // after a second one, which failed
  store_->add_live(SegmentNumber{4}, -10);
  const auto is_kept = [&](std::uint64_t number) {
    return store_->is_kept(SegmentNumber{number}, store_->entry(SegmentNumber{number}));
  };
  EXPECT_FALSE(is_kept(1)) << "it was dead before";
  EXPECT_TRUE(is_kept(2));
  EXPECT_TRUE(is_kept(3));
  EXPECT_FALSE(is_kept(4)) << "it was not there";
  EXPECT_EQ(store_->dead_segments(), 1u);
  store_->dead_candidates().clear();
  store_->forget_snapshot(SnapshotNumber{1});
  store_->find_dead();
  EXPECT_EQ(store_->dead_candidates().size(), 4u);
  EXPECT_EQ(store_->dead_segments(), 4u);
}

TEST_F(SegmentStoreTest, ASegmentAWriteOfWhichFailedNeverBecomesASpare) {
  store_->set_thick(ThickLayout{.segments = 100, .metadata_spares = 0});
  for (const int error : {0, ENOSPC, EIO}) {
    Segment& segment = create();
    const SegmentNumber number = segment.number;
    store_->note_failed_write(segment, error);
    store_->seal(number, 0);
    store_->release(segment);
    const std::uint64_t spares = store_->spare_count();
    ASSERT_TRUE(run(store_->remove(number)).ok());
    EXPECT_EQ(store_->spare_count(), spares + (error == EIO ? 0 : 1)) << error;
    EXPECT_TRUE(files().empty());
  }
}

TEST_F(SegmentStoreTest, ASpareThatComesWhileTheSparesAreListedIsNotForgotten) {
  SparePool pool(*pool_);
  store_ = std::make_unique<SegmentStore>(*loop_, pool, id_, memory_, *hold_);
  store_->set_epoch(Epoch{2});
  store_->set_thick(ThickLayout{.segments = 1, .metadata_spares = 0});
  Segment& segment = create();
  store_->seal(segment.number, 0);
  store_->release(segment);
  pool.after_listing = [this] { return store_->remove(SegmentNumber{1}); };
  ASSERT_TRUE(run(store_->refresh_spares()).ok());
  EXPECT_EQ(store_->spare_count(), 1u);
  EXPECT_TRUE(store_->is_preallocated());
  store_.reset();
}

TEST_F(SegmentStoreTest, ASpareOnItsWayToBecomeASegmentIsStillThere) {
  SparePool pool(*pool_);
  ASSERT_TRUE(run(pool_->create_spare(id_)).ok());
  store_ = std::make_unique<SegmentStore>(*loop_, pool, id_, memory_, *hold_);
  store_->set_epoch(Epoch{2});
  store_->set_thick(ThickLayout{.segments = 1, .metadata_spares = 0});
  unsigned seen = 0;
  pool.before_taking = [&] { seen += store_->is_preallocated() ? 1 : 0; };
  store_->release(create());
  EXPECT_EQ(seen, 1u);
  store_.reset();
}

}  // namespace
}  // namespace holdfast
