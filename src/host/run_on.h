// SPDX-License-Identifier: Apache-2.0
//
// Running a coroutine on another executor and waiting for its result on one's own:
//
//   auto start = [argument] { return some_task(argument); };
//   Result<void> done = co_await run_on(home, target, scope, std::move(start));
//
// What crosses is the function (made here, called and destroyed there) and its result (the other
// way round), each by a post, so neither side needs a lock. The function is no coroutine itself: it
// calls one, with arguments by value.
//
// Either side may die alone. A caller that is destroyed just does not get the result; the task goes
// on, as a Worker's job does. When the target's scope dies before the task has ended, the caller
// waits until it is destroyed itself.
#pragma once

#include <coroutine>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "io/executor.h"
#include "io/task.h"

namespace holdfast {

namespace detail {

// Each member is touched by one side at a time: `waiting` by home only; `start` by home before the
// first post, by the target after it; `value` by the target before the second post, by home after.
template <typename T>
struct Crossing {
  std::coroutine_handle<> waiting;
  std::function<Task<T>()> start;
  std::optional<T> value;
};

template <typename T>
Task<void> cross(Executor* home, std::shared_ptr<Crossing<T>> crossing) {
  Task<T> task = crossing->start();
  crossing->value.emplace(co_await task);
  crossing->start = nullptr;
  home->post_remote([crossing = std::move(crossing)] {
    if (crossing->waiting) crossing->waiting.resume();
  });
}

template <typename T>
struct TaskValue;
template <typename T>
struct TaskValue<Task<T>> {
  using Type = T;
};

}  // namespace detail

template <typename T>
class RunOnAwaiter {
 public:
  RunOnAwaiter(Executor& home, Executor& target, std::weak_ptr<TaskScope> scope,
               std::function<Task<T>()> start)
      : home_(home),
        target_(target),
        scope_(std::move(scope)),
        crossing_(std::make_shared<detail::Crossing<T>>()) {
    crossing_->start = std::move(start);
  }
  RunOnAwaiter(const RunOnAwaiter&) = delete;
  RunOnAwaiter& operator=(const RunOnAwaiter&) = delete;
  ~RunOnAwaiter() { crossing_->waiting = nullptr; }

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    crossing_->waiting = waiting;
    // The target may be done before this call returns: nothing of *this is touched after the post.
    target_.post_remote([home = &home_, scope = scope_, crossing = crossing_] {
      if (const auto alive = scope.lock()) alive->spawn(detail::cross<T>(home, crossing));
    });
  }
  T await_resume() { return std::move(*crossing_->value); }

 private:
  Executor& home_;
  Executor& target_;
  std::weak_ptr<TaskScope> scope_;
  std::shared_ptr<detail::Crossing<T>> crossing_;
};

// The executors may be one and the same, and outlive the call and what it posts. `scope` is owned
// on the target.
template <typename Start>
auto run_on(Executor& home, Executor& target, std::weak_ptr<TaskScope> scope, Start start) {
  using T = typename detail::TaskValue<std::invoke_result_t<Start&>>::Type;
  return RunOnAwaiter<T>(home, target, std::move(scope), std::move(start));
}

}  // namespace holdfast
