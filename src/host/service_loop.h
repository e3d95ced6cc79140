// SPDX-License-Identifier: Apache-2.0
//
// The two sides of a service loop: what lives on it (ServiceShard), and the host's hold on that
// (ServiceLoop). Everything between them is posted: commands to the shard, plain data back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "host/run_on.h"
#include "host/volume_service.h"
#include "pool/pool.h"
#include "volume/cleaner_turns.h"
#include "volume/page_memory.h"

namespace holdfast {

// A volume of an open pool, for a shard.
struct ShardVolume {
  VolumeName name;
  PoolInfo pool;
  VolumeId id;
  VolumeOptions options;  // but what the volumes of a loop share, which is the shard's
  ServedPart what;
};

// Something done with a volume, on its loop. Called once.
using VolumeAct = std::function<Task<Result<void>>(Volume& volume)>;

// The volumes of one loop and what they share. Each of its pools is a view (pool/open_pool.h), made
// when it is first needed; the host keeps the pool itself open as long.
//
// Thread: the executor's (but construction). Commands on one volume do not overlap, and none of a
// pool's volumes is in use when its view is dropped: the host's name locks see to both.
class ServiceShard {
 public:
  ServiceShard(ServiceEnvironment environment, std::uint64_t page_memory_bytes);
  ServiceShard(const ServiceShard&) = delete;
  ServiceShard& operator=(const ServiceShard&) = delete;
  ~ServiceShard();

  // Makes the services and their sockets. What could not be done: why.
  Task<std::vector<std::pair<VolumeName, Error>>> listen(std::vector<ServiceSettings> services);
  // Makes the service if it is not there, listens if it does not, opens, accepts.
  Task<Result<ServiceReport>> open(ServiceSettings settings, ShardVolume volume);
  // The same without the volume, which is another host's: VolumeService::await_volume().
  Task<Result<void>> await_volume(ServiceSettings settings, ShardVolume volume);
  // See VolumeService::hand_over().
  Task<Result<void>> hand_over(VolumeName name);
  // Nothing was asked of an open volume for `time`, nor is anything under way.
  Task<bool> is_quiet(VolumeName name, Duration time);
  // Closes and destroys the service, if there is one.
  Task<Result<void>> remove(VolumeName name);
  Task<Result<ServiceReport>> resize(VolumeName name, std::uint64_t size_bytes);
  Task<Result<void>> set_thick(VolumeName name, bool thick);
  // On the volume that is served here, or on one that is opened for it, and closed after it.
  Task<Result<std::vector<SnapshotInfo>>> with_volume(ShardVolume volume, VolumeAct act);
  // Of those that are open, or held while they are being opened. `short_pools`: where volumes
  // should free soon what they can.
  Task<std::vector<std::pair<VolumeName, ServiceReport>>> reports(
      std::set<std::string> short_pools);
  // Of those that are asked for, and are there: see VolumeService::look_at_hold().
  struct HoldQuery {
    VolumeName name;
    Duration fail_after;
  };
  struct HoldAnswer {
    VolumeName name;
    std::optional<Duration> held;
  };
  Task<std::vector<HoldAnswer>> look_at_holds(std::vector<HoldQuery> queries);
  // Returns when nothing of the loop is on its way to the pool any more.
  Task<Result<void>> drop_view(std::string pool);

  std::weak_ptr<TaskScope> scope() const { return scope_; }

 private:
  struct View;

  VolumeService& service(const ServiceSettings& settings);
  View& view(const ShardVolume& volume);

  const ServiceEnvironment environment_;
  PageMemory page_memory_;
  CleanerTurns cleaner_turns_;
  std::map<std::string, std::unique_ptr<View>> views_;
  std::map<VolumeName, std::unique_ptr<VolumeService>> services_;
  std::shared_ptr<TaskScope> scope_;  // last: its tasks use all of the above
};

// Thread: the host's.
class ServiceLoop {
 public:
  ServiceLoop(Executor& home, ServiceEnvironment environment, std::uint64_t page_memory_bytes);
  ServiceLoop(const ServiceLoop&) = delete;
  ServiceLoop& operator=(const ServiceLoop&) = delete;
  // What lives there is destroyed there.
  ~ServiceLoop();

  // `co_await loop.run(command)`, where command(ServiceShard&) returns a task (see run_on.h).
  template <typename Command>
  auto run(Command command) {
    auto start = [shard = shard_.get(), command = std::move(command)] { return command(*shard); };
    return run_on(home_, executor_, shard_->scope(), std::move(start));
  }

  bool refreshing = false;  // the host asked for reports and has no answer yet
  bool looking = false;     // the same for holds

 private:
  Executor& home_;
  Executor& executor_;
  std::shared_ptr<ServiceShard> shard_;
};

}  // namespace holdfast
