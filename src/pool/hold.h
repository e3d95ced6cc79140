// SPDX-License-Identifier: Apache-2.0
//
// Holding: a request that meets full or unreachable storage waits, with its reason shown, instead
// of failing (design invariant 5). Errors are sorted here and nowhere else:
//   space  the storage is full: wait until there is room
//   path   the storage does not answer as it should: wait until it does
//   final  waiting does not help; the caller reports it
//
// Storage that says nothing at all is the third kind, a stall: a request that has been in flight
// for limits::kStallTime shows its volume as held, without an error to sort. Nothing is cancelled
// or sent twice: what is in flight stays there until the storage answers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/limits.h"
#include "base/list.h"
#include "base/result.h"
#include "base/time.h"
#include "io/executor.h"
#include "io/file_system.h"

namespace holdfast {

enum class HoldReason { none, space, path, stall, lease };
// "none", "pool full", "path failure", "storage does not answer", "lease not renewed"
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
  std::string detail;         // what the storage said last, or what it does not answer
  MonotonicTime since{};      // valid when reason is not none; one hold may change its reason
  std::uint64_t waiting = 0;  // operations that retry now, and those not answered in time
  std::uint64_t retries = 0;  // since open
  std::uint64_t stalls = 0;   // since open
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

// Counts what is held in one volume and logs each change once. Requests in flight are a list in
// the order of their submission, so that only its head is ever looked at; the timer that does it
// runs while there is anything in flight.
class HoldTracker final : private FileObserver {
 public:
  explicit HoldTracker(Executor& executor)
      : executor_(executor), timer_(&HoldTracker::on_timer, this) {}
  ~HoldTracker() override { forget_in_flight(); }
  void set_name(std::string name) { name_ = std::move(name); }
  // Called whenever an operation has to wait.
  void set_observer(std::function<void()> observer) { observer_ = std::move(observer); }
  const HoldState& state() const { return state_; }
  // Requests, or the volume's own work, wait for its lease (none: nobody any more). It is shown
  // before all else: storage in trouble is what usually keeps a lease from being renewed.
  void wait_for_lease(std::uint64_t waiting, std::string_view detail);
  // The volume is of no use any more: nothing that failed is tried again.
  void give_up() { has_given_up_ = true; }
  bool has_given_up() const { return has_given_up_; }
  // Whether the storage owes an answer to a request.
  bool has_in_flight() const { return !requests_.empty(); }
  // For the files of the volume: their requests are watched from now on.
  FileObserver& file_observer() { return *this; }
  // What is in flight dies unanswered, with its owner: nothing of it is touched again.
  void forget_in_flight();

  // An operation of another kind (on names, on whole files) that is in flight while this lives.
  class Call {
   public:
    Call(HoldTracker& tracker, std::string what);
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    ~Call() { link.unlink(); }

    const std::string what;
    const MonotonicTime began;
    ListLink link;
  };

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
  struct Stall {
    bool active = false;
    bool logged = false;  // its beginning, so its end has to be
    MonotonicTime since{};
    std::uint64_t waiting = 0;
    std::uint64_t waiting_max = 0;
    Duration next_reminder{};
    std::string detail = {};
  };

  void submitted(FileRequest& request) override;
  void watch();
  static void on_timer(void* context);
  void check();
  MonotonicTime oldest();
  std::string describe_oldest();
  std::uint64_t count_overdue();
  void stalled(MonotonicTime since);
  void stall_ended();
  void show();

  Executor& executor_;
  std::string name_;
  std::function<void()> observer_;
  HoldState state_;
  // Operations that met an error and retry.
  HoldReason error_reason_ = HoldReason::none;
  std::string error_detail_;
  std::uint64_t retrying_ = 0;
  // What waits for the lease.
  std::uint64_t waiting_for_lease_ = 0;
  std::string lease_detail_;
  bool has_given_up_ = false;
  // What the storage does not answer.
  List<FileRequest, &FileRequest::in_flight_link> requests_;
  List<Call, &Call::link> calls_;
  Timer timer_;
  Stall stall_;
  MonotonicTime last_stall_logged_{};
  std::uint64_t stalls_not_logged_ = 0;  // since then
};

}  // namespace holdfast
