// SPDX-License-Identifier: Apache-2.0
//
// Snapshots, rollback and clones on the kernel's file system: content, space, and what they cost.
// Crashes at every point of them are the simulator's (sim/).
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>

#include "volume/testing_volume.h"
#include "volume/volume.h"

namespace holdfast {
namespace {

namespace fs = std::filesystem;

class SnapshotTest : public ContentFixture {
 protected:
  SnapshotTest() {
    create_volume(1, kVolumeBytes);
    volume_ = open(1);
  }
  // What it does in the background ends with it, before the disk goes.
  ~SnapshotTest() override {
    if (volume_ != nullptr) close(volume_);
  }

  void reopen() {
    close(volume_);
    volume_ = open(1);
  }
  using ContentFixture::take;
  void take(const std::string& name) { take(*volume_, name); }

  std::unique_ptr<Volume> volume_;
  Content head_;
};

TEST_F(SnapshotTest, ASnapshotShowsItsMomentWhateverComesLater) {
  fill(*volume_, head_, 300);
  take("first");
  const Content first = head_;
  expect_snapshot(1, "first", first);
  for (int round = 0; round < 5; ++round) fill(*volume_, head_);
  wait_until_clean(*volume_);
  take("second");
  const Content second = head_;
  for (int round = 0; round < 3; ++round) fill(*volume_, head_);
  reopen();
  wait_until_clean(*volume_);
  expect_snapshot(1, "first", first);
  expect_snapshot(1, "second", second);
  expect_content(*volume_, head_);
}

// Whoever reads a view may close and destroy it as soon as it has its answers.
TEST_F(SnapshotTest, AViewThatIsClosedByTheCallbackOfAReadEndsAfterTheCallback) {
  take("first");
  auto view = run(Volume::open_snapshot(*loop_, *pool_, id_of(1), "first", options_));
  ASSERT_TRUE(view.ok()) << view.error().message();
  struct Reader {
    TaskScope scope;
    std::unique_ptr<Volume> view;
    int answers = 0;
    bool is_destroyed = false;
    bool was_destroyed_inside = false;

    static Task<void> end(Reader* self) {
      EXPECT_TRUE((co_await self->view->close()).ok());
      self->view.reset();
      self->is_destroyed = true;
    }
  } reader;
  reader.view = std::move(*view);
  std::array<BlockRequest, 2> requests;  // answered in one turn
  std::vector<std::byte> bytes(kBlockBytes);
  const iovec buffer{bytes.data(), bytes.size()};
  for (BlockRequest& request : requests) {
    request.operation = BlockOperation::read;
    request.length_bytes = kBlockBytes;
    request.buffers = std::span<const iovec>(&buffer, 1);
    request.context = &reader;
    request.on_complete = [](BlockRequest& done, BlockStatus status) {
      auto* self = static_cast<Reader*>(done.context);
      EXPECT_EQ(status, BlockStatus::ok);
      if (++self->answers == 1) self->scope.spawn(Reader::end(self));
      self->was_destroyed_inside |= self->is_destroyed;
    };
    reader.view->submit(request);
  }
  wait_for([&] { return reader.is_destroyed; });
  EXPECT_EQ(reader.answers, 2);
  EXPECT_FALSE(reader.was_destroyed_inside);
}

TEST_F(SnapshotTest, ItIsListedOpenOrNotInTheOrderOfTaking) {
  take("zebra");
  fill(*volume_, head_, 10);
  take("ape");
  reopen();
  take("mule");
  const auto names = [](const std::vector<SnapshotInfo>& all) {
    std::string text;
    for (const SnapshotInfo& each : all) text += each.name + " ";
    return text;
  };
  EXPECT_EQ(names(volume_->snapshots()), "zebra ape mule ");
  EXPECT_EQ(names(run(Volume::stored_snapshots(*pool_, id_of(1))).value()), "zebra ape mule ");
  EXPECT_EQ(run(volume_->create_snapshot("ape")).error().code(), ErrorCode::already_exists);
  EXPECT_EQ(run(volume_->remove_snapshot("cow")).error().code(), ErrorCode::not_found);
  EXPECT_EQ(run(volume_->rollback("cow")).error().code(), ErrorCode::not_found);
}

TEST_F(SnapshotTest, RemovingTheLastOneThatNeedsThemFreesSegments) {
  fill(*volume_, head_);
  take("a");
  take("b");
  const std::set<std::string> needed = file_names(1, "seg-");
  const auto gone = [&] {
    const std::set<std::string> now = file_names(1, "seg-");
    return std::count_if(needed.begin(), needed.end(),
                         [&](const std::string& name) { return !now.contains(name); });
  };
  for (int round = 0; round < 4; ++round) fill(*volume_, head_);
  wait_until_clean(*volume_);
  EXPECT_EQ(gone(), 0);
  ASSERT_TRUE(run(volume_->remove_snapshot("a")).ok());
  wait_until_clean(*volume_);
  EXPECT_EQ(gone(), 0) << "b still needs what a needed";
  ASSERT_TRUE(run(volume_->remove_snapshot("b")).ok());
  wait_until_clean(*volume_);
  EXPECT_GE(gone(), 3);
  expect_content(*volume_, head_);
  reopen();
  expect_content(*volume_, head_);
}

TEST_F(SnapshotTest, RemovalIsForGoodAndGoesOnAfterACrash) {
  fill(*volume_, head_);
  take("a");
  for (int round = 0; round < 4; ++round) fill(*volume_, head_);
  wait_until_clean(*volume_);
  const std::size_t with_it = files(1, "seg-");
  close(volume_);
  // What a daemon leaves that dies right after the removal, before anything was freed.
  const SnapshotId removed{id_of(1), SnapshotNumber{1}};
  ASSERT_TRUE(run(pool_->remove_snapshot(removed)).ok());
  volume_ = open(1);
  EXPECT_TRUE(volume_->snapshots().empty());
  wait_until_clean(*volume_);
  EXPECT_LT(files(1, "seg-"), with_it);
  expect_content(*volume_, head_);
}

TEST_F(SnapshotTest, RollbackBringsContentAndSizeBack) {
  fill(*volume_, head_, 500);
  take("before");
  const Content before = head_;
  for (int round = 0; round < 3; ++round) fill(*volume_, head_);
  ASSERT_TRUE(run(volume_->resize(2 * kVolumeBytes)).ok());
  write(*volume_, head_, 2 * kBlocks - 1, 9);
  take("after");
  const Content after = head_;
  ASSERT_TRUE(run(volume_->rollback("before")).ok());
  EXPECT_EQ(volume_->info().size_bytes, kVolumeBytes);
  expect_content(*volume_, before);
  head_ = before;
  fill(*volume_, head_, 700);
  wait_until_clean(*volume_);
  reopen();
  EXPECT_EQ(volume_->info().size_bytes, kVolumeBytes);
  expect_content(*volume_, head_);
  expect_snapshot(1, "before", before);
  expect_snapshot(1, "after", after);
  ASSERT_TRUE(run(volume_->rollback("after")).ok()) << "also forwards";
  expect_content(*volume_, after);
}

TEST_F(SnapshotTest, AThousandSnapshotsWorkAndGoAgain) {
  fill(*volume_, head_, 64);
  Content some;
  for (int i = 0; i < 1000; ++i) {
    write(*volume_, head_, random_() % 64, static_cast<std::uint8_t>(1 + i % 255));
    take("s" + std::to_string(i));
    if (i == 500) some = head_;
  }
  reopen();
  EXPECT_EQ(volume_->snapshots().size(), 1000u);
  expect_snapshot(1, "s500", some);
  expect_snapshot(1, "s999", head_);
  for (int i = 0; i < 1000; ++i) {
    if (i == 500) continue;
    ASSERT_TRUE(run(volume_->remove_snapshot("s" + std::to_string(i))).ok());
  }
  expect_snapshot(1, "s500", some);
  ASSERT_TRUE(run(volume_->remove_snapshot("s500")).ok());
  wait_until_clean(*volume_);
  EXPECT_LT(files(1, "seg-"), 12u);
  expect_content(*volume_, head_);
}

TEST_F(SnapshotTest, ADamagedSnapshotIsShownKeepsItsSegmentsAndCanBeRemoved) {
  fill(*volume_, head_);
  take("good");
  const Content good = head_;
  take("bad");
  for (int round = 0; round < 3; ++round) fill(*volume_, head_);
  close(volume_);
  std::fstream file(directory_of(1) / "snap-0000000000000002");
  file.seekp(100);
  file.put('!');
  file.close();
  volume_ = open(1);
  ASSERT_EQ(volume_->snapshots().size(), 2u);
  EXPECT_TRUE(volume_->snapshots()[1].is_damaged);
  EXPECT_EQ(volume_->snapshots()[1].name, "#2");
  EXPECT_EQ(run(volume_->rollback("#2")).error().code(), ErrorCode::corrupt);
  expect_snapshot(1, "good", good);
  ASSERT_TRUE(run(volume_->remove_snapshot("#2")).ok());
  expect_snapshot(1, "good", good);
  expect_content(*volume_, head_);
}

TEST_F(SnapshotTest, AClonePartsFromItsParent) {
  fill(*volume_, head_);
  take("base");
  const Content base = head_;
  clone(1, "base", 2);
  auto copy = open(2);
  Content content = base;
  expect_content(*copy, content);
  for (int round = 0; round < 3; ++round) {
    fill(*copy, content, 300);
    fill(*volume_, head_, 600);
  }
  wait_until_clean(*volume_);
  expect_content(*copy, content);
  close(copy);
  copy = open(2);
  expect_content(*copy, content);
  expect_content(*volume_, head_);
  expect_snapshot(1, "base", base);
  EXPECT_EQ(run(pool_->list_clone_marks(id_of(1)))->size(), 1u);
  auto mark = run(Volume::clone_mark(*pool_, id_of(2)));
  ASSERT_TRUE(mark.ok() && mark->has_value());
  EXPECT_EQ(**mark, run(pool_->list_clone_marks(id_of(1)))->front());
  EXPECT_FALSE(run(Volume::clone_mark(*pool_, id_of(1)))->has_value());
  close(copy);
}

TEST_F(SnapshotTest, ClonesOfClonesReadThroughAnyDepthAlsoTheirSnapshots) {
  fill(*volume_, head_, 200);
  take("base");
  Content content = head_;
  std::map<unsigned, Content> all{{1, content}};
  unsigned from = 1;
  for (unsigned depth = 2; depth <= 40; ++depth) {
    clone(from, "base", depth);
    auto copy = open(depth);
    expect_content(*copy, content);
    write(*copy, content, random_() % 250, static_cast<std::uint8_t>(1 + depth));
    ASSERT_TRUE(run(copy->create_snapshot("base")).ok());
    all[depth] = content;
    write(*copy, content, 3, 255);  // not in what the next one sees
    close(copy);
    content = all[depth];
    from = depth;
  }
  for (const auto& [depth, expected] : all) expect_snapshot(depth, "base", expected);
}

TEST_F(SnapshotTest, ACloneIsFilledRolledBackAndCleanedLikeAnyVolume) {
  fill(*volume_, head_);
  take("base");
  clone(1, "base", 2);
  close(volume_);
  volume_ = open(2);  // the helpers work on it
  Content content = head_;
  ASSERT_TRUE(run(volume_->create_snapshot("start")).ok());
  for (int round = 0; round < 5; ++round) fill(*volume_, content);
  wait_until_clean(*volume_);
  expect_content(*volume_, content);
  ASSERT_TRUE(run(volume_->rollback("start")).ok());
  expect_content(*volume_, head_);
  ASSERT_TRUE(run(volume_->remove_snapshot("start")).ok());
  wait_until_clean(*volume_);
  expect_content(*volume_, head_);
  expect_snapshot(1, "base", head_);
}

std::map<std::uint64_t, bool> blocks_of(const DiffPart& part) {
  std::map<std::uint64_t, bool> blocks;  // and whether it is zero
  for (const DiffExtent& extent : part.extents) {
    for (std::uint64_t at = 0; at < extent.length_bytes; at += kBlockBytes) {
      blocks[(extent.offset_bytes + at) / kBlockBytes] = extent.is_zero;
    }
  }
  return blocks;
}

TEST_F(SnapshotTest, ADiffNamesExactlyWhatWasWrittenOrDropped) {
  fill(*volume_, head_, 700);
  wait_until_clean(*volume_);
  take("old");
  std::map<std::uint64_t, bool> expected;
  for (int i = 0; i < 50; ++i) {
    const std::uint64_t block = random_() % kBlocks;
    write(*volume_, head_, block, static_cast<std::uint8_t>(i));
    expected[block] = false;
  }
  ASSERT_EQ(submit(*volume_, BlockOperation::discard, 5, nullptr), BlockStatus::ok);
  expected[5] = true;
  ASSERT_EQ(submit(*volume_, BlockOperation::discard, kBlocks - 1, nullptr), BlockStatus::ok);
  if (expected.erase(kBlocks - 1) != 0) GTEST_SKIP() << "the draw hit the block that stays empty";
  take("new");
  for (int round = 0; round < 3; ++round) fill(*volume_, head_);
  wait_until_clean(*volume_);

  const auto since = run(volume_->diff({"new", "old", 0}));
  ASSERT_TRUE(since.ok()) << since.error().message();
  EXPECT_EQ(blocks_of(since.value()), expected);
  EXPECT_FALSE(since->next_bytes.has_value());
  const auto back = run(volume_->diff({"old", "new", 0}));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(blocks_of(back.value()).size(), expected.size()) << "the same blocks, either way";
  const auto same = run(volume_->diff({"old", "old", 0}));
  EXPECT_TRUE(same->extents.empty());
  const auto all = run(volume_->diff({"old", "", 0}));
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(blocks_of(all.value()).size(), 700u);
  EXPECT_EQ(all->extents.size(), 1u) << "neighbours are one extent";
  const auto head = run(volume_->diff({"", "new", 0}));
  ASSERT_TRUE(head.ok());
  EXPECT_EQ(blocks_of(head.value()).size(), kBlocks);
  const auto rest = run(volume_->diff({"", "new", (kBlocks - 3) * kBlockBytes}));
  EXPECT_EQ(blocks_of(rest.value()).size(), 3u);
  EXPECT_EQ(run(volume_->diff({"none", "", 0})).error().code(), ErrorCode::not_found);
  const std::size_t with_both = files(1, "seg-");
  ASSERT_TRUE(run(volume_->remove_snapshot("old")).ok());
  ASSERT_TRUE(run(volume_->remove_snapshot("new")).ok());
  wait_until_clean(*volume_);
  EXPECT_LT(files(1, "seg-"), with_both) << "a diff keeps nothing when it is over";
}

}  // namespace
}  // namespace holdfast
