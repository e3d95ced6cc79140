// SPDX-License-Identifier: Apache-2.0
//
// Sessions: several at a time, of which one runs its queues; peers that vanish; a server that
// stops.
#include <gtest/gtest.h>

#include "base/limits.h"
#include "serve/vhost/vhost_fixture.h"

namespace holdfast::vhost {
namespace {

class VhostSessionTest : public VhostTest {
 protected:
  // The first has a request in flight.
  void start_busy() {
    start();
    daemon_->device().hold();
    guest_->submit(0, BlkType::out, 0, {{0, 512}});
    frontend_->publish(0);
    ASSERT_EQ(daemon_->server().request_count(), 1u);
  }
  void connect_second() {
    second_guest_ = std::make_unique<TestGuest>(GuestOptions{});
    second_ = std::make_unique<TestFrontend>(*daemon_, *second_guest_);
    ASSERT_TRUE(second_->start());
    second_guest_->submit(0, BlkType::in, 0, {{0, 512}});
    second_->publish(0);
  }

  std::unique_ptr<TestGuest> second_guest_;
  std::unique_ptr<TestFrontend> second_;
};

TEST_F(VhostSessionTest, ASecondSessionRunsOnceTheFirstHasStopped) {
  start_busy();
  connect_second();
  EXPECT_EQ(daemon_->server().request_count(), 1u) << "only that of the first";
  EXPECT_FALSE(frontend_->stop_queue(0).has_value());
  second_->kick(0);
  EXPECT_EQ(daemon_->server().request_count(), 1u);
  daemon_->device().release();
  daemon_->run();
  EXPECT_EQ(guest_->used_index(0), 1u);
  EXPECT_EQ(second_guest_->used_index(0), 1u);
  EXPECT_EQ(TestFrontend::base_of(frontend_->take_reply(), 0), 1u);
  // And back.
  ASSERT_TRUE(frontend_->prepare_queue(0, 1));
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  guest_->publish(0);
  frontend_->kick(0);
  EXPECT_EQ(guest_->used_index(0), 1u);
  second_->hang_up();
  EXPECT_EQ(guest_->used_index(0), 2u);
}

TEST_F(VhostSessionTest, ASecondSessionRunsOnceTheFirstIsGoneAndNothingOfItIsInFlight) {
  start_busy();
  connect_second();
  frontend_->hang_up();
  EXPECT_EQ(daemon_->server().session_count(), 2u);
  EXPECT_EQ(second_guest_->used_index(0), 0u);
  daemon_->device().release();
  daemon_->run();
  EXPECT_EQ(guest_->used_index(0), 1u) << "the memory is still there for the answer";
  EXPECT_EQ(second_guest_->used_index(0), 1u);
  EXPECT_EQ(daemon_->server().session_count(), 1u);
  EXPECT_TRUE(frontend_->is_closed());
}

TEST_F(VhostSessionTest, AQueueThatIsStoppedWhileItWaitsForItsTurnDoesNotStart) {
  start_busy();
  connect_second();
  EXPECT_EQ(second_->stop_queue(0), 0u);
  frontend_->hang_up();
  daemon_->device().release();
  daemon_->run();
  second_->kick(0);
  EXPECT_EQ(daemon_->server().session_count(), 1u);
  EXPECT_EQ(second_guest_->used_index(0), 0u);
}

TEST_F(VhostSessionTest, AVirtualMachineThatReconnectsResumesWhatItsFirstSessionLeaves) {
  connect();
  ASSERT_TRUE(frontend_->negotiate());
  const auto inflight = frontend_->get_inflight();
  ASSERT_TRUE(frontend_->set_inflight(*inflight));
  ASSERT_TRUE(frontend_->share_memory());
  ASSERT_TRUE(frontend_->prepare_queue(0));
  ASSERT_TRUE(frontend_->enable_queue(0));
  daemon_->device().hold();
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  frontend_->publish(0);
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  guest_->publish(0);
  frontend_->peer().receive_error = ECONNRESET;
  frontend_->peer().poke();
  daemon_->run();
  TestFrontend again(*daemon_, *guest_);
  ASSERT_TRUE(again.start(inflight.get()));
  EXPECT_EQ(guest_->used_index(0), 0u);
  daemon_->device().release();
  daemon_->run();
  EXPECT_EQ(guest_->take_used(0).size(), 2u);
  EXPECT_EQ(daemon_->statistics().requests, 2u) << "none was done twice";
  EXPECT_EQ(daemon_->statistics().sessions_lost, 1u);
}

TEST_F(VhostSessionTest, OneSessionTooManyIsRefusedAndTheOthersGoOn) {
  start();
  std::vector<std::unique_ptr<TestFrontend>> others;
  for (std::size_t i = 1; i < limits::kVhostSessionsMax; ++i) {
    others.push_back(std::make_unique<TestFrontend>(*daemon_, *guest_));
  }
  TestFrontend refused(*daemon_, *guest_);
  EXPECT_TRUE(refused.is_closed());
  EXPECT_EQ(fault_count(VhostFault::session_limit), 1u);
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
  others.front()->hang_up();
  TestFrontend welcome(*daemon_, *guest_);
  EXPECT_FALSE(welcome.is_closed());
}

TEST_F(VhostSessionTest, ClosingAnswersWhatIsInFlight) {
  start_busy();
  daemon_->stop(BlockStatus::ok);
  EXPECT_EQ(guest_->take_used(0).at(0).status, 0);
  EXPECT_TRUE(frontend_->is_closed());
  EXPECT_TRUE(frontend_->take_call(0));
  daemon_.reset();
}

TEST_F(VhostSessionTest, AClosedServerTakesNoMoreRequestsOrSessions) {
  start_busy();
  TaskScope scope;
  scope.spawn(daemon_->server().close());
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  guest_->publish(0);
  frontend_->kick(0);
  EXPECT_EQ(daemon_->server().request_count(), 1u);
  TestFrontend late(*daemon_, *guest_);
  EXPECT_TRUE(late.is_closed());
  daemon_->device().release();
  daemon_->run();
  EXPECT_TRUE(scope.empty());
  EXPECT_EQ(guest_->used_index(0), 1u);
}

TEST_F(VhostSessionTest, ClosingWhileAQueueStopsEndsBoth) {
  start_busy();
  EXPECT_FALSE(frontend_->stop_queue(0).has_value());
  connect_second();
  daemon_->stop(BlockStatus::ok);
  EXPECT_TRUE(frontend_->is_closed());
  EXPECT_TRUE(second_->is_closed());
  EXPECT_EQ(guest_->used_index(0), 1u);
  EXPECT_EQ(second_guest_->used_index(0), 0u);
  daemon_.reset();
}

TEST_F(VhostSessionTest, APeerThatDoesNotReadItsAnswersHoldsUpOnlyItself) {
  connect();
  frontend_->peer().set_reading(false);
  frontend_->send(MessageType::get_features, {});
  connect_second();
  EXPECT_EQ(second_guest_->used_index(0), 1u);
  daemon_->stop();
  EXPECT_TRUE(frontend_->is_closed());
  daemon_.reset();
}

TEST_F(VhostSessionTest, AResetOfTheDeviceStopsItsQueues) {
  for (const MessageType type : {MessageType::reset_device, MessageType::reset_owner}) {
    make_daemon();
    start_busy();
    frontend_->send(type, {}, {}, kMessageVersion | kMessageNeedReply);
    EXPECT_FALSE(frontend_->take_reply().has_value()) << "something is in flight";
    daemon_->device().release();
    daemon_->run();
    const auto reply = frontend_->take_reply();
    ASSERT_TRUE(reply.has_value());
    EXPECT_EQ(reply->u64(), 0u);
    EXPECT_EQ(guest_->used_index(0), 1u);
    frontend_->kick(0);
    guest_->submit(0, BlkType::in, 0, {{0, 512}});
    guest_->publish(0);
    frontend_->kick(0);
    EXPECT_EQ(guest_->used_index(0), 1u);
    ASSERT_TRUE(frontend_->prepare_queue(0, 1));
    EXPECT_EQ(guest_->used_index(0), 1u) << "enabled again only when told";
    ASSERT_TRUE(frontend_->enable_queue(0));
    EXPECT_EQ(guest_->used_index(0), 2u);
  }
}

}  // namespace
}  // namespace holdfast::vhost
