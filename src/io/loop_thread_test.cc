// SPDX-License-Identifier: Apache-2.0
#include "io/loop_thread.h"

#include <gtest/gtest.h>

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
