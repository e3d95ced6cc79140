// SPDX-License-Identifier: Apache-2.0
//
// One run with several hosts: they own one volume of a shared pool in turn, by leases, while they
// are paused past their deadline and resume with all that they had in mind, die, have clocks of
// different speed, and while the storage is slow and fails. Each owner reads the whole volume,
// works on it and its snapshots, and lets go or loses it. Checks:
//
//  - one writer: whoever answers a request owns the volume at that moment, and its deadline has not
//    passed;
//  - nothing that was acknowledged is lost, no read is stale, and what a new owner finds is a
//    prefix of what the ones before were asked to write (VolumeModel);
//  - snapshots are there or not as the last owner was told, and show what they always did;
//  - once nothing goes wrong any more, somebody gets the volume and serves it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/aligned_buffer.h"
#include "pool/pool.h"
#include "sim/lease_model.h"
#include "sim/scheduler.h"
#include "sim/sim_file_system.h"
#include "sim/sim_storage.h"
#include "sim/volume_model.h"
#include "sim/volume_run.h"
#include "volume/volume.h"

namespace holdfast::sim {

// All of it drawn from the seed.
struct SharedPlan {
  std::uint64_t seed = 0;
  std::uint32_t hosts = 2;  // to 5
  std::uint64_t volume_bytes = 2 * kMiB;
  bool thick = false;
  VolumeOptions volume;
  std::uint32_t queue_depth = 4;
  std::uint32_t operations = 200;  // of an owner, at most
  std::uint32_t write_percent = 60;
  std::uint32_t flush_percent = 5;
  std::uint64_t length_bytes_max = 64 * kKiB;
  std::uint32_t alignment_bytes = 4096;
  std::uint32_t troubles = 8;  // pauses, deaths, outages
  double snapshot_chance = 0;  // for each of taking, removing, reading, per owner
  double clock_drift = 0.01;
  LeaseModelOptions lease;
  bool has_real_leases = false;  // lease/ on the storage of the run, instead of the model
  FaultOptions faults;

  std::string describe() const;
};
SharedPlan shared_plan(std::uint64_t seed);

class SharedRun {
 public:
  explicit SharedRun(SharedPlan plan, VolumeRun::Trace trace = nullptr);
  ~SharedRun();

  RunResult run();

 private:
  struct Process {
    Process(Scheduler& scheduler, SimStorage& storage, Faults& faults)
        : host(scheduler), files(host, storage, faults) {}
    SimHost host;
    SimFileSystem files;
    std::unique_ptr<Pool> pool;
    std::unique_ptr<LeaseService> lease;
    std::unique_ptr<Volume> volume;
    std::shared_ptr<const Fence> fence;
    std::uint64_t epoch = 0;
    double clock_rate = 1;
    std::uint32_t operations_left = 0;
    std::uint32_t workers = 0;
    bool is_serving = false;
    bool is_closing = false;
    TaskScope tasks;
  };
  struct KeptSnapshot {
    std::vector<std::byte> content;
    bool may_be_missing = true;  // nobody was told that it is there, or it was to be removed
  };
  class Request;

  bool run_until(const std::function<bool()>& done, const char* what);
  void create();
  void start(std::size_t number);
  void kill(std::size_t number);
  void schedule_trouble();
  void make_trouble();
  Duration pause_length(const Process& process);
  std::size_t owner_or_any();
  void trace(const std::string& line);

  Task<void> live(Process* process);
  Task<void> own(Process* process);
  Task<void> serve(Process* process);
  Task<bool> verify(Process* process);
  Task<bool> check_snapshots(Process* process);
  Task<bool> change_snapshots(Process* process);
  Task<Result<std::vector<std::byte>>> read_all(Process* process, Volume* volume);
  Task<void> work(Process* process);
  void owner_changed(std::uint64_t process, std::uint64_t epoch);
  bool owns(const Process& process) const;
  bool check_answer(Process& process, BlockStatus status);
  void check_error(const char* what, const Error& error);

  SharedPlan plan_;
  Scheduler scheduler_;
  Prng prng_;
  SimStorage storage_;
  Faults faults_;
  VolumeModel model_;
  LeaseModel leases_;
  std::uint64_t owner_ = 0;  // a process's number; 0: nobody
  std::uint64_t epoch_ = 1;  // of the last owner
  VolumeId volume_;
  std::vector<std::unique_ptr<Process>> processes_;
  std::map<std::string, KeptSnapshot> snapshots_;
  std::uint64_t next_snapshot_ = 1;
  std::vector<std::byte> content_;  // as the owner found it
  std::uint32_t troubles_left_ = 0;
  bool is_healed_ = false;
  std::uint64_t served_since_ = 0;  // owners that did all of their work since then
  RunResult result_;
};

}  // namespace holdfast::sim
