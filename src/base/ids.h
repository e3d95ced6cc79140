// SPDX-License-Identifier: Apache-2.0
//
// Identities. Strong types, so that a block is never taken for a segment.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace holdfast {

// A number that only compares with its own kind. Arithmetic is spelled out at the call site.
template <typename Tag, typename T = std::uint64_t>
struct StrongNumber {
  T value = 0;
  constexpr auto operator<=>(const StrongNumber&) const = default;
};

using BlockNumber = StrongNumber<struct BlockNumberTag>;      // 4 KiB block of a volume
using SegmentNumber = StrongNumber<struct SegmentNumberTag>;  // 1.. per volume; 0 names none
using Epoch = StrongNumber<struct EpochTag>;                  // ownerships of a volume, from 1
using Sequence = StrongNumber<struct SequenceTag>;            // records of a volume's main log
using SnapshotNumber = StrongNumber<struct SnapshotTag>;      // 1.. per volume; 0 names none

// RFC 9562 UUID, 16 bytes in the order they are written.
struct Uuid {
  std::array<std::byte, 16> bytes{};

  auto operator<=>(const Uuid&) const = default;
  bool is_nil() const;
  std::string to_string() const;  // 8-4-4-4-12, lower case
  static std::optional<Uuid> parse(std::string_view text);
  // Version 4 from 16 random bytes (the caller's randomness: no generator lives here).
  static Uuid from_random(const std::array<std::byte, 16>& random);
};

using VolumeId = Uuid;
using PoolId = Uuid;

struct SegmentId {
  VolumeId volume;
  Epoch epoch;
  SegmentNumber number;
  auto operator<=>(const SegmentId&) const = default;
};

struct RootId {
  VolumeId volume;
  Epoch epoch;
  std::uint64_t number = 0;  // within the epoch, from 0
  auto operator<=>(const RootId&) const = default;
};

struct SnapshotId {
  VolumeId volume;
  SnapshotNumber number;
  auto operator<=>(const SnapshotId&) const = default;
};

}  // namespace holdfast

template <>
struct std::hash<holdfast::Uuid> {
  std::size_t operator()(const holdfast::Uuid& id) const noexcept {
    std::uint64_t low = 0;
    for (int i = 8; i < 16; ++i)
      low = (low << 8) | std::to_integer<std::uint64_t>(id.bytes[static_cast<std::size_t>(i)]);
    return static_cast<std::size_t>(low * 0x9E3779B97F4A7C15ull);
  }
};
