// SPDX-License-Identifier: Apache-2.0
#include "host/service_loop.h"

#include "base/limits.h"
#include "pool/open_pool.h"

namespace holdfast {

struct ServiceShard::View {
  View(const ServiceEnvironment& environment, const PoolInfo& info)
      : file_system(environment.make_file_system()),
        pool(view_pool(info, PoolContext{environment.executor, *file_system, ""})),
        opened(environment.executor) {}

  std::unique_ptr<FileSystem> file_system;
  std::unique_ptr<Pool> pool;
  std::size_t opens_under_way = 0;
  Condition opened;
};

ServiceShard::ServiceShard(ServiceEnvironment environment, std::uint64_t page_memory_bytes)
    : environment_(std::move(environment)),
      page_memory_(page_memory_bytes),
      scope_(std::make_shared<TaskScope>()) {}

ServiceShard::~ServiceShard() = default;

VolumeService& ServiceShard::service(const ServiceSettings& settings) {
  auto& place = services_[settings.frontend.name];
  if (place == nullptr) place = std::make_unique<VolumeService>(environment_, settings);
  return *place;
}

ServiceShard::View& ServiceShard::view(const ShardVolume& volume) {
  auto& place = views_[volume.name.pool];
  if (place == nullptr) place = std::make_unique<View>(environment_, volume.pool);
  return *place;
}

Task<std::vector<std::pair<VolumeName, Error>>> ServiceShard::listen(
    std::vector<ServiceSettings> services) {
  std::vector<std::pair<VolumeName, Error>> failed;
  for (const ServiceSettings& settings : services) {
    auto listening = service(settings).listen();
    if (!listening.ok()) failed.emplace_back(settings.frontend.name, listening.take_error());
  }
  co_return failed;
}

Task<Result<ServiceReport>> ServiceShard::open(ServiceSettings settings, ShardVolume volume) {
  VolumeService& target = service(settings);
  CO_TRY(target.listen());
  View& place = view(volume);
  // Recoveries side by side, but not so many that each of them takes long.
  while (place.opens_under_way >= limits::kOpensPerPoolAndLoopMax) co_await place.opened.wait();
  volume.options.page_memory = &page_memory_;
  volume.options.cleaner_turns = &cleaner_turns_;
  ++place.opens_under_way;
  const auto opened = co_await target.open(*place.pool, volume.id, volume.what, volume.options);
  --place.opens_under_way;
  place.opened.notify_all();
  if (!opened.ok()) co_return opened.error();
  co_return *target.report();
}

Task<Result<void>> ServiceShard::await_volume(ServiceSettings settings, ShardVolume volume) {
  VolumeService& target = service(settings);
  co_return co_await target.await_volume(*view(volume).pool, volume.id);
}

Task<Result<void>> ServiceShard::hand_over(VolumeName name) {
  co_return co_await services_.at(name)->hand_over();
}

Task<bool> ServiceShard::is_quiet(VolumeName name, Duration time) {
  const auto asked = [this, &name]() -> std::optional<std::uint64_t> {
    const auto at = services_.find(name);
    if (at == services_.end() || !at->second->is_open()) return std::nullopt;
    const VolumeStatistics now = at->second->volume().statistics();
    if (now.requests_in_flight != 0) return std::nullopt;
    return now.reads + now.writes + now.discards + now.flushes + now.errors;
  };
  const auto before = asked();
  co_await sleep_for(environment_.executor, time);
  co_return before.has_value() && asked() == before;
}

Task<Result<void>> ServiceShard::remove(VolumeName name) {
  const auto at = services_.find(name);
  if (at == services_.end()) co_return Result<void>{};
  co_await at->second->close();
  services_.erase(at);
  co_return Result<void>{};
}

Task<Result<ServiceReport>> ServiceShard::resize(VolumeName name, std::uint64_t size_bytes) {
  VolumeService& target = *services_.at(name);
  CO_TRY(co_await target.resize(size_bytes));
  co_return *target.report();
}

Task<Result<void>> ServiceShard::set_thick(VolumeName name, bool thick) {
  services_.at(name)->set_thick(thick);
  co_return Result<void>{};
}

Task<Result<std::vector<SnapshotInfo>>> ServiceShard::with_volume(ShardVolume volume,
                                                                  VolumeAct act) {
  const auto served = services_.find(volume.name);
  if (served != services_.end() && served->second->is_open()) {
    Volume& open = served->second->volume();
    CO_TRY(co_await act(open));
    co_return open.snapshots();
  }
  View& place = view(volume);
  volume.options.page_memory = &page_memory_;
  volume.options.cleaner_turns = &cleaner_turns_;
  CO_TRY_ASSIGN(
      const std::unique_ptr<Volume> opened,
      co_await Volume::open(environment_.executor, *place.pool, volume.id, volume.options));
  auto done = co_await act(*opened);
  auto closed = co_await opened->close();
  if (!done.ok()) co_return done.take_error();
  if (!closed.ok()) co_return closed.take_error();
  co_return opened->snapshots();
}

Task<std::vector<std::pair<VolumeName, ServiceReport>>> ServiceShard::reports(
    std::set<std::string> short_pools) {
  std::vector<std::pair<VolumeName, ServiceReport>> reports;
  for (const auto& [name, service] : services_) {
    service->hint_space_is_short(short_pools.contains(name.pool));
    if (auto report = service->report()) reports.emplace_back(name, std::move(*report));
  }
  co_return reports;
}

Task<std::vector<ServiceShard::HoldAnswer>> ServiceShard::look_at_holds(
    std::vector<HoldQuery> queries) {
  std::vector<HoldAnswer> answers;
  for (const HoldQuery& query : queries) {
    const auto at = services_.find(query.name);
    if (at == services_.end()) continue;
    answers.push_back({query.name, at->second->look_at_hold(query.fail_after)});
  }
  co_return answers;
}

Task<Result<void>> ServiceShard::drop_view(std::string pool) {
  const auto at = views_.find(pool);
  if (at == views_.end()) co_return Result<void>{};
  // Calls run in order, so after this one the file system has nothing to do, and its end does not
  // keep the loop waiting.
  (void)co_await at->second->pool->space();
  views_.erase(at);
  co_return Result<void>{};
}

ServiceLoop::ServiceLoop(Executor& home, ServiceEnvironment environment,
                         std::uint64_t page_memory_bytes)
    : home_(home),
      executor_(environment.executor),
      shard_(std::make_shared<ServiceShard>(std::move(environment), page_memory_bytes)) {}

ServiceLoop::~ServiceLoop() {
  if (&home_ == &executor_) return;
  // Its last owner is the function, which the other loop destroys after the call.
  executor_.post_remote([shard = std::move(shard_)]() mutable { shard.reset(); });
}

}  // namespace holdfast
