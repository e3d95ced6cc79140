// SPDX-License-Identifier: Apache-2.0
//
// PageMemory: the bounded memory that map pages live in, shared by the volumes of one executor.
// Clean, unpinned pages are kept in order of use and given up for new ones. The bound is soft: when
// nothing can be given up (dirty pages, pages being written, pages pinned by recovery) it is
// passed, and `is_crowded()` tells volumes to stop admitting writes until a checkpoint has cleaned
// up.
//
// Thread: the executor's. Lifetime: outlives every PagedArray that uses it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/list.h"
#include "io/aligned_buffer.h"

namespace holdfast {

struct Page;

class PageMemory {
 public:
  explicit PageMemory(std::uint64_t bytes_max);
  PageMemory(const PageMemory&) = delete;
  PageMemory& operator=(const PageMemory&) = delete;
  ~PageMemory();

  // One block, content undefined.
  std::byte* allocate();
  void release(std::byte* frame);

  void mark_evictable(Page& page);  // most recently used
  void unmark_evictable(Page& page);
  void touch(Page& page);

  // Frames that cannot be given up now because they are, or hold, something not yet on disk.
  void add_busy(std::int64_t frames);
  bool is_crowded() const { return busy_frames_ >= frames_max_; }
  bool wants_checkpoint() const { return busy_frames_ >= frames_max_ / 2; }
  std::uint64_t bytes_in_use() const;
  std::uint64_t bytes_max() const;
  std::uint64_t busy_frames() const { return busy_frames_; }

 private:
  struct PageList;  // hides Page's definition

  std::uint64_t frames_max_;
  std::uint64_t frames_in_use_ = 0;
  std::uint64_t busy_frames_ = 0;
  std::vector<AlignedBuffer> chunks_;
  std::vector<std::byte*> free_frames_;
  PageList* evictable_;
};

}  // namespace holdfast
