// SPDX-License-Identifier: Apache-2.0
#include "volume/paged_array.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/log.h"
#include "volume/canary.h"

namespace holdfast {

using format::BlockLocation;
using format::kChildrenPerPage;
using format::kPageLevels;

bool PagedArray::Awaiter::await_ready() {
  Page* const page = array_.find(level_, index_);
  if (page == nullptr || !page->ready) return false;
  array_.memory_.touch(*page);
  result_ = {PageOutcome::ready, page};
  return true;
}

bool PagedArray::Awaiter::await_suspend(std::coroutine_handle<> waiting) {
  handle_ = waiting;
  Page* page = array_.find(level_, index_);
  starting_ = page == nullptr;
  if (starting_) page = &array_.insert(level_, index_, create_);
  page->create |= create_;
  page->waiters.push_back(waiter_);
  if (!starting_) return true;
  array_.loads_.spawn(array_.load(page));
  starting_ = false;
  return !answered_;
}

void PagedArray::Awaiter::on_page(PageWaiter& waiter, PageOutcome outcome, Page* page) {
  auto* self = static_cast<Awaiter*>(waiter.context);
  self->result_ = {outcome, page};
  self->answered_ = true;
  if (!self->starting_) self->handle_.resume();
}

PagedArray::PagedArray(format::ArrayKind kind, VolumeId volume, PageMemory& memory,
                       PageStorage& storage)
    : kind_(kind), volume_(volume), memory_(memory), storage_(storage) {}

PagedArray::~PagedArray() {
  for (auto& [unused, page] : pages_) {
    page->lru_link.unlink();
    page->dirty_link.unlink();
    if (page->dirty || page->flushing || page->assigned) memory_.add_busy(-1);
    if (page->frozen != nullptr) {
      memory_.add_busy(-1);
      memory_.release(page->frozen);
    }
    if (page->image != nullptr) memory_.release(page->image);
  }
}

Page* PagedArray::find(std::uint8_t level, std::uint64_t index) {
  const auto found = pages_.find(key(level, index));
  return found == pages_.end() ? nullptr : found->second.get();
}

Page* PagedArray::find_leaf(std::uint64_t leaf) {
  Page* page = find(0, leaf);
  if (page == nullptr || !page->ready) return nullptr;
  memory_.touch(*page);
  return page;
}

Page& PagedArray::insert(std::uint8_t level, std::uint64_t index, bool create) {
  auto owned = std::make_unique<Page>();
  Page& page = *owned;
  page.owner = this;
  page.level = level;
  page.index = index;
  page.create = create;
  pages_.emplace(key(level, index), std::move(owned));
  if (level > 0) ++inner_count_;
  return page;
}

void PagedArray::load_leaf(std::uint64_t leaf, bool create, PageWaiter& waiter) {
  Page* page = find(0, leaf);
  if (page != nullptr) {
    HOLDFAST_ASSERT(!page->ready);
    page->create |= create;
    page->waiters.push_back(waiter);
    return;
  }
  page = &insert(0, leaf, create);
  page->waiters.push_back(waiter);  // before the load, which may end at once
  loads_.spawn(load(page));
}

std::uint64_t PagedArray::absent_until(std::uint64_t leaf) {
  std::uint64_t child_leaves = 1;  // leaves under one child of the level looked at
  for (std::uint8_t level = 1; level < kPageLevels; ++level) {
    const std::uint64_t child = leaf / child_leaves;
    Page* const page = find(level, child / kChildrenPerPage);
    if (page != nullptr && page->ready) {
      const std::uint64_t first_slot = child % kChildrenPerPage;
      std::uint64_t slot = first_slot;
      while (slot < kChildrenPerPage &&
             load_little<std::uint64_t>(
                 format::child_at(page->image, static_cast<std::uint32_t>(slot))) == 0 &&
             find(static_cast<std::uint8_t>(level - 1), child - first_slot + slot) == nullptr) {
        ++slot;
      }
      return std::max((child - first_slot + slot) * child_leaves, leaf + 1);
    }
    child_leaves *= kChildrenPerPage;
  }
  return child_leaves;  // the whole tree is absent
}

Task<void> PagedArray::load(Page* page) {
  BlockLocation where = top_;
  while (page->level + 1u < kPageLevels) {
    const bool create = page->create;
    const auto level = static_cast<std::uint8_t>(page->level + 1);
    const Lookup up = co_await get(level, page->index / kChildrenPerPage, create);
    if (up.outcome == PageOutcome::damaged) {
      finish_load(*page, PageOutcome::damaged);
      co_return;
    }
    if (up.outcome == PageOutcome::ready) {
      page->parent = up.page;
      pin(*up.page);
      const auto slot = static_cast<std::uint32_t>(page->index % kChildrenPerPage);
      where.raw = load_little<std::uint64_t>(format::child_at(up.page->image, slot));
      break;
    }
    if (page->create == create) {  // else somebody asked to make it meanwhile
      finish_load(*page, PageOutcome::absent);
      co_return;
    }
  }
  if (where.is_hole()) {
    if (!page->create) {
      finish_load(*page, PageOutcome::absent);
      co_return;
    }
    page->image = memory_.allocate();
    std::memset(page->image, 0, kBlockBytes);
    finish_load(*page, PageOutcome::ready);
    co_return;
  }
  page->image = memory_.allocate();
  const std::span<std::byte> image(page->image, kBlockBytes);
  Result<void> read = co_await storage_.read_block(where, image);
  const format::PageIdentity identity = identity_of(*page, where);
  bool intact = read.ok() && format::check_page(image, identity);
  if (!intact && storage_.look_elsewhere(where.segment())) {
    read = co_await storage_.read_block(where, image);
    intact = read.ok() && format::check_page(image, identity);
  }
  if (!read.ok() && read.error().code() == ErrorCode::busy) {  // given up: nobody wants to know
    finish_load(*page, PageOutcome::damaged);
    co_return;
  }
  if (!intact && !canary::is_on(canary::kIgnoreChecksums)) {
    log_error("volume " + volume_.to_string() + ": a " +
              (kind_ == format::ArrayKind::map ? "map" : "segment table") + " page (level " +
              std::to_string(page->level) + ", index " + std::to_string(page->index) +
              ") in segment " + std::to_string(where.segment().value) + " block " +
              std::to_string(where.block_index()) +
              " is damaged: " + (read.ok() ? "its check failed" : read.error().message()));
    finish_load(*page, PageOutcome::damaged);
    co_return;
  }
  page->location = where;
  finish_load(*page, PageOutcome::ready);
}

void PagedArray::finish_load(Page& page, PageOutcome outcome) {
  page.ready = outcome == PageOutcome::ready;
  ++page.pins;  // keeps it for those who wait
  List<PageWaiter, &PageWaiter::link> waiters;
  while (PageWaiter* waiter = page.waiters.pop_front()) waiters.push_back(*waiter);
  Page* const result = page.ready ? &page : nullptr;
  if (!page.ready) {
    // Out of the table first: a waiter may ask again.
    const auto node = pages_.extract(key(page.level, page.index));
    if (page.level > 0) --inner_count_;
    if (page.image != nullptr) memory_.release(page.image);
    if (page.parent != nullptr) unpin(*page.parent);
    while (PageWaiter* waiter = waiters.pop_front()) waiter->on_page(*waiter, outcome, nullptr);
    return;
  }
  while (PageWaiter* waiter = waiters.pop_front()) waiter->on_page(*waiter, outcome, result);
  unpin(page);
}

void PagedArray::update_evictable(Page& page) {
  const bool evictable =
      page.ready && page.pins == 0 && !page.dirty && !page.flushing && !page.assigned;
  if (evictable == page.lru_link.is_linked()) return;
  if (evictable) {
    page.owner->memory_.mark_evictable(page);
  } else {
    page.owner->memory_.unmark_evictable(page);
  }
}

void PagedArray::pin(Page& page) {
  ++page.pins;
  update_evictable(page);
}

void PagedArray::unpin(Page& page) {
  HOLDFAST_ASSERT(page.pins > 0);
  --page.pins;
  update_evictable(page);
}

void PagedArray::evict(Page& page) {
  page.lru_link.unlink();
  memory_.release(page.image);
  Page* const parent = page.parent;
  if (page.level > 0) --inner_count_;
  pages_.erase(key(page.level, page.index));
  if (parent != nullptr) unpin(*parent);
}

bool PagedArray::replace_top(BlockLocation top) {
  std::vector<Page*> by_level[kPageLevels];
  std::uint64_t children = 0;
  for (const auto& [unused, page] : pages_) {
    if (!page->ready || page->dirty || page->flushing || page->assigned) return false;
    by_level[page->level].push_back(page.get());
    children += page->parent != nullptr ? 1 : 0;
  }
  // Nobody holds a page but its own children.
  std::uint64_t pins = 0;
  for (const auto& [unused, page] : pages_) pins += page->pins;
  if (pins != children) return false;
  for (const std::vector<Page*>& pages : by_level) {  // children before parents
    for (Page* page : pages) evict(*page);
  }
  top_ = top;
  return true;
}

std::byte* PagedArray::writable(Page& page) {
  HOLDFAST_ASSERT(page.ready);
  if (page.assigned) return page.image;
  if (page.flushing && page.frozen == nullptr) {
    page.frozen = page.image;
    page.image = memory_.allocate();
    std::memcpy(page.image, page.frozen, kBlockBytes);
    memory_.add_busy(1);
  }
  if (!page.dirty) {
    page.dirty = true;
    dirty_[page.level].push_back(page);
    ++dirty_count_;
    if (!page.flushing) memory_.add_busy(1);
    update_evictable(page);
  }
  return page.image;
}

BlockLocation PagedArray::assign(Page& page, BlockLocation location) {
  HOLDFAST_ASSERT(page.dirty && !page.flushing && !page.assigned);
  const BlockLocation before = page.location;
  page.location = location;
  page.dirty = false;
  page.dirty_link.unlink();
  --dirty_count_;
  if (location.is_hole()) {
    memory_.add_busy(-1);
    update_evictable(page);
  } else {
    page.assigned = true;
  }
  if (page.parent == nullptr) {
    top_ = location;
  } else {
    std::byte* parent = writable(*page.parent);
    const auto slot = static_cast<std::uint32_t>(page.index % kChildrenPerPage);
    store_little(format::child_at(parent, slot), location.raw);
  }
  return before;
}

void PagedArray::begin_flush(Page& page) {
  HOLDFAST_ASSERT(page.assigned);
  page.assigned = false;
  page.flushing = true;
}

std::span<std::byte> PagedArray::sealed_image(Page& page) {
  HOLDFAST_ASSERT(page.flushing);
  const std::span<std::byte> image(page.frozen != nullptr ? page.frozen : page.image, kBlockBytes);
  format::seal_page(image, identity_of(page, page.location));
  return image;
}

void PagedArray::end_flush(Page& page) {
  HOLDFAST_ASSERT(page.flushing);
  page.flushing = false;
  if (page.frozen != nullptr) {
    memory_.release(page.frozen);
    page.frozen = nullptr;
    memory_.add_busy(-1);
  }
  if (!page.dirty) memory_.add_busy(-1);
  update_evictable(page);
}

format::PageIdentity PagedArray::identity_of(const Page& page, BlockLocation location) const {
  const SegmentId segment = storage_.segment_id(location.segment());
  return {segment.volume, segment.epoch, segment.number, location.block_index(),
          kind_,          page.level,    page.index};
}

}  // namespace holdfast
