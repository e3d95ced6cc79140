// SPDX-License-Identifier: Apache-2.0
#include "vhost/stamped_disk.h"

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"

namespace holdfast::vhost_frontend {
namespace {

constexpr std::uint64_t kMagic = 0x504d415453524556U;  // "VERSTAMP"

struct Stamp {
  std::uint64_t magic;
  std::uint64_t sector;
  std::uint64_t version;
};

constexpr std::size_t kCheckedBytes = kSectorBytes - sizeof(std::uint32_t);

bool is_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [](std::byte byte) { return byte == std::byte{}; });
}

std::string text(std::uint64_t version) {
  return version == 0 ? "zeros" : "version " + std::to_string(version);
}

}  // namespace

std::uint64_t Random::next() {  // splitmix64
  state_ += 0x9e3779b97f4a7c15U;
  std::uint64_t mixed = state_;
  mixed = (mixed ^ (mixed >> 30U)) * 0xbf58476d1ce4e5b9U;
  mixed = (mixed ^ (mixed >> 27U)) * 0x94d049bb133111ebU;
  return mixed ^ (mixed >> 31U);
}

bool StampedDisk::lock_for_write(const Range& range) {
  const auto begin = sectors_.begin() + static_cast<std::ptrdiff_t>(range.first);
  const auto end = begin + static_cast<std::ptrdiff_t>(range.count);
  if (std::any_of(begin, end, [](const Sector& each) { return each.locks != 0; })) return false;
  std::for_each(begin, end, [](Sector& each) { each.locks = -1; });
  return true;
}

bool StampedDisk::lock_for_read(const Range& range) {
  const auto begin = sectors_.begin() + static_cast<std::ptrdiff_t>(range.first);
  const auto end = begin + static_cast<std::ptrdiff_t>(range.count);
  if (std::any_of(begin, end, [](const Sector& each) { return each.locks < 0; })) return false;
  std::for_each(begin, end, [](Sector& each) { ++each.locks; });
  return true;
}

void StampedDisk::fill(std::span<std::byte> memory, std::uint64_t first_sector,
                       std::uint64_t version) {
  for (std::uint64_t number = first_sector; !memory.empty(); ++number) {
    std::byte* bytes = memory.data();
    const Stamp stamp = {kMagic, number, version};
    std::memcpy(bytes, &stamp, sizeof stamp);
    std::uint32_t word = static_cast<std::uint32_t>(version * 0x9e3779b1U + number);
    for (std::size_t at = sizeof stamp; at < kCheckedBytes; at += sizeof word) {
      std::memcpy(bytes + at, &word, sizeof word);
      word = word * 1664525U + 1013904223U;
    }
    const std::uint32_t checksum = crc32c({bytes, kCheckedBytes});
    std::memcpy(bytes + kCheckedBytes, &checksum, sizeof checksum);
    memory = memory.subspan(kSectorBytes);
  }
}

void StampedDisk::wrote(const Range& range, std::uint64_t version) {
  for (std::uint64_t number = range.first; number < range.first + range.count; ++number) {
    sectors_[number] = {.version = version};
  }
}

void StampedDisk::zeroed(const Range& range) {
  wrote(range, 0);
}

void StampedDisk::discarded(const Range& range) {
  for (std::uint64_t number = range.first; number < range.first + range.count; ++number) {
    Sector& sector = sectors_[number];
    sector.locks = 0;
    if (sector.version != 0) sector.alternative = 0;
  }
}

std::string StampedDisk::read(const Range& range, std::span<const std::byte> memory) {
  std::string found;
  for (std::uint64_t index = 0; index < range.count; ++index) {
    Sector& sector = sectors_[range.first + index];
    --sector.locks;
    if (!found.empty()) continue;
    found = check(range.first + index, sector, memory.subspan(index * kSectorBytes, kSectorBytes));
  }
  return found;
}

std::string StampedDisk::check(std::uint64_t number, Sector& sector,
                               std::span<const std::byte> bytes) {
  std::uint64_t seen = 0;
  if (!is_zero(bytes)) {
    Stamp stamp;
    std::uint32_t checksum;
    std::memcpy(&stamp, bytes.data(), sizeof stamp);
    std::memcpy(&checksum, bytes.data() + kCheckedBytes, sizeof checksum);
    if (stamp.magic != kMagic || checksum != crc32c(bytes.first(kCheckedBytes))) {
      return "DAMAGED: sector " + std::to_string(number) + " holds bytes that were never written";
    }
    if (stamp.sector != number) {
      return "MISPLACED: sector " + std::to_string(number) + " holds sector " +
             std::to_string(stamp.sector) + ", " + text(stamp.version);
    }
    seen = stamp.version;
  }
  if (seen == sector.version || seen == sector.alternative) {
    sector.version = seen;
    sector.alternative = kNone;
    return {};
  }
  return "WRONG VERSION: sector " + std::to_string(number) + " holds " + text(seen) +
         ", it must hold " + text(sector.version);
}

}  // namespace holdfast::vhost_frontend
