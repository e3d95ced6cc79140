// SPDX-License-Identifier: Apache-2.0
//
// The contract of block_device.h as a test suite that every block device runs:
//
//   INSTANTIATE_TEST_SUITE_P(Name, BlockDeviceContract, testing::Values(make_harness));
//
// The device of a harness has kContractDeviceBytes, is writable and reads as zeros at first. Every
// request goes through a CheckedDevice.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "base/units.h"
#include "block/block_device.h"
#include "block/checked_device.h"
#include "io/task.h"

namespace holdfast {

inline constexpr std::uint64_t kContractDeviceBytes = 8 * kMiB + 512;

class BlockDeviceHarness {
 public:
  virtual ~BlockDeviceHarness() = default;
  virtual BlockDevice& device() = 0;
  virtual void run_until(const std::function<bool()>& done) = 0;
  // What was never written is said to be zero, always.
  virtual bool knows_zeros() const { return true; }
};

using BlockDeviceHarnessMaker = std::function<std::unique_ptr<BlockDeviceHarness>()>;

class BlockDeviceContract : public testing::TestWithParam<BlockDeviceHarnessMaker> {
 protected:
  using Data = std::vector<std::byte>;
  // A request with its memory. Stays where it is while in flight.
  struct Io {
    BlockRequest request;
    Data memory;
    std::vector<iovec> vectors;
    bool done = false;
    BlockStatus status{};
  };

  BlockDeviceContract()
      : harness_(GetParam()()), device_(std::make_unique<CheckedDevice>(harness_->device())) {}

  static void prepare(Io& io, BlockOperation operation, std::uint64_t offset_bytes,
                      std::uint64_t length_bytes, Data data = {}) {
    io.request.operation = operation;
    io.request.offset_bytes = offset_bytes;
    io.request.length_bytes = length_bytes;
    io.memory = std::move(data);
    if (operation == BlockOperation::read) io.memory.assign(length_bytes, std::byte{0xEE});
    if (!io.memory.empty()) io.vectors = {{io.memory.data(), io.memory.size()}};
    io.request.buffers = io.vectors;
    io.request.context = &io;
    io.request.on_complete = [](BlockRequest& request, BlockStatus status) {
      auto& self = *static_cast<Io*>(request.context);
      self.done = true;
      self.status = status;
    };
  }
  BlockStatus run(Io& io) {
    device_->submit(io.request);
    harness_->run_until([&] { return io.done; });
    return io.status;
  }
  BlockStatus run(BlockOperation operation, std::uint64_t offset_bytes = 0,
                  std::uint64_t length_bytes = 0) {
    Io io;
    Data data;
    if (operation == BlockOperation::write) data = random_data(length_bytes);
    prepare(io, operation, offset_bytes, length_bytes, std::move(data));
    return run(io);
  }
  BlockStatus write(std::uint64_t offset_bytes, const Data& data, bool force_unit_access = false) {
    Io io;
    prepare(io, BlockOperation::write, offset_bytes, data.size(), data);
    io.request.force_unit_access = force_unit_access;
    return run(io);
  }
  Data read(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    Io io;
    prepare(io, BlockOperation::read, offset_bytes, length_bytes);
    EXPECT_EQ(run(io), BlockStatus::ok);
    return std::move(io.memory);
  }
  std::vector<BlockExtent> block_status(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                        std::size_t extents_max) {
    std::vector<BlockExtent> extents;
    bool done = false;
    TaskScope scope;
    scope.spawn(store_status(*device_, offset_bytes, length_bytes, extents_max, extents, done));
    harness_->run_until([&] { return done; });
    return extents;
  }
  Data random_data(std::size_t count) {
    Data data(count);
    for (std::byte& byte : data) byte = static_cast<std::byte>(random_());
    return data;
  }

  std::unique_ptr<BlockDeviceHarness> harness_;
  std::unique_ptr<CheckedDevice> device_;
  std::mt19937_64 random_{1};

 private:
  static Task<void> store_status(BlockDevice& device, std::uint64_t offset_bytes,
                                 std::uint64_t length_bytes, std::size_t extents_max,
                                 std::vector<BlockExtent>& extents, bool& done) {
    Result<std::vector<BlockExtent>> result =
        co_await device.block_status(offset_bytes, length_bytes, extents_max);
    EXPECT_TRUE(result.ok());
    if (result.ok()) extents = std::move(result).value();
    done = true;
  }
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BlockDeviceContract);

// Whatever a device makes of cancel(): each request completes once, and what was said to be done is
// done.
TEST_P(BlockDeviceContract, ACancelledRequestCompletesAndMayBeSubmittedAgain) {
  const Data before = random_data(64 * kKiB);
  const Data after = random_data(before.size());
  ASSERT_EQ(write(0, before), BlockStatus::ok);
  std::deque<Io> writes(16);
  std::deque<Io> reads(16);
  const std::size_t piece = before.size() / writes.size();
  for (std::size_t i = 0; i < writes.size(); ++i) {
    const auto at = after.begin() + static_cast<std::ptrdiff_t>(i * piece);
    prepare(writes[i], BlockOperation::write, i * piece, piece,
            Data(at, at + static_cast<std::ptrdiff_t>(piece)));
    prepare(reads[i], BlockOperation::read, i * piece, piece);
    device_->submit(writes[i].request);
    device_->submit(reads[i].request);
  }
  for (std::size_t i = 0; i < writes.size(); i += 2) {
    device_->cancel(writes[i].request);
    device_->cancel(reads[i].request);
  }
  harness_->run_until([&] { return device_->in_flight_count() == 0; });
  for (std::size_t i = 0; i < writes.size(); ++i) {
    ASSERT_TRUE(writes[i].done && reads[i].done);
    if (i % 2 == 1) {
      EXPECT_EQ(writes[i].status, BlockStatus::ok);
      continue;
    }
    EXPECT_TRUE(writes[i].status == BlockStatus::ok || writes[i].status == BlockStatus::cancelled);
    writes[i].done = false;
    EXPECT_EQ(run(writes[i]), BlockStatus::ok);
  }
  EXPECT_EQ(read(0, after.size()), after);
}

TEST_P(BlockDeviceContract, UnwrittenSpaceReadsAsZeros) {
  EXPECT_EQ(read(0, 10'000), Data(10'000));
  EXPECT_EQ(read(kContractDeviceBytes - 512, 512), Data(512));
}

TEST_P(BlockDeviceContract, ReadsReturnTheLastWriteAtAnyAlignment) {
  Data model(kContractDeviceBytes);
  for (int i = 0; i < 200; ++i) {
    constexpr std::uint64_t kLengths[] = {1, 511, 512, 4096, 5000, 65'536, 300'000};
    const std::uint64_t length = kLengths[random_() % std::size(kLengths)];
    std::uint64_t offset = random_() % (kContractDeviceBytes - length + 1);
    if (i % 2 == 0) offset = round_down(offset, kBlockBytes);
    const Data data = random_data(length);
    ASSERT_EQ(write(offset, data), BlockStatus::ok);
    std::copy(data.begin(), data.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
    const std::uint64_t from = offset - std::min<std::uint64_t>(offset, 700);
    const std::uint64_t count = std::min<std::uint64_t>(length + 1400, kContractDeviceBytes - from);
    const auto begin = model.begin() + static_cast<std::ptrdiff_t>(from);
    ASSERT_EQ(read(from, count), Data(begin, begin + static_cast<std::ptrdiff_t>(count))) << i;
  }
}

TEST_P(BlockDeviceContract, BuffersMayBeInManyPieces) {
  const Data data = random_data(20'000);
  Io io;
  prepare(io, BlockOperation::write, 1000, data.size(), data);
  io.vectors.clear();
  for (std::size_t at = 0; at < data.size();) {
    const std::size_t count = std::min<std::size_t>(1 + random_() % 3000, data.size() - at);
    io.vectors.push_back({io.memory.data() + at, count});
    at += count;
  }
  io.request.buffers = io.vectors;
  EXPECT_EQ(run(io), BlockStatus::ok);
  EXPECT_EQ(read(1000, data.size()), data);
}

TEST_P(BlockDeviceContract, ManyRequestsInFlightAllComplete) {
  std::deque<Io> all(300);
  std::uint64_t offset = 0;
  for (Io& io : all) {
    prepare(io, BlockOperation::write, offset, 8192, random_data(8192));
    offset += 8192;
    device_->submit(io.request);
  }
  harness_->run_until(
      [&] { return std::all_of(all.begin(), all.end(), [](const Io& io) { return io.done; }); });
  offset = 0;
  for (const Io& io : all) {
    ASSERT_EQ(io.status, BlockStatus::ok);
    ASSERT_EQ(read(offset, 8192), io.memory);
    offset += 8192;
  }
}

TEST_P(BlockDeviceContract, FlushAndForceUnitAccessComplete) {
  EXPECT_EQ(run(BlockOperation::flush), BlockStatus::ok);
  const Data data = random_data(4096);
  EXPECT_EQ(write(4096, data, true), BlockStatus::ok);
  EXPECT_EQ(run(BlockOperation::flush), BlockStatus::ok);
  EXPECT_EQ(read(4096, 4096), data);
}

TEST_P(BlockDeviceContract, WriteZeroesReadsAsZerosAtAnyAlignment) {
  Data model = random_data(200'000);
  EXPECT_EQ(write(0, model), BlockStatus::ok);
  for (const bool keep : {false, true}) {
    Io io;
    prepare(io, BlockOperation::write_zeroes, 5000, keep ? 50'000 : 100'000);
    io.request.keep_allocated = keep;
    EXPECT_EQ(run(io), BlockStatus::ok);
  }
  std::fill(model.begin() + 5000, model.begin() + 105'000, std::byte{0});
  EXPECT_EQ(read(0, model.size()), model);
}

TEST_P(BlockDeviceContract, DiscardLeavesWhatIsOutsideAlone) {
  const Data data = random_data(100'000);
  EXPECT_EQ(write(0, data), BlockStatus::ok);
  EXPECT_EQ(run(BlockOperation::discard, 10'000, 50'000), BlockStatus::ok);
  EXPECT_EQ(read(0, 10'000), Data(data.begin(), data.begin() + 10'000));
  EXPECT_EQ(read(60'000, 40'000), Data(data.begin() + 60'000, data.end()));
}

TEST_P(BlockDeviceContract, NothingReachesBeyondTheEnd) {
  const std::uint64_t size = kContractDeviceBytes;
  for (const BlockOperation operation : {BlockOperation::read, BlockOperation::write,
                                         BlockOperation::discard, BlockOperation::write_zeroes}) {
    EXPECT_EQ(run(operation, size - 511, 512), BlockStatus::out_of_range);
    EXPECT_EQ(run(operation, size + 1, 1), BlockStatus::out_of_range);
    EXPECT_EQ(run(operation, ~std::uint64_t{0} - 10, 512), BlockStatus::out_of_range);
    EXPECT_EQ(run(operation, size - 512, 512), BlockStatus::ok);
  }
}

TEST_P(BlockDeviceContract, RequestsOfNothingSucceed) {
  for (const BlockOperation operation : {BlockOperation::read, BlockOperation::write,
                                         BlockOperation::discard, BlockOperation::write_zeroes}) {
    EXPECT_EQ(run(operation, 4096, 0), BlockStatus::ok);
  }
}

// CheckedDevice holds each answer to the form; this is about what it says.
TEST_P(BlockDeviceContract, BlockStatusNeverCallsDataZero) {
  EXPECT_EQ(write(64 * kKiB, random_data(64 * kKiB)), BlockStatus::ok);
  EXPECT_EQ(write(256 * kKiB + 100, random_data(1)), BlockStatus::ok);
  for (const std::size_t extents_max : {1u, 2u, 1000u}) {
    std::uint64_t offset = 0;
    while (offset < kContractDeviceBytes) {
      const auto extents = block_status(offset, kContractDeviceBytes - offset, extents_max);
      ASSERT_FALSE(extents.empty());
      for (const BlockExtent& extent : extents) {
        if (extent.zero) {
          ASSERT_EQ(read(offset, extent.length_bytes), Data(extent.length_bytes)) << offset;
        }
        offset += extent.length_bytes;
      }
    }
    EXPECT_EQ(offset, kContractDeviceBytes);
  }
  EXPECT_FALSE(block_status(64 * kKiB, 4096, 1)[0].zero);
  if (harness_->knows_zeros()) {
    EXPECT_TRUE(block_status(kMiB, kMiB, 1)[0].zero);
  }
}

}  // namespace holdfast
