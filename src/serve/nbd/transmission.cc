// SPDX-License-Identifier: Apache-2.0
//
// Connection, the transmission phase: from a request's header to the device and back.
#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "serve/nbd/connection.h"

namespace holdfast::nbd {

namespace {

std::uint16_t allowed_flags(Command command, bool structured_replies) {
  // FUA is allowed with every command, and means something for those that write.
  switch (command) {
    case Command::read:
      return static_cast<std::uint16_t>(kCommandFua |
                                        (structured_replies ? kCommandDontFragment : 0));
    case Command::write_zeroes:
      return kCommandFua | kCommandNoHole;
    case Command::block_status:
      return kCommandFua | kCommandRequestOne;
    default:
      return kCommandFua;
  }
}

bool is_served(Command command) {
  switch (command) {
    case Command::read:
    case Command::write:
    case Command::flush:
    case Command::trim:
    case Command::write_zeroes:
    case Command::block_status:
      return true;
    case Command::cache:  // not advertised
    case Command::disconnect:
      return false;
  }
  return false;
}

bool is_modifying(Command command) {
  return command == Command::write || command == Command::trim || command == Command::write_zeroes;
}

BlockOperation operation_of(Command command) {
  switch (command) {
    case Command::write:
      return BlockOperation::write;
    case Command::flush:
      return BlockOperation::flush;
    case Command::trim:
      return BlockOperation::discard;
    case Command::write_zeroes:
      return BlockOperation::write_zeroes;
    default:
      return BlockOperation::read;
  }
}

std::string_view message_for(BlockStatus status) {
  switch (status) {
    case BlockStatus::ok:
      return {};
    case BlockStatus::out_of_range:
      return "the range reaches beyond the end of the export";
    case BlockStatus::read_only:
      return "the export is read-only";
    case BlockStatus::medium_error:
      return "the stored data cannot be read";
    case BlockStatus::shutting_down:
    case BlockStatus::cancelled:
      return "the volume is being closed";
    case BlockStatus::hold_expired:
      return "the storage was full or unreachable for longer than hold.fail_after";
  }
  return {};
}

}  // namespace

// Everything at hand; stops at an incomplete frame, or when the budget is used up.
void Connection::parse_requests() {
  while (phase_ == Phase::transmission) {
    if (payload_left_bytes_ != 0) {
      if (!consume_payload()) return;
      continue;
    }
    if (input_bytes() < kRequestBytes) return;
    RequestHeader header;
    if (!decode_request(chunk_->memory.data() + begin_, header)) {
      context_.statistics.count(NbdFault::bad_request_magic);
      return abort();
    }
    if (!start_request(header)) return;
  }
}

// False: the header stays in the input, until there is more input or budget.
bool Connection::start_request(const RequestHeader& header) {
  const auto command = static_cast<Command>(header.command);
  if (command == Command::disconnect) {
    begin_ += kRequestBytes;
    begin_draining();
    return false;
  }
  const std::optional<Refusal> refusal = check(header);
  if (!refusal.has_value() && command == Command::write &&
      header.length_bytes > input_bytes() - kRequestBytes &&
      header.length_bytes <= kMovedPayloadBytesMax) {
    return false;
  }
  if (!has_room_for(header)) {
    stalled_ = true;
    return false;
  }
  begin_ += kRequestBytes;
  ++context_.statistics.requests;
  ++request_count_;
  Request& request = context_.requests.get();
  request.connection = this;
  request.header = header;
  request.error = NbdErrno::none;
  if (refusal.has_value()) {
    refuse(request, *refusal);
    return true;
  }
  request.block.buffers = {};
  if (command == Command::read) {
    charge(request, BufferPool::class_bytes(header.length_bytes));
    request.buffer = context_.buffers.get(header.length_bytes);
    request.vectors[0] = {request.buffer.data(), header.length_bytes};
    request.block.buffers = {request.vectors, 1};
    context_.statistics.read_bytes += header.length_bytes;
  } else if (command == Command::write && header.length_bytes != 0) {
    charge(request, header.length_bytes);
    context_.statistics.written_bytes += header.length_bytes;
    take_payload(request);
    if (payload_left_bytes_ != 0) return true;
  }
  submit(request);
  return true;
}

// One request always fits, and a little; more only within the connection's share of the export's
// memory.
bool Connection::has_room_for(const RequestHeader& header) const {
  if (request_count_ == 0) return true;
  if (request_count_ >= limits::kNbdRequestsPerConnectionMax) return false;
  const auto command = static_cast<Command>(header.command);
  if (command != Command::read && command != Command::write) return true;
  // A write that is too long is not buffered at all; then the estimate is merely cautious.
  const std::size_t length_bytes = std::min(header.length_bytes, limits::kNbdRequestBytesMax);
  const std::uint64_t after_bytes =
      buffered_bytes_ +
      (command == Command::read ? BufferPool::class_bytes(length_bytes) : length_bytes);
  if (buffered_bytes_ == 0 || after_bytes <= limits::kNbdBufferBytesGuaranteed) return true;
  const std::uint64_t share_bytes =
      limits::kNbdBufferBytesPerExportMax / std::max<std::size_t>(1, context_.connection_count);
  const std::uint64_t export_after_bytes = context_.buffered_bytes + after_bytes - buffered_bytes_;
  return after_bytes <= std::min(limits::kNbdBufferBytesPerConnectionMax, share_bytes) &&
         export_after_bytes <= limits::kNbdBufferBytesPerExportMax;
}

std::optional<Connection::Refusal> Connection::check(const RequestHeader& header) const {
  const auto command = static_cast<Command>(header.command);
  if (!is_served(command)) {
    return Refusal{NbdFault::command_unknown, NbdErrno::invalid, "command not supported"};
  }
  if ((header.flags & ~allowed_flags(command, negotiated_.structured_replies)) != 0) {
    return Refusal{NbdFault::command_flags, NbdErrno::invalid, "command flags not supported"};
  }
  if (command == Command::flush) {
    if (header.offset_bytes == 0 && header.length_bytes == 0) return std::nullopt;
    return Refusal{NbdFault::request_malformed, NbdErrno::invalid, "a flush has no range"};
  }
  if (is_modifying(command) && is_read_only(context_.exported)) {
    return Refusal{NbdFault::request_on_read_only, NbdErrno::not_permitted,
                   message_for(BlockStatus::read_only)};
  }
  if ((command == Command::read || command == Command::write) &&
      header.length_bytes > limits::kNbdRequestBytesMax) {
    return Refusal{NbdFault::request_too_big, NbdErrno::invalid, "longer than the maximum, 32 MiB"};
  }
  if (command == Command::block_status) {
    if (!negotiated_.allocation_context) {
      return Refusal{NbdFault::request_malformed, NbdErrno::invalid,
                     "no metadata context was negotiated"};
    }
    if (header.length_bytes == 0) {
      return Refusal{NbdFault::request_malformed, NbdErrno::invalid, "block status of nothing"};
    }
  }
  const std::uint64_t size_bytes = context_.exported.device.info().size_bytes;
  if (header.offset_bytes > size_bytes || header.length_bytes > size_bytes - header.offset_bytes) {
    return Refusal{NbdFault::request_out_of_range,
                   errno_for(BlockStatus::out_of_range, operation_of(command)),
                   message_for(BlockStatus::out_of_range)};
  }
  return std::nullopt;
}

// The part that was received stays where it is; the rest goes into a buffer of its own.
void Connection::take_payload(Request& request) {
  const std::size_t length_bytes = request.header.length_bytes;
  const std::size_t here_bytes = std::min(length_bytes, input_bytes());
  std::size_t vector_count = 0;
  if (here_bytes != 0) {
    request.chunk = chunk_;
    ++chunk_->references;
    request.vectors[vector_count++] = {chunk_->memory.data() + begin_, here_bytes};
    begin_ += here_bytes;
  }
  if (here_bytes != length_bytes) {
    const std::size_t rest_bytes = length_bytes - here_bytes;
    request.buffer = context_.buffers.get(rest_bytes);
    request.vectors[vector_count++] = {request.buffer.data(), rest_bytes};
    payload_request_ = &request;
    payload_left_bytes_ = rest_bytes;
    payload_target_ = request.buffer.data();
  }
  request.block.buffers = {request.vectors, vector_count};
}

// Of a refused write: skips its payload. (Others are received straight into their buffer.)
bool Connection::consume_payload() {
  if (payload_target_ != nullptr) return false;
  const std::size_t count = std::min(payload_left_bytes_, input_bytes());
  begin_ += count;
  payload_left_bytes_ -= count;
  if (payload_left_bytes_ != 0) return false;
  payload_complete();
  return true;
}

void Connection::payload_complete() {
  Request& request = *std::exchange(payload_request_, nullptr);
  payload_target_ = nullptr;
  if (request.error != NbdErrno::none) return answer(request);
  submit(request);
}

void Connection::submit(Request& request) {
  const Command command = request.command();
  const bool does_nothing = command == Command::flush ? is_read_only(context_.exported)
                                                      : request.header.length_bytes == 0;
  if (does_nothing) return answer(request);
  ++device_count_;
  if (command == Command::block_status) return status_tasks_.spawn(run_block_status(request));
  BlockRequest& block = request.block;
  block.operation = operation_of(command);
  block.force_unit_access = is_modifying(command) && (request.header.flags & kCommandFua) != 0;
  block.keep_allocated =
      command == Command::write_zeroes && (request.header.flags & kCommandNoHole) != 0;
  block.offset_bytes = request.header.offset_bytes;
  block.length_bytes = request.header.length_bytes;
  block.context = &request;
  block.on_complete = [](BlockRequest& completed, BlockStatus status) {
    auto& self = *static_cast<Request*>(completed.context);
    self.link.unlink();
    --self.connection->device_count_;
    if (status != BlockStatus::ok) {
      self.error = errno_for(status, completed.operation);
      self.message = message_for(status);
    }
    self.connection->answer(self);
  };
  in_device_.push_back(request);
  context_.exported.device.submit(block);
}

Task<void> Connection::run_block_status(Request& request) {
  const bool only_one = (request.header.flags & kCommandRequestOne) != 0;
  const std::uint64_t length_bytes = request.header.length_bytes;
  const std::size_t extents_max = only_one ? 1 : limits::kNbdBlockStatusExtentsMax;
  Result<std::vector<BlockExtent>> result = co_await context_.exported.device.block_status(
      request.header.offset_bytes, length_bytes, extents_max);
  --device_count_;
  if (result.ok() && !result->empty()) {
    request.status.resize(sizeof(std::uint32_t) + result->size() * 2 * sizeof(std::uint32_t));
    std::byte* to = request.status.data();
    store_big(to, kAllocationContextId);
    to += sizeof(std::uint32_t);
    for (const BlockExtent& extent : *result) {
      store_big(to, static_cast<std::uint32_t>(std::min(extent.length_bytes, length_bytes)));
      store_big(to + 4, (extent.hole ? kStateHole : 0u) | (extent.zero ? kStateZero : 0u));
      to += 2 * sizeof(std::uint32_t);
    }
  } else {
    request.error = NbdErrno::io;
    request.message = "the block status cannot be read";
  }
  answer(request);
}

void Connection::refuse(Request& request, const Refusal& refusal) {
  context_.statistics.count(refusal.fault);
  request.error = refusal.error;
  request.message = refusal.message;
  if (request.command() == Command::write && request.header.length_bytes != 0) {
    // The answer must wait until the client has sent it all. A payload of any length is skipped,
    // so that the connection goes on even after one that is too long.
    payload_request_ = &request;
    payload_left_bytes_ = request.header.length_bytes;
    payload_target_ = nullptr;
    return;
  }
  answer(request);
}

// The request has its outcome: it waits for the send at the end of this turn.
void Connection::answer(Request& request) {
  if (request.error != NbdErrno::none) ++context_.statistics.requests_failed;
  if (phase_ == Phase::aborted) {
    release(request);
    return finish_if_idle();
  }
  done_.push_back(request);
  context_.executor.defer(flush_);
}

void Connection::charge(Request& request, std::size_t bytes) {
  request.charged_bytes = bytes;
  buffered_bytes_ += bytes;
  context_.buffered_bytes += bytes;
}

void Connection::release(Request& request) {
  HOLDFAST_ASSERT(!request.link.is_linked() && request_count_ != 0);
  if (request.chunk != nullptr) context_.buffers.drop(std::exchange(request.chunk, nullptr));
  if (!request.buffer.empty()) context_.buffers.put(std::exchange(request.buffer, {}));
  if (!request.status.empty()) request.status = {};
  buffered_bytes_ -= request.charged_bytes;
  context_.buffered_bytes -= request.charged_bytes;
  request.charged_bytes = 0;
  --request_count_;
  context_.requests.put(request);
}

}  // namespace holdfast::nbd
