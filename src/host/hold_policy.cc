// SPDX-License-Identifier: Apache-2.0
#include "host/hold_policy.h"

#include "base/limits.h"
#include "host/names.h"
#include "host/time_text.h"

namespace holdfast {
namespace {

constexpr TimeUnit kHoldUnits[] = {{"ms", 1ms}, {"s", 1s}, {"m", 60s}, {"h", 3600s}};

}  // namespace

HoldPolicy resolve_hold_policy(const HoldSettings& volume, const HoldSettings& pool,
                               const HoldSettings& all) {
  const auto nearest = [&](std::optional<Duration> HoldSettings::*setting, Duration fallback) {
    for (const HoldSettings* settings : {&volume, &pool, &all}) {
      if ((settings->*setting).has_value()) return *(settings->*setting);
    }
    return fallback;
  };
  return {nearest(&HoldSettings::pause_after, limits::kPauseAfterDefault),
          nearest(&HoldSettings::fail_after, kNever)};
}

Result<std::optional<Duration>> parse_hold_time(std::string_view text) {
  if (text == "default") return std::optional<Duration>();
  if (text == "never") return std::optional<Duration>(kNever);
  const auto time = parse_time_text(text, kHoldUnits, limits::kHoldTimeMax);
  if (time.has_value() && *time >= limits::kHoldTimeMin) return time;
  return Error(ErrorCode::invalid_argument,
               "'" + std::string(text.substr(0, 20)) + "' is no time from " +
                   format_hold_time(limits::kHoldTimeMin) + " to " +
                   format_hold_time(limits::kHoldTimeMax) +
                   "; write 25s, 500ms, 2m or 1h, or never, or default");
}

std::string format_hold_time(Duration time) {
  return time == kNever ? "never" : format_time_text(time, kHoldUnits);
}

Result<void> apply_hold_setting(HoldSettings& settings, std::string_view name,
                                std::string_view value) {
  const bool is_pause = name == "hold.pause_after";
  if (!is_pause && name != "hold.fail_after") {
    const std::string shown(name.substr(0, 40));
    return Error(ErrorCode::invalid_argument,
                 "there is no setting '" + shown + "'" +
                     suggestion(shown, {"hold.pause_after", "hold.fail_after"}) +
                     "; a volume has hold.pause_after and hold.fail_after");
  }
  auto time = parse_hold_time(value);
  if (!time.ok()) return time.take_error().context(std::string(name));
  (is_pause ? settings.pause_after : settings.fail_after) = time.value();
  return {};
}

}  // namespace holdfast
