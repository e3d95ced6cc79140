// SPDX-License-Identifier: Apache-2.0
//
// Heap memory aligned for direct I/O.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

#include "base/assert.h"
#include "base/units.h"

namespace holdfast {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // `bytes` is rounded up to whole blocks. The content is undefined.
  explicit AlignedBuffer(std::size_t bytes)
      : bytes_(round_up(bytes, kBlockBytes)),
        data_(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, bytes_))) {
    HOLDFAST_ASSERT(data_ != nullptr || bytes_ == 0);
  }
  std::byte* data() const { return data_.get(); }
  std::size_t size() const { return bytes_; }
  bool empty() const { return bytes_ == 0; }
  std::span<std::byte> span() const { return {data_.get(), bytes_}; }
  std::span<std::byte> span(std::size_t offset, std::size_t count) const {
    HOLDFAST_ASSERT(offset <= bytes_ && count <= bytes_ - offset);
    return {data_.get() + offset, count};
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::size_t bytes_ = 0;
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace holdfast
