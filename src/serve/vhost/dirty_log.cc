// SPDX-License-Identifier: Apache-2.0
#include "serve/vhost/dirty_log.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/limits.h"
#include "serve/vhost/protocol.h"

namespace holdfast::vhost {
namespace {

constexpr std::uint64_t kPagesPerByte = 8;

Error refuse_log(const std::string& why) {
  return Error(ErrorCode::invalid_argument, "log of written pages refused: " + why);
}

// The byte that has the bit of an address.
std::uint64_t byte_of(std::uint64_t guest_address) {
  return guest_address / kLogPageBytes / kPagesPerByte;
}

// The front-end takes bits at the same time.
void set_bits(std::byte* at, std::uint8_t bits) {
  __atomic_fetch_or(reinterpret_cast<std::uint8_t*>(at), bits, __ATOMIC_SEQ_CST);
}

}  // namespace

Result<void> DirtyLog::adopt(const Descriptor& file, const Place& place, std::uint64_t guest_end) {
  if (place.size_bytes > limits::kVhostLogBytesMax) {
    return refuse_log("it is of " + std::to_string(place.size_bytes) + " bytes, more than " +
                      std::to_string(limits::kVhostLogBytesMax));
  }
  if (guest_end != 0 && byte_of(guest_end - 1) >= place.size_bytes) {
    return refuse_log("its " + std::to_string(place.size_bytes) +
                      " bytes are too few for the guest's memory, which ends at " +
                      std::to_string(guest_end));
  }
  auto memory = TRY(SharedMemory::map(file, place.offset_bytes, place.size_bytes));
  if (std::exchange(is_old_, false)) copy_marks_to(*memory);
  memory_ = std::move(memory);
  return {};
}

bool DirtyLog::covers(std::uint64_t guest_address, std::uint64_t size_bytes) const {
  if (memory_ == nullptr || guest_address + size_bytes < guest_address) return false;
  return size_bytes == 0 || byte_of(guest_address + size_bytes - 1) < memory_->size_bytes();
}

bool DirtyLog::mark(std::uint64_t guest_address, std::uint64_t size_bytes) {
  if (!covers(guest_address, size_bytes)) return false;
  if (size_bytes == 0) return true;
  const std::uint64_t last = (guest_address + size_bytes - 1) / kLogPageBytes;
  for (std::uint64_t page = guest_address / kLogPageBytes; page <= last;) {
    const std::uint64_t first_bit = page % kPagesPerByte;
    const std::uint64_t count = std::min(kPagesPerByte - first_bit, last - page + 1);
    const std::uint64_t bits = ((std::uint64_t{1} << count) - 1) << first_bit;
    set_bits(memory_->data() + page / kPagesPerByte, static_cast<std::uint8_t>(bits));
    page += count;
  }
  return true;
}

void DirtyLog::copy_marks_to(SharedMemory& other) const {
  const std::uint64_t count = std::min(memory_->size_bytes(), other.size_bytes());
  const auto* const from = reinterpret_cast<const std::uint8_t*>(memory_->data());
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint8_t bits = __atomic_load_n(from + i, __ATOMIC_RELAXED);
    if (bits != 0) set_bits(other.data() + i, bits);
  }
}

}  // namespace holdfast::vhost
