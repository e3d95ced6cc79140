// SPDX-License-Identifier: Apache-2.0
//
// What one vhost-user socket has seen, for status, metrics and tests.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace holdfast {

// What a peer did wrong. Those up to session_limit end its connection; those up to memory_lost mark
// its device broken until it is reset; the rest refuse one message or one request.
enum class VhostFault : std::uint8_t {
  message_malformed,
  message_too_big,
  message_truncated,  // the peer went away inside one
  session_limit,
  descriptor_out_of_range,
  descriptor_loop,
  descriptor_order,     // something to read behind something to write
  descriptor_address,   // not in the guest's memory
  descriptor_indirect,  // malformed, nested or not negotiated
  chain_too_long,
  chain_too_short,  // no room for header or status
  available_index,  // more new requests than the queue has room for
  head_in_flight,   // made available twice
  ring_address,
  log_out_of_range,  // written to a page that the log has no bit for
  ring_setup,        // size, alignment or order of messages
  inflight_malformed,
  memory_lost,  // the peer truncated a file that we share
  message_unknown,
  message_refused,  // a value or a file that makes no sense
  request_malformed,
  request_unsupported,
  request_out_of_range,
  count_,
};
inline constexpr std::size_t kVhostFaultCount = static_cast<std::size_t>(VhostFault::count_);

std::string_view vhost_fault_name(VhostFault fault);

struct VhostStatistics {
  std::uint64_t sessions_accepted = 0;
  std::uint64_t sessions_lost = 0;  // socket errors
  std::uint64_t devices_broken = 0;
  std::uint64_t requests = 0;
  std::uint64_t requests_failed = 0;   // answered with an error
  std::uint64_t requests_resumed = 0;  // in flight when a daemon died, or held when a queue stopped
  std::uint64_t kicks = 0;             // wake-ups by the guest
  std::uint64_t calls = 0;             // interrupts for the guest
  std::uint64_t polled = 0;            // looks that found requests without a kick
  std::array<std::uint64_t, kVhostFaultCount> faults{};

  std::uint64_t fault_count(VhostFault fault) const {
    return faults[static_cast<std::size_t>(fault)];
  }
  void count(VhostFault fault) { ++faults[static_cast<std::size_t>(fault)]; }
};

}  // namespace holdfast
