// SPDX-License-Identifier: Apache-2.0
//
// A number that one thread writes and others read at any time.
#pragma once

#include <atomic>
#include <cstdint>

namespace holdfast {

class SharedNumber {
 public:
  explicit SharedNumber(std::int64_t value) : value_(value) {}
  SharedNumber(const SharedNumber&) = delete;
  SharedNumber& operator=(const SharedNumber&) = delete;

  std::int64_t get() const { return value_.load(std::memory_order_acquire); }
  void set(std::int64_t value) { value_.store(value, std::memory_order_release); }

 private:
  std::atomic<std::int64_t> value_;
};

}  // namespace holdfast
