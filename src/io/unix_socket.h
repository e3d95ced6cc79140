// SPDX-License-Identifier: Apache-2.0
//
// Streams and listeners on unix sockets, through the loop's io_uring.
//
// Threading: the loop's thread. A stream or listener may be destroyed at any time, also in its own
// callbacks: requests in flight are then dropped without a callback, and neither their memory nor
// their buffers are touched any more. The loop outlives both.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "io/descriptor.h"
#include "io/loop.h"
#include "io/stream.h"

namespace holdfast {

// Takes over a connected stream socket.
std::unique_ptr<Stream> make_stream(Loop& loop, int descriptor);

// The same for a descriptor that came from somewhere else; null: not a unix stream socket.
std::unique_ptr<Stream> adopt_stream(Loop& loop, Descriptor descriptor);

Result<std::unique_ptr<Stream>> connect_unix(Loop& loop, const std::string& path);

using AcceptCallback = std::function<void(std::unique_ptr<Stream>)>;

// What to do with a socket that somebody listens on.
enum class LivingListener {
  refuse,  // `busy`
  // For a caller who knows that the path is its own. The sockets of a killed process live on until
  // the kernel has finished its last disk I/O.
  replace,
};

// Listens at `path`; accepts after Listener::start_accepting(). A socket file left behind by a dead
// process is replaced without a moment in which the path is missing; anything but a socket is
// `already_exists`.
Result<std::unique_ptr<Listener>> listen_unix(Loop& loop, std::string path, mode_t mode,
                                              AcceptCallback on_accept,
                                              LivingListener living = LivingListener::refuse);

}  // namespace holdfast
