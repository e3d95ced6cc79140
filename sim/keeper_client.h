// SPDX-License-Identifier: Apache-2.0
//
// The real leases (lease/lease_keeper.h), on the storage of the run.
#pragma once

#include <memory>
#include <string>

#include "lease/lease_keeper.h"
#include "sim/lease_service.h"
#include "sim/scheduler.h"

namespace holdfast::sim {

class KeeperClient final : public LeaseService {
 public:
  KeeperClient(SimHost& host, Pool& pool, VolumeId volume, std::string host_name,
               OwnerObserver observer);

  Task<std::shared_ptr<const Fence>> acquire() override;
  Task<void> release() override;

 private:
  SimHost& host_;
  VolumeId volume_;
  OwnerObserver observer_;
  LeaseKeeper keeper_;
  bool has_joined_ = false;
};

}  // namespace holdfast::sim
