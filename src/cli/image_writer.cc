// SPDX-License-Identifier: Apache-2.0
#include "cli/image_writer.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/units.h"
#include "cli/nbd_device.h"

namespace holdfast {

bool is_all_zero(std::span<const std::byte> bytes) {
  static constexpr std::array<std::byte, kBlockBytes> kZeros{};
  while (!bytes.empty()) {
    const std::size_t count = std::min(bytes.size(), kZeros.size());
    if (std::memcmp(bytes.data(), kZeros.data(), count) != 0) return false;
    bytes = bytes.subspan(count);
  }
  return true;
}

// Requests under way may overtake each other: what goes back in the image waits for them.
Result<void> ImageWriter::keep_order(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  if (offset_bytes < end_bytes_) {
    TRY(write_gathered());
    TRY(device_->drain());
    is_blank_ = false;
  }
  end_bytes_ = std::max(end_bytes_, offset_bytes + length_bytes);
  return {};
}

Result<void> ImageWriter::data(std::uint64_t offset_bytes, std::span<const std::byte> bytes) {
  TRY(keep_order(offset_bytes, bytes.size()));
  while (!bytes.empty()) {
    if (offset_bytes != gathered_offset_bytes_ + gathered_.size()) TRY(write_gathered());
    if (gathered_.empty()) gathered_offset_bytes_ = offset_bytes;
    // Up to the next boundary: then no block is written by two requests.
    const std::size_t room =
        NbdDevice::kPieceBytes - static_cast<std::size_t>(offset_bytes % NbdDevice::kPieceBytes);
    const std::size_t taken = std::min(room, bytes.size());
    gathered_.insert(gathered_.end(), bytes.begin(),
                     bytes.begin() + static_cast<std::ptrdiff_t>(taken));
    bytes = bytes.subspan(taken);
    offset_bytes += taken;
    if (taken == room) TRY(write_gathered());
  }
  return {};
}

Result<void> ImageWriter::zero(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  TRY(keep_order(offset_bytes, length_bytes));
  if (is_blank_) return {};
  TRY(write_gathered());
  return device_->zero(offset_bytes, length_bytes);
}

// Runs of blocks that hold nothing but zeros become holes.
Result<void> ImageWriter::write_gathered() {
  const auto block_end = [this](std::size_t at) {
    const std::uint64_t offset_bytes = gathered_offset_bytes_ + at;
    return std::min(gathered_.size(),
                    at + static_cast<std::size_t>(kBlockBytes - offset_bytes % kBlockBytes));
  };
  const std::span<const std::byte> all(gathered_);
  std::size_t at = 0;
  while (at < all.size()) {
    std::size_t end = block_end(at);
    const bool is_zero = is_all_zero(all.subspan(at, end - at));
    while (end < all.size()) {
      const std::size_t next = block_end(end);
      if (is_all_zero(all.subspan(end, next - end)) != is_zero) break;
      end = next;
    }
    const std::uint64_t offset_bytes = gathered_offset_bytes_ + at;
    if (!is_zero) {
      TRY(device_->write(offset_bytes, all.subspan(at, end - at)));
    } else if (!is_blank_) {
      TRY(device_->zero(offset_bytes, end - at));
    }
    at = end;
  }
  gathered_.clear();
  return {};
}

Result<void> ImageWriter::flush() {
  TRY(write_gathered());
  return device_->flush();
}

void ImageWriter::go_on(NbdDevice& device) {
  device_ = &device;
  is_blank_ = false;
  end_bytes_ = 0;
}

}  // namespace holdfast
