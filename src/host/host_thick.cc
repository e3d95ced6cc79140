// SPDX-License-Identifier: Apache-2.0
//
// Thick volumes: refusing what does not fit, preallocating what does, converting. Each open pool
// that has any is tended by one task, volume after volume, whether they are attached or not; what
// it has done stays done, so that it goes on after a restart where it was.
#include <algorithm>

#include "base/log.h"
#include "base/units.h"
#include "host/host.h"
#include "host/host_entries.h"

namespace holdfast {
namespace {

std::uint64_t left_of(std::uint64_t whole, std::uint64_t part) {
  return whole - std::min(whole, part);
}

}  // namespace

// Each host would preallocate, and give back, the spares of volumes that others use.
Result<void> Host::check_may_be_thick(const PoolEntry& entry) {
  if (!entry.pool->info().shared) return {};
  return Error(ErrorCode::unsupported,
               "pool '" + entry.name +
                   "' is shared between hosts, and this version has thick volumes in local pools "
                   "only; make it thin");
}

Task<Result<std::uint64_t>> Host::size_of(PoolEntry& entry, VolumeRecord volume) {
  const VolumeName name{entry.name, volume.name};
  const Attachment* attachment = find_attachment(name);
  if (attachment != nullptr && attachment->served.has_value()) {
    co_return attachment->served->size_bytes;
  }
  co_return co_await Volume::stored_size_bytes(*entry.pool, volume.id);
}

Task<Result<Host::ThickVolume*>> Host::promise(PoolEntry& entry, VolumeId id,
                                               std::uint64_t size_bytes) {
  const std::uint64_t segment_bytes = entry.pool->info().segment_bytes;
  const std::uint64_t segments = thick_layout(size_bytes, segment_bytes).segments;
  std::uint64_t done_segments = 0;
  const auto files = co_await entry.pool->count_segment_files(id);
  if (files.ok()) {
    done_segments = files->guaranteed();
  } else if (files.error().code() != ErrorCode::not_found) {  // not made yet
    co_return files.error();
  }
  // From here on nothing is awaited: of two that are made at once, one sees the other.
  CO_TRY_ASSIGN(const PoolSpace space, co_await entry.pool->space());
  std::uint64_t promised_bytes = 0;
  for (const auto& [other, volume] : entry.thick) {
    if (other == id || volume->dropped) continue;
    promised_bytes +=
        left_of(volume->progress.total_segments, volume->progress.done_segments) * segment_bytes;
  }
  const std::uint64_t needed_bytes = left_of(segments, done_segments) * segment_bytes;
  const std::uint64_t unreserved_bytes = left_of(space.available_bytes, space.reserve_bytes);
  const std::uint64_t available_bytes = left_of(unreserved_bytes, promised_bytes);
  if (needed_bytes > available_bytes) {
    co_return Error(ErrorCode::no_space,
                    "a thick volume of " + format_bytes(size_bytes) + " needs " +
                        format_bytes(needed_bytes) + (done_segments == 0 ? "" : " more") +
                        " (its size, and room to clean and for its map), " + "and pool '" +
                        entry.name + "' has " + format_bytes(available_bytes) +
                        " for it after the reserve of " + format_bytes(space.reserve_bytes) +
                        (promised_bytes == 0 ? ""
                                             : " and " + format_bytes(promised_bytes) +
                                                   " that other thick volumes are still to get") +
                        trash_advice(entry) + "; make it smaller or thin, or add space");
  }
  auto& place = entry.thick[id];
  if (place == nullptr) place = std::make_unique<ThickVolume>();
  place->dropped = place->stop = false;
  place->waiting.clear();
  place->progress = Preallocation{std::min(done_segments, segments), segments};
  entry.to_thin.erase(id);
  co_return place.get();
}

// Before a thick volume grows, what it will need is there.
Task<Result<void>> Host::grow_thick(PoolEntry& entry, VolumeId id, std::uint64_t size_bytes) {
  CO_TRY_ASSIGN(ThickVolume* const thick, co_await promise(entry, id, size_bytes));
  const std::uint64_t segments = thick->progress.total_segments;
  thick->growing_to_bytes = size_bytes;
  wake_tender(entry);
  while (running_ && thick->waiting.empty() && !thick->stop &&
         !(thick->counted && thick->progress.total_segments == segments &&
           thick->progress.is_complete())) {
    co_await changed_.wait();
  }
  const bool done = thick->progress.is_complete() && thick->waiting.empty();
  const std::string why = thick->waiting;
  thick->growing_to_bytes = 0;
  if (done) co_return Result<void>{};
  wake_tender(entry);  // gives back what was too much
  co_return Error(ErrorCode::no_space,
                  "the volume keeps its size, since the space for more of it "
                  "could not be preallocated: " +
                      (why.empty() ? "it was stopped" : why));
}

Task<Result<VolumeReport>> Host::convert_volume(ConvertVolumeRequest request) {
  const std::string full_name = request.name.to_string();
  const NameLocks::Lock lock = co_await locks_.acquire(full_name);
  CO_TRY(check_not_importing(request.name));
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(request.name.pool));
  const PoolUse use(*entry);
  CO_TRY_ASSIGN(VolumeRecord record, co_await find_volume(*entry->pool, request.name));
  if (record.thick == request.thick) {
    co_return co_await report_volume(*entry->pool, request.name, std::move(record));
  }
  if (request.thick) {
    CO_TRY(check_may_be_thick(*entry));
  }
  Attachment* attachment = find_attachment(request.name);
  const bool is_open = attachment != nullptr && attachment->served.has_value();
  if (attachment != nullptr && !is_open) {
    co_return Error(ErrorCode::busy,
                    "volume '" + full_name + "' is attached but cannot be served now: " +
                        attachment->reason + "; detach it first: holdfast detach " + full_name);
  }
  ThickVolume* thick = nullptr;
  if (request.thick) {
    CO_TRY_ASSIGN(const std::uint64_t size_bytes, co_await size_of(*entry, record));
    CO_TRY_ASSIGN(thick, co_await promise(*entry, record.id, size_bytes));
  } else if (const auto at = entry->thick.find(record.id); at != entry->thick.end()) {
    thick = at->second.get();
    thick->stop = true;
  }
  // The record first: whatever comes after it is done again when the pool is opened.
  record.thick = request.thick;
  const auto updated = co_await entry->pool->update_volume(record);
  if (!updated.ok()) {
    if (thick != nullptr) thick->stop = thick->dropped = request.thick;
    wake_tender(*entry);
    co_return updated.error();
  }
  if (is_open) {
    attachment->record = record;
    auto command = [name = request.name, is_thick = request.thick](ServiceShard& shard) {
      return shard.set_thick(name, is_thick);
    };
    (void)co_await loops_[attachment->loop]->run(std::move(command));
  }
  if (!request.thick) {
    if (thick != nullptr) thick->dropped = true;
    entry->to_thin.insert(record.id);
  }
  wake_tender(*entry);
  log_info("volume " + full_name + " is " + (request.thick ? "thick" : "thin") + " now");
  co_return co_await report_volume(*entry->pool, request.name, std::move(record));
}

// --- Tending ---

void Host::wake_tender(PoolEntry& entry) {
  entry.tend_again = true;
  if (!entry.tending && !entry.tending_stopped) {
    entry.tending = true;
    background_.spawn(tend(entry.name));
  }
  changed_.notify_all();
}

// Stops what is under way soon, or lets it go on.
void Host::stop_tending(PoolEntry& entry, bool stop) {
  entry.tending_stopped = stop;
  for (const auto& [id, volume] : entry.thick) volume->stop = stop;
  if (!stop) wake_tender(entry);
  changed_.notify_all();
}

Task<void> Host::tend(std::string name) {
  // Not at once: the caller may not have put its entry where it belongs.
  co_await sleep_for(executor_, 0ns);
  for (;;) {
    const auto at = pools_.find(name);
    if (at == pools_.end()) co_return;
    PoolEntry& entry = *at->second;
    if (!running_ || entry.pool == nullptr || entry.tending_stopped) {
      entry.tending = false;
      co_return;
    }
    entry.tend_again = false;
    bool is_complete = false;
    {
      const PoolUse use(entry);
      is_complete = co_await tend_once(entry);
    }
    changed_.notify_all();
    if (is_complete && entry.thick.empty() && entry.to_thin.empty() && !entry.tend_again) {
      entry.tending = false;
      co_return;
    }
    const MonotonicTime until = executor_.now() + (is_complete ? limits::kPreallocationCheckTime
                                                               : Duration(limits::kRetryDelayMax));
    Timer timer([](void* context) { static_cast<Condition*>(context)->notify_all(); }, &changed_);
    executor_.arm(timer, until);
    for (;;) {
      const auto now = pools_.find(name);
      if (!running_ || now == pools_.end()) co_return;
      if (executor_.now() >= until || now->second->tend_again || now->second->tending_stopped) {
        break;
      }
      co_await changed_.wait();
    }
  }
}

// One round over the pool's volumes: first counts all, so that promises are known, then makes what
// is missing. False: something is left to do.
Task<bool> Host::tend_once(PoolEntry& entry) {
  const auto listed = co_await entry.pool->list_volumes();
  if (!listed.ok()) co_return false;
  const std::uint64_t segment_bytes = entry.pool->info().segment_bytes;
  std::set<VolumeId> present;
  bool is_complete = true;
  for (const VolumeRecord& volume : listed.value()) {
    present.insert(volume.id);
    if (!volume.thick) {
      if (!entry.knows_thin) entry.to_thin.insert(volume.id);
      continue;
    }
    auto& place = entry.thick[volume.id];
    if (place == nullptr) place = std::make_unique<ThickVolume>();
    ThickVolume& thick = *place;
    if (thick.dropped || thick.stop) continue;
    const auto size = co_await size_of(entry, volume);
    const auto files = co_await entry.pool->count_segment_files(volume.id);
    if (!size.ok() || !files.ok()) {
      is_complete = false;
      thick.waiting = size.ok() ? files.error().message() : size.error().message();
      continue;
    }
    const std::uint64_t size_bytes = std::max(size.value(), thick.growing_to_bytes);
    const std::uint64_t segments = thick_layout(size_bytes, segment_bytes).segments;
    thick.progress = Preallocation{std::min(files->guaranteed(), segments), segments};
    thick.counted = true;
  }
  entry.knows_thin = true;
  // A volume that is being created is promised before it is listed.
  for (auto at = entry.thick.begin(); at != entry.thick.end();) {
    const bool is_gone = at->second->counted && !present.contains(at->first);
    at = is_gone || at->second->dropped ? entry.thick.erase(at) : std::next(at);
  }
  const std::vector<VolumeId> thin(entry.to_thin.begin(), entry.to_thin.end());
  for (const VolumeId& id : thin) {
    const auto spares = co_await entry.pool->list_spares(id);
    bool removed_all = spares.ok() || spares.error().code() == ErrorCode::not_found;
    if (spares.ok()) {
      for (const SpareId& spare : spares.value()) {
        if (entry.tending_stopped || !entry.to_thin.contains(id)) break;
        const auto removed = co_await entry.pool->remove_spare(spare);
        removed_all &= removed.ok() || removed.error().code() == ErrorCode::not_found;
      }
    }
    if (removed_all && !entry.tending_stopped) entry.to_thin.erase(id);
    is_complete &= removed_all;
  }
  for (const VolumeId& id : present) {
    const auto at = entry.thick.find(id);
    if (at == entry.thick.end() || at->second->stop || !at->second->counted) continue;
    ThickVolume& thick = *at->second;
    const std::uint64_t segments = thick.progress.total_segments;
    const auto done = co_await preallocate(*entry.pool, id, segments, &thick.progress, &thick.stop);
    std::string waiting = done.ok() ? std::string() : done.error().message();
    if (!waiting.empty() && thick.waiting.empty()) {
      log_warning("the preallocation of thick volume " + id.to_string() + " in pool " + entry.name +
                  " waits: " + waiting);
    }
    thick.waiting = std::move(waiting);
    is_complete &= done.ok() && thick.progress.is_complete();
    changed_.notify_all();
  }
  co_return is_complete;
}

void Host::add_preallocation(VolumeReport& report) const {
  const auto pool = pools_.find(report.name.pool);
  if (pool == pools_.end() || pool->second->pool == nullptr || !report.id.has_value()) return;
  const auto at = pool->second->thick.find(*report.id);
  if (at == pool->second->thick.end() || at->second->dropped) return;
  const ThickVolume& thick = *at->second;
  const std::uint64_t segment_bytes = pool->second->pool->info().segment_bytes;
  PreallocationReport preallocation;
  preallocation.done_bytes = thick.progress.done_segments * segment_bytes;
  preallocation.total_bytes = thick.progress.total_segments * segment_bytes;
  preallocation.reason = thick.waiting;
  preallocation.state = !thick.waiting.empty()                          ? "waiting"
                        : thick.counted && thick.progress.is_complete() ? "complete"
                                                                        : "running";
  report.preallocation = std::move(preallocation);
}

}  // namespace holdfast
