// SPDX-License-Identifier: Apache-2.0
//
// What one run does, all of it drawn from the seed (swarm testing: each seed turns some operations
// and faults off and shrinks limits, because a run that does everything reaches few corners).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/time.h"
#include "base/units.h"
#include "sim/sim_file_system.h"
#include "sim/volume_model.h"

namespace holdfast::sim {

// How the life of one process ends.
enum class EndKind : std::uint8_t {
  close,         // requests done, then a clean close
  busy_close,    // a clean close while requests are in flight
  kill,          // the process dies with requests in flight
  kill_drained,  // the process dies when all requests are answered
  power,         // so does the host
  power_drained,
};

struct Phase {
  std::uint32_t operations = 100;
  EndKind end = EndKind::close;
  bool dies_while_opening = false;  // at a random completion before it serves
};

struct RunPlan {
  std::uint64_t seed = 0;
  bool is_small = false;

  // The device.
  std::uint64_t volume_bytes = 4 * kMiB;
  std::uint64_t volume_bytes_max = 4 * kMiB;  // resizes go up to here
  std::uint64_t segment_bytes = kMiB;
  bool thick = false;
  bool is_preallocated = false;  // before anything goes wrong
  std::uint64_t page_cache_bytes = kMiB;
  std::uint64_t checkpoint_log_bytes = kMiB;
  Duration checkpoint_idle = 2s;
  std::uint64_t retained_bytes_max = kMiB;
  std::uint32_t cleaner_start_percent = 30;  // above 100: no cleaner
  std::uint32_t cleaner_stop_percent = 20;

  // The guest.
  std::uint32_t queue_depth = 8;
  std::uint32_t alignment_bytes = 4096;
  std::uint64_t length_bytes_max = 64 * kKiB;
  std::uint64_t hot_bytes = 0;  // 0: no part is hotter than others
  std::uint32_t read_weight = 10;
  std::uint32_t write_weight = 10;
  std::uint32_t flush_weight = 2;
  std::uint32_t discard_weight = 1;
  std::uint32_t zeroes_weight = 1;
  std::uint32_t status_weight = 1;
  std::uint32_t checkpoint_weight = 0;
  std::uint32_t resize_weight = 0;
  std::uint32_t snapshot_weight = 0;  // snapshots and clones taken, read, removed
  std::uint32_t snapshot_acts = 1;    // so many each time
  std::uint32_t rollback_weight = 0;
  double unit_access_chance = 0;  // of writes, discards, write_zeroes: FUA
  double cancel_chance = 0;       // per operation: half of what is in flight is cancelled
  double immediate_chance = 0.5;  // the next request comes from inside the completion
  Duration think_max = 200us;
  std::vector<Phase> phases;

  // The storage.
  FaultOptions faults;
  double outage_chance = 0;  // per phase
  Duration outage_max = 5s;
  double silence_chance = 0;  // per phase: for a while nothing is answered, and nothing fails
  double full_chance = 0;
  Duration full_after_max = 20ms;  // into a phase
  Duration full_time_max = 5s;
  double thin_full_chance = 0;
  bool rot = false;

  // A given crash instead of the phases' own: at this completion, counted from the start of the
  // run.
  std::optional<std::uint64_t> crash_at_completion;
  CrashKind crash_kind = CrashKind::process;
  bool crash_after = false;                         // right after the completion; else right before
  std::optional<std::uint64_t> second_crash_after;  // so many completions into the recovery

  bool has_faults() const;
  bool has_faults_but_full() const;  // other than storage that somebody else fills
  std::string describe() const;
};

// Everything random.
RunPlan swarm_plan(std::uint64_t seed);
// A short run without transport faults, for crashes at every completion.
RunPlan small_plan(std::uint64_t seed);

}  // namespace holdfast::sim
