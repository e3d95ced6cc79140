// SPDX-License-Identifier: Apache-2.0
//
// Worker: one thread for calls that may block (file names, locks, preallocation), so that a hung
// file server never stalls a loop. Calls run in the order they were made.
//
// A coroutine that dies while its call is under way just leaves the job behind: jobs belong to the
// worker, the coroutine only borrows.
#pragma once

#include <condition_variable>
#include <coroutine>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "io/loop.h"

namespace holdfast {

class WorkerJob {
 public:
  WorkerJob() = default;
  WorkerJob(const WorkerJob&) = delete;
  WorkerJob& operator=(const WorkerJob&) = delete;
  virtual ~WorkerJob() = default;  // on the loop's thread
  virtual void run() = 0;          // on the worker's thread

  std::coroutine_handle<>
      waiting;  // of the loop's thread; none: nobody wants the result (any more)
};

class Worker {
 public:
  explicit Worker(Loop& loop);
  ~Worker();  // runs what is queued, then joins
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void add(std::unique_ptr<WorkerJob> job);

 private:
  void thread_main();
  void finish();

  std::mutex mutex_;
  std::condition_variable not_empty_;
  std::deque<std::unique_ptr<WorkerJob>> queue_;  // guarded by mutex_
  std::vector<std::unique_ptr<WorkerJob>> done_;  // guarded by mutex_
  bool stopping_ = false;                         // guarded by mutex_
  RemoteSignal done_signal_;
  std::thread thread_;
};

template <typename Function>
class FunctionJob final : public WorkerJob {
 public:
  using Value = std::invoke_result_t<Function&>;
  explicit FunctionJob(Function function) : function_(std::move(function)) {}
  void run() override { value_.emplace(function_()); }
  Value take() {
    HOLDFAST_ASSERT(value_.has_value());
    return std::move(*value_);
  }

 private:
  Function function_;
  std::optional<Value> value_;
};

// `auto work = [..] { .. }; Value value = co_await BlockingCall(worker, std::move(work));`
template <typename Function>
class BlockingCall {
 public:
  BlockingCall(Worker& worker, Function function)
      : worker_(worker), owned_(std::make_unique<FunctionJob<Function>>(std::move(function))) {}
  BlockingCall(const BlockingCall&) = delete;
  BlockingCall& operator=(const BlockingCall&) = delete;
  ~BlockingCall() {
    if (job_ != nullptr) job_->waiting = nullptr;
  }

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    job_ = owned_.get();
    job_->waiting = waiting;
    worker_.add(std::move(owned_));
  }
  typename FunctionJob<Function>::Value await_resume() {
    return std::exchange(job_, nullptr)->take();
  }

 private:
  Worker& worker_;
  std::unique_ptr<FunctionJob<Function>> owned_;  // until it is handed over
  FunctionJob<Function>* job_ = nullptr;          // from then until it is resumed
};

}  // namespace holdfast
