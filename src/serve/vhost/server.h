// SPDX-License-Identifier: Apache-2.0
//
// VhostServer: one block device as a vhost-user-blk back-end, for virtual machines that connect to
// its socket. Several may be connected, so that one can take over from another (live migration, a
// restarted virtual machine), but only one session at a time runs its queues: the next waits until
// the queues of the one before have stopped and nothing of it is in flight.
//
// What a peer does wrong ends its own session or breaks its own device, with a counted reason.
//
// Thread: the executor's, which is that of the device. Lifetime: close() must have finished before
// the server is destroyed; the executor and the device outlive it.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "block/block_device.h"
#include "io/event_watch.h"
#include "io/executor.h"
#include "io/stream.h"
#include "io/task.h"
#include "serve/vhost/statistics.h"

namespace holdfast {

namespace vhost {
class Session;
}

// The server's way to the outside, so that tests can give their own.
struct VhostEnvironment {
  Executor& executor;
  WatchEvent watch_event;
  // For the channel that a front-end offers for messages to it. Null: not a unix socket.
  std::function<std::unique_ptr<Stream>(Descriptor)> make_stream;

  static VhostEnvironment on(Loop& loop);
};

class VhostServer {
 public:
  VhostServer(VhostEnvironment environment, BlockDevice& device, bool read_only);
  VhostServer(const VhostServer&) = delete;
  VhostServer& operator=(const VhostServer&) = delete;
  ~VhostServer();

  void accept(std::unique_ptr<Stream> stream);
  // Answers what is in flight, then ends all sessions. May be called again.
  Task<void> close();
  // The device has another size: tells the guests.
  void announce_size();

  std::size_t session_count() const { return sessions_.size(); }
  // Taken from guests and not yet answered.
  std::size_t request_count() const;
  const VhostStatistics& statistics() const { return statistics_; }

 private:
  friend class vhost::Session;

  // For sessions: may this one start queues now? If not, it is called back when it may.
  bool claim(vhost::Session& session);
  void give_up(vhost::Session& session);
  void reap();

  VhostEnvironment environment_;
  BlockDevice& device_;
  const bool read_only_;
  VhostStatistics statistics_;
  std::vector<std::unique_ptr<vhost::Session>> sessions_;
  vhost::Session* owner_ = nullptr;  // whose queues may run
  bool closing_ = false;
  Condition session_gone_;
  Deferred reap_;
};

}  // namespace holdfast
