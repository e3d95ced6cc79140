// SPDX-License-Identifier: Apache-2.0
#include "io/worker.h"

#include <csignal>

namespace holdfast {

Worker::Worker(Loop& loop)
    : done_signal_(
          loop, [](void* context) { static_cast<Worker*>(context)->finish(); }, this) {
  // Signals of the process are for the threads that expect them.
  sigset_t all;
  sigset_t previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  thread_ = std::thread([this] { thread_main(); });
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
}

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  not_empty_.notify_one();
  thread_.join();
}

void Worker::add(std::unique_ptr<WorkerJob> job) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
  }
  not_empty_.notify_one();
}

void Worker::thread_main() {
  std::unique_lock lock(mutex_);
  for (;;) {
    not_empty_.wait(lock, [this] { return !queue_.empty() || stopping_; });
    if (queue_.empty()) return;
    std::unique_ptr<WorkerJob> job = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    job->run();
    lock.lock();
    done_.push_back(std::move(job));
    if (done_.size() == 1) done_signal_.signal();
  }
}

void Worker::finish() {
  std::vector<std::unique_ptr<WorkerJob>> done;
  {
    const std::lock_guard lock(mutex_);
    done.swap(done_);
  }
  // From here on *this may die: a resumed coroutine may destroy the worker's owner.
  for (const auto& job : done) {
    if (job->waiting) job->waiting.resume();
  }
}

}  // namespace holdfast
