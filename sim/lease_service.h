// SPDX-License-Identifier: Apache-2.0
//
// How a simulated process comes to own the volume of a run: by a model of leases (lease_model.h),
// or by the real ones (keeper_client.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "io/task.h"
#include "pool/fence.h"

namespace holdfast::sim {

// Who owns the volume from this moment on: a process's number, or 0 for nobody; and its epoch.
using OwnerObserver = std::function<void(std::uint64_t process, std::uint64_t epoch)>;

// One process's part. Destroyed without release() it has died.
class LeaseService {
 public:
  virtual ~LeaseService() = default;
  // Waits until the volume is ours.
  virtual Task<std::shared_ptr<const Fence>> acquire() = 0;
  virtual Task<void> release() = 0;
};

}  // namespace holdfast::sim
