// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/connection.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"

namespace holdfast::nbd {

Connection::Connection(ExportContext& context, std::unique_ptr<Stream> stream)
    : context_(context),
      stream_(std::move(stream)),
      handshake_(std::make_unique<Handshake>(context.exported, context.statistics)),
      flush_([](void* self) { static_cast<Connection*>(self)->send_pending(); }, this),
      timer_([](void* self) { static_cast<Connection*>(self)->on_timer(); }, this) {
  receive_request_.context = this;
  receive_request_.on_complete = [](StreamRequest& request) {
    static_cast<Connection*>(request.context)->on_received();
  };
  send_request_.context = this;
  send_request_.on_complete = [](StreamRequest& request) {
    static_cast<Connection*>(request.context)->on_sent();
  };
}

Connection::~Connection() {
  HOLDFAST_ASSERT(phase_ == Phase::finished && status_tasks_.empty());
}

void Connection::start() {
  context_.executor.arm_after(timer_, limits::kNbdHandshakeTime);
  context_.executor.defer(flush_);  // the greeting
  receive_more();
}

void Connection::abort() {
  if (phase_ == Phase::aborted || phase_ == Phase::finished) return;
  phase_ = Phase::aborted;
  context_.executor.cancel(timer_);
  stream_->shutdown();
  while (Request* request = done_.pop_front()) release(*request);
  if (payload_request_ != nullptr && !receiving_payload_) {
    release(*std::exchange(payload_request_, nullptr));
  }
  give_up_held();
  finish_if_idle();
}

// Nobody hears the answers any more, and the storage may take hours to give them.
void Connection::give_up_held() {
  if (device_count_ == 0) return;
  BlockDevice& device = context_.exported.device;
  if (device.is_holding()) {
    for (Request* request = in_device_.front(); request != nullptr;
         request = in_device_.next(*request)) {
      device.cancel(request->block);
    }
  }
  context_.executor.arm_after(timer_, limits::kHeldLookTime);
}

void Connection::begin_draining() {
  phase_ = Phase::draining;
  context_.executor.arm_after(timer_, limits::kNbdDrainTime);
  context_.executor.defer(flush_);
}

void Connection::on_timer() {
  if (phase_ == Phase::aborted) return give_up_held();
  if (phase_ == Phase::handshake) {
    context_.statistics.count(NbdFault::handshake_timeout);
    return abort();
  }
  // Draining. The device takes the time it takes (a held request may take hours); the peer not.
  if (device_count_ != 0) return context_.executor.arm_after(timer_, limits::kNbdDrainTime);
  context_.statistics.count(NbdFault::drain_timeout);
  abort();
}

// The one place where a connection ends. Called after everything that may have been the last event.
void Connection::finish_if_idle() {
  if (phase_ == Phase::draining && device_count_ == 0 && done_.empty() && !send_in_flight_ &&
      !(handshake_ != nullptr && handshake_->has_output())) {
    return abort();
  }
  if (phase_ != Phase::aborted || receive_in_flight_ || send_in_flight_ || device_count_ != 0)
    return;
  HOLDFAST_ASSERT(payload_request_ == nullptr && request_count_ == 0);
  if (chunk_ != nullptr) context_.buffers.drop(std::exchange(chunk_, nullptr));
  context_.note_activity();
  phase_ = Phase::finished;
  context_.executor.cancel(timer_);
  context_.executor.defer(context_.reap);
}

void Connection::on_received() {
  receive_in_flight_ = false;
  const std::size_t received_bytes = receive_request_.transferred;
  if (phase_ == Phase::aborted) {
    if (std::exchange(receiving_payload_, false)) {
      release(*std::exchange(payload_request_, nullptr));
    }
    return finish_if_idle();
  }
  if (receive_request_.error != 0) {
    receiving_payload_ = false;
    ++context_.statistics.connections_lost;
    return abort();
  }
  if (received_bytes == 0) return on_end_of_stream();
  ++context_.statistics.receives;
  if (std::exchange(receiving_payload_, false)) {
    payload_target_ += received_bytes;
    payload_left_bytes_ -= received_bytes;
    if (payload_left_bytes_ == 0) payload_complete();
  } else {
    end_ += received_bytes;
    // Large chunks for those who fill them, small ones for all others: see BufferPool.
    if (received_bytes == receive_room_bytes_) {
      chunk_bytes_wanted_ = BufferPool::kLargeChunkBytes;
    } else if (received_bytes < BufferPool::kSmallChunkBytes / 2) {
      chunk_bytes_wanted_ = BufferPool::kSmallChunkBytes;
    }
    process_input();
  }
  receive_more();
}

void Connection::on_end_of_stream() {
  receiving_payload_ = false;
  if (phase_ == Phase::handshake) {
    if (input_bytes() != 0) context_.statistics.count(NbdFault::handshake_truncated);
    return abort();
  }
  if (input_bytes() != 0 || payload_left_bytes_ != 0) {
    context_.statistics.count(NbdFault::request_truncated);
    return abort();
  }
  // Without DISC, but between requests: those in flight are answered.
  begin_draining();
}

void Connection::process_input() {
  if (phase_ == Phase::handshake) process_handshake();
  if (phase_ == Phase::transmission) parse_requests();
}

void Connection::process_handshake() {
  begin_ += handshake_->feed(chunk_->memory.span(begin_, input_bytes()));
  if (handshake_->has_output()) context_.executor.defer(flush_);
  switch (handshake_->state()) {
    case Handshake::State::more:
      return;
    case Handshake::State::transmission:
      negotiated_ = handshake_->negotiated();
      phase_ = Phase::transmission;
      context_.executor.cancel(timer_);
      ++context_.statistics.connections_negotiated;
      return;
    case Handshake::State::closing:
      return begin_draining();
    case Handshake::State::failed:
      return abort();
  }
}

void Connection::receive_more() {
  const bool wants_input = phase_ == Phase::handshake || phase_ == Phase::transmission;
  if (!wants_input || receive_in_flight_ || stalled_) return;
  receive_in_flight_ = true;
  if (payload_target_ != nullptr) {
    receiving_payload_ = true;
    stream_->receive(receive_request_, {payload_target_, payload_left_bytes_});
    return;
  }
  make_room();
  receive_room_bytes_ = chunk_->memory.size() - end_;
  stream_->receive(receive_request_, chunk_->memory.span(end_, receive_room_bytes_));
}

// How much must fit from begin_ on, so that the frame at hand can be parsed.
std::size_t Connection::frame_bytes_wanted() const {
  if (phase_ == Phase::handshake) return kOptionHeaderBytes + limits::kNbdOptionBytesMax;
  RequestHeader header;
  if (input_bytes() < kRequestBytes || !decode_request(chunk_->memory.data() + begin_, header)) {
    return kRequestBytes;
  }
  // A write that waits for its payload.
  return kRequestBytes + std::min<std::size_t>(header.length_bytes, kMovedPayloadBytesMax);
}

// Makes sure that the chunk has room for a worthwhile receive, and for the frame at hand.
void Connection::make_room() {
  if (chunk_ == nullptr) chunk_ = context_.buffers.get_chunk(chunk_bytes_wanted_);
  const std::size_t wanted_bytes = frame_bytes_wanted();
  const bool is_shared = chunk_->references != 1;  // payloads of requests in flight lie in it
  if (!is_shared && input_bytes() == 0) {
    begin_ = end_ = 0;
    if (chunk_->memory.size() != chunk_bytes_wanted_) replace_chunk(chunk_bytes_wanted_);
    return;
  }
  const std::size_t capacity_bytes = chunk_->memory.size();
  if (begin_ + wanted_bytes <= capacity_bytes && capacity_bytes - end_ >= capacity_bytes / 4)
    return;
  if (is_shared || wanted_bytes > capacity_bytes) {
    return replace_chunk(std::max(chunk_bytes_wanted_, BufferPool::class_bytes(wanted_bytes)));
  }
  std::memmove(chunk_->memory.data(), chunk_->memory.data() + begin_, input_bytes());
  end_ -= begin_;
  begin_ = 0;
}

void Connection::replace_chunk(std::size_t bytes) {
  ReceiveChunk* fresh = context_.buffers.get_chunk(bytes);
  const std::size_t moved_bytes = input_bytes();
  if (moved_bytes != 0) {
    std::memcpy(fresh->memory.data(), chunk_->memory.data() + begin_, moved_bytes);
  }
  context_.buffers.drop(chunk_);
  chunk_ = fresh;
  begin_ = 0;
  end_ = moved_bytes;
}

}  // namespace holdfast::nbd
