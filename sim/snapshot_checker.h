// SPDX-License-Identifier: Apache-2.0
//
// What a run knows of its snapshots and clones: takes, reads and removes them at random while the
// guest works, and checks that each shows the same content for ever, through crashes, cleaning,
// and the removal of others.
//
// It outlives processes; operations that a crash cuts leave open what they did, and the next
// process finds out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/task.h"
#include "sim/prng.h"
#include "sim/volume_model.h"

namespace holdfast::sim {

class Subject;

class SnapshotChecker {
 public:
  // Told of errors: a fault's doing, or a violation.
  using OnError = std::function<void(const char* what, const Error& error)>;

  SnapshotChecker(Scheduler& scheduler, VolumeModel& model, Prng prng, OnError on_error)
      : scheduler_(scheduler), model_(model), prng_(prng), on_error_(std::move(on_error)) {}

  void begin_process() { is_busy_ = false; }
  // One random thing, with guest requests in flight.
  Task<void> act(Subject* subject);
  // Finds out what is there, and reads all of it.
  Task<void> check_all(Subject* subject);

  // For a rollback: of one that is certainly there; null: none is.
  struct Kept {
    enum class State : std::uint8_t { there, maybe_made, maybe_removed };
    std::string name;
    std::vector<std::byte> content;  // empty: not read yet
    State state = State::there;
    bool is_clone = false;
    std::string parent;  // of a clone
  };
  const Kept* pick_for_rollback();
  bool is_there(const std::string& name) { return find(name) != nullptr; }

 private:
  Task<void> take(Subject* subject);
  Task<void> remove(Subject* subject, std::string name);
  Task<void> make_clone(Subject* subject, std::string parent);
  Task<void> read(Subject* subject, std::string name);
  void add(const std::string& name);
  Kept* find(const std::string& name);
  bool has_clone(const std::string& name) const;
  void forget(const std::string& name);

  Scheduler& scheduler_;
  VolumeModel& model_;
  Prng prng_;
  OnError on_error_;
  std::vector<Kept> kept_;
  std::uint64_t next_name_ = 1;
  bool is_busy_ = false;  // one at a time
};

}  // namespace holdfast::sim
