// SPDX-License-Identifier: Apache-2.0
//
// What a run knows of its snapshots and clones: takes, reads and removes them at random while the
// guest works, and checks that each shows the same content for ever, through crashes, cleaning,
// and the removal of others. Clones are written to, have snapshots and clones of their own, and are
// flattened, after which what they came from may be removed.
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

// Something done with a clone.
struct CloneAction {
  enum class Kind : std::uint8_t {
    flatten_some,  // one segment
    flatten,       // to the end
    write,         // `blocks` blocks from `block` on, filled with `value`
    zero,          // the same, without data
    take,          // the snapshot `name`
    remove,
    rollback,
  };
  Kind kind = Kind::flatten;
  std::uint64_t block = 0;
  std::uint64_t blocks = 0;
  std::uint8_t value = 0;
  std::string name;
};

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
    std::string parent;  // of a clone: its snapshot; empty: it was flattened
    std::string of;      // of a snapshot: its clone; empty: it is the device's
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
  Task<void> act_on_clone(Subject* subject, std::string name);
  Task<void> work(Subject* subject, std::string name);
  Task<void> remove_clone(Subject* subject, std::string name);
  std::vector<CloneAction> pick_actions(const std::string& clone, std::vector<std::byte>* content);
  CloneAction pick_write(std::vector<std::byte>* content);
  bool has_clone(const std::string& name) const;
  std::size_t count_snapshots(const std::string& of) const;
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
