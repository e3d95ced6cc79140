// SPDX-License-Identifier: Apache-2.0
//
// Spares of thick volumes: docs/decisions/0015-thick-volumes.md.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "io/file_io.h"
#include "pool/dir_layout.h"
#include "pool/dir_pool.h"

namespace holdfast {

using namespace dir_layout;

std::string DirPool::spare_path(const SpareId& spare) const {
  return join(volume_path(spare.volume), spare_name(kSparePrefix, spare.epoch.value, spare.number));
}

// Under its own name only once it has its space: a file that is cut off by a crash in between would
// be taken for a guarantee.
Task<Result<void>> DirPool::create_spare(VolumeId volume, SegmentPurpose purpose) {
  FileSystem& files = context_.file_system;
  CO_TRY(co_await check_reserve(purpose, info_.segment_bytes));
  const std::uint64_t number = context_.executor.random();
  const std::string directory = volume_path(volume);
  const std::string temporary = join(directory, spare_name(kNewSparePrefix, 0, number));
  const Claim claim(publishing_, temporary);
  auto made = co_await fill_spare(temporary);
  // As for segments: others may have taken the same room meanwhile.
  if (made.ok()) made = co_await check_reserve(purpose, 0);
  if (made.ok()) {
    std::string path = spare_path(SpareId{volume, Epoch{}, number});
    made = co_await files.rename(temporary, std::move(path));
  }
  if (!made.ok()) {
    const auto removed = co_await files.remove_file(temporary);
    if (!removed.ok() && removed.error().code() != ErrorCode::not_found) {
      log_warning(removed.error().message());  // count_segment_files() tries again
    }
    co_return made;
  }
  co_return co_await files.sync_directory(directory);
}

Task<Result<void>> DirPool::fill_spare(std::string path) {
  FileOpenOptions options;
  options.writable = true;
  options.create_new = true;
  options.preallocate_bytes = info_.segment_bytes;
  CO_TRY_ASSIGN(const std::unique_ptr<File> file,
                co_await context_.file_system.open(path, options));
  const int error = co_await FileIo(*file, FileOperation::sync_data, 0, std::span<std::byte>{});
  if (error != 0) {
    co_return Error(
        error == ENOSPC || error == EDQUOT ? ErrorCode::no_space : ErrorCode::path_failure,
        "cannot make " + path + " durable: " + std::strerror(error));
  }
  co_return Result<void>{};
}

Task<Result<void>> DirPool::remove_spare(SpareId spare) {
  std::string path = spare_path(spare);
  co_return co_await context_.file_system.remove_file(std::move(path));
}

Task<Result<std::vector<SpareId>>> DirPool::list_spares(VolumeId volume) {
  CO_TRY_ASSIGN(const std::vector<std::string> names, co_await list_names(volume));
  co_return parse_names<SpareId>(names, [&](const std::string& name) {
    const auto numbers = parse_numbered_name(kSparePrefix, name);
    if (!numbers.has_value()) return std::optional<SpareId>();
    return std::optional(SpareId{volume, Epoch{numbers->epoch}, numbers->number});
  });
}

// Opened before it is renamed: what fails changes nothing. The name is durable before the caller
// writes, so that a power loss cannot leave new records in a file with an old name.
Task<Result<std::unique_ptr<File>>> DirPool::create_segment_from(SpareId spare, SegmentId segment) {
  FileSystem& files = context_.file_system;
  const std::string from = spare_path(spare);
  const std::string to = segment_path(segment);
  FileOpenOptions options;
  options.writable = true;
  CO_TRY_ASSIGN(std::unique_ptr<File> file, co_await files.open(from, options));
  auto named = co_await files.rename(from, to);
  if (named.ok()) {
    std::string directory = volume_path(segment.volume);
    named = co_await files.sync_directory(std::move(directory));
  }
  if (named.ok()) co_return file;
  // Storage that does not answer may have done it all the same: a segment that nobody knows would
  // be missing among the spares until the volume is opened again.
  file.reset();
  const auto back = co_await files.rename(to, from);
  if (!back.ok() && back.error().code() != ErrorCode::not_found) {
    log_warning(back.error().message());
  }
  co_return named.take_error();
}

// The name need not be durable: after a power loss the segment is dead, or without an entry in the
// table, as before, and the next root makes the directory durable.
Task<Result<SpareId>> DirPool::recycle_segment(SegmentId segment) {
  FileSystem& files = context_.file_system;
  const std::string from = segment_path(segment);
  const SpareId spare{segment.volume, segment.epoch, segment.number.value};
  // Nobody gives it another name meanwhile: what is being adopted is kept by a snapshot.
  CO_TRY_ASSIGN(const FileStatus status, co_await files.status(from));
  if (status.link_count > 1) {
    co_return Error(ErrorCode::unsupported, from + " is a segment of another volume, too");
  }
  CO_TRY(co_await files.allocate(from, info_.segment_bytes));
  std::string to = spare_path(spare);
  CO_TRY(co_await files.rename(from, std::move(to)));
  co_return spare;
}

Task<Result<SegmentFiles>> DirPool::count_segment_files(VolumeId volume) {
  FileSystem& files = context_.file_system;
  const std::string directory = volume_path(volume);
  CO_TRY(co_await files.sync_directory(directory));
  CO_TRY_ASSIGN(const std::vector<std::string> names, co_await files.list(directory));
  SegmentFiles count;
  for (const std::string& name : names) {
    const std::string path = join(directory, name);
    if (parse_numbered_name(kSparePrefix, name).has_value()) {
      ++count.spares;
    } else if (parse_numbered_name(kNewSparePrefix, name).has_value()) {
      if (publishing_.contains(path)) continue;
      CO_TRY(co_await files.remove_file(path));
    } else if (parse_numbered_name(kSegmentPrefix, name).has_value()) {
      const auto status = co_await files.status(path);
      if (!status.ok()) {
        // Recycled meanwhile, most likely: where it went may have been listed already, or not.
        if (status.error().code() != ErrorCode::not_found) co_return status.error();
        continue;
      }
      // The space of a file with two names does not come back when one of them goes.
      const bool is_full =
          status->allocated_bytes >= info_.segment_bytes && status->link_count == 1;
      ++(is_full ? count.full_segments : count.short_segments);
    }
  }
  co_return count;
}

}  // namespace holdfast
