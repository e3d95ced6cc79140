// SPDX-License-Identifier: Apache-2.0
#include "cli/target_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

namespace holdfast {
namespace {

constexpr int kEndingSignals[] = {SIGINT, SIGTERM, SIGHUP};

// For the signal handler: a path in memory that does not move, or nothing.
char* path_to_remove = nullptr;

void remove_and_end(int signal) {
  if (path_to_remove != nullptr) ::unlink(path_to_remove);
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

void remove_on_signals(char* path) {
  path_to_remove = path;
  for (const int number : kEndingSignals) {
    ::signal(number, path == nullptr ? SIG_DFL : remove_and_end);
  }
}

Error from_errno(const std::string& what) {
  const ErrorCode code =
      errno == ENOSPC || errno == EDQUOT ? ErrorCode::no_space : ErrorCode::path_failure;
  return Error(code, what + ": " + std::strerror(errno));
}

Error exists(const std::string& path) {
  return Error(ErrorCode::already_exists,
               path + " exists already; choose another name, or remove it first");
}

}  // namespace

Result<TargetFile> TargetFile::create(const std::string& file) {
  TargetFile target;
  if (file == "-") {
    if (::isatty(STDOUT_FILENO) != 0) {
      return Error(ErrorCode::invalid_argument,
                   "standard output is a terminal; send it into a pipe or a file");
    }
    target.descriptor_ = ::dup(STDOUT_FILENO);
    if (target.descriptor_ < 0) return from_errno("standard output");
    return target;
  }
  const std::string path = std::filesystem::absolute(file).lexically_normal().string();
  struct stat about {};
  if (::lstat(path.c_str(), &about) == 0) return exists(file);
  const std::string partial = path + ".partial";
  const int descriptor = ::open(partial.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (descriptor < 0) return from_errno("cannot write " + file + ".partial");
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    ::close(descriptor);
    return Error(ErrorCode::busy, file + " is being written by another export");
  }
  target.descriptor_ = descriptor;
  target.path_ = path;
  target.partial_path_ = partial;
  remove_on_signals(target.partial_path_.data());
  // What an export that was killed has left.
  if (::ftruncate(descriptor, 0) != 0) return from_errno("cannot write " + partial);
  return target;
}

TargetFile::TargetFile(TargetFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      path_(std::exchange(other.path_, {})),
      partial_path_(std::exchange(other.partial_path_, {})),
      written_bytes_(other.written_bytes_) {
  if (!partial_path_.empty()) remove_on_signals(partial_path_.data());
}

TargetFile::~TargetFile() {
  if (descriptor_ < 0) return;
  if (!partial_path_.empty()) {
    remove_on_signals(nullptr);
    ::unlink(partial_path_.c_str());
  }
  ::close(descriptor_);
}

Result<void> TargetFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return from_errno("cannot write " + (is_stream() ? "the output" : path_));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    written_bytes_ += static_cast<std::uint64_t>(count);
  }
  return {};
}

Result<void> TargetFile::write_at(std::uint64_t offset_bytes, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count =
        ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return from_errno("cannot write " + path_);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset_bytes += static_cast<std::uint64_t>(count);
    written_bytes_ += static_cast<std::uint64_t>(count);
  }
  return {};
}

Result<void> TargetFile::set_size(std::uint64_t size_bytes) {
  if (::ftruncate(descriptor_, static_cast<off_t>(size_bytes)) == 0) return {};
  return from_errno("cannot write " + path_);
}

Result<void> TargetFile::finish() {
  if (is_stream()) return {};
  if (::fsync(descriptor_) != 0) return from_errno("cannot write " + path_);
  if (::renameat2(AT_FDCWD, partial_path_.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) !=
      0) {
    if (errno == EEXIST) return exists(path_);
    // A file system without such a rename.
    if (errno != EINVAL || ::rename(partial_path_.c_str(), path_.c_str()) != 0) {
      return from_errno("cannot rename " + partial_path_ + " to " + path_);
    }
  }
  remove_on_signals(nullptr);
  partial_path_.clear();
  const int directory =
      ::open(std::filesystem::path(path_).parent_path().c_str(), O_RDONLY | O_CLOEXEC);
  if (directory >= 0) {
    (void)::fsync(directory);
    ::close(directory);
  }
  return {};
}

}  // namespace holdfast
