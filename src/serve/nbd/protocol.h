// SPDX-License-Identifier: Apache-2.0
//
// The NBD protocol on the wire (doc/proto.md of the NBD project): constants, and the encoding of
// requests and replies. Pure; everything is big-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/bytes.h"
#include "block/block_device.h"

namespace holdfast::nbd {

// Handshake.
inline constexpr std::uint64_t kGreetingMagic = 0x4e42444d41474943;  // "NBDMAGIC"
inline constexpr std::uint64_t kOptionMagic = 0x49484156454f5054;    // "IHAVEOPT"
inline constexpr std::uint64_t kOptionReplyMagic = 0x0003e889045565a9;
inline constexpr std::uint16_t kFlagFixedNewstyle = 1 << 0;
inline constexpr std::uint16_t kFlagNoZeroes = 1 << 1;
inline constexpr std::size_t kGreetingBytes = 18;
inline constexpr std::size_t kClientFlagsBytes = 4;
inline constexpr std::size_t kOptionHeaderBytes = 16;
inline constexpr std::size_t kOptionReplyHeaderBytes = 20;
inline constexpr std::size_t kExportNameZeroBytes = 124;

enum class Option : std::uint32_t {
  export_name = 1,
  abort = 2,
  list = 3,
  info = 6,
  go = 7,
  structured_reply = 8,
  list_meta_context = 9,
  set_meta_context = 10,
};

enum class OptionReply : std::uint32_t {
  ack = 1,
  server = 2,
  info = 3,
  meta_context = 4,
  error_unsupported = 0x80000001,
  error_policy = 0x80000002,
  error_invalid = 0x80000003,
  error_unknown = 0x80000006,
  error_too_big = 0x80000009,
};

enum class Info : std::uint16_t { export_size = 0, name = 1, description = 2, block_size = 3 };

// Transmission flags.
inline constexpr std::uint16_t kHasFlags = 1 << 0;
inline constexpr std::uint16_t kReadOnly = 1 << 1;
inline constexpr std::uint16_t kSendFlush = 1 << 2;
inline constexpr std::uint16_t kSendFua = 1 << 3;
inline constexpr std::uint16_t kSendTrim = 1 << 5;
inline constexpr std::uint16_t kSendWriteZeroes = 1 << 6;
inline constexpr std::uint16_t kSendDontFragment = 1 << 7;
inline constexpr std::uint16_t kCanMultiConnect = 1 << 8;

// The one metadata context.
inline constexpr std::string_view kAllocationContext = "base:allocation";
inline constexpr std::uint32_t kAllocationContextId = 1;
inline constexpr std::uint32_t kStateHole = 1 << 0;
inline constexpr std::uint32_t kStateZero = 1 << 1;

// Transmission.
inline constexpr std::uint32_t kRequestMagic = 0x25609513;
inline constexpr std::uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr std::uint32_t kStructuredReplyMagic = 0x668e33ef;
inline constexpr std::size_t kRequestBytes = 28;
inline constexpr std::size_t kSimpleReplyBytes = 16;
inline constexpr std::size_t kStructuredReplyBytes = 20;

enum class Command : std::uint16_t {
  read = 0,
  write = 1,
  disconnect = 2,
  flush = 3,
  trim = 4,
  cache = 5,
  write_zeroes = 6,
  block_status = 7,
};

inline constexpr std::uint16_t kCommandFua = 1 << 0;
inline constexpr std::uint16_t kCommandNoHole = 1 << 1;
inline constexpr std::uint16_t kCommandDontFragment = 1 << 2;
inline constexpr std::uint16_t kCommandRequestOne = 1 << 3;

inline constexpr std::uint16_t kReplyDone = 1 << 0;
enum class Reply : std::uint16_t {
  none = 0,
  offset_data = 1,
  block_status = 5,
  error = 0x8001,
};

enum class NbdErrno : std::uint32_t {
  none = 0,
  not_permitted = 1,  // EPERM
  io = 5,             // EIO
  invalid = 22,       // EINVAL
  no_space = 28,      // ENOSPC
  shutdown = 108,     // ESHUTDOWN
};

struct RequestHeader {
  std::uint16_t flags = 0;
  std::uint16_t command = 0;
  std::uint64_t cookie = 0;
  std::uint64_t offset_bytes = 0;
  std::uint32_t length_bytes = 0;
};

// False if the magic is wrong, and then nothing that follows can be trusted.
inline bool decode_request(const std::byte* from, RequestHeader& header) {
  header.flags = load_big<std::uint16_t>(from + 4);
  header.command = load_big<std::uint16_t>(from + 6);
  header.cookie = load_big<std::uint64_t>(from + 8);
  header.offset_bytes = load_big<std::uint64_t>(from + 16);
  header.length_bytes = load_big<std::uint32_t>(from + 24);
  return load_big<std::uint32_t>(from) == kRequestMagic;
}

inline void encode_request(std::byte* to, const RequestHeader& header) {
  store_big(to, kRequestMagic);
  store_big(to + 4, header.flags);
  store_big(to + 6, header.command);
  store_big(to + 8, header.cookie);
  store_big(to + 16, header.offset_bytes);
  store_big(to + 24, header.length_bytes);
}

inline void encode_simple_reply(std::byte* to, NbdErrno error, std::uint64_t cookie) {
  store_big(to, kSimpleReplyMagic);
  store_big(to + 4, static_cast<std::uint32_t>(error));
  store_big(to + 8, cookie);
}

inline void encode_structured_reply(std::byte* to, Reply type, std::uint64_t cookie,
                                    std::uint32_t payload_bytes) {
  store_big(to, kStructuredReplyMagic);
  store_big(to + 4, kReplyDone);  // every reply of ours is one chunk
  store_big(to + 6, static_cast<std::uint16_t>(type));
  store_big(to + 8, cookie);
  store_big(to + 16, payload_bytes);
}

// The only place where a device's answer becomes NBD's. The protocol wants EINVAL for a read or a
// trim behind the end, ENOSPC for a write there.
inline NbdErrno errno_for(BlockStatus status, BlockOperation operation) {
  switch (status) {
    case BlockStatus::ok:
      return NbdErrno::none;
    case BlockStatus::out_of_range:
      return operation == BlockOperation::write || operation == BlockOperation::write_zeroes
                 ? NbdErrno::no_space
                 : NbdErrno::invalid;
    case BlockStatus::read_only:
      return NbdErrno::not_permitted;
    case BlockStatus::medium_error:
    case BlockStatus::hold_expired:
      return NbdErrno::io;
    case BlockStatus::shutting_down:
    case BlockStatus::cancelled:  // nobody hears it: the connection is closed
      return NbdErrno::shutdown;
  }
  return NbdErrno::io;
}

}  // namespace holdfast::nbd
