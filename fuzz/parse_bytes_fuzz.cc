// SPDX-License-Identifier: Apache-2.0
//
// Sizes as people and configuration files write them.
#include <algorithm>
#include <string>

#include "base/assert.h"
#include "base/units.h"

using namespace holdfast;  // NOLINT: a program of one file

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const std::string_view text(reinterpret_cast<const char*>(data), bytes);
  const Result<std::uint64_t> value = parse_bytes(text);
  if (!value.ok()) {
    HOLDFAST_ASSERT(value.error().code() == ErrorCode::invalid_argument);
    return 0;
  }
  const Result<std::uint64_t> plain = parse_bytes(std::to_string(value.value()));
  HOLDFAST_ASSERT(plain.ok() && plain.value() == value.value());
  // What is shown is what was meant, to three digits; close to 2^64 it rounds to what is refused.
  std::string shown = format_bytes(value.value());
  shown.erase(std::remove(shown.begin(), shown.end(), ' '), shown.end());
  const Result<std::uint64_t> again = parse_bytes(shown);
  if (value.value() >> 63 != 0) return 0;
  HOLDFAST_ASSERT(again.ok());
  const std::uint64_t difference =
      again.value() > value.value() ? again.value() - value.value() : value.value() - again.value();
  HOLDFAST_ASSERT(difference <= value.value() / 100);
  return 0;
}
