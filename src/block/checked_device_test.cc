// SPDX-License-Identifier: Apache-2.0
//
// CheckedDevice must notice every way to break the contract.
#include "block/checked_device.h"

#include <gtest/gtest.h>

#include <functional>
#include <utility>

#include "io/test_executor.h"

namespace holdfast {
namespace {

// Does what the test says, right or wrong.
class ScriptedDevice final : public BlockDevice {
 public:
  ScriptedDevice() { info_.size_bytes = 1 << 20; }
  const BlockDeviceInfo& info() const override { return info_; }
  void submit(BlockRequest& request) override { on_submit(request); }
  void cancel(BlockRequest& request) override { on_cancel(request); }
  Task<Result<std::vector<BlockExtent>>> block_status(std::uint64_t, std::uint64_t,
                                                      std::size_t) override {
    co_return extents;
  }

  BlockDeviceInfo info_;
  std::function<void(BlockRequest&)> on_submit = [](BlockRequest&) {};
  std::function<void(BlockRequest&)> on_cancel = [](BlockRequest&) {};
  std::vector<BlockExtent> extents;
};

class CheckedDeviceDeathTest : public testing::Test {
 protected:
  CheckedDeviceDeathTest() {
    GTEST_FLAG_SET(death_test_style, "fast");
    request_.operation = BlockOperation::write;
    request_.length_bytes = sizeof memory_;
    request_.buffers = {&vector_, 1};
    request_.context = this;
    request_.on_complete = [](BlockRequest& request, BlockStatus status) {
      auto* self = static_cast<CheckedDeviceDeathTest*>(request.context);
      ++self->completions_;
      self->status_ = status;
    };
  }
  static void complete(BlockRequest& request, BlockStatus status = BlockStatus::ok) {
    request.on_complete(request, status);
  }
  void submit_and_complete(BlockStatus status) {
    checked_.submit(request_);
    complete(request_, status);
  }
  void ask_status(std::vector<BlockExtent> extents, std::size_t extents_max = 2) {
    device_.extents = std::move(extents);
    TaskScope scope;
    scope.spawn(ask(checked_, extents_max));
  }
  static Task<void> ask(CheckedDevice& device, std::size_t extents_max) {
    Result<std::vector<BlockExtent>> result = co_await device.block_status(0, 8192, extents_max);
    EXPECT_TRUE(result.ok());
  }

  ScriptedDevice device_;
  CheckedDevice checked_{device_};
  std::byte memory_[512] = {};
  iovec vector_{memory_, sizeof memory_};
  BlockRequest request_;
  int completions_ = 0;
  BlockStatus status_{};
};

TEST_F(CheckedDeviceDeathTest, PassesOnWhatIsRight) {
  submit_and_complete(BlockStatus::medium_error);
  EXPECT_EQ(completions_, 1);
  EXPECT_EQ(status_, BlockStatus::medium_error);
  EXPECT_EQ(checked_.in_flight_count(), 0u);
  submit_and_complete(BlockStatus::ok);
  EXPECT_EQ(completions_, 2);
  ask_status({{4096, true, true}, {4096, false, false}});
}

TEST_F(CheckedDeviceDeathTest, PassesOnCancelsAsOftenAsTheyCome) {
  int cancels = 0;
  device_.on_cancel = [&](BlockRequest& request) { cancels += &request == &request_ ? 1 : 0; };
  checked_.submit(request_);
  checked_.cancel(request_);
  checked_.cancel(request_);
  EXPECT_EQ(cancels, 2);
  complete(request_, BlockStatus::cancelled);
  EXPECT_EQ(status_, BlockStatus::cancelled);
  submit_and_complete(BlockStatus::ok);
  EXPECT_EQ(completions_, 2);
}

TEST_F(CheckedDeviceDeathTest, CatchesWrongCancels) {
  EXPECT_DEATH(checked_.cancel(request_), "in_flight_.end");
  EXPECT_DEATH(submit_and_complete(BlockStatus::cancelled), "is_cancelled");
  EXPECT_DEATH(
      {
        device_.on_cancel = [](BlockRequest& request) {
          complete(request, BlockStatus::cancelled);
        };
        checked_.submit(request_);
        checked_.cancel(request_);
      },
      "!self->calling_");
}

TEST_F(CheckedDeviceDeathTest, CatchesFrontends) {
  EXPECT_DEATH(
      {
        request_.length_bytes = 511;
        checked_.submit(request_);
      },
      "buffer_bytes == request.length_bytes");
  EXPECT_DEATH(
      {
        request_.on_complete = nullptr;
        checked_.submit(request_);
      },
      "on_complete");
  EXPECT_DEATH(
      {
        checked_.submit(request_);
        checked_.submit(request_);
      },
      "is_new");
  EXPECT_DEATH(
      {
        checked_.submit(request_);
        request_.offset_bytes = 7;
        complete(request_);
      },
      "offset_bytes");
}

TEST_F(CheckedDeviceDeathTest, CatchesDevices) {
  EXPECT_DEATH(
      {
        device_.on_submit = [](BlockRequest& request) { complete(request); };
        checked_.submit(request_);
      },
      "!self->calling_");
  EXPECT_DEATH(
      {
        request_.offset_bytes = 1 << 20;
        submit_and_complete(BlockStatus::ok);
      },
      "is_inside");
  EXPECT_DEATH(
      {
        device_.info_.read_only = true;
        submit_and_complete(BlockStatus::ok);
      },
      "read_only");
  EXPECT_DEATH(
      {
        CheckedDevice dying(device_);
        dying.submit(request_);
      },
      "in_flight_.empty");
}

TEST_F(CheckedDeviceDeathTest, CatchesWrongExtents) {
  EXPECT_DEATH(ask_status({}), "extents");
  EXPECT_DEATH(ask_status({{4096, true, true}, {4096, false, false}}, 1), "extents");
  EXPECT_DEATH(ask_status({{0, true, true}}), "length_bytes != 0");
  EXPECT_DEATH(ask_status({{4096, true, true}, {4096, true, true}}), "extents");
  EXPECT_DEATH(ask_status({{8193, true, true}}), "covered_bytes");
}

}  // namespace
}  // namespace holdfast
