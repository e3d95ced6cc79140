// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/server.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"

namespace holdfast {

NbdServer::NbdServer(Executor& executor, NbdExport exported)
    : context_{executor,
               std::move(exported),
               {},
               nbd::BufferPool(limits::kNbdPooledBytesMax),
               {},
               0,
               0,
               Deferred([](void* self) { static_cast<NbdServer*>(self)->reap(); }, this),
               Timer([](void* self) { static_cast<NbdServer*>(self)->trim_if_idle(); }, this)},
      connection_gone_(executor) {}

NbdServer::~NbdServer() {
  HOLDFAST_ASSERT(connections_.empty());
}

void NbdServer::accept(std::unique_ptr<Stream> stream) {
  if (closing_ || connections_.size() >= limits::kNbdConnectionsPerExportMax) {
    if (!closing_) context_.statistics.count(NbdFault::too_many_connections);
    return stream->shutdown();
  }
  ++context_.statistics.connections_accepted;
  connections_.push_back(std::make_unique<nbd::Connection>(context_, std::move(stream)));
  context_.connection_count = connections_.size();
  connections_.back()->start();
  context_.note_activity();
}

std::size_t NbdServer::client_count() const {
  return static_cast<std::size_t>(
      std::count_if(connections_.begin(), connections_.end(),
                    [](const auto& connection) { return connection->has_peer(); }));
}

Task<void> NbdServer::close() {
  closing_ = true;
  for (const auto& connection : connections_) connection->abort();
  while (!connections_.empty()) co_await connection_gone_.wait();
}

// Connections report themselves finished from inside their own calls, so they are destroyed here.
void NbdServer::reap() {
  std::erase_if(connections_, [](const auto& connection) { return connection->is_finished(); });
  context_.connection_count = connections_.size();
  connection_gone_.notify_all();
}

// An idle export keeps no memory but a small chunk per connection, and no timer.
void NbdServer::trim_if_idle() {
  if (context_.statistics.receives != receives_at_last_tick_) {
    receives_at_last_tick_ = context_.statistics.receives;
    return context_.note_activity();
  }
  context_.buffers.trim();
  context_.requests.trim();
}

}  // namespace holdfast
