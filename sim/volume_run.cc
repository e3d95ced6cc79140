// SPDX-License-Identifier: Apache-2.0
#include "sim/volume_run.h"

#include <algorithm>

namespace holdfast::sim {
namespace {

constexpr std::uint64_t kStorageBytes = 4 * kGiB;
// Longer than any fault lasts: what is not done by then never will be.
constexpr Duration kPatience = std::chrono::minutes(30);
constexpr Duration kHoldCheckInterval = 300ms;
constexpr Duration kOpenRetryDelayMin = 20ms;
constexpr Duration kOpenRetryDelayMax = 2s;
// Opening gives up at the first error of many operations, so at some rates of errors it never ends.
constexpr int kOpenAttemptsWithFaults = 30;
constexpr int kOpenAttemptsMax = 80;

Task<void> store(Task<Result<void>> task, std::optional<Result<void>>* result) {
  result->emplace(co_await task);
}

}  // namespace

VolumeRun::VolumeRun(RunPlan plan, SubjectFactory& factory, Trace trace_sink)
    : plan_(std::move(plan)),
      factory_(factory),
      scheduler_(plan_.seed),
      prng_(scheduler_.prng().fork()),
      storage_(scheduler_, kStorageBytes),
      model_(scheduler_, plan_.volume_bytes, plan_.seed),
      guest_(scheduler_, plan_, model_) {
  scheduler_.set_trace(std::move(trace_sink));
  faults_.options = plan_.faults;
}

VolumeRun::~VolumeRun() {
  end_process();
}

void VolumeRun::trace(const std::string& line) {
  if (scheduler_.tracing()) scheduler_.trace("---- " + line);
}

RunResult VolumeRun::run() {
  if (plan_.crash_at_completion.has_value()) {
    crash_at_ = *plan_.crash_at_completion;
    crash_kind_ = plan_.crash_kind;
    crash_after_ = plan_.crash_after;
  }
  create();
  for (const Phase& phase : plan_.phases) {
    if (over_ || scheduler_.failed()) break;
    if (!live(phase, false)) break;
  }
  result_.completions = scheduler_.completions();
  if (!over_ && !scheduler_.failed()) {
    trace("the last phase, on good storage");
    stop_faults();
    crash_at_.reset();
    Phase last;
    last.operations = 10;
    last.end = EndKind::close;
    if (live(last, true) && !over_) {
      if (open_and_verify(nullptr)) close(false);
    }
  }
  end_process();
  result_.failed = scheduler_.failed();
  result_.violation = scheduler_.violation();
  result_.hash = scheduler_.hash();
  result_.operations = guest_.operations();
  result_.injected_errors = faults_.injected_errors;
  result_.checked_sectors = model_.checked_sectors();
  result_.virtual_time = scheduler_.now().time_since_epoch();
  return result_;
}

bool VolumeRun::crash_is_due() const {
  if (!crash_at_.has_value()) return false;
  if (crash_after_) return scheduler_.completions() >= *crash_at_;
  return !scheduler_.idle() && scheduler_.next_kind() == EventKind::completion &&
         scheduler_.completions() + 1 >= *crash_at_;
}

void VolumeRun::arm_crash(std::uint64_t completions_from_now) {
  crash_at_ = scheduler_.completions() + completions_from_now;
  crash_kind_ = prng_.chance(0.5) ? CrashKind::process : CrashKind::power;
  crash_after_ = prng_.chance(0.5);
}

VolumeRun::Stop VolumeRun::run_until(const std::function<bool()>& done, const char* what) {
  const MonotonicTime limit = scheduler_.now() + kPatience;
  for (;;) {
    if (scheduler_.failed()) return Stop::violation;
    if (done()) return Stop::reached;
    if (crash_is_due()) return Stop::crash;
    if (scheduler_.idle() || scheduler_.now() > limit) {
      scheduler_.fail("progress", std::string(what) +
                                      (scheduler_.idle() ? " waits, and nothing is left to happen"
                                                         : " takes for ever") +
                                      "; " + guest_.describe_outstanding());
      return Stop::violation;
    }
    scheduler_.step();
    check_hold();
  }
}

// Now and then: what it looks at changes once in seconds.
void VolumeRun::check_hold() {
  if (scheduler_.now() < next_hold_check_) return;
  next_hold_check_ = scheduler_.now() + kHoldCheckInterval;
  if (process_ == nullptr || process_->subject == nullptr || !process_->files.is_alive()) return;
  const std::string wrong = process_->subject->wrong_hold();
  if (!wrong.empty()) scheduler_.fail("hold", wrong);
}

VolumeRun::Stop VolumeRun::run_task(Task<Result<void>> task, const char* what,
                                    Result<void>* result) {
  std::optional<Result<void>> stored;
  process_->tasks.spawn(store(std::move(task), &stored));
  const Stop stop = run_until([&] { return stored.has_value(); }, what);
  if (stop == Stop::reached) {
    *result = std::move(*stored);
  } else {
    // The coroutine refers to `stored`: it may not go on.
    if (stop == Stop::crash) crash(crash_kind_);
    end_process();
  }
  return stop;
}

void VolumeRun::start_process() {
  end_process();
  process_ = std::make_unique<Process>(scheduler_, storage_, faults_);
  process_->subject = factory_.make(process_->host, process_->files, plan_);
}

// Without effect on what it left: a crash or close came before.
void VolumeRun::end_process() {
  guest_.detach();
  if (process_ == nullptr) return;
  process_->host.kill();
  if (process_->files.is_alive()) process_->files.die(false);
  process_.reset();
}

void VolumeRun::create() {
  const auto planned_crash = std::exchange(crash_at_, std::nullopt);
  process_ = std::make_unique<Process>(scheduler_, storage_, faults_);
  Result<void> result;
  const Stop stop =
      run_task(factory_.create(process_->host, process_->files, plan_), "creating", &result);
  if (stop == Stop::reached && !result.ok()) {
    scheduler_.fail("create", "creating on good storage failed: " + result.error().message());
  }
  end_process();
  crash_at_ = planned_crash;
  faults_.enabled = true;
}

void VolumeRun::crash(CrashKind kind) {
  trace(kind == CrashKind::power ? "POWER LOSS" : "the process is KILLED");
  ++(kind == CrashKind::power ? result_.power_losses : result_.process_deaths);
  process_->host.kill();
  model_.crash(kind);
  process_->files.die(kind == CrashKind::power);
  // A sync that failed has lost what it lost, even if the process that knew of it is dead.
  if (kind == CrashKind::power) storage_.power_loss();
  end_process();
  factory_.crashed(kind);
}

void VolumeRun::lose_power_between_processes() {
  trace("POWER LOSS while no process runs");
  ++result_.power_losses;
  model_.crash(CrashKind::power);
  storage_.power_loss();
  factory_.crashed(CrashKind::power);
}

// One attempt; false in *opened: failed for a reason that may go away.
VolumeRun::Stop VolumeRun::try_open(bool* opened) {
  *opened = false;
  start_process();
  Result<void> result;
  const Stop stop = run_task(process_->subject->open(), "opening", &result);
  if (stop != Stop::reached) return stop;
  if (result.ok()) {
    *opened = true;
    return stop;
  }
  const ErrorCode code = result.error().code();
  open_error_ = result.error().message();
  trace("opening failed: " + open_error_);
  if (rotten_ && code != ErrorCode::internal) {
    over_ = true;  // damaged on purpose, and it says so
  } else if (code != ErrorCode::path_failure && code != ErrorCode::no_space &&
             code != ErrorCode::busy) {
    scheduler_.fail("open", std::string("failed for good (") + std::string(error_code_name(code)) +
                                "): " + result.error().message());
  }
  end_process();
  return scheduler_.failed() ? Stop::violation : stop;
}

bool VolumeRun::open_and_verify(const Phase* phase) {
  bool may_die = phase != nullptr && phase->dies_while_opening;
  Duration retry_delay = kOpenRetryDelayMin;
  int attempts = 0;
  while (!over_) {
    if (may_die) arm_crash(prng_.between(1, 60));
    may_die = may_die && prng_.chance(0.3);  // and sometimes again
    bool opened = false;
    Stop stop = try_open(&opened);
    if (stop == Stop::violation) return false;
    if (stop == Stop::reached && opened) stop = verify();
    if (stop == Stop::violation) return false;
    if (stop == Stop::reached && opened) {
      if (phase != nullptr && phase->dies_while_opening) crash_at_.reset();
      return !over_;
    }
    if (stop == Stop::crash) {
      crash_at_.reset();
      if (plan_.second_crash_after.has_value()) {
        crash_at_ = scheduler_.completions() + *plan_.second_crash_after;
        plan_.second_crash_after.reset();
      }
      continue;
    }
    if (++attempts == kOpenAttemptsWithFaults) faults_.enabled = false;  // until it is open
    if (attempts > kOpenAttemptsMax) {
      scheduler_.fail("progress", "opening failed " + std::to_string(attempts) +
                                      " times, at last: " + open_error_);
      return false;
    }
    const MonotonicTime again = scheduler_.now() + retry_delay;
    retry_delay = std::min(retry_delay * 2, kOpenRetryDelayMax);
    bool due = false;
    scheduler_.schedule(again, nullptr, EventKind::world, [&due] { due = true; });
    if (run_until([&] { return due; }, "waiting") != Stop::reached) return false;
  }
  return false;
}

VolumeRun::Stop VolumeRun::verify() {
  const std::uint64_t size_bytes = process_->subject->device().info().size_bytes;
  if (size_bytes != model_.size_bytes()) {
    const auto& possible = guest_.possible_sizes();
    if (std::find(possible.begin(), possible.end(), size_bytes) == possible.end()) {
      scheduler_.fail("size", "the device has " + std::to_string(size_bytes) +
                                  " bytes instead of " + std::to_string(model_.size_bytes()));
      return Stop::violation;
    }
    model_.resize(size_bytes);
  }
  guest_.forget_possible_sizes();
  guest_.attach(process_->host, *process_->subject);
  trace("open; reading everything");
  guest_.verify();
  const Stop stop = run_until([&] { return guest_.is_verified(); }, "reading everything");
  if (stop == Stop::crash) crash(crash_kind_);
  if (stop != Stop::reached) return stop;
  const std::vector<std::byte>* const rolled_back = guest_.rollback_under_way();
  if (rolled_back != nullptr && *rolled_back == guest_.content()) model_.replaced(*rolled_back);
  guest_.forget_rollback();
  if (model_.is_settled()) return stop;
  if (rotten_) {
    model_.check_authentic(guest_.content(), guest_.unreadable());
    over_ = true;
  } else {
    model_.recovered(guest_.content(), guest_.unreadable());
  }
  return scheduler_.failed() ? Stop::violation : stop;
}

bool VolumeRun::live(const Phase& phase, bool is_last) {
  if (!open_and_verify(&phase)) return false;
  if (!is_last) {
    faults_.enabled = true;
    schedule_faults();
  }
  guest_.set_faults_possible(!is_last && plan_.has_faults());
  trace("the guest begins");
  guest_.check_snapshots();
  guest_.start(phase.operations);
  const bool drains = phase.end == EndKind::close || phase.end == EndKind::kill_drained ||
                      phase.end == EndKind::power_drained;
  const Stop stop = run_until(
      [&] { return guest_.issued_all() && (!drains || guest_.is_drained()); }, "the guest");
  if (stop == Stop::violation) return false;
  if (stop == Stop::crash) {
    crash(crash_kind_);
    crash_at_.reset();
    if (plan_.second_crash_after.has_value()) {
      crash_at_ = scheduler_.completions() + *plan_.second_crash_after;
      plan_.second_crash_after.reset();
    }
    return true;
  }
  end_phase(phase);
  return !scheduler_.failed();
}

void VolumeRun::end_phase(const Phase& phase) {
  switch (phase.end) {
    case EndKind::close:
      close(false);
      break;
    case EndKind::busy_close:
      close(true);
      break;
    case EndKind::kill:
    case EndKind::kill_drained:
      crash(CrashKind::process);
      break;
    case EndKind::power:
    case EndKind::power_drained:
      crash(CrashKind::power);
      break;
  }
}

void VolumeRun::close(bool busy) {
  trace(busy ? "closing with requests in flight" : "closing");
  guest_.stop();
  // Control operations are the daemon's own, which ends them before it closes a volume.
  Stop stop = run_until([&] { return !guest_.has_controls(); }, "a control operation");
  if (stop == Stop::crash) crash(crash_kind_);
  if (stop != Stop::reached) return;
  guest_.set_closing();
  Result<void> result;
  stop = run_task(process_->subject->close(), "closing", &result);
  if (stop != Stop::reached) return;
  if (!result.ok()) {
    trace("closing failed: " + result.error().message());
    if (!plan_.has_faults() && !rotten_) {
      scheduler_.fail("close", "failed on good storage: " + result.error().message());
      return;
    }
    crash(CrashKind::process);
    return;
  }
  if (!guest_.is_drained()) {
    scheduler_.fail("answer once", "closed, but " + guest_.describe_outstanding());
    return;
  }
  model_.all_durable();
  model_.crash(CrashKind::process);
  process_->subject.reset();  // its files close: nothing may be in flight
  end_process();
  if (!scheduler_.failed() && prng_.chance(0.3)) lose_power_between_processes();
}

void VolumeRun::schedule_faults() {
  const auto soon = [&] { return scheduler_.now() + prng_.between(Duration(0), Duration(20ms)); };
  if (prng_.chance(plan_.outage_chance)) {
    const Duration length = prng_.between(Duration(1ms), plan_.outage_max);
    const bool hangs = prng_.chance(0.4);
    scheduler_.schedule(soon(), nullptr, EventKind::world, [this, length, hangs] {
      if (!faults_.enabled) return;
      trace(std::string("OUTAGE begins: everything ") + (hangs ? "hangs" : "fails"));
      faults_.outage_until = scheduler_.now() + length;
      faults_.outage_hangs = hangs;
    });
  }
  if (plan_.silence_chance != 0 && prng_.chance(plan_.silence_chance)) {
    const Duration length = prng_.between(Duration(1s), Duration(20s));
    scheduler_.schedule(soon(), nullptr, EventKind::world, [this, length] {
      if (!faults_.enabled) return;
      trace("SILENCE begins");
      faults_.silent_until = scheduler_.now() + length;
    });
  }
  const auto window = [&](std::function<void()> begin, std::function<void()> end,
                          Duration after_max = 20ms, Duration time_max = 5s) {
    const MonotonicTime start = scheduler_.now() + prng_.between(Duration(0), after_max);
    const Duration length = prng_.between(Duration(1ms), time_max);
    scheduler_.schedule(start, nullptr, EventKind::world, std::move(begin));
    scheduler_.schedule(start + length, nullptr, EventKind::world, std::move(end));
  };
  if (prng_.chance(plan_.full_chance)) {
    const std::uint64_t left_bytes = prng_.between(0, 3 * kMiB);
    window(
        [this, left_bytes] {
          if (!faults_.enabled) return;
          trace("the storage is FULL");
          storage_.set_foreign_bytes(kStorageBytes -
                                     std::min(kStorageBytes, storage_.used_bytes() + left_bytes));
        },
        [this] {
          trace("the storage has space again");
          storage_.set_foreign_bytes(0);
        },
        plan_.full_after_max, plan_.full_time_max);
  }
  if (prng_.chance(plan_.thin_full_chance)) {
    window([this] { faults_.thin_full = faults_.enabled; }, [this] { faults_.thin_full = false; });
  }
  if (plan_.rot) {
    scheduler_.schedule(soon(), nullptr, EventKind::world, [this] {
      std::string where;
      const bool done = storage_.rot_one_bit(
          [this](const std::string&, const Inode& inode) {
            return inode.preallocated_bytes >= plan_.segment_bytes / 64 &&
                   inode.size_bytes <= plan_.segment_bytes;
          },
          &where);
      if (!done) return;
      trace("ROT in " + where);
      rotten_ = true;
    });
  }
}

void VolumeRun::stop_faults() {
  faults_.enabled = false;
  faults_.thin_full = false;
  faults_.outage_until = faults_.silent_until = MonotonicTime{};
  storage_.set_foreign_bytes(0);
}

}  // namespace holdfast::sim
