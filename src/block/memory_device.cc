// SPDX-License-Identifier: Apache-2.0
#include "block/memory_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/units.h"

namespace holdfast {

MemoryDevice::MemoryDevice(Executor& executor, Options options)
    : executor_(executor), options_(std::move(options)) {
  info_.name = options_.name;
  info_.size_bytes = options_.size_bytes;
  info_.read_only = options_.read_only;
  if (!options_.discard_data) blocks_.resize(divide_up(info_.size_bytes, kBlockBytes));
}

MemoryDevice::~MemoryDevice() {
  HOLDFAST_ASSERT(waiting_.empty());
}

void MemoryDevice::submit(BlockRequest& request) {
  ++operation_counts_[static_cast<std::size_t>(request.operation)];
  if (request.force_unit_access) ++force_unit_access_count_;
  waiting_.push_back({&request, executor_.now() + options_.delay});
  schedule();
}

void MemoryDevice::schedule() {
  if (held_ || waiting_.empty()) return;
  if (options_.delay == Duration{0}) {
    executor_.defer(deferred_);
  } else if (!timer_.is_armed()) {
    executor_.arm(timer_, waiting_.front().due);
  }
}

void MemoryDevice::complete_due() {
  // Only what waits now: a request submitted by a completion takes its own turn.
  for (std::size_t count = waiting_.size(); count != 0 && !held_; --count) {
    const Waiting next = waiting_.front();
    if (next.due > executor_.now()) break;
    waiting_.pop_front();
    next.request->on_complete(*next.request, perform(*next.request));
  }
  schedule();
}

void MemoryDevice::cancel(BlockRequest& request) {
  for (Waiting& waiting : waiting_) {
    if (waiting.request == &request) waiting.is_cancelled = true;
  }
  executor_.defer(deferred_cancelled_);
}

void MemoryDevice::complete_cancelled() {
  std::vector<BlockRequest*> cancelled;
  for (const Waiting& waiting : waiting_) {
    if (waiting.is_cancelled) cancelled.push_back(waiting.request);
  }
  std::erase_if(waiting_, [](const Waiting& waiting) { return waiting.is_cancelled; });
  for (BlockRequest* request : cancelled) request->on_complete(*request, BlockStatus::cancelled);
}

void MemoryDevice::release() {
  held_ = false;
  schedule();
}

void MemoryDevice::resize(std::uint64_t size_bytes) {
  HOLDFAST_ASSERT(waiting_.empty());
  if (size_bytes < info_.size_bytes) clear(size_bytes, info_.size_bytes - size_bytes, false);
  info_.size_bytes = size_bytes;
  if (!options_.discard_data) blocks_.resize(divide_up(size_bytes, kBlockBytes));
}

void MemoryDevice::fail_range(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                              BlockStatus status) {
  fail_offset_bytes_ = offset_bytes;
  fail_length_bytes_ = length_bytes;
  fail_status_ = status;
}

BlockStatus MemoryDevice::perform(BlockRequest& request) {
  if (request.operation == BlockOperation::flush) return BlockStatus::ok;
  if (request.offset_bytes > info_.size_bytes ||
      request.length_bytes > info_.size_bytes - request.offset_bytes) {
    return BlockStatus::out_of_range;
  }
  if (info_.read_only && request.operation != BlockOperation::read) return BlockStatus::read_only;
  if (fail_status_ != BlockStatus::ok &&
      request.offset_bytes < fail_offset_bytes_ + fail_length_bytes_ &&
      fail_offset_bytes_ < request.offset_bytes + request.length_bytes) {
    return fail_status_;
  }
  if (options_.discard_data) return BlockStatus::ok;
  switch (request.operation) {
    case BlockOperation::read:
    case BlockOperation::write:
      transfer(request);
      break;
    case BlockOperation::discard:
      clear(request.offset_bytes, request.length_bytes, false);
      break;
    case BlockOperation::write_zeroes:
      clear(request.offset_bytes, request.length_bytes, request.keep_allocated);
      break;
    case BlockOperation::flush:
      break;
  }
  return BlockStatus::ok;
}

void MemoryDevice::transfer(BlockRequest& request) {
  std::uint64_t offset_bytes = request.offset_bytes;
  for (const iovec& vector : request.buffers) {
    auto* memory = static_cast<std::byte*>(vector.iov_base);
    std::size_t left_bytes = vector.iov_len;
    while (left_bytes != 0) {
      Block& block = blocks_[offset_bytes / kBlockBytes];
      const std::size_t within = offset_bytes % kBlockBytes;
      const std::size_t count = std::min<std::size_t>(left_bytes, kBlockBytes - within);
      if (request.operation == BlockOperation::read) {
        if (block.data != nullptr) {
          std::memcpy(memory, block.data.get() + within, count);
        } else {
          std::memset(memory, 0, count);
        }
      } else {
        if (block.data == nullptr) block.data = std::make_unique<std::byte[]>(kBlockBytes);
        block.allocated = true;
        std::memcpy(block.data.get() + within, memory, count);
      }
      memory += count;
      left_bytes -= count;
      offset_bytes += count;
    }
  }
}

void MemoryDevice::clear(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                         bool keep_allocated) {
  if (options_.discard_data) return;
  while (length_bytes != 0) {
    Block& block = blocks_[offset_bytes / kBlockBytes];
    const std::uint64_t within = offset_bytes % kBlockBytes;
    const std::uint64_t count = std::min(length_bytes, kBlockBytes - within);
    const bool whole =
        within == 0 && (count == kBlockBytes || offset_bytes + count == info_.size_bytes);
    if (whole) {
      block.data = nullptr;
      block.allocated = keep_allocated;
    } else {
      if (block.data != nullptr) std::memset(block.data.get() + within, 0, count);
      if (keep_allocated) block.allocated = true;
    }
    offset_bytes += count;
    length_bytes -= count;
  }
}

std::uint64_t MemoryDevice::allocated_block_count() const {
  return static_cast<std::uint64_t>(
      std::ranges::count_if(blocks_, [](const Block& block) { return block.allocated; }));
}

Task<Result<std::vector<BlockExtent>>> MemoryDevice::block_status(std::uint64_t offset_bytes,
                                                                  std::uint64_t length_bytes,
                                                                  std::size_t extents_max) {
  HOLDFAST_ASSERT(offset_bytes <= info_.size_bytes &&
                  length_bytes <= info_.size_bytes - offset_bytes && extents_max != 0);
  if (options_.delay != Duration{0}) co_await sleep_for(executor_, options_.delay);
  std::vector<BlockExtent> extents;
  while (length_bytes != 0) {
    std::uint64_t count = std::min(length_bytes, kBlockBytes - offset_bytes % kBlockBytes);
    BlockExtent extent;
    if (options_.discard_data) {
      count = length_bytes;
    } else {
      const Block& block = blocks_[offset_bytes / kBlockBytes];
      extent.hole = !block.allocated;
      extent.zero = block.data == nullptr;
    }
    extent.length_bytes = count;
    if (!extents.empty() && extents.back().hole == extent.hole &&
        extents.back().zero == extent.zero) {
      extents.back().length_bytes += count;
    } else if (extents.size() == extents_max) {
      break;
    } else {
      extents.push_back(extent);
    }
    offset_bytes += count;
    length_bytes -= count;
  }
  co_return std::move(extents);
}

}  // namespace holdfast
