// SPDX-License-Identifier: Apache-2.0
//
// Puts an image together on a volume out of extents that come in any pieces: gathers them into
// large aligned writes, and keeps zeros from taking space.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace holdfast {

bool is_all_zero(std::span<const std::byte> bytes);

class NbdDevice;

class ImageWriter {
 public:
  // `is_blank`: the volume holds only zeros.
  ImageWriter(NbdDevice& device, bool is_blank) : device_(&device), is_blank_(is_blank) {}

  Result<void> data(std::uint64_t offset_bytes, std::span<const std::byte> bytes);
  Result<void> zero(std::uint64_t offset_bytes, std::uint64_t length_bytes);
  Result<void> flush();  // durable
  // From here on, through another connection to the same volume, which holds something now.
  void go_on(NbdDevice& device);

 private:
  Result<void> keep_order(std::uint64_t offset_bytes, std::uint64_t length_bytes);
  Result<void> write_gathered();

  NbdDevice* device_;
  bool is_blank_;
  std::uint64_t end_bytes_ = 0;  // nothing was written from here on
  std::uint64_t gathered_offset_bytes_ = 0;
  std::vector<std::byte> gathered_;  // at most NbdDevice::kPieceBytes
};

}  // namespace holdfast
