// SPDX-License-Identifier: Apache-2.0
//
// Block requests (virtio 1.1, 5.2.6): from vectors to the device and back.
#include <algorithm>
#include <limits>

#include "base/bytes.h"
#include "base/limits.h"
#include "base/units.h"
#include "block/iovec_cursor.h"
#include "serve/vhost/queue.h"

namespace holdfast::vhost {

void Queue::execute(Request& request) {
  const auto type = static_cast<BlkType>(load_little<std::uint32_t>(request.header.data()));
  request.status = BlkStatus::ok;
  request.segment_count = 0;
  request.block.force_unit_access = device_.write_through;
  request.block.keep_allocated = false;
  request.block.buffers = {};
  switch (type) {
    case BlkType::in:
    case BlkType::out:
      return read_or_write(request, type);
    case BlkType::flush:
      if (device_.read_only) return finish(request, BlkStatus::ok);
      request.block.operation = BlockOperation::flush;
      request.block.offset_bytes = request.block.length_bytes = 0;
      request.block.force_unit_access = false;
      return submit(request);
    case BlkType::get_id:
      return answer_id(request);
    case BlkType::discard:
    case BlkType::write_zeroes:
      return begin_segments(request, type);
  }
  refuse(request, VhostFault::request_unsupported, BlkStatus::unsupported);
}

void Queue::read_or_write(Request& request, BlkType type) {
  const auto sector = load_little<std::uint64_t>(request.header.data() + 8);
  if (request.payload_bytes % kSectorBytes != 0 ||
      request.payload_bytes > limits::kVhostRequestBytesMax) {
    return refuse(request, VhostFault::request_malformed, BlkStatus::io_error);
  }
  if (sector > std::numeric_limits<std::uint64_t>::max() / kSectorBytes) {
    return refuse(request, VhostFault::request_out_of_range, BlkStatus::io_error);
  }
  if (type == BlkType::out && device_.read_only) {
    return refuse(request, VhostFault::request_malformed, BlkStatus::io_error);
  }
  BlockRequest& block = request.block;
  block.operation = type == BlkType::in ? BlockOperation::read : BlockOperation::write;
  block.force_unit_access = device_.write_through && type == BlkType::out;
  block.offset_bytes = sector * kSectorBytes;
  block.length_bytes = request.payload_bytes;
  block.buffers = request.payload;
  submit(request);
}

void Queue::answer_id(Request& request) {
  const std::size_t count = std::min<std::uint64_t>(request.payload_bytes, kSerialBytes);
  IovecCursor(request.payload).copy_in(device_.serial.data(), count);
  request.writable_bytes =
      std::min<std::uint32_t>(request.writable_bytes, static_cast<std::uint32_t>(kSerialBytes));
  finish(request, BlkStatus::ok);
}

void Queue::begin_segments(Request& request, BlkType type) {
  const std::uint64_t bytes = request.payload_bytes;
  if (bytes == 0 || bytes % kDiscardSegmentBytes != 0 ||
      bytes > limits::kVhostDiscardSegmentsMax * kDiscardSegmentBytes || device_.read_only) {
    return refuse(request, VhostFault::request_malformed, BlkStatus::io_error);
  }
  request.make_long(device_.long_requests);
  const std::span<std::byte> segments(request.long_request->segments.data(), bytes);
  IovecCursor(request.payload).copy_out(segments.data(), bytes);
  // All of them first: a request is done as a whole or refused.
  const bool is_discard = type == BlkType::discard;
  for (std::size_t at = 0; at < bytes; at += kDiscardSegmentBytes) {
    const auto flags = load_little<std::uint32_t>(&segments[at + 12]);
    if ((flags & ~(is_discard ? 0 : kDiscardFlagUnmap)) != 0) {
      return refuse(request, VhostFault::request_unsupported, BlkStatus::unsupported);
    }
    const auto sector = load_little<std::uint64_t>(&segments[at]);
    const auto sectors = load_little<std::uint32_t>(&segments[at + 8]);
    const std::uint64_t size_sectors = device_.block.info().size_bytes / kSectorBytes;
    if (sectors > limits::kVhostDiscardBytesMax / kSectorBytes || sector > size_sectors ||
        sectors > size_sectors - sector) {
      return refuse(request, VhostFault::request_out_of_range, BlkStatus::io_error);
    }
  }
  request.block.operation = is_discard ? BlockOperation::discard : BlockOperation::write_zeroes;
  request.segment_count = bytes / kDiscardSegmentBytes;
  request.segment_next = 0;
  next_segment(request);
}

void Queue::next_segment(Request& request) {
  const std::byte* const at =
      request.long_request->segments.data() + request.segment_next * kDiscardSegmentBytes;
  ++request.segment_next;
  request.block.offset_bytes = load_little<std::uint64_t>(at) * kSectorBytes;
  request.block.length_bytes = load_little<std::uint32_t>(at + 8) * std::uint64_t{kSectorBytes};
  request.block.keep_allocated = request.block.operation == BlockOperation::write_zeroes &&
                                 (load_little<std::uint32_t>(at + 12) & kDiscardFlagUnmap) == 0;
  submit(request);
}

void Queue::submit(Request& request) {
  request.block.context = &request;
  request.block.on_complete = [](BlockRequest& block, BlockStatus status) {
    auto& self = *static_cast<Request*>(block.context);
    Queue& queue = *self.queue;
    switch (status) {
      case BlockStatus::ok:
        if (self.segment_next < self.segment_count) return queue.next_segment(self);
        return queue.finish(self, BlkStatus::ok);
      case BlockStatus::shutting_down:
      case BlockStatus::cancelled: {
        // Not answered: it stays in flight, for the next daemon or the next start of the queue.
        Device& device = queue.device_;
        queue.release(self);
        device.executor.defer(device.publish);
        return;
      }
      case BlockStatus::out_of_range:
        return queue.refuse(self, VhostFault::request_out_of_range, BlkStatus::io_error);
      case BlockStatus::read_only:
      case BlockStatus::medium_error:
      case BlockStatus::hold_expired:
        return queue.finish(self, BlkStatus::io_error);
    }
  };
  device_.block.submit(request.block);
}

void Queue::refuse(Request& request, VhostFault fault, BlkStatus status) {
  device_.statistics.count(fault);
  finish(request, status);
}

void Queue::finish(Request& request, BlkStatus status) {
  if (status != BlkStatus::ok) ++device_.statistics.requests_failed;
  request.status = status;
  done_.push_back(request);
  device_.executor.defer(device_.publish);
}

}  // namespace holdfast::vhost
