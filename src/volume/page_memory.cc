// SPDX-License-Identifier: Apache-2.0
#include "volume/page_memory.h"

#include <algorithm>

#include "base/assert.h"
#include "base/limits.h"
#include "volume/paged_array.h"

namespace holdfast {
namespace {

constexpr std::uint64_t kFramesPerChunk = 64;

}  // namespace

struct PageMemory::PageList {
  List<Page, &Page::lru_link> pages;  // least recently used first
};

PageMemory::PageMemory(std::uint64_t bytes_max)
    : frames_max_(std::max(bytes_max, limits::kPageCacheBytesMin) / kBlockBytes),
      evictable_(std::make_unique<PageList>().release()) {}

PageMemory::~PageMemory() {
  HOLDFAST_ASSERT(frames_in_use_ == 0);
  const std::unique_ptr<PageList> owned(evictable_);
}

std::byte* PageMemory::allocate() {
  while (frames_in_use_ >= frames_max_) {
    Page* victim = evictable_->pages.front();
    if (victim == nullptr) break;
    victim->owner->evict(*victim);
  }
  if (free_frames_.empty()) {
    chunks_.emplace_back(kFramesPerChunk * kBlockBytes);
    for (std::uint64_t i = kFramesPerChunk; i-- > 0;) {
      free_frames_.push_back(chunks_.back().data() + i * kBlockBytes);
    }
  }
  std::byte* frame = free_frames_.back();
  free_frames_.pop_back();
  ++frames_in_use_;
  return frame;
}

void PageMemory::release(std::byte* frame) {
  HOLDFAST_ASSERT(frames_in_use_ > 0);
  --frames_in_use_;
  free_frames_.push_back(frame);
  if (frames_in_use_ == 0) {
    free_frames_.clear();
    chunks_.clear();
  }
}

void PageMemory::mark_evictable(Page& page) {
  evictable_->pages.push_back(page);
}
void PageMemory::unmark_evictable(Page& page) {
  page.lru_link.unlink();
}
void PageMemory::touch(Page& page) {
  if (!page.lru_link.is_linked()) return;
  page.lru_link.unlink();
  evictable_->pages.push_back(page);
}

void PageMemory::add_busy(std::int64_t frames) {
  busy_frames_ = static_cast<std::uint64_t>(static_cast<std::int64_t>(busy_frames_) + frames);
}

std::uint64_t PageMemory::bytes_in_use() const {
  return frames_in_use_ * kBlockBytes;
}
std::uint64_t PageMemory::bytes_max() const {
  return frames_max_ * kBlockBytes;
}

}  // namespace holdfast
