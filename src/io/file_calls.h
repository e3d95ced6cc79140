// SPDX-License-Identifier: Apache-2.0
//
// The blocking calls behind Disk: plain functions, for its worker thread (and for start-up code).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "io/descriptor.h"
#include "io/file_system.h"

namespace holdfast::file_calls {

inline constexpr std::size_t kSmallFileBytesMax = 1 << 20;

Result<Descriptor> open(const std::string& path, const FileOpenOptions& options);
Result<void> make_directory(const std::string& path);
Result<void> remove_file(const std::string& path);
Result<void> remove_directory(const std::string& path);
Result<void> rename(const std::string& from, const std::string& to);
Result<void> link(const std::string& from, const std::string& to);
Result<FileStatus> status(const std::string& path);
Result<void> sync_directory(const std::string& path);
Result<std::vector<std::string>> list(const std::string& path);
Result<void> truncate(const std::string& path, std::uint64_t size_bytes);
Result<std::uint64_t> allocated_bytes(const std::string& path);
Result<void> allocate(const std::string& path, std::uint64_t size_bytes);
Result<FileSystemSpace> space(const std::string& path);
Result<std::vector<std::byte>> read_file(const std::string& path);
Result<void> write_file(const std::string& path, const std::vector<std::byte>& bytes);
Result<Descriptor> lock(const std::string& path, const std::string& holder);

}  // namespace holdfast::file_calls
