// SPDX-License-Identifier: Apache-2.0
#include "pool/hold.h"

#include <cerrno>

#include "base/log.h"

namespace holdfast {

std::string_view hold_reason_text(HoldReason reason) {
  switch (reason) {
    case HoldReason::none:
      return "none";
    case HoldReason::space:
      return "pool full";
    case HoldReason::path:
      return "path failure";
  }
  return "unknown";
}

HoldReason sort_error(const Error& error) {
  switch (error.code()) {
    case ErrorCode::no_space:
      return HoldReason::space;
    case ErrorCode::path_failure:
      return HoldReason::path;
    default:
      return HoldReason::none;
  }
}

HoldReason sort_errno(int error) {
  switch (error) {
    case 0:
    case ENODATA:
      return HoldReason::none;
    case ENOSPC:
    case EDQUOT:
      return HoldReason::space;
    // Every other failure of a data transfer to a file that was open is taken as the path's: an
    // error that heals must not reach the guest.
    default:
      return HoldReason::path;
  }
}

Duration HoldTracker::Operation::failed(HoldReason reason, std::string_view detail) {
  HoldState& state = tracker_.state_;
  ++state.retries;
  state.detail = detail;
  if (state.reason == HoldReason::none) state.since = tracker_.executor_.now();
  if (state.reason != reason) {
    state.reason = reason;
    log_warning("volume " + tracker_.name_ + " is held: " + std::string(hold_reason_text(reason)) +
                ": " + std::string(detail));
  }
  if (!held_) {
    held_ = true;
    ++state.waiting;
  }
  if (tracker_.observer_) tracker_.observer_();
  return backoff_.next();
}

void HoldTracker::Operation::succeeded() {
  if (!held_) return;
  held_ = false;
  HoldState& state = tracker_.state_;
  if (--state.waiting != 0) return;
  log_info("volume " + tracker_.name_ + " goes on: no request is held any more");
  state.reason = HoldReason::none;
  state.detail.clear();
}

}  // namespace holdfast
