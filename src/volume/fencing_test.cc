// SPDX-License-Identifier: Apache-2.0
//
// What a volume does behind a fence, rule by rule
// (docs/decisions/0022-the-volume-behind-a-fence.md). With several hosts, pauses and crashes: the
// simulator (sim/shared_run.h).
#include <gtest/gtest.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pool/preallocation.h"
#include "pool/testing_forwarding_pool.h"
#include "volume/testing_volume.h"
#include "volume/volume.h"

namespace holdfast {
namespace {

// Tells the test of what a volume does to names, after it was done.
class WatchedPool final : public ForwardingPool {
 public:
  using ForwardingPool::ForwardingPool;
  std::function<void()> on_root;
  std::function<void()> on_snapshot;
  std::function<void()> on_mark;
  std::function<void()> on_listing;
  std::vector<std::string> removals;
  std::vector<SegmentId> recycled;

  Task<Result<void>> publish_root(RootId root, std::vector<std::byte> bytes, Epoch owner) override {
    Result<void> published = co_await below_.publish_root(root, std::move(bytes), owner);
    if (on_root) on_root();
    co_return published;
  }
  Task<Result<void>> publish_snapshot(SnapshotId snapshot, std::vector<std::byte> bytes,
                                      Epoch owner) override {
    Result<void> published = co_await below_.publish_snapshot(snapshot, std::move(bytes), owner);
    if (on_snapshot) on_snapshot();
    co_return published;
  }
  Task<Result<void>> add_clone_mark(CloneMark mark) override {
    Result<void> added = co_await below_.add_clone_mark(mark);
    if (on_mark) on_mark();
    co_return added;
  }
  Task<Result<std::vector<SegmentId>>> list_segments(VolumeId volume) override {
    auto listed = co_await below_.list_segments(volume);
    if (on_listing) on_listing();
    co_return listed;
  }
  Task<Result<void>> remove_root(RootId root, Epoch owner) override {
    removals.push_back("root");
    co_return co_await below_.remove_root(root, owner);
  }
  Task<Result<void>> remove_segment(SegmentId segment) override {
    removals.push_back("segment");
    co_return co_await below_.remove_segment(segment);
  }
  Task<Result<void>> trim_segment(SegmentId segment, std::uint64_t used_bytes) override {
    removals.push_back("trim");
    co_return co_await below_.trim_segment(segment, used_bytes);
  }
  Task<Result<void>> remove_snapshot(SnapshotId snapshot, Epoch owner) override {
    removals.push_back("snapshot");
    co_return co_await below_.remove_snapshot(snapshot, owner);
  }
  Task<Result<SpareId>> recycle_segment(SegmentId segment) override {
    recycled.push_back(segment);
    co_return co_await below_.recycle_segment(segment);
  }
};

// A request with its memory.
struct Io {
  BlockRequest request;
  Bytes memory = Bytes(kBlockBytes);
  iovec vector{};
  std::optional<BlockStatus> status;
};

class FencingTest : public ContentFixture {
 protected:
  FencingTest() : watched_(*pool_) {
    create_volume(1, kVolumeBytes);
    options_.checkpoint_idle = 1h;
  }
  ~FencingTest() override {
    if (volume_ == nullptr) return;
    watched_.on_root = watched_.on_snapshot = nullptr;
    EXPECT_TRUE(run(volume_->close()).ok());
    volume_.reset();
  }
  Pool& pool() override { return watched_; }

  // A new ownership.
  void take_lease() { take_lease(epoch_ + 1); }
  void take_lease(std::uint64_t epoch) {
    epoch_ = epoch;
    fence_ = std::make_shared<Fence>(Epoch{epoch}, BootTime{});
    renew();
    options_.fence = fence_;
  }
  void renew() { fence_->extend(loop_->boot_time() + 1h); }
  void expire() { fence_->extend(loop_->boot_time() - 1ms); }
  void open_owned() {
    take_lease();
    volume_ = open(1);
  }
  void close_owned() { close(volume_); }

  void submit_io(Io& io, BlockOperation operation, std::uint64_t block, std::uint8_t value = 0) {
    std::fill(io.memory.begin(), io.memory.end(), static_cast<std::byte>(value));
    io.vector = {io.memory.data(), io.memory.size()};
    io.status.reset();
    io.request = BlockRequest{};
    io.request.operation = operation;
    io.request.offset_bytes = block * kBlockBytes;
    io.request.length_bytes = operation == BlockOperation::flush ? 0 : kBlockBytes;
    io.request.buffers = std::span<const iovec>(&io.vector, 1);
    io.request.context = &io;
    io.request.on_complete = [](BlockRequest& done, BlockStatus status) {
      static_cast<Io*>(done.context)->status = status;
    };
    volume_->submit(io.request);
  }
  void pass(Duration time = 60ms) {
    const MonotonicTime until = loop_->now() + time;
    loop_->run_until([&] { return loop_->now() >= until; }, 60s);
  }
  template <typename T>
  struct Started {
    std::optional<Result<T>> result;
    TaskScope scope;
  };
  template <typename T>
  static Task<void> store(Task<Result<T>> task, std::optional<Result<T>>* result) {
    result->emplace(co_await task);
  }
  template <typename T>
  std::unique_ptr<Started<T>> start(Task<Result<T>> task) {
    auto started = std::make_unique<Started<T>>();
    started->scope.spawn(store(std::move(task), &started->result));
    return started;
  }
  template <typename T>
  Result<T> finish(Started<T>& started) {
    wait_for([&] { return started.result.has_value(); });
    return std::move(*started.result);
  }
  template <typename T>
  void expect_refused(Result<T> result) {
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code(), ErrorCode::busy);
    EXPECT_NE(result.error().message().find("lease"), std::string::npos)
        << result.error().message();
  }

  WatchedPool watched_;
  std::uint64_t epoch_ = 1;  // which create() used
  std::shared_ptr<Fence> fence_;
  std::unique_ptr<Volume> volume_;
};

// --- Requests ---

TEST_F(FencingTest, NothingIsAnsweredWhileTheFenceDoesNotHoldAndAllIsInItsOrderWhenItDoes) {
  open_owned();
  Content content;
  write(*volume_, content, 3, 7);
  expire();
  std::deque<Io> all(5);
  submit_io(all[0], BlockOperation::write, 0, 1);
  submit_io(all[1], BlockOperation::read, 3);
  submit_io(all[2], BlockOperation::flush, 0);
  submit_io(all[3], BlockOperation::discard, 9);
  submit_io(all[4], BlockOperation::write_zeroes, 10);
  pass();
  for (const Io& io : all) EXPECT_FALSE(io.status.has_value());
  EXPECT_TRUE(volume_->is_holding());
  const VolumeStatistics held = volume_->statistics();
  EXPECT_EQ(held.hold.reason, HoldReason::lease);
  EXPECT_NE(held.hold.detail.find("ran out at 20"), std::string::npos) << held.hold.detail;
  EXPECT_EQ(held.hold.waiting, 5u);
  EXPECT_FALSE(held.is_fenced);
  renew();
  for (Io& io : all) {
    wait_for([&] { return io.status.has_value(); });
    EXPECT_EQ(io.status, BlockStatus::ok);
  }
  EXPECT_EQ(all[1].memory, Bytes(kBlockBytes, std::byte{7}));
  EXPECT_FALSE(volume_->is_holding());
  content[0] = 1;
  expect_content(*volume_, content);
}

TEST_F(FencingTest, WhatWaitsForALostLeaseIsNeverAnsweredButMayBeCancelled) {
  open_owned();
  expire();
  Io before;
  submit_io(before, BlockOperation::write, 0, 1);
  pass();
  fence_->lose();
  renew();  // too late
  Io after;
  submit_io(after, BlockOperation::read, 0);
  pass();
  EXPECT_FALSE(before.status.has_value());
  EXPECT_FALSE(after.status.has_value());
  EXPECT_TRUE(volume_->is_holding());
  EXPECT_TRUE(volume_->statistics().is_fenced);
  EXPECT_EQ(volume_->statistics().hold.reason, HoldReason::lease);
  EXPECT_NE(volume_->statistics().hold.detail.find("lost"), std::string::npos);
  volume_->cancel(before.request);
  volume_->cancel(after.request);
  wait_for([&] { return before.status.has_value() && after.status.has_value(); });
  EXPECT_EQ(before.status, BlockStatus::cancelled);
  EXPECT_EQ(after.status, BlockStatus::cancelled);
}

TEST_F(FencingTest, RequestsThatWaitForTheLeaseFailWhenTheirHoldMayNotLast) {
  open_owned();
  expire();
  Io io;
  submit_io(io, BlockOperation::write, 0, 1);
  pass();
  volume_->fail_held(loop_->now() + 1ns);
  wait_for([&] { return io.status.has_value(); });
  EXPECT_EQ(io.status, BlockStatus::hold_expired);
}

// --- Closing ---

TEST_F(FencingTest, ClosingWithoutTheLeaseAnswersAllAndChangesNothing) {
  // A volume for each, of which nothing was overwritten: a checkpoint that frees something may be
  // under way, and publishes what it began before the lease was lost.
  create_volume(2, kVolumeBytes);
  for (const bool is_lost : {false, true}) {
    const unsigned number = is_lost ? 2 : 1;
    take_lease(2);
    volume_ = open(number);
    Content content;
    fill(*volume_, content, 300);
    is_lost ? fence_->lose() : expire();
    std::deque<Io> all(3);
    submit_io(all[0], BlockOperation::write, 0, 1);
    submit_io(all[1], BlockOperation::read, 1);
    submit_io(all[2], BlockOperation::flush, 0);
    const std::set<std::string> names = file_names(number, "");
    watched_.removals.clear();
    bool has_published = false;
    watched_.on_root = [&] { has_published = true; };
    const MonotonicTime begin = loop_->now();
    EXPECT_TRUE(run(volume_->close()).ok());
    EXPECT_LT(loop_->now() - begin, 10s);
    volume_.reset();
    for (const Io& io : all) EXPECT_EQ(io.status, BlockStatus::shutting_down);
    EXPECT_FALSE(has_published);
    EXPECT_TRUE(watched_.removals.empty()) << watched_.removals.front();
    // All that was there, and nothing new but a segment, perhaps, whose creation was under way.
    for (const std::string& name : file_names(number, "")) {
      EXPECT_TRUE(names.contains(name) || name.starts_with("seg-")) << name;
    }
    EXPECT_GE(files(number, ""), names.size());
    watched_.on_root = nullptr;
    take_lease();
    volume_ = open(number);
    content.erase(0);
    std::vector<std::byte> bytes(kBlockBytes);
    for (const auto& [block, value] : content) {
      ASSERT_EQ(submit(*volume_, BlockOperation::read, block, bytes.data()), BlockStatus::ok);
      ASSERT_EQ(bytes[0], static_cast<std::byte>(value)) << "what was acknowledged is there";
    }
    close_owned();
  }
}

TEST_F(FencingTest, AResizeThatWaitsForALostLeaseEndsAndDoesNotKeepTheVolumeOpen) {
  open_owned();
  expire();
  Io io;
  submit_io(io, BlockOperation::write, 0, 1);
  auto resize = start(volume_->resize(2 * kVolumeBytes));
  pass();
  EXPECT_FALSE(resize->result.has_value());
  fence_->lose();
  expect_refused(finish(*resize));
  close_owned();
  EXPECT_EQ(io.status, BlockStatus::shutting_down);
}

// --- Names ---

TEST_F(FencingTest, NoRootIsPublishedWhileTheFenceDoesNotHold) {
  open_owned();
  Content content;
  write(*volume_, content, 0, 1);
  const std::set<std::string> roots = file_names(1, "root-");
  expire();
  auto checkpoint = start(volume_->checkpoint());
  pass(200ms);
  EXPECT_FALSE(checkpoint->result.has_value());
  EXPECT_EQ(file_names(1, "root-"), roots);
  EXPECT_EQ(volume_->statistics().hold.reason, HoldReason::lease);
  renew();
  EXPECT_TRUE(finish(*checkpoint).ok());
  EXPECT_NE(file_names(1, "root-"), roots);
}

TEST_F(FencingTest, NothingIsRemovedBeforeTheFenceWasSeenToHoldAfterTheRootWasPublished) {
  options_.checkpoint_log_bytes = 1 * kGiB;
  options_.cleaner_start_percent = 101;
  open_owned();
  Content content;
  fill(*volume_, content);
  EXPECT_TRUE(run(volume_->checkpoint()).ok());
  fill(*volume_, content);  // leaves segments without a live block
  watched_.removals.clear();
  watched_.on_root = [&] { expire(); };
  auto checkpoint = start(volume_->checkpoint());
  pass(300ms);
  EXPECT_FALSE(checkpoint->result.has_value());
  EXPECT_TRUE(watched_.removals.empty()) << watched_.removals.front();
  watched_.on_root = nullptr;
  renew();
  EXPECT_TRUE(finish(*checkpoint).ok());
  EXPECT_TRUE(std::find(watched_.removals.begin(), watched_.removals.end(), "root") !=
              watched_.removals.end());
  EXPECT_TRUE(std::find(watched_.removals.begin(), watched_.removals.end(), "segment") !=
              watched_.removals.end());
}

TEST_F(FencingTest, OnceItsLeaseIsLostItRemovesNothing) {
  options_.checkpoint_log_bytes = 1 * kGiB;
  options_.cleaner_start_percent = 101;
  open_owned();
  Content content;
  fill(*volume_, content);
  EXPECT_TRUE(run(volume_->checkpoint()).ok());
  fill(*volume_, content);
  watched_.removals.clear();
  watched_.on_root = [&] { fence_->lose(); };
  expect_refused(run(volume_->checkpoint()));
  pass(100ms);
  EXPECT_TRUE(watched_.removals.empty());
}

TEST_F(FencingTest, CommandsAreNotDoneWithoutTheFence) {
  open_owned();
  Content content;
  write(*volume_, content, 0, 1);
  take(*volume_, "first");
  watched_.on_snapshot = [&] { expire(); };
  auto snapshot = start(volume_->create_snapshot("second"));
  pass(200ms);
  EXPECT_FALSE(snapshot->result.has_value()) << "published, but who knows of it?";
  watched_.on_snapshot = nullptr;
  renew();
  EXPECT_TRUE(finish(*snapshot).ok());
  expire();
  watched_.removals.clear();
  auto removal = start(volume_->remove_snapshot("first"));
  pass();
  EXPECT_FALSE(removal->result.has_value());
  EXPECT_TRUE(watched_.removals.empty());
  fence_->lose();
  expect_refused(finish(*removal));
  expect_refused(run(volume_->create_snapshot("third")));
  expect_refused(run(volume_->remove_snapshot("first")));
  expect_refused(run(volume_->rollback("first")));
  expect_refused(run(volume_->resize(2 * kVolumeBytes)));
  expect_refused(run(volume_->checkpoint()));
  expect_refused(run(volume_->pause(1s)));
  EXPECT_EQ(files(1, "snap-"), 2u);
}

TEST_F(FencingTest, ACloneIsNotMadeWhenItsParentsLeaseRanOut) {
  open_owned();
  Content content;
  write(*volume_, content, 0, 1);
  take(*volume_, "base");
  VolumeCloneOptions options;
  options.parent = id_of(1);
  options.snapshot = "base";
  options.id = id_of(2);
  options.name = "clone";
  options.fence = fence_;
  watched_.on_mark = [&] { expire(); };
  expect_refused(run(Volume::clone(*loop_, watched_, options)));
  EXPECT_EQ(run(watched_.list_volumes())->size(), 1u);
  watched_.on_mark = nullptr;
  renew();
  EXPECT_TRUE(run(Volume::clone(*loop_, watched_, options)).ok());
}

// --- Epochs ---

TEST_F(FencingTest, ItsEpochIsTheLeasesAndAnOlderLeaseIsRefused) {
  take_lease(5);
  volume_ = open(1);
  EXPECT_EQ(volume_->statistics().epoch, 5u);
  Content content;
  write(*volume_, content, 0, 1);
  close_owned();
  for (const std::uint64_t epoch : {5, 4}) {
    take_lease(epoch);
    auto opened = run(Volume::open(*loop_, pool(), id_of(1), options_));
    expect_refused(std::move(opened));
  }
  take_lease(6);
  volume_ = open(1);
  expect_content(*volume_, content);
}

TEST_F(FencingTest, AVolumeIsNotHandedOutWhenItsLeaseIsLostWhileItIsBeingOpened) {
  open_owned();
  close_owned();
  take_lease();
  watched_.on_root = [&] { fence_->lose(); };
  auto opened = run(Volume::open(*loop_, pool(), id_of(1), options_));
  expect_refused(std::move(opened));
  watched_.on_root = nullptr;
  take_lease();
  expire();
  expect_refused(run(Volume::open(*loop_, pool(), id_of(1), options_)));
}

TEST_F(FencingTest, AnOwnerThatComesTooLateToOpenTheVolumeDoesNotCallItDamaged) {
  open_owned();
  Content content;
  fill(*volume_, content, 200);
  close_owned();
  for (const std::string& name : file_names(1, "seg-")) {
    std::filesystem::rename(directory_of(1) / name, directory_of(1) / ("gone-" + name));
  }
  take_lease();
  auto opened = run(Volume::open(*loop_, pool(), id_of(1), options_));
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.error().code(), ErrorCode::busy) << "it is damaged";
  take_lease();
  const std::shared_ptr<Fence> fence = fence_;
  watched_.on_listing = [&] { fence->extend(loop_->boot_time() - 1ms); };
  expect_refused(run(Volume::open(*loop_, pool(), id_of(1), options_)));
  watched_.on_listing = nullptr;
}

TEST_F(FencingTest, WhatAnOwnerBeforeLeavesLateIsTidiedAndDisturbsNobody) {
  open_owned();
  Content content;
  fill(*volume_, content, 200);
  // Under a number that is in use, and one that is not.
  const std::set<std::string> segments = file_names(1, "seg-");
  std::vector<std::string> late;
  for (const std::string& name : segments) {
    late.push_back("seg-0000000000000001" + name.substr(name.rfind('-')));
  }
  late.push_back("seg-0000000000000001-00000000000000ff");
  for (const std::string& name : late) std::ofstream(directory_of(1) / name) << "late";
  close_owned();
  open_owned();
  expect_content(*volume_, content);
  const auto is_there = [&](const std::string& name) {
    return std::filesystem::exists(directory_of(1) / name);
  };
  wait_for([&] { return std::none_of(late.begin(), late.end(), is_there); });
  expect_content(*volume_, content);
}

TEST_F(FencingTest, WhoeverLostItsEpochCanNeitherPublishNorRemoveHoweverLate) {
  open_owned();
  Content content;
  write(*volume_, content, 0, 1);
  take(*volume_, "base");
  const Epoch late{epoch_};
  Pool& pool = *pool_;
  const VolumeId id = id_of(1);
  const SnapshotId snapshot = run(pool.list_snapshots(id)).value().front();
  const SnapshotId next{id, SnapshotNumber{snapshot.number.value + 1}};
  const RootId root{id, late, 1000};
  const RootId current = run(pool.list_roots(id)).value().back();
  ASSERT_TRUE(run(pool.begin_epoch(id, Epoch{epoch_ + 1})).ok());
  EXPECT_FALSE(run(pool.publish_root(root, Bytes(4096), late)).ok());
  EXPECT_FALSE(run(pool.publish_snapshot(next, Bytes(4096), late)).ok());
  EXPECT_FALSE(run(pool.remove_snapshot(snapshot, late)).ok());
  EXPECT_FALSE(run(pool.remove_root(current, late)).ok());
  EXPECT_EQ(run(pool.begin_epoch(id, late)).error().code(), ErrorCode::busy);
  EXPECT_EQ(run(pool.list_snapshots(id)).value(), std::vector<SnapshotId>{snapshot});
  EXPECT_EQ(run(pool.list_roots(id)).value().back(), current);
  // Nothing of it is left, and the new owner can do all of that.
  EXPECT_EQ(files(1, ".epoch-"), 1u);
  EXPECT_TRUE(run(pool.publish_snapshot(next, Bytes(4096), Epoch{epoch_ + 1})).ok());
  EXPECT_TRUE(run(pool.remove_snapshot(next, Epoch{epoch_ + 1})).ok());
  EXPECT_TRUE(run(pool.remove_snapshot(next, Epoch{epoch_ + 1})).ok()) << "it is gone already";
  ++epoch_;
  fence_->lose();
  close_owned();
  open_owned();
  expect_snapshot(1, "base", content);
}

TEST_F(FencingTest, ClosedProperlyItLeavesNothingOfItsEpoch) {
  open_owned();
  Content content;
  fill(*volume_, content, 10);
  EXPECT_TRUE(run(volume_->checkpoint()).ok());
  EXPECT_EQ(files(1, ".epoch-"), 1u);
  close_owned();
  EXPECT_EQ(files(1, ".epoch-"), 0u);
}

// --- Thick volumes ---

class ThickFencingTest : public FencingTest {
 protected:
  ThickFencingTest() {
    create_volume(2, kVolumeBytes, true);
    const std::uint64_t total = thick_layout(kVolumeBytes, limits::kSegmentBytesMin).segments;
    const bool never = false;
    Preallocation progress;
    EXPECT_TRUE(run(preallocate(*pool_, id_of(2), total, &progress, &never)).ok());
  }
};

TEST_F(ThickFencingTest, OnlySegmentsOfTheOwnEpochAreRecycledAndTheGuaranteeStays) {
  const auto guaranteed = [&] {
    return run(pool_->count_segment_files(id_of(2))).value().guaranteed();
  };
  const std::uint64_t before = guaranteed();
  Content content;
  for (int round = 0; round < 3; ++round) {
    take_lease();
    volume_ = open(2);
    watched_.recycled.clear();
    watched_.removals.clear();
    for (int pass = 0; pass < 3; ++pass) fill(*volume_, content);
    expect_content(*volume_, content);
    close_owned();
    EXPECT_FALSE(watched_.recycled.empty()) << "of those written in the same round";
    for (const SegmentId& segment : watched_.recycled) EXPECT_EQ(segment.epoch.value, epoch_);
    if (round != 0) {
      EXPECT_TRUE(std::find(watched_.removals.begin(), watched_.removals.end(), "segment") !=
                  watched_.removals.end());
    }
    EXPECT_GE(guaranteed(), before) << "in the place of each there is a new spare";
  }
}

}  // namespace
}  // namespace holdfast
