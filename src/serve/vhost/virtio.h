// SPDX-License-Identifier: Apache-2.0
//
// Numbers of virtio 1.1: split virtqueues (section 2.6) and the block device (section 5.2).
#pragma once

#include <cstddef>
#include <cstdint>

namespace holdfast::vhost {

// Feature bits.
inline constexpr unsigned kBlkFeatureSizeMax = 1;
inline constexpr unsigned kBlkFeatureSegMax = 2;
inline constexpr unsigned kBlkFeatureReadOnly = 5;
inline constexpr unsigned kBlkFeatureBlockSize = 6;
inline constexpr unsigned kBlkFeatureFlush = 9;
inline constexpr unsigned kBlkFeatureTopology = 10;
inline constexpr unsigned kBlkFeatureConfigWce = 11;
inline constexpr unsigned kBlkFeatureMq = 12;
inline constexpr unsigned kBlkFeatureDiscard = 13;
inline constexpr unsigned kBlkFeatureWriteZeroes = 14;
inline constexpr unsigned kFeatureLogAll = 26;  // vhost's own
inline constexpr unsigned kRingFeatureIndirect = 28;
inline constexpr unsigned kRingFeatureEventIndex = 29;
inline constexpr unsigned kFeatureProtocolFeatures = 30;  // vhost-user's own
inline constexpr unsigned kFeatureVersion1 = 32;

constexpr std::uint64_t bit(unsigned number) {
  return std::uint64_t{1} << number;
}

// Descriptor: address u64, length u32, flags u16, next u16.
inline constexpr std::size_t kDescriptorBytes = 16;
inline constexpr std::uint16_t kDescriptorNext = 1;
inline constexpr std::uint16_t kDescriptorWrite = 2;  // the device writes to it
inline constexpr std::uint16_t kDescriptorIndirect = 4;

// Available ring: flags u16, index u16, entries u16[size], used_event u16.
inline constexpr std::uint16_t kAvailableNoInterrupt = 1;
// Used ring: flags u16, index u16, entries {id u32, length u32}[size], avail_event u16.
inline constexpr std::uint16_t kUsedNoNotify = 1;
inline constexpr std::size_t kRingHeaderBytes = 4;
inline constexpr std::size_t kUsedEntryBytes = 8;

// Block requests: type u32, reserved u32, sector u64; payload; status u8.
inline constexpr std::size_t kRequestHeaderBytes = 16;
enum class BlkType : std::uint32_t {
  in = 0,
  out = 1,
  flush = 4,
  get_id = 8,
  discard = 11,
  write_zeroes = 13,
};
enum class BlkStatus : std::uint8_t { ok = 0, io_error = 1, unsupported = 2 };
inline constexpr std::size_t kSerialBytes = 20;  // answer to get_id; not terminated when full
// Discard, write zeroes: sector u64, sectors u32, flags u32.
inline constexpr std::size_t kDiscardSegmentBytes = 16;
inline constexpr std::uint32_t kDiscardFlagUnmap = 1;

}  // namespace holdfast::vhost
