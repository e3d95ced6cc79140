// SPDX-License-Identifier: Apache-2.0
//
// What a host concludes of another one from looking at its host lease now and then. Only changes
// count: timestamps are by the other's clock, and never compared with ours. Pure.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/time.h"
#include "format/lease_block.h"

namespace holdfast {

// Which host, and which of its lives: the generation grows whenever the host lease is claimed.
struct HostIdentity {
  std::uint64_t host_id = 0;
  std::uint64_t generation = 0;
  auto operator<=>(const HostIdentity&) const = default;
};

// sanlock's timings, from N (the I/O timeout) and W (how long after it has stopped renewing a
// host's watchdog may take to reset it; nothing for hosts that Holdfast alone runs on).
struct LeaseTimes {
  Duration io_timeout{};  // N
  Duration watchdog{};    // W
  Duration renewal() const { return 2 * io_timeout; }
  Duration failing() const { return 8 * io_timeout; }          // the holder stops before
  Duration dead() const { return 8 * io_timeout + watchdog; }  // others may take over
};

enum class HostLiveness {
  free,     // it has left, or was never there
  unknown,  // seen, but not for long enough to have seen it change
  live,     // changed lately
  failing,  // unchanged for 8N: it has stopped to answer its guests
  dead,     // unchanged for 8N + W: what it holds may be taken over
};
std::string_view host_liveness_text(HostLiveness state);

// One slot of the host leases.
class HostWatch {
 public:
  // A read found this. `before` it was submitted, `after` it ended: an unchanged lease was
  // unchanged before, a changed one may have changed as late as after.
  void see(const format::LeaseLeader& lease, BootTime before, BootTime after);

  const format::LeaseLeader& lease() const { return lease_; }
  bool is_seen() const { return is_seen_; }
  HostLiveness state(Duration watchdog) const;
  // As of the last look.
  Duration unchanged() const { return looked_ - changed_; }
  // Zero: dead, or free.
  Duration until_dead(Duration watchdog) const;

 private:
  LeaseTimes times(Duration watchdog) const;

  format::LeaseLeader lease_;
  bool is_seen_ = false;
  bool has_changed_ = false;  // while we looked
  BootTime changed_{};
  BootTime looked_{};
};

}  // namespace holdfast
