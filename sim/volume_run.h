// SPDX-License-Identifier: Apache-2.0
//
// One run: a device lives through several processes on one faulty storage while a guest works on
// it, and the model checks every answer and, after each death, the whole content.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "io/task.h"
#include "sim/guest.h"
#include "sim/run_plan.h"
#include "sim/scheduler.h"
#include "sim/sim_file_system.h"
#include "sim/sim_storage.h"
#include "sim/volume_model.h"

namespace holdfast::sim {

// Makes the devices of a run; the run's storage outlives it, what it keeps itself is its own
// affair.
class SubjectFactory {
 public:
  virtual ~SubjectFactory() = default;
  // On good storage, once, before anything else.
  virtual Task<Result<void>> create(SimHost& host, SimFileSystem& files, const RunPlan& plan) = 0;
  virtual std::unique_ptr<Subject> make(SimHost& host, SimFileSystem& files,
                                        const RunPlan& plan) = 0;
  virtual void crashed(CrashKind) {}
};

struct RunResult {
  bool failed = false;
  Violation violation;
  std::uint64_t hash = 0;
  std::uint64_t operations = 0;
  std::uint64_t completions = 0;
  std::uint64_t process_deaths = 0;
  std::uint64_t power_losses = 0;
  std::uint64_t injected_errors = 0;
  std::uint64_t checked_sectors = 0;
  Duration virtual_time{};
};

class VolumeRun {
 public:
  using Trace = std::function<void(const std::string&)>;

  VolumeRun(RunPlan plan, SubjectFactory& factory, Trace trace = nullptr);
  ~VolumeRun();

  RunResult run();

 private:
  // One simulated process.
  struct Process {
    Process(Scheduler& scheduler, SimStorage& storage, Faults& faults)
        : host(scheduler), files(host, storage, faults) {}
    SimHost host;
    SimFileSystem files;
    std::unique_ptr<Subject> subject;
    TaskScope tasks;
  };
  enum class Stop { reached, crash, violation };

  Stop run_until(const std::function<bool()>& done, const char* what);
  Stop run_task(Task<Result<void>> task, const char* what, Result<void>* result);
  void arm_crash(std::uint64_t completions_from_now);
  bool crash_is_due() const;
  void check_hold();

  void create();
  bool live(const Phase& phase, bool is_last);
  bool open_and_verify(const Phase* phase);
  Stop try_open(bool* opened);
  Stop verify();
  void end_phase(const Phase& phase);
  void close(bool busy);
  void crash(CrashKind kind);
  void lose_power_between_processes();
  void start_process();
  void end_process();
  void schedule_faults();
  void stop_faults();
  void trace(const std::string& line);

  RunPlan plan_;
  SubjectFactory& factory_;
  Scheduler scheduler_;
  Prng prng_;
  SimStorage storage_;
  Faults faults_;
  VolumeModel model_;
  Guest guest_;
  std::unique_ptr<Process> process_;
  MonotonicTime next_hold_check_{};
  std::optional<std::uint64_t> crash_at_;  // completions of the scheduler
  CrashKind crash_kind_ = CrashKind::process;
  bool crash_after_ = false;
  bool rotten_ = false;  // rot was injected: recovery may find less than was flushed
  bool over_ = false;
  std::string open_error_;
  RunResult result_;
};

}  // namespace holdfast::sim
