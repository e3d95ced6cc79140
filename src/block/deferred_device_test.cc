// SPDX-License-Identifier: Apache-2.0
#include "block/deferred_device.h"

#include <gtest/gtest.h>

#include <deque>
#include <vector>

#include "block/checked_device.h"
#include "block/memory_device.h"
#include "io/test_executor.h"

namespace holdfast {
namespace {

class DeferredDeviceTest : public testing::Test {
 protected:
  struct Io {
    BlockRequest request;
    std::vector<std::byte> memory;
    iovec vector{};
    bool done = false;
    BlockStatus status{};
  };

  static BlockDeviceInfo small_info() {
    BlockDeviceInfo info;
    info.name = "announced";
    info.size_bytes = 1 << 20;
    return info;
  }
  Io& submit(BlockOperation operation, std::uint64_t offset_bytes = 0, std::byte fill = {}) {
    Io& io = ios_.emplace_back();
    io.memory.assign(operation == BlockOperation::flush ? 0 : 4096, fill);
    io.vector = {io.memory.data(), io.memory.size()};
    io.request.operation = operation;
    io.request.offset_bytes = offset_bytes;
    io.request.length_bytes = io.memory.size();
    io.request.buffers = {&io.vector, io.memory.empty() ? 0u : 1u};
    io.request.context = &io;
    io.request.on_complete = [](BlockRequest& request, BlockStatus status) {
      auto& self = *static_cast<Io*>(request.context);
      self.done = true;
      self.status = status;
    };
    checked_.submit(io.request);
    return io;
  }
  std::vector<BlockExtent> block_status(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    std::vector<BlockExtent> extents;
    TaskScope scope;
    struct Ask {
      static Task<void> run(BlockDevice& device, std::uint64_t offset, std::uint64_t length,
                            std::vector<BlockExtent>& into) {
        Result<std::vector<BlockExtent>> result = co_await device.block_status(offset, length, 10);
        EXPECT_TRUE(result.ok());
        if (result.ok()) into = std::move(result).value();
      }
    };
    scope.spawn(Ask::run(checked_, offset_bytes, length_bytes, extents));
    executor_.run_until_idle();
    EXPECT_TRUE(scope.empty());
    return extents;
  }

  TestExecutor executor_;
  MemoryDevice memory_{executor_, {.name = "connected", .size_bytes = 2 << 20}};
  int wanted_ = 0;
  DeferredDevice deferred_{executor_, small_info(),
                           [](void* self) { ++static_cast<DeferredDeviceTest*>(self)->wanted_; },
                           this};
  CheckedDevice checked_{deferred_};
  std::deque<Io> ios_;
};

TEST_F(DeferredDeviceTest, RequestsWaitForHoursAndThenRunInTheirOrder) {
  Io& first = submit(BlockOperation::write, 0, std::byte{1});
  Io& second = submit(BlockOperation::write, 0, std::byte{2});
  Io& read = submit(BlockOperation::read, 0);
  Io& flush = submit(BlockOperation::flush);
  executor_.advance(std::chrono::hours(3));
  EXPECT_FALSE(first.done || second.done || read.done || flush.done);
  EXPECT_EQ(deferred_.waiting_count(), 4u);
  deferred_.connect(memory_);
  EXPECT_FALSE(first.done) << "never from inside a call";
  executor_.run_until_idle();
  EXPECT_TRUE(first.done && second.done && read.done && flush.done);
  EXPECT_EQ(read.status, BlockStatus::ok);
  EXPECT_EQ(read.memory[0], std::byte{2});
  EXPECT_EQ(deferred_.waiting_count(), 0u);
}

TEST_F(DeferredDeviceTest, TheOwnerIsToldOfTheFirstRequestOnceAndNotFromInsideIt) {
  executor_.run_until_idle();
  EXPECT_EQ(wanted_, 0);
  submit(BlockOperation::read);
  EXPECT_EQ(wanted_, 0);
  submit(BlockOperation::read);
  executor_.run_until_idle();
  EXPECT_EQ(wanted_, 1);
  submit(BlockOperation::read);
  executor_.run_until_idle();
  EXPECT_EQ(wanted_, 1);
  deferred_.connect(memory_);
  submit(BlockOperation::read);
  executor_.run_until_idle();
  EXPECT_EQ(wanted_, 1);
  // A virtual machine whose migration failed goes on where it was.
  deferred_.disconnect();
  submit(BlockOperation::read);
  executor_.run_until_idle();
  EXPECT_EQ(wanted_, 2);
  deferred_.connect(memory_);
  executor_.run_until_idle();
}

TEST_F(DeferredDeviceTest, NobodyIsToldOfARequestThatIsConnectedAtOnce) {
  submit(BlockOperation::read);
  deferred_.connect(memory_);
  executor_.run_until_idle();
  EXPECT_EQ(wanted_, 0);
}

TEST_F(DeferredDeviceTest, SaysWhatItWasToldAndThenWhatTheDeviceSays) {
  EXPECT_EQ(deferred_.info().name, "announced");
  deferred_.connect(memory_);
  EXPECT_EQ(deferred_.info().name, "connected");
  memory_.resize(4 << 20);
  EXPECT_EQ(deferred_.info().size_bytes, 4u << 20);
  deferred_.disconnect();
  deferred_.forget();
  EXPECT_EQ(deferred_.info().size_bytes, 4u << 20) << "what was true last";
}

TEST_F(DeferredDeviceTest, ACancelledRequestThatWaitsIsAnsweredAndNeverRuns) {
  Io& kept = submit(BlockOperation::write, 0, std::byte{1});
  Io& cancelled = submit(BlockOperation::write, 0, std::byte{2});
  checked_.cancel(cancelled.request);
  checked_.cancel(cancelled.request);
  EXPECT_FALSE(cancelled.done) << "never from inside the call";
  executor_.run_until_idle();
  EXPECT_TRUE(cancelled.done);
  EXPECT_EQ(cancelled.status, BlockStatus::cancelled);
  EXPECT_FALSE(kept.done);
  deferred_.connect(memory_);
  Io& read = submit(BlockOperation::read);
  executor_.run_until_idle();
  EXPECT_EQ(read.memory[0], std::byte{1});
}

TEST_F(DeferredDeviceTest, ARequestThatWasCancelledBeforeTheConnectionDoesNotReachTheDevice) {
  Io& cancelled = submit(BlockOperation::write, 0, std::byte{2});
  checked_.cancel(cancelled.request);
  deferred_.connect(memory_);
  executor_.run_until_idle();
  EXPECT_EQ(cancelled.status, BlockStatus::cancelled);
  EXPECT_EQ(memory_.operation_count(BlockOperation::write), 0u);
}

TEST_F(DeferredDeviceTest, ClosingAnswersWhatWaitsAndWhatComesLater) {
  Io& waiting = submit(BlockOperation::write);
  deferred_.close();
  EXPECT_FALSE(waiting.done) << "never from inside the call";
  executor_.run_until_idle();
  EXPECT_EQ(waiting.status, BlockStatus::shutting_down);
  EXPECT_EQ(wanted_, 0) << "too late to see about a device";
  Io& late = submit(BlockOperation::flush);
  EXPECT_FALSE(late.done);
  executor_.run_until_idle();
  EXPECT_EQ(late.status, BlockStatus::shutting_down);
  EXPECT_EQ(deferred_.waiting_count(), 0u);
}

TEST_F(DeferredDeviceTest, ClosingLeavesWhatTheDeviceHasToTheDevice) {
  deferred_.connect(memory_);
  memory_.hold();
  Io& in_device = submit(BlockOperation::write);
  deferred_.close();
  executor_.run_until_idle();
  EXPECT_FALSE(in_device.done);
  memory_.release();
  executor_.run_until_idle();
  EXPECT_EQ(in_device.status, BlockStatus::ok);
}

TEST_F(DeferredDeviceTest, AnAnswerMaySubmitAgain) {
  deferred_.close();
  struct Again {
    DeferredDevice& device;
    int left = 5;
    BlockRequest request;
    void go() {
      request.operation = BlockOperation::flush;
      request.context = this;
      request.on_complete = [](BlockRequest& done, BlockStatus status) {
        EXPECT_EQ(status, BlockStatus::shutting_down);
        auto& self = *static_cast<Again*>(done.context);
        if (--self.left != 0) self.go();
      };
      device.submit(request);
    }
  } again{deferred_, 5, {}};
  again.go();
  EXPECT_TRUE(executor_.run_until_idle(100));
  EXPECT_EQ(again.left, 0);
}

TEST_F(DeferredDeviceTest, AfterTheEndOfAConnectionNewRequestsWaitAndOldOnesAreTheDevices) {
  deferred_.connect(memory_);
  memory_.hold();
  Io& old_one = submit(BlockOperation::write, 0, std::byte{1});
  Io& cancelled = submit(BlockOperation::write, 4096, std::byte{1});
  deferred_.disconnect();
  Io& new_one = submit(BlockOperation::write, 0, std::byte{2});
  EXPECT_EQ(deferred_.waiting_count(), 1u);
  EXPECT_EQ(memory_.in_flight_count(), 2u);
  checked_.cancel(cancelled.request);
  executor_.run_until_idle();
  EXPECT_EQ(cancelled.status, BlockStatus::cancelled);
  memory_.release();
  executor_.run_until_idle();
  EXPECT_TRUE(old_one.done);
  EXPECT_FALSE(new_one.done);
  deferred_.forget();
  executor_.advance(std::chrono::hours(1));
  EXPECT_FALSE(new_one.done);
  EXPECT_EQ(memory_.operation_count(BlockOperation::write), 2u);
  // The same clients, another device.
  MemoryDevice other(executor_, {.name = "other", .size_bytes = 1 << 20});
  deferred_.connect(other);
  executor_.run_until_idle();
  EXPECT_EQ(new_one.status, BlockStatus::ok);
  EXPECT_EQ(other.operation_count(BlockOperation::write), 1u);
}

TEST_F(DeferredDeviceTest, SaysThatItHoldsWhileAnythingWaitsHereOrInTheDevice) {
  EXPECT_FALSE(deferred_.is_holding());
  submit(BlockOperation::write);
  EXPECT_TRUE(deferred_.is_holding());
  deferred_.connect(memory_);
  EXPECT_FALSE(deferred_.is_holding());
  memory_.set_holding(true);
  EXPECT_TRUE(deferred_.is_holding());
  deferred_.disconnect();
  EXPECT_TRUE(deferred_.is_holding()) << "what the device has may still be cancelled";
  deferred_.forget();
  EXPECT_FALSE(deferred_.is_holding());
  executor_.run_until_idle();
}

TEST_F(DeferredDeviceTest, ThereMayBeDataEverywhereUntilTheDeviceIsThere) {
  auto extents = block_status(4096, 8192);
  ASSERT_EQ(extents.size(), 1u);
  EXPECT_EQ(extents[0].length_bytes, 8192u);
  EXPECT_FALSE(extents[0].zero || extents[0].hole);
  EXPECT_EQ(wanted_, 0) << "a question that needs no device";
  deferred_.connect(memory_);
  extents = block_status(4096, 8192);
  ASSERT_EQ(extents.size(), 1u);
  EXPECT_TRUE(extents[0].zero && extents[0].hole);
  EXPECT_EQ(deferred_.status_call_count(), 0u);
}

TEST_F(DeferredDeviceTest, AQuestionThatIsUnderWayInTheDeviceIsCounted) {
  MemoryDevice slow(executor_, {.name = "slow", .size_bytes = 1 << 20, .delay = 5ms});
  deferred_.connect(slow);
  bool done = false;
  struct Ask {
    static Task<void> run(BlockDevice& device, bool& done) {
      Result<std::vector<BlockExtent>> result = co_await device.block_status(0, 4096, 1);
      EXPECT_TRUE(result.ok());
      done = true;
    }
  };
  TaskScope scope;
  scope.spawn(Ask::run(checked_, done));
  deferred_.disconnect();
  EXPECT_EQ(deferred_.status_call_count(), 1u);
  executor_.advance(5ms);
  EXPECT_TRUE(done);
  EXPECT_EQ(deferred_.status_call_count(), 0u);
  deferred_.forget();
}

}  // namespace
}  // namespace holdfast
