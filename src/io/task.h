// SPDX-License-Identifier: Apache-2.0
//
// Coroutines for control paths (recovery, checkpoints, pool and host operations). Nothing here is
// on the path of a guest's I/O.
//
// Task<T> is lazy: it starts when awaited (or given to a TaskScope) and owns its frame; destroying
// it destroys the frame and all it awaits. A TaskScope owns detached tasks: destroying the scope
// destroys what has not finished, without running it, which is how a simulated host "dies".
//
// g++ 12 pitfalls kept out of our code: no co_await inside a statement expression, and no braced
// temporaries among the arguments of an awaited call (name them first).
#pragma once

#include <coroutine>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "base/list.h"
#include "base/time.h"
#include "io/executor.h"

namespace holdfast {

template <typename T>
class Task;

namespace detail {

struct TaskPromiseBase {
  std::coroutine_handle<> continuation = std::noop_coroutine();

  std::suspend_always initial_suspend() noexcept { return {}; }
  struct FinalAwaiter {
    bool await_ready() noexcept { return false; }
    template <typename Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> self) noexcept {
      return self.promise().continuation;
    }
    void await_resume() noexcept {}
  };
  FinalAwaiter final_suspend() noexcept { return {}; }
  [[noreturn]] void unhandled_exception() {
    assertion_failed("no exception leaves a coroutine", __FILE__, __LINE__);
  }
};

template <typename T>
struct TaskPromise : TaskPromiseBase {
  std::optional<T> value;
  Task<T> get_return_object();
  template <typename U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
};

template <>
struct TaskPromise<void> : TaskPromiseBase {
  Task<void> get_return_object();
  void return_void() {}
};

}  // namespace detail

template <typename T>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::TaskPromise<T>;
  using Handle = std::coroutine_handle<promise_type>;

  explicit Task(Handle handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      reset();
      handle_ = std::exchange(other.handle_, {});
    }
    return *this;
  }
  ~Task() { reset(); }

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> caller) noexcept {
    handle_.promise().continuation = caller;
    return handle_;
  }
  T await_resume() {
    if constexpr (!std::is_void_v<T>) {
      HOLDFAST_ASSERT(handle_.promise().value.has_value());
      return std::move(*handle_.promise().value);
    }
  }

 private:
  void reset() {
    if (handle_) std::exchange(handle_, {}).destroy();
  }
  Handle handle_;
};

namespace detail {
template <typename T>
Task<T> TaskPromise<T>::get_return_object() {
  return Task<T>(std::coroutine_handle<TaskPromise<T>>::from_promise(*this));
}
inline Task<void> TaskPromise<void>::get_return_object() {
  return Task<void>(std::coroutine_handle<TaskPromise<void>>::from_promise(*this));
}
}  // namespace detail

// Owns running tasks that nobody awaits. Same thread as the executor they run on.
class TaskScope {
 public:
  TaskScope() = default;
  TaskScope(const TaskScope&) = delete;
  TaskScope& operator=(const TaskScope&) = delete;
  ~TaskScope() {
    while (Entry* entry = entries_.pop_front()) delete entry;  // NOLINT: the scope owns its entries
  }

  // Starts the task at once, up to its first suspension.
  void spawn(Task<void> task) {
    auto* entry = new Entry{std::move(task), {}, {}};  // NOLINT: freed when it ends or with *this
    entries_.push_back(*entry);
    entry->runner = run(entry);
    entry->runner->resume();
  }
  bool empty() const { return entries_.empty(); }

 private:
  struct Runner {
    struct promise_type {
      Runner get_return_object() {
        return Runner{std::coroutine_handle<promise_type>::from_promise(*this)};
      }
      std::suspend_always initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      void return_void() {}
      [[noreturn]] void unhandled_exception() {
        assertion_failed("no exception leaves a coroutine", __FILE__, __LINE__);
      }
    };
    std::coroutine_handle<promise_type> handle;
    void resume() { handle.resume(); }
  };
  struct Entry {
    Task<void> task;
    std::optional<Runner> runner;
    ListLink link;
    ~Entry() {
      if (runner.has_value() && runner->handle) runner->handle.destroy();
    }
  };
  static Runner run(Entry* entry) {
    co_await entry->task;
    entry->runner.reset();  // this frame frees itself at its final suspension point
    entry->link.unlink();
    delete entry;  // NOLINT: the owner's side of spawn()
  }

  List<Entry, &Entry::link> entries_;
};

// A place where coroutines wait until somebody calls notify_all(). Resumption is posted, so the
// notifier never runs a waiter inside its own call.
class Condition {
 public:
  explicit Condition(Executor& executor) : executor_(executor) {}
  Condition(const Condition&) = delete;
  Condition& operator=(const Condition&) = delete;

  struct Awaiter {
    Condition& condition;
    ListLink link;
    std::coroutine_handle<> handle;

    explicit Awaiter(Condition& owner) : condition(owner) {}
    ~Awaiter() { link.unlink(); }
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiting) {
      handle = waiting;
      condition.waiting_.push_back(*this);
    }
    void await_resume() noexcept {}
  };
  Awaiter wait() { return Awaiter(*this); }
  void notify_all() {
    if (!waiting_.empty()) executor_.defer(wake_);
  }

 private:
  static void wake(void* context) {
    auto* self = static_cast<Condition*>(context);
    // Only those that wait now: one that waits again meanwhile waits for the next call.
    List<Awaiter, &Awaiter::link> ready;
    while (Awaiter* awaiter = self->waiting_.pop_front()) ready.push_back(*awaiter);
    bool destroyed = false;
    self->destroyed_flag_ = &destroyed;
    while (!ready.empty()) {
      ready.pop_front()->handle.resume();
      if (destroyed) return;
    }
    self->destroyed_flag_ = nullptr;
  }

  Executor& executor_;
  List<Awaiter, &Awaiter::link> waiting_;
  Deferred wake_{&Condition::wake, this};
  bool* destroyed_flag_ = nullptr;

 public:
  ~Condition() {
    if (destroyed_flag_ != nullptr) *destroyed_flag_ = true;
  }
};

// `co_await sleep_for(executor, 50ms);`
class SleepAwaiter {
 public:
  SleepAwaiter(Executor& executor, Duration delay) : executor_(executor), delay_(delay) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    handle_ = waiting;
    executor_.arm_after(timer_, delay_);
  }
  void await_resume() noexcept {}

 private:
  static void fire(void* context) { static_cast<SleepAwaiter*>(context)->handle_.resume(); }
  Executor& executor_;
  Duration delay_;
  std::coroutine_handle<> handle_;
  Timer timer_{&SleepAwaiter::fire, this};
};
inline SleepAwaiter sleep_for(Executor& executor, Duration delay) { return {executor, delay}; }

}  // namespace holdfast
