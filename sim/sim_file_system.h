// SPDX-License-Identifier: Apache-2.0
//
// One simulated process's view of a SimStorage: the FileSystem and File that pools use, with the
// faults of transport: delay, reordering, errors that come and go, hangs, a full device. It also
// holds our own code to the rules of direct I/O: a breach is a violation of the run.
//
// Owner: the driver, one per process. When the process dies: SimHost::kill(), then die() here, then
// everything that uses the view is destroyed, then the view.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/file_system.h"
#include "sim/scheduler.h"
#include "sim/sim_storage.h"

namespace holdfast::sim {

// What may go wrong on the way to the storage. Probabilities are per operation.
struct FaultOptions {
  // Answers come at multiples of this, so that several may come at one instant.
  Duration quantum = 1us;
  Duration delay_min = 10us;
  Duration delay_max = 300us;
  double slow_chance = 0;  // of taking up to slow_max
  Duration slow_max = 30ms;
  double hang_chance = 0;  // of taking up to hang_max
  Duration hang_max = 60s;
  double read_error_chance = 0;
  double write_error_chance = 0;
  double sync_error_chance = 0;
  double name_error_chance = 0;      // of opens, renames, listings...
  double error_after_chance = 0;     // of those: the change was made, and yet an error is reported
  double write_no_space_chance = 0;  // of writes into preallocated space (thin storage)
  double stale_chance = 0;           // of requests: the open file is of no use any more
  double bad_place_chance = 0;       // of new segments: a part of it can never be written
  bool has_links = true;             // files may have several names
  bool is_shared = false;            // others may cut a file short that this process writes to
  double lands_early_chance = 0;     // part of a write is visible long before its completion
};

// The state of the faults, shared by all views of one storage; the driver changes it as time goes.
struct Faults {
  FaultOptions options;
  bool enabled = false;
  // While now < outage_until everything fails, or waits for the end when outage_hangs.
  MonotonicTime outage_until{};
  bool outage_hangs = false;
  MonotonicTime silent_until{};  // while now < silent_until all that is asked waits for that
  bool thin_full = false;        // every write finds no space
  std::uint64_t injected_errors = 0;
};

class SimFile;

class SimFileSystem final : public FileSystem {
 public:
  SimFileSystem(SimHost& host, SimStorage& storage, Faults& faults);
  ~SimFileSystem() override;

  // The process is gone. `host_lost`: the power too (what was in flight lands now or never), else
  // writes in flight land until `drained_at`, and then the locks are free. Returns drained_at.
  MonotonicTime die(bool host_lost);
  bool is_alive() const { return alive_; }
  // How long the storage has owed its oldest answer to this process; nothing: it owes none.
  std::optional<Duration> oldest_wait() const;
  // Since when it owes none.
  MonotonicTime idle_since() const { return idle_since_; }

  Task<Result<std::unique_ptr<File>>> open(std::string path, FileOpenOptions options) override;
  Task<Result<void>> make_directory(std::string path) override;
  Task<Result<void>> remove_file(std::string path) override;
  Task<Result<void>> remove_directory(std::string path) override;
  Task<Result<void>> rename(std::string from, std::string to) override;
  Task<Result<void>> link(std::string from, std::string to) override;
  Task<Result<FileStatus>> status(std::string path) override;
  Task<Result<void>> sync_directory(std::string path) override;
  Task<Result<std::vector<std::string>>> list(std::string path) override;
  Task<Result<void>> truncate(std::string path, std::uint64_t size_bytes) override;
  Task<Result<std::uint64_t>> allocated_bytes(std::string path) override;
  Task<Result<void>> allocate(std::string path, std::uint64_t size_bytes) override;
  Task<Result<FileSystemSpace>> space(std::string path) override;
  Task<Result<std::vector<std::byte>>> read_file(std::string path) override;
  Task<Result<void>> write_file(std::string path, std::vector<std::byte> bytes) override;
  Task<Result<std::unique_ptr<FileLock>>> lock(std::string path, std::string holder) override;

 private:
  friend class SimFile;
  friend class SimFileLock;
  class Answer;

  // One file request in flight.
  struct Pending {
    MonotonicTime submitted{};
    FileRequest* request = nullptr;
    SimFile* file = nullptr;
    InodePointer inode;
    std::uint64_t length_bytes = 0;
    std::uint32_t checksum = 0;  // of a write's bytes when submitted
    std::uint64_t sync_mark = 0;
    int error = 0;  // what it will answer
  };

  void submit(SimFile& file, FileRequest& request);
  void abandon(SimFile& file);
  void finish(std::uint64_t id);
  void check_request(const SimFile& file, const FileRequest& request, std::uint64_t length_bytes);
  int pick_error(double chance);
  MonotonicTime pick_time();
  MonotonicTime rounded(Duration delay) const;
  // The way to the storage of an operation on names: a delay, then perhaps an error.
  Task<Result<void>> reach(const char* operation, const std::string& path);
  // The way back.
  Task<Result<void>> answer(const std::string& path);
  void note_if_idle();
  void pick_bad_place(Inode& inode);
  Error transport_error(const std::string& path, int error) const;
  void trace(const std::string& line);

  SimHost& host_;
  Scheduler& scheduler_;
  SimStorage& storage_;
  Faults& faults_;
  Prng prng_;
  bool alive_ = true;
  std::uint64_t next_id_ = 1;
  std::map<std::uint64_t, Pending> pending_;
  std::map<std::uint64_t, MonotonicTime> answers_;  // calls that wait, and since when
  MonotonicTime idle_since_{};
  unsigned bad_places_in_a_row_ = 0;
};

}  // namespace holdfast::sim
