// SPDX-License-Identifier: Apache-2.0
//
// Guests that break the rules of their queues: their device is broken, with a counted reason, and
// works again after a reset; nobody else notices.
#include <gtest/gtest.h>

#include "base/limits.h"
#include "serve/vhost/vhost_fixture.h"

namespace holdfast::vhost {
namespace {

class VhostHostileTest : public VhostTest {
 protected:
  std::uint64_t data_address(std::size_t offset_bytes = 0) const {
    return TestGuest::guest_address(guest_->data_at() + offset_bytes);
  }
  void submit_head(std::uint16_t head) {
    guest_->make_available(0, head);
    frontend_->publish(0);
  }
  // The device is broken for that reason alone, says so, and answers nothing.
  void expect_broken(VhostFault fault) {
    EXPECT_EQ(fault_count(fault), 1u) << vhost_fault_name(fault);
    EXPECT_EQ(fault_count(), 1u);
    EXPECT_EQ(daemon_->statistics().devices_broken, 1u);
    EXPECT_TRUE(frontend_->take_error(0));
    EXPECT_EQ(guest_->used_index(0), 0u);
    EXPECT_EQ(daemon_->server().request_count(), 0u);
    frontend_->kick(0);
    EXPECT_EQ(fault_count(), 1u) << "a broken device does not look at its rings";
    EXPECT_FALSE(frontend_->is_closed());
  }
  // GET_VRING_BASE, rings as new, and a request that works.
  void expect_usable_after_reset() {
    ASSERT_TRUE(frontend_->stop_queue(0).has_value());
    guest_->reset_queue(0);
    ASSERT_TRUE(frontend_->share_memory());
    ASSERT_TRUE(frontend_->prepare_queue(0));
    const auto used = frontend_->perform(0, BlkType::in, 0, {{0, 512}});
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(used->status, 0);
  }
  void expect_broken_and_usable_again(VhostFault fault) {
    expect_broken(fault);
    expect_usable_after_reset();
  }
  // header, payload, status at 0, 1, 2
  void put_good_chain() const {
    guest_->set_descriptor(0, 0, data_address(0), 16, kDescriptorNext, 1);
    guest_->set_descriptor(0, 1, data_address(512), 512, kDescriptorNext | kDescriptorWrite, 2);
    guest_->set_descriptor(0, 2, data_address(2048), 1, kDescriptorWrite, 0);
  }
};

TEST_F(VhostHostileTest, AGoodChainIsGood) {
  start();
  put_good_chain();
  submit_head(0);
  EXPECT_EQ(guest_->used_index(0), 1u);
  EXPECT_EQ(fault_count(), 0u);
}

TEST_F(VhostHostileTest, AHeadBehindTheTableBreaksTheDevice) {
  start();
  submit_head(64);
  expect_broken_and_usable_again(VhostFault::descriptor_out_of_range);
}

TEST_F(VhostHostileTest, ANextBehindTheTableBreaksTheDevice) {
  start();
  put_good_chain();
  guest_->set_descriptor(0, 1, data_address(), 512, kDescriptorNext, 0xFFFF);
  submit_head(0);
  expect_broken_and_usable_again(VhostFault::descriptor_out_of_range);
}

TEST_F(VhostHostileTest, ALoopBreaksTheDevice) {
  start();
  put_good_chain();
  guest_->set_descriptor(0, 1, data_address(), 0, kDescriptorNext, 0);
  guest_->set_descriptor(0, 0, data_address(), 0, kDescriptorNext, 1);
  submit_head(0);
  expect_broken_and_usable_again(VhostFault::descriptor_loop);
}

TEST_F(VhostHostileTest, ALoopInATableBreaksTheDevice) {
  start();
  const std::size_t table = guest_->data_at() + 4096;
  guest_->set_descriptor(0, 5, TestGuest::guest_address(table), 32, kDescriptorIndirect, 0);
  guest_->store_descriptor(table, data_address(), 0, kDescriptorNext, 1);
  guest_->store_descriptor(table + 16, data_address(), 0, kDescriptorNext, 0);
  submit_head(5);
  expect_broken_and_usable_again(VhostFault::descriptor_loop);
}

TEST_F(VhostHostileTest, SomethingToReadBehindSomethingToWriteBreaksTheDevice) {
  start();
  put_good_chain();
  guest_->set_descriptor(0, 2, data_address(), 1, kDescriptorNext, 3);
  guest_->set_descriptor(0, 3, data_address(), 1, kDescriptorWrite, 0);
  submit_head(0);
  expect_broken_and_usable_again(VhostFault::descriptor_order);
}

struct Range {
  std::uint64_t from_end_bytes;  // where it begins, counted from the end of the memory
  std::uint32_t length_bytes;
};
class VhostAddressTest : public VhostHostileTest, public testing::WithParamInterface<Range> {};

TEST_P(VhostAddressTest, WhatIsNotInTheMemoryBreaksTheDevice) {
  start();
  put_good_chain();
  const std::uint64_t end = TestGuest::guest_address(guest_->memory().size_bytes());
  guest_->set_descriptor(0, 1, end - GetParam().from_end_bytes, GetParam().length_bytes,
                         kDescriptorNext | kDescriptorWrite, 2);
  submit_head(0);
  expect_broken_and_usable_again(VhostFault::descriptor_address);
}

INSTANTIATE_TEST_SUITE_P(Vhost, VhostAddressTest,
                         testing::Values(Range{0, 1}, Range{1, 2}, Range{512, 0xFFFFFFFF},
                                         Range{~std::uint64_t{0}, 1},  // one behind the end
                                         Range{std::uint64_t{1} << 63, 512}));

TEST_F(VhostHostileTest, AddressesThatWrapAroundBreakTheDevice) {
  start();
  put_good_chain();
  guest_->set_descriptor(0, 1, ~std::uint64_t{0} - 100, 512, kDescriptorNext | kDescriptorWrite, 2);
  submit_head(0);
  expect_broken_and_usable_again(VhostFault::descriptor_address);
}

TEST_F(VhostHostileTest, AnAddressBeforeTheMemoryBreaksTheDevice) {
  start();
  put_good_chain();
  guest_->set_descriptor(0, 0, TestGuest::kGuestBase - 1, 16, kDescriptorNext, 1);
  submit_head(0);
  expect_broken_and_usable_again(VhostFault::descriptor_address);
}

struct Table {
  std::uint32_t length_bytes;
  std::uint16_t more_flags;
  bool is_outside;
};
class VhostTableTest : public VhostHostileTest, public testing::WithParamInterface<Table> {};

TEST_P(VhostTableTest, MalformedTablesBreakTheDevice) {
  start();
  const std::size_t table = guest_->data_at() + 4096;
  std::uint64_t address = TestGuest::guest_address(table);
  if (GetParam().is_outside) {
    address = TestGuest::guest_address(guest_->memory().size_bytes()) - 16;
  }
  guest_->set_descriptor(0, 0, address, GetParam().length_bytes,
                         static_cast<std::uint16_t>(kDescriptorIndirect | GetParam().more_flags),
                         1);
  put_good_chain();
  guest_->set_descriptor(0, 0, address, GetParam().length_bytes,
                         static_cast<std::uint16_t>(kDescriptorIndirect | GetParam().more_flags),
                         1);
  guest_->store_descriptor(table, data_address(), 16, kDescriptorIndirect, 0);  // nested
  submit_head(0);
  expect_broken_and_usable_again(VhostFault::descriptor_indirect);
}

INSTANTIATE_TEST_SUITE_P(Vhost, VhostTableTest,
                         testing::Values(Table{0, 0, false}, Table{15, 0, false},
                                         Table{17, 0, false}, Table{32, kDescriptorNext, false},
                                         Table{32, 0, true}, Table{16, 0, false},
                                         Table{16 * 1025, 0, false}, Table{0xFFFFFFF0, 0, false}));

TEST_F(VhostHostileTest, TablesThatWereNotNegotiatedBreakTheDevice) {
  start();
  ASSERT_TRUE(frontend_->tell_u64(MessageType::set_features,
                                  frontend_->features() & ~bit(kRingFeatureIndirect)));
  const std::size_t table = guest_->data_at() + 4096;
  guest_->set_descriptor(0, 0, TestGuest::guest_address(table), 32, kDescriptorIndirect, 0);
  guest_->store_descriptor(table, data_address(), 16, kDescriptorNext, 1);
  guest_->store_descriptor(table + 16, data_address(100), 1, kDescriptorWrite, 0);
  submit_head(0);
  expect_broken(VhostFault::descriptor_indirect);
}

TEST_F(VhostHostileTest, ATableBehindDirectDescriptorsIsTaken) {
  start();
  const std::size_t table = guest_->data_at() + 4096;
  guest_->set_descriptor(0, 0, data_address(), 16, kDescriptorNext, 1);
  guest_->set_descriptor(0, 1, TestGuest::guest_address(table), 32, kDescriptorIndirect, 0);
  guest_->store_descriptor(table, data_address(512), 512, kDescriptorNext | kDescriptorWrite, 1);
  guest_->store_descriptor(table + 16, data_address(2048), 1, kDescriptorWrite, 0);
  submit_head(0);
  EXPECT_EQ(guest_->used_index(0), 1u);
  EXPECT_EQ(fault_count(), 0u);
}

TEST_F(VhostHostileTest, TheLongestChainIsTakenAndALongerOneBreaksTheDevice) {
  start({.queue_size = 512});
  const auto put = [&](std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const bool is_last = i + 1 == count;
      guest_->set_descriptor(0, i, data_address(i * 512), i == 0 ? 16 : (is_last ? 1u : 512u),
                             static_cast<std::uint16_t>((is_last ? 0 : kDescriptorNext) |
                                                        (i == 0 ? 0 : kDescriptorWrite)),
                             static_cast<std::uint16_t>(i + 1));
    }
  };
  put(limits::kVhostVectorsPerRequestMax);
  submit_head(0);
  EXPECT_EQ(guest_->used_index(0), 1u);
  EXPECT_EQ(guest_->take_used(0)[0].length_bytes,
            (limits::kVhostVectorsPerRequestMax - 2) * 512 + 1);
  put(limits::kVhostVectorsPerRequestMax + 1);
  submit_head(0);
  EXPECT_EQ(fault_count(VhostFault::chain_too_long), 1u);
  EXPECT_EQ(guest_->used_index(0), 1u);
  EXPECT_TRUE(frontend_->take_error(0));
  expect_usable_after_reset();
}

TEST_F(VhostHostileTest, AChainWithoutRoomForAStatusBreaksTheDevice) {
  start();
  guest_->set_descriptor(0, 0, data_address(), 16, 0, 0);
  submit_head(0);
  expect_broken_and_usable_again(VhostFault::chain_too_short);
}

TEST_F(VhostHostileTest, AChainWithAnEmptyStatusBreaksTheDevice) {
  start();
  put_good_chain();
  guest_->set_descriptor(0, 1, data_address(), 0, kDescriptorNext | kDescriptorWrite, 2);
  guest_->set_descriptor(0, 2, data_address(), 0, kDescriptorWrite, 0);
  submit_head(0);
  expect_broken_and_usable_again(VhostFault::chain_too_short);
}

TEST_F(VhostHostileTest, AHeaderThatIsTooShortBreaksTheDevice) {
  start();
  put_good_chain();
  guest_->set_descriptor(0, 0, data_address(), 15, kDescriptorNext, 1);
  submit_head(0);
  expect_broken_and_usable_again(VhostFault::chain_too_short);
}

TEST_F(VhostHostileTest, AvailableEntriesBeyondTheQueueBreakTheDevice) {
  start();
  guest_->set_available_index(0, 65);
  frontend_->kick(0);
  expect_broken_and_usable_again(VhostFault::available_index);
}

TEST_F(VhostHostileTest, AnAvailableIndexThatGoesBackBreaksTheDevice) {
  start();
  guest_->set_available_index(0, 0xFFFF);
  frontend_->kick(0);
  expect_broken_and_usable_again(VhostFault::available_index);
}

TEST_F(VhostHostileTest, TheSameHeadTwiceBreaksTheDevice) {
  start();
  daemon_->device().hold();
  put_good_chain();
  guest_->make_available(0, 0);
  submit_head(0);
  EXPECT_EQ(fault_count(VhostFault::head_in_flight), 1u);
  EXPECT_EQ(daemon_->server().request_count(), 1u) << "the first is in the device's hands";
  daemon_->device().release();
  daemon_->run();
  expect_broken_and_usable_again(VhostFault::head_in_flight);
}

TEST_F(VhostHostileTest, WhatIsInFlightWhenTheDeviceBreaksIsNeverAnswered) {
  start();
  daemon_->device().hold();
  const std::uint16_t head = guest_->submit(0, BlkType::in, 0, {{0, 512}});
  frontend_->publish(0);
  submit_head(64);
  daemon_->device().release();
  daemon_->run();
  expect_broken(VhostFault::descriptor_out_of_range);
  EXPECT_EQ(guest_->load<std::uint8_t>(guest_->frame_at(0, head) + 16), 0xFF);
  expect_usable_after_reset();
}

TEST_F(VhostHostileTest, RingsOutsideOfTheMemoryBreakTheDevice) {
  for (const int which : {0, 1, 2}) {
    make_daemon();
    connect();
    ASSERT_TRUE(frontend_->negotiate());
    ASSERT_TRUE(frontend_->share_memory());
    ASSERT_TRUE(frontend_->prepare_queue(0));
    std::uint64_t addresses[] = {TestGuest::user_address(guest_->descriptors_at(0)),
                                 TestGuest::user_address(guest_->used_at(0)),
                                 TestGuest::user_address(guest_->available_at(0))};
    addresses[which] = TestGuest::user_address(guest_->memory().size_bytes() - 64);
    ASSERT_TRUE(frontend_->tell(MessageType::set_vring_addr, Payload()
                                                                 .put(0u)
                                                                 .put(0u)
                                                                 .put(addresses[0])
                                                                 .put(addresses[1])
                                                                 .put(addresses[2])
                                                                 .put(std::uint64_t{0})));
    ASSERT_TRUE(frontend_->enable_queue(0));
    expect_broken_and_usable_again(VhostFault::ring_address);
  }
}

TEST_F(VhostHostileTest, RingsThatAreNotAlignedBreakTheDevice) {
  const std::uint64_t shifts[3][3] = {{8, 0, 0}, {0, 2, 0}, {0, 0, 1}};
  for (const auto& shift : shifts) {
    make_daemon();
    connect();
    ASSERT_TRUE(frontend_->negotiate());
    ASSERT_TRUE(frontend_->share_memory());
    ASSERT_TRUE(frontend_->prepare_queue(0));
    ASSERT_TRUE(
        frontend_->tell(MessageType::set_vring_addr,
                        Payload()
                            .put(0u)
                            .put(0u)
                            .put(TestGuest::user_address(guest_->descriptors_at(0)) + shift[0])
                            .put(TestGuest::user_address(guest_->used_at(0)) + shift[1])
                            .put(TestGuest::user_address(guest_->available_at(0)) + shift[2])
                            .put(std::uint64_t{0})));
    ASSERT_TRUE(frontend_->enable_queue(0));
    expect_broken_and_usable_again(VhostFault::ring_address);
  }
}

TEST_F(VhostHostileTest, AQueueWhoseSizeIsNoPowerOfTwoBreaksTheDevice) {
  connect();
  ASSERT_TRUE(frontend_->negotiate());
  ASSERT_TRUE(frontend_->share_memory());
  ASSERT_TRUE(frontend_->prepare_queue(0));
  ASSERT_TRUE(frontend_->tell_queue(MessageType::set_vring_num, 0, 48));
  ASSERT_TRUE(frontend_->enable_queue(0));
  expect_broken_and_usable_again(VhostFault::ring_setup);
}

TEST_F(VhostHostileTest, AQueueLargerThanItsInflightMemoryBreaksTheDevice) {
  connect({.queue_size = 32});
  ASSERT_TRUE(frontend_->negotiate());
  const auto reply =
      frontend_->ask(MessageType::get_inflight_fd, TestFrontend::inflight_payload(0, 1, 16));
  ASSERT_TRUE(reply.has_value());
  std::vector<Descriptor> files;
  files.push_back(std::move(frontend_->peer().sent_descriptors.at(0)));
  ASSERT_TRUE(frontend_->tell(MessageType::set_inflight_fd, reply->payload, std::move(files)));
  ASSERT_TRUE(frontend_->share_memory());
  ASSERT_TRUE(frontend_->prepare_queue(0));
  ASSERT_TRUE(frontend_->enable_queue(0));
  expect_broken(VhostFault::ring_setup);
}

TEST_F(VhostHostileTest, AnotherVirtualMachineIsServedAfterOneThatBrokeItsDevice) {
  start();
  submit_head(64);
  frontend_->hang_up();
  EXPECT_TRUE(frontend_->is_closed());
  start();
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
  EXPECT_EQ(daemon_->statistics().devices_broken, 1u);
}

TEST_F(VhostHostileTest, ADeviceThatIsBrokenStaysBrokenUntilAllItsQueuesHaveStopped) {
  start({.queue_count = 2});
  submit_head(64);
  ASSERT_TRUE(frontend_->stop_queue(0).has_value());
  guest_->reset_queue(0);
  ASSERT_TRUE(frontend_->prepare_queue(0));
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  frontend_->publish(0);
  EXPECT_EQ(guest_->used_index(0), 0u);
  ASSERT_TRUE(frontend_->stop_queue(1).has_value());
  guest_->reset_queue(1);
  ASSERT_TRUE(frontend_->prepare_queue(1));
  frontend_->kick(0);
  EXPECT_EQ(guest_->used_index(0), 1u);
  EXPECT_EQ(frontend_->perform(1, BlkType::in, 0, {{0, 512}})->status, 0);
}

// --- Memory that is taken away ---

TEST_F(VhostHostileTest, TheProcessOutlivesRingsThatAreCutOff) {
  start();
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
  guest_->memory().truncate(0);
  frontend_->kick(0);
  daemon_->run();
  EXPECT_FALSE(frontend_->is_closed());
  EXPECT_EQ(daemon_->statistics().devices_broken, 1u);
  EXPECT_TRUE(frontend_->take_error(0));
  EXPECT_GE(fault_count(VhostFault::memory_lost), 1u);
  frontend_->hang_up();
  start();
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
}

TEST_F(VhostHostileTest, TheProcessOutlivesBuffersThatAreCutOff) {
  for (const BlkType type : {BlkType::in, BlkType::out}) {
    make_daemon();
    start({.data_bytes = 64 * kKiB});
    daemon_->device().hold();
    guest_->submit(0, type, 0, {{60 * kKiB, 4096}});
    frontend_->publish(0);
    ASSERT_EQ(daemon_->device().waiting_count(), 1u);
    guest_->memory().truncate(guest_->data_at() + 32 * kKiB);
    daemon_->device().release();
    daemon_->run();
    EXPECT_EQ(fault_count(VhostFault::memory_lost), 1u);
    EXPECT_EQ(fault_count(), 1u);
    EXPECT_EQ(daemon_->statistics().devices_broken, 1u);
    EXPECT_TRUE(frontend_->take_error(0));
    // The virtual machine may come to its senses.
    guest_->memory().truncate(guest_->memory().size_bytes());
    expect_usable_after_reset();
  }
}

TEST_F(VhostHostileTest, TheProcessOutlivesInflightMemoryThatIsCutOff) {
  connect();
  const TestMemory inflight(64 * kKiB);
  ASSERT_TRUE(frontend_->start(&inflight));
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
  inflight.truncate(0);
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  frontend_->publish(0);
  EXPECT_EQ(daemon_->statistics().devices_broken, 1u);
  EXPECT_EQ(fault_count(VhostFault::memory_lost), 1u);
  EXPECT_TRUE(frontend_->take_error(0));
  EXPECT_EQ(guest_->used_index(0), 1u);
}

}  // namespace
}  // namespace holdfast::vhost
