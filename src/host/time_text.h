// SPDX-License-Identifier: Apache-2.0
//
// Times as people write them: a number and a unit, such as "25s" or "3d".
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/time.h"

namespace holdfast {

struct TimeUnit {
  std::string_view name;
  Duration duration;
};

// Nothing: it is no such number and unit, or more than `most`.
std::optional<Duration> parse_time_text(std::string_view text, std::span<const TimeUnit> units,
                                        Duration most);
// In the largest unit that has no remainder, else in the first; `units` ascend.
std::string format_time_text(Duration time, std::span<const TimeUnit> units);

}  // namespace holdfast
