// SPDX-License-Identifier: Apache-2.0
//
// Every message of the protocol, good and malformed, and the order in which they come.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/limits.h"
#include "serve/vhost/vhost_fixture.h"

namespace holdfast::vhost {
namespace {

class VhostMessageTest : public VhostTest {
 protected:
  VhostMessageTest() { connect(); }

  std::uint64_t ask_u64(MessageType type) {
    const auto reply = frontend_->ask(type);
    return reply.has_value() ? reply->u64() : ~std::uint64_t{0};
  }
  static std::vector<Descriptor> one(Descriptor file) {
    std::vector<Descriptor> files;
    files.push_back(std::move(file));
    return files;
  }
  bool add_region(const RegionPlace& place) {
    return frontend_->tell(MessageType::add_mem_reg, Payload().put(std::uint64_t{0}).put(place),
                           one(guest_->memory().descriptor()));
  }
  bool remove_region(const RegionPlace& place) {
    return frontend_->tell(MessageType::rem_mem_reg, Payload().put(std::uint64_t{0}).put(place));
  }
  Bytes config(std::uint32_t offset_bytes, std::uint32_t length_bytes) {
    const auto reply = frontend_->ask(MessageType::get_config,
                                      Payload().put(offset_bytes).put(length_bytes).put(0u));
    if (!reply.has_value() || reply->payload.size() < 12) return {};
    EXPECT_EQ(load_little<std::uint32_t>(reply->payload.data()), offset_bytes);
    EXPECT_EQ(load_little<std::uint32_t>(reply->payload.data() + 4), length_bytes);
    return {reply->payload.begin() + 12, reply->payload.end()};
  }
};

TEST_F(VhostMessageTest, TheFeaturesAreThoseOfAWritableDisk) {
  const std::uint64_t features = ask_u64(MessageType::get_features);
  for (const unsigned wanted : {1u, 2u, 6u, 9u, 10u, 11u, 12u, 13u, 14u, 28u, 29u, 30u, 32u}) {
    EXPECT_NE(features & bit(wanted), 0u) << wanted;
  }
  EXPECT_EQ(features & bit(kBlkFeatureReadOnly), 0u);
  EXPECT_EQ(ask_u64(MessageType::get_protocol_features), TestFrontend::kProtocolFeatures);
  EXPECT_EQ(ask_u64(MessageType::get_queue_num), limits::kVhostQueuesMax);
  EXPECT_EQ(ask_u64(MessageType::get_max_mem_slots), limits::kVhostMemoryRegionsMax);
}

TEST_F(VhostMessageTest, AReadOnlyDiskSaysSoAndOffersNoDiscard) {
  make_daemon(true);
  connect();
  const std::uint64_t features = ask_u64(MessageType::get_features);
  EXPECT_NE(features & bit(kBlkFeatureReadOnly), 0u);
  EXPECT_EQ(features & (bit(kBlkFeatureDiscard) | bit(kBlkFeatureWriteZeroes)), 0u);
}

TEST_F(VhostMessageTest, OnlyWhoAsksIsAnsweredAndOnlyOnceThatWasNegotiated) {
  const std::uint32_t need_reply = kMessageVersion | kMessageNeedReply;
  frontend_->send(MessageType::set_owner, {}, {}, need_reply);
  EXPECT_FALSE(frontend_->take_reply().has_value());
  // From the message on that negotiates it.
  EXPECT_TRUE(frontend_->tell_u64(MessageType::set_protocol_features, bit(kProtocolReplyAck)));
  frontend_->send(MessageType::set_owner, {});
  EXPECT_FALSE(frontend_->take_reply().has_value());
  EXPECT_TRUE(frontend_->tell(MessageType::set_owner, {}));
  // A message with a reply of its own has just that.
  frontend_->send(MessageType::get_features, {}, {}, need_reply);
  EXPECT_TRUE(frontend_->take_reply().has_value());
  EXPECT_FALSE(frontend_->take_reply().has_value());
}

TEST_F(VhostMessageTest, FeaturesThatWereNotOfferedAreRefused) {
  ASSERT_TRUE(frontend_->negotiate());
  EXPECT_FALSE(frontend_->tell_u64(MessageType::set_features, bit(34)));
  EXPECT_FALSE(frontend_->tell_u64(MessageType::set_features, bit(27)));
  EXPECT_FALSE(frontend_->tell_u64(MessageType::set_protocol_features,
                                   TestFrontend::kProtocolFeatures | bit(2)));
  EXPECT_EQ(fault_count(VhostFault::message_refused), 3u);
  EXPECT_EQ(fault_count(), 3u);
}

TEST_F(VhostMessageTest, UnknownMessagesAreRefusedAndTheSessionGoesOn) {
  ASSERT_TRUE(frontend_->negotiate());
  for (const std::uint32_t type :
       {0u, 19u, 20u, 22u, 23u, 26u, 30u, 33u, 35u, 39u, 40u, 1000u, 0xFFFFFFFFu}) {
    EXPECT_FALSE(frontend_->tell(static_cast<MessageType>(type), Bytes(40))) << type;
  }
  EXPECT_EQ(fault_count(VhostFault::message_unknown), 13u);
  EXPECT_EQ(ask_u64(MessageType::get_queue_num), limits::kVhostQueuesMax);
}

TEST_F(VhostMessageTest, MessagesMayArriveInPieces) {
  frontend_->peer().receive_bytes_max = 1;
  ASSERT_TRUE(frontend_->start());
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
}

TEST_F(VhostMessageTest, PayloadsUpToTheLimitAreTakenAndLongerOnesEndTheSession) {
  ASSERT_TRUE(frontend_->negotiate());
  EXPECT_TRUE(frontend_->tell(MessageType::set_owner, Bytes(limits::kVhostMessageBytesMax)));
  Bytes header = TestFrontend::message_bytes(3, {});
  store_little<std::uint32_t>(header.data() + 8, limits::kVhostMessageBytesMax + 1);
  frontend_->peer().push(header);
  daemon_->run();
  EXPECT_TRUE(frontend_->is_closed());
  EXPECT_EQ(fault_count(VhostFault::message_too_big), 1u);
}

TEST_F(VhostMessageTest, AnotherVersionEndsTheSession) {
  for (const std::uint32_t flags : {0u, 2u, 3u}) {
    connect();
    frontend_->send(MessageType::get_features, {}, {}, flags);
    EXPECT_TRUE(frontend_->is_closed());
  }
  EXPECT_EQ(fault_count(VhostFault::message_malformed), 3u);
}

TEST_F(VhostMessageTest, PayloadsThatAreTooShortEndTheSession) {
  const std::pair<MessageType, std::size_t> messages[] = {
      {MessageType::set_features, 7},     {MessageType::set_protocol_features, 0},
      {MessageType::set_vring_num, 7},    {MessageType::set_vring_base, 4},
      {MessageType::set_vring_enable, 0}, {MessageType::set_vring_addr, 39},
      {MessageType::get_vring_base, 3},   {MessageType::get_inflight_fd, 19},
      {MessageType::set_inflight_fd, 19}};
  for (const auto& [type, bytes] : messages) {
    connect();
    frontend_->send(type, Bytes(bytes));
    EXPECT_TRUE(frontend_->is_closed()) << static_cast<int>(type);
  }
  EXPECT_EQ(fault_count(VhostFault::message_malformed), std::size(messages));
}

TEST_F(VhostMessageTest, APeerThatLeavesInsideAMessageIsCounted) {
  frontend_->peer().push(Bytes(5));
  frontend_->hang_up();
  EXPECT_EQ(fault_count(VhostFault::message_truncated), 1u);
  connect();
  Bytes message = TestFrontend::message_bytes(2, Bytes(8));
  message.pop_back();
  frontend_->peer().push(message);
  frontend_->hang_up();
  EXPECT_EQ(fault_count(VhostFault::message_truncated), 2u);
  connect();
  frontend_->hang_up();
  EXPECT_EQ(fault_count(), 2u) << "between messages is a good time";
}

TEST_F(VhostMessageTest, FilesThatNobodyAskedForAreClosed) {
  ASSERT_TRUE(frontend_->negotiate());
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Descriptor reading(ends[0]);
  EXPECT_TRUE(frontend_->tell(MessageType::set_owner, {}, one(Descriptor(ends[1]))));
  char byte;
  EXPECT_EQ(read(reading.get(), &byte, 1), 0);
}

TEST_F(VhostMessageTest, MoreFilesThanAnyMessageHasEndTheSession) {
  std::vector<Descriptor> files;
  for (int i = 0; i < 9; ++i) files.push_back(make_event());
  frontend_->send(MessageType::set_owner, {}, std::move(files));
  EXPECT_TRUE(frontend_->is_closed());
  EXPECT_EQ(fault_count(VhostFault::message_malformed), 1u);
}

// --- Memory ---

TEST_F(VhostMessageTest, AMemoryTableNeedsAsManyFilesAsRegions) {
  ASSERT_TRUE(frontend_->negotiate());
  const Payload payload = Payload().put(1u).put(0u).put(guest_->region());
  EXPECT_FALSE(frontend_->tell(MessageType::set_mem_table, payload));
  std::vector<Descriptor> files;
  files.push_back(guest_->memory().descriptor());
  files.push_back(guest_->memory().descriptor());
  EXPECT_FALSE(frontend_->tell(MessageType::set_mem_table, payload, std::move(files)));
  EXPECT_FALSE(
      frontend_->tell(MessageType::set_mem_table, Payload().put(2u).put(0u).put(guest_->region())));
  EXPECT_FALSE(frontend_->tell(MessageType::set_mem_table, Payload().put(~0u)));
  EXPECT_FALSE(frontend_->tell(MessageType::set_mem_table, payload, one(make_event())));
  EXPECT_EQ(fault_count(VhostFault::message_refused), 5u);
  EXPECT_FALSE(frontend_->is_closed());
  EXPECT_TRUE(frontend_->share_memory());
  EXPECT_TRUE(frontend_->tell(MessageType::set_mem_table, Payload().put(0u).put(0u)));
}

TEST_F(VhostMessageTest, RegionsThatMakeNoSenseAreRefused) {
  ASSERT_TRUE(frontend_->negotiate());
  const RegionPlace good = guest_->region();
  const auto with = [&](auto change) {
    RegionPlace place = good;
    change(place);
    return place;
  };
  EXPECT_FALSE(add_region(with([](RegionPlace& place) { place.size_bytes = 0; })));
  EXPECT_FALSE(add_region(with([](RegionPlace& place) { place.size_bytes += 1; })));
  EXPECT_FALSE(add_region(with([](RegionPlace& place) { place.file_offset_bytes = 1; })));
  EXPECT_FALSE(add_region(with([](RegionPlace& place) { place.guest_address = ~0ull; })));
  EXPECT_FALSE(add_region(with([](RegionPlace& place) { place.user_address = ~0ull; })));
  EXPECT_FALSE(
      frontend_->tell(MessageType::add_mem_reg, Payload().put(std::uint64_t{0}).put(good)));
  EXPECT_FALSE(remove_region(good));
  EXPECT_TRUE(add_region(good));
  EXPECT_FALSE(add_region(with([](RegionPlace& place) { place.guest_address += 4096; })));
  EXPECT_FALSE(add_region(with([](RegionPlace& place) {
    place.guest_address += place.size_bytes;
  }))) << "the addresses of the process overlap";
  EXPECT_TRUE(add_region(with([](RegionPlace& place) {
    place.guest_address += place.size_bytes;
    place.user_address -= place.size_bytes;
  })));
  EXPECT_TRUE(remove_region(good));
  EXPECT_FALSE(remove_region(good));
}

TEST_F(VhostMessageTest, RegionsAreTakenUpToTheSlotsThatWereOffered) {
  ASSERT_TRUE(frontend_->negotiate());
  for (std::size_t i = 0; i <= limits::kVhostMemoryRegionsMax; ++i) {
    EXPECT_EQ(add_region({i * 4096, 4096, i * 4096, i * 4096}), i < limits::kVhostMemoryRegionsMax);
  }
}

TEST_F(VhostMessageTest, ABufferMayLieInSeveralRegions) {
  ASSERT_TRUE(frontend_->negotiate());
  const std::uint64_t data_bytes = guest_->options().data_bytes;
  const std::uint64_t half = guest_->memory().size_bytes() - data_bytes / 2;
  ASSERT_TRUE(frontend_->share_memory(
      {{TestGuest::kGuestBase, half, TestGuest::kUserBase, 0},
       {TestGuest::kGuestBase + half, data_bytes / 2, TestGuest::kUserBase + half, half}}));
  ASSERT_TRUE(frontend_->prepare_queue(0));
  ASSERT_TRUE(frontend_->enable_queue(0));
  std::fill_n(disk_.bytes.begin(), 4096, std::byte{6});
  const auto used = frontend_->perform(0, BlkType::in, 0, {{data_bytes / 2 - 1000, 4096}});
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->length_bytes, 4097u);
  EXPECT_EQ(data(data_bytes / 2 - 1000, 4096), Bytes(4096, std::byte{6}));
}

TEST_F(VhostMessageTest, AQueueThatStartsBeforeTheMemoryIsKnownBreaksTheDevice) {
  ASSERT_TRUE(frontend_->negotiate());
  ASSERT_TRUE(frontend_->prepare_queue(0));
  ASSERT_TRUE(frontend_->enable_queue(0));
  EXPECT_EQ(fault_count(VhostFault::ring_address), 1u);
  ASSERT_TRUE(frontend_->stop_queue(0).has_value());
  ASSERT_TRUE(frontend_->share_memory());
  ASSERT_TRUE(frontend_->prepare_queue(0));
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
}

TEST_F(VhostMessageTest, AMemoryTableMayBeReplacedWhileRequestsAreInFlight) {
  ASSERT_TRUE(frontend_->start());
  daemon_->device().hold();
  std::fill_n(disk_.bytes.begin(), 512, std::byte{6});
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  frontend_->publish(0);
  ASSERT_TRUE(frontend_->share_memory());
  guest_->submit(0, BlkType::in, 0, {{512, 512}});
  frontend_->publish(0);
  EXPECT_EQ(daemon_->server().request_count(), 2u);
  ASSERT_TRUE(frontend_->share_memory());
  daemon_->device().release();
  daemon_->run();
  EXPECT_EQ(guest_->take_used(0).size(), 2u);
  EXPECT_EQ(data(0, 1024), Bytes(1024, std::byte{6}));
  EXPECT_EQ(fault_count(), 0u);
}

TEST_F(VhostMessageTest, RingsThatAMemoryTableNoLongerHasBreakTheDevice) {
  ASSERT_TRUE(frontend_->start());
  RegionPlace elsewhere = guest_->region();
  elsewhere.user_address += 1 << 30;
  ASSERT_TRUE(frontend_->share_memory({elsewhere}));
  EXPECT_EQ(fault_count(VhostFault::ring_address), 1u);
}

TEST(VhostGuestMemory, WhatIsTakenAwayStaysMappedUntilTheRequestsThatUseItHaveEnded) {
  GuestMemory memory;
  const TestMemory file(8192);
  const RegionPlace place{0, 8192, 0, 0};
  ASSERT_TRUE(memory.add(place, file.descriptor()).ok());
  const std::uint64_t first = memory.begin_request();
  std::byte* const old = memory.guest_bytes(100, 1).data();
  ASSERT_TRUE(memory.remove(place).ok());
  EXPECT_EQ(memory.guest_bytes(100, 1).data(), old) << "it may come back with other bounds";
  EXPECT_EQ(memory.user_bytes(100, 1), old);
  memory.forget_leaving();
  EXPECT_TRUE(memory.guest_bytes(100, 1).empty());
  EXPECT_EQ(memory.user_bytes(100, 1), nullptr);
  EXPECT_EQ(memory.retired_count(), 1u);
  ASSERT_TRUE(memory.add(place, file.descriptor()).ok());
  const std::uint64_t second = memory.begin_request();
  memory.remove_all();
  EXPECT_EQ(memory.retired_count(), 2u);
  *old = std::byte{3};
  EXPECT_EQ(file.data()[100], std::byte{3});
  memory.end_request(second);
  EXPECT_EQ(memory.retired_count(), 2u) << "the older one began earlier";
  memory.end_request(first);
  EXPECT_EQ(memory.retired_count(), 0u);
}

TEST_F(VhostMessageTest, ARunningGuestDoesNotNoticeThatARegionChangesItsBounds) {
  ASSERT_TRUE(frontend_->start());
  const RegionPlace whole = guest_->region();
  const std::uint64_t front = guest_->data_at() + 4096;
  const RegionPlace first{whole.guest_address, front, whole.user_address, 0};
  const RegionPlace second{whole.guest_address + front, whole.size_bytes - front,
                           whole.user_address + front, front};
  const auto expect_served = [&] {
    const auto used = frontend_->perform(0, BlkType::in, 0, {{0, 8192}});
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(used->status, 0);
  };
  ASSERT_TRUE(remove_region(whole));
  expect_served();
  ASSERT_TRUE(add_region(first));
  expect_served();
  ASSERT_TRUE(add_region(second));
  expect_served();
  daemon_->run_for(2 * limits::kVhostRegionLeaveTime);
  expect_served();
  EXPECT_EQ(fault_count(), 0u);
}

TEST_F(VhostMessageTest, RingsInARegionThatDoesNotComeBackBreakTheDevice) {
  ASSERT_TRUE(frontend_->start());
  ASSERT_TRUE(remove_region(guest_->region()));
  daemon_->run_for(limits::kVhostRegionLeaveTime / 2);
  EXPECT_EQ(fault_count(), 0u);
  daemon_->run_for(limits::kVhostRegionLeaveTime);
  EXPECT_EQ(fault_count(VhostFault::ring_address), 1u);
}

TEST(VhostGuestMemory, RegionsThatLeaveAreBounded) {
  GuestMemory memory;
  const TestMemory file(4096);
  for (std::uint64_t i = 0; i < 3 * limits::kVhostMemoryRegionsMax; ++i) {
    const RegionPlace place{i * 4096, 4096, i * 4096, 0};
    ASSERT_TRUE(memory.add(place, file.descriptor()).ok());
    ASSERT_TRUE(memory.remove(place).ok());
  }
  EXPECT_TRUE(memory.guest_bytes(0, 1).empty());
  EXPECT_EQ(memory.guest_bytes((3 * limits::kVhostMemoryRegionsMax - 1) * 4096, 1).size(), 1u);
}

TEST(VhostGuestMemory, WithoutRequestsNothingIsKept) {
  GuestMemory memory;
  const TestMemory file(8192);
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(memory.add({0, 8192, 0, 0}, file.descriptor()).ok());
    memory.end_request(memory.begin_request());
    memory.remove_all();
    EXPECT_EQ(memory.retired_count(), 0u);
  }
}

// --- Rings ---

TEST_F(VhostMessageTest, QueuesThatDoNotExistAreRefused) {
  ASSERT_TRUE(frontend_->negotiate());
  const std::uint32_t none = limits::kVhostQueuesMax;
  EXPECT_FALSE(frontend_->tell_queue(MessageType::set_vring_num, none, 64));
  EXPECT_FALSE(frontend_->tell_queue(MessageType::set_vring_base, none, 0));
  EXPECT_FALSE(frontend_->tell_queue(MessageType::set_vring_enable, none, 1));
  EXPECT_FALSE(frontend_->tell(
      MessageType::set_vring_addr,
      Payload().put(none).put(Bytes().size()).put(0ull).put(0ull).put(0ull).put(0u)));
  EXPECT_FALSE(frontend_->set_event(MessageType::set_vring_kick, none, make_event()));
  EXPECT_EQ(fault_count(VhostFault::message_refused), 5u);
  frontend_->send(MessageType::get_vring_base, Payload().put(none).put(0u));
  EXPECT_TRUE(frontend_->is_closed()) << "there is no way to refuse this one";
}

TEST_F(VhostMessageTest, QueueSizesAreBetweenOneAndTheMaximum) {
  ASSERT_TRUE(frontend_->negotiate());
  EXPECT_FALSE(frontend_->tell_queue(MessageType::set_vring_num, 0, 0));
  EXPECT_TRUE(frontend_->tell_queue(MessageType::set_vring_num, 0, 1));
  EXPECT_TRUE(frontend_->tell_queue(MessageType::set_vring_num, 0, limits::kVhostQueueSizeMax));
  EXPECT_FALSE(
      frontend_->tell_queue(MessageType::set_vring_num, 0, limits::kVhostQueueSizeMax + 1));
  EXPECT_FALSE(frontend_->tell_queue(MessageType::set_vring_num, 0, 65'536 + 64));
}

TEST_F(VhostMessageTest, ARunningQueueCannotBeSetUp) {
  ASSERT_TRUE(frontend_->start());
  EXPECT_FALSE(frontend_->tell_queue(MessageType::set_vring_num, 0, 32));
  EXPECT_FALSE(frontend_->tell_queue(MessageType::set_vring_base, 0, 3));
  EXPECT_TRUE(frontend_->set_addresses(0)) << "the same ones: as at the start of a migration";
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
}

TEST_F(VhostMessageTest, EventsAreEventfdsOneAMessage) {
  ASSERT_TRUE(frontend_->negotiate());
  for (const MessageType type :
       {MessageType::set_vring_kick, MessageType::set_vring_call, MessageType::set_vring_err}) {
    EXPECT_TRUE(frontend_->set_event(type, 0, make_event()));
    EXPECT_FALSE(frontend_->tell_u64(type, 0));
    EXPECT_FALSE(frontend_->set_event(type, 0, guest_->memory().descriptor()));
    std::vector<Descriptor> files;
    files.push_back(make_event());
    files.push_back(make_event());
    EXPECT_FALSE(frontend_->tell_u64(type, 0, std::move(files)));
    EXPECT_EQ(frontend_->tell_u64(type, kVringNoDescriptor), type != MessageType::set_vring_kick);
    EXPECT_FALSE(frontend_->tell(type, Bytes(7)));
  }
}

TEST_F(VhostMessageTest, AQueueWithoutACallIsServed) {
  ASSERT_TRUE(frontend_->start());
  ASSERT_TRUE(frontend_->tell_u64(MessageType::set_vring_call, kVringNoDescriptor));
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
  EXPECT_FALSE(frontend_->take_call(0));
}

TEST_F(VhostMessageTest, AQueueThatNeverRanSaysItsBase) {
  ASSERT_TRUE(frontend_->negotiate());
  ASSERT_TRUE(frontend_->tell_queue(MessageType::set_vring_base, 3, 77));
  EXPECT_EQ(frontend_->stop_queue(3), 77u);
}

TEST_F(VhostMessageTest, AQueueThatWasStoppedBeforeItRanWaitsForAnotherKick) {
  ASSERT_TRUE(frontend_->negotiate());
  ASSERT_TRUE(frontend_->share_memory());
  ASSERT_TRUE(frontend_->prepare_queue(0));
  EXPECT_EQ(frontend_->stop_queue(0), 0u);
  ASSERT_TRUE(frontend_->enable_queue(0));
  guest_->submit(0, BlkType::in, 0, {{0, 512}});
  guest_->publish(0);
  frontend_->kick(0);
  EXPECT_EQ(guest_->used_index(0), 0u);
}

// --- Configuration space ---

TEST_F(VhostMessageTest, TheConfigurationSpaceIsByteForByteThis) {
  const Bytes expected = Payload()
                             .put(std::uint64_t{2048})     // sectors: 1 MiB
                             .put(std::uint32_t{1 << 18})  // size_max
                             .put(std::uint32_t{126})      // seg_max
                             .put(std::uint32_t{0})        // geometry
                             .put(std::uint32_t{512})      // blk_size
                             .put(std::uint8_t{3})         // 4 KiB physical blocks
                             .put(std::uint8_t{0})         // alignment offset
                             .put(std::uint16_t{8})        // minimum I/O
                             .put(std::uint32_t{512})      // optimal I/O: 256 KiB
                             .put(std::uint8_t{1})         // write-back
                             .put(std::uint8_t{0})         //
                             .put(std::uint16_t{64})       // queues
                             .put(std::uint32_t{2097152})  // discard: 1 GiB
                             .put(std::uint32_t{32})       // segments
                             .put(std::uint32_t{8})        // alignment
                             .put(std::uint32_t{2097152})  // write zeroes
                             .put(std::uint32_t{32})       // segments
                             .put(std::uint8_t{1})         // may unmap
                             .put(std::uint8_t{0})
                             .put(std::uint16_t{0});
  EXPECT_EQ(config(0, 60), expected);
  EXPECT_EQ(config(8, 8), Bytes(expected.begin() + 8, expected.begin() + 16));
  EXPECT_EQ(config(60, 196), Bytes(196)) << "what we do not know is zero";
  EXPECT_EQ(config(0, 0), Bytes());
}

TEST_F(VhostMessageTest, ConfigurationBeyondTheEndIsAnsweredWithNothing) {
  for (const auto& [offset, length] : {std::pair{0u, 257u}, {256u, 1u}, {257u, 0u}, {~0u, ~0u}}) {
    const auto reply =
        frontend_->ask(MessageType::get_config, Payload().put(offset).put(length).put(0u));
    ASSERT_TRUE(reply.has_value());
    EXPECT_TRUE(reply->payload.empty());
  }
  EXPECT_TRUE(frontend_->ask(MessageType::get_config, Bytes(5))->payload.empty());
}

TEST_F(VhostMessageTest, OnlyTheCachesSwitchCanBeSet) {
  ASSERT_TRUE(frontend_->negotiate());
  const auto set = [&](std::uint32_t offset, std::uint32_t length) {
    Payload payload;
    payload.put(offset).put(length).put(0u);
    for (std::uint32_t i = 0; i < length && i < 256; ++i) payload.put(std::uint8_t{0});
    return frontend_->tell(MessageType::set_config, payload);
  };
  EXPECT_TRUE(set(32, 1));
  EXPECT_EQ(config(32, 1), Bytes(1));
  EXPECT_FALSE(set(31, 1));
  EXPECT_FALSE(set(32, 2));
  EXPECT_FALSE(set(0, 60));
  EXPECT_FALSE(frontend_->tell(MessageType::set_config, Payload().put(32u).put(1u).put(0u)));
  EXPECT_EQ(fault_count(VhostFault::message_refused), 4u);
}

TEST_F(VhostMessageTest, AnotherSizeIsAnnouncedOnTheChannelOfTheFrontend) {
  ASSERT_TRUE(frontend_->negotiate());
  daemon_->server().announce_size();
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const Descriptor other(ends[1]);
  EXPECT_TRUE(frontend_->tell(MessageType::set_backend_request_fd, {}, one(Descriptor(ends[0]))));
  daemon_->run();
  EXPECT_TRUE(daemon_->channel().output.empty());
  daemon_->device().resize(2 * kDiskBytes);
  daemon_->server().announce_size();
  daemon_->server().announce_size();
  daemon_->run();
  const Bytes message = TestFrontend::message_bytes(2, {});
  Bytes twice = message;
  twice.insert(twice.end(), message.begin(), message.end());
  EXPECT_EQ(daemon_->channel().output, twice);
  EXPECT_EQ(config(0, 8), Bytes(Payload().put(std::uint64_t{4096})));
  EXPECT_FALSE(frontend_->tell(MessageType::set_backend_request_fd, {}, one(make_event())));
  EXPECT_FALSE(frontend_->tell(MessageType::set_backend_request_fd, {}));
}

TEST_F(VhostMessageTest, AFrontendThatDoesNotReadItsChannelIsLeftAlone) {
  ASSERT_TRUE(frontend_->start());
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const Descriptor other(ends[1]);
  ASSERT_TRUE(frontend_->tell(MessageType::set_backend_request_fd, {}, one(Descriptor(ends[0]))));
  daemon_->channel().reading = false;
  for (int i = 0; i < 100; ++i) daemon_->server().announce_size();
  daemon_->run();
  EXPECT_EQ(daemon_->channel().output.size(), kMessageHeaderBytes);
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
}

}  // namespace
}  // namespace holdfast::vhost
