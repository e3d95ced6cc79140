// SPDX-License-Identifier: Apache-2.0
//
// Holding: a request that meets full or unreachable storage waits, with its reason shown, instead
// of failing (design invariant 5). Errors are sorted here and nowhere else:
//   space  the storage is full: wait until there is room
//   path   the storage does not answer as it should: wait until it does
//   final  waiting does not help; the caller reports it
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/limits.h"
#include "base/result.h"
#include "base/time.h"
#include "io/executor.h"

namespace holdfast {

enum class HoldReason { none, space, path };
// "none", "pool full", "path failure"
std::string_view hold_reason_text(HoldReason reason);

// none: final.
HoldReason sort_error(const Error& error);
HoldReason sort_errno(int error);
// For what must not be given up, such as the log of a volume: a final error waits like a path's.
inline HoldReason never_final(HoldReason reason) {
  return reason == HoldReason::none ? HoldReason::path : reason;
}

// Requests that wait for storage, as an operator sees them.
struct HoldState {
  HoldReason reason = HoldReason::none;
  std::string detail;         // what the storage said last
  MonotonicTime since{};      // valid when reason is not none
  std::uint64_t waiting = 0;  // operations that retry now
  std::uint64_t retries = 0;  // since open
};

// Doubles from limits::kRetryDelayMin to limits::kRetryDelayMax.
class Backoff {
 public:
  Duration next() {
    const Duration delay = delay_;
    delay_ = delay_ * 2 < limits::kRetryDelayMax ? delay_ * 2 : limits::kRetryDelayMax;
    return delay;
  }

 private:
  Duration delay_ = limits::kRetryDelayMin;
};

// Counts what is held in one volume and logs each change once.
class HoldTracker {
 public:
  explicit HoldTracker(Executor& executor) : executor_(executor) {}
  void set_name(std::string name) { name_ = std::move(name); }
  // Called whenever an operation has to wait.
  void set_observer(std::function<void()> observer) { observer_ = std::move(observer); }
  const HoldState& state() const { return state_; }

  // One operation that retries: constructed idle, held from the first failed() to its end.
  class Operation {
   public:
    explicit Operation(HoldTracker& tracker) : tracker_(tracker) {}
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;
    ~Operation() { succeeded(); }
    // Returns how long to wait before the next try.
    Duration failed(HoldReason reason, std::string_view detail);
    void succeeded();

   private:
    HoldTracker& tracker_;
    Backoff backoff_;
    bool held_ = false;
  };

 private:
  Executor& executor_;
  std::string name_;
  std::function<void()> observer_;
  HoldState state_;
};

}  // namespace holdfast
