// SPDX-License-Identifier: Apache-2.0
//
// A copy-on-write paged array: a tree of pages (format/page.h) in the log, of which the needed ones
// are in memory. It serves both the block map and the segment table.
//
// Invariants:
//  - A resident page's parent is resident (each child pins it), so a checkpoint never waits for I/O
//    to update a parent.
//  - A page whose image a checkpoint is writing (`flushing`) is not modified: writable() copies it
//    first, and the checkpoint goes on with the frozen image.
//  - An absent page is all zeros.
//
// Thread: the executor's.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/list.h"
#include "base/result.h"
#include "format/page.h"
#include "io/task.h"
#include "volume/page_memory.h"

namespace holdfast {

class PagedArray;
struct Page;

enum class PageOutcome : std::uint8_t { ready, absent, damaged };

// Somebody who waits for a page. on_page runs when the outcome is known; with `ready` the page
// stays resident during the call, beyond it only if pinned.
struct PageWaiter {
  using Callback = void (*)(PageWaiter& waiter, PageOutcome outcome, Page* page);
  Callback on_page = nullptr;
  void* context = nullptr;
  ListLink link;
};

struct Page {
  PagedArray* owner = nullptr;
  std::uint64_t index = 0;
  std::byte* image = nullptr;
  std::byte* frozen = nullptr;  // what the checkpoint writes, if the page was modified since
  Page* parent = nullptr;
  format::BlockLocation location;  // where its last written version is
  std::uint32_t pins = 0;
  std::uint8_t level = 0;
  bool ready = false;
  bool create = false;  // while loading: make it if it is absent
  bool dirty = false;
  bool assigned = false;  // has its place in the checkpoint being prepared
  bool flushing = false;  // a checkpoint is writing it
  ListLink lru_link;
  ListLink dirty_link;
  List<PageWaiter, &PageWaiter::link> waiters;
};

// Reads pages back from segments. Waits out path failures itself.
class PageStorage {
 public:
  virtual ~PageStorage() = default;
  virtual Task<Result<void>> read_block(format::BlockLocation location,
                                        std::span<std::byte> block) = 0;
  // Whose the segment is, and of which epoch.
  virtual SegmentId segment_id(SegmentNumber segment) const = 0;
  // What was read there is not what should be: whether there is another file to be read.
  virtual bool look_elsewhere(SegmentNumber) { return false; }
};

class PagedArray {
 public:
  struct Lookup {
    PageOutcome outcome = PageOutcome::absent;
    Page* page = nullptr;
  };

  PagedArray(format::ArrayKind kind, VolumeId volume, PageMemory& memory, PageStorage& storage);
  PagedArray(const PagedArray&) = delete;
  PagedArray& operator=(const PagedArray&) = delete;
  ~PagedArray();

  void set_top(format::BlockLocation top) { top_ = top; }
  // Gives up every page for another tree. False, and nothing is done, while any is in use or dirty.
  bool replace_top(format::BlockLocation top);
  format::BlockLocation top() const { return top_; }

  // The resident page, or null: then load() it.
  Page* find_leaf(std::uint64_t leaf);
  void load_leaf(std::uint64_t leaf, bool create, PageWaiter& waiter);
  // For a leaf that a load found absent: the first leaf behind it that may not be.
  std::uint64_t absent_until(std::uint64_t leaf);
  // For coroutines: `const Lookup found = co_await array.get(...)`. Costs no more than find_leaf()
  // where the page is resident. Pin the page before the next suspension.
  class Awaiter;
  Awaiter get(std::uint8_t level, std::uint64_t index, bool create);

  static void pin(Page& page);
  static void unpin(Page& page);
  // The image to modify: marks the page dirty, copies it first if a checkpoint is writing it.
  std::byte* writable(Page& page);

  // Checkpoints. Dirty pages of a level, in no order; take them level by level from 0 up.
  Page* first_dirty(std::uint8_t level) { return dirty_[level].front(); }
  // Checkpoint step 1, for all pages without suspension: gives the page its new place (hole: it is
  // empty and leaves its parent) and tells its parent or the top. Until begin_flush() it may still
  // be modified, as part of this checkpoint. Returns the place it had before.
  format::BlockLocation assign(Page& page, format::BlockLocation location);
  // Step 2, after all are assigned: from now on modifications copy the page first.
  void begin_flush(Page& page);
  // Step 3: the bytes to write, sealed for their place. They stay until end_flush().
  std::span<std::byte> sealed_image(Page& page);
  void end_flush(Page& page);

  void for_each_resident(const std::function<void(const Page&)>& visit) const {
    for (const auto& [unused, page] : pages_) visit(*page);
  }

  format::ArrayKind kind() const { return kind_; }
  std::uint64_t dirty_count() const { return dirty_count_; }
  std::uint64_t resident_count() const { return pages_.size(); }
  std::uint64_t inner_count() const { return inner_count_; }  // resident, above the leaves

 private:
  friend class PageMemory;
  static std::uint64_t key(std::uint8_t level, std::uint64_t index) {
    return (std::uint64_t{level} << 56) | index;
  }
  Page* find(std::uint8_t level, std::uint64_t index);
  Page& insert(std::uint8_t level, std::uint64_t index, bool create);
  Task<void> load(Page* page);
  void finish_load(Page& page, PageOutcome outcome);
  void evict(Page& page);  // clean, unpinned
  static void update_evictable(Page& page);
  format::PageIdentity identity_of(const Page& page, format::BlockLocation location) const;

  format::ArrayKind kind_;
  VolumeId volume_;
  PageMemory& memory_;
  PageStorage& storage_;
  format::BlockLocation top_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Page>> pages_;
  List<Page, &Page::dirty_link> dirty_[format::kPageLevels];
  std::uint64_t dirty_count_ = 0;
  std::uint64_t inner_count_ = 0;
  TaskScope loads_;
};

// Resumes a coroutine with the outcome of a load, which it starts if nobody has. A load that needs
// no I/O ends inside await_suspend, which then does not suspend: a walk over many such pages is a
// loop, not a recursion.
class PagedArray::Awaiter {
 public:
  Awaiter(PagedArray& array, std::uint8_t level, std::uint64_t index, bool create)
      : array_(array), level_(level), create_(create), index_(index) {
    waiter_.on_page = &Awaiter::on_page;
    waiter_.context = this;
  }
  Awaiter(const Awaiter&) = delete;
  Awaiter& operator=(const Awaiter&) = delete;
  ~Awaiter() { waiter_.link.unlink(); }
  bool await_ready();
  bool await_suspend(std::coroutine_handle<> waiting);
  Lookup await_resume() const noexcept { return result_; }

 private:
  static void on_page(PageWaiter& waiter, PageOutcome outcome, Page* page);

  PagedArray& array_;
  const std::uint8_t level_;
  const bool create_;
  bool starting_ = false;  // inside the call that starts the load
  bool answered_ = false;
  const std::uint64_t index_;
  PageWaiter waiter_;
  Lookup result_;
  std::coroutine_handle<> handle_;
};

inline PagedArray::Awaiter PagedArray::get(std::uint8_t level, std::uint64_t index, bool create) {
  return {*this, level, index, create};
}

}  // namespace holdfast
