// SPDX-License-Identifier: Apache-2.0
//
// The configuration space of a virtio block device (virtio 1.1, 5.2.4) as we fill it in.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "block/block_device.h"

namespace holdfast::vhost {

inline constexpr std::size_t kConfigBytes = 60;
inline constexpr std::size_t kConfigWceAt = 32;  // the one field that a guest may write

std::array<std::byte, kConfigBytes> encode_config(const BlockDeviceInfo& info, bool write_through);

}  // namespace holdfast::vhost
