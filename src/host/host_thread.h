// SPDX-License-Identifier: Apache-2.0
//
// A Host on a thread of its own: the loop, the disks and the host live there. Other threads call in
// and wait. And the threads of the loops that serve volumes.
//
// Lifetime: create() to stop(). Not destroyed while a call is under way.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/limits.h"
#include "base/result.h"
#include "host/host.h"
#include "io/disk.h"
#include "io/loop.h"
#include "io/loop_thread.h"

namespace holdfast {

class HostThread {
 public:
  // Starts the host and returns when it serves. `on_locked` runs (on the host's thread) as soon as
  // the runtime directory is ours.
  static Result<std::unique_ptr<HostThread>> start(HostConfig config, std::string holder,
                                                   std::function<void()> on_locked);
  ~HostThread();
  HostThread(const HostThread&) = delete;
  HostThread& operator=(const HostThread&) = delete;

  // False: storage did not answer in time; the process should end as it is (nothing acknowledged is
  // lost), and this object must not be destroyed.
  bool stop();

  // Runs a command on the host's thread. A command that takes longer than limits::kApiAnswerTime
  // goes on without the caller.
  template <typename T>
  Result<T> call(std::function<Task<Result<T>>(Host&)> command) {
    auto answer = std::make_shared<Answer<T>>();
    loop_->post_remote([this, answer, command = std::move(command)]() mutable {
      tasks_->spawn(run<T>(std::move(answer), std::move(command), host_.get()));
    });
    for (Duration waited{}; waited < limits::kApiAnswerTime && !finished_; waited += kSlice) {
      if (auto result = answer->wait(kSlice)) return std::move(*result);
    }
    if (finished_)
      return Error(ErrorCode::busy, "holdfastd is shutting down; start it again first");
    return Error(
        ErrorCode::path_failure,
        "the storage does not answer; holdfastd goes on with this command by itself, see 'holdfast "
        "status'");
  }

 private:
  // One result on its way from the host's thread to the caller's.
  template <typename T>
  class Answer {
   public:
    void set(Result<T> result) {
      const std::lock_guard lock(mutex_);
      result_.emplace(std::move(result));
      ready_.notify_one();
    }
    std::optional<Result<T>> wait(Duration limit) {
      std::unique_lock lock(mutex_);
      ready_.wait_for(lock, limit, [this] { return result_.has_value(); });
      return std::move(result_);
    }

   private:
    std::mutex mutex_;
    std::condition_variable ready_;
    std::optional<Result<T>> result_;
  };

  static constexpr Duration kSlice =
      250ms;  // the longest a caller waits for a thread that has ended

  HostThread() = default;
  struct Setup {
    HostConfig config;
    std::string holder;
    std::function<void()> on_locked;
  };
  Result<void> make(Setup setup);
  void destroy();
  void run_loop(Setup setup, std::shared_ptr<Answer<bool>> started);

  template <typename T>
  static Task<void> run(std::shared_ptr<Answer<T>> answer,
                        std::function<Task<Result<T>>(Host&)> command, Host* host) {
    answer->set(co_await command(*host));
  }

  // Made, used and destroyed on the thread; only loop_->post_remote() and stop() from others.
  std::unique_ptr<Loop> loop_;
  std::vector<std::unique_ptr<LoopThread>> service_threads_;
  std::unique_ptr<LoopThread> lease_thread_;
  std::unique_ptr<Disk> disk_;
  std::unique_ptr<Host> host_;
  std::unique_ptr<TaskScope> tasks_;     // commands
  std::unique_ptr<TaskScope> stopping_;  // waits for those
  std::atomic<bool> finished_{false};    // no call is answered any more
  std::thread thread_;
};

}  // namespace holdfast
