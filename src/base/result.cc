// SPDX-License-Identifier: Apache-2.0
#include "base/result.h"

namespace holdfast {

std::string_view error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "invalid-argument";
    case ErrorCode::not_found: return "not-found";
    case ErrorCode::already_exists: return "already-exists";
    case ErrorCode::busy: return "busy";
    case ErrorCode::lease_held: return "lease-held";
    case ErrorCode::no_space: return "no-space";
    case ErrorCode::path_failure: return "path-failure";
    case ErrorCode::corrupt: return "corrupt";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::read_only: return "read-only";
    case ErrorCode::internal: return "internal";
  }
  return "unknown";
}

}  // namespace holdfast
