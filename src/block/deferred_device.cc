// SPDX-License-Identifier: Apache-2.0
#include "block/deferred_device.h"

#include <utility>

#include "base/assert.h"

namespace holdfast {

DeferredDevice::DeferredDevice(Executor& executor, BlockDeviceInfo info, Deferred::Callback wanted,
                               void* context)
    : executor_(executor), info_(std::move(info)), wanted_(wanted, context) {}

DeferredDevice::~DeferredDevice() {
  HOLDFAST_ASSERT(waiting_count_ == 0 && status_calls_ == 0);
}

void DeferredDevice::connect(BlockDevice& device) {
  HOLDFAST_ASSERT(state_ == State::waiting);
  state_ = State::connected;
  device_ = &device;
  wanted_.link.unlink();
  has_told_ = false;
  while (BlockRequest* request = waiting_.pop_front()) {
    --waiting_count_;
    request->device_state = nullptr;
    device.submit(*request);
  }
}

void DeferredDevice::disconnect() {
  HOLDFAST_ASSERT(state_ == State::connected);
  info_ = device_->info();
  state_ = State::waiting;
}

void DeferredDevice::forget() {
  HOLDFAST_ASSERT(state_ != State::connected && status_calls_ == 0);
  device_ = nullptr;
}

void DeferredDevice::close() {
  if (state_ == State::connected) disconnect();
  state_ = State::closed;
  wanted_.link.unlink();
  if (waiting_count_ != 0) executor_.defer(answer_);
}

const BlockDeviceInfo& DeferredDevice::info() const {
  return state_ == State::connected ? device_->info() : info_;
}

void DeferredDevice::submit(BlockRequest& request) {
  if (state_ == State::connected) return device_->submit(request);
  request.device_state = this;
  ++waiting_count_;
  waiting_.push_back(request);
  if (state_ == State::closed) return executor_.defer(answer_);
  if (!std::exchange(has_told_, true)) executor_.defer(wanted_);
}

bool DeferredDevice::is_holding() const {
  // After the end of a connection, both: what the device still has may be what is asked about.
  return waiting_count_ != 0 || (device_ != nullptr && device_->is_holding());
}

void DeferredDevice::cancel(BlockRequest& request) {
  if (request.device_state != this) {  // no device's own state is our address
    HOLDFAST_ASSERT(device_ != nullptr);
    return device_->cancel(request);
  }
  request.device_link.unlink();
  cancelled_.push_back(request);
  executor_.defer(answer_);
}

// Answers may submit and cancel again: what there is now, and no more.
void DeferredDevice::answer() {
  using Requests = List<BlockRequest, &BlockRequest::device_link>;
  const auto take = [](Requests& from, Requests& into) {
    while (BlockRequest* request = from.pop_front()) into.push_back(*request);
  };
  const auto complete_all = [this](Requests& requests, BlockStatus status) {
    while (BlockRequest* request = requests.pop_front()) {
      --waiting_count_;
      request->device_state = nullptr;
      request->on_complete(*request, status);
    }
  };
  Requests cancelled;
  Requests shutting_down;
  take(cancelled_, cancelled);
  if (state_ == State::closed) take(waiting_, shutting_down);
  complete_all(cancelled, BlockStatus::cancelled);
  complete_all(shutting_down, BlockStatus::shutting_down);
}

Task<Result<std::vector<BlockExtent>>> DeferredDevice::block_status(std::uint64_t offset_bytes,
                                                                    std::uint64_t length_bytes,
                                                                    std::size_t extents_max) {
  std::vector<BlockExtent> extents;
  if (state_ != State::connected) {
    extents.push_back({.length_bytes = length_bytes});
    co_return extents;
  }
  ++status_calls_;
  Result<std::vector<BlockExtent>> result =
      co_await device_->block_status(offset_bytes, length_bytes, extents_max);
  --status_calls_;
  co_return std::move(result);
}

}  // namespace holdfast
