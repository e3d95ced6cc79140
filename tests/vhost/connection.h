// SPDX-License-Identifier: Apache-2.0
//
// One vhost-user connection: any message with any descriptors goes out, replies come in. What is
// allowed when is the caller's business; a test may be as rude as it likes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "vhost/fd.h"
#include "vhost/protocol.h"

namespace holdfast::vhost_frontend {

using Milliseconds = std::chrono::milliseconds;

struct Message {
  std::uint32_t request = 0;
  std::uint32_t flags = 0;
  std::vector<std::byte> payload;
  std::vector<Fd> fds;

  // The payload as a T; an error when it has another length.
  template <typename T>
  Result<T> as() const {
    T value;
    TRY(copy_payload({reinterpret_cast<std::byte*>(&value), sizeof value}));
    return value;
  }

 private:
  Result<void> copy_payload(std::span<std::byte> to) const;
};

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

class VhostConnection {
 public:
  // Tries once. `timeout` holds for connecting and each message after it.
  static Result<VhostConnection> connect(const std::string& path, Milliseconds timeout);
  // Around one end of a socketpair: the channel on which the back-end sends.
  VhostConnection(Fd socket, Milliseconds timeout)
      : socket_(std::move(socket)), timeout_(timeout) {}

  // `flags` are added to the protocol's version.
  Result<void> send(std::uint32_t request, std::span<const std::byte> payload = {},
                    std::span<const int> fds = {}, std::uint32_t flags = 0);
  // Any bytes at all.
  Result<void> send_bytes(std::span<const std::byte> bytes, std::span<const int> fds = {});
  // A whole message. path_failure: the peer closed the connection. busy: nothing came in time.
  Result<Message> receive() { return receive(timeout_); }
  Result<Message> receive(Milliseconds timeout);

  // send(), then a reply to the same request with the right flags.
  Result<Message> call(std::uint32_t request, std::span<const std::byte> payload = {},
                       std::span<const int> fds = {});
  Result<std::uint64_t> call_number(std::uint32_t request);
  // send() with NEED_REPLY, then the number that the server acknowledges with (0: done).
  Result<std::uint64_t> acknowledged(std::uint32_t request, std::span<const std::byte> payload = {},
                                     std::span<const int> fds = {});

  // Hostile: after so many more messages the peer is gone, in the middle of the last if wanted.
  void vanish_after(std::uint64_t messages, bool inside_the_last) {
    messages_left_ = messages;
    vanish_inside_ = inside_the_last;
  }

  // The peer hung up within `timeout`.
  bool wait_closed(Milliseconds timeout);
  void close() { socket_.reset(); }
  bool is_open() const { return socket_.is_open(); }
  int fd() const { return socket_.number(); }

 private:
  Result<void> receive_exactly(std::span<std::byte> bytes, std::vector<Fd>& fds,
                               Milliseconds timeout);

  Fd socket_;
  Milliseconds timeout_;
  std::uint64_t messages_left_ = ~std::uint64_t{0};
  bool vanish_inside_ = false;
};

}  // namespace holdfast::vhost_frontend
