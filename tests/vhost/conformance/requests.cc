// SPDX-License-Identifier: Apache-2.0
//
// What requests do, whatever their layout in the ring.
#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>

#include "vhost/conformance/fixture.h"

namespace holdfast::vhost_frontend {
namespace {

constexpr int kOk = VIRTIO_BLK_S_OK;
constexpr int kIoError = VIRTIO_BLK_S_IOERR;
constexpr int kUnsupported = VIRTIO_BLK_S_UNSUPP;

class ConformanceRequests : public ConformanceTest {
 protected:
  void SetUp() override { open(); }

  // All bytes of the range have this value.
  void expect_bytes(std::uint64_t sector, std::uint64_t count, std::uint8_t value) {
    const Segment read = client().filled(count * 512, 0x5e);
    ASSERT_EQ(run(VIRTIO_BLK_T_IN, sector, {read}), kOk);
    const auto bytes = client().bytes(read);
    const auto wrong = std::find_if(bytes.begin(), bytes.end(),
                                    [value](std::byte byte) { return byte != std::byte{value}; });
    EXPECT_EQ(wrong - bytes.begin(), static_cast<std::ptrdiff_t>(bytes.size()));
  }
  std::uint64_t capacity() { return device().config().capacity; }
};

TEST_F(ConformanceRequests, ReadBackWhatWasWrittenAtAnySectorAndLength) {
  for (const std::uint64_t bytes : {512U, 1536U, 4096U, 4608U, 65536U, 1U << 20U}) {
    for (const std::uint64_t sector : {0U, 1U, 7U, 8U, 63U, 2047U}) {
      const Segment written = client().stamped(bytes, sector, bytes + sector);
      const Segment read = client().filled(bytes, 0xee);
      ASSERT_EQ(run(VIRTIO_BLK_T_OUT, sector, {written}), kOk);
      ASSERT_EQ(run(VIRTIO_BLK_T_IN, sector, {read}), kOk);
      ASSERT_TRUE(std::ranges::equal(client().bytes(written), client().bytes(read)))
          << bytes << " bytes at sector " << sector;
      open();  // which also shows that the next client sees them
      const Segment again = client().filled(bytes, 0xdd);
      ASSERT_EQ(run(VIRTIO_BLK_T_IN, sector, {again}), kOk);
      const Segment expected = client().stamped(bytes, sector, bytes + sector);
      ASSERT_TRUE(std::ranges::equal(client().bytes(expected), client().bytes(again)));
    }
  }
}

TEST_F(ConformanceRequests, AWriteLeavesItsNeighboursAlone) {
  const Segment zeros = client().filled(64 * 512, 0x11);
  ASSERT_EQ(run(VIRTIO_BLK_T_OUT, 0, {zeros}), kOk);
  ASSERT_EQ(run(VIRTIO_BLK_T_OUT, 13, {client().filled(3 * 512, 0x22)}), kOk);
  expect_bytes(0, 13, 0x11);
  expect_bytes(13, 3, 0x22);
  expect_bytes(16, 48, 0x11);
}

TEST_F(ConformanceRequests, AReadWritesNothingBesideItsBuffer) {
  const Segment guarded = client().filled(3 * 512, 0x77);
  const Segment middle = {guarded.guest_address + 512, 512};
  ASSERT_EQ(run(VIRTIO_BLK_T_OUT, 5, {client().filled(512, 0x33)}), kOk);
  ASSERT_EQ(run(VIRTIO_BLK_T_IN, 5, {middle}), kOk);
  const auto bytes = client().bytes(guarded);
  for (std::size_t index = 0; index < bytes.size(); ++index) {
    ASSERT_EQ(std::to_integer<int>(bytes[index]), index / 512 == 1 ? 0x33 : 0x77) << index;
  }
}

TEST_F(ConformanceRequests, TheLastSectorCanBeWrittenAndRead) {
  ASSERT_EQ(run(VIRTIO_BLK_T_OUT, capacity() - 1, {client().filled(512, 0x44)}), kOk);
  expect_bytes(capacity() - 1, 1, 0x44);
}

TEST_F(ConformanceRequests, WhatReachesBeyondTheEndFails) {
  const Segment two = client().filled(1024);
  for (const std::uint64_t sector :
       {capacity() - 1, capacity(), capacity() + 1, ~std::uint64_t{0}, ~std::uint64_t{0} - 1,
        std::uint64_t{1} << 63U, std::uint64_t{1} << 55U, (std::uint64_t{1} << 55U) - 1}) {
    EXPECT_EQ(run(VIRTIO_BLK_T_IN, sector, {two}), kIoError) << sector;
    EXPECT_EQ(run(VIRTIO_BLK_T_OUT, sector, {two}), kIoError) << sector;
  }
  EXPECT_EQ(client().check_works(), "");
}

TEST_F(ConformanceRequests, ALengthThatIsNotWholeSectorsFails) {
  for (const std::uint64_t bytes : {1U, 511U, 513U, 4095U}) {
    EXPECT_EQ(run(VIRTIO_BLK_T_IN, 0, {client().filled(bytes)}), kIoError) << bytes;
    EXPECT_EQ(run(VIRTIO_BLK_T_OUT, 0, {client().filled(bytes)}), kIoError) << bytes;
  }
  EXPECT_EQ(client().check_works(), "");
}

TEST_F(ConformanceRequests, AnEmptyReadOrWriteIsAnswered) {
  EXPECT_GE(run(VIRTIO_BLK_T_IN, 0, {}), 0);
  EXPECT_GE(run(VIRTIO_BLK_T_OUT, 0, {}), 0);
  EXPECT_EQ(client().check_works(), "");
}

TEST_F(ConformanceRequests, AFlushCompletes) {
  EXPECT_EQ(run(VIRTIO_BLK_T_FLUSH, 0, {}), kOk);
}

TEST_F(ConformanceRequests, TheIdIsAStringOfAtMostTwentyBytes) {
  const Segment id = client().filled(VIRTIO_BLK_ID_BYTES, 0xff);
  ASSERT_EQ(run(VIRTIO_BLK_T_GET_ID, 0, {id}), kOk);
  EXPECT_NE(client().bytes(id)[0], std::byte{0});
  for (const std::byte byte : client().bytes(id)) {
    const int character = std::to_integer<int>(byte);
    if (character == 0) break;  // what follows the end is not said
    EXPECT_TRUE(std::isprint(character) != 0) << character;
  }
}

TEST_F(ConformanceRequests, AnUnknownTypeIsUnsupported) {
  for (const std::uint32_t type : {2U, 3U, 77U, 0x7fff'fffeU, 0xffff'ffffU}) {
    EXPECT_EQ(run(type, 0, {}), kUnsupported) << type;
    EXPECT_EQ(run(type, 0, {client().filled(512)}), kUnsupported) << type;
  }
  EXPECT_EQ(client().check_works(), "");
}

TEST_F(ConformanceRequests, WriteZeroesZeroesExactlyItsRange) {
  for (const std::uint32_t flags : {0U, unsigned{VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP}}) {
    ASSERT_EQ(run(VIRTIO_BLK_T_OUT, 0, {client().filled(64 * 512, 0x66)}), kOk);
    const Result<int> status = client().run_ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{5, 30, flags}});
    ASSERT_DONE(status);
    ASSERT_EQ(status.value(), kOk);
    expect_bytes(0, 5, 0x66);
    expect_bytes(5, 30, 0);
    expect_bytes(35, 29, 0x66);
  }
}

TEST_F(ConformanceRequests, ADiscardLeavesItsNeighboursAlone) {
  ASSERT_EQ(run(VIRTIO_BLK_T_OUT, 0, {client().filled(64 * 512, 0x66)}), kOk);
  const Result<int> status = client().run_ranges(VIRTIO_BLK_T_DISCARD, {{8, 16, 0}});
  ASSERT_DONE(status);
  EXPECT_EQ(status.value(), kOk);
  expect_bytes(0, 8, 0x66);
  expect_bytes(24, 40, 0x66);
}

TEST_F(ConformanceRequests, DiscardsAndZeroesThatMakeNoSenseFail) {
  const std::uint32_t most = device().config().max_write_zeroes_sectors;
  for (const std::uint32_t type : {VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES}) {
    const virtio_blk_discard_write_zeroes wrong[] = {
        {capacity(), 1, 0},        {capacity() - 1, 2, 0},
        {~std::uint64_t{0}, 1, 0}, {~std::uint64_t{0} - 7, 8, 0},
        {0, 0xffff'ffff, 0},       {0, 8, 2},  // an unknown flag
        {0, 8, 0xffff'ffff},
    };
    for (const auto& range : wrong) {
      if (range.num_sectors == 0xffff'ffff && most == 0xffff'ffff) continue;
      const Result<int> status = client().run_ranges(type, {range});
      ASSERT_DONE(status);
      EXPECT_EQ(status.value(), range.flags != 0 ? kUnsupported : kIoError)
          << type << ": " << range.num_sectors << " at " << range.sector << " flags "
          << range.flags;
    }
    EXPECT_NE(run(type, 0, {client().filled(15)}), kOk);
    EXPECT_NE(run(type, 0, {client().filled(17)}), kOk);
  }
  const Result<int> unmap = client().run_ranges(VIRTIO_BLK_T_DISCARD, {{0, 8, 1}});
  ASSERT_DONE(unmap);
  EXPECT_EQ(unmap.value(), kUnsupported);  // the specification: only for write-zeroes
  EXPECT_EQ(client().check_works(), "");
}

class HoldfastRequests : public ConformanceRequests {};

TEST_F(HoldfastRequests, DiscardedSectorsReadAsZeros) {
  ASSERT_EQ(run(VIRTIO_BLK_T_OUT, 0, {client().filled(64 * 512, 0x66)}), kOk);
  const Result<int> status = client().run_ranges(VIRTIO_BLK_T_DISCARD, {{8, 16, 0}});
  ASSERT_DONE(status);
  expect_bytes(8, 16, 0);
}

TEST_F(HoldfastRequests, SeveralRangesInOneRequestAreAllDone) {
  if (device().config().max_write_zeroes_seg > 1) {
    ASSERT_EQ(run(VIRTIO_BLK_T_OUT, 0, {client().filled(64 * 512, 0x66)}), kOk);
    const Result<int> status =
        client().run_ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{3, 2, 0}, {40, 9, 1}});
    ASSERT_DONE(status);
    ASSERT_EQ(status.value(), kOk);
    expect_bytes(0, 3, 0x66);
    expect_bytes(3, 2, 0);
    expect_bytes(5, 35, 0x66);
    expect_bytes(40, 9, 0);
    expect_bytes(49, 15, 0x66);
  }
  // One more range than allowed is refused as a whole.
  std::vector<virtio_blk_discard_write_zeroes> ranges(device().config().max_discard_seg + 1,
                                                      {0, 8, 0});
  const std::uint64_t bytes = ranges.size() * sizeof ranges[0];
  ASSERT_LT(bytes, 65536U);
  const Segment payload = client().filled(bytes);
  std::memcpy(client().bytes(payload).data(), ranges.data(), bytes);
  EXPECT_EQ(run(VIRTIO_BLK_T_DISCARD, 0, {payload}), kIoError);
}

class ReadOnly : public ConformanceTest {};

TEST_F(ReadOnly, RefusesToChangeAnything) {
  open(Client::default_options("VHOST_READ_ONLY_SOCKET"));
  EXPECT_TRUE(device().has_feature(VIRTIO_BLK_F_RO));
  const Segment read = client().filled(4096, 0x11);
  EXPECT_EQ(run(VIRTIO_BLK_T_IN, 0, {read}), kOk);
  EXPECT_EQ(run(VIRTIO_BLK_T_OUT, 0, {client().filled(4096)}), kIoError);
  for (const std::uint32_t type : {VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES}) {
    const Result<int> status = client().run_ranges(type, {{0, 8, 0}});
    ASSERT_DONE(status);
    EXPECT_NE(status.value(), kOk);
  }
  EXPECT_EQ(run(VIRTIO_BLK_T_FLUSH, 0, {}), kOk);
}

}  // namespace
}  // namespace holdfast::vhost_frontend
