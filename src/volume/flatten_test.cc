// SPDX-License-Identifier: Apache-2.0
//
// Flattening on the kernel's file system. Crashes at every point of it are the simulator's (sim/).
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "format/root.h"
#include "pool/testing_forwarding_pool.h"
#include "volume/testing_volume.h"
#include "volume/volume.h"

namespace holdfast {
namespace {

namespace fs = std::filesystem;

// Copies where it could link, or fails, when it is told so.
class AdoptingPool final : public ForwardingPool {
 public:
  using ForwardingPool::ForwardingPool;
  Task<Result<void>> adopt_segment(SegmentId from, VolumeId to, AdoptBy by, Epoch owner) override {
    ++adoptions;
    if (adoptions == failing_adoption) {
      co_return Error(ErrorCode::no_space, "injected");
    }
    co_return co_await below_.adopt_segment(from, to, copies ? AdoptBy::copy : by, owner);
  }
  Task<Result<void>> remove_clone_mark(CloneMark mark) override {
    if (fails_to_unmark) co_return Error(ErrorCode::path_failure, "injected");
    co_return co_await below_.remove_clone_mark(mark);
  }
  bool copies = false;
  bool fails_to_unmark = false;
  int adoptions = 0;
  int failing_adoption = 0;
};

// A parent (volume 1) with a snapshot "base" and, after it, other content; a clone of that (2).
class FlattenTest : public ContentFixture, public testing::WithParamInterface<bool> {
 protected:
  FlattenTest() {
    create_volume(1, kVolumeBytes);
    parent_ = open(1);
    fill(*parent_, parent_content_);
    take(*parent_, "base");
    clone_content_ = parent_content_;
    clone(1, "base", 2);
    fill(*parent_, parent_content_);
    clone_ = open(2);
    EXPECT_EQ(files(2, "seg-"), 1u) << "a page segment, and nothing else of its own";
  }
  ~FlattenTest() override {
    for (std::unique_ptr<Volume>* volume : {&clone_, &parent_}) {
      if (*volume != nullptr) close(*volume);
    }
  }

  Pool& pool() override { return adopting_; }
  // Without a word, but nothing may be on its way to the kernel.
  void die(std::unique_ptr<Volume>& volume) {
    wait_until_clean(*volume);
    loop_->run_until([] { return false; }, 100ms);
    volume.reset();
  }
  // Segment by segment. Returns how many there were.
  std::uint64_t flatten(Volume& volume) {
    std::uint64_t segments = 0;
    for (;;) {
      const auto part = run(volume.flatten(Duration(0)));
      EXPECT_TRUE(part.ok()) << (part.ok() ? "" : part.error().message());
      if (!part.ok()) return 0;
      EXPECT_TRUE(part.value().is_done || part.value().adopted_segments == 1);
      segments += part.value().adopted_segments;
      if (part.value().is_done) return segments;
    }
  }
  std::size_t marks_beside(unsigned volume) {
    return run(pool_->list_clone_marks(id_of(volume)))->size();
  }
  // As the host does, with all that protects it looked at.
  void remove_parent() {
    ASSERT_EQ(marks_beside(1), 0u);
    ASSERT_TRUE(run(parent_->remove_snapshot("base")).ok());
    close(parent_);
    ASSERT_TRUE(run(pool_->remove_volume(id_of(1))).ok());
    EXPECT_FALSE(fs::exists(directory_of(1)));
  }
  AdoptingPool adopting_{*pool_};
  std::unique_ptr<Volume> parent_;
  std::unique_ptr<Volume> clone_;
  Content parent_content_;
  Content clone_content_;
};

// Where it does not matter how.
class FlattenOnceTest : public FlattenTest {};
INSTANTIATE_TEST_SUITE_P(Links, FlattenOnceTest, testing::Values(false));

// By links, and by copies.
INSTANTIATE_TEST_SUITE_P(Both, FlattenTest, testing::Bool(), [](const auto& each) {
  return std::string(each.param ? "Copies" : "Links");
});

TEST_P(FlattenTest, AFlattenedCloneIsWhatItWasWithoutItsParent) {
  adopting_.copies = GetParam();
  for (std::uint64_t block = 0; block < kBlocks; block += 3)
    write(*clone_, clone_content_, block, 7);
  EXPECT_GE(flatten(*clone_), 4u);
  EXPECT_EQ(marks_beside(1), 0u);
  EXPECT_FALSE(run(Volume::clone_mark(*pool_, id_of(2)))->has_value());
  expect_content(*clone_, clone_content_);
  expect_content(*parent_, parent_content_);
  remove_parent();
  expect_content(*clone_, clone_content_);
  close(clone_);
  clone_ = open(2);
  expect_content(*clone_, clone_content_);
  EXPECT_EQ(flatten(*clone_), 0u) << "it is flat already";
}

TEST_P(FlattenTest, TheClonesSnapshotsAreReadableWithoutTheParent) {
  adopting_.copies = GetParam();
  take(*clone_, "first");
  const Content first = clone_content_;
  fill(*clone_, clone_content_);  // from here on only the snapshot needs the parent's segments
  EXPECT_GE(flatten(*clone_), 4u);
  take(*clone_, "second");
  remove_parent();
  expect_snapshot(2, "first", first);
  expect_snapshot(2, "second", clone_content_);
  close(clone_);
  clone_ = open(2);
  ASSERT_TRUE(run(clone_->rollback("first")).ok());
  expect_content(*clone_, first);
  expect_snapshot(2, "first", first);
}

TEST_P(FlattenTest, AViewThatWasOpenBeforeGoesOnWithoutTheParent) {
  adopting_.copies = GetParam();
  take(*clone_, "first");
  const Content first = clone_content_;
  auto view = run(Volume::open_snapshot(*loop_, adopting_, id_of(2), "first", options_)).value();
  fill(*clone_, clone_content_);
  flatten(*clone_);
  remove_parent();
  expect_content(*view, first);
  close(view);
}

TEST_P(FlattenTest, AdoptedSegmentsAreCleanedAndFreed) {
  adopting_.copies = GetParam();
  flatten(*clone_);
  remove_parent();
  for (int round = 0; round < 3; ++round) {
    for (std::uint64_t block = 0; block < kBlocks; ++block) {
      if (block % 16 != 5) write(*clone_, clone_content_, block, 9);
    }
  }
  wait_until_clean(*clone_);
  expect_content(*clone_, clone_content_);
  std::size_t inherited = 0;
  for (const auto& file : fs::directory_iterator(directory_of(2))) {
    // The clone's own have an epoch and numbers of its own.
    const std::string name = file.path().filename().string();
    if (!name.starts_with("seg-")) continue;
    inherited += std::stoul(name.substr(name.rfind('-') + 1), nullptr, 16) < 6 ? 1 : 0;
  }
  EXPECT_EQ(inherited, 0u) << "their live blocks were moved, and they were freed";
  close(clone_);
  clone_ = open(2);
  expect_content(*clone_, clone_content_);
}

TEST_P(FlattenTest, AGrandchildThatIsOpenReadsThroughTheMiddle) {
  adopting_.copies = GetParam();
  write(*clone_, clone_content_, 3, 77);
  take(*clone_, "middle");
  clone(2, "middle", 3);
  Content third = clone_content_;
  auto grandchild = open(3);
  std::vector<std::byte> bytes(kBlockBytes);
  ASSERT_EQ(submit(*grandchild, BlockOperation::read, 500, bytes.data()), BlockStatus::ok);
  fill(*clone_, clone_content_);
  flatten(*clone_);
  EXPECT_EQ(marks_beside(2), 1u) << "the grandchild's";
  remove_parent();
  expect_content(*grandchild, third);
  expect_content(*clone_, clone_content_);
  write(*grandchild, third, 9, 99);
  close(grandchild);
  grandchild = open(3);
  expect_content(*grandchild, third);
  // And the grandchild, from a middle that adopted.
  EXPECT_GE(flatten(*grandchild), 4u);
  EXPECT_EQ(marks_beside(2), 0u);
  ASSERT_TRUE(run(clone_->remove_snapshot("middle")).ok());
  close(clone_);
  ASSERT_TRUE(run(pool_->remove_volume(id_of(2))).ok());
  expect_content(*grandchild, third);
  close(grandchild);
  grandchild = open(3);
  expect_content(*grandchild, third);
  close(grandchild);
}

TEST_P(FlattenTest, AGrandchildThatIsClosedFindsItsSegmentsInTheMiddle) {
  adopting_.copies = GetParam();
  take(*clone_, "middle");
  const Content third = clone_content_;
  clone(2, "middle", 3);
  fill(*clone_, clone_content_);
  flatten(*clone_);
  remove_parent();
  auto grandchild = open(3);
  expect_content(*grandchild, third);
  close(grandchild);
}

TEST_P(FlattenTest, AThickParentReusesItsSegmentsUnderAnOpenGrandchild) {
  // Copies; by links it could not reuse them.
  adopting_.copies = GetParam();
  take(*clone_, "middle");
  clone(2, "middle", 3);
  const Content third = clone_content_;
  auto grandchild = open(3);
  expect_content(*grandchild, third);  // its handles are of the parent's files
  flatten(*clone_);
  parent_->set_thick(true);
  ASSERT_TRUE(run(parent_->remove_snapshot("base")).ok());
  ASSERT_TRUE(run(parent_->checkpoint()).ok());
  if (adopting_.copies) {
    EXPECT_GE(parent_->statistics().spare_count, 3u) << "which the grandchild has open";
  }
  for (const auto& mine : fs::directory_iterator(directory_of(2))) {
    for (const auto& spare : fs::directory_iterator(directory_of(1))) {
      if (!spare.path().filename().string().starts_with("spare-")) continue;
      EXPECT_FALSE(fs::equivalent(mine.path(), spare.path())) << mine.path();
    }
  }
  fill(*parent_, parent_content_);
  fill(*parent_, parent_content_);
  expect_content(*grandchild, third);
  expect_content(*clone_, clone_content_);
  expect_content(*parent_, parent_content_);
  EXPECT_EQ(grandchild->statistics().corrupt_blocks, 0u);
  close(grandchild);
}

TEST_P(FlattenTest, WhatIsCutOffGoesOnWhereItWas) {
  adopting_.copies = GetParam();
  const auto first = run(clone_->flatten(Duration(0)));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->adopted_segments, 1u);
  EXPECT_GE(first->left_segments, 3u);
  EXPECT_GE(first->left_bytes, first->left_segments * 4096);
  EXPECT_FALSE(first->is_done);
  EXPECT_EQ(marks_beside(1), 1u) << "until all is there";
  die(clone_);
  clone_ = open(2);
  const auto second = run(clone_->flatten(Duration(0)));
  ASSERT_TRUE(second.ok());
  EXPECT_LE(second->left_segments, first->left_segments - 1) << "the first was not forgotten";
  adopting_.failing_adoption = adopting_.adoptions + 2;
  const auto failed = run(clone_->flatten(1h));
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code(), ErrorCode::no_space);
  expect_content(*clone_, clone_content_);
  EXPECT_TRUE(run(clone_->flatten(1h))->is_done);
  remove_parent();
  expect_content(*clone_, clone_content_);
}

TEST_P(FlattenOnceTest, AMarkThatWasLeftBehindGoesWithTheNextOpening) {
  adopting_.copies = GetParam();
  adopting_.fails_to_unmark = true;
  const auto failed = run(clone_->flatten(1h));
  EXPECT_EQ(failed.error().code(), ErrorCode::path_failure);
  EXPECT_EQ(marks_beside(1), 1u);
  EXPECT_FALSE(run(Volume::clone_mark(*pool_, id_of(2)))->has_value()) << "its root has none";
  die(clone_);
  adopting_.fails_to_unmark = false;
  clone_ = open(2);
  wait_for([&] { return marks_beside(1) == 0; });
  remove_parent();
  expect_content(*clone_, clone_content_);
}

TEST_P(FlattenTest, SnapshotsRollbacksAndWritesGoOnMeanwhile) {
  adopting_.copies = GetParam();
  std::map<std::string, Content> kept;
  for (int step = 0;; ++step) {
    const auto part = run(clone_->flatten(Duration(0)));
    ASSERT_TRUE(part.ok()) << part.error().message();
    if (part->is_done) break;
    const std::string name = "s" + std::to_string(step);
    take(*clone_, name);
    kept[name] = clone_content_;
    for (std::uint64_t block = 0; block < kBlocks; block += 1 + random_() % 3) {
      write(*clone_, clone_content_, block, static_cast<std::uint8_t>(1 + random_() % 255));
    }
    if (step == 2) {
      ASSERT_TRUE(run(clone_->rollback("s0")).ok());
      clone_content_ = kept["s0"];
    }
  }
  remove_parent();
  expect_content(*clone_, clone_content_);
  ASSERT_GE(kept.size(), 3u);
  for (const auto& [name, content] : kept) expect_snapshot(2, name, content);
}

TEST_P(FlattenOnceTest, AThickCloneHasSpaceOfItsOwn) {
  clone_->set_thick(true);
  flatten(*clone_);
  for (const auto& file : fs::directory_iterator(directory_of(2))) {
    if (!file.path().filename().string().starts_with("seg-")) continue;
    EXPECT_EQ(fs::hard_link_count(file.path()), 1u) << file.path();
  }
  EXPECT_EQ(run(pool_->count_segment_files(id_of(2)))->short_segments, 0u);
  remove_parent();
  expect_content(*clone_, clone_content_);
  fill(*clone_, clone_content_);
  fill(*clone_, clone_content_);
  expect_content(*clone_, clone_content_);
}

TEST_P(FlattenTest, TheParentsFilesAreNeverCutNorWrittenByTheClone) {
  adopting_.copies = GetParam();
  close(parent_);  // from here on it changes nothing itself
  std::map<std::string, std::string> before;
  for (const auto& file : fs::directory_iterator(directory_of(1))) {
    const std::string name = file.path().filename().string();
    if (!name.starts_with("seg-")) continue;
    std::ifstream in(file.path(), std::ios::binary);
    before[name] = std::string(std::istreambuf_iterator<char>(in), {});
  }
  flatten(*clone_);
  fill(*clone_, clone_content_);
  take(*clone_, "here");
  die(clone_);
  clone_ = open(2);
  fill(*clone_, clone_content_);
  close(clone_);
  std::size_t compared = 0;
  for (const auto& [name, bytes] : before) {
    std::ifstream in(directory_of(1) / name, std::ios::binary);
    const std::string now(std::istreambuf_iterator<char>(in), {});
    EXPECT_TRUE(now == bytes) << name;
    ++compared;
  }
  EXPECT_GE(compared, 4u);
  parent_ = open(1);
  expect_content(*parent_, parent_content_);
}

TEST_P(FlattenOnceTest, AVolumeWithoutAParentIsFlat) {
  EXPECT_EQ(flatten(*parent_), 0u);
  EXPECT_EQ(adopting_.adoptions, 0);
}

TEST_P(FlattenOnceTest, ManyGenerationsLeaveNoLongLineage) {
  adopting_.copies = GetParam();
  close(parent_);
  for (unsigned number = 2; number < 8; ++number) {
    fill(*clone_, clone_content_, number == 4 ? 100 : kBlocks);
    flatten(*clone_);
    ASSERT_TRUE(run(clone_->checkpoint()).ok());
    close(clone_);
    clone_ = open(number);
    take(*clone_, "next");
    clone(number, "next", number + 1);
    close(clone_);
    clone_ = open(number + 1);
    expect_content(*clone_, clone_content_);
  }
  const auto roots = run(pool_->list_roots(id_of(8))).value();
  const auto bytes = run(pool_->read_root(roots.back())).value();
  const auto root = format::decode_root(bytes, roots.back());
  ASSERT_TRUE(root.ok());
  EXPECT_LT(root->lineage.size(), 7u) << "those of whom nothing is left are forgotten";
  parent_ = open(1);
}

}  // namespace
}  // namespace holdfast
