// SPDX-License-Identifier: Apache-2.0
//
// Loop: the real Executor, one thread around one io_uring. A turn handles the events at hand
// (completions, timers, posts), runs what was deferred, then submits everything that was started
// and waits, all in one system call. An idle loop uses no CPU.
//
// Threading: the loop belongs to the thread that first runs a turn (or, before that, first needs
// the kernel); everything but post_remote(), stop() and RemoteSignal::signal() happens there.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/list.h"
#include "base/result.h"
#include "io/executor.h"
#include "io/timer_queue.h"

struct io_uring_sqe;

namespace holdfast {

// One operation of the kernel. Owned by whoever starts it; alive and untouched until complete() is
// called, which happens exactly once per start and never from inside start().
struct LoopOperation {
  using Prepare = void (*)(LoopOperation& operation, io_uring_sqe& entry);
  using Complete = void (*)(LoopOperation& operation, int result);  // as the kernel says: -errno

  Prepare prepare = nullptr;
  Complete complete = nullptr;
  ListLink link;  // while it waits for room in the submission queue
};

// Base of what outlives its owner because the kernel still works on it: see Loop::keep().
class LoopOrphan {
 public:
  LoopOrphan() = default;
  LoopOrphan(const LoopOrphan&) = delete;
  LoopOrphan& operator=(const LoopOrphan&) = delete;
  virtual ~LoopOrphan() = default;
};

class Loop;

// "Come and look" from any thread: runs the callback on the loop once per burst of signals.
// Allocates nothing. Made and destroyed on the loop's thread (or while no loop thread runs), after
// the last signal().
class RemoteSignal {
 public:
  using Callback = void (*)(void* context);
  RemoteSignal(Loop& loop, Callback callback, void* context)
      : loop_(loop), callback_(callback), context_(context) {}
  RemoteSignal(const RemoteSignal&) = delete;
  RemoteSignal& operator=(const RemoteSignal&) = delete;
  ~RemoteSignal();

  void signal();

 private:
  friend class Loop;
  Loop& loop_;
  Callback callback_;
  void* context_;
  ListLink link_;  // guarded by the loop's mutex
};

class Loop final : public Executor {
 public:
  static Result<std::unique_ptr<Loop>> create();
  ~Loop() override;
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // Runs turns until stop().
  void run();
  // From any thread: makes run() return soon (the next one, when none runs now).
  void stop();
  // Runs turns until `done` or the limit; says which. For tests and start-up code.
  bool run_until(const std::function<bool()>& done, Duration limit);
  // One turn that waits at most so long for something to happen.
  void run_turn(Duration wait_max);

  MonotonicTime now() const override { return now_; }
  BootTime boot_time() const override;
  WallTime wall_time() const override;
  std::uint64_t random() override;
  void post(std::function<void()> function) override { posted_.push_back(std::move(function)); }
  void post_remote(std::function<void()> function) override;
  void defer(Deferred& deferred) override {
    if (!deferred.is_armed()) deferred_.push_back(deferred);
  }
  void add(Poller& poller) override { pollers_.push_back(poller); }
  void arm(Timer& timer, MonotonicTime deadline) override { timers_.arm(timer, *this, deadline); }
  void cancel(Timer& timer) override { timers_.cancel(timer); }

  // For the rest of io/. Never fails: what finds the submission queue full waits its turn.
  void start(LoopOperation& operation);
  // The kernel no longer touches the memory of the operation when this returns (true: it was never
  // handed over, and complete() is not called; false: complete() is still to come).
  bool abandon(LoopOperation& operation);
  // Owns `orphan` until release(), or until the loop dies.
  void keep(std::unique_ptr<LoopOrphan> orphan) { orphans_.push_back(std::move(orphan)); }
  void release(LoopOrphan& orphan);

 private:
  friend class RemoteSignal;
  struct Ring;

  explicit Loop(std::unique_ptr<Ring> ring);
  void ensure_enabled();
  void update_now();
  void fill_submission_queue();
  void submit_and_wait(Duration wait_max);
  void handle_completions();
  void handle_remote();
  void run_posted();
  void run_timers();
  void run_pollers();
  void run_deferred();
  bool has_work_at_hand() const;
  bool wants_kernel() const;
  void wake();

  std::unique_ptr<Ring> ring_;
  MonotonicTime now_{};
  TimerQueue timers_;
  List<Deferred, &Deferred::link> deferred_;
  List<Poller, &Poller::link> pollers_;
  bool polling_ = false;  // a poller wants another look at once
  std::vector<std::function<void()>> posted_;
  std::vector<std::function<void()>> posted_now_;  // those of the current turn
  List<LoopOperation, &LoopOperation::link> waiting_operations_;
  std::vector<std::unique_ptr<LoopOrphan>> orphans_;
  std::uint64_t random_state_[4];

  std::mutex remote_mutex_;
  std::vector<std::function<void()>> remote_;                // guarded by remote_mutex_
  List<RemoteSignal, &RemoteSignal::link_> remote_signals_;  // guarded by remote_mutex_
  bool remote_woken_ = false;                                // guarded by remote_mutex_
  std::atomic<bool> stop_requested_ = false;
};

}  // namespace holdfast
