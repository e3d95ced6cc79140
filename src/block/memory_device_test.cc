// SPDX-License-Identifier: Apache-2.0
#include "block/memory_device.h"

#include <gtest/gtest.h>

#include <vector>

#include "io/test_executor.h"

namespace holdfast {
namespace {

class MemoryDeviceTest : public testing::Test {
 protected:
  struct Outcome {
    bool done = false;
    BlockStatus status{};
  };
  void submit(BlockRequest& request, Outcome& outcome) {
    request.context = &outcome;
    request.on_complete = [](BlockRequest& completed, BlockStatus status) {
      *static_cast<Outcome*>(completed.context) = {true, status};
    };
    device_.submit(request);
  }
  BlockStatus run(BlockOperation operation, std::uint64_t offset_bytes,
                  std::uint64_t length_bytes) {
    std::vector<std::byte> memory(length_bytes);
    const iovec vector{memory.data(), memory.size()};
    BlockRequest request;
    request.operation = operation;
    request.offset_bytes = offset_bytes;
    request.length_bytes = length_bytes;
    request.buffers = {&vector, 1};
    Outcome outcome;
    submit(request, outcome);
    EXPECT_TRUE(executor_.run_until([&] { return outcome.done; }));
    return outcome.status;
  }

  TestExecutor executor_;
  MemoryDevice device_{executor_, {.name = "m", .size_bytes = 1 << 20}};
};

TEST_F(MemoryDeviceTest, HoldsRequestsUntilReleased) {
  device_.hold();
  BlockRequest request;
  request.operation = BlockOperation::flush;
  Outcome outcome;
  submit(request, outcome);
  executor_.advance(std::chrono::hours(1));
  EXPECT_FALSE(outcome.done);
  EXPECT_EQ(device_.in_flight_count(), 1u);
  device_.release();
  executor_.run_until_idle();
  EXPECT_TRUE(outcome.done);
}

TEST_F(MemoryDeviceTest, FailsExactlyTheRangeItWasToldTo) {
  device_.fail_range(4096, 4096, BlockStatus::medium_error);
  EXPECT_EQ(run(BlockOperation::read, 0, 4096), BlockStatus::ok);
  EXPECT_EQ(run(BlockOperation::read, 0, 4097), BlockStatus::medium_error);
  EXPECT_EQ(run(BlockOperation::write, 8191, 1), BlockStatus::medium_error);
  EXPECT_EQ(run(BlockOperation::write, 8192, 1), BlockStatus::ok);
  device_.fail_range(0, 0, BlockStatus::ok);
  EXPECT_EQ(run(BlockOperation::read, 4096, 1), BlockStatus::ok);
}

TEST_F(MemoryDeviceTest, ShrinkingForgetsWhatLiesBehindTheEnd) {
  EXPECT_EQ(run(BlockOperation::write, (1 << 20) - 4096, 4096), BlockStatus::ok);
  EXPECT_EQ(device_.allocated_block_count(), 1u);
  device_.resize(4096);
  EXPECT_EQ(run(BlockOperation::read, 4096, 1), BlockStatus::out_of_range);
  device_.resize(1 << 20);
  EXPECT_EQ(device_.allocated_block_count(), 0u);
}

TEST_F(MemoryDeviceTest, ReadOnlyDeviceRefusesToChange) {
  MemoryDevice device(executor_, {.name = "r", .size_bytes = 4096, .read_only = true});
  EXPECT_TRUE(device.info().read_only);
  BlockRequest request;
  request.operation = BlockOperation::discard;
  request.length_bytes = 4096;
  Outcome outcome;
  request.context = &outcome;
  request.on_complete = [](BlockRequest& completed, BlockStatus status) {
    *static_cast<Outcome*>(completed.context) = {true, status};
  };
  device.submit(request);
  executor_.run_until_idle();
  EXPECT_EQ(outcome.status, BlockStatus::read_only);
}

}  // namespace
}  // namespace holdfast
