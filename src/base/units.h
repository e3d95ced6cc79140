// SPDX-License-Identifier: Apache-2.0
//
// Byte units and sizes as people write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace holdfast {

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;
inline constexpr std::uint64_t kGiB = 1024 * kMiB;
inline constexpr std::uint64_t kTiB = 1024 * kGiB;

inline constexpr std::uint64_t kBlockBytes = 4096;    // the unit of mapping
inline constexpr std::uint64_t kSectorBytes = 512;    // the unit guests may address

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}
constexpr std::uint64_t round_down(std::uint64_t value, std::uint64_t unit) {
  return value / unit * unit;
}
constexpr std::uint64_t divide_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit;
}

// "20G", "512", "1.5T", "64MiB": K M G T (P) are powers of 1024, any case, an optional "iB" or "B".
// Refuses nonsense (negative, empty, unknown unit, overflow) with a message for a person.
Result<std::uint64_t> parse_bytes(std::string_view text);

// "20 GiB", "1.5 TiB", "512 B": at most three significant digits.
std::string format_bytes(std::uint64_t bytes);

}  // namespace holdfast
