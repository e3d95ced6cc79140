// SPDX-License-Identifier: Apache-2.0
//
// The memory of a guest as its virtual machine shares it: regions, each known by an address of the
// guest and an address of the virtual machine's process. A region that is taken away stays mapped
// until the last request that began before has ended.
//
// QEMU changes the bounds of a region under a running guest by taking it away and adding what takes
// its place, in two messages. The guest knows nothing of it and goes on meanwhile, so a region that
// is taken away alone leaves only a little later.
//
// Thread: one. Owner: a session.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "io/shared_memory.h"

namespace holdfast::vhost {

struct RegionPlace {
  std::uint64_t guest_address = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t user_address = 0;
  std::uint64_t file_offset_bytes = 0;
};

class GuestMemory {
 public:
  GuestMemory() = default;
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  // Refused: ranges that wrap around or overlap another, too many, files that cannot be mapped.
  Result<void> add(const RegionPlace& place, const Descriptor& file);
  // The region at exactly that place (the file offset does not count). It is found, where no other
  // is, until forget_leaving().
  Result<void> remove(const RegionPlace& place);
  void forget_leaving();
  void remove_all();

  // The bytes from an address on, as many as are together in this process, at most `size_bytes`;
  // empty: not in the guest's memory.
  std::span<std::byte> guest_bytes(std::uint64_t guest_address, std::uint64_t size_bytes);
  // All of a range of the virtual machine's address space; null: not wholly in one region.
  std::byte* user_bytes(std::uint64_t user_address, std::uint64_t size_bytes) const;

  // Of a byte in any memory that is still mapped, also of what was taken away.
  std::optional<std::uint64_t> guest_address(const std::byte* at) const;
  // Behind the highest address of the guest's memory; 0: it has none.
  std::uint64_t guest_end() const;

  std::size_t region_count() const { return regions_.size(); }
  std::size_t retired_count() const { return retired_.size(); }
  bool is_lost() const;

  // A request that uses the memory as it is now; the number is for its end.
  std::uint64_t begin_request() {
    ++in_flight_.back();
    return oldest_ + in_flight_.size() - 1;
  }
  void end_request(std::uint64_t generation) {
    if (--in_flight_[generation - oldest_] == 0 && in_flight_.size() > 1) unmap_unused();
  }

 private:
  struct Region {
    RegionPlace place;
    std::unique_ptr<SharedMemory> memory;
  };
  struct Retired {
    Region region;
    std::uint64_t generation;  // the last that could use it
  };

  // From the address to the region's end at most.
  static std::span<std::byte> bytes_in(const Region& region, std::uint64_t guest_address,
                                       std::uint64_t size_bytes);
  static std::byte* find_user_bytes(const std::vector<Region>& regions, std::uint64_t user_address,
                                    std::uint64_t size_bytes);
  void retire(Region region);
  void unmap_unused();

  std::vector<Region> regions_;
  std::size_t last_found_ = 0;
  std::vector<Region> leaving_;
  std::vector<Retired> retired_;
  // Requests in flight by generation; a new one begins whenever a region is taken away.
  std::deque<std::uint64_t> in_flight_{0};
  std::uint64_t oldest_ = 0;  // generation of in_flight_.front()
};

}  // namespace holdfast::vhost
