// SPDX-License-Identifier: Apache-2.0
#include "serve/vhost/config_space.h"

#include "base/bytes.h"
#include "base/limits.h"
#include "base/units.h"

namespace holdfast::vhost {
namespace {

// Guests address 512 bytes, and learn that 4 KiB is what suits.
constexpr std::uint8_t kPhysicalBlockExponent = 3;
constexpr std::uint16_t kMinimumIoSectors = kBlockBytes / kSectorBytes;
constexpr std::uint32_t kOptimalIoSectors = 256 * kKiB / kSectorBytes;
// So that no request of a driver that keeps to both limits is too long.
constexpr std::uint32_t kSegmentBytesMax = 256 * kKiB;
static_assert(std::uint64_t{kSegmentBytesMax} * limits::kVhostSegmentsPerRequest <=
              limits::kVhostRequestBytesMax);
constexpr std::uint32_t kDiscardSectorsMax =
    static_cast<std::uint32_t>(limits::kVhostDiscardBytesMax / kSectorBytes);

}  // namespace

std::array<std::byte, kConfigBytes> encode_config(const BlockDeviceInfo& info, bool write_through) {
  std::array<std::byte, kConfigBytes> bytes;
  ByteWriter out(bytes);
  out.put<std::uint64_t>(info.size_bytes / kSectorBytes);
  out.put<std::uint32_t>(kSegmentBytesMax);
  out.put<std::uint32_t>(limits::kVhostSegmentsPerRequest);
  out.put_zeros(4);  // geometry: not offered
  out.put<std::uint32_t>(kSectorBytes);
  out.put<std::uint8_t>(kPhysicalBlockExponent);
  out.put<std::uint8_t>(0);  // alignment of the first sector
  out.put<std::uint16_t>(kMinimumIoSectors);
  out.put<std::uint32_t>(kOptimalIoSectors);
  out.put<std::uint8_t>(write_through ? 0 : 1);
  out.put_zeros(1);
  out.put<std::uint16_t>(limits::kVhostQueuesMax);
  out.put<std::uint32_t>(kDiscardSectorsMax);
  out.put<std::uint32_t>(limits::kVhostDiscardSegmentsMax);
  out.put<std::uint32_t>(kBlockBytes / kSectorBytes);  // alignment of discards
  out.put<std::uint32_t>(kDiscardSectorsMax);
  out.put<std::uint32_t>(limits::kVhostDiscardSegmentsMax);
  out.put<std::uint8_t>(1);  // write zeroes may unmap
  out.put_zeros(3);
  return bytes;
}

}  // namespace holdfast::vhost
