// SPDX-License-Identifier: Apache-2.0
//
// Executor: one thread of control with a clock and timers. Two implementations: Loop (io_uring,
// real time) and the simulator's scheduler (virtual time). Everything above io/ sees only this, and
// so runs in both.
//
// Threading: all calls but post_remote() are made on the executor's own thread, and every callback
// runs there, never from inside the call that registered it.
#pragma once

#include <cstdint>
#include <functional>

#include "base/list.h"
#include "base/time.h"

namespace holdfast {

// One-shot timer. Owned by the caller; its destructor cancels it.
class Timer {
 public:
  using Callback = void (*)(void* context);

  Timer() = default;
  Timer(Callback callback, void* context) : callback_(callback), context_(context) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer();

  bool is_armed() const { return executor_ != nullptr; }
  MonotonicTime deadline() const { return deadline_; }

 private:
  friend class Executor;
  friend class TimerQueue;
  Callback callback_ = nullptr;
  void* context_ = nullptr;
  class Executor* executor_ = nullptr;  // while armed
  MonotonicTime deadline_{};
  std::uint64_t order_ = 0;  // equal deadlines fire in the order they were armed
};

// Work to do once when the events at hand are handled, before the executor waits for new ones:
// this is what makes group commit and reply batching work without a timer. Re-arm freely.
class Deferred {
 public:
  using Callback = void (*)(void* context);
  Deferred(Callback callback, void* context) : callback_(callback), context_(context) {}
  Deferred(const Deferred&) = delete;
  Deferred& operator=(const Deferred&) = delete;
  ~Deferred() { link.unlink(); }

  void run() { callback_(context_); }
  bool is_armed() const { return link.is_linked(); }
  ListLink link;

 private:
  Callback callback_;
  void* context_;
};

// Something to look at in every turn of the executor, such as memory shared with another process.
// While a look answers true the executor goes on turning instead of sleeping, so this is for short
// times in which waiting to be woken costs more. Owned by the caller; its destructor removes it.
class Poller {
 public:
  using Callback = bool (*)(void* context);
  Poller(Callback callback, void* context) : callback_(callback), context_(context) {}
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;
  ~Poller() { link.unlink(); }

  // One more look before the executor sleeps, whenever in a turn this is called.
  void wake() { is_woken_ = true; }
  bool is_woken() const { return is_woken_; }
  bool look() {
    is_woken_ = false;
    return callback_(context_);
  }
  void remove() { link.unlink(); }
  ListLink link;

 private:
  Callback callback_;
  void* context_;
  bool is_woken_ = false;
};

class Executor {
 public:
  virtual ~Executor() = default;

  virtual MonotonicTime now() const = 0;   // of the current turn; cheap
  virtual BootTime boot_time() const = 0;  // of this very moment
  virtual WallTime wall_time() const = 0;
  // Cryptographic quality is not promised: for identities and back-off jitter.
  virtual std::uint64_t random() = 0;

  // Runs `function` soon, in the order posted.
  virtual void post(std::function<void()> function) = 0;
  // The same from any thread.
  virtual void post_remote(std::function<void()> function) = 0;
  // Arming what is armed already does nothing.
  virtual void defer(Deferred& deferred) = 0;
  // From now on, until the poller is removed; not from inside a look. After timers, before what is
  // deferred.
  virtual void add(Poller& poller) = 0;
  // Arming an armed timer moves it.
  virtual void arm(Timer& timer, MonotonicTime deadline) = 0;
  virtual void cancel(Timer& timer) = 0;

  void arm_after(Timer& timer, Duration delay) { arm(timer, now() + delay); }

 protected:
  static void mark_armed(Timer& timer, Executor* executor, MonotonicTime deadline,
                         std::uint64_t order) {
    timer.executor_ = executor;
    timer.deadline_ = deadline;
    timer.order_ = order;
  }
  static void mark_idle(Timer& timer) { timer.executor_ = nullptr; }
  static void fire(Timer& timer) { timer.callback_(timer.context_); }
};

inline Timer::~Timer() {
  if (executor_ != nullptr) executor_->cancel(*this);
}

}  // namespace holdfast
