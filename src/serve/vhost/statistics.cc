// SPDX-License-Identifier: Apache-2.0
#include "serve/vhost/statistics.h"

namespace holdfast {

std::string_view vhost_fault_name(VhostFault fault) {
  switch (fault) {
    case VhostFault::message_malformed:
      return "message_malformed";
    case VhostFault::message_too_big:
      return "message_too_big";
    case VhostFault::message_truncated:
      return "message_truncated";
    case VhostFault::session_limit:
      return "session_limit";
    case VhostFault::descriptor_out_of_range:
      return "descriptor_out_of_range";
    case VhostFault::descriptor_loop:
      return "descriptor_loop";
    case VhostFault::descriptor_order:
      return "descriptor_order";
    case VhostFault::descriptor_address:
      return "descriptor_address";
    case VhostFault::descriptor_indirect:
      return "descriptor_indirect";
    case VhostFault::chain_too_long:
      return "chain_too_long";
    case VhostFault::chain_too_short:
      return "chain_too_short";
    case VhostFault::available_index:
      return "available_index";
    case VhostFault::head_in_flight:
      return "head_in_flight";
    case VhostFault::ring_address:
      return "ring_address";
    case VhostFault::log_out_of_range:
      return "log_out_of_range";
    case VhostFault::ring_setup:
      return "ring_setup";
    case VhostFault::inflight_malformed:
      return "inflight_malformed";
    case VhostFault::memory_lost:
      return "memory_lost";
    case VhostFault::message_unknown:
      return "message_unknown";
    case VhostFault::message_refused:
      return "message_refused";
    case VhostFault::request_malformed:
      return "request_malformed";
    case VhostFault::request_unsupported:
      return "request_unsupported";
    case VhostFault::request_out_of_range:
      return "request_out_of_range";
    case VhostFault::count_:
      break;
  }
  return "unknown";
}

}  // namespace holdfast
