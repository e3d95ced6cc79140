// SPDX-License-Identifier: Apache-2.0
#include "host/run_on.h"

#include <gtest/gtest.h>

#include <thread>

#include "io/loop_thread.h"
#include "io/test_executor.h"

namespace holdfast {
namespace {

// Two executors that a test drives by hand, and a task on the target that ends when told.
class RunOnTest : public testing::Test {
 protected:
  struct OnTarget {
    Executor& executor;
    bool started = false;
    bool may_end = false;
    bool ended = false;
    Condition changed{executor};
  };

  static Task<int> wait_on(OnTarget* on_target, int value) {
    on_target->started = true;
    while (!on_target->may_end) co_await on_target->changed.wait();
    on_target->ended = true;
    co_return value;
  }
  static Task<void> call(Executor* home, Executor* target, std::weak_ptr<TaskScope> scope,
                         OnTarget* on_target, int* result) {
    auto start = [on_target] { return wait_on(on_target, 42); };
    *result = co_await run_on(*home, *target, std::move(scope), std::move(start));
  }
  void end_task() {
    on_target_.may_end = true;
    on_target_.changed.notify_all();
  }

  TestExecutor home_;
  TestExecutor target_;
  OnTarget on_target_{target_};
  std::shared_ptr<TaskScope> scope_ = std::make_shared<TaskScope>();
  TaskScope callers_;
  int result_ = 0;
};

TEST_F(RunOnTest, TheTaskRunsOnTheTargetAndTheCallerGoesOnAtHome) {
  callers_.spawn(call(&home_, &target_, scope_, &on_target_, &result_));
  home_.run_until_idle();
  EXPECT_FALSE(on_target_.started) << "only the target starts it";
  target_.run_until_idle();
  EXPECT_TRUE(on_target_.started);
  end_task();
  target_.run_until_idle();
  EXPECT_TRUE(on_target_.ended);
  EXPECT_EQ(result_, 0) << "only home resumes the caller";
  home_.run_until_idle();
  EXPECT_EQ(result_, 42);
  EXPECT_TRUE(callers_.empty());
  EXPECT_TRUE(scope_->empty());
}

TEST_F(RunOnTest, TargetAndHomeMayBeTheSame) {
  OnTarget same{home_};
  callers_.spawn(call(&home_, &home_, scope_, &same, &result_));
  EXPECT_FALSE(same.started);
  home_.run_until_idle();
  EXPECT_TRUE(same.started);
  same.may_end = true;
  same.changed.notify_all();
  home_.run_until_idle();
  EXPECT_EQ(result_, 42);
}

TEST_F(RunOnTest, ATaskOutlivesItsCaller) {
  auto callers = std::make_unique<TaskScope>();
  callers->spawn(call(&home_, &target_, scope_, &on_target_, &result_));
  target_.run_until_idle();
  callers.reset();
  end_task();
  target_.run_until_idle();
  EXPECT_TRUE(on_target_.ended);
  home_.run_until_idle();
  EXPECT_EQ(result_, 0);
}

TEST_F(RunOnTest, NothingRunsWhereTheScopeIsGone) {
  callers_.spawn(call(&home_, &target_, scope_, &on_target_, &result_));
  scope_.reset();
  target_.run_until_idle();
  home_.run_until_idle();
  EXPECT_FALSE(on_target_.started);
  EXPECT_FALSE(callers_.empty()) << "the caller waits until it is destroyed";
}

TEST_F(RunOnTest, AScopeThatDiesTakesItsTasksAlong) {
  callers_.spawn(call(&home_, &target_, scope_, &on_target_, &result_));
  target_.run_until_idle();
  scope_.reset();
  end_task();
  target_.run_until_idle();
  home_.run_until_idle();
  EXPECT_FALSE(on_target_.ended);
  EXPECT_EQ(result_, 0);
}

Task<std::thread::id> this_thread() {
  co_return std::this_thread::get_id();
}

Task<void> ask_many_times(Loop* home, Loop* target, std::weak_ptr<TaskScope> scope, int times,
                          bool* all_right) {
  const std::thread::id own = std::this_thread::get_id();
  for (int i = 0; i < times; ++i) {
    const std::thread::id theirs = co_await run_on(*home, *target, scope, &this_thread);
    *all_right = *all_right && theirs != own && std::this_thread::get_id() == own;
  }
}

TEST(RunOnThreadsTest, ManyCallsCrossBetweenRealThreads) {
  auto home = Loop::create().value();
  auto thread = LoopThread::start().value();
  auto scope = std::make_shared<TaskScope>();
  bool all_right = true;
  {
    TaskScope callers;
    for (int i = 0; i < 8; ++i) {
      callers.spawn(ask_many_times(home.get(), &thread->loop(), scope, 500, &all_right));
    }
    EXPECT_TRUE(home->run_until([&] { return callers.empty(); }, std::chrono::seconds(60)));
  }
  EXPECT_TRUE(all_right);
  thread->loop().post_remote([scope = std::move(scope)]() mutable { scope.reset(); });
}

}  // namespace
}  // namespace holdfast
