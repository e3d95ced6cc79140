// SPDX-License-Identifier: Apache-2.0
//
// Connection, output: all replies that are ready leave in one vectored send. Headers are encoded
// side by side into the batch's own memory, data is sent from where the device read it to.
#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "serve/nbd/connection.h"

namespace holdfast::nbd {

namespace {

constexpr std::size_t kVectorsMax = 500;  // with the headers just under 16 KiB
constexpr std::size_t kHeaderBytesMax = 8 * kKiB;
constexpr std::size_t kMessageBytesMax = 80;
// Of one reply: structured header, then an offset, or an error with its message.
constexpr std::size_t kReplyHeaderBytesMax = kStructuredReplyBytes + 8 + kMessageBytesMax;
// More than this is split over several sends, so that buffers come back early.
constexpr std::size_t kBatchDataBytesMax = 1 * kMiB;

}  // namespace

// Lives in one buffer of the pool while it is being sent.
struct Connection::SendBatch {
  iovec vectors[kVectorsMax];
  std::byte headers[kHeaderBytesMax];
  std::size_t vector_count;
  std::size_t header_bytes;
  std::size_t data_bytes;

  bool is_full() const {
    return vector_count + 2 > kVectorsMax || data_bytes >= kBatchDataBytesMax ||
           header_bytes + kReplyHeaderBytesMax > kHeaderBytesMax;
  }
  std::byte* header_end() { return headers + header_bytes; }
  void add_header(std::size_t bytes) {
    std::byte* start = header_end();
    header_bytes += bytes;
    if (vector_count != 0) {
      iovec& last = vectors[vector_count - 1];
      if (static_cast<std::byte*>(last.iov_base) + last.iov_len == start) {
        last.iov_len += bytes;
        return;
      }
    }
    vectors[vector_count++] = {start, bytes};
  }
  void add_data(const std::byte* data, std::size_t bytes) {
    vectors[vector_count++] = {const_cast<std::byte*>(data), bytes};
    data_bytes += bytes;
  }
};

void Connection::send_pending() {
  if (send_in_flight_ || phase_ == Phase::aborted || phase_ == Phase::finished) return;
  if (handshake_ != nullptr) {
    if (handshake_->has_output()) {
      handshake_output_ = handshake_->take_output();
      send_in_flight_ = true;
      batch_memory_ = context_.buffers.get(sizeof(iovec));
      auto* vector =
          ::new (batch_memory_.data()) iovec{handshake_output_.data(), handshake_output_.size()};
      return stream_->send(send_request_, {vector, 1});
    }
    if (phase_ == Phase::transmission) handshake_.reset();
  }
  if (done_.empty()) return finish_if_idle();
  batch_memory_ = context_.buffers.get(sizeof(SendBatch));
  auto& batch = *::new (batch_memory_.data()) SendBatch;
  batch.vector_count = batch.header_bytes = batch.data_bytes = 0;
  while (!done_.empty() && !batch.is_full()) {
    Request& request = *done_.pop_front();
    if (add_reply(batch, request)) {
      sending_.push_back(request);
    } else {
      release(request);
    }
  }
  ++context_.statistics.sends;
  send_in_flight_ = true;
  stream_->send(send_request_, {batch.vectors, batch.vector_count});
  resume_input();
}

// True: the request's memory is part of the batch.
bool Connection::add_reply(SendBatch& batch, Request& request) {
  const std::uint64_t cookie = request.header.cookie;
  const bool has_data = request.command() == Command::read && request.error == NbdErrno::none &&
                        request.header.length_bytes != 0;
  std::byte* to = batch.header_end();
  if (!negotiated_.structured_replies) {
    encode_simple_reply(to, request.error, cookie);
    batch.add_header(kSimpleReplyBytes);
  } else if (request.error != NbdErrno::none) {
    const std::string_view message = request.message.substr(0, kMessageBytesMax);
    encode_structured_reply(to, Reply::error, cookie,
                            static_cast<std::uint32_t>(6 + message.size()));
    store_big(to + 20, static_cast<std::uint32_t>(request.error));
    store_big(to + 24, static_cast<std::uint16_t>(message.size()));
    std::memcpy(to + 26, message.data(), message.size());
    batch.add_header(26 + message.size());
  } else if (has_data) {
    encode_structured_reply(to, Reply::offset_data, cookie, 8 + request.header.length_bytes);
    store_big(to + 20, request.header.offset_bytes);
    batch.add_header(28);
  } else if (request.command() == Command::block_status) {
    encode_structured_reply(to, Reply::block_status, cookie,
                            static_cast<std::uint32_t>(request.status.size()));
    batch.add_header(kStructuredReplyBytes);
    batch.add_data(request.status.data(), request.status.size());
    return true;
  } else {
    encode_structured_reply(to, Reply::none, cookie, 0);
    batch.add_header(kStructuredReplyBytes);
  }
  if (has_data) batch.add_data(request.buffer.data(), request.header.length_bytes);
  return has_data;
}

void Connection::on_sent() {
  send_in_flight_ = false;
  context_.buffers.put(std::exchange(batch_memory_, {}));
  context_.note_activity();
  handshake_output_ = {};
  while (Request* request = sending_.pop_front()) release(*request);
  if (phase_ == Phase::aborted) return finish_if_idle();
  if (send_request_.error != 0) {
    ++context_.statistics.connections_lost;
    return abort();
  }
  send_pending();
  resume_input();
}

// Requests were released: goes on where the budget was used up.
void Connection::resume_input() {
  if (!stalled_ || phase_ != Phase::transmission) return;
  stalled_ = false;
  parse_requests();
  receive_more();
}

}  // namespace holdfast::nbd
