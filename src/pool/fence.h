// SPDX-License-Identifier: Apache-2.0
//
// The ownership of one volume of a shared pool, as the volume sees it: until when it is certain
// that no other host may have taken it over (design invariant 1). The keeper of the leases
// (lease/lease_keeper.h) alone writes it, from its own thread; the volume asks before it answers a
// request and before it removes anything.
//
// Threading: extend() and lose() on one thread, the rest on any. Lifetime: shared by the keeper and
// the volume.
#pragma once

#include <cstdint>

#include "base/ids.h"
#include "base/time.h"
#include "io/shared_number.h"

namespace holdfast {

class Fence {
 public:
  // `epoch`: the lease's version number; higher than that of every owner before.
  Fence(Epoch epoch, BootTime deadline)
      : epoch_(epoch), deadline_(deadline.time_since_epoch().count()) {}
  Fence(const Fence&) = delete;
  Fence& operator=(const Fence&) = delete;

  Epoch epoch() const { return epoch_; }
  // Nobody else owns the volume at `now`, the executor's boot time of this moment.
  bool holds(BootTime now) const { return now.time_since_epoch().count() < deadline_.get(); }
  // For good: it never holds again.
  bool is_lost() const { return deadline_.get() == kLost; }
  // In the past: the lease could not be renewed. Not to be asked for when it is lost.
  BootTime deadline() const { return BootTime(Duration(deadline_.get())); }

  // For lease/ only.
  void extend(BootTime deadline) {
    if (!is_lost()) deadline_.set(deadline.time_since_epoch().count());
  }
  void lose() { deadline_.set(kLost); }

 private:
  static constexpr std::int64_t kLost = INT64_MIN;

  const Epoch epoch_;
  SharedNumber deadline_;
};

}  // namespace holdfast
