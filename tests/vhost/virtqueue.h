// SPDX-License-Identifier: Apache-2.0
//
// The split virtqueue in memory, from the virtio specification. (<linux/virtio_ring.h> has the same
// but is not C++.)
#pragma once

#include <cstdint>

namespace holdfast::vhost_frontend {

inline constexpr std::uint16_t kDescriptorNext = 1;
inline constexpr std::uint16_t kDescriptorWrite = 2;  // by the device
inline constexpr std::uint16_t kDescriptorIndirect = 4;
inline constexpr std::uint16_t kAvailableNoInterrupt = 1;
inline constexpr std::uint16_t kUsedNoNotify = 1;

struct Descriptor {
  std::uint64_t guest_address;
  std::uint32_t bytes;
  std::uint16_t flags;
  std::uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

struct UsedElement {
  std::uint32_t id;
  std::uint32_t len;
};

// With EVENT_IDX: an index that went from `before` to `now` has passed the peer's event index.
constexpr bool passes_event(std::uint16_t event, std::uint16_t before, std::uint16_t now) {
  return static_cast<std::uint16_t>(now - event - 1) < static_cast<std::uint16_t>(now - before);
}

}  // namespace holdfast::vhost_frontend
