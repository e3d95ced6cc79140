// SPDX-License-Identifier: Apache-2.0
//
// Layouts of chains, sizes of rings, notifications, and rings that stop and start.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "vhost/conformance/fixture.h"

namespace holdfast::vhost_frontend {
namespace {

constexpr int kOk = VIRTIO_BLK_S_OK;
constexpr std::uint64_t kBytes = 8192;

class ConformanceRings : public ConformanceTest {
 protected:
  Segment header(std::uint32_t type, std::uint64_t sector) {
    const Segment segment = client().filled(16);
    const virtio_blk_outhdr header = {type, 0, sector};
    std::memcpy(client().bytes(segment).data(), &header, sizeof header);
    return segment;
  }
  // Pieces of `bytes_each` of a segment; the last has what is left.
  static void cut(std::vector<ChainElement>& chain, const Segment& segment,
                  std::uint32_t bytes_each, bool device_writes) {
    for (std::uint32_t at = 0; at < segment.bytes; at += bytes_each) {
      chain.push_back(
          {segment.guest_address + at, std::min(bytes_each, segment.bytes - at), device_writes});
    }
  }
  // A write and a read of the same sectors, headers and data cut into pieces.
  void write_and_read_cut(std::uint32_t header_piece, std::uint32_t data_piece, bool indirect) {
    SCOPED_TRACE(testing::Message() << "header in pieces of " << header_piece << ", data of "
                                    << data_piece << (indirect ? ", indirect" : ""));
    const Segment written = client().stamped(kBytes, 100, ++version_);
    const Segment read = client().filled(kBytes, 0xee);
    const Segment status = client().filled(1);
    std::vector<ChainElement> chain;
    cut(chain, header(VIRTIO_BLK_T_OUT, 100), header_piece, false);
    cut(chain, written, data_piece, false);
    chain.push_back({status.guest_address, 1, true});
    ASSERT_EQ(run_chain(chain, indirect), kOk);
    chain.clear();
    cut(chain, header(VIRTIO_BLK_T_IN, 100), header_piece, false);
    cut(chain, read, data_piece, true);
    chain.push_back({status.guest_address, 1, true});
    ASSERT_EQ(run_chain(chain, indirect), kOk);
    ASSERT_TRUE(std::ranges::equal(client().bytes(written), client().bytes(read)));
  }
  static DeviceOptions options_with(std::uint16_t queue_size, std::uint32_t segments_max = 4) {
    DeviceOptions options = Client::default_options();
    options.queue.size = queue_size;
    options.queue.segments_max = segments_max;
    return options;
  }

  std::uint64_t version_ = 0;
};

TEST_F(ConformanceRings, AnyCutOfHeaderAndDataIsUnderstood) {
  open(options_with(128, 70));
  for (const bool indirect : {false, true}) {
    write_and_read_cut(16, 8192, indirect);
    write_and_read_cut(16, 4096, indirect);
    write_and_read_cut(16, 512, indirect);
    write_and_read_cut(1, 4096, indirect);
    write_and_read_cut(7, 777, indirect);
    write_and_read_cut(3, 130, indirect);
  }
}

TEST_F(ConformanceRings, HeaderAndDataMayShareADescriptorAndSoMayDataAndStatus) {
  open();
  const Segment written = client().filled(16 + kBytes);
  const virtio_blk_outhdr out = {VIRTIO_BLK_T_OUT, 0, 200};
  std::memcpy(client().bytes(written).data(), &out, sizeof out);
  StampedDisk::fill(client().bytes(written).subspan(16), 200, 9);
  const Segment status = client().filled(1);
  const ChainElement write[] = {{written.guest_address, written.bytes, false},
                                {status.guest_address, 1, true}};
  ASSERT_EQ(run_chain(write), kOk);
  const Segment asked = header(VIRTIO_BLK_T_IN, 200);
  const Segment read = client().filled(kBytes + 1, 0xee);
  const ChainElement chain[] = {{asked.guest_address, 16, false},
                                {read.guest_address, read.bytes, true}};
  ASSERT_EQ(run_chain(chain), kOk);
  EXPECT_TRUE(
      std::ranges::equal(client().bytes(written).subspan(16), client().bytes(read).first(kBytes)));
}

TEST_F(ConformanceRings, AsManySegmentsAsPromisedAreTaken) {
  open();
  const std::uint32_t segments = std::min<std::uint32_t>(device().config().seg_max, 1000);
  ASSERT_GE(segments, 1U);
  open(options_with(1024, segments));
  for (const bool indirect : {false, true}) {
    const Segment written = client().stamped(segments * 512, 0, 3);
    const Segment read = client().filled(segments * 512, 0xee);
    const Segment status = client().filled(1);
    std::vector<ChainElement> chain = {{header(VIRTIO_BLK_T_OUT, 0).guest_address, 16, false}};
    cut(chain, written, 512, false);
    chain.push_back({status.guest_address, 1, true});
    ASSERT_EQ(run_chain(chain, indirect), kOk);
    chain = {{header(VIRTIO_BLK_T_IN, 0).guest_address, 16, false}};
    cut(chain, read, 512, true);
    chain.push_back({status.guest_address, 1, true});
    ASSERT_EQ(run_chain(chain, indirect), kOk);
    EXPECT_TRUE(std::ranges::equal(client().bytes(written), client().bytes(read)));
  }
}

TEST_F(ConformanceRings, QueuesOfAnySizeWork) {
  for (const int size : {1, 2, 4, 8, 64, 256, 1024}) {
    open(options_with(static_cast<std::uint16_t>(size)));
    EXPECT_EQ(client().check_works(), "") << size;
  }
}

TEST_F(ConformanceRings, WorksWithoutIndirectDescriptorsAndWithoutEventIndex) {
  for (const std::uint32_t feature : {kFeatureIndirect, kFeatureEventIndex}) {
    DeviceOptions options = options_with(64);
    options.features &= ~bit(feature);
    open(options);
    for (int round = 0; round < 100; ++round) ASSERT_EQ(client().check_works(), "") << feature;
  }
}

TEST_F(ConformanceRings, AnIndexWrapsAroundWithoutALoss) {
  open(options_with(64));
  const Segment id = client().filled(VIRTIO_BLK_ID_BYTES);
  constexpr std::uint64_t kBatch = 32;
  for (std::uint64_t done = 0; done < 70'000; done += kBatch) {
    for (std::uint64_t index = 0; index < kBatch; ++index) {
      ASSERT_DONE(queue().submit(
          {.type = VIRTIO_BLK_T_GET_ID, .sector = 0, .data = {&id, 1}, .tag = done + index}));
    }
    queue().publish();
    const auto completions = client().wait_for(kBatch);
    ASSERT_DONE(completions);
    ASSERT_EQ(completions.value().size(), kBatch);
  }
  EXPECT_EQ(client().check_works(), "");
}

TEST_F(ConformanceRings, SeveralQueuesWorkAtOnce) {
  DeviceOptions options = options_with(64);
  options.queue_count = 4;
  open(options, {16 << 20, 16 << 20});
  constexpr std::size_t kEach = 32;
  std::vector<std::vector<Segment>> buffers(4);
  for (std::size_t number = 0; number < 4; ++number) {
    for (std::size_t index = 0; index < kEach; ++index) {
      const std::uint64_t sector = (number * kEach + index) * 16;
      buffers[number].push_back(client().stamped(kBytes, sector, 7));
      ASSERT_DONE(device().queue(number).submit({.type = VIRTIO_BLK_T_OUT,
                                                 .sector = sector,
                                                 .data = {&buffers[number][index], 1},
                                                 .tag = index}));
    }
  }
  for (std::size_t number = 0; number < 4; ++number) device().queue(number).publish();
  for (std::size_t number = 0; number < 4; ++number) {
    const auto completions = client().wait_for(kEach, number);
    ASSERT_DONE(completions);
    for (const Completion& completion : completions.value()) EXPECT_EQ(completion.status, kOk);
  }
  // Each queue reads what another one wrote.
  const Segment read = client().filled(kBytes);
  for (std::size_t number = 0; number < 4; ++number) {
    const std::size_t writer = (number + 1) % 4;
    const Result<int> status =
        client().run(VIRTIO_BLK_T_IN, (writer * kEach + 5) * 16, {&read, 1}, number);
    ASSERT_DONE(status);
    EXPECT_TRUE(std::ranges::equal(client().bytes(read), client().bytes(buffers[writer][5])));
  }
}

TEST_F(ConformanceRings, NoCallComesBeforeTheUsedEvent) {
  open(options_with(64));
  ASSERT_TRUE(device().has_feature(kFeatureEventIndex));
  ASSERT_EQ(client().check_works(), "");
  (void)queue().wait(Milliseconds(0));
  const std::uint16_t used = queue().used_index();
  queue().set_used_event(static_cast<std::uint16_t>(used + 3));  // a call for the fourth
  for (std::uint64_t count = 1; count <= 4; ++count) {
    ASSERT_DONE(
        queue().submit({.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = count}));
    queue().publish();
    const auto deadline = std::chrono::steady_clock::now() + Milliseconds(5000);
    while (queue().used_index() != static_cast<std::uint16_t>(used + count)) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "request " << count;
      std::this_thread::sleep_for(Milliseconds(1));
    }
    const Result<bool> called = queue().wait(Milliseconds(count < 4 ? 50 : 5000));
    ASSERT_DONE(called);
    EXPECT_EQ(called.value(), count == 4) << "request " << count;
  }
  EXPECT_DONE(client().wait_for(4));
}

TEST_F(ConformanceRings, NoCallComesWhenTheFlagForbidsIt) {
  DeviceOptions options = options_with(64);
  options.features &= ~bit(kFeatureEventIndex);
  open(options);
  ASSERT_EQ(client().check_works(), "");
  (void)queue().wait(Milliseconds(20));
  queue().set_available_flags(kAvailableNoInterrupt);
  ASSERT_DONE(queue().submit({.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = 1}));
  queue().publish();
  const Result<bool> called = queue().wait(Milliseconds(200));
  ASSERT_DONE(called);
  EXPECT_FALSE(called.value());
  EXPECT_TRUE(queue().has_completions());
  EXPECT_DONE(client().wait_for(1));
}

TEST_F(ConformanceRings, AQueueGoesOnWhereItStopped) {
  open();
  for (std::uint16_t round = 0; round < 20; ++round) {
    ASSERT_EQ(client().check_works(), "");
    const Result<std::uint16_t> base = device().stop_queue(0);
    ASSERT_DONE(base);
    EXPECT_EQ(base.value(), queue().available_index());
    ASSERT_DONE(queue().make_event_fds());
    ASSERT_DONE(device().start_queue(0, base.value()));
    ASSERT_DONE(device().enable_queue(0, true));
    const std::uint64_t number = 0;
    const int call = queue().call_fd();
    ASSERT_DONE(device().connection().send(kSetVringCall, bytes_of(number), {&call, 1}));
  }
}

TEST_F(ConformanceRings, ADeviceStopsAndStartsAsWhenTheGuestReboots) {
  open();
  for (int round = 0; round < 10; ++round) {
    ASSERT_EQ(client().check_works(), "");
    ASSERT_DONE(device().stop());
    ASSERT_DONE(device().start());
  }
  EXPECT_EQ(client().check_works(), "");
}

class HoldfastRings : public ConformanceRings {};

// qemu-storage-daemon 7.2 does not wait.
TEST_F(HoldfastRings, AStoppedQueueHasFinishedAllThatItTook) {
  open(options_with(128), {64 << 20});
  const Segment data = client().filled(65536, 0x12);
  for (int round = 0; round < 20; ++round) {
    constexpr std::uint16_t kCount = 40;
    const std::uint16_t before = queue().used_index();
    for (std::uint64_t index = 0; index < kCount; ++index) {
      ASSERT_DONE(queue().submit(
          {.type = VIRTIO_BLK_T_OUT, .sector = index * 128, .data = {&data, 1}, .tag = index}));
    }
    queue().publish();
    const Result<std::uint16_t> base = device().stop_queue(0);
    ASSERT_DONE(base);
    const auto finished = static_cast<std::uint16_t>(queue().used_index() - before);
    EXPECT_EQ(static_cast<std::uint16_t>(base.value() - before), finished);
    std::this_thread::sleep_for(Milliseconds(20));
    EXPECT_EQ(static_cast<std::uint16_t>(queue().used_index() - before), finished)
        << "it completed requests after it had stopped";
    ASSERT_DONE(queue().make_event_fds());
    ASSERT_DONE(device().start_queue(0, base.value()));
    ASSERT_DONE(device().enable_queue(0, true));
    const std::uint64_t number = 0;
    const int call = queue().call_fd();
    ASSERT_DONE(device().connection().send(kSetVringCall, bytes_of(number), {&call, 1}));
    ASSERT_DONE(client().wait_for(kCount));
  }
}

TEST_F(HoldfastRings, ADisabledQueueWaitsAndThenNeedsNoKick) {
  open();
  ASSERT_EQ(client().check_works(), "");
  ASSERT_DONE(device().enable_queue(0, false));
  ASSERT_DONE(device().connection().call_number(kGetFeatures));  // it has been heard
  ASSERT_DONE(queue().submit({.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = 1}));
  queue().publish();
  queue().kick();
  std::this_thread::sleep_for(Milliseconds(100));
  EXPECT_FALSE(queue().has_completions());
  ASSERT_DONE(device().enable_queue(0, true));
  EXPECT_DONE(client().wait_for(1));
}

TEST_F(HoldfastRings, WhatWasInFlightWhenTheConnectionBrokeCompletesOnce) {
  open(options_with(128), {64 << 20});
  ASSERT_TRUE(device().has_protocol_feature(kProtocolInflight));
  constexpr std::uint64_t kCount = 60;
  std::vector<Segment> buffers;
  for (std::uint64_t round = 1; round <= 30; ++round) {
    for (std::uint64_t index = 0; index < kCount; ++index) {
      const std::uint64_t sector = index * 32;
      if (round == 1) buffers.push_back(client().filled(16384));
      StampedDisk::fill(client().bytes(buffers[index]), sector, round);
      ASSERT_DONE(queue().submit({.type = VIRTIO_BLK_T_OUT,
                                  .sector = sector,
                                  .data = {&buffers[index], 1},
                                  .tag = index}));
    }
    queue().publish();
    std::this_thread::sleep_for(std::chrono::microseconds(round * 40));
    ASSERT_DONE(device().reconnect(Milliseconds(10'000)));
    const auto completions = client().wait_for(kCount);
    ASSERT_DONE(completions);
    std::vector<bool> seen(kCount);
    for (const Completion& completion : completions.value()) {
      EXPECT_EQ(completion.status, kOk);
      EXPECT_FALSE(seen[completion.tag]);
      seen[completion.tag] = true;
    }
    EXPECT_EQ(queue().in_flight(), 0U);
  }
  const Segment read = client().filled(16384);
  for (std::uint64_t index = 0; index < kCount; ++index) {
    ASSERT_EQ(run(VIRTIO_BLK_T_IN, index * 32, {read}), kOk);
    EXPECT_TRUE(std::ranges::equal(client().bytes(read), client().bytes(buffers[index])));
  }
}

// As if the server had died behind the store of the used index: the in-flight buffer still has the
// last batch. What it gave then it must not give again.
TEST_F(HoldfastRings, ABatchThatWasGivenButNotYetForgottenIsNotGivenAgain) {
  constexpr std::uint16_t kBatch = 3;
  open();
  for (std::uint64_t tag = 0; tag < kBatch; ++tag) {
    ASSERT_DONE(queue().submit({.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = tag}));
  }
  queue().publish();
  ASSERT_DONE(client().wait_for(kBatch));
  const std::uint16_t used = queue().used_index();
  ASSERT_GE(device().inflight_fd(), 0);

  // The layout of the specification: a header, then 16 bytes a descriptor.
  const InflightDescription& shape = device().inflight();
  void* mapped = mmap(nullptr, shape.bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                      device().inflight_fd(), static_cast<off_t>(shape.file_offset));
  ASSERT_NE(mapped, MAP_FAILED);
  auto* bytes = static_cast<std::byte*>(mapped);
  const auto put = [bytes](std::size_t at, std::uint16_t value) {
    std::memcpy(bytes + at, &value, sizeof value);
  };
  device().disconnect();
  put(14, static_cast<std::uint16_t>(used - kBatch));
  std::uint16_t previous = 0;
  for (std::uint16_t back = kBatch; back > 0; --back) {
    UsedElement element;
    const std::size_t position = static_cast<std::uint16_t>(used - back) % queue().options().size;
    std::memcpy(&element, client().memory().at(queue().used_address() + 4 + position * 8), 8);
    const std::size_t entry = 16 + element.id * std::size_t{16};
    bytes[entry] = std::byte{1};
    put(entry + 6, previous);
    previous = static_cast<std::uint16_t>(element.id);
  }
  put(12, previous);
  munmap(mapped, shape.bytes);

  ASSERT_DONE(device().reconnect(Milliseconds(10'000)));
  ASSERT_EQ(run(VIRTIO_BLK_T_FLUSH, 0, {}), kOk);
  std::this_thread::sleep_for(Milliseconds(50));
  EXPECT_EQ(queue().used_index(), static_cast<std::uint16_t>(used + 1));
  EXPECT_EQ(client().check_works(), "");
}

// As if the server had died between the used index and the call for it.
TEST_F(HoldfastRings, ACallThatWasLostIsMadeUpForAfterReconnecting) {
  for (int round = 0; round < 5; ++round) {
    open();
    const std::uint16_t before = queue().used_index();
    ASSERT_DONE(queue().submit({.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = 1}));
    queue().publish();
    const auto deadline = std::chrono::steady_clock::now() + Milliseconds(5000);
    while (queue().used_index() == before && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(Milliseconds(1));
    }
    ASSERT_TRUE(queue().has_completions());
    ASSERT_DONE(device().reconnect(Milliseconds(10'000)));  // with a new, silent call descriptor
    const Result<bool> called = queue().wait(Milliseconds(5000));
    ASSERT_DONE(called);
    EXPECT_TRUE(called.value());
    ASSERT_DONE(client().wait_for(1));
  }
}

}  // namespace
}  // namespace holdfast::vhost_frontend
