// SPDX-License-Identifier: Apache-2.0
//
// What a volume does while its lease is not renewed, and once it is lost
// (docs/decisions/0022-the-volume-behind-a-fence.md). Writing goes on: what lands late lands where
// nobody reads. But no request is answered, nothing is published and nothing removed while the
// fence does not hold; and never again once the lease is lost.
#include <cstdio>

#include "base/log.h"
#include "volume/canary.h"
#include "volume/volume_impl.h"

namespace holdfast {

namespace {

// Says something of the volume, which only its owner may.
bool is_outcome(BlockStatus status) {
  return status != BlockStatus::cancelled && status != BlockStatus::hold_expired &&
         status != BlockStatus::shutting_down;
}

std::string format_time(WallTime time) {
  const std::chrono::sys_seconds when{std::chrono::seconds(time.unix_seconds)};
  const auto day = std::chrono::floor<std::chrono::days>(when);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(when - day);
  char text[48];
  std::snprintf(text, sizeof text, "%04d-%02u-%02u %02d:%02d:%02d UTC",
                static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
                static_cast<unsigned>(date.day()), static_cast<int>(clock.hours().count()),
                static_cast<int>(clock.minutes().count()),
                static_cast<int>(clock.seconds().count()));
  return text;
}

}  // namespace

BootTime VolumeImpl::fence_time() const {
  const BootTime now = executor_.boot_time();
  return canary::is_on(canary::kAcknowledgePastDeadline) ? now - limits::kFencePollTime : now;
}

Error VolumeImpl::lost_error() const {
  return Error(ErrorCode::busy, "the lease of volume " + info_.name +
                                    " is lost: another host may have taken the volume over; "
                                    "detach it here");
}

// --- Requests ---

bool VolumeImpl::may_answer(const BlockRequest& request, BlockStatus status) {
  const bool is_our_own = request.device_submitted == MonotonicTime{};  // of a resize, of a merge
  return is_our_own || !is_outcome(status) || (fenced_.empty() && fence_holds());
}

// It stays counted as active.
void VolumeImpl::hold_back(BlockRequest& request, BlockStatus status) {
  set_stage(request, Stage::fenced);
  request.device_state = reinterpret_cast<void*>(static_cast<std::uintptr_t>(status));
  fenced_.push_back(request);
  ++fenced_count_;
  look_at_fence();
}

void VolumeImpl::answer_fenced() {
  while (!fenced_.empty() && fence_holds()) {
    BlockRequest& request = *fenced_.pop_front();
    --fenced_count_;
    const auto status = reinterpret_cast<std::uintptr_t>(request.device_state);
    answer(request, static_cast<BlockStatus>(status));
  }
}

// --- Waiting ---

Task<bool> VolumeImpl::await_fence() {
  while (!abandoned_ && !fence_holds()) {
    ++fence_waiters_;
    look_at_fence();
    if (!abandoned_) co_await drained_.wait();
    --fence_waiters_;
    show_fence();
  }
  co_return !abandoned_;
}

void VolumeImpl::on_fence_timer(void* context) {
  auto* self = static_cast<VolumeImpl*>(context);
  if (self->fence_holds()) self->answer_fenced();
  self->look_at_fence();
}

// Nobody tells us of a renewal: while anybody waits, look.
void VolumeImpl::look_at_fence() {
  const bool holds = fence_holds();
  if (!holds && (options_.fence->is_lost() || wants_close_)) abandon();
  if (abandoned_) return show_fence();
  if (holds && fence_waiters_ != 0) drained_.notify_all();
  show_fence();
  const bool is_wanted = fenced_count_ != 0 || fence_waiters_ != 0 || wants_close_;
  if (is_wanted && !fence_timer_.is_armed()) {
    executor_.arm_after(fence_timer_, limits::kFencePollTime);
  }
}

void VolumeImpl::show_fence() {
  if (options_.fence == nullptr) return;
  const std::uint64_t waiting = fenced_count_ + fence_waiters_;
  if (options_.fence->is_lost()) {
    hold_.wait_for_lease(std::max<std::uint64_t>(waiting, 1),
                         "the lease is lost: another host may have taken the volume over; what "
                         "waits here is never answered, stop the machine or detach the volume");
  } else if (waiting == 0 || fence_holds()) {
    hold_.wait_for_lease(0, {});
  } else if (hold_.state().reason != HoldReason::lease) {
    const Duration since = executor_.boot_time() - options_.fence->deadline();
    const std::int64_t ran_out = executor_.wall_time().unix_seconds -
                                 std::chrono::duration_cast<std::chrono::seconds>(since).count();
    hold_.wait_for_lease(waiting, "it ran out at " + format_time(WallTime{ran_out}) +
                                      ", because the pool could not be written in time; requests "
                                      "go on when it is renewed");
  } else {
    hold_.wait_for_lease(waiting, std::string(hold_.state().detail));
  }
}

// --- The end ---

// Nothing is started from here on, and whatever waits ends. What is under way ends by itself.
void VolumeImpl::abandon() {
  if (abandoned_) return;
  abandoned_ = true;
  log_warning("volume " + info_.name +
              (options_.fence->is_lost() ? " has lost its lease" : " is closed without its lease") +
              ": nothing is answered, written or removed any more");
  hold_.give_up();
  // Of a resize that waits for them.
  std::vector<WriteOp*> own;
  for (auto* list : {&active_writes_, &conflicting_writes_}) {
    for (WriteOp* op = list->front(); op != nullptr; op = list->next(*op)) {
      const bool is_ours =
          op->request != nullptr && op->request->device_submitted == MonotonicTime{};
      if (is_ours) own.push_back(op);
    }
  }
  for (WriteOp* op : own) give_up(*op, BlockStatus::shutting_down);
  log_.give_up();
  drained_.notify_all();
  checkpoint_done_.notify_all();
  credit_earned_.notify_all();
  release_pressed_writes();
}

// Of a volume that was abandoned: answers what waits, and returns when nobody refers to its memory.
Task<void> VolumeImpl::end_abandoned() {
  closing_ = wants_close_ = true;
  executor_.cancel(fence_timer_);
  executor_.cancel(idle_timer_);
  executor_.cancel(free_timer_);
  for (BlockRequest* request : unanswered()) give_up(*request, BlockStatus::shutting_down);
  const auto has_reads = [this] {
    for (ReadOp* op = active_reads_.front(); op != nullptr; op = active_reads_.next(*op)) {
      if (op->request != nullptr) return true;
    }
    return false;
  };
  while (!tasks_.empty() || log_.has_tasks() || hold_.has_in_flight() || !completed_.empty() ||
         has_reads()) {
    co_await sleep_for(executor_, 1ms);
  }
}

}  // namespace holdfast
