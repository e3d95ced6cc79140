// SPDX-License-Identifier: Apache-2.0
#include "host/qmp_connection.h"

#include <cstring>
#include <utility>

#include "base/bytes.h"

namespace holdfast {
namespace {

// Awaits one receive.
struct Receive {
  StreamRequest request;
  Stream& stream;
  std::span<std::byte> buffer;
  std::coroutine_handle<> waiting;

  Receive(Stream& stream_value, std::span<std::byte> buffer_value)
      : stream(stream_value), buffer(buffer_value) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    waiting = handle;
    request.context = this;
    request.on_complete = [](StreamRequest& done) {
      static_cast<Receive*>(done.context)->waiting.resume();
    };
    stream.receive(request, buffer);
  }
  void await_resume() const noexcept {}
};

}  // namespace

QmpConnection::QmpConnection(Executor& executor, std::unique_ptr<Stream> stream)
    : executor_(executor), changed_(executor), stream_(std::move(stream)) {
  is_receiving_ = true;
  tasks_.spawn(receive_all());
}

Task<void> QmpConnection::receive_all() {
  while (!is_lost()) {
    Receive receive(*stream_, buffer_);
    co_await receive;
    if (is_lost()) break;
    if (receive.request.error != 0) {
      lose(std::string("the monitor: ") + std::strerror(receive.request.error));
    } else if (receive.request.transferred == 0) {
      lose("QEMU closed its monitor");
    } else {
      const std::string_view text =
          as_text(std::span<const std::byte>(buffer_).first(receive.request.transferred));
      const auto on_message = [this](std::string_view whole) { take(parse_qmp_message(whole)); };
      if (!framer_.feed(text, on_message)) lose("what came is not QMP; is this QEMU's monitor?");
    }
  }
  is_receiving_ = false;
  changed_.notify_all();
}

void QmpConnection::take(const QmpMessage& message) {
  switch (message.kind) {
    case QmpMessage::Kind::unknown:
      return;
    case QmpMessage::Kind::greeting:
      is_greeted_ = true;
      break;
    case QmpMessage::Kind::event:
      // Others than these are no business of ours, and may be many.
      if (message.text != "STOP" && message.text != "RESUME") return;
      if (events_.size() == limits::kQmpEventsMax) return lose("too many events");
      events_.push_back(message.text);
      break;
    case QmpMessage::Kind::success:
    case QmpMessage::Kind::failure:
      if (message.id == 0 || message.id > last_id_) return;
      if (answers_.size() == limits::kQmpEventsMax) return lose("too many answers");
      answers_.push_back(message);
      break;
  }
  changed_.notify_all();
}

void QmpConnection::lose(std::string why) {
  if (is_lost()) return;
  lost_ = std::move(why);
  stream_->shutdown();
  changed_.notify_all();
}

Task<void> QmpConnection::wait(Duration time) {
  executor_.arm_after(timer_, time);
  co_await changed_.wait();
}

Task<Result<void>> QmpConnection::negotiate() {
  const MonotonicTime deadline = executor_.now() + limits::kQmpTime;
  while (!is_greeted_) {
    if (!is_lost() && executor_.now() >= deadline) {
      lose("no greeting came; QEMU's monitor serves one client at a time");
    }
    if (is_lost()) co_return lost_error();
    co_await wait(deadline - executor_.now());
  }
  CO_TRY(co_await execute("qmp_capabilities"));
  co_return Result<void>{};
}

Task<Result<std::uint64_t>> QmpConnection::send(std::string command) {
  const MonotonicTime deadline = executor_.now() + limits::kQmpTime;
  const std::uint64_t id = ++last_id_;
  send_text_ = encode_qmp_command(command, id);
  send_vector_ = {send_text_.data(), send_text_.size()};
  send_request_.context = this;
  send_request_.on_complete = [](StreamRequest& done) {
    auto* self = static_cast<QmpConnection*>(done.context);
    self->is_sending_ = false;
    if (done.error != 0) self->lose(std::string("the monitor: ") + std::strerror(done.error));
    self->changed_.notify_all();
  };
  if (is_lost()) co_return lost_error();
  is_sending_ = true;
  stream_->send(send_request_, {&send_vector_, 1});
  while (is_sending_) {
    if (executor_.now() >= deadline) lose("the monitor does not read");
    if (is_lost()) co_return lost_error();
    co_await wait(deadline - executor_.now());
  }
  co_return id;
}

std::optional<Result<QmpMessage>> QmpConnection::take_answer(std::uint64_t id) {
  for (std::size_t i = 0; i < answers_.size(); ++i) {
    if (answers_[i].id != id) continue;
    QmpMessage answer = std::move(answers_[i]);
    answers_.erase(answers_.begin() + static_cast<std::ptrdiff_t>(i));
    if (answer.kind == QmpMessage::Kind::success) return answer;
    return Error(ErrorCode::invalid_argument, "QEMU refused: " + answer.text);
  }
  if (is_lost()) return lost_error();
  return std::nullopt;
}

Task<Result<QmpMessage>> QmpConnection::execute(std::string command) {
  const MonotonicTime deadline = executor_.now() + limits::kQmpTime;
  CO_TRY_ASSIGN(const std::uint64_t id, co_await send(command));
  for (;;) {
    std::optional<Result<QmpMessage>> answer = take_answer(id);
    if (answer.has_value()) co_return std::move(*answer);
    if (executor_.now() >= deadline) {
      lose("the monitor does not answer to " + command);
      co_return lost_error();
    }
    co_await wait(deadline - executor_.now());
  }
}

std::optional<std::string> QmpConnection::take_event() {
  if (events_.empty()) return std::nullopt;
  std::string event = std::move(events_.front());
  events_.erase(events_.begin());
  return event;
}

Task<void> QmpConnection::close() {
  lose("closed");
  while (is_receiving_ || is_sending_) co_await changed_.wait();
  executor_.cancel(timer_);
}

}  // namespace holdfast
