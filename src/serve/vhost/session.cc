// SPDX-License-Identifier: Apache-2.0
#include "serve/vhost/session.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "base/log.h"

namespace holdfast::vhost {

// Awaits one receive or send.
struct Session::Transfer {
  StreamRequest request;
  std::coroutine_handle<> waiting;

  void prepare(std::coroutine_handle<> handle) {
    waiting = handle;
    request.context = this;
    request.on_complete = [](StreamRequest& done) {
      static_cast<Transfer*>(done.context)->waiting.resume();
    };
  }
};

Session::Session(VhostServer& server, std::unique_ptr<Stream> stream)
    : server_(server),
      stream_(std::move(stream)),
      device_(
          server.environment_.executor, server.device_, server.statistics_,
          [](void* self) { static_cast<Session*>(self)->publish(); }, this),
      poller_([](void* self) { return static_cast<Session*>(self)->look(); }, this),
      progress_(server.environment_.executor) {
  device_.read_only = server.read_only_;
  // As much of the volume's id as fits.
  std::string serial = server.device_.info().id.to_string();
  std::erase(serial, '-');
  serial.resize(kSerialBytes);
  std::copy_n(as_bytes(serial).begin(), kSerialBytes, device_.serial.begin());
  for (std::size_t i = 0; i < limits::kVhostQueuesMax; ++i) {
    queues_.push_back(std::make_unique<Queue>(device_));
  }
}

Session::~Session() {
  HOLDFAST_ASSERT(is_finished_);
}

Task<void> Session::run() {
  for (;;) {
    Message message;
    const bool received = co_await receive_message(message);
    if (!received || is_closing_) break;
    const MessageHeader header = message.header;
    std::optional<Answer> answer = co_await handle(message);
    if (!answer.has_value() || is_closing_) break;
    const bool sent = co_await send_answer(header, std::move(*answer));
    if (!sent) break;
    start_queues();
  }
  begin_close();
  stop_queues();
  co_await wait_for_queues();
  backend_channel_.reset();
  is_finished_ = true;
  server_.give_up(*this);
  server_.environment_.executor.defer(server_.reap_);
}

void Session::begin_close() {
  if (is_closing_) return;
  is_closing_ = true;
  stop_queues();
  // The messages end once nothing is in flight: run() may wait for just that.
  struct Ender {
    static Task<void> run(Session& self) {
      co_await self.wait_for_queues();
      self.stream_->shutdown();
      self.progress_.notify_all();
    }
  };
  tasks_.spawn(Ender::run(*this));
}

// --- Messages on the socket ---

Task<bool> Session::receive_exactly(std::span<std::byte> into, Message& message, bool may_end) {
  struct Receive : Transfer {
    Stream& stream;
    std::span<std::byte> buffer;
    std::vector<Descriptor>& descriptors;
    Receive(Stream& stream_value, std::span<std::byte> buffer_value,
            std::vector<Descriptor>& descriptors_value)
        : stream(stream_value), buffer(buffer_value), descriptors(descriptors_value) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      prepare(handle);
      stream.receive_message(request, buffer, descriptors);
    }
    void await_resume() const noexcept {}
  };
  const std::size_t wanted_bytes = into.size();
  while (!into.empty()) {
    Receive receive(*stream_, into, message.descriptors);
    co_await receive;
    if (receive.request.error != 0) ++device_.statistics.sessions_lost;
    if (receive.request.error != 0 || receive.request.transferred == 0) {
      if (!may_end || into.size() != wanted_bytes) {
        device_.statistics.count(VhostFault::message_truncated);
      }
      co_return false;
    }
    if (message.descriptors.size() > kMemTableRegionsMax) {
      device_.statistics.count(VhostFault::message_malformed);
      co_return false;
    }
    into = into.subspan(receive.request.transferred);
  }
  co_return true;
}

Task<bool> Session::receive_message(Message& message) {
  std::array<std::byte, kMessageHeaderBytes> bytes;
  const bool has_header = co_await receive_exactly(bytes, message, true);
  if (!has_header) co_return false;
  ByteReader in(bytes);
  message.header.type = static_cast<MessageType>(in.get<std::uint32_t>());
  message.header.flags = in.get<std::uint32_t>();
  message.header.payload_bytes = in.get<std::uint32_t>();
  if ((message.header.flags & kMessageVersionMask) != kMessageVersion) {
    device_.statistics.count(VhostFault::message_malformed);
    co_return false;
  }
  if (message.header.payload_bytes > limits::kVhostMessageBytesMax) {
    device_.statistics.count(VhostFault::message_too_big);
    co_return false;
  }
  message.payload.resize(message.header.payload_bytes);
  const bool has_payload = co_await receive_exactly(message.payload, message, false);
  co_return has_payload;
}

Task<bool> Session::send_answer(MessageHeader header, Answer answer) {
  struct Send : Transfer {
    Stream& stream;
    iovec vector;
    const Descriptor* descriptor;
    Send(Stream& stream_value, std::vector<std::byte>& bytes, const Descriptor* descriptor_value)
        : stream(stream_value), vector{bytes.data(), bytes.size()}, descriptor(descriptor_value) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      prepare(handle);
      const std::span<iovec> vectors(&vector, 1);
      if (descriptor != nullptr) {
        stream.send_message(request, vectors, *descriptor);
      } else {
        stream.send(request, vectors);
      }
    }
    void await_resume() const noexcept {}
  };
  if (!answer.is_reply) {
    if (!header.needs_reply() || (protocol_features_ & bit(kProtocolReplyAck)) == 0) {
      co_return true;
    }
    answer.payload.resize(sizeof(std::uint64_t));
    store_little<std::uint64_t>(answer.payload.data(), answer.refused ? 1 : 0);
  }
  std::vector<std::byte> bytes(kMessageHeaderBytes + answer.payload.size());
  ByteWriter out(bytes);
  out.put(static_cast<std::uint32_t>(header.type));
  out.put<std::uint32_t>(kMessageVersion | kMessageReply);
  out.put(static_cast<std::uint32_t>(answer.payload.size()));
  out.put_bytes(answer.payload);
  Send send(*stream_, bytes, answer.descriptor.has_value() ? &*answer.descriptor : nullptr);
  co_await send;
  if (send.request.error != 0) ++device_.statistics.sessions_lost;
  co_return send.request.error == 0;
}

// --- Queues ---

void Session::start_queues() {
  if (is_closing_ || device_.is_broken) return;
  // In the handshake of a back-end that comes back during a migration the log comes last.
  if (device_.is_logging && !device_.log.is_there()) return;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    Queue& queue = *queues_[i];
    if (!queue.is_stopped() || !queue.can_start()) continue;
    if (!server_.claim(*this)) return;
    if (!poller_.link.is_linked()) device_.executor.add(poller_);
    queue.start(inflight_ == nullptr ? QueueInflight() : inflight_->queue(i));
    running_.push_back(&queue);
    wake();
  }
}

void Session::stop_queues() {
  for (const auto& queue : queues_) queue->stop();
}

bool Session::is_any_queue_active() const {
  return std::any_of(queues_.begin(), queues_.end(),
                     [](const auto& queue) { return !queue->is_stopped(); });
}

Task<void> Session::wait_for_queue(Queue& queue) {
  while (!queue.is_stopped()) {
    give_up_held();
    co_await progress_.wait();
  }
  std::erase(running_, &queue);
  if (is_any_queue_active()) co_return;
  // As after a reset by the guest: another chance, for it or for another session.
  device_.is_broken = false;
  // QEMU has taken what is in the log by the time that it starts queues again, gives another log
  // then, and may do that after they run.
  device_.log.expect_successor();
  poller_.remove();
  server_.give_up(*this);
}

Task<void> Session::wait_for_queues() {
  while (is_any_queue_active()) {
    give_up_held();
    co_await progress_.wait();
  }
}

// Whoever stops queues must not wait for storage that is full or unreachable: QEMU waits for its
// answer with everything it does, for as long as it takes.
void Session::give_up_held() {
  for (const auto& queue : queues_) queue->give_up_held();
  device_.executor.arm_after(held_timer_, limits::kHeldLookTime);
}

// At the end of a turn in which requests were done.
void Session::publish() {
  if (!device_.is_broken && (device_.memory.is_lost() || device_.log.is_lost() ||
                             (inflight_ != nullptr && inflight_->is_lost()))) {
    device_.break_down(VhostFault::memory_lost);
  }
  if (device_.is_broken && !std::exchange(has_logged_, true)) {
    log_warning("volume " + device_.block.info().name + ": the guest's virtio device is broken (" +
                std::string(vhost_fault_name(device_.broken_by)) +
                "): its driver broke the rules of its queues; it takes no more requests until the "
                "guest resets it");
    for (const auto& queue : queues_) queue->signal_error();
  }
  bool has_published = false;
  for (Queue* queue : running_) {
    if (queue->publish()) has_published = true;
  }
  if (has_published) {
    last_publish_ = device_.executor.now();
    look_until_ = last_publish_ + window_;
    if (window_ > Duration::zero()) {
      wake();
      for (Queue* queue : running_) queue->stop_asking();
    }
  }
  if (device_.is_stalled && !device_.long_requests.is_exhausted()) {
    device_.is_stalled = false;
    wake();
  }
  tell_of_log();
  progress_.notify_all();
}

void Session::tell_of_log() {
  if (std::exchange(device_.has_logged, false) && log_event_.is_open()) signal_event(log_event_);
}

// There may be something to find. Often said at the end of a turn, behind its looks.
void Session::wake() {
  is_awake_ = true;
  poller_.wake();
}

// Called in every turn. True: look again before sleeping.
bool Session::look() {
  if (!is_awake_) return false;
  bool has_found = false;
  for (Queue* queue : running_) {
    if (queue->take_requests()) has_found = true;
  }
  if (has_found && !std::exchange(was_kicked_, false)) ++device_.statistics.polled;
  if (device_.executor.now() < look_until_) return true;
  is_awake_ = false;
  for (Queue* queue : running_) {
    if (queue->ask_for_kick()) is_awake_ = true;
  }
  // Without room for long requests the end of one of those in flight wakes us.
  return is_awake_ && !device_.is_stalled;
}

// A guest that comes back soon after its answers is worth waiting for awake; others are not.
void Session::on_kick() {
  ++device_.statistics.kicks;
  was_kicked_ = true;
  wake();
  const Duration reaction = device_.executor.now() - last_publish_;
  if (reaction < limits::kVhostPollTimeMax) {
    window_ = std::clamp(window_ * 2, limits::kVhostPollTimeMin, limits::kVhostPollTimeMax);
  } else {
    window_ = window_ / 2 < limits::kVhostPollTimeMin ? Duration{} : window_ / 2;
  }
}

// --- Configuration changes ---

void Session::announce_config() {
  if (backend_channel_ == nullptr) return;
  must_send_config_ = true;
  send_config_change();
}

void Session::send_config_change() {
  if (is_sending_config_ || !must_send_config_) return;
  must_send_config_ = false;
  is_sending_config_ = true;
  ByteWriter out(config_message_);
  out.put(static_cast<std::uint32_t>(BackendMessageType::config_change));
  out.put<std::uint32_t>(kMessageVersion);
  out.put<std::uint32_t>(0);
  config_vector_ = {config_message_.data(), config_message_.size()};
  config_request_.context = this;
  config_request_.on_complete = [](StreamRequest& request) {
    auto* self = static_cast<Session*>(request.context);
    self->is_sending_config_ = false;
    if (request.error == 0) return self->send_config_change();
  };
  backend_channel_->send(config_request_, {&config_vector_, 1});
}

}  // namespace holdfast::vhost
