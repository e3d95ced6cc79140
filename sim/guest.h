// SPDX-License-Identifier: Apache-2.0
//
// The simulated guest: keeps a number of random requests in flight on a block device, tells the
// model of each, and checks each answer. It outlives the processes it talks to.
//
// Owner: the run. Calls: attach() to a device that serves, then start() or verify(); when the
// process is gone (by crash or close), detach() before the device is destroyed.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "block/block_device.h"
#include "io/aligned_buffer.h"
#include "io/task.h"
#include "sim/run_plan.h"
#include "sim/scheduler.h"
#include "sim/snapshot_checker.h"
#include "sim/volume_model.h"

namespace holdfast::sim {

// What a run drives: a volume, or the reference device that proves the checks.
class Subject {
 public:
  virtual ~Subject() = default;
  virtual Task<Result<void>> open() = 0;
  virtual BlockDevice& device() = 0;  // after open()
  virtual Task<Result<void>> close() = 0;
  virtual Task<Result<void>> resize(std::uint64_t size_bytes) = 0;
  virtual Task<Result<void>> checkpoint() = 0;
  // Snapshots; content is that of the whole device.
  virtual bool has_snapshots() const { return false; }  // if not, the rest is never called
  virtual std::vector<std::string> snapshots() const { return {}; }
  virtual Task<Result<void>> create_snapshot(std::string name);
  virtual Task<Result<void>> remove_snapshot(std::string name);
  virtual Task<Result<void>> rollback(std::string name);
  virtual Task<Result<std::vector<std::byte>>> read_snapshot(std::string name);
  // `of`: the clone whose snapshot it is; empty: the device itself.
  virtual Task<Result<void>> clone(std::string of, std::string snapshot, std::string name);
  // The clone as it is now, or a snapshot of it. `alone`: with no other volume's segments.
  virtual Task<Result<std::vector<std::byte>>> read_clone(std::string name, std::string snapshot,
                                                          bool alone);
  // All in one opening of the clone, in order. Returns whether it is flat.
  virtual Task<Result<bool>> work_on_clone(std::string name, std::vector<CloneAction> actions);
  virtual Task<Result<void>> remove_clone(std::string name);
  // What of its memory is beyond its bound; empty: nothing.
  virtual std::string broken_bound() const = 0;
  // What of its holds is shown wrongly at this moment; empty: nothing.
  virtual std::string wrong_hold() const { return {}; }
};

class Guest {
 public:
  Guest(Scheduler& scheduler, const RunPlan& plan, VolumeModel& model);
  ~Guest();

  void attach(SimHost& host, Subject& subject);
  void detach();

  void start(std::uint32_t operations);
  void stop() { operations_left_ = 0; }
  bool issued_all() const { return operations_left_ == 0; }
  bool is_drained() const { return outstanding_ == 0 && controls_ == 0; }
  bool has_controls() const { return controls_ != 0; }
  // The device is being closed: shutting_down is an answer from now on.
  void set_closing() { closing_ = true; }
  // Errors of control operations are faults' doing.
  void set_faults_possible(bool possible) { faults_possible_ = possible; }

  // Reads the whole device, by itself; then hands all to the model.
  void verify();
  bool is_verified() const { return !verifying_; }
  const std::vector<std::byte>& content() const { return content_; }
  const std::vector<bool>& unreadable() const { return unreadable_; }

  // Sizes that a resize may have left behind when nobody heard its end.
  const std::vector<std::uint64_t>& possible_sizes() const { return possible_sizes_; }
  void forget_possible_sizes() { possible_sizes_.clear(); }
  // What a rollback that nobody heard the end of was to lead to; null: there was none.
  const std::vector<std::byte>* rollback_under_way() const {
    return rollback_under_way_.empty() ? nullptr : &rollback_under_way_;
  }
  void forget_rollback() { rollback_under_way_.clear(); }
  // Reads all snapshots and clones, beside whatever else the guest does.
  void check_snapshots();

  std::uint64_t operations() const { return operations_; }
  std::string describe_outstanding() const;

 private:
  struct Slot {
    Guest* guest = nullptr;
    BlockRequest request;
    AlignedBuffer memory;
    std::byte* data = nullptr;
    std::vector<iovec> vectors;
    bool is_busy = false;
    bool is_verification = false;
    bool expects_out_of_range = false;
    bool was_cancelled = false;
    std::uint64_t number = 0;
    std::uint32_t write = 0;  // of the model; 0: none
    VolumeModel::Token token = 0;
    std::uint64_t flush_covers = 0;
  };
  enum class Choice {
    read,
    write,
    flush,
    discard,
    zeroes,
    status,
    checkpoint,
    resize,
    snapshot,
    rollback
  };

  void pump();
  void issue();
  Choice choose();
  Slot& free_slot();
  void cancel_some();
  void pick_range(BlockRequest& request);
  void prepare_memory(Slot& slot);
  void submit(Slot& slot, BlockOperation operation);
  void submit_odd_request(Slot& slot);
  static void on_complete(BlockRequest& request, BlockStatus status);
  void completed(Slot& slot, BlockStatus status);
  void check_answer(Slot& slot, BlockStatus status);
  bool is_acceptable(const Slot& slot, BlockStatus status) const;
  void go_on();
  void verify_some();
  void verified_part(Slot& slot, BlockStatus status);
  Task<void> ask_status(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                        std::size_t extents);
  void check_extents(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                     std::size_t extents_max, const std::vector<BlockExtent>& extents,
                     VolumeModel::Token token);
  void issue_control(Choice choice);
  Task<void> do_checkpoint();
  Task<void> do_snapshot();
  Task<void> do_check_snapshots();
  Task<void> do_rollback();
  Task<void> do_resize(std::uint64_t size_bytes);
  bool reaches_beyond(std::uint64_t size_bytes) const;
  void check_control(const char* what, const Error& error);
  std::string describe(const Slot& slot) const;

  Scheduler& scheduler_;
  const RunPlan& plan_;
  VolumeModel& model_;
  Prng prng_;
  SimHost* host_ = nullptr;
  Subject* subject_ = nullptr;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::uint32_t operations_left_ = 0;
  std::uint32_t outstanding_ = 0;
  std::uint32_t controls_ = 0;  // coroutines running
  std::uint64_t operations_ = 0;
  std::uint64_t next_number_ = 1;
  bool closing_ = false;
  bool faults_possible_ = false;
  bool resizing_ = false;
  bool is_rolling_back_ = false;
  std::uint64_t usable_bytes_ = 0;  // while a resize runs, the smaller size
  std::vector<std::uint64_t> possible_sizes_;
  SnapshotChecker snapshots_;
  std::vector<std::byte> rollback_under_way_;

  bool verifying_ = false;
  std::deque<std::pair<std::uint64_t, std::uint64_t>> parts_;
  std::vector<std::byte> content_;
  std::vector<bool> unreadable_;
  std::unique_ptr<TaskScope> tasks_;
};

}  // namespace holdfast::sim
