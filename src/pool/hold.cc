// SPDX-License-Identifier: Apache-2.0
#include "pool/hold.h"

#include <algorithm>
#include <cerrno>

#include "base/log.h"

namespace holdfast {
namespace {

std::string seconds_text(Duration duration) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(duration).count()) + " s";
}

std::string operations_text(std::uint64_t count, std::string_view one, std::string_view many) {
  return std::to_string(count) + (count == 1 ? " operation " : " operations ") +
         std::string(count == 1 ? one : many);
}

}  // namespace

std::string_view hold_reason_text(HoldReason reason) {
  switch (reason) {
    case HoldReason::none:
      return "none";
    case HoldReason::space:
      return "pool full";
    case HoldReason::path:
      return "path failure";
    case HoldReason::stall:
      return "storage does not answer";
    case HoldReason::lease:
      return "lease not renewed";
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

// --- Errors ---

Duration HoldTracker::Operation::failed(HoldReason reason, std::string_view detail) {
  ++tracker_.state_.retries;
  tracker_.error_detail_ = detail;
  if (!held_) {
    held_ = true;
    ++tracker_.retrying_;
  }
  if (tracker_.error_reason_ != reason) {
    tracker_.error_reason_ = reason;
    log_warning("volume " + tracker_.name_ + " is held: " + std::string(hold_reason_text(reason)) +
                ": " + std::string(detail));
  }
  tracker_.show();
  if (tracker_.observer_) tracker_.observer_();
  return backoff_.next();
}

void HoldTracker::Operation::succeeded() {
  if (!held_) return;
  held_ = false;
  if (--tracker_.retrying_ == 0) {
    log_info("volume " + tracker_.name_ + " goes on: no request is held any more");
    tracker_.error_reason_ = HoldReason::none;
    tracker_.error_detail_.clear();
  }
  tracker_.show();
}

void HoldTracker::wait_for_lease(std::uint64_t waiting, std::string_view detail) {
  const bool begins = waiting_for_lease_ == 0 && waiting != 0;
  const bool ends = waiting_for_lease_ != 0 && waiting == 0;
  waiting_for_lease_ = waiting;
  if (begins || lease_detail_ != detail) {
    lease_detail_ = detail;
    if (waiting != 0) {
      log_warning("volume " + name_ + " is held: " +
                  std::string(hold_reason_text(HoldReason::lease)) + ": " + lease_detail_);
    }
  }
  if (ends) log_info("volume " + name_ + " goes on: its lease holds again");
  show();
}

// What the parts say together. An error says more than silence; a hold that goes from one to the
// other is one hold.
void HoldTracker::show() {
  const HoldReason reason = waiting_for_lease_ != 0 ? HoldReason::lease
                            : retrying_ != 0        ? error_reason_
                            : stall_.active         ? HoldReason::stall
                                                    : HoldReason::none;
  if (state_.reason == HoldReason::none && reason != HoldReason::none) {
    state_.since = stall_.active ? stall_.since : executor_.now();
  } else if (stall_.active) {
    state_.since = std::min(state_.since, stall_.since);
  }
  state_.reason = reason;
  state_.waiting = retrying_ + stall_.waiting + waiting_for_lease_;
  if (waiting_for_lease_ != 0) {
    state_.detail = lease_detail_;
  } else if (retrying_ != 0) {
    state_.detail = error_detail_;
  } else {
    state_.detail = stall_.detail;
  }
}

// --- Stalls ---

HoldTracker::Call::Call(HoldTracker& tracker, std::string text)
    : what(std::move(text)), began(tracker.executor_.now()) {
  tracker.calls_.push_back(*this);
  tracker.watch();
}

void HoldTracker::submitted(FileRequest& request) {
  request.submitted = executor_.now();
  requests_.push_back(request);
  watch();
}

void HoldTracker::watch() {
  if (!timer_.is_armed()) executor_.arm_after(timer_, limits::kStallCheckInterval);
}

void HoldTracker::forget_in_flight() {
  requests_.clear();
  calls_.clear();
  if (timer_.is_armed()) executor_.cancel(timer_);
}

void HoldTracker::on_timer(void* context) {
  static_cast<HoldTracker*>(context)->check();
}

void HoldTracker::check() {
  const bool any = !requests_.empty() || !calls_.empty();
  const MonotonicTime since = oldest();
  if (any && executor_.now() - since >= limits::kStallTime) {
    stalled(since);
  } else if (stall_.active) {
    stall_ended();
  }
  // Nothing in flight: the next request arms it again.
  if (!any) return;
  executor_.arm_after(
      timer_, stall_.active ? limits::kStallCheckIntervalHeld : limits::kStallCheckInterval);
}

MonotonicTime HoldTracker::oldest() {
  MonotonicTime since = MonotonicTime::max();
  if (!requests_.empty()) since = requests_.front()->submitted;
  if (!calls_.empty()) since = std::min(since, calls_.front()->began);
  return since;
}

std::string HoldTracker::describe_oldest() {
  const FileRequest* request = requests_.front();
  const Call* call = calls_.front();
  if (call != nullptr && (request == nullptr || call->began <= request->submitted)) {
    return call->what;
  }
  const std::string& file = request->file->name();
  switch (request->operation) {
    case FileOperation::read:
      return "read of " + file + " at " + std::to_string(request->offset_bytes);
    case FileOperation::write:
      return "write to " + file + " at " + std::to_string(request->offset_bytes);
    case FileOperation::sync_data:
      return "sync of " + file;
  }
  return file;
}

std::uint64_t HoldTracker::count_overdue() {
  const MonotonicTime due = executor_.now() - limits::kStallTime;
  std::uint64_t count = 0;
  for (FileRequest* at = requests_.front(); at != nullptr && at->submitted <= due;
       at = requests_.next(*at)) {
    ++count;
  }
  for (Call* at = calls_.front(); at != nullptr && at->began <= due; at = calls_.next(*at)) ++count;
  return count;
}

void HoldTracker::stalled(MonotonicTime since) {
  const MonotonicTime now = executor_.now();
  stall_.waiting = count_overdue();
  const bool begins = !stall_.active;
  if (begins) {
    stall_ = Stall{.active = true, .since = since, .waiting = stall_.waiting};
    stall_.next_reminder = limits::kStallReminderDelay;
    ++state_.stalls;
  }
  stall_.waiting_max = std::max(stall_.waiting_max, stall_.waiting);
  const std::string detail = "no answer for " + seconds_text(now - since) + " to the " +
                             describe_oldest() + "; " +
                             operations_text(stall_.waiting, "waits", "wait");
  if (begins && (state_.stalls == 1 || now - last_stall_logged_ >= limits::kStallLogInterval)) {
    const std::string before = stalls_not_logged_ == 0 ? ""
                                                       : " (" + std::to_string(stalls_not_logged_) +
                                                             " short times since the last message)";
    log_warning("volume " + name_ + " is held: " +
                std::string(hold_reason_text(HoldReason::stall)) + ": " + detail + before);
    stall_.logged = true;
    last_stall_logged_ = now;
    stalls_not_logged_ = 0;
  } else if (begins) {
    ++stalls_not_logged_;
  } else if (now - stall_.since >= stall_.next_reminder) {
    log_warning("volume " + name_ + " is still held: " + detail);
    stall_.logged = true;
    stall_.next_reminder = 2 * stall_.next_reminder;
  }
  stall_.detail = detail;
  show();
}

void HoldTracker::stall_ended() {
  if (stall_.logged) {
    log_info("volume " + name_ + " goes on: the storage answers again after " +
             seconds_text(executor_.now() - stall_.since) + "; up to " +
             operations_text(stall_.waiting_max, "waited", "waited"));
  }
  stall_ = Stall{};
  show();
}

}  // namespace holdfast
