// SPDX-License-Identifier: Apache-2.0
//
// The rings of a well-behaved driver: sizes, indexes that wrap around, kicks and interrupts that
// are suppressed but never lost, queues that stop, start, and are disabled.
#include <gtest/gtest.h>

#include <tuple>

#include "serve/vhost/vhost_fixture.h"

namespace holdfast::vhost {
namespace {

class VhostRingTest : public VhostTest {
 protected:
  void start_at(const GuestOptions& options, std::uint16_t base) {
    connect(options);
    for (std::size_t i = 0; i < options.queue_count; ++i) guest_->reset_queue(i, base);
    ASSERT_TRUE(frontend_->start(nullptr, base));
  }
};

class VhostRingSizeTest
    : public VhostRingTest,
      public testing::WithParamInterface<std::tuple<std::uint16_t, bool, std::uint16_t>> {};

TEST_P(VhostRingSizeTest, AFullRingIsAnsweredManyTimesOver) {
  const auto [size, event_index, base] = GetParam();
  start_at({.queue_size = size, .event_index = event_index, .indirect = true}, base);
  std::size_t answered = 0;
  for (int round = 0; round < 4; ++round) {
    for (std::uint16_t i = 0; i < size; ++i) {
      ASSERT_NE(guest_->submit(0, i % 2 == 0 ? BlkType::out : BlkType::in, i % 64,
                               {{std::size_t{512} * (i % 64), 512}}),
                TestGuest::kNone);
    }
    frontend_->publish(0);
    for (const UsedEntry& entry : guest_->take_used(0)) {
      EXPECT_EQ(entry.status, 0);
      ++answered;
    }
  }
  EXPECT_EQ(answered, std::size_t{4} * size);
  EXPECT_EQ(guest_->free_descriptor_count(0), size);
  EXPECT_EQ(fault_count(), 0u);
  EXPECT_EQ(frontend_->stop_queue(0), static_cast<std::uint16_t>(base + 4 * size));
}

INSTANTIATE_TEST_SUITE_P(Vhost, VhostRingSizeTest,
                         testing::Combine(testing::Values(1, 2, 4, 8, 16, 32, 64, 128, 256, 512,
                                                          1024),
                                          testing::Bool(), testing::Values(0, 0xFFFF - 1000)));

TEST_F(VhostRingTest, IndexesWrapAroundAtSixteenBits) {
  for (const bool event_index : {false, true}) {
    start_at({.queue_size = 8, .event_index = event_index}, 65'530);
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 512}}).has_value()) << i;
      EXPECT_TRUE(frontend_->take_call(0)) << i;
    }
    EXPECT_EQ(guest_->used_index(0), 14u);
    EXPECT_EQ(frontend_->stop_queue(0), 14u);
    frontend_->hang_up();
  }
}

// --- Kicks and interrupts ---

TEST_F(VhostRingTest, ASleepingDeviceAsksForAKickAndABusyOneDoesNot) {
  start({.event_index = false});
  EXPECT_EQ(guest_->used_flags(0), 0u);
  // A guest that comes back at once is waited for awake.
  for (int i = 0; i < 4; ++i) frontend_->perform(0, BlkType::in, 0, {{0, 512}});
  EXPECT_EQ(guest_->used_flags(0), kUsedNoNotify);
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  EXPECT_FALSE(frontend_->publish(0));
  EXPECT_EQ(guest_->take_used(0).size(), 1u) << "found without a kick";
  EXPECT_GE(daemon_->statistics().polled, 1u);
  daemon_->run_for(1ms);
  EXPECT_EQ(guest_->used_flags(0), 0u);
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  EXPECT_TRUE(frontend_->publish(0));
  EXPECT_EQ(guest_->take_used(0).size(), 1u);
}

TEST_F(VhostRingTest, WithEventIndexesTheNextRequestIsWhatADeviceAsksFor) {
  start();
  EXPECT_EQ(guest_->available_event(0), 0u);
  frontend_->perform(0, BlkType::in, 0, {{0, 512}});
  frontend_->perform(0, BlkType::in, 0, {{0, 512}});
  daemon_->run_for(1ms);
  EXPECT_EQ(guest_->available_event(0), 2u);
  EXPECT_EQ(guest_->used_flags(0), 0u);
}

TEST_F(VhostRingTest, ADriverThatWantsNoInterruptsGetsNone) {
  start({.event_index = false});
  guest_->set_available_flags(0, kAvailableNoInterrupt);
  frontend_->perform(0, BlkType::in, 0, {{0, 512}});
  EXPECT_FALSE(frontend_->take_call(0));
  guest_->set_available_flags(0, 0);
  frontend_->perform(0, BlkType::in, 0, {{0, 512}});
  EXPECT_TRUE(frontend_->take_call(0));
  EXPECT_EQ(daemon_->statistics().calls, 1u);
}

TEST_F(VhostRingTest, WithEventIndexesTheInterruptComesAtTheAnswerThatWasAskedFor) {
  start();
  guest_->set_used_event(0, 2);
  daemon_->device().hold();
  for (int i = 0; i < 5; ++i) guest_->submit(0, BlkType::in, 0, {{0, 512}});
  frontend_->publish(0);
  const bool expected[] = {false, false, true, false, false};
  for (const bool is_expected : expected) {
    daemon_->device().complete(0);
    daemon_->run();
    EXPECT_EQ(frontend_->take_call(0), is_expected) << guest_->used_index(0);
  }
}

TEST_F(VhostRingTest, ABatchOfAnswersMakesOneInterrupt) {
  start();
  daemon_->device().hold();
  for (int i = 0; i < 10; ++i) guest_->submit(0, BlkType::in, 0, {{0, 512}});
  frontend_->publish(0);
  daemon_->device().release();
  daemon_->run();
  EXPECT_EQ(guest_->used_index(0), 10u);
  EXPECT_EQ(daemon_->statistics().calls, 1u);
  EXPECT_TRUE(frontend_->take_call(0));
}

// A driver that sleeps when it may: it kicks only when asked, and looks only when interrupted.
class VhostSuppressionTest : public VhostRingTest, public testing::WithParamInterface<int> {};

TEST_P(VhostSuppressionTest, NoKickAndNoInterruptIsLost) {
  TestExecutor random(static_cast<std::uint64_t>(GetParam()));
  const auto below = [&](std::uint64_t limit) { return random.random() % limit; };
  start_at({.queue_size = 16, .event_index = GetParam() % 2 == 0, .indirect = true}, 65'500);
  std::size_t submitted = 0;
  std::size_t answered = 0;
  guest_->set_used_event(0, 65'500);
  for (int step = 0; step < 3000; ++step) {
    switch (below(6)) {
      case 0:
      case 1:
        if (guest_->submit(0, BlkType::in, 0, {{0, 512}}) == TestGuest::kNone) break;
        ++submitted;
        if (guest_->publish(0)) signal_event(frontend_->events(0).kick);
        break;
      case 2:
        daemon_->executor().run_turn();
        break;
      case 3:
        if (below(2) == 0) {
          daemon_->device().hold();
        } else {
          daemon_->device().release();
        }
        break;
      case 4:
        if (below(8) == 0) daemon_->run_for(Duration(1000) * static_cast<int>(below(60)));
        if (below(4) == 0) daemon_->run();
        break;
      case 5:
        if (!frontend_->take_call(0)) break;
        answered += guest_->take_used(0).size();
        break;
    }
    if (below(50) != 0) continue;
    // Everybody sleeps now; then all is said and done.
    daemon_->device().release();
    daemon_->run_for(1ms);
    while (frontend_->take_call(0)) answered += guest_->take_used(0).size();
    ASSERT_EQ(answered, submitted) << "at step " << step;
  }
  EXPECT_GT(submitted, 400u);
  EXPECT_LT(daemon_->statistics().kicks, submitted);
  EXPECT_EQ(fault_count(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Vhost, VhostSuppressionTest, testing::Range(0, 16));

// --- Stop, start, disable ---

TEST_F(VhostRingTest, AStoppedQueueSaysWhereItStoppedAndGoesOnThere) {
  start();
  for (int i = 0; i < 3; ++i) frontend_->perform(0, BlkType::in, 0, {{0, 512}});
  EXPECT_EQ(frontend_->stop_queue(0), 3u);
  EXPECT_EQ(daemon_->watch_count(), 0u);
  EXPECT_EQ(frontend_->stop_queue(0), 3u) << "asked again";
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  guest_->publish(0);
  frontend_->kick(0);
  EXPECT_EQ(guest_->used_index(0), 3u);
  ASSERT_TRUE(frontend_->prepare_queue(0, 3));
  EXPECT_EQ(guest_->take_used(0).size(), 1u);
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
}

TEST_F(VhostRingTest, AQueueStopsOnceEverythingInFlightIsAnswered) {
  start({.queue_count = 2});
  daemon_->device().hold();
  for (int i = 0; i < 3; ++i) guest_->submit(0, BlkType::in, 0, {{0, 512}});
  frontend_->publish(0);
  EXPECT_FALSE(frontend_->stop_queue(0).has_value());
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  guest_->publish(0);
  frontend_->kick(0);
  EXPECT_EQ(daemon_->server().request_count(), 3u) << "a stopping queue takes no more";
  daemon_->device().complete_all(BlockStatus::ok);
  daemon_->run();
  EXPECT_EQ(TestFrontend::base_of(frontend_->take_reply(), 0), 3u);
  EXPECT_EQ(guest_->used_index(0), 3u);
  daemon_->device().release();
  EXPECT_EQ(frontend_->perform(1, BlkType::in, 0, {{0, 512}})->status, 0);
}

TEST_F(VhostRingTest, ADisabledQueueTakesNothingAndCatchesUpWithoutAKick) {
  start();
  ASSERT_TRUE(frontend_->enable_queue(0, false));
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  guest_->publish(0);
  frontend_->kick(0);
  daemon_->run_for(1ms);
  EXPECT_EQ(guest_->used_index(0), 0u);
  ASSERT_TRUE(frontend_->enable_queue(0, true));
  EXPECT_EQ(guest_->used_index(0), 1u);
}

TEST_F(VhostRingTest, WhatIsInFlightWhenAQueueIsDisabledIsAnswered) {
  start();
  daemon_->device().hold();
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  frontend_->publish(0);
  ASSERT_TRUE(frontend_->enable_queue(0, false));
  daemon_->device().release();
  daemon_->run();
  EXPECT_EQ(guest_->used_index(0), 1u);
}

TEST_F(VhostRingTest, AQueueWithoutProtocolFeaturesIsEnabledFromTheStart) {
  connect();
  frontend_->send(MessageType::set_owner, {});
  frontend_->send(MessageType::set_features,
                  Payload().put(TestFrontend::kFeatures & ~bit(kFeatureProtocolFeatures)));
  // Without REPLY_ACK nobody answers.
  frontend_->share_memory();
  for (const auto type : {MessageType::set_vring_num, MessageType::set_vring_base}) {
    frontend_->tell_queue(type, 0, type == MessageType::set_vring_num ? 64 : 0);
  }
  frontend_->set_addresses(0);
  frontend_->set_event(MessageType::set_vring_kick, 0, frontend_->events(0).kick);
  frontend_->set_event(MessageType::set_vring_call, 0, frontend_->events(0).call);
  EXPECT_FALSE(frontend_->take_reply().has_value());
  guest_->set_available_flags(0, 0);
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  guest_->publish(0);
  frontend_->kick(0);
  EXPECT_EQ(guest_->used_index(0), 1u);
  EXPECT_TRUE(frontend_->take_call(0));
}

TEST_F(VhostRingTest, ANewEventForKicksLosesNoneOfTheOld) {
  start();
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  guest_->publish(0);
  signal_event(frontend_->events(0).kick);  // not seen yet
  const Descriptor other = make_event();
  std::vector<Descriptor> files;
  files.push_back(copy_of(other));
  frontend_->peer().pass(std::move(files.front()));
  frontend_->peer().push(TestFrontend::message_bytes(
      static_cast<std::uint32_t>(MessageType::set_vring_kick), Payload().put(std::uint64_t{0})));
  ASSERT_TRUE(daemon_->executor().run_until_idle());
  EXPECT_EQ(guest_->used_index(0), 1u);
}

TEST_F(VhostRingTest, ANewEventForCallsGetsTheInterruptThatTheOldMayHaveHad) {
  start();
  frontend_->perform(0, BlkType::in, 0, {{0, 512}});
  const Descriptor other = make_event();
  ASSERT_TRUE(frontend_->set_event(MessageType::set_vring_call, 0, other));
  EXPECT_TRUE(take_event(other));
  frontend_->perform(0, BlkType::in, 0, {{0, 512}});
  EXPECT_TRUE(take_event(other));
}

TEST_F(VhostRingTest, QueuesAreServedEachForItself) {
  start({.queue_count = 4});
  for (std::size_t queue = 0; queue < 4; ++queue) {
    EXPECT_EQ(frontend_->perform(queue, BlkType::in, 0, {{0, 512}})->status, 0);
    EXPECT_TRUE(frontend_->take_call(queue));
    for (std::size_t other = queue + 1; other < 4; ++other) {
      EXPECT_FALSE(frontend_->take_call(other));
    }
  }
}

}  // namespace
}  // namespace holdfast::vhost
