// SPDX-License-Identifier: Apache-2.0
#include "io/loop_thread.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

namespace holdfast {
namespace {

// linux/ioprio.h, which C++ cannot read.
constexpr int kWhoIsAThread = 1;
constexpr int kClassRealTime = 1;
constexpr int kClassBestEffort = 2;
constexpr int kClassShift = 13;  // below it the level; 0 is the highest

// Of the calling thread; io_uring takes the I/O priority over to what the thread submits.
void make_urgent() {
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), -20);
  for (const int io_class : {kClassRealTime, kClassBestEffort}) {
    if (syscall(SYS_ioprio_set, kWhoIsAThread, 0, io_class << kClassShift) == 0) return;
  }
}

}  // namespace

Result<std::unique_ptr<LoopThread>> LoopThread::start(Priority priority) {
  auto loop = TRY(Loop::create());
  return std::unique_ptr<LoopThread>(new LoopThread(std::move(loop), priority));  // NOLINT: private
}

LoopThread::LoopThread(std::unique_ptr<Loop> loop, Priority priority) : loop_(std::move(loop)) {
  // Signals of the process are for the threads that expect them; but a fault is the thread's own,
  // and blocked it would end the process in spite of its handler (shared_memory.cc).
  sigset_t all;
  sigset_t previous;
  sigfillset(&all);
  for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&all, fault);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  thread_ = std::thread([this, priority] {
    if (priority == Priority::urgent) make_urgent();
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
