// SPDX-License-Identifier: Apache-2.0
//
// The contract suite for the devices of this folder, in virtual time.
#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "block/deferred_device.h"
#include "block/memory_device.h"
#include "block/testing_contract.h"
#include "io/test_executor.h"

namespace holdfast {
namespace {

class MemoryDeviceHarness : public BlockDeviceHarness {
 public:
  explicit MemoryDeviceHarness(Duration delay)
      : device_(executor_, {.name = "m", .size_bytes = kContractDeviceBytes, .delay = delay}) {}
  BlockDevice& device() override { return device_; }
  void run_until(const std::function<bool()>& done) override {
    ASSERT_TRUE(executor_.run_until(done));
  }

 private:
  TestExecutor executor_;
  MemoryDevice device_;
};

INSTANTIATE_TEST_SUITE_P(Memory, BlockDeviceContract, testing::Values([] {
                           return std::unique_ptr<BlockDeviceHarness>(
                               new MemoryDeviceHarness(Duration{0}));
                         }));
INSTANTIATE_TEST_SUITE_P(SlowMemory, BlockDeviceContract, testing::Values([] {
                           return std::unique_ptr<BlockDeviceHarness>(new MemoryDeviceHarness(5ms));
                         }));

BlockDeviceInfo contract_info() {
  BlockDeviceInfo info;
  info.name = "m";
  info.size_bytes = kContractDeviceBytes;
  return info;
}

// Connected before anything is asked for; some time after the first request;
// and taken away and given back all the time, with requests under way.
class DeferredHarness : public BlockDeviceHarness {
 public:
  explicit DeferredHarness(Duration delay, Duration period = {})
      : period_(period),
        memory_(executor_, {.name = "m", .size_bytes = kContractDeviceBytes, .delay = 1ms}) {
    if (delay == Duration{}) {
      deferred_.connect(memory_);
    } else {
      delay_ = delay;
    }
    if (period_ != Duration{}) executor_.arm_after(timer_, period_);
  }
  BlockDevice& device() override { return deferred_; }
  void run_until(const std::function<bool()>& done) override {
    ASSERT_TRUE(executor_.run_until(done));
  }
  bool knows_zeros() const override { return period_ == Duration{}; }

 private:
  void wanted() {
    if (period_ == Duration{}) executor_.arm_after(timer_, delay_);
  }
  void turn() {
    if (deferred_.is_connected()) {
      deferred_.disconnect();
    } else {
      deferred_.connect(memory_);
    }
    if (period_ != Duration{}) executor_.arm_after(timer_, period_);
  }

  Duration delay_{};
  Duration period_;
  TestExecutor executor_;
  MemoryDevice memory_;
  DeferredDevice deferred_{executor_, contract_info(),
                           [](void* self) { static_cast<DeferredHarness*>(self)->wanted(); }, this};
  Timer timer_{[](void* self) { static_cast<DeferredHarness*>(self)->turn(); }, this};
};

INSTANTIATE_TEST_SUITE_P(Connected, BlockDeviceContract, testing::Values([] {
                           return std::unique_ptr<BlockDeviceHarness>(
                               new DeferredHarness(Duration{}));
                         }));
INSTANTIATE_TEST_SUITE_P(ConnectedLate, BlockDeviceContract, testing::Values([] {
                           return std::unique_ptr<BlockDeviceHarness>(new DeferredHarness(5ms));
                         }));
INSTANTIATE_TEST_SUITE_P(ConnectedNowAndThen, BlockDeviceContract, testing::Values([] {
                           return std::unique_ptr<BlockDeviceHarness>(
                               new DeferredHarness(Duration{}, 700us));
                         }));

}  // namespace
}  // namespace holdfast
