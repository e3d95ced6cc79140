// SPDX-License-Identifier: Apache-2.0
//
// A connected byte stream and its listener (unix sockets in the daemon, a script in tests and fuzz
// targets). Threading: the executor's. At most one receive and one send are in flight at a time.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "io/descriptor.h"

namespace holdfast {

// One receive or send. Owned by the caller until on_complete (never called from inside the call).
struct StreamRequest {
  using Callback = void (*)(StreamRequest& request);
  Callback on_complete = nullptr;
  void* context = nullptr;
  int error = 0;                // 0 or a positive errno
  std::size_t transferred = 0;  // bytes; receive: 0 without error is the end of the stream
};

class Stream {
 public:
  // Cancels nothing: shutdown() first and wait for the callbacks.
  virtual ~Stream() = default;
  // Receives at least one byte into `buffer` (or the end of the stream).
  virtual void receive(StreamRequest& request, std::span<std::byte> buffer) = 0;
  // The same, and appends the descriptors that the peer passed along with these bytes.
  virtual void receive_message(StreamRequest& request, std::span<std::byte> buffer,
                               std::vector<Descriptor>& descriptors) = 0;
  // Sends everything (short sends are completed below) or fails. The vectors may be modified.
  virtual void send(StreamRequest& request, std::span<iovec> vectors) = 0;
  // The same, and passes `descriptor` (a copy of it) along with the first byte; it stays open until
  // on_complete.
  virtual void send_message(StreamRequest& request, std::span<iovec> vectors,
                            const Descriptor& descriptor) = 0;
  // Makes requests in flight complete soon (with an error or the end of the stream).
  virtual void shutdown() = 0;
};

// Exists and listens from the start, so that clients can connect and wait; takes them from
// start_accepting() on.
class Listener {
 public:
  virtual ~Listener() = default;  // stops listening and removes the socket's name
  virtual void start_accepting() = 0;  // once
};

}  // namespace holdfast
