// SPDX-License-Identifier: Apache-2.0
//
// Where a block's bytes are: a segment and a block in it, in one u64. Two values mean no bytes.
#pragma once

#include <cstdint>

#include "base/ids.h"

namespace holdfast::format {

struct BlockLocation {
  static constexpr std::uint32_t kBlockIndexBits = 24;

  std::uint64_t raw = 0;

  // Never written or discarded: reads as zeros, no space.
  static constexpr BlockLocation hole() { return {0}; }
  // Zeroed with its space kept (NBD's NO_HOLE): reads as zeros, reported as allocated.
  static constexpr BlockLocation zero() { return {1}; }
  static constexpr BlockLocation at(SegmentNumber segment, std::uint32_t block_index) {
    return {(segment.value << kBlockIndexBits) | block_index};
  }

  // Segments count from 1, so that the smallest stored location is above both special values.
  constexpr bool is_stored() const { return raw >> kBlockIndexBits != 0; }
  constexpr bool is_hole() const { return raw == 0; }
  constexpr bool is_valid() const { return is_stored() || raw <= 1; }
  constexpr SegmentNumber segment() const { return {raw >> kBlockIndexBits}; }
  constexpr std::uint32_t block_index() const {
    return static_cast<std::uint32_t>(raw & ((1u << kBlockIndexBits) - 1));
  }
  constexpr auto operator<=>(const BlockLocation&) const = default;
};

}  // namespace holdfast::format
