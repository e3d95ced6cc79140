// SPDX-License-Identifier: Apache-2.0
//
// How long the command goes on asking for a volume that another host has: until the take-over
// while that host does not seem to live, a while if it does.
#pragma once

#include <string>

#include "cli/json_text.h"

namespace holdfast {

class AttachWait {
 public:
  // `patience_seconds`: for a host that lives, or of which nothing is known; 0: not at all.
  explicit AttachWait(double patience_seconds) : patience_seconds_(patience_seconds) {}

  // After an answer lease-held. `details`: of its error. `passed_seconds`: since the one before.
  // False: it is time to give up.
  bool goes_on(const Json& details, double passed_seconds);
  double waited_seconds() const { return waited_seconds_; }

  // "waits for host kvm2 (failing): may be taken over in 23 s"
  std::string text(const Json& details) const;

 private:
  bool is_known_to_live(const Json& details) const;

  const double patience_seconds_;
  double waited_seconds_ = 0;
  double live_seconds_ = 0;
};

}  // namespace holdfast
