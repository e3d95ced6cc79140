// SPDX-License-Identifier: Apache-2.0
//
// Memory of a guest that is not there: memfd regions, shared with the server under test. Guest
// addresses have holes between the regions, the made-up user addresses lie in the opposite order,
// and the regions start at an offset in their files, so that a server which confuses any two of
// these addresses reads the wrong bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "vhost/fd.h"
#include "vhost/protocol.h"

namespace holdfast::vhost_frontend {

class GuestMemory {
 public:
  struct Region {
    Fd fd;
    std::byte* mapped = nullptr;  // `description.bytes` of it
    MemoryRegion description{};
    std::uint64_t allocated_bytes = 0;
  };

  static Result<GuestMemory> create(std::span<const std::uint64_t> region_bytes);
  GuestMemory(GuestMemory&& other) noexcept = default;
  GuestMemory& operator=(GuestMemory&& other) = delete;
  ~GuestMemory();

  // One more region, as memory hot-plug makes it; its index.
  Result<std::size_t> add_region(std::uint64_t bytes);

  // Guest address of fresh zeroed bytes; they live as long as the memory does. Running out is a
  // mistake of the test and ends the program.
  std::uint64_t allocate(std::uint64_t bytes, std::uint64_t alignment = 16);
  std::uint64_t allocate_in(std::size_t region, std::uint64_t bytes, std::uint64_t alignment = 16);

  // Null when the range is not inside one region.
  std::byte* at(std::uint64_t guest_address, std::uint64_t bytes = 1) const;
  // Of a guest address that is in a region.
  std::uint64_t user_address(std::uint64_t guest_address) const;

  const std::vector<Region>& regions() const { return regions_; }

  // Hostile: cuts the file under a region, here and for the server. `kept_bytes` of the region
  // stay; touching the rest is SIGBUS.
  Result<void> truncate(std::size_t region, std::uint64_t kept_bytes);

 private:
  GuestMemory() = default;

  const Region* find(std::uint64_t guest_address, std::uint64_t bytes) const;

  std::vector<Region> regions_;
};

}  // namespace holdfast::vhost_frontend
