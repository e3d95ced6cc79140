// SPDX-License-Identifier: Apache-2.0
//
// TestExecutor: virtual time for unit tests and fuzz targets. Nothing happens until the test asks
// for it, and time passes only through advance(). One thread; the simulator has its own scheduler.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <utility>

#include "io/executor.h"
#include "io/timer_queue.h"

namespace holdfast {

class TestExecutor final : public Executor {
 public:
  explicit TestExecutor(std::uint64_t seed = 1) : random_state_(seed) {}

  MonotonicTime now() const override { return now_; }
  BootTime boot_time() const override { return BootTime(now_.time_since_epoch()); }
  WallTime wall_time() const override {
    return WallTime{
        1'700'000'000 +
        std::chrono::duration_cast<std::chrono::seconds>(now_.time_since_epoch()).count()};
  }
  std::uint64_t random() override {  // splitmix64
    std::uint64_t z = (random_state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  void post(std::function<void()> function) override { posted_.push_back(std::move(function)); }
  void post_remote(std::function<void()> function) override { post(std::move(function)); }
  void defer(Deferred& deferred) override {
    if (!deferred.is_armed()) deferred_.push_back(deferred);
  }
  void add(Poller& poller) override { pollers_.push_back(poller); }
  void arm(Timer& timer, MonotonicTime deadline) override { timers_.arm(timer, *this, deadline); }
  void cancel(Timer& timer) override { timers_.cancel(timer); }

  // One turn: what was posted before it, the timers that are due, looks, then what was deferred.
  // False if there was nothing to do: a Loop would sleep, and nobody looks at anything.
  bool run_turn() {
    bool worked = false;
    const bool may_look = polling_ || !deferred_.empty();
    for (Poller* poller = pollers_.front(); poller != nullptr; poller = pollers_.next(*poller)) {
      if (poller->is_woken()) worked = true;
    }
    for (std::size_t count = posted_.size(); count != 0; --count) {
      const std::function<void()> function = std::move(posted_.front());
      posted_.pop_front();
      function();
      worked = true;
    }
    const std::uint64_t mark = timers_.order_mark();
    while (Timer* timer = timers_.pop_due(now_, mark)) {
      TimerQueue::fire(*timer);
      worked = true;
    }
    // What a look finds shows in what it defers or posts; wanting to look again is no work.
    if (worked || may_look) {
      polling_ = false;
      for (Poller* poller = pollers_.front(); poller != nullptr; poller = pollers_.next(*poller)) {
        if (poller->look()) polling_ = true;
      }
    }
    while (Deferred* deferred = deferred_.pop_front()) {
      deferred->run();
      worked = true;
    }
    return worked;
  }
  // Turns until nothing is left to do at this instant. False when `turns_max` did not suffice,
  // which means that something keeps itself busy.
  bool run_until_idle(std::size_t turns_max = 1'000'000) {
    for (std::size_t i = 0; i < turns_max; ++i) {
      if (!run_turn()) return true;
    }
    return false;
  }
  // Lets time pass, firing every timer at its own deadline.
  void advance(Duration duration) {
    const MonotonicTime end = now_ + duration;
    run_until_idle();
    while (!timers_.empty() && timers_.next_deadline() <= end) {
      if (timers_.next_deadline() > now_) now_ = timers_.next_deadline();
      run_until_idle();
    }
    now_ = end;
    run_until_idle();
  }
  // Runs, and lets time pass from timer to timer, until `done`. False when nothing is left that
  // could make it so, or `limit` has passed.
  bool run_until(const std::function<bool()>& done, Duration limit = std::chrono::hours(1)) {
    const MonotonicTime end = now_ + limit;
    while (!done()) {
      if (run_turn()) continue;
      if (timers_.empty() || timers_.next_deadline() > end) return false;
      if (timers_.next_deadline() > now_) now_ = timers_.next_deadline();
    }
    return true;
  }
  std::size_t armed_timer_count() const { return timers_.size(); }

 private:
  // Not zero, so that code that takes a default-made time for "never" is caught.
  MonotonicTime now_{std::chrono::seconds(1000)};
  std::uint64_t random_state_;
  TimerQueue timers_;
  std::deque<std::function<void()>> posted_;
  List<Deferred, &Deferred::link> deferred_;
  List<Poller, &Poller::link> pollers_;
  bool polling_ = false;  // a poller wants another look
};

}  // namespace holdfast
