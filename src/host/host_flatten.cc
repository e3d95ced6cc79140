// SPDX-License-Identifier: Apache-2.0
//
// Flattening of clones: one background task for each, which takes the volume's lock for a step of
// some hundred milliseconds at a time, so that everything else can be done with the volume
// meanwhile (attached or not, it is opened for a step if it must be). Nothing of it is recorded:
// what a daemon that ended has done is found in the pool by the next one that is asked to flatten.
#include <algorithm>
#include <memory>

#include "base/log.h"
#include "host/host.h"
#include "host/host_entries.h"

namespace holdfast {
namespace {

constexpr const char* kRunning = "running";
constexpr Duration kBetweenSteps = 2ms;  // for whoever waits for the volume's lock

Task<Result<void>> flatten_into(Volume* volume, std::shared_ptr<FlattenPart> part) {
  CO_TRY_ASSIGN(*part, co_await volume->flatten(limits::kFlattenStepTime));
  co_return Result<void>{};
}

}  // namespace

Task<Result<FlattenReport>> Host::flatten_volume(VolumeName name) {
  CO_TRY(check_running());
  {
    CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(name.pool));
    const PoolUse use(*entry);
    CO_TRY(co_await find_volume(*entry->pool, name));
  }
  CO_TRY(check_not_importing(name));
  const auto known = flattens_.find(name);
  if (known != flattens_.end() && known->second.state == kRunning) co_return known->second;
  const auto running = std::count_if(flattens_.begin(), flattens_.end(), [](const auto& each) {
    return each.second.state == kRunning;
  });
  if (static_cast<std::size_t>(running) >= limits::kFlattensMax) {
    co_return Error(ErrorCode::busy, std::to_string(running) +
                                         " volumes are being flattened already; try again when "
                                         "one of them is done");
  }
  forget_flattens();
  FlattenReport report;
  report.name = name;
  report.state = kRunning;
  flattens_[name] = report;
  background_.spawn(keep_flattening(name));
  co_return report;
}

// Reports of some that have ended, when there are many.
void Host::forget_flattens() {
  for (auto at = flattens_.begin();
       at != flattens_.end() && flattens_.size() >= limits::kFlattenReportsMax;) {
    at = at->second.state == kRunning ? std::next(at) : flattens_.erase(at);
  }
}

Task<Result<FlattenReport>> Host::show_flatten(VolumeName name) {
  const auto found = flattens_.find(name);
  if (found != flattens_.end()) co_return found->second;
  co_return Error(ErrorCode::not_found, "nothing is known of flattening '" + name.to_string() +
                                            "'; begin it, or go on with it: holdfast flatten " +
                                            name.to_string());
}

Task<Result<FlattenReport>> Host::cancel_flatten(VolumeName name) {
  const auto found = flattens_.find(name);
  if (found == flattens_.end() || found->second.state != kRunning) {
    co_return Error(ErrorCode::not_found, "'" + name.to_string() + "' is not being flattened");
  }
  cancelled_flattens_.insert(name);
  while (cancelled_flattens_.contains(name)) co_await changed_.wait();
  co_return flattens_[name];
}

Task<void> Host::keep_flattening(VolumeName name) {
  log_info("volume " + name.to_string() + " is being flattened");
  for (;;) {
    VolumeName volume = name;
    const Result<bool> done = co_await flatten_step(std::move(volume));
    FlattenReport& report = flattens_[name];
    if (!done.ok()) {
      report.state = "failed";
      report.reason = done.error().message() + "; what was done stays, and 'holdfast flatten " +
                      name.to_string() + "' goes on with it";
      log_warning("volume " + name.to_string() + " could not be flattened: " + report.reason);
    } else if (done.value()) {
      report.state = "done";
      log_info("volume " + name.to_string() + " is flattened");
    } else if (cancelled_flattens_.contains(name)) {
      report.state = "cancelled";
      log_info("the flattening of volume " + name.to_string() + " was cancelled");
    }
    if (report.state != kRunning) break;
    co_await sleep_for(executor_, kBetweenSteps);
  }
  cancelled_flattens_.erase(name);
  changed_.notify_all();
}

// True: nothing is left to do.
Task<Result<bool>> Host::flatten_step(VolumeName name) {
  const NameLocks::Lock lock = co_await locks_.acquire(name.to_string());
  CO_TRY(check_running());
  CO_TRY(check_not_importing(name));
  auto part = std::make_shared<FlattenPart>();  // the volume's loop fills it in
  VolumeAct act = [part](Volume& volume) { return flatten_into(&volume, part); };
  FlattenReport& report = flattens_[name];
  CO_TRY(co_await with_volume(std::move(name), std::move(act)));
  report.segments_done += part->adopted_segments;
  report.bytes_done += part->adopted_bytes;
  report.segments_total = report.segments_done + part->left_segments;
  report.bytes_total = report.bytes_done + part->left_bytes;
  co_return part->is_done;
}

}  // namespace holdfast
