// SPDX-License-Identifier: Apache-2.0
#include "host/deferment.h"

#include <charconv>
#include <cstdint>

#include "base/limits.h"

namespace holdfast {
namespace {

struct Unit {
  std::string_view name;
  Duration duration;
};
constexpr Unit kUnits[] = {{"w", 7 * 86400s}, {"d", 86400s}, {"h", 3600s}, {"m", 60s}, {"s", 1s}};

}  // namespace

Result<Duration> parse_deferment(std::string_view text) {
  if (text == "0") return Duration{};
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit_name(end, static_cast<std::size_t>(text.data() + text.size() - end));
  for (const Unit& unit : kUnits) {
    if (error != std::errc() || unit_name != unit.name) continue;
    if (number > limits::kTrashDeferMax / unit.duration) break;
    return number * unit.duration;
  }
  return Error(ErrorCode::invalid_argument, "'" + std::string(text.substr(0, 20)) +
                                                "' is no time up to " +
                                                format_deferment(limits::kTrashDeferMax) +
                                                "; write 7d, 12h, 30m or 90s, or 0 for no trash");
}

std::string format_deferment(Duration time) {
  for (const Unit& unit : kUnits) {
    // Weeks are read, and shown as days.
    if (unit.name == "w" || time < unit.duration || time % unit.duration != Duration{}) continue;
    return std::to_string(time / unit.duration) + std::string(unit.name);
  }
  return "0";
}

}  // namespace holdfast
