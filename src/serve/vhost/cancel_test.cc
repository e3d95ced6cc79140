// SPDX-License-Identifier: Apache-2.0
//
// Queues that are stopped while the device holds their requests: QEMU waits for the answer, so it
// comes at once, and what was held runs again when the queues start.
#include <gtest/gtest.h>

#include "base/limits.h"
#include "serve/vhost/vhost_fixture.h"

namespace holdfast::vhost {
namespace {

class VhostCancelTest : public VhostTest {
 protected:
  void start_tracked(const GuestOptions& options = {}) {
    connect(options);
    ASSERT_TRUE(frontend_->negotiate());
    inflight_ = frontend_->get_inflight();
    ASSERT_TRUE(inflight_ != nullptr && frontend_->set_inflight(*inflight_));
    ASSERT_TRUE(frontend_->share_memory());
    for (std::size_t i = 0; i < options.queue_count; ++i) {
      ASSERT_TRUE(frontend_->prepare_queue(i) && frontend_->enable_queue(i));
    }
  }
  void hold() {
    daemon_->device().hold();
    daemon_->device().set_holding(true);
  }
  void flow() {
    daemon_->device().set_holding(false);
    daemon_->device().release();
    daemon_->run();
  }
  // Writes of a sector each, each with bytes of its own.
  void submit_writes(std::size_t queue, std::uint64_t first_sector, std::size_t count) {
    for (std::uint64_t i = first_sector; i < first_sector + count; ++i) {
      fill_data(i * 512, pattern(512, static_cast<std::uint32_t>(i)));
      ASSERT_NE(guest_->submit(queue, BlkType::out, i, {{i * 512, 512}}), TestGuest::kNone);
    }
    frontend_->publish(queue);
  }
  void expect_written(std::uint64_t first_sector, std::size_t count) const {
    for (std::uint64_t i = first_sector; i < first_sector + count; ++i) {
      EXPECT_EQ(disk_bytes(i * 512, 512), pattern(512, static_cast<std::uint32_t>(i))) << i;
    }
  }
  bool restart_queue(std::size_t queue, std::uint16_t base) {
    return frontend_->prepare_queue(queue, base);
  }

  std::unique_ptr<TestMemory> inflight_;
};

TEST_F(VhostCancelTest, AHeldQueueStopsAtOnceAndRunsItsRequestsAgainWhenItStarts) {
  start_tracked();
  submit_writes(0, 0, 2);  // answered
  hold();
  submit_writes(0, 10, 5);
  ASSERT_EQ(daemon_->device().waiting_count(), 5u);
  EXPECT_EQ(frontend_->stop_queue(0), 2u) << "as many as were answered";
  EXPECT_EQ(daemon_->server().request_count(), 0u);
  EXPECT_EQ(daemon_->device().waiting_count(), 0u);
  EXPECT_EQ(guest_->used_index(0), 2u) << "nothing is answered that was not done";
  disk_.submitted.clear();
  ASSERT_TRUE(restart_queue(0, 2));
  EXPECT_EQ(daemon_->device().waiting_count(), 5u) << "held again";
  for (std::uint64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(disk_.submitted[i].offset_bytes, (10 + i) * 512) << "in the order they were taken";
  }
  flow();
  EXPECT_EQ(guest_->take_used(0).size(), 7u);
  expect_written(10, 5);
  EXPECT_EQ(daemon_->statistics().requests_resumed, 5u);
  EXPECT_EQ(daemon_->statistics().requests_failed, 0u);
  // And all is as ever.
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
  EXPECT_EQ(frontend_->stop_queue(0), 8u);
}

TEST_F(VhostCancelTest, WhatWasAnsweredOutOfOrderIsNotRunAgain) {
  start_tracked();
  hold();
  submit_writes(0, 0, 6);
  daemon_->device().complete(4);
  daemon_->device().complete(1);
  daemon_->run();
  ASSERT_EQ(guest_->used_index(0), 2u);
  EXPECT_EQ(frontend_->stop_queue(0), 2u);
  disk_.submitted.clear();
  ASSERT_TRUE(restart_queue(0, 2));
  flow();
  ASSERT_EQ(disk_.submitted.size(), 4u);
  EXPECT_EQ(disk_.submitted[1].offset_bytes, 2 * 512u);
  EXPECT_EQ(guest_->take_used(0).size(), 6u);
  expect_written(0, 6);
}

TEST_F(VhostCancelTest, StoppingAndStartingManyTimesLosesAndRepeatsNothing) {
  start_tracked({.queue_count = 2, .queue_size = 64});
  hold();
  for (std::uint16_t round = 0; round < 20; ++round) {
    submit_writes(0, round, 1);
    if (round % 3 == 0) submit_writes(1, 100 + round, 1);
    EXPECT_EQ(frontend_->stop_queue(0), 0u);
    EXPECT_EQ(frontend_->stop_queue(1), 0u);
    ASSERT_TRUE(restart_queue(0, 0) && restart_queue(1, 0));
  }
  flow();
  EXPECT_EQ(guest_->take_used(0).size(), 20u);
  EXPECT_EQ(guest_->take_used(1).size(), 7u);
  expect_written(0, 20);
}

TEST_F(VhostCancelTest, WithoutInflightMemoryAStopWaitsForWhatIsHeld) {
  start();
  hold();
  submit_writes(0, 0, 1);
  EXPECT_FALSE(frontend_->stop_queue(0).has_value());
  daemon_->run_for(10s);
  EXPECT_EQ(daemon_->server().request_count(), 1u);
  flow();
  EXPECT_EQ(guest_->used_index(0), 1u);
  EXPECT_EQ(TestFrontend::base_of(frontend_->take_reply(), 0), 1u);
}

TEST_F(VhostCancelTest, AStopThatIsWaitingEndsSoonAfterAHoldBegins) {
  start_tracked();
  daemon_->device().hold();  // only slow
  submit_writes(0, 0, 1);
  EXPECT_FALSE(frontend_->stop_queue(0).has_value());
  daemon_->run_for(10s);
  EXPECT_FALSE(frontend_->take_reply().has_value()) << "what flows is answered before";
  daemon_->device().set_holding(true);
  daemon_->run_for(limits::kHeldLookTime);
  EXPECT_EQ(TestFrontend::base_of(frontend_->take_reply(), 0), 0u);
  EXPECT_EQ(guest_->used_index(0), 0u);
}

TEST_F(VhostCancelTest, WhatTheDeviceCannotGiveUpYetIsWaitedFor) {
  start_tracked();
  hold();
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  guest_->submit(0, BlkType::in, 1, {{512, 512}});
  frontend_->publish(0);
  daemon_->device().keep(0);
  EXPECT_FALSE(frontend_->stop_queue(0).has_value());
  EXPECT_EQ(daemon_->device().waiting_count(), 1u);
  daemon_->device().complete(0);
  daemon_->run();
  EXPECT_EQ(TestFrontend::base_of(frontend_->take_reply(), 0), 1u);
  EXPECT_EQ(guest_->used_index(0), 1u) << "it had come, so it is answered";
}

TEST_F(VhostCancelTest, ASessionThatIsLostWhileItIsHeldEndsAndTheNextOneGoesOn) {
  start_tracked();
  hold();
  submit_writes(0, 0, 3);
  frontend_->hang_up();
  EXPECT_EQ(daemon_->server().session_count(), 0u) << "nobody keeps the guest's memory mapped";
  TestFrontend again(*daemon_, *guest_);
  ASSERT_TRUE(again.start(inflight_.get()));
  EXPECT_EQ(daemon_->device().waiting_count(), 3u);
  flow();
  EXPECT_EQ(guest_->take_used(0).size(), 3u);
  expect_written(0, 3);
}

TEST_F(VhostCancelTest, AServerThatClosesWhileItIsHeldEndsAtOnceAndTheNextDaemonGoesOn) {
  start_tracked();
  hold();
  submit_writes(0, 0, 3);
  TaskScope scope;
  scope.spawn(daemon_->server().close());
  daemon_->run();
  EXPECT_TRUE(scope.empty());
  EXPECT_TRUE(guest_->take_used(0).empty());
  make_daemon();
  TestFrontend again(*daemon_, *guest_);
  ASSERT_TRUE(again.start(inflight_.get()));
  EXPECT_EQ(guest_->take_used(0).size(), 3u);
  expect_written(0, 3);
}

TEST_F(VhostCancelTest, DiscardsOfManySegmentsRunAgainAsAWhole) {
  start_tracked();
  std::fill(disk_.bytes.begin(), disk_.bytes.end(), std::byte{1});
  hold();
  Bytes segments(2 * kDiscardSegmentBytes);
  store_little<std::uint64_t>(segments.data(), 0);
  store_little<std::uint32_t>(segments.data() + 8, 8);
  store_little<std::uint64_t>(segments.data() + 16, 16);
  store_little<std::uint32_t>(segments.data() + 24, 8);
  fill_data(0, segments);
  guest_->submit(0, BlkType::discard, 0, {{0, 32}});
  frontend_->publish(0);
  daemon_->device().complete(0);  // the first segment
  daemon_->run();
  EXPECT_EQ(frontend_->stop_queue(0), 0u);
  ASSERT_TRUE(restart_queue(0, 0));
  flow();
  EXPECT_EQ(guest_->take_used(0).at(0).status, 0);
  EXPECT_EQ(disk_bytes(0, 4096), Bytes(4096));
  EXPECT_EQ(disk_bytes(8192, 4096), Bytes(4096));
  EXPECT_EQ(disk_bytes(4096, 4096), Bytes(4096, std::byte{1}));
}

}  // namespace
}  // namespace holdfast::vhost
