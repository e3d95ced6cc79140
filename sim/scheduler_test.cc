// SPDX-License-Identifier: Apache-2.0
#include "sim/scheduler.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace holdfast::sim {
namespace {

struct Note {
  std::vector<int>* log;
  int value;
  static void run(void* context) {
    auto* note = static_cast<Note*>(context);
    note->log->push_back(note->value);
  }
};

TEST(Scheduler, EventsRunInTheOrderOfTimeThenOfArming) {
  Scheduler scheduler(1);
  SimHost host(scheduler);
  std::vector<int> log;
  Note one{&log, 1}, two{&log, 2}, three{&log, 3};
  Timer a(&Note::run, &one), b(&Note::run, &two), c(&Note::run, &three);
  host.arm_after(c, 2ms);
  host.arm_after(a, 1ms);
  host.arm_after(b, 1ms);
  while (scheduler.step()) {
  }
  EXPECT_EQ(log, (std::vector<int>{1, 2, 3}));
  EXPECT_FALSE(a.is_armed());
}

TEST(Scheduler, DeferredRunsAfterTheEventsOfTheInstant) {
  Scheduler scheduler(1);
  SimHost host(scheduler);
  std::vector<int> log;
  Note last{&log, 9};
  Deferred deferred(&Note::run, &last);
  host.post([&] {
    host.defer(deferred);
    log.push_back(1);
  });
  host.post([&] { log.push_back(2); });
  while (scheduler.step()) {
  }
  EXPECT_EQ(log, (std::vector<int>{1, 2, 9}));
}

TEST(Scheduler, AKilledHostLosesAllThatWasPendingAndNothingElse) {
  Scheduler scheduler(1);
  auto dying = std::make_unique<SimHost>(scheduler);
  SimHost other(scheduler);
  std::vector<int> log;
  Note timed{&log, 1}, later{&log, 2}, kept{&log, 3};
  Timer timer(&Note::run, &timed);
  Timer kept_timer(&Note::run, &kept);
  Deferred deferred(&Note::run, &later);
  dying->arm_after(timer, 1ms);
  dying->defer(deferred);
  dying->post([&] { log.push_back(4); });
  other.arm_after(kept_timer, 1ms);
  dying->kill();
  EXPECT_FALSE(timer.is_armed());
  EXPECT_FALSE(deferred.is_armed());
  dying->arm_after(timer, 1ms);  // ignored
  dying->post([&] { log.push_back(5); });
  dying.reset();
  while (scheduler.step()) {
  }
  EXPECT_EQ(log, (std::vector<int>{3}));
}

TEST(Scheduler, ArmingAnArmedTimerMovesIt) {
  Scheduler scheduler(1);
  SimHost host(scheduler);
  std::vector<int> log;
  Note note{&log, 1};
  Timer timer(&Note::run, &note);
  host.arm_after(timer, 1ms);
  host.arm_after(timer, 5ms);
  const MonotonicTime start = scheduler.now();
  while (scheduler.step()) {
  }
  EXPECT_EQ(log.size(), 1u);
  EXPECT_EQ(scheduler.now() - start, 5ms);
}

TEST(Scheduler, APausedProcessDoesNothingAndThenAllThatWasDueInItsOrder) {
  Scheduler scheduler(1);
  SimHost host(scheduler);
  SimHost other(scheduler);
  std::vector<int> log;
  Note one{&log, 1}, two{&log, 2}, three{&log, 3}, four{&log, 4};
  Timer a(&Note::run, &one), b(&Note::run, &two), c(&Note::run, &three), d(&Note::run, &four);
  host.arm_after(b, 2ms);
  host.arm_after(a, 1ms);
  host.arm_after(c, 20ms);
  other.arm_after(d, 3ms);
  const MonotonicTime start = scheduler.now();
  host.pause(start + 10ms);
  while (log.size() < 2) ASSERT_TRUE(scheduler.step());
  EXPECT_EQ(log, (std::vector<int>{4, 1}));
  EXPECT_EQ(scheduler.now() - start, 10ms);
  while (scheduler.step()) {
  }
  EXPECT_EQ(log, (std::vector<int>{4, 1, 2, 3}));
  EXPECT_EQ(scheduler.now() - start, 20ms);
  host.set_boot_clock(1h, 1.5);
  EXPECT_EQ(host.boot_time().time_since_epoch(),
            1h + Duration(start.time_since_epoch() + 20ms) * 3 / 2);
}

TEST(Scheduler, WhatIsCancelledWhileItsProcessIsPausedDoesNotComeLater) {
  Scheduler scheduler(1);
  std::vector<int> log;
  Note one{&log, 1};
  Timer timer(&Note::run, &one);
  {
    SimHost host(scheduler);
    SimHost other(scheduler);
    host.arm_after(timer, 1ms);
    host.pause(scheduler.now() + 10ms);
    other.post([] {});
    while (scheduler.next_time() < scheduler.now() + 5ms) scheduler.step();
    host.cancel(timer);
    while (scheduler.step()) {
    }
    host.pause(scheduler.now() + 10ms);  // and dies of it
  }
  while (scheduler.step()) {
  }
  EXPECT_TRUE(log.empty());
}

TEST(Scheduler, TheHashTellsDifferentHistoriesApart) {
  const auto run = [](std::uint64_t seed, int posts) {
    Scheduler scheduler(seed);
    SimHost host(scheduler);
    for (int i = 0; i < posts; ++i) {
      scheduler.schedule(scheduler.now() + Duration(host.random() % 1000), &host,
                         EventKind::completion, [] {});
    }
    while (scheduler.step()) {
    }
    return scheduler.hash();
  };
  EXPECT_EQ(run(1, 10), run(1, 10));
  EXPECT_NE(run(1, 10), run(2, 10));
  EXPECT_NE(run(1, 10), run(1, 11));
}

TEST(Scheduler, WorkThatNeverLetsTimePassIsAViolation) {
  Scheduler scheduler(1);
  SimHost host(scheduler);
  std::function<void()> again = [&] { host.post(again); };
  host.post(again);
  while (scheduler.step() && !scheduler.failed()) {
  }
  EXPECT_TRUE(scheduler.failed());
}

}  // namespace
}  // namespace holdfast::sim
