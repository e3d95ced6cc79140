// SPDX-License-Identifier: Apache-2.0
#include "volume/stored.h"

#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/limits.h"
#include "format/location.h"
#include "format/page.h"
#include "io/aligned_buffer.h"
#include "io/file_io.h"
#include "volume/volume.h"

namespace holdfast {
namespace {

struct PageToRead {
  std::uint8_t level = 0;
  std::uint64_t index = 0;
  format::BlockLocation location;
};

// Reads pages of one tree without the volume's machinery: an error is an answer here, and nothing
// is waited out.
class PageReader {
 public:
  PageReader(Pool& pool, const format::Root& root) : pool_(pool), root_(root) {}

  Task<Result<void>> read(PageToRead page) {
    const SegmentNumber segment = page.location.segment();
    CO_TRY_ASSIGN(const std::optional<SegmentId> id, co_await find(segment));
    if (!id.has_value()) co_return damaged(segment);
    if (file_ == nullptr || opened_ != *id) {
      CO_TRY_ASSIGN(file_, co_await pool_.open_segment(*id));
      opened_ = *id;
    }
    const std::uint64_t offset_bytes = page.location.block_index() * kBlockBytes;
    const int error = co_await FileIo(*file_, FileOperation::read, offset_bytes, buffer_.span());
    const format::PageIdentity identity{
        format::owner_of(root_, segment), id->epoch,  segment,   page.location.block_index(),
        format::ArrayKind::segment_table, page.level, page.index};
    if (error != 0) {
      co_return Error(ErrorCode::path_failure, "segment " + std::to_string(segment.value) +
                                                   " cannot be read: " + std::strerror(error));
    }
    const bool is_intact = format::check_page(buffer_.span(), identity) &&
                           (page.level == 0 ? format::segment_entries_are_valid(buffer_.span())
                                            : format::children_are_valid(buffer_.span()));
    if (!is_intact) co_return damaged(segment);
    co_return Result<void>{};
  }
  std::byte* page() const { return buffer_.data(); }
  // Whether its file is in the volume's own directory: written by it, or adopted.
  Task<Result<bool>> is_own(SegmentNumber segment) {
    CO_TRY(co_await list(root_.id.volume));
    co_return epochs_[root_.id.volume].contains(segment);
  }

 private:
  // In its owner's directory, or in that of a later volume of the lineage, which adopted it.
  Task<Result<std::optional<SegmentId>>> find(SegmentNumber segment) {
    std::vector<VolumeId> places = {root_.id.volume};
    for (auto at = root_.lineage.rbegin(); at != root_.lineage.rend() && segment < at->end_segment;
         ++at) {
      places.push_back(at->volume);
    }
    for (const VolumeId& place : places) {
      CO_TRY(co_await list(place));
      const auto epoch = epochs_[place].find(segment);
      if (epoch != epochs_[place].end()) {
        co_return std::optional(SegmentId{place, epoch->second, segment});
      }
    }
    co_return std::optional<SegmentId>();
  }
  Task<Result<void>> list(VolumeId volume) {
    if (epochs_.contains(volume)) co_return Result<void>{};
    auto listed = co_await pool_.list_segments(volume);
    // An ancestor that a flattened volume does not need any more may be gone.
    if (!listed.ok() && listed.error().code() != ErrorCode::not_found)
      co_return listed.take_error();
    std::map<SegmentNumber, Epoch>& epochs = epochs_[volume];
    for (std::size_t i = 0; listed.ok() && i < listed->size(); ++i) {
      epochs[(*listed)[i].number] = (*listed)[i].epoch;
    }
    co_return Result<void>{};
  }
  static Error damaged(SegmentNumber segment) {
    return Error(ErrorCode::corrupt, "a page of the segment table in segment " +
                                         std::to_string(segment.value) + " is missing or damaged");
  }

  Pool& pool_;
  const format::Root& root_;
  std::map<VolumeId, std::map<SegmentNumber, Epoch>> epochs_;
  SegmentId opened_;
  std::unique_ptr<File> file_;
  const AlignedBuffer buffer_{kBlockBytes};
};

}  // namespace

Task<Result<StoredUsage>> Volume::stored_usage(Pool& pool, VolumeId id) {
  std::vector<RootId> all;
  CO_TRY_ASSIGN(const format::Root root, co_await newest_root(pool, id, all));
  StoredUsage usage;
  std::vector<PageToRead> pages;
  const bool is_empty = root.segment_table_top.is_hole();
  if (!is_empty) pages.push_back({format::kPageLevels - 1, 0, root.segment_table_top});
  PageReader reader(pool, root);
  for (std::size_t count = 0; !pages.empty(); ++count) {
    if (count == limits::kStoredTablePagesMax) {
      co_return Error(ErrorCode::unsupported, "its segment table is too large to look through");
    }
    const PageToRead page = pages.back();
    pages.pop_back();
    CO_TRY(co_await reader.read(page));
    for (std::uint32_t slot = 0; page.level != 0 && slot < format::kChildrenPerPage; ++slot) {
      const format::BlockLocation child{
          load_little<std::uint64_t>(format::child_at(reader.page(), slot))};
      if (child.is_hole()) continue;
      const auto level = static_cast<std::uint8_t>(page.level - 1);
      pages.push_back({level, page.index * format::kChildrenPerPage + slot, child});
    }
    for (std::uint32_t slot = 0; page.level == 0 && slot < format::kSegmentEntriesPerPage; ++slot) {
      const format::SegmentEntry entry =
          format::load_segment_entry(format::segment_entry_at(reader.page(), slot));
      const std::uint64_t live_bytes = std::uint64_t{entry.live_blocks} * kBlockBytes;
      usage.live_bytes += live_bytes;
      const SegmentNumber number{page.index * format::kSegmentEntriesPerPage + slot};
      if (live_bytes == 0) continue;
      CO_TRY_ASSIGN(const bool is_own, co_await reader.is_own(number));
      if (is_own) usage.own_live_bytes += live_bytes;
    }
  }
  co_return usage;
}

}  // namespace holdfast
