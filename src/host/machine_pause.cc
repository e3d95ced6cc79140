// SPDX-License-Identifier: Apache-2.0
#include "host/machine_pause.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace holdfast {

MachinePause::MachinePause(MachinePauseEnvironment environment, std::string path, bool is_ours)
    : environment_(std::move(environment)),
      executor_(environment_.executor),
      path_(std::move(path)),
      changed_(executor_),
      is_ours_(is_ours),
      is_inherited_(is_ours) {
  if (is_ours_) state_ = State::paused;
  tasks_.spawn(run());
}

void MachinePause::update(bool is_held, bool wants_pause) {
  if (is_held_ && !is_held) {
    flowing_since_ = executor_.now();
    is_left_alone_ = false;
    if (!is_ours_) detail_.clear();
  }
  is_held_ = is_held;
  wants_pause_ = wants_pause;
  if (has_work() || monitor_ != nullptr) changed_.notify_all();
}

Task<void> MachinePause::end() {
  is_ending_ = true;
  changed_.notify_all();
  while (!tasks_.empty()) co_await sleep_for(executor_, 1ms);
}

MachineReport MachinePause::report() const {
  MachineReport report;
  report.pause_count = pause_count_;
  report.detail = detail_;
  switch (state_) {
    case State::running:
      report.state = is_left_alone_ ? "left alone" : "running";
      break;
    case State::pausing:
      report.state = "pausing";
      break;
    case State::paused:
      report.state = "paused";
      break;
    case State::resuming:
      report.state = "resuming";
      break;
  }
  return report;
}

// A connection lives only while there is something to do.
Task<void> MachinePause::run() {
  Duration delay = limits::kQmpRetryDelayMin;
  while (!is_ending_) {
    if (!has_work()) {
      delay = limits::kQmpRetryDelayMin;
      co_await changed_.wait();
      continue;
    }
    const Result<void> served = co_await serve();
    if (served.ok()) continue;
    if (detail_ != served.error().message()) {
      detail_ = served.error().message();
      log_warning("the virtual machine at " + path_ + " cannot be " +
                  (is_ours_ ? "resumed" : "paused") + " now: " + detail_ +
                  "; it is tried again while requests are held");
    }
    const MonotonicTime again = executor_.now() + delay;
    delay = std::min(delay * 2, limits::kQmpRetryDelayMax);
    while (!is_ending_ && has_work() && executor_.now() < again) {
      executor_.arm(timer_, again);
      co_await changed_.wait();
    }
  }
}

Task<Result<void>> MachinePause::serve() {
  CO_TRY_ASSIGN(std::unique_ptr<Stream> stream, environment_.connect(path_));
  QmpConnection monitor(executor_, std::move(stream));
  monitor_ = &monitor;
  stop_id_.reset();
  expects_stop_ = false;
  Result<void> served = co_await serve(monitor);
  monitor_ = nullptr;
  co_await monitor.close();
  co_return served;
}

Task<Result<void>> MachinePause::serve(QmpConnection& monitor) {
  CO_TRY(co_await monitor.negotiate());
  CO_TRY_ASSIGN(const QmpMessage status, co_await monitor.execute("query-status"));
  is_running_ = status.status == "running";
  if (is_ours_) {
    // Whatever became of our `stop`, here is where it led. Any other state than "paused" is not one
    // that we would end.
    state_ = State::paused;
    if (status.status != "paused") {
      log_info("the virtual machine at " + path_ +
               ", which was paused while its disks were held, " + "is in state '" + status.status +
               "' now; it is left alone");
      state_ = State::running;
      is_left_alone_ = is_held_;
      co_await set_ours(false);
    }
  }
  while (!is_ending_) {
    look_at_events(monitor);
    look_at_answer(monitor);
    if (monitor.is_lost()) co_return monitor.lost_error();
    if (is_ours_ && may_resume()) {
      CO_TRY(co_await resume(monitor));
    } else if (!is_ours_ && wants_pause_ && !is_left_alone_ && is_running_) {
      CO_TRY(co_await pause(monitor));
    } else if (!is_ours_ && state_ != State::running) {  // somebody else resumed it
      state_ = State::running;
      co_await set_ours(false);
    } else if (!is_ours_ && !is_held_) {
      break;
    } else {
      if (!is_ours_ && !is_running_) detail_ = "it is not running, by somebody else's will";
      co_await monitor.wait(limits::kHoldWatchTime);
    }
  }
  co_return Result<void>{};
}

Task<Result<void>> MachinePause::pause(QmpConnection& monitor) {
  state_ = State::pausing;
  detail_.clear();
  co_await set_ours(true);
  look_at_events(monitor);
  if (!is_running_ || !wants_pause_) {  // somebody else was faster, or the storage
    state_ = State::running;
    co_await set_ours(false);
    co_return Result<void>{};
  }
  log_warning("pausing the virtual machine at " + path_ +
              ": requests of its disks are held for too long for its timers");
  expects_stop_ = true;
  const auto sent = co_await monitor.send("stop");
  // If the connection is lost now, what became of it is asked for over the next one.
  if (!sent.ok()) co_return sent.error();
  stop_id_ = sent.value();
  ++pause_count_;
  co_return Result<void>{};
}

// QEMU answers to `stop` only when the requests of its own block layer (NBD) have ended, which may
// take as long as they are held: the processors stand still long before.
void MachinePause::look_at_answer(QmpConnection& monitor) {
  if (!stop_id_.has_value() || monitor.is_lost()) return;
  const auto answer = monitor.take_answer(*stop_id_);
  if (!answer.has_value()) return;
  stop_id_.reset();
  expects_stop_ = false;
  if (answer->ok()) {
    if (is_ours_) state_ = State::paused;
    return;
  }
  detail_ = answer->error().message();
  log_warning("the virtual machine at " + path_ + " was not paused: " + detail_);
  is_left_alone_ = true;
  is_ours_ = false;  // recorded by serve()
}

void MachinePause::look_at_events(QmpConnection& monitor) {
  while (const std::optional<std::string> event = monitor.take_event()) {
    is_running_ = *event == "RESUME";
    if (!is_running_) {
      if (std::exchange(expects_stop_, false) && is_ours_) state_ = State::paused;
      continue;
    }
    if (!is_ours_) continue;
    is_ours_ = false;
    is_left_alone_ = is_held_;
    detail_ = "somebody else resumed it";
    log_info("somebody resumed the virtual machine at " + path_ +
             ", which was paused while its disks were held; it is left alone");
  }
}

bool MachinePause::may_resume() const {
  if (is_held_) return false;
  const MonotonicTime now = executor_.now();
  // QEMU must have finished with our `stop`; it does as soon as requests flow.
  if (stop_id_.has_value() && now < flowing_since_ + limits::kQmpTime) return false;
  return now >= flowing_since_ + steady_time_needed();
}

// Rather paused for a little longer than up and down with storage that comes and goes: a pause
// costs time, a guest's timer that runs out costs its file system.
Duration MachinePause::steady_time_needed() const {
  if (!last_resume_.has_value()) return Duration{0};
  if (executor_.now() > *last_resume_ + limits::kResumeQuietTime) return Duration{0};
  return std::clamp(steady_time_, limits::kResumeSteadyTimeMin, limits::kResumeSteadyTimeMax);
}

Task<Result<void>> MachinePause::resume(QmpConnection& monitor) {
  state_ = State::resuming;
  CO_TRY_ASSIGN(const QmpMessage status, co_await monitor.execute("query-status"));
  look_at_events(monitor);
  if (!is_ours_) co_return Result<void>{};
  if (status.status == "paused") {
    auto resumed = co_await monitor.execute("cont");
    if (!resumed.ok()) {
      state_ = State::paused;
      co_return resumed.take_error();
    }
    log_info("the virtual machine at " + path_ + " runs again: the requests of its disks flow");
  }
  steady_time_ = steady_time_needed() * 2;
  last_resume_ = executor_.now();
  while (monitor.take_event().has_value()) {  // of our own doing
  }
  is_running_ = true;
  state_ = State::running;
  detail_.clear();
  co_await set_ours(false);
  co_return Result<void>{};
}

// The state's disk may be full or slow; the guest's timers do not wait for it.
Task<void> MachinePause::set_ours(bool is_ours) {
  is_ours_ = is_ours;
  is_inherited_ = false;
  const std::size_t wanted = saves_ + 1;
  ++saves_;
  tasks_.spawn(record());
  const MonotonicTime deadline = executor_.now() + limits::kPauseSaveTime;
  while (saves_ >= wanted && executor_.now() < deadline) {
    executor_.arm(timer_, deadline);
    co_await changed_.wait();
  }
}

Task<void> MachinePause::record() {
  co_await environment_.save();
  --saves_;
  changed_.notify_all();
}

}  // namespace holdfast
