// SPDX-License-Identifier: Apache-2.0
//
// What the server offers, and its answers to messages of a well-behaved peer.
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "vhost/conformance/fixture.h"

namespace holdfast::vhost_frontend {
namespace {

class ConformanceProtocol : public ConformanceTest {};

TEST_F(ConformanceProtocol, OffersWhatALinuxGuestUses) {
  open();
  for (const std::uint32_t feature :
       {std::uint32_t{VIRTIO_BLK_F_SEG_MAX}, std::uint32_t{VIRTIO_BLK_F_BLK_SIZE},
        std::uint32_t{VIRTIO_BLK_F_FLUSH}, std::uint32_t{VIRTIO_BLK_F_TOPOLOGY},
        std::uint32_t{VIRTIO_BLK_F_CONFIG_WCE}, std::uint32_t{VIRTIO_BLK_F_MQ},
        std::uint32_t{VIRTIO_BLK_F_DISCARD}, std::uint32_t{VIRTIO_BLK_F_WRITE_ZEROES},
        std::uint32_t{kFeatureIndirect}, std::uint32_t{kFeatureEventIndex},
        std::uint32_t{kFeatureVersion1}, std::uint32_t{kFeatureProtocolFeatures}}) {
    EXPECT_NE(device().offered_features() & bit(feature), 0U) << "feature " << feature;
  }
  for (const std::uint32_t feature : {kProtocolMq, kProtocolConfig, kProtocolReplyAck}) {
    EXPECT_NE(device().offered_protocol_features() & bit(feature), 0U)
        << "protocol feature " << feature;
  }
  EXPECT_EQ(device().offered_features() & bit(VIRTIO_BLK_F_RO), 0U);
}

TEST_F(ConformanceProtocol, TheConfigSpaceMakesSense) {
  open();
  const virtio_blk_config& config = device().config();
  EXPECT_GE(device().capacity_bytes(), 32U << 20U);
  EXPECT_GE(config.blk_size, 512U);
  EXPECT_LE(config.blk_size, 4096U);
  EXPECT_TRUE(std::has_single_bit(std::uint32_t{config.blk_size}));
  EXPECT_GE(config.seg_max, 32U);
  EXPECT_EQ(config.num_queues, device().server_queue_count());
  EXPECT_GE(config.num_queues, 4U);
  EXPECT_GE(config.max_discard_sectors, 8U);
  EXPECT_GE(config.max_discard_seg, 1U);
  EXPECT_GE(config.discard_sector_alignment, 1U);
  EXPECT_GE(config.max_write_zeroes_sectors, 8U);
  EXPECT_GE(config.max_write_zeroes_seg, 1U);
  EXPECT_LE(config.alignment_offset, 1U << config.physical_block_exp);
}

// QEMU asks for as much as the features it knows need.
TEST_F(ConformanceProtocol, APartOfTheConfigSpaceIsTheSameAsTheWhole) {
  open();
  for (const std::uint32_t bytes : {8U, 36U, 48U, 57U, 60U}) {
    std::vector<std::byte> request(sizeof(ConfigHeader) + bytes);
    const ConfigHeader header = {0, bytes, 0};
    std::memcpy(request.data(), &header, sizeof header);
    const Result<Message> reply = device().connection().call(kGetConfig, request);
    ASSERT_DONE(reply);
    const Message& message = reply.value();
    ASSERT_EQ(message.payload.size(), request.size());
    EXPECT_EQ(std::memcmp(message.payload.data() + sizeof header, &device().config(), bytes), 0);
  }
}

TEST_F(ConformanceProtocol, TheGuestCanTurnTheWriteCacheOffAndOn) {
  open();
  constexpr std::uint32_t kOffset = offsetof(virtio_blk_config, wce);
  ASSERT_EQ(kOffset, 32U);
  for (const std::byte value : {std::byte{0}, std::byte{1}, std::byte{0}, std::byte{1}}) {
    ASSERT_DONE(device().write_config(kOffset, {&value, 1}));
    ASSERT_DONE(device().read_config());
    EXPECT_EQ(device().config().wce, std::to_integer<int>(value));
    EXPECT_EQ(client().check_works(), "");
  }
}

TEST_F(ConformanceProtocol, AMemoryTableInOneMessageWorksAsWell) {
  DeviceOptions options = Client::default_options();
  options.protocol_features &= ~bit(kProtocolMemorySlots);
  open(options, {4 << 20, 2 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20});
  EXPECT_EQ(client().check_works(), "");
}

TEST_F(ConformanceProtocol, WorksWithoutAcknowledgements) {
  DeviceOptions options = Client::default_options();
  options.protocol_features &= ~bit(kProtocolReplyAck);
  open(options);
  EXPECT_EQ(client().check_works(), "");
}

TEST_F(ConformanceProtocol, EverySetRequestIsAcknowledgedWhenAsked) {
  open();
  VhostConnection& link = device().connection();
  const std::uint64_t features = device().offered_features() & ~bit(VIRTIO_BLK_F_RO);
  const Result<std::uint64_t> answer = link.acknowledged(kSetFeatures, bytes_of(features));
  ASSERT_DONE(answer);
  EXPECT_EQ(answer.value(), 0U);
  const VringState disable = {0, 0};
  const Result<std::uint64_t> enabled = link.acknowledged(kSetVringEnable, bytes_of(disable));
  ASSERT_DONE(enabled);
  EXPECT_EQ(enabled.value(), 0U);
}

TEST_F(ConformanceProtocol, MemoryCanBeAddedAndRemovedUnderLoad) {
  open();
  if (!device().has_protocol_feature(kProtocolMemorySlots)) {
    GTEST_SKIP() << "the server does not offer CONFIGURE_MEM_SLOTS";
  }
  EXPECT_GE(device().memory_slots_max(), 8U);
  const Result<std::size_t> added = client().memory().add_region(1 << 20);
  ASSERT_DONE(added);
  ASSERT_DONE(device().add_region(added.value()));
  const std::uint64_t address = client().memory().allocate_in(added.value(), 65536, 4096);
  const Segment data = {address, 65536};
  StampedDisk::fill(client().bytes(data), 640, 1);
  ASSERT_EQ(run(VIRTIO_BLK_T_OUT, 640, {data}), VIRTIO_BLK_S_OK);
  ASSERT_DONE(device().remove_region(added.value()));
  EXPECT_EQ(client().check_works(), "");
  const Segment read = client().filled(65536);
  ASSERT_EQ(run(VIRTIO_BLK_T_IN, 640, {read}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(std::memcmp(client().bytes(read).data(), client().bytes(data).data(), 65536), 0);
}

TEST_F(ConformanceProtocol, OneClientAfterAnotherIsServed) {
  for (int round = 0; round < 20; ++round) {
    open();
    ASSERT_EQ(client().check_works(), "") << round;
  }
}

TEST_F(ConformanceProtocol, AClientThatGoesWithRequestsInFlightMakesRoomForTheNext) {
  for (int round = 0; round < 10; ++round) {
    open();
    const Segment data = client().filled(65536);
    for (std::uint64_t index = 0; index < 20; ++index) {
      ASSERT_DONE(queue().submit(
          {.type = VIRTIO_BLK_T_OUT, .sector = index * 128, .data = {&data, 1}, .tag = index}));
    }
    queue().publish();
  }
  open();
  EXPECT_EQ(client().check_works(), "");
}

class HoldfastProtocol : public ConformanceTest {};

TEST_F(HoldfastProtocol, OffersInflightTrackingAndMemorySlots) {
  open();
  for (const std::uint32_t feature :
       {kProtocolInflight, kProtocolMemorySlots, kProtocolBackendRequest}) {
    EXPECT_TRUE(device().has_protocol_feature(feature)) << "protocol feature " << feature;
  }
}

TEST_F(HoldfastProtocol, SetConfigOfAReadOnlyFieldIsRefused) {
  open();
  const std::uint64_t capacity = 1;
  EXPECT_FALSE(device().write_config(0, bytes_of(capacity)).ok());
  const std::byte two{2};
  EXPECT_FALSE(device().write_config(kConfigBytes - 1, {&two, 1}).ok());
  ASSERT_DONE(device().read_config());
  EXPECT_GT(device().config().capacity, 1U);
}

TEST_F(HoldfastProtocol, WhatMakesNoSenseIsRefusedAndTheSessionGoesOn) {
  open();
  VhostConnection& link = device().connection();
  const auto expect_refused = [&link](std::uint32_t request, std::span<const std::byte> payload) {
    const Result<std::uint64_t> answer = link.acknowledged(request, payload);
    ASSERT_DONE(answer);
    EXPECT_NE(answer.value(), 0U) << "request " << request;
  };
  expect_refused(200, {});
  const std::uint64_t everything = ~std::uint64_t{0};
  expect_refused(kSetProtocolFeatures, bytes_of(everything));
  EXPECT_EQ(client().check_works(), "");
}

TEST_F(HoldfastProtocol, ASecondClientDoesNotDisturbTheFirst) {
  open();
  ASSERT_EQ(client().check_works(), "");
  for (int round = 0; round < 3; ++round) {
    DeviceOptions options = Client::default_options();
    options.timeout = Milliseconds(200);  // it may be left waiting
    Client second(options);
    (void)second.open();
    ASSERT_EQ(client().check_works(), "");
  }
  ASSERT_EQ(client().check_works(), "");
  open();
  EXPECT_EQ(client().check_works(), "");
}

class Resize : public ConformanceTest {};

TEST_F(Resize, TheGuestHearsOfItAndCanUseTheNewSectors) {
  open();
  const std::uint64_t before = device().config().capacity;
  ASSERT_EQ(std::system(setting("VHOST_RESIZE_COMMAND").c_str()), 0);  // NOLINT(cert-env33-c)
  const Result<std::optional<Message>> message = device().next_backend_message(Milliseconds(5000));
  ASSERT_DONE(message);
  ASSERT_TRUE(message.value().has_value()) << "no message about the new size";
  EXPECT_EQ(message.value()->request, kBackendConfigChange);
  ASSERT_DONE(device().read_config());
  EXPECT_GT(device().config().capacity, before);
  EXPECT_EQ(client().check_works(device().config().capacity - 128), "");
}

}  // namespace
}  // namespace holdfast::vhost_frontend
