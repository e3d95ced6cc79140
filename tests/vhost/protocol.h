// SPDX-License-Identifier: Apache-2.0
//
// The numbers and payloads of the vhost-user protocol, written down from its specification and
// apart from those of the server, so that a mistake in one of the two is seen.
#pragma once

#include <cstdint>

namespace holdfast::vhost_frontend {

enum : std::uint32_t {
  kGetFeatures = 1,
  kSetFeatures = 2,
  kSetOwner = 3,
  kResetOwner = 4,
  kSetMemoryTable = 5,
  kSetLogBase = 6,
  kSetLogFd = 7,
  kSetVringNum = 8,
  kSetVringAddress = 9,
  kSetVringBase = 10,
  kGetVringBase = 11,
  kSetVringKick = 12,
  kSetVringCall = 13,
  kSetVringError = 14,
  kGetProtocolFeatures = 15,
  kSetProtocolFeatures = 16,
  kGetQueueNum = 17,
  kSetVringEnable = 18,
  kSetBackendRequestFd = 21,
  kGetConfig = 24,
  kSetConfig = 25,
  kGetInflightFd = 31,
  kSetInflightFd = 32,
  kResetDevice = 34,
  kGetMaxMemorySlots = 36,
  kAddMemoryRegion = 37,
  kRemoveMemoryRegion = 38,
  kSetStatus = 39,
  kGetStatus = 40,
};

inline constexpr std::uint32_t kBackendConfigChange = 2;  // on the back-end's channel

// Flags of a message's header.
inline constexpr std::uint32_t kProtocolVersion = 1;
inline constexpr std::uint32_t kReplyFlag = 1U << 2U;
inline constexpr std::uint32_t kNeedReplyFlag = 1U << 3U;

// Protocol features, as bit numbers.
enum : std::uint32_t {
  kProtocolMq = 0,
  kProtocolLogMemory = 1,
  kProtocolReplyAck = 3,
  kProtocolBackendRequest = 5,
  kProtocolConfig = 9,
  kProtocolInflight = 12,
  kProtocolResetDevice = 13,
  kProtocolMemorySlots = 15,
  kProtocolStatus = 16,
};

// Feature bits of virtio that are not in <linux/virtio_blk.h>.
enum : std::uint32_t {
  kFeatureIndirect = 28,
  kFeatureEventIndex = 29,
  kFeatureProtocolFeatures = 30,
  kFeatureVersion1 = 32,
  kFeatureRingPacked = 34,
};

constexpr std::uint64_t bit(std::uint32_t number) {
  return std::uint64_t{1} << number;
}

struct MessageHeader {
  std::uint32_t request;
  std::uint32_t flags;
  std::uint32_t payload_bytes;
};
static_assert(sizeof(MessageHeader) == 12);

struct VringState {
  std::uint32_t index;
  std::uint32_t number;
};

struct VringAddress {
  std::uint32_t index;
  std::uint32_t flags;
  std::uint64_t descriptors;  // user addresses, all four
  std::uint64_t used;
  std::uint64_t available;
  std::uint64_t log;
};
static_assert(sizeof(VringAddress) == 40);

struct MemoryRegion {
  std::uint64_t guest_address;
  std::uint64_t bytes;
  std::uint64_t user_address;
  std::uint64_t file_offset;
};

inline constexpr std::uint32_t kMemoryTableRegionsMax = 8;

struct MemoryTable {
  std::uint32_t region_count;
  std::uint32_t padding;
  MemoryRegion regions[kMemoryTableRegionsMax];
};

struct SingleRegion {
  std::uint64_t padding;
  MemoryRegion region;
};

struct InflightDescription {
  std::uint64_t bytes;
  std::uint64_t file_offset;
  std::uint16_t queue_count;
  std::uint16_t queue_size;
  std::uint32_t padding;  // QEMU's struct ends on a multiple of 8
};
static_assert(sizeof(InflightDescription) == 24);

struct ConfigHeader {
  std::uint32_t offset;
  std::uint32_t bytes;
  std::uint32_t flags;
};

// In SET_VRING_KICK, CALL and ERR: no descriptor comes with the message.
inline constexpr std::uint64_t kVringNoFd = 1U << 8U;

}  // namespace holdfast::vhost_frontend
