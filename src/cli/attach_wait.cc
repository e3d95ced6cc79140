// SPDX-License-Identifier: Apache-2.0
#include "cli/attach_wait.h"

#include <chrono>

#include "base/limits.h"
#include "cli/lease_output.h"
#include "cli/table.h"

namespace holdfast {
namespace {

// A free lease that is refused was held a moment ago: as good as one of a host that lives.
bool may_be_taken_over(const Json& details) {
  const std::string state = text_of(details, "state");
  return state == "failing" || state == "dead" || state == "unknown";
}

}  // namespace

bool AttachWait::goes_on(const Json& details, double passed_seconds) {
  waited_seconds_ += passed_seconds;
  if (may_be_taken_over(details)) return true;
  live_seconds_ += passed_seconds;
  if (live_seconds_ < patience_seconds_) return true;
  return patience_seconds_ > 0 && !is_known_to_live(details);
}

// A host that died just before we came is called live for a while. It lives for certain if it has
// renewed its lease since we came: a renewal is seen by the first look after it.
bool AttachWait::is_known_to_live(const Json& details) const {
  const double look_seconds = std::chrono::duration<double>(limits::kLeaseLookTime).count();
  const Json& age = member(details, "last_renewal_seconds_ago");
  return !age.is_number() || age.get<double>() + look_seconds < waited_seconds_;
}

std::string AttachWait::text(const Json& details) const {
  const std::string host = text_of(details, "host");
  const std::string state = text_of(details, "state");
  const std::string holder =
      (host.empty() ? "another host" : "host " + host) + (state.empty() ? "" : " (" + state + ")");
  if (may_be_taken_over(details)) {
    const Json& take_over = member(details, "take_over_in_seconds");
    return "waits for " + holder +
           (take_over.is_number() ? ": " + take_over_text(take_over) : std::string());
  }
  if (live_seconds_ >= patience_seconds_) return "waits for " + holder + " to renew its lease";
  return "waits for " + holder + " for another " +
         format_seconds(patience_seconds_ - live_seconds_);
}

}  // namespace holdfast
