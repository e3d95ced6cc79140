// SPDX-License-Identifier: Apache-2.0
//
// A model of the leases of one volume, for runs that are about the volume: who owns it, decided in
// one place, with what matters to a volume of how real leases behave. A holder renews every quarter
// of the lease's lifetime and may rely on a renewal for the lifetime less a margin, by its own
// clock, from before it began; whoever waits takes the volume over when it has seen no renewal for
// the lifetime, by its own clock. Clocks of hosts may differ in speed by what the margin allows.
//
// Thread: the run's. Lifetime: the model outlives its clients; a client lives in one process.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "sim/lease_service.h"
#include "sim/prng.h"
#include "sim/scheduler.h"

namespace holdfast::sim {

struct LeaseModelOptions {
  Duration lifetime = std::chrono::seconds(2);
  double margin = 0.03;         // of the lifetime; speeds of clocks differ by less than half of it
  double failure_chance = 0.1;  // of a renewal
  double slow_chance = 0.1;     // of a step to take up to half of the lifetime
};

class LeaseModel {
 public:
  // `epoch`: the last one that was used.
  LeaseModel(LeaseModelOptions options, std::uint64_t epoch, OwnerObserver observer)
      : options_(options), epoch_(epoch), observer_(std::move(observer)) {}

  const LeaseModelOptions& options() const { return options_; }

 private:
  friend class LeaseClient;
  void change(std::uint64_t owner) {
    if (owner != 0) ++epoch_;
    owner_ = owner;
    ++renewals_;
    observer_(owner_, epoch_);
  }

  LeaseModelOptions options_;
  std::uint64_t epoch_;
  std::uint64_t owner_ = 0;     // a process's number; 0: nobody
  std::uint64_t renewals_ = 0;  // of whoever owns it
  OwnerObserver observer_;
};

class LeaseClient final : public LeaseService {
 public:
  LeaseClient(SimHost& host, LeaseModel& model);

  Task<std::shared_ptr<const Fence>> acquire() override;
  Task<void> release() override;

 private:
  Task<void> step();
  Task<void> renew(std::shared_ptr<Fence> fence);
  BootTime deadline(BootTime begin) const;

  SimHost& host_;
  LeaseModel& model_;
  Prng prng_;
  std::shared_ptr<Fence> fence_;
  TaskScope tasks_;
};

}  // namespace holdfast::sim
