// SPDX-License-Identifier: Apache-2.0
//
// One connection to QEMU's monitor. Every wait has an end: a monitor that is silent, or does not
// read, costs its own connection only.
//
// Thread: the executor's. Lifetime: close() must have finished before it is destroyed (but when the
// stream belongs to a loop, which drops what is in flight).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "base/result.h"
#include "host/qmp_protocol.h"
#include "io/executor.h"
#include "io/stream.h"
#include "io/task.h"

namespace holdfast {

class QmpConnection {
 public:
  QmpConnection(Executor& executor, std::unique_ptr<Stream> stream);
  QmpConnection(const QmpConnection&) = delete;
  QmpConnection& operator=(const QmpConnection&) = delete;

  // The greeting, then the capabilities.
  Task<Result<void>> negotiate();
  // Sends and waits for the answer, at most limits::kQmpTime. A failure that the monitor answers is
  // invalid_argument, all others end the connection.
  Task<Result<QmpMessage>> execute(std::string command);
  // The two halves of it.
  Task<Result<std::uint64_t>> send(std::string command);
  // Nothing: not yet.
  std::optional<Result<QmpMessage>> take_answer(std::uint64_t id);

  // The oldest event that nobody has taken.
  std::optional<std::string> take_event();
  bool is_lost() const { return !lost_.empty(); }
  Error lost_error() const { return {ErrorCode::path_failure, lost_}; }
  // Something came, or the connection is lost, or the time is over.
  Task<void> wait(Duration time);
  Task<void> close();

 private:
  Task<void> receive_all();
  void take(const QmpMessage& message);
  void lose(std::string why);

  Executor& executor_;
  Condition changed_;
  Timer timer_{[](void* self) { static_cast<QmpConnection*>(self)->changed_.notify_all(); }, this};
  QmpFramer framer_;
  std::array<std::byte, limits::kQmpReceiveBytes> buffer_{};
  std::vector<std::string> events_;
  std::vector<QmpMessage> answers_;
  bool is_greeted_ = false;
  bool is_receiving_ = false;
  std::uint64_t last_id_ = 0;
  std::string lost_;  // why; empty: it is there
  StreamRequest send_request_;
  std::string send_text_;
  iovec send_vector_{};
  bool is_sending_ = false;
  TaskScope tasks_;
  std::unique_ptr<Stream> stream_;  // last: what it has in flight belongs to the above
};

}  // namespace holdfast
