// SPDX-License-Identifier: Apache-2.0
//
// Pauses one virtual machine over QMP while requests of its disks are held, so that no timer of the
// guest runs out, and resumes it once they flow. Only what it paused itself: a machine that was not
// running, or that somebody else resumed or paused meanwhile, is left alone.
//
//   running -> pausing (the monitor answers when QEMU has drained its requests) -> paused
//           -> resuming -> running
//
// That a machine is paused by us is recorded before it is, so that the next daemon resumes it.
//
// Thread: the executor's (the host's). Owner: the host. Lifetime: end() must have finished before
// it is destroyed, or the executor is gone with it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/limits.h"
#include "base/result.h"
#include "host/commands.h"
#include "host/qmp_connection.h"
#include "io/executor.h"
#include "io/stream.h"
#include "io/task.h"

namespace holdfast {

// The way to the outside, so that tests can give their own.
struct MachinePauseEnvironment {
  Executor& executor;
  std::function<Result<std::unique_ptr<Stream>>(const std::string& path)> connect;
  // Records is_ours() of all machines.
  std::function<Task<void>()> save;
};

class MachinePause {
 public:
  // `is_ours`: a daemon before this one paused it.
  MachinePause(MachinePauseEnvironment environment, std::string path, bool is_ours);
  MachinePause(const MachinePause&) = delete;
  MachinePause& operator=(const MachinePause&) = delete;

  // What its disks do now; told again and again.
  //   is_held      requests of at least one wait (or nobody knows)
  //   wants_pause  one of them has been held for as long as its policy says
  void update(bool is_held, bool wants_pause);
  // Leaves the machine as it is.
  Task<void> end();

  const std::string& path() const { return path_; }
  // It is paused, or about to be, by us.
  bool is_ours() const { return is_ours_; }
  // And it was when we came: it asks for nothing since, so its disks do not show whether they would
  // be held.
  bool is_inherited() const { return is_ours_ && is_inherited_; }
  MachineReport report() const;

 private:
  enum class State : std::uint8_t { running, pausing, paused, resuming };

  Task<void> run();
  Task<Result<void>> serve();
  Task<Result<void>> serve(QmpConnection& monitor);
  Task<Result<void>> pause(QmpConnection& monitor);
  Task<Result<void>> resume(QmpConnection& monitor);
  void look_at_events(QmpConnection& monitor);
  void look_at_answer(QmpConnection& monitor);
  Task<void> set_ours(bool is_ours);
  Task<void> record();
  bool has_work() const { return is_ours_ || (wants_pause_ && !is_left_alone_); }
  bool may_resume() const;
  Duration steady_time_needed() const;

  const MachinePauseEnvironment environment_;
  Executor& executor_;
  const std::string path_;
  Condition changed_;
  Timer timer_{[](void* self) { static_cast<MachinePause*>(self)->changed_.notify_all(); }, this};

  // What the disks do.
  bool is_held_ = true;
  bool wants_pause_ = false;
  MonotonicTime flowing_since_{};

  // What we know of the machine.
  State state_ = State::running;
  bool is_ours_ = false;
  bool is_inherited_ = false;
  bool is_left_alone_ = false;  // until this hold is over
  bool is_running_ = false;     // as the monitor last said
  std::string detail_;
  std::uint64_t pause_count_ = 0;
  std::optional<std::uint64_t> stop_id_;  // not answered yet
  bool expects_stop_ = false;             // an event of our own doing

  // Against flapping.
  std::optional<MonotonicTime> last_resume_;
  Duration steady_time_{0};

  QmpConnection* monitor_ = nullptr;  // while connected
  bool is_ending_ = false;
  std::size_t saves_ = 0;  // under way
  TaskScope tasks_;
};

}  // namespace holdfast
