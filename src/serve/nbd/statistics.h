// SPDX-License-Identifier: Apache-2.0
//
// What one export has seen, for status, metrics and tests.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace holdfast {

// What a client did wrong. Those up to request_truncated ended its connection, the others only one
// option or request.
enum class NbdFault : std::uint8_t {
  bad_client_flags,
  bad_option_magic,
  option_not_allowed,  // without fixed newstyle only EXPORT_NAME is possible
  too_many_options,
  export_name_unknown,  // EXPORT_NAME has no error reply
  handshake_timeout,
  handshake_truncated,  // the peer went away inside a message
  too_many_connections,
  bad_request_magic,
  request_truncated,
  drain_timeout,  // last replies never read
  option_unsupported,
  option_malformed,
  option_too_big,
  option_export_unknown,
  command_unknown,
  command_flags,
  request_too_big,
  request_out_of_range,
  request_on_read_only,
  request_malformed,
  count_,
};
inline constexpr std::size_t kNbdFaultCount = static_cast<std::size_t>(NbdFault::count_);

std::string_view nbd_fault_name(NbdFault fault);

struct NbdStatistics {
  std::uint64_t connections_accepted = 0;
  std::uint64_t connections_negotiated = 0;  // reached transmission
  std::uint64_t connections_lost = 0;        // socket errors
  std::uint64_t requests = 0;
  std::uint64_t requests_failed = 0;  // answered with an error
  std::uint64_t read_bytes = 0;
  std::uint64_t written_bytes = 0;
  std::uint64_t receives = 0;
  std::uint64_t sends = 0;
  std::array<std::uint64_t, kNbdFaultCount> faults{};

  std::uint64_t fault_count(NbdFault fault) const {
    return faults[static_cast<std::size_t>(fault)];
  }
  void count(NbdFault fault) { ++faults[static_cast<std::size_t>(fault)]; }
};

}  // namespace holdfast
