// SPDX-License-Identifier: Apache-2.0
#include "host/pool_leases.h"

#include "pool/open_pool.h"

namespace holdfast {

PoolLeases::PoolLeases(Executor& home, const LeaseEnvironment& environment, PoolInfo pool,
                       LeaseOptions options)
    : home_(home), executor_(environment.executor), shard_(std::make_shared<Shard>()) {
  shard_->file_system = environment.make_file_system();
  const PoolContext context{executor_, *shard_->file_system, "", options.host_name};
  shard_->pool = view_pool(std::move(pool), context);
  options.on_request = [&home, told = std::move(options.on_request)](VolumeId volume, bool now) {
    home.post_remote([told, volume, now] { told(volume, now); });
  };
  shard_->keeper = std::make_unique<LeaseKeeper>(executor_, *shard_->pool, std::move(options));
  shard_->scope = std::make_shared<TaskScope>();
}

PoolLeases::~PoolLeases() {
  // It is destroyed where it lives, tasks first.
  executor_.post_remote([shard = std::move(shard_)]() mutable {
    shard->scope.reset();
    shard->keeper.reset();
    shard->pool.reset();
    shard.reset();
  });
}

}  // namespace holdfast
