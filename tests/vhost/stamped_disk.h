// SPDX-License-Identifier: Apache-2.0
//
// What a disk must hold, sector by sector, while requests are in flight. Each sector that was
// written carries its own number, the version of the write that stored it, and a checksum. A range
// is locked for one writer or for several readers while a request covers it, so that a completed
// read has exactly one right answer; after a discard it has two, until a read shows which.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace holdfast::vhost_frontend {

inline constexpr std::uint64_t kSectorBytes = 512;

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next();
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }
  bool percent(std::uint64_t share) { return below(100) < share; }

 private:
  std::uint64_t state_;
};

class StampedDisk {
 public:
  struct Range {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
  };

  explicit StampedDisk(std::uint64_t sectors) : sectors_(sectors) {}
  std::uint64_t sectors() const { return sectors_.size(); }

  bool lock_for_write(const Range& range);
  bool lock_for_read(const Range& range);

  // Stamps for a write of `version`, which is never 0.
  static void fill(std::span<std::byte> memory, std::uint64_t first_sector, std::uint64_t version);

  // Completions; they unlock.
  void wrote(const Range& range, std::uint64_t version);
  void zeroed(const Range& range);
  void discarded(const Range& range);
  // Empty, or what is wrong with the bytes that a read brought.
  std::string read(const Range& range, std::span<const std::byte> memory);

 private:
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};

  struct Sector {
    std::uint64_t version = 0;          // 0: zeros
    std::uint64_t alternative = kNone;  // what it may hold as well
    std::int32_t locks = 0;             // -1: a writer; else how many readers
  };

  std::string check(std::uint64_t number, Sector& sector, std::span<const std::byte> bytes);

  std::vector<Sector> sectors_;
};

}  // namespace holdfast::vhost_frontend
