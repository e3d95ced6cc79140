// SPDX-License-Identifier: Apache-2.0
//
// Walks a scatter list byte by byte range, forwards only.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include "base/assert.h"

namespace holdfast {

class IovecCursor {
 public:
  IovecCursor() = default;
  explicit IovecCursor(std::span<const iovec> vectors) : vectors_(vectors) {}

  // The next contiguous piece, at most `bytes_max`; advances over it.
  std::span<std::byte> take(std::size_t bytes_max) {
    while (index_ < vectors_.size() && offset_ == vectors_[index_].iov_len) {
      ++index_;
      offset_ = 0;
    }
    HOLDFAST_ASSERT(index_ < vectors_.size());
    const iovec& vector = vectors_[index_];
    const std::size_t bytes = std::min(bytes_max, vector.iov_len - offset_);
    std::byte* at = static_cast<std::byte*>(vector.iov_base) + offset_;
    offset_ += bytes;
    return {at, bytes};
  }
  void skip(std::size_t bytes) {
    while (bytes != 0) bytes -= take(bytes).size();
  }
  void copy_out(std::byte* to, std::size_t bytes) {
    while (bytes != 0) {
      const std::span<std::byte> piece = take(bytes);
      std::memcpy(to, piece.data(), piece.size());
      to += piece.size();
      bytes -= piece.size();
    }
  }
  void copy_in(const std::byte* from, std::size_t bytes) {
    while (bytes != 0) {
      const std::span<std::byte> piece = take(bytes);
      std::memcpy(piece.data(), from, piece.size());
      from += piece.size();
      bytes -= piece.size();
    }
  }
  void fill_zeros(std::size_t bytes) {
    while (bytes != 0) {
      const std::span<std::byte> piece = take(bytes);
      std::memset(piece.data(), 0, piece.size());
      bytes -= piece.size();
    }
  }

 private:
  std::span<const iovec> vectors_;
  std::size_t index_ = 0;
  std::size_t offset_ = 0;
};

}  // namespace holdfast
