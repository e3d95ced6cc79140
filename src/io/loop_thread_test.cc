// SPDX-License-Identifier: Apache-2.0
#include "io/loop_thread.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "io/disk.h"

namespace holdfast {
namespace {

TEST(LoopThreadTest, WhatIsPostedRunsOnOneOtherThread) {
  auto thread = LoopThread::start().value();
  std::thread::id ids[2];
  std::binary_semaphore done{0};
  thread->loop().post_remote([&] { ids[0] = std::this_thread::get_id(); });
  thread->loop().post_remote([&] {
    ids[1] = std::this_thread::get_id();
    done.release();
  });
  done.acquire();
  EXPECT_NE(ids[0], std::this_thread::get_id());
  EXPECT_EQ(ids[0], ids[1]);
}

TEST(LoopThreadTest, WhatWasPostedBeforeTheEndStillRuns) {
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> ran{0};
    auto thread = LoopThread::start().value();
    for (int i = 0; i < 10; ++i) thread->loop().post_remote([&] { ++ran; });
    thread.reset();
    EXPECT_EQ(ran, 10);
  }
}

TEST(LoopThreadTest, EndingOneLeavesTheOthersRunning) {
  auto first = LoopThread::start().value();
  auto second = LoopThread::start().value();
  first.reset();
  std::binary_semaphore done{0};
  std::unique_ptr<Disk> disk;
  second->loop().post_remote([&] {
    disk = std::make_unique<Disk>(second->loop());
    disk.reset();
    done.release();
  });
  EXPECT_TRUE(done.try_acquire_for(std::chrono::seconds(30)));
}

TEST(LoopThreadTest, AnUrgentOnesIoGoesBeforeThatOfOthers) {
  const auto io_priority = [](LoopThread& thread) {
    long priority = -1;
    std::binary_semaphore done{0};
    thread.loop().post_remote([&] {
      priority = syscall(SYS_ioprio_get, 1, 0);
      done.release();
    });
    done.acquire();
    return priority;
  };
  const auto normal = LoopThread::start().value();
  const auto urgent = LoopThread::start(LoopThread::Priority::urgent).value();
  const long highest = 1 << 13;              // of real time
  const long highest_for_anybody = 2 << 13;  // best effort
  const long found = io_priority(*urgent);
  EXPECT_TRUE(found == highest || (found == highest_for_anybody && geteuid() != 0)) << found;
  EXPECT_NE(io_priority(*normal), found);
}

TEST(LoopThreadTest, FaultsAreNotBlockedOtherSignalsAre) {
  auto thread = LoopThread::start().value();
  sigset_t blocked;
  std::binary_semaphore done{0};
  thread->loop().post_remote([&] {
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    done.release();
  });
  done.acquire();
  EXPECT_EQ(sigismember(&blocked, SIGBUS), 0) << "the handler that guards guest memory must run";
  EXPECT_EQ(sigismember(&blocked, SIGSEGV), 0);
  EXPECT_EQ(sigismember(&blocked, SIGTERM), 1);
  EXPECT_EQ(sigismember(&blocked, SIGINT), 1);
}

}  // namespace
}  // namespace holdfast
