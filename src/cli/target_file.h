// SPDX-License-Identifier: Apache-2.0
//
// The file that an export makes: FILE.partial, which becomes FILE when it is whole and durable. A
// signal that ends the program removes it. Or standard output. One at a time in a process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"

namespace holdfast {

class TargetFile {
 public:
  // "-": standard output. already_exists: there is such a file; busy: somebody else writes it.
  static Result<TargetFile> create(const std::string& file);
  TargetFile(TargetFile&& other) noexcept;
  TargetFile& operator=(TargetFile&&) = delete;
  ~TargetFile();  // removes what was not finished

  bool is_stream() const { return path_.empty(); }
  const std::string& partial_path() const { return partial_path_; }
  Result<void> write(std::span<const std::byte> bytes);  // at the end
  // Of a file.
  Result<void> write_at(std::uint64_t offset_bytes, std::span<const std::byte> bytes);
  Result<void> set_size(std::uint64_t size_bytes);
  std::uint64_t written_bytes() const { return written_bytes_; }
  Result<void> finish();

 private:
  TargetFile() = default;

  int descriptor_ = -1;
  std::string path_;
  std::string partial_path_;
  std::uint64_t written_bytes_ = 0;
};

}  // namespace holdfast
