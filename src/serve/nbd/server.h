// SPDX-License-Identifier: Apache-2.0
//
// NbdServer: serves one block device under one export name to any number of NBD clients (bounded),
// over streams that somebody else accepted. What a client does wrong ends only its own request or
// connection, with a counted reason; what it makes us buffer is bounded.
//
// Thread: the executor's, which is that of the device. Lifetime: close() must have finished before
// the server is destroyed; the executor and the device outlive it.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "io/executor.h"
#include "io/stream.h"
#include "io/task.h"
#include "serve/nbd/connection.h"
#include "serve/nbd/export.h"
#include "serve/nbd/statistics.h"

namespace holdfast {

class NbdServer {
 public:
  NbdServer(Executor& executor, NbdExport exported);
  NbdServer(const NbdServer&) = delete;
  NbdServer& operator=(const NbdServer&) = delete;
  ~NbdServer();

  // Starts the handshake on it; refused (closed at once) when there are too many, or after close().
  void accept(std::unique_ptr<Stream> stream);

  // Takes no more connections, shuts down all there are, and waits until every request in the
  // device has completed. May be called again.
  Task<void> close();

  std::size_t connection_count() const { return context_.connection_count; }
  std::size_t client_count() const;  // of these, those whose peer is still there
  // Taken and not yet answered, of all connections.
  std::size_t request_count() const { return context_.requests.used(); }
  std::size_t buffer_bytes() const {
    return context_.buffers.used_bytes() + context_.buffers.free_bytes();
  }
  const NbdStatistics& statistics() const { return context_.statistics; }
  const NbdExport& exported() const { return context_.exported; }

 private:
  void reap();
  void trim_if_idle();

  nbd::ExportContext context_;
  std::vector<std::unique_ptr<nbd::Connection>> connections_;
  Condition connection_gone_;
  bool closing_ = false;
  std::uint64_t receives_at_last_tick_ = 0;
};

}  // namespace holdfast
