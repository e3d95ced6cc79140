// SPDX-License-Identifier: Apache-2.0
#include "serve/vhost/guest_memory.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "base/limits.h"

namespace holdfast::vhost {
namespace {

bool wraps(std::uint64_t begin, std::uint64_t size_bytes) {
  return begin + size_bytes < begin;
}

bool overlap(std::uint64_t a, std::uint64_t a_bytes, std::uint64_t b, std::uint64_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

Error refuse(const std::string& why) {
  return Error(ErrorCode::invalid_argument, "memory region refused: " + why);
}

}  // namespace

Result<void> GuestMemory::add(const RegionPlace& place, const Descriptor& file) {
  if (place.size_bytes == 0 || wraps(place.guest_address, place.size_bytes) ||
      wraps(place.user_address, place.size_bytes)) {
    return refuse("it is empty or wraps around");
  }
  if (regions_.size() >= limits::kVhostMemoryRegionsMax) return refuse("there are too many");
  for (const Region& other : regions_) {
    if (overlap(place.guest_address, place.size_bytes, other.place.guest_address,
                other.place.size_bytes) ||
        overlap(place.user_address, place.size_bytes, other.place.user_address,
                other.place.size_bytes)) {
      return refuse("it overlaps another one");
    }
  }
  auto memory = TRY(SharedMemory::map(file, place.file_offset_bytes, place.size_bytes));
  regions_.push_back({place, std::move(memory)});
  return {};
}

Result<void> GuestMemory::remove(const RegionPlace& place) {
  const auto found = std::find_if(regions_.begin(), regions_.end(), [&](const Region& region) {
    return region.place.guest_address == place.guest_address &&
           region.place.size_bytes == place.size_bytes &&
           region.place.user_address == place.user_address;
  });
  if (found == regions_.end()) return refuse("there is none at that place to take away");
  if (leaving_.size() == limits::kVhostMemoryRegionsMax) forget_leaving();
  leaving_.push_back(std::move(*found));
  regions_.erase(found);
  return {};
}

void GuestMemory::forget_leaving() {
  for (Region& region : leaving_) retire(std::move(region));
  leaving_.clear();
  unmap_unused();
}

void GuestMemory::remove_all() {
  for (Region& region : regions_) retire(std::move(region));
  regions_.clear();
  forget_leaving();
}

std::span<std::byte> GuestMemory::guest_bytes(std::uint64_t guest_address,
                                              std::uint64_t size_bytes) {
  // Guests have few regions, and use one of them most of the time.
  if (last_found_ >= regions_.size()) last_found_ = 0;
  for (std::size_t i = 0; i < regions_.size(); ++i) {
    const auto found = bytes_in(regions_[last_found_], guest_address, size_bytes);
    if (!found.empty()) return found;
    if (++last_found_ == regions_.size()) last_found_ = 0;
  }
  for (const Region& region : leaving_) {
    const auto found = bytes_in(region, guest_address, size_bytes);
    if (!found.empty()) return found;
  }
  return {};
}

std::span<std::byte> GuestMemory::bytes_in(const Region& region, std::uint64_t guest_address,
                                           std::uint64_t size_bytes) {
  const std::uint64_t offset_bytes = guest_address - region.place.guest_address;
  if (guest_address < region.place.guest_address || offset_bytes >= region.place.size_bytes) {
    return {};
  }
  return {region.memory->data() + offset_bytes,
          std::min(size_bytes, region.place.size_bytes - offset_bytes)};
}

std::byte* GuestMemory::user_bytes(std::uint64_t user_address, std::uint64_t size_bytes) const {
  std::byte* const found = find_user_bytes(regions_, user_address, size_bytes);
  return found != nullptr ? found : find_user_bytes(leaving_, user_address, size_bytes);
}

std::byte* GuestMemory::find_user_bytes(const std::vector<Region>& regions,
                                        std::uint64_t user_address, std::uint64_t size_bytes) {
  for (const Region& region : regions) {
    const std::uint64_t offset_bytes = user_address - region.place.user_address;
    if (user_address >= region.place.user_address && offset_bytes < region.place.size_bytes &&
        size_bytes <= region.place.size_bytes - offset_bytes) {
      return region.memory->data() + offset_bytes;
    }
  }
  return nullptr;
}

std::optional<std::uint64_t> GuestMemory::guest_address(const std::byte* at) const {
  const auto find_in = [at](const Region& region) -> std::optional<std::uint64_t> {
    const std::less<> is_before;  // addresses of different mappings
    const std::byte* const data = region.memory->data();
    if (is_before(at, data) || !is_before(at, data + region.place.size_bytes)) return std::nullopt;
    return region.place.guest_address + static_cast<std::uint64_t>(at - data);
  };
  for (const auto* regions : {&regions_, &leaving_}) {
    for (const Region& region : *regions) {
      if (const auto found = find_in(region)) return found;
    }
  }
  for (const Retired& retired : retired_) {
    if (const auto found = find_in(retired.region)) return found;
  }
  return std::nullopt;
}

std::uint64_t GuestMemory::guest_end() const {
  std::uint64_t end = 0;
  for (const auto* regions : {&regions_, &leaving_}) {
    for (const Region& region : *regions) {
      end = std::max(end, region.place.guest_address + region.place.size_bytes);
    }
  }
  return end;
}

bool GuestMemory::is_lost() const {
  const auto is_region_lost = [](const Region& region) { return region.memory->is_lost(); };
  return std::any_of(regions_.begin(), regions_.end(), is_region_lost) ||
         std::any_of(leaving_.begin(), leaving_.end(), is_region_lost);
}

void GuestMemory::retire(Region region) {
  retired_.push_back({std::move(region), oldest_ + in_flight_.size() - 1});
}

void GuestMemory::unmap_unused() {
  // Whoever begins from here on cannot find what was taken away.
  if (!retired_.empty() && retired_.back().generation == oldest_ + in_flight_.size() - 1) {
    in_flight_.push_back(0);
  }
  while (in_flight_.size() > 1 && in_flight_.front() == 0) {
    in_flight_.pop_front();
    ++oldest_;
  }
  std::erase_if(retired_, [&](const Retired& retired) { return retired.generation < oldest_; });
}

}  // namespace holdfast::vhost
