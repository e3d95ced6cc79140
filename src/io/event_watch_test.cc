// SPDX-License-Identifier: Apache-2.0
#include "io/event_watch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <memory>

namespace holdfast {
namespace {

class EventWatchTest : public testing::Test {
 protected:
  static Descriptor make_event(unsigned count = 0, int flags = EFD_CLOEXEC | EFD_NONBLOCK) {
    return Descriptor(eventfd(count, flags));
  }
  std::unique_ptr<EventWatch> watch(const Descriptor& event) {
    return watch_event(
        *loop_, Descriptor(dup(event.get())), [](void* context) { ++*static_cast<int*>(context); },
        &count_);
  }
  void settle() {
    loop_->run_until([] { return false; }, 5ms);
  }

  std::unique_ptr<Loop> loop_ = Loop::create().value();
  int count_ = 0;
};

TEST_F(EventWatchTest, ASignalCallsBackOnceAndTheNextOneAgain) {
  const Descriptor event = make_event();
  const auto watching = watch(event);
  settle();
  EXPECT_EQ(count_, 0);
  for (int i = 1; i <= 3; ++i) {
    signal_event(event);
    EXPECT_TRUE(loop_->run_until([&] { return count_ == i; }, 10s));
  }
  settle();
  EXPECT_EQ(count_, 3);
}

TEST_F(EventWatchTest, ASignalFromBeforeTheWatchCounts) {
  const Descriptor event = make_event(1);
  const auto watching = watch(event);
  EXPECT_TRUE(loop_->run_until([&] { return count_ == 1; }, 10s));
}

TEST_F(EventWatchTest, ABurstOfSignalsIsOneCall) {
  const Descriptor event = make_event();
  const auto watching = watch(event);
  for (int i = 0; i < 100; ++i) signal_event(event);
  EXPECT_TRUE(loop_->run_until([&] { return count_ != 0; }, 10s));
  settle();
  EXPECT_EQ(count_, 1);
}

TEST_F(EventWatchTest, ADestroyedWatchCallsNobody) {
  const Descriptor event = make_event();
  auto watching = watch(event);
  settle();
  signal_event(event);
  watching.reset();
  settle();
  EXPECT_EQ(count_, 0);
  // Never handed to the kernel, and with the kernel done but not yet seen.
  watching = watch(event);
  watching.reset();
  settle();
  EXPECT_EQ(count_, 0);
}

TEST_F(EventWatchTest, ALoopMayDieWithADestroyedWatch) {
  const Descriptor event = make_event();
  auto watching = watch(event);
  settle();
  watching.reset();
  loop_.reset();
}

TEST_F(EventWatchTest, ASignalArrivesWhileTheLoopPolls) {
  Poller poller([](void*) { return true; }, nullptr);
  loop_->add(poller);
  const Descriptor event = make_event();
  const auto watching = watch(event);
  settle();
  for (int i = 1; i <= 100; ++i) {
    signal_event(event);
    ASSERT_TRUE(loop_->run_until([&] { return count_ == i; }, 10s)) << i;
  }
}

TEST_F(EventWatchTest, AFullCounterMakesNobodyWait) {
  const Descriptor event = make_event();
  const std::uint64_t full = ~std::uint64_t{0} - 1;
  ASSERT_EQ(write(event.get(), &full, sizeof full), static_cast<ssize_t>(sizeof full));
  signal_event(event);  // returns
  EXPECT_TRUE(take_event(event));
  EXPECT_FALSE(take_event(event));
}

TEST_F(EventWatchTest, OnlyEventfdsAreTakenForEvents) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const Descriptor reading(pipe_ends[0]);
  const Descriptor writing(pipe_ends[1]);
  EXPECT_FALSE(prepare_event(reading));
  EXPECT_FALSE(prepare_event(writing));
  EXPECT_FALSE(prepare_event(Descriptor(open("/dev/null", O_RDWR | O_CLOEXEC))));
  EXPECT_FALSE(prepare_event(Descriptor()));
  const Descriptor blocking = make_event(0, EFD_CLOEXEC);
  EXPECT_TRUE(prepare_event(blocking));
  EXPECT_NE(fcntl(blocking.get(), F_GETFL) & O_NONBLOCK, 0);
}

}  // namespace
}  // namespace holdfast
