// SPDX-License-Identifier: Apache-2.0
#include "host/deferment.h"

#include "base/limits.h"
#include "host/time_text.h"

namespace holdfast {
namespace {

// Weeks are read, and shown as days.
constexpr TimeUnit kDefermentUnits[] = {
    {"s", 1s}, {"m", 60s}, {"h", 3600s}, {"d", 86400s}, {"w", 604800s}};
constexpr std::span kShownUnits = std::span(kDefermentUnits).first<4>();

}  // namespace

Result<Duration> parse_deferment(std::string_view text) {
  if (text == "0") return Duration{};
  const auto time = parse_time_text(text, kDefermentUnits, limits::kTrashDeferMax);
  if (time.has_value()) return *time;
  return Error(ErrorCode::invalid_argument, "'" + std::string(text.substr(0, 20)) +
                                                "' is no time up to " +
                                                format_deferment(limits::kTrashDeferMax) +
                                                "; write 7d, 12h, 30m or 90s, or 0 for no trash");
}

std::string format_deferment(Duration time) {
  return time == Duration{} ? "0" : format_time_text(time, kShownUnits);
}

}  // namespace holdfast
