// SPDX-License-Identifier: Apache-2.0
#include "io/loop.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <string>
#include <thread>
#include <vector>

namespace holdfast {
namespace {

class LoopTest : public testing::Test {
 protected:
  std::unique_ptr<Loop> loop_ = Loop::create().value();
};

struct Recorder {
  std::vector<int>* order;
  int number;
  static void record(void* context) {
    auto* self = static_cast<Recorder*>(context);
    self->order->push_back(self->number);
  }
};

TEST_F(LoopTest, TimersFireInTheOrderOfTheirDeadlines) {
  std::vector<int> order;
  Recorder a{&order, 1};
  Recorder b{&order, 2};
  Recorder c{&order, 3};
  Timer late(&Recorder::record, &a);
  Timer early(&Recorder::record, &b);
  Timer same_as_late(&Recorder::record, &c);
  const MonotonicTime start = loop_->now();
  loop_->arm(late, start + 20ms);
  loop_->arm(early, start + 10ms);
  loop_->arm(same_as_late, start + 20ms);
  EXPECT_TRUE(loop_->run_until([&] { return order.size() == 3; }, 10s));
  EXPECT_EQ(order, (std::vector<int>{2, 1, 3}));
  EXPECT_GE(loop_->now() - start, 20ms);
  EXPECT_FALSE(late.is_armed());
}

TEST_F(LoopTest, AMovedTimerFiresOnceAtItsNewTime) {
  std::vector<int> order;
  Recorder recorder{&order, 1};
  Timer timer(&Recorder::record, &recorder);
  const MonotonicTime start = loop_->now();
  loop_->arm(timer, start + 5ms);
  loop_->arm(timer, start + 30ms);
  EXPECT_TRUE(loop_->run_until([&] { return !order.empty(); }, 10s));
  EXPECT_GE(loop_->now() - start, 30ms);
  loop_->run_until([] { return false; }, 20ms);
  EXPECT_EQ(order.size(), 1u);
}

TEST_F(LoopTest, CancelledAndDestroyedTimersDoNotFire) {
  std::vector<int> order;
  Recorder recorder{&order, 1};
  Timer cancelled(&Recorder::record, &recorder);
  loop_->arm_after(cancelled, 1ms);
  loop_->cancel(cancelled);
  {
    Timer destroyed(&Recorder::record, &recorder);
    loop_->arm_after(destroyed, 1ms);
  }
  loop_->run_until([] { return false; }, 20ms);
  EXPECT_TRUE(order.empty());
}

struct Rearming {
  explicit Rearming(Loop& on) : loop(on) {}
  static void fire(void* context) {
    auto* self = static_cast<Rearming*>(context);
    ++self->count;
    self->loop.arm_after(self->timer, Duration::zero());
  }
  Loop& loop;
  int count = 0;
  Timer timer{&fire, this};
};

TEST_F(LoopTest, ATimerThatRearmsItselfDoesNotStarveTheRest) {
  Rearming rearming(*loop_);
  loop_->arm_after(rearming.timer, Duration::zero());
  bool posted = false;
  loop_->post([&] { loop_->post([&] { posted = true; }); });
  EXPECT_TRUE(loop_->run_until([&] { return posted; }, 10s));
  EXPECT_GE(rearming.count, 1);
}

TEST_F(LoopTest, PostsRunInOrderAndNeverInsideThePost) {
  std::vector<int> order;
  loop_->post([&] {
    order.push_back(1);
    loop_->post([&] { order.push_back(3); });
    order.push_back(2);
  });
  EXPECT_TRUE(order.empty());
  EXPECT_TRUE(loop_->run_until([&] { return order.size() == 3; }, 10s));
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

struct Chain {
  Loop* loop;
  std::vector<int>* order;
  Deferred* next;
  int number;
  static void run(void* context) {
    auto* self = static_cast<Chain*>(context);
    self->order->push_back(self->number);
    if (self->next != nullptr) self->loop->defer(*self->next);
  }
};

TEST_F(LoopTest, DeferredWorkRunsAfterTheEventsAtHandAndMayArmMore) {
  std::vector<int> order;
  Chain second_chain{loop_.get(), &order, nullptr, 4};
  Deferred second(&Chain::run, &second_chain);
  Chain first_chain{loop_.get(), &order, &second, 3};
  Deferred first(&Chain::run, &first_chain);
  loop_->post([&] {
    loop_->defer(first);
    loop_->defer(first);  // once is enough
    order.push_back(1);
  });
  loop_->post([&] { order.push_back(2); });
  loop_->run_turn(Duration::zero());
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3, 4}));
}

TEST_F(LoopTest, AFunctionDeferredForEverDoesNotStarveTheRest) {
  struct Again {
    explicit Again(Loop& on) : loop(on) {}
    static void run(void* context) {
      auto* self = static_cast<Again*>(context);
      self->loop.defer(self->deferred);
    }
    Loop& loop;
    Deferred deferred{&run, this};
  } again(*loop_);
  loop_->defer(again.deferred);
  EXPECT_FALSE(loop_->run_until([] { return false; }, 20ms));
  EXPECT_TRUE(again.deferred.is_armed());
}

TEST_F(LoopTest, PostsFromOtherThreadsArriveInOrderAndAll) {
  constexpr int kThreads = 4;
  constexpr int kPosts = 5000;
  std::vector<std::vector<int>> received(kThreads);
  int total = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kPosts; ++i) {
        loop_->post_remote([&, t, i] {
          received[static_cast<std::size_t>(t)].push_back(i);
          ++total;
        });
      }
    });
  }
  EXPECT_TRUE(loop_->run_until([&] { return total == kThreads * kPosts; }, 30s));
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<int>& numbers : received) {
    for (int i = 0; i < kPosts; ++i) ASSERT_EQ(numbers[static_cast<std::size_t>(i)], i);
  }
}

TEST_F(LoopTest, SignalsOfABurstAreOneCall) {
  int calls = 0;
  RemoteSignal signal(
      *loop_, [](void* context) { ++*static_cast<int*>(context); }, &calls);
  std::thread([&] {
    for (int i = 0; i < 100; ++i) signal.signal();
  }).join();
  EXPECT_TRUE(loop_->run_until([&] { return calls != 0; }, 10s));
  EXPECT_EQ(calls, 1);
  signal.signal();
  EXPECT_TRUE(loop_->run_until([&] { return calls == 2; }, 10s));
}

TEST_F(LoopTest, ASignalDestroyedWhileRaisedIsNotDelivered) {
  int calls = 0;
  {
    RemoteSignal signal(
        *loop_, [](void* context) { ++*static_cast<int*>(context); }, &calls);
    signal.signal();
  }
  loop_->run_until([] { return false; }, 10ms);
  EXPECT_EQ(calls, 0);
}

TEST_F(LoopTest, StopFromAnotherThreadEndsRunAndItRunsAgain) {
  for (int round = 0; round < 3; ++round) {
    std::thread stopper([&] {
      std::this_thread::sleep_for(5ms);
      loop_->stop();
    });
    loop_->run();
    stopper.join();
  }
  loop_->stop();
  loop_->run();  // a stop before run() counts
}

TEST_F(LoopTest, ALoopMadeOnOneThreadRunsOnAnother) {
  bool ran = false;
  std::thread runner([&] { loop_->run(); });
  loop_->post_remote([&] {
    ran = true;
    loop_->stop();
  });
  runner.join();
  EXPECT_TRUE(ran);
}

TEST_F(LoopTest, AnIdleLoopUsesNoProcessorTime) {
  const auto processor_time = [] {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    return std::chrono::seconds(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           std::chrono::microseconds(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  };
  rusage before{};
  getrusage(RUSAGE_THREAD, &before);
  const auto start = processor_time();
  loop_->run_until([] { return false; }, 300ms);
  EXPECT_LT(processor_time() - start, 30ms);
  rusage after{};
  getrusage(RUSAGE_THREAD, &after);
  EXPECT_LT(after.ru_nvcsw - before.ru_nvcsw, 5);
}

TEST_F(LoopTest, RandomNumbersDifferBetweenLoops) {
  const auto other = Loop::create().value();
  EXPECT_NE(loop_->random(), other->random());
  EXPECT_NE(loop_->random(), loop_->random());
}

// --- Pollers ---

struct TestLook {
  explicit TestLook(int wanted_count) : wanted(wanted_count) {}
  static bool look(void* context) {
    auto* self = static_cast<TestLook*>(context);
    ++self->count;
    return self->count < self->wanted;
  }
  int wanted;
  int count = 0;
  Poller poller{&look, this};
};

TEST_F(LoopTest, ALoopTurnsWhileALookWantsAnotherAndSleepsAfterwards) {
  TestLook look(1000);
  loop_->add(look.poller);
  bool fired = false;
  Timer timer([](void* context) { *static_cast<bool*>(context) = true; }, &fired);
  loop_->arm_after(timer, 50ms);
  for (int turn = 0; turn < 1000; ++turn) loop_->run_turn(1h);
  EXPECT_EQ(look.count, 1000) << "no turn waited";
  EXPECT_TRUE(loop_->run_until([&] { return fired; }, 10s));
  EXPECT_LT(look.count, 1010) << "it slept until the timer";
}

TEST_F(LoopTest, APollerThatIsWokenBehindItsLookIsLookedAtBeforeTheLoopSleeps) {
  TestLook look(0);
  loop_->add(look.poller);
  struct Waking {
    Poller& poller;
    Deferred deferred{[](void* context) { static_cast<Waking*>(context)->poller.wake(); }, this};
  } waking{look.poller};
  loop_->run_turn(Duration::zero());
  const int before = look.count;
  loop_->defer(waking.deferred);
  loop_->run_turn(1h);  // has work at hand
  loop_->run_turn(1h);  // would sleep
  EXPECT_EQ(look.count, before + 2);
}

TEST_F(LoopTest, ARemovedPollerIsNotLookedAt) {
  TestLook look(1'000'000);
  loop_->add(look.poller);
  loop_->run_turn(Duration::zero());
  look.poller.remove();
  loop_->run_until([] { return false; }, 5ms);
  EXPECT_EQ(look.count, 1);
  {
    TestLook dying(1'000'000);
    loop_->add(dying.poller);
  }
  loop_->run_until([] { return false; }, 5ms);
}

TEST_F(LoopTest, PollingStarvesNobody) {
  TestLook look(1'000'000'000);
  loop_->add(look.poller);
  int posted = 0;
  int fired = 0;
  Timer timer([](void* context) { ++*static_cast<int*>(context); }, &fired);
  loop_->arm_after(timer, 2ms);
  std::thread other([&] { loop_->post_remote([&] { ++posted; }); });
  EXPECT_TRUE(loop_->run_until([&] { return posted == 1 && fired == 1; }, 10s));
  other.join();
}

}  // namespace
}  // namespace holdfast
