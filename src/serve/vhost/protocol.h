// SPDX-License-Identifier: Apache-2.0
//
// Messages of the vhost-user protocol, as QEMU's docs/interop/vhost-user.rst has them. A message is
// a header (request u32, flags u32, payload bytes u32) and a payload, in the host's byte order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace holdfast::vhost {

inline constexpr std::size_t kMessageHeaderBytes = 12;
inline constexpr std::uint32_t kMessageVersion = 1;
inline constexpr std::uint32_t kMessageVersionMask = 3;
inline constexpr std::uint32_t kMessageReply = 1u << 2;
inline constexpr std::uint32_t kMessageNeedReply = 1u << 3;

enum class MessageType : std::uint32_t {
  get_features = 1,
  set_features = 2,
  set_owner = 3,
  reset_owner = 4,
  set_mem_table = 5,
  set_log_base = 6,
  set_log_fd = 7,
  set_vring_num = 8,
  set_vring_addr = 9,
  set_vring_base = 10,
  get_vring_base = 11,
  set_vring_kick = 12,
  set_vring_call = 13,
  set_vring_err = 14,
  get_protocol_features = 15,
  set_protocol_features = 16,
  get_queue_num = 17,
  set_vring_enable = 18,
  set_backend_request_fd = 21,
  get_config = 24,
  set_config = 25,
  get_inflight_fd = 31,
  set_inflight_fd = 32,
  reset_device = 34,
  get_max_mem_slots = 36,
  add_mem_reg = 37,
  rem_mem_reg = 38,
};

// Messages from the back-end, on the channel of set_backend_request_fd.
enum class BackendMessageType : std::uint32_t { config_change = 2 };

// Protocol feature bits.
inline constexpr unsigned kProtocolMq = 0;
inline constexpr unsigned kProtocolLogMemory = 1;  // LOG_SHMFD
inline constexpr unsigned kProtocolReplyAck = 3;
inline constexpr unsigned kProtocolBackendRequest = 5;
inline constexpr unsigned kProtocolConfig = 9;
inline constexpr unsigned kProtocolInflightMemory = 12;
inline constexpr unsigned kProtocolResetDevice = 13;
inline constexpr unsigned kProtocolConfigureMemSlots = 15;

inline constexpr std::size_t kMemTableRegionsMax = 8;  // of one set_mem_table
inline constexpr std::size_t kRegionBytes = 32;  // guest address, bytes, user address, file offset
inline constexpr std::size_t kConfigBytesMax = 256;
inline constexpr std::uint64_t kLogPageBytes = 4096;
inline constexpr std::uint32_t kVringFlagLog = 1;  // of set_vring_addr: log the used ring
inline constexpr std::uint64_t kVringIndexMask = 0xFF;
inline constexpr std::uint64_t kVringNoDescriptor = 1u << 8;

struct MessageHeader {
  MessageType type{};
  std::uint32_t flags = 0;
  std::uint32_t payload_bytes = 0;
  bool needs_reply() const { return (flags & kMessageNeedReply) != 0; }
};

}  // namespace holdfast::vhost
