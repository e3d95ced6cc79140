// SPDX-License-Identifier: Apache-2.0
//
// Virtual time. A Scheduler owns one queue of events for everything that happens in a run; a
// SimHost is one simulated process on it: an Executor whose events, timers, deferreds and posts all
// vanish at once when it is killed. The order of events is a function of the seed alone, and a
// running hash of them proves it.
//
// Threading: one thread. Lifetime: a SimHost may not outlive its Scheduler. kill() is called by the
// driver between events, never from inside a callback of that host.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/list.h"
#include "io/executor.h"
#include "sim/prng.h"

namespace holdfast::sim {

enum class EventKind : std::uint8_t {
  post,        // Executor::post
  timer,       // Executor::arm
  deferred,    // Executor::defer
  completion,  // storage answers: the points at which a crash is interesting
  world,       // what happens outside every host: faults begin and end, late writes land
};

// Where an event stands in the queue; valid until it ran or was cancelled.
struct EventKey {
  MonotonicTime time{};
  std::uint64_t order = 0;
  auto operator<=>(const EventKey&) const = default;
};

// The first broken invariant of a run.
struct Violation {
  std::string invariant;
  std::string details;
};

class SimHost;

class Scheduler {
 public:
  explicit Scheduler(std::uint64_t seed) : prng_(seed) {}
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  MonotonicTime now() const { return now_; }
  Prng& prng() { return prng_; }

  // `owner` null: the world. Times in the past count as now.
  EventKey schedule(MonotonicTime time, SimHost* owner, EventKind kind,
                    std::function<void()> function);
  void cancel(EventKey key);

  // Runs one event (or one deferred, when all events of this instant ran). False: nothing to run.
  bool step();
  bool idle() const { return events_.empty() && !has_deferred(); }
  // Of what step() would run; only when not idle.
  EventKind next_kind() const;
  MonotonicTime next_time() const;

  std::uint64_t steps() const { return steps_; }
  std::uint64_t completions() const { return completions_; }

  // The hash of all that happened so far. Anything that must replay exactly is mixed in.
  std::uint64_t hash() const { return hash_; }
  void mix(std::uint64_t value) { hash_ = mix64(hash_, value); }

  // The first violation ends the run (the driver looks after each step).
  void fail(std::string invariant, std::string details);
  bool failed() const { return failed_; }
  const Violation& violation() const { return violation_; }

  // Trace lines for people; `sink` gets each. Costs nothing while off.
  void set_trace(std::function<void(const std::string&)> sink) { trace_ = std::move(sink); }
  bool tracing() const { return trace_ != nullptr; }
  void trace(const std::string& line);

 private:
  friend class SimHost;
  struct Event {
    SimHost* owner = nullptr;
    EventKind kind = EventKind::post;
    Timer* timer = nullptr;
    std::function<void()> function;
  };
  SimHost* host_with_deferred() const;
  bool has_deferred() const { return host_with_deferred() != nullptr; }
  bool deferred_is_next() const;
  void run_event();
  void drop_events_of(SimHost& host);
  void resume(SimHost& host);

  Prng prng_;
  MonotonicTime now_{Duration(1'000'000'000)};  // never zero: zero means "never" to some
  std::uint64_t next_order_ = 0;
  std::map<EventKey, Event> events_;
  std::vector<SimHost*> hosts_;
  std::uint64_t next_host_number_ = 1;
  std::uint64_t hash_ = 0;
  std::uint64_t steps_ = 0;
  std::uint64_t steps_of_instant_ = 0;
  std::uint64_t completions_ = 0;
  bool failed_ = false;
  Violation violation_;
  std::function<void(const std::string&)> trace_;
};

// One simulated process.
class SimHost final : public Executor {
 public:
  explicit SimHost(Scheduler& scheduler);
  SimHost(const SimHost&) = delete;
  SimHost& operator=(const SimHost&) = delete;
  ~SimHost() override;

  // Everything pending is gone; what is asked for later is ignored (destructors run after a crash).
  void kill();
  bool is_alive() const { return alive_; }
  // Nothing of it runs before `until`; then all that should have does, in its order. Its clocks go
  // on meanwhile.
  void pause(MonotonicTime until);
  bool is_paused() const { return paused_; }
  // Its boot time is `offset` + the true time * `rate`.
  void set_boot_clock(Duration offset, double rate) {
    boot_offset_ = offset;
    boot_rate_ = rate;
  }
  std::uint64_t number() const { return number_; }
  Scheduler& scheduler() { return scheduler_; }

  MonotonicTime now() const override { return scheduler_.now(); }
  BootTime boot_time() const override;
  WallTime wall_time() const override;
  std::uint64_t random() override { return prng_.next(); }
  void post(std::function<void()> function) override;
  void post_remote(std::function<void()> function) override { post(std::move(function)); }
  void add(Poller&) override {
    HOLDFAST_ASSERT(false && "frontends with memory shared with others are not simulated");
  }
  void defer(Deferred& deferred) override;
  void arm(Timer& timer, MonotonicTime deadline) override;
  void cancel(Timer& timer) override;

 private:
  friend class Scheduler;
  void run_timer(Timer& timer);

  Scheduler& scheduler_;
  Prng prng_;
  std::uint64_t number_;
  bool alive_ = true;
  bool paused_ = false;
  EventKey resume_;
  Duration boot_offset_{};
  double boot_rate_ = 1;
  std::map<EventKey, Scheduler::Event> held_;  // while it is paused: what was due
  List<Deferred, &Deferred::link> deferred_;
  std::unordered_map<Timer*, EventKey> timers_;  // armed ones; never iterated in a way that shows
};

}  // namespace holdfast::sim
