// SPDX-License-Identifier: Apache-2.0
#include "host/leases.h"

#include <algorithm>
#include <string>
#include <utility>

namespace holdfast {
namespace {

std::string whole_seconds(Duration duration) {
  return std::to_string(std::chrono::ceil<std::chrono::seconds>(duration).count()) + " s";
}

std::string host_of(const LeaseReport& lease) {
  return lease.host.empty() ? "with the id " + std::to_string(lease.host_id)
                            : "'" + lease.host + "'";
}

bool is_overdue(LeaseHolderState state, Duration unchanged, const LeaseTimes& times) {
  return state == LeaseHolderState::live && unchanged > 3 * times.io_timeout;
}

Duration until_dead(Duration unchanged, const LeaseTimes& times) {
  return std::max(times.dead() - unchanged, Duration::zero());
}

}  // namespace

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

void judge_overdue(LeaseReport& lease, const LeaseTimes& times) {
  if (!lease.is_held || lease.is_ours || !lease.last_renewal_age.has_value()) return;
  if (!is_overdue(lease.holder_state, *lease.last_renewal_age, times)) return;
  lease.holder_state = LeaseHolderState::failing;
  lease.take_over_in = until_dead(*lease.last_renewal_age, times);
}

void judge_overdue(PoolHostReport& host, const LeaseTimes& times) {
  if (!host.unchanged.has_value() || !is_overdue(host.state, *host.unchanged, times)) return;
  host.state = LeaseHolderState::failing;
  host.dead_in = until_dead(*host.unchanged, times);
}

Error lease_held_error(const LeaseReport& lease, AttachMode wanted) {
  const std::string name = lease.volume.to_string();
  const std::string host = host_of(lease);
  std::string text = "volume '" + name + "' belongs to host " + host;
  if (lease.mode == "shared") text = "volume '" + name + "' is read by host " + host;
  const std::string age = lease.last_renewal_age.has_value()
                              ? " for " + whole_seconds(*lease.last_renewal_age)
                              : std::string();
  const std::string left = lease.take_over_in.has_value()
                               ? "in " + whole_seconds(*lease.take_over_in)
                               : "when that is known to be dead";
  switch (lease.holder_state) {
    case LeaseHolderState::failing:
      text += ", which has not renewed its lease" + age + "; it can be attached here " + left +
              ", unless that host comes back before";
      break;
    case LeaseHolderState::dead:
      text += ", which is dead: it has not renewed its lease" + age + "; try again to take it over";
      break;
    case LeaseHolderState::unknown:
      text += ", and it takes a while to know whether that lives; it can be attached here " + left +
              " if it does not";
      break;
    case LeaseHolderState::free:
      text += ", which is just leaving it; try again";
      break;
    case LeaseHolderState::live:
      text += ", which is live";
      if (lease.last_renewal_age.has_value()) {
        text += " (it renewed its lease " + whole_seconds(*lease.last_renewal_age) + " ago)";
      }
      if (wanted == AttachMode::shared_writable) {
        text +=
            "; one host serves a shared-writable volume, so connect all its clients there, or "
            "detach it there: holdfast detach " +
            name;
      } else if (lease.mode == "shared") {
        text += "; detach it there (holdfast detach " + name + "), or attach it --shared here, too";
      } else {
        text += "; detach it there (holdfast detach " + name +
                "), or let it go from there "
                "(holdfast handover " +
                name + ")";
      }
      break;
  }
  return Error(ErrorCode::lease_held, std::move(text));
}

Result<void> check_breakable(const LeaseReport& lease) {
  const std::string name = lease.volume.to_string();
  const std::string refused = "the lease of '" + name + "' is not broken: ";
  if (!lease.is_held) return {};
  if (lease.is_ours) {
    return Error(ErrorCode::busy, refused +
                                      "this host has it; detach the volume instead: holdfast "
                                      "detach " +
                                      name);
  }
  const std::string host = host_of(lease);
  const std::string left = lease.take_over_in.has_value()
                               ? "; try again in " + whole_seconds(*lease.take_over_in) +
                                     ", or attach the volume, which waits for that"
                               : std::string();
  switch (lease.holder_state) {
    case LeaseHolderState::live:
      return Error(ErrorCode::busy, refused + "host " + host +
                                        " has it, and is live; detach it there: holdfast detach " +
                                        name);
    case LeaseHolderState::failing:
      return Error(ErrorCode::busy,
                   refused + "host " + host + " has it, and may still come back" + left);
    case LeaseHolderState::unknown:
      return Error(ErrorCode::busy, refused + "host " + host +
                                        " has it, and it is not known whether that lives" + left);
    case LeaseHolderState::dead:
    case LeaseHolderState::free:
      return {};
  }
  return {};
}

}  // namespace holdfast
