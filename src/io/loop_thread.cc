// SPDX-License-Identifier: Apache-2.0
#include "io/loop_thread.h"

#include <csignal>

namespace holdfast {

Result<std::unique_ptr<LoopThread>> LoopThread::start() {
  auto loop = TRY(Loop::create());
  return std::unique_ptr<LoopThread>(new LoopThread(std::move(loop)));  // NOLINT: private
}

LoopThread::LoopThread(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {
  // Signals of the process are for the threads that expect them; but a fault is the thread's own,
  // and blocked it would end the process in spite of its handler (shared_memory.cc).
  sigset_t all;
  sigset_t previous;
  sigfillset(&all);
  for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&all, fault);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  thread_ = std::thread([this] {
    loop_->run();
    may_destroy_.acquire();
    loop_.reset();  // here: the kernel knows the ring as this thread's
  });
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
}

LoopThread::~LoopThread() {
  // In its turn, behind what was posted before.
  loop_->post_remote([loop = loop_.get()] { loop->stop(); });
  may_destroy_.release();
  thread_.join();
}

}  // namespace holdfast
