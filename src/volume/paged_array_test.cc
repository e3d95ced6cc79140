// SPDX-License-Identifier: Apache-2.0
//
// The copy-on-write array on storage that is a map in memory.
#include "volume/paged_array.h"

#include <gtest/gtest.h>

#include <coroutine>
#include <cstring>
#include <map>
#include <optional>

#include "base/limits.h"
#include "base/units.h"
#include "io/aligned_buffer.h"

namespace holdfast {
namespace {

using format::BlockLocation;
using format::MapEntry;

class FakeStorage final : public PageStorage {
 public:
  Task<Result<void>> read_block(BlockLocation location, std::span<std::byte> block) override {
    ++reads;
    co_await Gate{*this};
    const auto found = blocks.find(location.raw);
    if (found == blocks.end()) co_return Error(ErrorCode::corrupt, "nothing was written there");
    std::copy(found->second.begin(), found->second.end(), block.begin());
    co_return Result<void>{};
  }
  SegmentId segment_id(SegmentNumber segment) const override { return {{}, Epoch{3}, segment}; }
  void open_gate() {
    is_open = true;
    while (!waiting.empty()) {
      const std::coroutine_handle<> next = waiting.back();
      waiting.pop_back();
      next.resume();
    }
  }

  std::map<std::uint64_t, std::vector<std::byte>> blocks;
  int reads = 0;
  bool is_open = true;
  std::vector<std::coroutine_handle<>> waiting;

 private:
  struct Gate {
    FakeStorage& storage;
    bool await_ready() const noexcept { return storage.is_open; }
    void await_suspend(std::coroutine_handle<> handle) { storage.waiting.push_back(handle); }
    void await_resume() noexcept {}
  };
};

class PagedArrayTest : public testing::Test {
 protected:
  PagedArrayTest() { start_anew(); }

  void start_anew() {
    const BlockLocation top = array_ ? array_->top() : BlockLocation::hole();
    array_.reset();
    array_ = std::make_unique<PagedArray>(format::ArrayKind::map, VolumeId{}, memory_, storage_);
    array_->set_top(top);
  }

  struct Answer {
    std::optional<PageOutcome> outcome;
    Page* page = nullptr;
    PageWaiter waiter;
  };
  void load(std::uint64_t leaf, bool create, Answer& answer) {
    answer.waiter.context = &answer;
    answer.waiter.on_page = [](PageWaiter& waiter, PageOutcome outcome, Page* page) {
      auto* self = static_cast<Answer*>(waiter.context);
      self->outcome = outcome;
      self->page = page;
    };
    array_->load_leaf(leaf, create, answer.waiter);
  }
  Page* leaf(std::uint64_t number, bool create) {
    if (Page* page = array_->find_leaf(number); page != nullptr) return page;
    Answer answer;
    load(number, create, answer);
    EXPECT_TRUE(answer.outcome.has_value());
    outcome_ = *answer.outcome;
    return answer.page;
  }
  static MapEntry entry_of(const Page& page, std::uint32_t slot) {
    return format::load_map_entry(format::map_entry_at(page.image, slot));
  }
  void put(std::uint64_t number, std::uint32_t slot, std::uint64_t segment) {
    Page* const page = leaf(number, true);
    ASSERT_NE(page, nullptr);
    format::store_map_entry(format::map_entry_at(array_->writable(*page), slot),
                            {BlockLocation::at(SegmentNumber{segment}, 1), 77});
  }

  std::vector<Page*> freeze() {
    std::vector<Page*> pages;
    for (std::uint8_t level = 0; level < format::kPageLevels; ++level) {
      while (Page* page = array_->first_dirty(level)) {
        const bool empty = format::page_is_empty({page->image, kBlockBytes});
        array_->assign(*page, empty ? BlockLocation::hole()
                                    : BlockLocation::at(SegmentNumber{9}, next_block_++));
        if (!empty) pages.push_back(page);
      }
    }
    for (Page* page : pages) array_->begin_flush(*page);
    return pages;
  }
  void write_out(const std::vector<Page*>& pages) {
    for (Page* page : pages) {
      const std::span<std::byte> image = array_->sealed_image(*page);
      storage_.blocks[page->location.raw].assign(image.begin(), image.end());
    }
    for (Page* page : pages) array_->end_flush(*page);
  }
  void checkpoint() { write_out(freeze()); }

  PageMemory memory_{limits::kPageCacheBytesMin};
  FakeStorage storage_;
  std::unique_ptr<PagedArray> array_;
  std::uint32_t next_block_ = 0;
  PageOutcome outcome_ = PageOutcome::ready;
};

TEST_F(PagedArrayTest, ALeafIsAbsentUntilSomebodyMakesIt) {
  EXPECT_EQ(leaf(5, false), nullptr);
  EXPECT_EQ(outcome_, PageOutcome::absent);
  EXPECT_EQ(array_->resident_count(), 0u);
  Page* const page = leaf(5, true);
  ASSERT_NE(page, nullptr);
  EXPECT_TRUE(format::page_is_empty({page->image, kBlockBytes}));
  EXPECT_EQ(storage_.reads, 0) << "what is absent is not on storage";
  EXPECT_EQ(leaf(6, false), nullptr);
}

TEST_F(PagedArrayTest, WhatACheckpointWroteIsReadBack) {
  const std::uint64_t numbers[] = {0, 503, 504, 504 * 504, std::uint64_t{504} * 504 * 504 - 1};
  for (const std::uint64_t number : numbers) put(number, 335, number + 1);
  checkpoint();
  EXPECT_EQ(array_->dirty_count(), 0u);
  start_anew();
  for (const std::uint64_t number : numbers) {
    Page* const page = leaf(number, false);
    ASSERT_NE(page, nullptr) << number;
    EXPECT_EQ(entry_of(*page, 335).location.segment().value, number + 1);
    EXPECT_EQ(entry_of(*page, 335).checksum, 77u);
    EXPECT_TRUE(entry_of(*page, 334).location.is_hole());
  }
  EXPECT_EQ(leaf(1, false), nullptr);
  EXPECT_EQ(outcome_, PageOutcome::absent);
}

TEST_F(PagedArrayTest, OldVersionsStayWhereTheyAre) {
  put(7, 0, 1);
  checkpoint();
  const BlockLocation old_top = array_->top();
  const auto old_blocks = storage_.blocks;
  put(7, 0, 2);
  checkpoint();
  EXPECT_NE(array_->top(), old_top);
  for (const auto& [place, bytes] : old_blocks) EXPECT_EQ(storage_.blocks[place], bytes);
  array_->set_top(old_top);
  start_anew();
  ASSERT_NE(leaf(7, false), nullptr);
  EXPECT_EQ(entry_of(*leaf(7, false), 0).location.segment().value, 1u);
}

TEST_F(PagedArrayTest, APageThatIsBeingWrittenIsCopiedBeforeItChanges) {
  put(7, 0, 1);
  const std::vector<Page*> pages = freeze();
  EXPECT_EQ(array_->dirty_count(), 0u);
  put(7, 0, 2);
  EXPECT_EQ(array_->dirty_count(), 1u);
  EXPECT_EQ(entry_of(*leaf(7, false), 0).location.segment().value, 2u);
  write_out(pages);
  EXPECT_EQ(entry_of(*leaf(7, false), 0).location.segment().value, 2u) << "the later one is kept";
  EXPECT_EQ(array_->dirty_count(), 1u) << "for the next checkpoint";
  start_anew();
  EXPECT_EQ(entry_of(*leaf(7, false), 0).location.segment().value, 1u) << "as frozen";
}

TEST_F(PagedArrayTest, BetweenAssigningAndFlushingAChangeBelongsToTheCheckpoint) {
  put(7, 0, 1);
  Page* const page = array_->first_dirty(0);
  array_->assign(*page, BlockLocation::at(SegmentNumber{9}, 100));
  format::store_map_entry(format::map_entry_at(array_->writable(*page), 0),
                          {BlockLocation::at(SegmentNumber{55}, 1), 77});
  std::vector<Page*> pages = {page};
  for (std::uint8_t level = 1; level < format::kPageLevels; ++level) {
    while (Page* inner = array_->first_dirty(level)) {
      array_->assign(*inner, BlockLocation::at(SegmentNumber{9}, next_block_++));
      pages.push_back(inner);
    }
  }
  for (Page* each : pages) array_->begin_flush(*each);
  write_out(pages);
  start_anew();
  EXPECT_EQ(entry_of(*leaf(7, false), 0).location.segment().value, 55u);
}

TEST_F(PagedArrayTest, AnEmptiedPageLeavesTheTree) {
  put(7, 0, 1);
  checkpoint();
  format::store_map_entry(format::map_entry_at(array_->writable(*leaf(7, false)), 0), {});
  checkpoint();
  EXPECT_TRUE(array_->top().is_hole());
  start_anew();
  EXPECT_EQ(leaf(7, false), nullptr);
  EXPECT_EQ(outcome_, PageOutcome::absent);
}

TEST_F(PagedArrayTest, DamagedStaleAndMisdirectedPagesAreDamaged) {
  put(7, 0, 1);
  put(8, 0, 1);
  checkpoint();
  const BlockLocation seven = leaf(7, false)->location;
  const BlockLocation eight = leaf(8, false)->location;
  const std::vector<std::byte> good = storage_.blocks[seven.raw];
  const auto outcome_of_seven = [&] {
    start_anew();
    return leaf(7, false) == nullptr ? outcome_ : PageOutcome::ready;
  };
  EXPECT_EQ(outcome_of_seven(), PageOutcome::ready);
  storage_.blocks[seven.raw][2000] ^= std::byte{1};
  EXPECT_EQ(outcome_of_seven(), PageOutcome::damaged);
  storage_.blocks[seven.raw] = storage_.blocks[eight.raw];
  EXPECT_EQ(outcome_of_seven(), PageOutcome::damaged) << "an intact page of another place";
  storage_.blocks.erase(seven.raw);
  EXPECT_EQ(outcome_of_seven(), PageOutcome::damaged) << "it cannot be read";
  EXPECT_NE(leaf(8, false), nullptr) << "its neighbour is not concerned";
  storage_.blocks[seven.raw] = good;
  EXPECT_EQ(outcome_of_seven(), PageOutcome::ready) << "a failure is not remembered";
}

TEST_F(PagedArrayTest, BelowADamagedInnerPageEverythingIsDamaged) {
  put(7, 0, 1);
  checkpoint();
  storage_.blocks[array_->top().raw][100] ^= std::byte{1};
  start_anew();
  EXPECT_EQ(leaf(7, false), nullptr);
  EXPECT_EQ(outcome_, PageOutcome::damaged);
  EXPECT_EQ(leaf(100'000'000, true), nullptr);
  EXPECT_EQ(outcome_, PageOutcome::damaged) << "nothing may be made there either";
  EXPECT_EQ(memory_.bytes_in_use(), 0u);
}

TEST_F(PagedArrayTest, ManyWhoWaitForAPageCauseOneRead) {
  put(7, 0, 1);
  checkpoint();
  start_anew();
  storage_.reads = 0;
  storage_.is_open = false;
  Answer answers[3];
  for (Answer& answer : answers) {
    load(7, false, answer);
    EXPECT_FALSE(answer.outcome.has_value());
  }
  EXPECT_EQ(array_->find_leaf(7), nullptr);
  storage_.open_gate();
  for (const Answer& answer : answers) EXPECT_EQ(answer.outcome, PageOutcome::ready);
  EXPECT_EQ(storage_.reads, static_cast<int>(format::kPageLevels));
}

TEST_F(PagedArrayTest, WhoDiesWhileWaitingIsNotCalled) {
  put(7, 0, 1);
  checkpoint();
  start_anew();
  storage_.is_open = false;
  Answer answer;
  load(7, false, answer);
  storage_.waiting.clear();
  array_.reset();  // as a crash does; the read's frame goes with it
  EXPECT_FALSE(answer.outcome.has_value());
  answer.waiter.link.unlink();
}

TEST_F(PagedArrayTest, AbsentUntilNeverPassesOverALeafThatIsThere) {
  EXPECT_EQ(leaf(3, false), nullptr);
  EXPECT_GT(array_->absent_until(3), std::uint64_t{1} << 20) << "the whole tree is absent";
  put(1000, 0, 1);
  put(300'000, 0, 1);
  for (const bool from_storage : {false, true}) {
    std::uint64_t number = 0;
    int steps = 0;
    while (number < 1000) {
      ASSERT_EQ(leaf(number, false), nullptr) << number;
      const std::uint64_t next = array_->absent_until(number);
      ASSERT_GT(next, number);
      ASSERT_LE(next, 1000u);
      number = next;
      ASSERT_LT(++steps, 10) << "it steps over whole subtrees";
    }
    if (from_storage) break;
    checkpoint();
    start_anew();
  }
}

TEST_F(PagedArrayTest, CleanPagesMakeRoomForOthers) {
  for (std::uint64_t number = 0; number < 2000; ++number) {
    put(number, 1, number + 1);
    if (memory_.wants_checkpoint()) checkpoint();
    ASSERT_LE(memory_.bytes_in_use(), memory_.bytes_max());
  }
  checkpoint();
  for (std::uint64_t number = 0; number < 2000; ++number) {
    Page* const page = leaf(number, false);
    ASSERT_NE(page, nullptr);
    ASSERT_EQ(entry_of(*page, 1).location.segment().value, number + 1);
  }
  EXPECT_LE(memory_.bytes_in_use(), memory_.bytes_max());
}

TEST_F(PagedArrayTest, PinnedPagesStay) {
  put(0, 1, 42);
  checkpoint();
  Page* const pinned = leaf(0, false);
  PagedArray::pin(*pinned);
  for (std::uint64_t number = 1; number < 1000; ++number) {
    put(number, 1, 1);
    if (memory_.wants_checkpoint()) checkpoint();
  }
  EXPECT_EQ(array_->find_leaf(0), pinned);
  EXPECT_EQ(entry_of(*pinned, 1).location.segment().value, 42u);
  PagedArray::unpin(*pinned);
}

}  // namespace
}  // namespace holdfast
