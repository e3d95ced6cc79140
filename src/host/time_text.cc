// SPDX-License-Identifier: Apache-2.0
#include "host/time_text.h"

#include <charconv>
#include <cstdint>

namespace holdfast {

std::optional<Duration> parse_time_text(std::string_view text, std::span<const TimeUnit> units,
                                        Duration most) {
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return std::nullopt;
  const std::string_view name(end, static_cast<std::size_t>(text.data() + text.size() - end));
  for (const TimeUnit& unit : units) {
    if (name != unit.name) continue;
    if (number > most / unit.duration) return std::nullopt;
    return number * unit.duration;
  }
  return std::nullopt;
}

std::string format_time_text(Duration time, std::span<const TimeUnit> units) {
  const TimeUnit* shown = &units.front();
  for (const TimeUnit& unit : units) {
    if (time % unit.duration == Duration{}) shown = &unit;
  }
  return std::to_string(time / shown->duration) + std::string(shown->name);
}

}  // namespace holdfast
