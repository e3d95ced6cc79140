// SPDX-License-Identifier: Apache-2.0
#include "serve/vhost/server.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "io/unix_socket.h"
#include "serve/vhost/session.h"

namespace holdfast {

using vhost::Session;

VhostEnvironment VhostEnvironment::on(Loop& loop) {
  return {.executor = loop,
          .watch_event =
              [&loop](Descriptor event, EventWatch::Callback callback, void* context) {
                return holdfast::watch_event(loop, std::move(event), callback, context);
              },
          .make_stream =
              [&loop](Descriptor descriptor) { return adopt_stream(loop, std::move(descriptor)); }};
}

VhostServer::VhostServer(VhostEnvironment environment, BlockDevice& device, bool read_only)
    : environment_(std::move(environment)),
      device_(device),
      read_only_(read_only || device.info().read_only),
      session_gone_(environment_.executor),
      reap_([](void* self) { static_cast<VhostServer*>(self)->reap(); }, this) {}

VhostServer::~VhostServer() {
  HOLDFAST_ASSERT(sessions_.empty());
}

void VhostServer::accept(std::unique_ptr<Stream> stream) {
  if (closing_ || sessions_.size() >= limits::kVhostSessionsMax) {
    if (!closing_) statistics_.count(VhostFault::session_limit);
    return stream->shutdown();
  }
  ++statistics_.sessions_accepted;
  sessions_.push_back(std::make_unique<Session>(*this, std::move(stream)));
  sessions_.back()->start();
}

Task<void> VhostServer::close() {
  closing_ = true;
  for (const auto& session : sessions_) session->begin_close();
  while (!sessions_.empty()) co_await session_gone_.wait();
}

void VhostServer::announce_size() {
  for (const auto& session : sessions_) session->announce_config();
}

std::size_t VhostServer::request_count() const {
  std::size_t count = 0;
  for (const auto& session : sessions_) count += session->request_count();
  return count;
}

bool VhostServer::claim(Session& session) {
  if (owner_ == nullptr) owner_ = &session;
  return owner_ == &session;
}

void VhostServer::give_up(Session& session) {
  if (owner_ != &session) return;
  owner_ = nullptr;
  for (const auto& other : sessions_) {
    if (other.get() != &session && owner_ == nullptr) other->start_queues();
  }
}

// Sessions report themselves finished from inside their own calls, so they are destroyed here.
void VhostServer::reap() {
  std::erase_if(sessions_, [](const auto& session) { return session->is_finished(); });
  session_gone_.notify_all();
}

}  // namespace holdfast
