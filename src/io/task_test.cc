// SPDX-License-Identifier: Apache-2.0
#include "io/task.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "base/result.h"
#include "io/loop.h"
#include "io/run_task.h"

namespace holdfast {
namespace {

class TaskTest : public testing::Test {
 protected:
  void run_until(const std::function<bool()>& done) { ASSERT_TRUE(loop_->run_until(done, 10s)); }
  std::unique_ptr<Loop> loop_ = Loop::create().value();
};

Task<Result<int>> half(int number) {
  if (number % 2 != 0) co_return Error(ErrorCode::invalid_argument, "odd");
  co_return number / 2;
}

Task<Result<int>> quarter(int number) {
  CO_TRY_ASSIGN(const int once, co_await half(number));
  CO_TRY_ASSIGN(const int twice, co_await half(once));
  co_return twice;
}

TEST_F(TaskTest, ErrorsTravelUpThroughAwaitingTasks) {
  const auto run = [this](const std::function<bool()>& done) { run_until(done); };
  EXPECT_EQ(run_task(run, quarter(12)).value(), 3);
  EXPECT_EQ(run_task(run, quarter(6)).error().message(), "odd");
}

Task<void> count_down(int count, int* steps) {
  if (count == 0) co_return;
  ++*steps;
  co_await count_down(count - 1, steps);
}

TEST_F(TaskTest, ATaskRunsAtSpawnUpToItsFirstSuspension) {
  int steps = 0;
  TaskScope scope;
  scope.spawn(count_down(1000, &steps));
  EXPECT_EQ(steps, 1000);
  EXPECT_TRUE(scope.empty());
}

Task<void> sleep_and_hold(Executor* executor, std::shared_ptr<int> held, bool* finished) {
  co_await sleep_for(*executor, 5ms);
  *held += 1;
  *finished = true;
}

TEST_F(TaskTest, SleepEndsAfterTheDelay) {
  const auto held = std::make_shared<int>(0);
  bool finished = false;
  TaskScope scope;
  const MonotonicTime start = loop_->now();
  scope.spawn(sleep_and_hold(loop_.get(), held, &finished));
  EXPECT_FALSE(finished);
  run_until([&] { return finished; });
  EXPECT_GE(loop_->now() - start, 5ms);
  EXPECT_TRUE(scope.empty());
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(TaskTest, ADestroyedScopeDestroysUnfinishedFramesWithoutRunningThem) {
  const auto held = std::make_shared<int>(0);
  bool finished = false;
  {
    TaskScope scope;
    scope.spawn(sleep_and_hold(loop_.get(), held, &finished));
    EXPECT_EQ(held.use_count(), 2);
  }
  EXPECT_EQ(held.use_count(), 1);
  loop_->run_until([] { return false; }, 20ms);
  EXPECT_FALSE(finished);
}

Task<void> wait_rounds(Condition* condition, int rounds, int* woken) {
  for (int i = 0; i < rounds; ++i) {
    co_await condition->wait();
    ++*woken;
  }
}

TEST_F(TaskTest, NotifyWakesAllThatWaitNowAndOnlyOnce) {
  Condition condition(*loop_);
  int woken = 0;
  TaskScope scope;
  for (int i = 0; i < 3; ++i) scope.spawn(wait_rounds(&condition, 2, &woken));
  condition.notify_all();
  EXPECT_EQ(woken, 0) << "the notifier must not run waiters inside its call";
  run_until([&] { return woken == 3; });
  loop_->run_until([] { return false; }, 5ms);
  EXPECT_EQ(woken, 3);
  condition.notify_all();
  run_until([&] { return woken == 6; });
  EXPECT_TRUE(scope.empty());
}

TEST_F(TaskTest, AWaiterMayDieWhileItWaits) {
  Condition condition(*loop_);
  int woken = 0;
  TaskScope survivors;
  {
    TaskScope scope;
    scope.spawn(wait_rounds(&condition, 1, &woken));
    survivors.spawn(wait_rounds(&condition, 1, &woken));
    condition.notify_all();
  }
  run_until([&] { return woken == 1; });
  loop_->run_until([] { return false; }, 5ms);
  EXPECT_EQ(woken, 1);
}

Task<void> destroy_condition(std::unique_ptr<Condition>* condition, bool* woken) {
  co_await (*condition)->wait();
  *woken = true;
  condition->reset();
}

TEST_F(TaskTest, AWaiterMayDestroyTheConditionThatWokeIt) {
  auto condition = std::make_unique<Condition>(*loop_);
  bool woken = false;
  TaskScope scope;
  scope.spawn(destroy_condition(&condition, &woken));
  condition->notify_all();
  run_until([&] { return woken; });
  EXPECT_EQ(condition, nullptr);
}

}  // namespace
}  // namespace holdfast
