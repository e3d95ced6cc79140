// SPDX-License-Identifier: Apache-2.0
//
// The layout of an input of nbd_session_fuzz, shared with the program that writes its seeds: a few
// bytes that say how the session goes, then what the client sends.
#pragma once

#include <cstddef>
#include <cstdint>

namespace holdfast {

struct NbdSessionInput {
  static constexpr std::size_t kHeaderBytes = 4;
  static constexpr std::uint64_t kDeviceBytes = 300 * 1024 + 512;

  enum Flags : std::uint8_t {
    kWithHandshake = 1 << 0,  // a good handshake goes in front of the client's bytes
    kStructured = 1 << 1,     // with structured replies and block status
    kReadOnly = 1 << 2,
    kSlowDevice = 1 << 3,
    kPeerNeverReads = 1 << 4,
    kEndWithError = 1 << 5,  // instead of the end of the stream
    kCloseEarly = 1 << 6,    // the server is closed while requests are in flight
    kHeldDevice = 1 << 7,    // nothing completes before the peer is gone
  };

  std::uint8_t flags = 0;
  std::uint8_t piece_bytes_scale = 0;  // pieces of at most 1 << (value % 20) bytes
  std::uint16_t piece_seed = 0;        // big-endian
};

}  // namespace holdfast
