// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/statistics.h"

namespace holdfast {

std::string_view nbd_fault_name(NbdFault fault) {
  switch (fault) {
    case NbdFault::bad_client_flags:
      return "bad_client_flags";
    case NbdFault::bad_option_magic:
      return "bad_option_magic";
    case NbdFault::option_not_allowed:
      return "option_not_allowed";
    case NbdFault::too_many_options:
      return "too_many_options";
    case NbdFault::export_name_unknown:
      return "export_name_unknown";
    case NbdFault::handshake_timeout:
      return "handshake_timeout";
    case NbdFault::handshake_truncated:
      return "handshake_truncated";
    case NbdFault::too_many_connections:
      return "too_many_connections";
    case NbdFault::bad_request_magic:
      return "bad_request_magic";
    case NbdFault::request_truncated:
      return "request_truncated";
    case NbdFault::drain_timeout:
      return "drain_timeout";
    case NbdFault::option_unsupported:
      return "option_unsupported";
    case NbdFault::option_malformed:
      return "option_malformed";
    case NbdFault::option_too_big:
      return "option_too_big";
    case NbdFault::option_export_unknown:
      return "option_export_unknown";
    case NbdFault::command_unknown:
      return "command_unknown";
    case NbdFault::command_flags:
      return "command_flags";
    case NbdFault::request_too_big:
      return "request_too_big";
    case NbdFault::request_out_of_range:
      return "request_out_of_range";
    case NbdFault::request_on_read_only:
      return "request_on_read_only";
    case NbdFault::request_malformed:
      return "request_malformed";
    case NbdFault::count_:
      break;
  }
  return "unknown";
}

}  // namespace holdfast
