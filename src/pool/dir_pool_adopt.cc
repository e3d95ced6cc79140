// SPDX-License-Identifier: Apache-2.0
//
// Segments of clones' ancestors: docs/decisions/0018-flatten.md.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "io/aligned_buffer.h"
#include "io/file_io.h"
#include "pool/dir_layout.h"
#include "pool/dir_pool.h"

namespace holdfast {

using namespace dir_layout;

namespace {

constexpr std::uint64_t kCopyBytes = kMiB;  // at a time

Error copy_error(const std::string& path, int error) {
  const ErrorCode code =
      error == ENOSPC || error == EDQUOT ? ErrorCode::no_space : ErrorCode::path_failure;
  return Error(code, "cannot copy " + path + ": " + std::strerror(error));
}

}  // namespace

Task<Result<void>> DirPool::adopt_segment(SegmentId from, VolumeId to, AdoptBy by, Epoch owner) {
  FileSystem& files = context_.file_system;
  const SegmentId adopted{to, from.epoch, from.number};
  const std::string source = segment_path(from);
  const std::string target = segment_path(adopted);
  if (by == AdoptBy::link) {
    auto linked = co_await files.link(source, target);
    if (linked.ok() || linked.error().code() == ErrorCode::already_exists) co_return Result<void>{};
    if (linked.error().code() != ErrorCode::unsupported) co_return linked;
  }
  const auto there = co_await files.status(target);
  if (there.ok()) co_return Result<void>{};
  if (there.error().code() != ErrorCode::not_found) co_return there.error();
  CO_TRY_ASSIGN(const FileStatus status, co_await files.status(source));
  const std::uint64_t space_bytes = by == AdoptBy::copy ? info_.segment_bytes : status.size_bytes;
  CO_TRY(co_await check_reserve(SegmentPurpose::guest_data, space_bytes));
  const std::string temporary = temporary_path(to, segment_name(adopted), owner);
  const Claim claim(publishing_, temporary);
  if (!claim.is_new()) {
    co_return Error(ErrorCode::busy, target + " is being made already; try again");
  }
  const auto leftover = co_await files.remove_file(temporary);
  if (!leftover.ok() && leftover.error().code() != ErrorCode::not_found) co_return leftover;
  auto made = co_await copy_segment(source, temporary, space_bytes);
  // As for new segments: others may have taken the same room meanwhile.
  if (made.ok()) made = co_await check_reserve(SegmentPurpose::guest_data, 0);
  if (made.ok()) made = co_await files.rename(temporary, target);
  if (!made.ok()) {
    const auto removed = co_await files.remove_file(temporary);
    if (!removed.ok() && removed.error().code() != ErrorCode::not_found) {
      log_warning(removed.error().message());
    }
  }
  co_return made;
}

// Durable when it returns. The source may be appended to meanwhile, by its owner: behind all that
// anybody else reads.
Task<Result<void>> DirPool::copy_segment(std::string from, std::string to,
                                         std::uint64_t space_bytes) {
  FileSystem& files = context_.file_system;
  CO_TRY_ASSIGN(FileStatus status, co_await files.status(from));
  CO_TRY_ASSIGN(const std::unique_ptr<File> source, co_await files.open(from, FileOpenOptions{}));
  FileOpenOptions options;
  options.writable = true;
  options.create_new = true;
  options.preallocate_bytes = space_bytes;
  CO_TRY_ASSIGN(const std::unique_ptr<File> target, co_await files.open(to, options));
  AlignedBuffer buffer(kCopyBytes);
  std::uint64_t end = round_down(std::min(status.size_bytes, space_bytes), kBlockBytes);
  for (std::uint64_t at = 0; at < end;) {
    const std::span<std::byte> bytes = buffer.span(0, std::min(kCopyBytes, end - at));
    int error = co_await FileIo(*source, FileOperation::read, at, bytes);
    if (error == ENODATA) {  // cut at its end meanwhile, perhaps, by whoever wrote it
      CO_TRY_ASSIGN(status, co_await files.status(from));
      if (status.size_bytes >= end) co_return copy_error(from, error);
      end = round_down(status.size_bytes, kBlockBytes);
      continue;
    }
    if (error != 0) co_return copy_error(from, error);
    error = co_await FileIo(*target, FileOperation::write, at, bytes);
    if (error != 0) co_return copy_error(to, error);
    at += bytes.size();
  }
  const int error = co_await FileIo(*target, FileOperation::sync_data, 0, std::span<std::byte>{});
  if (error != 0) co_return copy_error(to, error);
  co_return Result<void>{};
}

Task<Result<void>> DirPool::sync_segments(VolumeId volume) {
  std::string directory = volume_path(volume);
  co_return co_await context_.file_system.sync_directory(std::move(directory));
}

}  // namespace holdfast
