// SPDX-License-Identifier: Apache-2.0
#include "lease/host_watch.h"

#include <algorithm>

namespace holdfast {

std::string_view host_liveness_text(HostLiveness state) {
  switch (state) {
    case HostLiveness::free:
      return "free";
    case HostLiveness::unknown:
      return "unknown";
    case HostLiveness::live:
      return "live";
    case HostLiveness::failing:
      return "failing";
    case HostLiveness::dead:
      return "dead";
  }
  return "unknown";
}

void HostWatch::see(const format::LeaseLeader& lease, BootTime before, BootTime after) {
  const bool is_same = is_seen_ && lease.timestamp == lease_.timestamp &&
                       lease.owner_generation == lease_.owner_generation &&
                       lease.owner_id == lease_.owner_id &&
                       lease.resource_name == lease_.resource_name;
  if (!is_same) {
    has_changed_ = is_seen_;
    changed_ = looked_ = after;
  } else {
    looked_ = std::max(looked_, before);
  }
  is_seen_ = true;
  lease_ = lease;
}

LeaseTimes HostWatch::times(Duration watchdog) const {
  const std::uint16_t seconds =
      lease_.io_timeout != 0 ? lease_.io_timeout : format::kLeaseIoTimeoutDefault;
  return LeaseTimes{std::chrono::seconds(seconds), watchdog};
}

HostLiveness HostWatch::state(Duration watchdog) const {
  if (!is_seen_ || lease_.timestamp == 0) return HostLiveness::free;
  const LeaseTimes limits = times(watchdog);
  if (unchanged() >= limits.dead()) return HostLiveness::dead;
  if (unchanged() >= limits.failing()) return HostLiveness::failing;
  return has_changed_ ? HostLiveness::live : HostLiveness::unknown;
}

Duration HostWatch::until_dead(Duration watchdog) const {
  if (!is_seen_ || lease_.timestamp == 0) return Duration::zero();
  return std::max(times(watchdog).dead() - unchanged(), Duration::zero());
}

}  // namespace holdfast
