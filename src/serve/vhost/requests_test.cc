// SPDX-License-Identifier: Apache-2.0
//
// Block requests: each type, in any layout of its chain.
#include <gtest/gtest.h>

#include "base/limits.h"
#include "serve/vhost/vhost_fixture.h"

namespace holdfast::vhost {
namespace {

class VhostRequestTest : public VhostTest {
 protected:
  struct Element {
    std::uint64_t guest_address;
    std::uint32_t length_bytes;
    bool is_writable;
  };
  // One chain of any shape, at head 0, its header and its status anywhere.
  std::vector<UsedEntry> run_chain(const std::vector<Element>& elements) {
    for (std::size_t i = 0; i < elements.size(); ++i) {
      const bool is_last = i + 1 == elements.size();
      guest_->set_descriptor(
          0, i, elements[i].guest_address, elements[i].length_bytes,
          static_cast<std::uint16_t>((is_last ? 0 : kDescriptorNext) |
                                     (elements[i].is_writable ? kDescriptorWrite : 0)),
          static_cast<std::uint16_t>(i + 1));
    }
    guest_->make_available(0, 0);
    frontend_->publish(0);
    return guest_->take_used(0);
  }
  std::uint64_t at(std::size_t offset_bytes) const {
    return TestGuest::guest_address(guest_->data_at() + offset_bytes);
  }
  void put_header(std::size_t offset_bytes, BlkType type, std::uint64_t sector) const {
    const Bytes header = Payload().put(static_cast<std::uint32_t>(type)).put(0u).put(sector);
    fill_data(offset_bytes, header);
  }
  void put_segment(std::size_t index, std::uint64_t sector, std::uint32_t sectors,
                   std::uint32_t flags = 0) const {
    const Bytes segment = Payload().put(sector).put(sectors).put(flags);
    fill_data(index * kDiscardSegmentBytes, segment);
  }
  std::uint8_t perform_segments(BlkType type, std::uint32_t count) {
    const auto used = frontend_->perform(
        0, type, 0, {{0, static_cast<std::uint32_t>(count * kDiscardSegmentBytes)}});
    if (!used.has_value()) return 0xEE;
    EXPECT_EQ(used->length_bytes, 1u);
    return used->status;
  }
};

TEST_F(VhostRequestTest, WhatWasWrittenIsReadBack) {
  start();
  const Bytes bytes = pattern(12 * 1024, 7);
  fill_data(0, bytes);
  auto used = frontend_->perform(0, BlkType::out, 16, {{0, 12 * 1024}});
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->status, 0);
  EXPECT_EQ(used->length_bytes, 1u) << "only the status was written";
  EXPECT_EQ(disk_bytes(16 * 512, bytes.size()), bytes);
  used = frontend_->perform(0, BlkType::in, 16, {{100'000, 4096}, {50'001, 8192}});
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->status, 0);
  EXPECT_EQ(used->length_bytes, 12u * 1024 + 1);
  Bytes read = data(100'000, 4096);
  const Bytes rest = data(50'001, 8192);
  read.insert(read.end(), rest.begin(), rest.end());
  EXPECT_EQ(read, bytes);
  EXPECT_EQ(fault_count(), 0u);
}

TEST_F(VhostRequestTest, RequestsMayBePutIntoTables) {
  start({.indirect = true});
  fill_data(0, pattern(8192, 1));
  ASSERT_EQ(frontend_->perform(0, BlkType::out, 0, {{0, 512}, {512, 7168}, {7680, 512}})->status,
            0);
  EXPECT_EQ(disk_bytes(0, 8192), pattern(8192, 1));
  EXPECT_EQ(guest_->free_descriptor_count(0), 64u);
}

TEST_F(VhostRequestTest, HeaderPayloadAndStatusMayShareAndSplitDescriptors) {
  start();
  const Bytes bytes = pattern(1024, 3);
  // One readable descriptor with header and payload.
  put_header(0, BlkType::out, 4);
  fill_data(16, bytes);
  auto used = run_chain({{at(0), 16 + 1024, false}, {at(5000), 1, true}});
  ASSERT_EQ(used.size(), 1u);
  EXPECT_EQ(*guest_->data(5000), std::byte{0});
  EXPECT_EQ(disk_bytes(4 * 512, 1024), bytes);
  // The header in three pieces, the last together with payload; empty descriptors in between.
  put_header(0, BlkType::out, 8);
  used = run_chain({{at(0), 3, false},
                    {at(9000), 0, false},
                    {at(3), 9, false},
                    {at(12), 4 + 24, false},
                    {at(40), 1000, false},
                    {at(5000), 1, true},
                    {at(9000), 0, true}});
  ASSERT_EQ(used.size(), 1u);
  EXPECT_EQ(disk_bytes(8 * 512, 1024), bytes);
  // Payload and status in one writable descriptor, behind a piece of one byte.
  put_header(0, BlkType::in, 4);
  *guest_->data(7001 + 1023) = std::byte{0xEE};
  used = run_chain({{at(0), 16, false}, {at(6000), 1, true}, {at(7001), 1024, true}});
  ASSERT_EQ(used.size(), 1u);
  EXPECT_EQ(used[0].length_bytes, 1025u);
  EXPECT_EQ(*guest_->data(6000), bytes[0]);
  EXPECT_EQ(data(7001, 1023), Bytes(bytes.begin() + 1, bytes.end()));
  EXPECT_EQ(*guest_->data(7001 + 1023), std::byte{0}) << "the status is the very last byte";
  EXPECT_EQ(fault_count(), 0u);
}

TEST_F(VhostRequestTest, ARequestOfTheLargestSizeIsTakenAndOneSectorMoreIsRefused) {
  disk_.bytes.resize(limits::kVhostRequestBytesMax + 512);
  start({.data_bytes = limits::kVhostRequestBytesMax + 4096});
  const auto bytes = static_cast<std::uint32_t>(limits::kVhostRequestBytesMax);
  std::fill_n(disk_.bytes.begin(), disk_.bytes.size(), std::byte{7});
  auto used = frontend_->perform(0, BlkType::in, 0, {{0, bytes}});
  EXPECT_EQ(used->status, 0);
  EXPECT_EQ(used->length_bytes, bytes + 1);
  EXPECT_EQ(*guest_->data(bytes - 1), std::byte{7});
  used = frontend_->perform(0, BlkType::in, 0, {{0, bytes}, {bytes, 512}});
  EXPECT_EQ(used->status, 1);
  EXPECT_EQ(fault_count(VhostFault::request_malformed), 1u);
}

TEST_F(VhostRequestTest, PartsOfASectorAreRefused) {
  start();
  for (const std::uint32_t bytes : {1u, 511u, 513u}) {
    for (const BlkType type : {BlkType::in, BlkType::out}) {
      const auto used = frontend_->perform(0, type, 0, {{0, bytes}});
      ASSERT_TRUE(used.has_value());
      EXPECT_EQ(used->status, 1);
      EXPECT_EQ(used->length_bytes, 1u);
    }
  }
  EXPECT_EQ(fault_count(VhostFault::request_malformed), 6u);
  EXPECT_TRUE(disk_.submitted.empty());
  EXPECT_EQ(daemon_->statistics().requests_failed, 6u);
}

TEST_F(VhostRequestTest, NothingBeyondTheEndIsReadOrWritten) {
  start();
  const std::uint64_t end = kDiskBytes / 512;
  EXPECT_EQ(frontend_->perform(0, BlkType::in, end - 1, {{0, 512}})->status, 0);
  for (const BlkType type : {BlkType::in, BlkType::out}) {
    for (const std::uint64_t sector :
         {end - 1, end, std::uint64_t{1} << 55, (std::uint64_t{1} << 55) - 1, ~std::uint64_t{0}}) {
      EXPECT_EQ(frontend_->perform(0, type, sector, {{0, 1024}})->status, 1) << sector;
    }
  }
  EXPECT_EQ(fault_count(VhostFault::request_out_of_range), 10u);
  EXPECT_EQ(fault_count(), 10u);
}

TEST_F(VhostRequestTest, AReadOnlyDeviceIsNeverWritten) {
  make_daemon(true);
  start();
  fill_data(0, pattern(512, 1));
  EXPECT_EQ(frontend_->perform(0, BlkType::out, 0, {{0, 512}})->status, 1);
  fill_data(0, Bytes(16));
  for (const BlkType type : {BlkType::discard, BlkType::write_zeroes}) {
    EXPECT_EQ(perform_segments(type, 1), 1);
  }
  EXPECT_EQ(frontend_->perform(0, BlkType::flush, 0, {})->status, 0);
  EXPECT_TRUE(disk_.submitted.empty());
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
  EXPECT_EQ(fault_count(VhostFault::request_malformed), 3u);
}

TEST_F(VhostRequestTest, WhatIsNotKnownIsUnsupported) {
  start();
  for (const std::uint32_t type : {2u, 3u, 5u, 10u, 14u, 0x80000000u, 0xFFFFFFFFu}) {
    const auto used = frontend_->perform(0, static_cast<BlkType>(type), 0, {{0, 512}});
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(used->status, 2) << type;
    EXPECT_EQ(used->length_bytes, 1u);
  }
  EXPECT_EQ(fault_count(VhostFault::request_unsupported), 7u);
}

TEST_F(VhostRequestTest, TheSerialIsTheFrontOfTheVolumesId) {
  start();
  fill_data(0, Bytes(64, std::byte{0xCC}));
  auto used = frontend_->perform(0, BlkType::get_id, 0, {{0, 32}});
  EXPECT_EQ(used->status, 0);
  EXPECT_EQ(used->length_bytes, 21u);
  const Bytes serial = data(0, 20);
  EXPECT_EQ(as_text(serial), "0123456789ab4cde8f01");
  EXPECT_EQ(data(20, 12), Bytes(12, std::byte{0xCC}));
  used = frontend_->perform(0, BlkType::get_id, 0, {{100, 5}});
  EXPECT_EQ(used->length_bytes, 6u);
  const Bytes front = data(100, 5);
  EXPECT_EQ(as_text(front), "01234");
}

TEST_F(VhostRequestTest, AFlushReachesTheDevice) {
  start();
  const auto used = frontend_->perform(0, BlkType::flush, 0, {});
  EXPECT_EQ(used->status, 0);
  ASSERT_EQ(disk_.submitted.size(), 1u);
  EXPECT_EQ(disk_.submitted[0].operation, BlockOperation::flush);
  EXPECT_FALSE(disk_.submitted[0].force_unit_access);
}

TEST_F(VhostRequestTest, ADiscardWithManySegmentsIsAnsweredOnce) {
  start();
  std::fill(disk_.bytes.begin(), disk_.bytes.end(), std::byte{9});
  for (std::uint32_t i = 0; i < limits::kVhostDiscardSegmentsMax; ++i) put_segment(i, i * 16, 8);
  EXPECT_EQ(perform_segments(BlkType::discard, limits::kVhostDiscardSegmentsMax), 0);
  EXPECT_EQ(disk_.submitted.size(), limits::kVhostDiscardSegmentsMax);
  for (std::size_t i = 0; i < limits::kVhostDiscardSegmentsMax; ++i) {
    EXPECT_EQ(disk_bytes(i * 8192, 4096), Bytes(4096));
    EXPECT_EQ(disk_bytes(i * 8192 + 4096, 4096), Bytes(4096, std::byte{9}));
  }
  EXPECT_EQ(perform_segments(BlkType::discard, limits::kVhostDiscardSegmentsMax + 1), 1);
  EXPECT_EQ(fault_count(VhostFault::request_malformed), 1u);
}

TEST_F(VhostRequestTest, OneBadSegmentRefusesTheWholeDiscard) {
  start();
  put_segment(0, 0, 8);
  put_segment(1, kDiskBytes / 512 - 4, 5);
  EXPECT_EQ(perform_segments(BlkType::discard, 2), 1);
  put_segment(1, ~std::uint64_t{0}, 8);
  EXPECT_EQ(perform_segments(BlkType::discard, 2), 1);
  put_segment(1, 0, ~0u);
  EXPECT_EQ(perform_segments(BlkType::write_zeroes, 2), 1);
  EXPECT_EQ(fault_count(VhostFault::request_out_of_range), 3u);
  put_segment(1, 0, 8, 1);
  EXPECT_EQ(perform_segments(BlkType::discard, 2), 2) << "unmap is for write zeroes only";
  put_segment(1, 0, 8, 2);
  EXPECT_EQ(perform_segments(BlkType::write_zeroes, 2), 2);
  EXPECT_EQ(fault_count(VhostFault::request_unsupported), 2u);
  EXPECT_EQ(frontend_->perform(0, BlkType::discard, 0, {{0, 17}})->status, 1);
  EXPECT_EQ(frontend_->perform(0, BlkType::discard, 0, {})->status, 1);
  EXPECT_EQ(fault_count(VhostFault::request_malformed), 2u);
  EXPECT_TRUE(disk_.submitted.empty());
}

TEST_F(VhostRequestTest, WriteZeroesKeepsSpaceUnlessItMayUnmap) {
  start();
  put_segment(0, 0, 8);
  EXPECT_EQ(perform_segments(BlkType::write_zeroes, 1), 0);
  put_segment(0, 8, 8, kDiscardFlagUnmap);
  EXPECT_EQ(perform_segments(BlkType::write_zeroes, 1), 0);
  put_segment(0, 8, 8);
  EXPECT_EQ(perform_segments(BlkType::discard, 1), 0);
  ASSERT_EQ(disk_.submitted.size(), 3u);
  EXPECT_TRUE(disk_.submitted[0].keep_allocated);
  EXPECT_FALSE(disk_.submitted[1].keep_allocated);
  EXPECT_FALSE(disk_.submitted[2].keep_allocated);
}

TEST_F(VhostRequestTest, SegmentsThatChangeAfterTheCheckChangeNothing) {
  start();
  daemon_->device().hold();
  std::fill(disk_.bytes.begin(), disk_.bytes.end(), std::byte{9});
  put_segment(0, 0, 8);
  put_segment(1, 8, 8);
  guest_->submit(0, BlkType::discard, 0, {{0, 32}});
  frontend_->publish(0);
  put_segment(1, 1 << 20, ~0u);
  daemon_->device().release();
  daemon_->run();
  EXPECT_EQ(guest_->take_used(0).at(0).status, 0);
  EXPECT_EQ(disk_bytes(0, 8192), Bytes(8192));
}

TEST_F(VhostRequestTest, AnErrorOfTheDeviceIsAnIoErrorAndTheNextRequestGoesOn) {
  start();
  daemon_->device().fail_all(BlockStatus::medium_error);
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 1);
  EXPECT_EQ(frontend_->perform(0, BlkType::flush, 0, {})->status, 1);
  put_segment(0, 0, 8);
  put_segment(1, 8, 8);
  EXPECT_EQ(perform_segments(BlkType::discard, 2), 1);
  EXPECT_EQ(disk_.submitted.size(), 3u) << "no segment behind the one that failed";
  daemon_->device().fail_all(BlockStatus::ok);
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
  EXPECT_EQ(daemon_->statistics().requests_failed, 3u);
  EXPECT_EQ(fault_count(), 0u) << "the guest did nothing wrong";
}

TEST_F(VhostRequestTest, WritesAreDurableOnceTheGuestSwitchesTheCacheOff) {
  start();
  frontend_->perform(0, BlkType::out, 0, {{0, 512}});
  EXPECT_FALSE(disk_.submitted.back().force_unit_access);
  const auto set_cache = [&](std::uint8_t value) {
    return frontend_->tell(MessageType::set_config, Payload().put(32u).put(1u).put(0u).put(value));
  };
  ASSERT_TRUE(set_cache(0));
  frontend_->perform(0, BlkType::out, 0, {{0, 512}});
  EXPECT_TRUE(disk_.submitted.back().force_unit_access);
  frontend_->perform(0, BlkType::in, 0, {{0, 512}});
  EXPECT_FALSE(disk_.submitted.back().force_unit_access);
  put_segment(0, 0, 8);
  perform_segments(BlkType::write_zeroes, 1);
  EXPECT_TRUE(disk_.submitted.back().force_unit_access);
  ASSERT_TRUE(set_cache(1));
  frontend_->perform(0, BlkType::out, 0, {{0, 512}});
  EXPECT_FALSE(disk_.submitted.back().force_unit_access);
}

TEST_F(VhostRequestTest, WritesOfADriverThatCannotFlushAreDurable) {
  connect();
  ASSERT_TRUE(frontend_->start());
  ASSERT_TRUE(frontend_->tell_u64(
      MessageType::set_features,
      frontend_->features() & ~(bit(kBlkFeatureFlush) | bit(kBlkFeatureConfigWce))));
  frontend_->perform(0, BlkType::out, 0, {{0, 512}});
  EXPECT_TRUE(disk_.submitted.back().force_unit_access);
}

TEST_F(VhostRequestTest, AnswersGoOutInTheOrderOfCompletion) {
  start();
  daemon_->device().hold();
  std::vector<std::uint16_t> heads;
  for (std::uint64_t i = 0; i < 5; ++i) {
    heads.push_back(guest_->submit(0, BlkType::in, i, {{i * 512, 512}}));
  }
  frontend_->publish(0);
  ASSERT_EQ(daemon_->device().waiting_count(), 5u);
  daemon_->device().complete(3);
  daemon_->run();
  daemon_->device().complete(0);
  daemon_->device().complete(2);
  daemon_->run();
  const auto used = guest_->take_used(0);
  ASSERT_EQ(used.size(), 3u);
  EXPECT_EQ(used[0].head, heads[3]);
  EXPECT_EQ(used[1].head, heads[0]);
  EXPECT_EQ(used[2].head, heads[4]);
  EXPECT_EQ(daemon_->server().request_count(), 2u);
}

TEST_F(VhostRequestTest, ThousandLongRequestsFitAndTheRestWaitTheirTurn) {
  start({.queue_count = 2, .queue_size = 1024, .data_bytes = 512 * kKiB, .indirect = true});
  // All tables alike: a header, eight pieces and a status byte that all share.
  const std::size_t table = 100'000;
  put_header(0, BlkType::in, 0);
  for (std::size_t i = 0; i < 10; ++i) {
    guest_->store_descriptor(guest_->data_at() + table + i * 16, at(i == 0 ? 0 : 1024 + i * 512),
                             i == 0 ? 16u : (i == 9 ? 1u : 512u),
                             static_cast<std::uint16_t>((i == 9 ? 0 : kDescriptorNext) |
                                                        (i == 0 ? 0 : kDescriptorWrite)),
                             static_cast<std::uint16_t>(i + 1));
  }
  daemon_->device().hold();
  for (std::size_t queue = 0; queue < 2; ++queue) {
    for (std::uint16_t head = 0; head < 1024; ++head) {
      guest_->set_descriptor(queue, head, at(table), 160, kDescriptorIndirect, 0);
      guest_->make_available(queue, head);
    }
    frontend_->publish(queue);
  }
  EXPECT_EQ(daemon_->server().request_count(), limits::kVhostLongRequestsMax);
  daemon_->device().release();
  daemon_->run();
  EXPECT_EQ(guest_->take_used(0).size() + guest_->take_used(1).size(), 2048u);
  EXPECT_EQ(fault_count(), 0u);
}

}  // namespace
}  // namespace holdfast::vhost
