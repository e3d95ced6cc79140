// SPDX-License-Identifier: Apache-2.0
//
// TestStream: one end of a connection whose other end is the test. What the test pushes is received
// (in pieces of a size it chooses), what the code under test sends is collected; sending can be
// made to stall (a peer that does not read) or to fail. TestPeer is the test's end and survives the
// stream.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "io/executor.h"
#include "io/stream.h"

namespace holdfast {

// The peer's side, shared by the test and the stream.
struct TestPeer {
  std::deque<std::byte> input;  // not yet received by the code under test
  bool input_ended = false;     // the peer closed its sending side
  int receive_error = 0;        // errno for the next receive, once the input is used up
  std::size_t receive_bytes_max = ~std::size_t{0};  // size of the pieces
  std::deque<std::size_t> piece_bytes;  // sizes of the next pieces, before receive_bytes_max counts

  // Descriptors wait for the receive that takes input up to their position, counted from the start.
  struct Passed {
    std::size_t position_bytes;
    Descriptor descriptor;
  };
  std::deque<Passed> passed;
  std::size_t received_bytes = 0;            // by the code under test, ever
  std::vector<Descriptor> sent_descriptors;  // copies of what the code under test passed

  std::vector<std::byte> output;  // what the code under test has sent
  bool reading = true;            // false: sends stall
  int send_error = 0;             // errno for the next send
  std::size_t send_count = 0;
  std::size_t receive_count = 0;
  std::size_t receive_buffer_bytes = 0;  // room offered by the last receive
  bool is_shut_down = false;
  bool is_destroyed = false;
  std::function<void()> wake;  // set by the stream

  void push(std::span<const std::byte> bytes) {
    input.insert(input.end(), bytes.begin(), bytes.end());
    poke();
  }
  // With the next bytes pushed.
  void pass(Descriptor descriptor) {
    passed.push_back({received_bytes + input.size(), std::move(descriptor)});
  }
  void end_input() {
    input_ended = true;
    poke();
  }
  void set_reading(bool value) {
    reading = value;
    poke();
  }
  void poke() {
    if (wake) wake();
  }
  std::vector<std::byte> take_output() { return std::exchange(output, {}); }
};

class TestStream final : public Stream {
 public:
  TestStream(Executor& executor, std::shared_ptr<TestPeer> peer)
      : executor_(executor), peer_(std::move(peer)) {
    peer_->wake = [this] { executor_.defer(progress_); };
  }
  ~TestStream() override {
    HOLDFAST_ASSERT(receive_ == nullptr && send_ == nullptr);
    peer_->wake = nullptr;
    peer_->is_destroyed = true;
  }

  void receive(StreamRequest& request, std::span<std::byte> buffer) override {
    start_receive(request, buffer, nullptr);
  }
  void receive_message(StreamRequest& request, std::span<std::byte> buffer,
                       std::vector<Descriptor>& descriptors) override {
    start_receive(request, buffer, &descriptors);
  }
  void send_message(StreamRequest& request, std::span<iovec> vectors,
                    const Descriptor& descriptor) override {
    peer_->sent_descriptors.emplace_back(dup(descriptor.get()));
    send(request, vectors);
  }
  void send(StreamRequest& request, std::span<iovec> vectors) override {
    HOLDFAST_ASSERT(send_ == nullptr && !vectors.empty());
    send_ = &request;
    send_vectors_ = vectors;
    executor_.post([alive = std::weak_ptr<int>(alive_), this] {
      if (!alive.expired()) progress();
    });
  }
  void shutdown() override {
    peer_->is_shut_down = true;
    executor_.defer(progress_);
  }

 private:
  void start_receive(StreamRequest& request, std::span<std::byte> buffer,
                     std::vector<Descriptor>* descriptors) {
    HOLDFAST_ASSERT(receive_ == nullptr && !buffer.empty());
    receive_ = &request;
    receive_buffer_ = buffer;
    receive_descriptors_ = descriptors;
    peer_->receive_buffer_bytes = buffer.size();
    executor_.post([alive = std::weak_ptr<int>(alive_), this] {
      if (!alive.expired()) progress();
    });
  }
  void progress() {
    progress_send();
    progress_receive();
  }
  void progress_send() {
    if (send_ == nullptr) return;
    if (peer_->is_shut_down || peer_->send_error != 0) {
      finish(send_, peer_->is_shut_down ? EPIPE : peer_->send_error, 0);
      return;
    }
    if (!peer_->reading) return;
    std::size_t total_bytes = 0;
    for (iovec& vector : send_vectors_) {
      const auto* from = static_cast<const std::byte*>(vector.iov_base);
      peer_->output.insert(peer_->output.end(), from, from + vector.iov_len);
      total_bytes += vector.iov_len;
      vector = {};  // the contract allows it; whoever relies on them afterwards is caught
    }
    ++peer_->send_count;
    finish(send_, 0, total_bytes);
  }
  void progress_receive() {
    if (receive_ == nullptr) return;
    if (peer_->is_shut_down) return finish(receive_, 0, 0);
    if (peer_->input.empty()) {
      if (peer_->receive_error != 0) return finish(receive_, peer_->receive_error, 0);
      if (peer_->input_ended) finish(receive_, 0, 0);
      return;
    }
    std::size_t count = std::min(peer_->input.size(), receive_buffer_.size());
    if (!peer_->piece_bytes.empty()) {
      count = std::min(count, std::max<std::size_t>(1, peer_->piece_bytes.front()));
      peer_->piece_bytes.pop_front();
    } else {
      count = std::min(count, std::max<std::size_t>(1, peer_->receive_bytes_max));
    }
    const auto end = peer_->input.begin() + static_cast<std::ptrdiff_t>(count);
    std::copy(peer_->input.begin(), end, receive_buffer_.begin());
    peer_->input.erase(peer_->input.begin(), end);
    ++peer_->receive_count;
    peer_->received_bytes += count;
    while (!peer_->passed.empty() && peer_->passed.front().position_bytes < peer_->received_bytes) {
      if (receive_descriptors_ != nullptr) {
        receive_descriptors_->push_back(std::move(peer_->passed.front().descriptor));
      }
      peer_->passed.pop_front();
    }
    finish(receive_, 0, count);
  }
  static void finish(StreamRequest*& slot, int error, std::size_t transferred) {
    StreamRequest& request = *std::exchange(slot, nullptr);
    request.error = error;
    request.transferred = transferred;
    request.on_complete(request);
  }

  Executor& executor_;
  std::shared_ptr<TestPeer> peer_;
  StreamRequest* receive_ = nullptr;
  std::span<std::byte> receive_buffer_;
  std::vector<Descriptor>* receive_descriptors_ = nullptr;
  StreamRequest* send_ = nullptr;
  std::span<iovec> send_vectors_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
  Deferred progress_{[](void* context) { static_cast<TestStream*>(context)->progress(); }, this};
};

}  // namespace holdfast
