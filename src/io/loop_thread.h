// SPDX-License-Identifier: Apache-2.0
//
// LoopThread: a loop that runs on a thread of its own. Others reach it through Loop::post_remote().
#pragma once

#include <memory>
#include <semaphore>
#include <thread>

#include "base/result.h"
#include "io/loop.h"

namespace holdfast {

class LoopThread {
 public:
  // `urgent`: before the rest of the machine's work, on its processors and on disks whose I/O
  // scheduler heeds it, as far as the system permits (all of it with CAP_SYS_NICE).
  enum class Priority { normal, urgent };
  // Returns when the loop runs.
  static Result<std::unique_ptr<LoopThread>> start(Priority priority = Priority::normal);
  // Runs what was posted before, then ends the thread and destroys the loop on it. What others made
  // on the loop is gone by then; they post nothing afterwards.
  ~LoopThread();
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;

  Loop& loop() { return *loop_; }

 private:
  LoopThread(std::unique_ptr<Loop> loop, Priority priority);

  std::unique_ptr<Loop> loop_;
  std::binary_semaphore may_destroy_{0};  // the last call into the loop from outside has returned
  std::thread thread_;
};

}  // namespace holdfast
