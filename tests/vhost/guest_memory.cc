// SPDX-License-Identifier: Apache-2.0
#include "vhost/guest_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/assert.h"

namespace holdfast::vhost_frontend {
namespace {

constexpr std::uint64_t kFileOffset = 64 * 1024;
constexpr std::uint64_t kGuestStride = 0x1'0000'0000;
constexpr std::uint64_t kGuestFirst = 0x10'0000;
constexpr std::uint64_t kUserLast = 0x7f40'0000'0000;

Error system_error(const char* what) {
  return {ErrorCode::internal, std::string(what) + ": " + std::strerror(errno)};
}

}  // namespace

Result<GuestMemory> GuestMemory::create(std::span<const std::uint64_t> region_bytes) {
  GuestMemory memory;
  for (const std::uint64_t bytes : region_bytes) TRY(memory.add_region(bytes));
  return memory;
}

GuestMemory::~GuestMemory() {
  for (const Region& region : regions_) munmap(region.mapped, region.description.bytes);
}

Result<std::size_t> GuestMemory::add_region(std::uint64_t bytes) {
  HOLDFAST_ASSERT(bytes % 4096 == 0 && bytes <= kGuestStride / 2);
  const std::size_t index = regions_.size();
  Region region;
  region.fd = Fd(memfd_create("guest", MFD_CLOEXEC));
  if (!region.fd.is_open()) return system_error("memfd_create");
  region.description = {.guest_address = kGuestFirst + index * kGuestStride,
                        .bytes = bytes,
                        .user_address = kUserLast - (index + 1) * kGuestStride,
                        .file_offset = index * kFileOffset};
  const std::uint64_t offset = region.description.file_offset;
  if (ftruncate(region.fd.number(), static_cast<off_t>(offset + bytes)) != 0) {
    return system_error("ftruncate");
  }
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region.fd.number(),
                      static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return system_error("mmap");
  region.mapped = static_cast<std::byte*>(mapped);
  regions_.push_back(std::move(region));
  return index;
}

std::uint64_t GuestMemory::allocate(std::uint64_t bytes, std::uint64_t alignment) {
  // The emptiest region, so that what belongs together is spread over several.
  std::size_t best = 0;
  for (std::size_t index = 1; index < regions_.size(); ++index) {
    const Region& region = regions_[index];
    if (region.description.bytes - region.allocated_bytes >
        regions_[best].description.bytes - regions_[best].allocated_bytes) {
      best = index;
    }
  }
  return allocate_in(best, bytes, alignment);
}

std::uint64_t GuestMemory::allocate_in(std::size_t index, std::uint64_t bytes,
                                       std::uint64_t alignment) {
  Region& region = regions_.at(index);
  const std::uint64_t start = (region.allocated_bytes + alignment - 1) / alignment * alignment;
  HOLDFAST_ASSERT(start + bytes <= region.description.bytes);
  region.allocated_bytes = start + bytes;
  return region.description.guest_address + start;
}

const GuestMemory::Region* GuestMemory::find(std::uint64_t guest_address,
                                             std::uint64_t bytes) const {
  for (const Region& region : regions_) {
    const MemoryRegion& described = region.description;
    if (guest_address >= described.guest_address && bytes <= described.bytes &&
        guest_address - described.guest_address <= described.bytes - bytes) {
      return &region;
    }
  }
  return nullptr;
}

std::byte* GuestMemory::at(std::uint64_t guest_address, std::uint64_t bytes) const {
  const Region* region = find(guest_address, bytes);
  if (region == nullptr) return nullptr;
  return region->mapped + (guest_address - region->description.guest_address);
}

std::uint64_t GuestMemory::user_address(std::uint64_t guest_address) const {
  const Region* region = find(guest_address, 1);
  HOLDFAST_ASSERT(region != nullptr);
  return guest_address - region->description.guest_address + region->description.user_address;
}

Result<void> GuestMemory::truncate(std::size_t index, std::uint64_t kept_bytes) {
  const Region& region = regions_.at(index);
  if (ftruncate(region.fd.number(),
                static_cast<off_t>(region.description.file_offset + kept_bytes)) != 0) {
    return system_error("ftruncate");
  }
  return {};
}

}  // namespace holdfast::vhost_frontend
