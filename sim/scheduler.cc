// SPDX-License-Identifier: Apache-2.0
#include "sim/scheduler.h"

#include <algorithm>
#include <cstdio>

namespace holdfast::sim {
namespace {

// Code that keeps posting to itself without time passing would otherwise spin for ever.
constexpr std::uint64_t kStepsPerInstantMax = 200'000;

}  // namespace

EventKey Scheduler::schedule(MonotonicTime time, SimHost* owner, EventKind kind,
                             std::function<void()> function) {
  const EventKey key{std::max(time, now_), next_order_++};
  events_.emplace(key, Event{owner, kind, nullptr, std::move(function)});
  return key;
}

SimHost* Scheduler::host_with_deferred() const {
  for (SimHost* host : hosts_) {
    if (!host->deferred_.empty() && !host->paused_) return host;
  }
  return nullptr;
}

bool Scheduler::deferred_is_next() const {
  if (!events_.empty() && events_.begin()->first.time <= now_) return false;
  return has_deferred();
}

EventKind Scheduler::next_kind() const {
  HOLDFAST_ASSERT(!idle());
  return deferred_is_next() ? EventKind::deferred : events_.begin()->second.kind;
}

MonotonicTime Scheduler::next_time() const {
  HOLDFAST_ASSERT(!idle());
  return deferred_is_next() ? now_ : events_.begin()->first.time;
}

bool Scheduler::step() {
  if (idle()) return false;
  ++steps_;
  if (deferred_is_next()) {
    SimHost* host = host_with_deferred();
    mix(0xDEFull ^ (host->number() << 16));
    ++steps_of_instant_;
    host->deferred_.pop_front()->run();
  } else {
    run_event();
  }
  if (steps_of_instant_ > kStepsPerInstantMax) {
    fail("progress", "code keeps scheduling itself without virtual time passing");
  }
  return true;
}

void Scheduler::run_event() {
  const auto first = events_.begin();
  const EventKey key = first->first;
  Event event = std::move(first->second);
  events_.erase(first);
  steps_of_instant_ = key.time > now_ ? 0 : steps_of_instant_ + 1;
  now_ = std::max(now_, key.time);  // what waited for its host comes late
  if (event.owner != nullptr && event.owner->paused_) {
    event.owner->held_.emplace(key, std::move(event));
    return;
  }
  mix(static_cast<std::uint64_t>(now_.time_since_epoch().count()));
  mix(static_cast<std::uint64_t>(event.kind) |
      ((event.owner == nullptr ? 0 : event.owner->number()) << 8));
  if (event.kind == EventKind::completion) ++completions_;
  if (event.timer != nullptr) {
    event.owner->timers_.erase(event.timer);
    event.owner->run_timer(*event.timer);
  } else {
    event.function();
  }
}

void Scheduler::cancel(EventKey key) {
  if (events_.erase(key) != 0) return;
  for (SimHost* host : hosts_) {
    if (host->held_.erase(key) != 0) return;
  }
}

void Scheduler::resume(SimHost& host) {
  host.paused_ = false;
  events_.merge(host.held_);
}

void Scheduler::drop_events_of(SimHost& host) {
  for (auto at = events_.begin(); at != events_.end();) {
    at = at->second.owner == &host ? events_.erase(at) : std::next(at);
  }
}

void Scheduler::fail(std::string invariant, std::string details) {
  if (failed_) return;
  failed_ = true;
  violation_ = {std::move(invariant), std::move(details)};
  if (tracing()) trace("VIOLATION of " + violation_.invariant + ": " + violation_.details);
}

void Scheduler::trace(const std::string& line) {
  if (trace_ == nullptr) return;
  char time[48];
  std::snprintf(time, sizeof time, "%14.6f ms  ",
                static_cast<double>(now_.time_since_epoch().count()) / 1e6);
  trace_(time + line);
}

SimHost::SimHost(Scheduler& scheduler)
    : scheduler_(scheduler),
      prng_(scheduler.prng().fork()),
      number_(scheduler.next_host_number_++) {
  scheduler_.hosts_.push_back(this);
}

SimHost::~SimHost() {
  kill();
  std::erase(scheduler_.hosts_, this);
}

void SimHost::kill() {
  if (!alive_) return;
  alive_ = false;
  scheduler_.drop_events_of(*this);
  for (auto& [timer, key] : timers_) mark_idle(*timer);
  timers_.clear();
  deferred_.clear();
  held_.clear();
  if (paused_) scheduler_.cancel(resume_);
  paused_ = false;
}

void SimHost::pause(MonotonicTime until) {
  if (!alive_ || paused_) return;
  paused_ = true;
  resume_ =
      scheduler_.schedule(until, nullptr, EventKind::world, [this] { scheduler_.resume(*this); });
}

BootTime SimHost::boot_time() const {
  const auto true_time = static_cast<double>(now().time_since_epoch().count());
  return BootTime(boot_offset_ + Duration(static_cast<std::int64_t>(true_time * boot_rate_)));
}

WallTime SimHost::wall_time() const {
  return WallTime{1'700'000'000 + now().time_since_epoch().count() / 1'000'000'000};
}

void SimHost::post(std::function<void()> function) {
  if (!alive_) return;
  scheduler_.schedule(now(), this, EventKind::post, std::move(function));
}

void SimHost::defer(Deferred& deferred) {
  if (alive_ && !deferred.is_armed()) deferred_.push_back(deferred);
}

void SimHost::arm(Timer& timer, MonotonicTime deadline) {
  if (!alive_) return;
  if (timer.is_armed()) cancel(timer);
  const EventKey key{std::max(deadline, now()), scheduler_.next_order_++};
  scheduler_.events_.emplace(key, Scheduler::Event{this, EventKind::timer, &timer, {}});
  timers_.emplace(&timer, key);
  mark_armed(timer, this, key.time, key.order);
}

void SimHost::cancel(Timer& timer) {
  if (!timer.is_armed()) return;
  const auto at = timers_.find(&timer);
  if (at != timers_.end()) {
    scheduler_.cancel(at->second);
    timers_.erase(at);
  }
  mark_idle(timer);
}

void SimHost::run_timer(Timer& timer) {
  mark_idle(timer);
  fire(timer);
}

}  // namespace holdfast::sim
