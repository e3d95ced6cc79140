// SPDX-License-Identifier: Apache-2.0
#include "host/leases.h"

#include <array>

namespace holdfast {

const char* attach_mode_name(AttachMode mode) {
  switch (mode) {
    case AttachMode::exclusive:
      return "exclusive";
    case AttachMode::incoming:
      return "incoming";
    case AttachMode::shared_read_only:
      return "shared";
    case AttachMode::shared_writable:
      return "shared-writable";
  }
  return "exclusive";
}

std::optional<AttachMode> parse_attach_mode(std::string_view name) {
  for (const AttachMode mode : {AttachMode::exclusive, AttachMode::incoming,
                                AttachMode::shared_read_only, AttachMode::shared_writable}) {
    if (name == attach_mode_name(mode)) return mode;
  }
  return std::nullopt;
}

Result<AttachMode> attach_mode(const AttachRequest& request, bool is_snapshot) {
  const int wanted = (request.incoming ? 1 : 0) + (request.shared_writable ? 1 : 0) +
                     (request.shared_read_only ? 1 : 0);
  if (wanted > 1) {
    return Error(ErrorCode::invalid_argument,
                 "a volume is attached as incoming, shared, or shared-writable: say one of them");
  }
  if (request.incoming) {
    if (is_snapshot) {
      return Error(ErrorCode::invalid_argument,
                   "a snapshot has no owner that could hand it over; attach it without --incoming");
    }
    return AttachMode::incoming;
  }
  if (request.shared_writable) {
    if (is_snapshot || request.read_only) {
      return Error(ErrorCode::invalid_argument,
                   is_snapshot ? "a snapshot cannot be written to; attach it without "
                                 "--shared-writable"
                               : "--shared-writable and --read-only contradict each other; for "
                                 "readers on many hosts there is --shared");
    }
    return AttachMode::shared_writable;
  }
  if (request.shared_read_only && !is_snapshot) return AttachMode::shared_read_only;
  return AttachMode::exclusive;
}

const char* lease_holder_state_name(LeaseHolderState state) {
  switch (state) {
    case LeaseHolderState::free:
      return "free";
    case LeaseHolderState::unknown:
      return "unknown";
    case LeaseHolderState::live:
      return "live";
    case LeaseHolderState::failing:
      return "failing";
    case LeaseHolderState::dead:
      return "dead";
  }
  return "unknown";
}

}  // namespace holdfast
