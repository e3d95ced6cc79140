// SPDX-License-Identifier: Apache-2.0
#include "sim/run_plan.h"

#include "sim/prng.h"

namespace holdfast::sim {
namespace {

std::uint32_t weight(Prng& prng, double on_chance, std::uint32_t high) {
  return prng.chance(on_chance) ? static_cast<std::uint32_t>(prng.between(1, high)) : 0;
}

void pick_limits(Prng& prng, RunPlan& plan) {
  plan.volume_bytes = prng.pick({1, 2, 4, 4, 8}) * kMiB;
  if (prng.chance(0.15)) plan.volume_bytes -= prng.between(0, 15) * 512;
  if (plan.volume_bytes < kMiB) plan.volume_bytes = kMiB;
  plan.volume_bytes_max = plan.volume_bytes;
  plan.page_cache_bytes = prng.pick({kMiB, kMiB, 4 * kMiB, 64 * kMiB});
  plan.checkpoint_log_bytes = prng.pick({64 * kKiB, 256 * kKiB, kMiB, kMiB, 4 * kMiB, 256 * kMiB});
  plan.checkpoint_idle = prng.pick({Duration(1ms), Duration(20ms), Duration(2s)});
  plan.retained_bytes_max = prng.pick({kMiB, kMiB, 2 * kMiB, 32 * kMiB});
}

// From a stream of its own: the rest of a seed's plan stays as it was.
void pick_cleaner(RunPlan& plan) {
  Prng prng(mix64(plan.seed, 0x434C45414E));
  plan.cleaner_start_percent = static_cast<std::uint32_t>(prng.pick({101, 1, 5, 10, 30, 30, 50}));
  plan.cleaner_stop_percent =
      static_cast<std::uint32_t>(prng.between(0, std::min(100u, plan.cleaner_start_percent)));
}

// Likewise.
void pick_late_faults(RunPlan& plan) {
  Prng prng(mix64(plan.seed, 0x504C414345));
  if (prng.chance(0.1)) plan.faults.bad_place_chance = prng.pick({0.1, 0.5});
  if (prng.chance(0.1)) plan.silence_chance = 0.5;
  if (prng.chance(0.1)) plan.faults.stale_chance = prng.pick({0.002, 0.02});
}

// Likewise.
void pick_snapshots(RunPlan& plan) {
  Prng prng(mix64(plan.seed, 0x534E4150));
  if (plan.rot || !prng.chance(0.5)) return;
  plan.snapshot_weight = static_cast<std::uint32_t>(prng.pick({1, 1, 3, 8}));
  plan.snapshot_acts = static_cast<std::uint32_t>(prng.pick({1, 6, 15, 40}));
  plan.rollback_weight = weight(prng, 0.4, 1);
  plan.faults.has_links = prng.chance(0.7);
}

// Likewise. A thick volume is often one that somebody fills the storage under.
void pick_thick(RunPlan& plan) {
  Prng prng(mix64(plan.seed, 0x544849434B));
  plan.thick = prng.chance(0.3);
  if (!plan.thick || !prng.chance(0.5)) return;
  plan.full_chance = 1;
  plan.full_after_max = prng.pick({Duration(20ms), Duration(200ms)});
  plan.full_time_max = 60s;
  if (!prng.chance(0.5)) return;
  // Nothing else goes wrong, so nothing may be held.
  const FaultOptions kept = plan.faults;
  plan.faults = FaultOptions{};
  plan.faults.delay_min = kept.delay_min;
  plan.faults.delay_max = kept.delay_max;
  plan.faults.lands_early_chance = kept.lands_early_chance;
  plan.outage_chance = plan.thin_full_chance = plan.silence_chance = 0;
  plan.rot = false;
  plan.resize_weight = 0;
  plan.is_preallocated = true;
  // Enough to need every segment, several times.
  plan.volume_bytes = plan.volume_bytes_max = prng.pick({kMiB, 2 * kMiB, 4 * kMiB});
  plan.length_bytes_max = prng.pick({64 * kKiB, 256 * kKiB});
  plan.checkpoint_log_bytes = prng.pick({kMiB, 4 * kMiB, 256 * kMiB, 256 * kMiB});
  plan.write_weight = 16;
  plan.read_weight = plan.read_weight == 0 ? 0 : 1;
  for (Phase& phase : plan.phases) phase.operations *= 4;
}

void pick_guest(Prng& prng, RunPlan& plan) {
  plan.queue_depth = static_cast<std::uint32_t>(prng.pick({1, 2, 4, 8, 16, 32, 64}));
  plan.alignment_bytes = static_cast<std::uint32_t>(prng.pick({4096, 4096, 512, 512, 1}));
  plan.length_bytes_max =
      prng.pick({4 * kKiB, 4 * kKiB, 16 * kKiB, 64 * kKiB, 256 * kKiB, 1280 * kKiB});
  plan.hot_bytes = prng.pick({0 * kKiB, 16 * kKiB, 64 * kKiB, 512 * kKiB});
  plan.read_weight = weight(prng, 0.8, 12);
  plan.write_weight = static_cast<std::uint32_t>(prng.between(4, 16));
  plan.flush_weight = weight(prng, 0.75, 4);
  plan.discard_weight = weight(prng, 0.5, 3);
  plan.zeroes_weight = weight(prng, 0.5, 3);
  plan.status_weight = weight(prng, 0.4, 2);
  plan.checkpoint_weight = weight(prng, 0.2, 1);
  plan.resize_weight = weight(prng, 0.15, 1);
  if (plan.resize_weight != 0) plan.volume_bytes_max = plan.volume_bytes * 2;
  plan.unit_access_chance = prng.pick({0.0, 0.0, 0.1, 0.5});
  plan.immediate_chance = prng.pick({0.0, 0.5, 1.0});
  plan.think_max = prng.pick({Duration(0), Duration(100us), Duration(5ms)});
}

void pick_phases(Prng& prng, RunPlan& plan) {
  const std::uint64_t count = prng.between(1, 4);
  // Large requests cost more to check, so there are fewer of them.
  const std::uint64_t operations_max = plan.length_bytes_max > 64 * kKiB ? 60 : 160;
  for (std::uint64_t i = 0; i < count; ++i) {
    Phase phase;
    phase.operations = static_cast<std::uint32_t>(prng.between(5, operations_max));
    phase.end = prng.pick({EndKind::close, EndKind::busy_close, EndKind::kill, EndKind::kill,
                           EndKind::kill_drained, EndKind::power, EndKind::power, EndKind::power,
                           EndKind::power_drained});
    phase.dies_while_opening = i != 0 && prng.chance(0.2);
    plan.phases.push_back(phase);
  }
}

void pick_faults(Prng& prng, RunPlan& plan) {
  FaultOptions& faults = plan.faults;
  faults.quantum = prng.pick({Duration(1), Duration(1us), Duration(50us)});
  faults.delay_min = prng.pick({Duration(1us), Duration(50us)});
  faults.delay_max = prng.pick({Duration(60us), Duration(400us), Duration(5ms)});
  if (prng.chance(0.4)) faults.slow_chance = 0.02;
  if (prng.chance(0.1)) faults.hang_chance = 0.002;
  if (prng.chance(0.5)) faults.lands_early_chance = 0.3;
  if (prng.chance(0.3)) faults.read_error_chance = prng.pick({0.005, 0.05});
  if (prng.chance(0.3)) faults.write_error_chance = prng.pick({0.005, 0.05, 0.2});
  if (prng.chance(0.35)) faults.sync_error_chance = prng.pick({0.02, 0.2, 0.5});
  if (prng.chance(0.25)) faults.name_error_chance = prng.pick({0.01, 0.1});
  if (prng.chance(0.1)) faults.error_after_chance = 0.02;
  if (prng.chance(0.15)) faults.write_no_space_chance = 0.02;
  if (prng.chance(0.25)) plan.outage_chance = 0.5;
  plan.outage_max = prng.pick({Duration(20ms), Duration(1s), Duration(40s)});
  if (prng.chance(0.2)) plan.full_chance = 0.6;
  if (prng.chance(0.1)) plan.thin_full_chance = 0.5;
  plan.rot = prng.chance(0.06);
}

const char* end_name(EndKind kind) {
  switch (kind) {
    case EndKind::close:
      return "close";
    case EndKind::busy_close:
      return "busy close";
    case EndKind::kill:
      return "kill";
    case EndKind::kill_drained:
      return "kill when drained";
    case EndKind::power:
      return "power loss";
    case EndKind::power_drained:
      return "power loss when drained";
  }
  return "?";
}

}  // namespace

RunPlan swarm_plan(std::uint64_t seed) {
  Prng prng(mix64(seed, 0x504C414E));
  RunPlan plan;
  plan.seed = seed;
  pick_limits(prng, plan);
  pick_guest(prng, plan);
  pick_phases(prng, plan);
  if (prng.chance(0.75)) pick_faults(prng, plan);
  pick_cleaner(plan);
  pick_late_faults(plan);
  plan.cancel_chance = prng.pick({0.0, 0.0, 0.02, 0.2});
  pick_snapshots(plan);
  pick_thick(plan);
  return plan;
}

RunPlan small_plan(std::uint64_t seed) {
  Prng prng(mix64(seed, 0x534D414C));
  RunPlan plan;
  plan.seed = seed;
  plan.is_small = true;
  plan.volume_bytes = plan.volume_bytes_max = kMiB;
  plan.queue_depth = static_cast<std::uint32_t>(prng.pick({1, 3, 8}));
  plan.alignment_bytes = static_cast<std::uint32_t>(prng.pick({4096, 512}));
  plan.length_bytes_max = prng.pick({8 * kKiB, 64 * kKiB});
  plan.checkpoint_log_bytes = prng.pick({64 * kKiB, 256 * kKiB});
  plan.checkpoint_idle = 1ms;
  plan.hot_bytes = prng.pick({0 * kKiB, 64 * kKiB});
  plan.read_weight = 2;
  plan.write_weight = 10;
  plan.flush_weight = 3;
  plan.checkpoint_weight = 1;
  plan.unit_access_chance = 0.1;
  plan.faults.delay_max = 200us;
  plan.faults.lands_early_chance = 0.2;
  plan.phases = {Phase{20, EndKind::kill_drained, false}, Phase{15, EndKind::close, false}};
  plan.cleaner_start_percent = plan.cleaner_stop_percent = 1;
  plan.cancel_chance = prng.pick({0.0, 0.1});
  if (seed % 2 == 0) {
    plan.snapshot_weight = 3;
    plan.snapshot_acts = seed % 4 == 0 ? 12 : 1;
    plan.rollback_weight = 1;
    plan.faults.has_links = seed % 8 != 0;
  }
  // Its preallocation is part of the run, so crashes come in the middle of that too.
  plan.thick = seed % 3 == 0;
  return plan;
}

bool RunPlan::has_faults() const {
  return faults.read_error_chance + faults.write_error_chance + faults.sync_error_chance +
             faults.name_error_chance + faults.error_after_chance + faults.write_no_space_chance +
             faults.bad_place_chance + faults.stale_chance + outage_chance + full_chance +
             thin_full_chance >
         0;
}

bool RunPlan::has_faults_but_full() const {
  return faults.read_error_chance + faults.write_error_chance + faults.sync_error_chance +
                 faults.name_error_chance + faults.error_after_chance +
                 faults.write_no_space_chance + faults.hang_chance + outage_chance +
                 thin_full_chance >
             0 ||
         rot;
}

std::string RunPlan::describe() const {
  std::string text =
      "volume " + format_bytes(volume_bytes) + (thick ? " thick" : "") + ", depth " +
      std::to_string(queue_depth) + ", alignment " + std::to_string(alignment_bytes) +
      ", requests up to " + format_bytes(length_bytes_max) + ", checkpoint every " +
      format_bytes(checkpoint_log_bytes) + ", retained up to " + format_bytes(retained_bytes_max) +
      ", page cache " + format_bytes(page_cache_bytes) + ", cleaner from " +
      std::to_string(cleaner_start_percent) + " to " + std::to_string(cleaner_stop_percent) +
      " %\nweights: read " + std::to_string(read_weight) + " write " +
      std::to_string(write_weight) + " flush " + std::to_string(flush_weight) + " discard " +
      std::to_string(discard_weight) + " zeroes " + std::to_string(zeroes_weight) + " status " +
      std::to_string(status_weight) + " checkpoint " + std::to_string(checkpoint_weight) +
      " resize " + std::to_string(resize_weight) + " snapshot " + std::to_string(snapshot_weight) +
      " rollback " + std::to_string(rollback_weight) + " FUA " + std::to_string(unit_access_chance);
  text += "\nerror chances: read " + std::to_string(faults.read_error_chance) + " write " +
          std::to_string(faults.write_error_chance) + " sync " +
          std::to_string(faults.sync_error_chance) + " names " +
          std::to_string(faults.name_error_chance) + " after " +
          std::to_string(faults.error_after_chance) + " stale " +
          std::to_string(faults.stale_chance) + " bad places " +
          std::to_string(faults.bad_place_chance) + "; outage " + std::to_string(outage_chance) +
          " silence " + std::to_string(silence_chance) + " full " + std::to_string(full_chance) +
          " thin full " + std::to_string(thin_full_chance) + (rot ? "; rot" : "");
  text += "\nphases:";
  for (const Phase& phase : phases) {
    text += " [" + std::to_string(phase.operations) + " operations, " + end_name(phase.end) +
            (phase.dies_while_opening ? ", dies while opening" : "") + "]";
  }
  return text;
}

}  // namespace holdfast::sim
