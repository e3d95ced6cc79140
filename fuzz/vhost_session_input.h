// SPDX-License-Identifier: Apache-2.0
//
// The layout of an input of vhost_session_fuzz, shared with the program that writes its seeds: a
// byte of flags, a byte with the shape of the queues, then operations, each a byte and its
// arguments. What is missing at the end reads as zeros.
#pragma once

#include <cstddef>
#include <cstdint>

namespace holdfast {

struct VhostSessionInput {
  static constexpr std::size_t kHeaderBytes = 2;
  static constexpr std::size_t kOperationsMax = 400;

  enum Flags : std::uint8_t {
    kEventIndex = 1 << 0,
    kIndirect = 1 << 1,
    kReadOnly = 1 << 2,
    kHeldDevice = 1 << 3,
    kInflight = 1 << 4,  // set-up asks for in-flight memory
    kPieces = 1 << 5,    // messages arrive byte by byte
  };
  // The shape: queue size 1 << (value % 8), 1 + (value >> 4) % 3 queues.

  enum class Operation : std::uint8_t {
    set_up,           // everything up to running queues
    message,          // type, flags, bytes, kinds of files (2 nibbles), payload
    raw_bytes,        // count, bytes: into the socket
    write_memory,     // offset u32, count, bytes
    descriptor,       // queue, index, place, offset u16, length u16, flags, next
    submit,           // queue, type, sector u16, pieces: well-formed
    available,        // queue, head u16
    publish,          // queue: and kick if wanted
    kick,             // queue
    available_index,  // queue, value u16: and kick
    used_event,       // queue, value u16
    complete,         // which, status
    hold,             // or release
    take_used,        // queue
    restart,          // another daemon, the memories stay
    hang_up,          // and connect again
    second_session,   // of another guest
    stop_queue,       // queue
    enable_queue,     // queue, value
    advance,          // time: 1 << value microseconds
    write_inflight,   // offset u16, count, bytes
    truncate,         // which memory, size u16 in 64 bytes
    resize,           // of the disk
    log,              // what of a migration's log, size u16 in 64 bytes
    holding,          // the device says so, or not any more
    count_,
  };
};

}  // namespace holdfast
