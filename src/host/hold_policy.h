// SPDX-License-Identifier: Apache-2.0
//
// What an operator wants done about requests that are held: when the virtual machine is paused, and
// when (if ever) the requests fail. Said for all pools, for a pool, or for a volume; the nearest
// counts.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/time.h"

namespace holdfast {

inline constexpr Duration kNever = Duration::max();

// What was said in one place. Nothing: as the place above says.
struct HoldSettings {
  std::optional<Duration> pause_after;
  std::optional<Duration> fail_after;

  bool is_empty() const { return !pause_after.has_value() && !fail_after.has_value(); }
  bool operator==(const HoldSettings&) const = default;
};

// What holds for one volume; each may be kNever.
struct HoldPolicy {
  Duration pause_after;
  Duration fail_after;
  bool operator==(const HoldPolicy&) const = default;
};

// `nearest` first.
HoldPolicy resolve_hold_policy(const HoldSettings& volume, const HoldSettings& pool,
                               const HoldSettings& all);

// "10s", "500ms", "2m", "1h" within limits::kHoldTimeMin and Max, "never"; nothing for "default".
Result<std::optional<Duration>> parse_hold_time(std::string_view text);
// The same back: "10s", "never".
std::string format_hold_time(Duration time);

// One of "hold.pause_after" and "hold.fail_after" with its value.
Result<void> apply_hold_setting(HoldSettings& settings, std::string_view name,
                                std::string_view value);

}  // namespace holdfast
