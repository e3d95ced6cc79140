// SPDX-License-Identifier: Apache-2.0
#include "block/checked_device.h"

#include <algorithm>

#include "base/assert.h"

namespace holdfast {

namespace {

bool is_inside(std::uint64_t offset_bytes, std::uint64_t length_bytes, std::uint64_t size_bytes) {
  return offset_bytes <= size_bytes && length_bytes <= size_bytes - offset_bytes;
}

}  // namespace

CheckedDevice::~CheckedDevice() {
  HOLDFAST_ASSERT(in_flight_.empty());
  HOLDFAST_ASSERT(status_calls_ == 0);
}

void CheckedDevice::submit(BlockRequest& request) {
  HOLDFAST_ASSERT(!calling_);
  HOLDFAST_ASSERT(request.on_complete != nullptr);
  HOLDFAST_ASSERT(!request.device_link.is_linked());
  if (request.operation == BlockOperation::read || request.operation == BlockOperation::write) {
    std::uint64_t buffer_bytes = 0;
    for (const iovec& vector : request.buffers) {
      HOLDFAST_ASSERT(vector.iov_base != nullptr || vector.iov_len == 0);
      buffer_bytes += vector.iov_len;
    }
    HOLDFAST_ASSERT(buffer_bytes == request.length_bytes);
  }
  const InFlight submitted{request.operation,
                           request.force_unit_access,
                           request.keep_allocated,
                           request.offset_bytes,
                           request.length_bytes,
                           request.buffers.data(),
                           request.buffers.size(),
                           request.on_complete,
                           request.context,
                           info().size_bytes,
                           false};
  const bool is_new = in_flight_.emplace(&request, submitted).second;
  HOLDFAST_ASSERT(is_new);
  request.on_complete = &CheckedDevice::completed;
  request.context = this;
  calling_ = true;
  device_.submit(request);
  calling_ = false;
}

void CheckedDevice::cancel(BlockRequest& request) {
  HOLDFAST_ASSERT(!calling_);
  const auto found = in_flight_.find(&request);
  HOLDFAST_ASSERT(found != in_flight_.end());
  found->second.is_cancelled = true;
  calling_ = true;
  device_.cancel(request);
  calling_ = false;
}

void CheckedDevice::completed(BlockRequest& request, BlockStatus status) {
  auto* self = static_cast<CheckedDevice*>(request.context);
  HOLDFAST_ASSERT(!self->calling_);
  const auto found = self->in_flight_.find(&request);
  HOLDFAST_ASSERT(found != self->in_flight_.end());
  const InFlight submitted = found->second;
  self->in_flight_.erase(found);
  self->check_completion(request, submitted, status);
  request.on_complete = submitted.on_complete;
  request.context = submitted.context;
  request.on_complete(request, status);
}

void CheckedDevice::check_completion(const BlockRequest& request, const InFlight& submitted,
                                     BlockStatus status) const {
  HOLDFAST_ASSERT(request.operation == submitted.operation);
  HOLDFAST_ASSERT(request.force_unit_access == submitted.force_unit_access);
  HOLDFAST_ASSERT(request.keep_allocated == submitted.keep_allocated);
  HOLDFAST_ASSERT(request.offset_bytes == submitted.offset_bytes);
  HOLDFAST_ASSERT(request.length_bytes == submitted.length_bytes);
  HOLDFAST_ASSERT(request.buffers.data() == submitted.buffers);
  HOLDFAST_ASSERT(request.buffers.size() == submitted.buffer_count);
  HOLDFAST_ASSERT(!request.device_link.is_linked());
  HOLDFAST_ASSERT(status != BlockStatus::cancelled || submitted.is_cancelled);
  if (status != BlockStatus::ok || request.operation == BlockOperation::flush) return;
  // The device may have been resized meanwhile: inside either size is inside.
  const std::uint64_t size_bytes = std::max(submitted.size_bytes_at_submit, info().size_bytes);
  HOLDFAST_ASSERT(is_inside(request.offset_bytes, request.length_bytes, size_bytes));
  HOLDFAST_ASSERT(request.operation == BlockOperation::read || request.length_bytes == 0 ||
                  !info().read_only);
}

Task<Result<std::vector<BlockExtent>>> CheckedDevice::block_status(std::uint64_t offset_bytes,
                                                                   std::uint64_t length_bytes,
                                                                   std::size_t extents_max) {
  HOLDFAST_ASSERT(length_bytes != 0 && extents_max != 0);
  HOLDFAST_ASSERT(is_inside(offset_bytes, length_bytes, info().size_bytes));
  ++status_calls_;
  Result<std::vector<BlockExtent>> result =
      co_await device_.block_status(offset_bytes, length_bytes, extents_max);
  --status_calls_;
  if (!result.ok()) co_return result.take_error();
  const std::vector<BlockExtent>& extents = *result;
  HOLDFAST_ASSERT(!extents.empty() && extents.size() <= extents_max);
  std::uint64_t covered_bytes = 0;
  for (std::size_t i = 0; i < extents.size(); ++i) {
    HOLDFAST_ASSERT(extents[i].length_bytes != 0);
    HOLDFAST_ASSERT(i == 0 || extents[i].hole != extents[i - 1].hole ||
                    extents[i].zero != extents[i - 1].zero);
    covered_bytes += extents[i].length_bytes;
  }
  HOLDFAST_ASSERT(covered_bytes <= length_bytes);
  co_return std::move(result);
}

}  // namespace holdfast
