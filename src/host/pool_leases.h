// SPDX-License-Identifier: Apache-2.0
//
// The host's hold on the keeper of one shared pool's leases, which lives on a loop of its own, so
// that nothing a guest or a command does delays a renewal.
//
// Thread: the host's; what is given to run() runs on the leases' loop. Lifetime: the loop outlives
// it. To destroy it without close() is what a crash does.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "host/run_on.h"
#include "io/executor.h"
#include "io/file_system.h"
#include "lease/lease_keeper.h"
#include "pool/pool.h"

namespace holdfast {

// Where keepers live: one loop for those of all pools, a file system for each.
struct LeaseEnvironment {
  Executor& executor;
  std::function<std::unique_ptr<FileSystem>()> make_file_system;
};

class PoolLeases {
 public:
  // `options.on_request` is called on the host's thread.
  PoolLeases(Executor& home, const LeaseEnvironment& environment, PoolInfo pool,
             LeaseOptions options);
  PoolLeases(const PoolLeases&) = delete;
  PoolLeases& operator=(const PoolLeases&) = delete;
  ~PoolLeases();

  // `co_await leases.run(command)`, where command(LeaseKeeper&) returns a task (see run_on.h).
  template <typename Command>
  auto run(Command command) {
    auto start = [shard = shard_.get(), command = std::move(command)] {
      return command(*shard->keeper);
    };
    return run_on(home_, executor_, shard_->scope, std::move(start));
  }

 private:
  struct Shard {
    std::unique_ptr<FileSystem> file_system;
    std::unique_ptr<Pool> pool;
    std::unique_ptr<LeaseKeeper> keeper;
    std::shared_ptr<TaskScope> scope;
  };

  Executor& home_;
  Executor& executor_;
  std::shared_ptr<Shard> shard_;
};

}  // namespace holdfast
