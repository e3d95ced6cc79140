// SPDX-License-Identifier: Apache-2.0
#include "host/hold_policy.h"

#include <gtest/gtest.h>

#include "base/limits.h"

namespace holdfast {
namespace {

TEST(HoldPolicy, TheNearestWordCounts) {
  EXPECT_EQ(resolve_hold_policy({}, {}, {}), (HoldPolicy{limits::kPauseAfterDefault, kNever}));
  const HoldSettings all{10s, 20s};
  const HoldSettings pool{kNever, {}};
  const HoldSettings volume{{}, 3s};
  EXPECT_EQ(resolve_hold_policy({}, {}, all), (HoldPolicy{10s, 20s}));
  EXPECT_EQ(resolve_hold_policy({}, pool, all), (HoldPolicy{kNever, 20s}));
  EXPECT_EQ(resolve_hold_policy(volume, pool, all), (HoldPolicy{kNever, 3s}));
}

TEST(HoldPolicy, TimesAreWrittenAsTheyAreRead) {
  for (const char* text : {"1s", "25s", "1500ms", "2m", "1h", "24h", "never", "61s"}) {
    const auto parsed = parse_hold_time(text);
    ASSERT_TRUE(parsed.ok() && parsed.value().has_value()) << text;
    EXPECT_EQ(format_hold_time(*parsed.value()), text);
  }
  EXPECT_EQ(format_hold_time(120s), "2m");
  EXPECT_FALSE(parse_hold_time("default").value().has_value());
}

TEST(HoldPolicy, NonsenseIsRefusedWithWhatWouldDo) {
  for (const char* text : {"", "s", "10", "10 s", "-1s", "0s", "999ms", "25h", "1d", "1e3s",
                           "99999999999999s", "4294967295h", "forever"}) {
    const auto parsed = parse_hold_time(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_NE(parsed.error().message().find("25s"), std::string::npos);
  }
  HoldSettings settings;
  EXPECT_FALSE(apply_hold_setting(settings, "hold.pause", "1s").ok());
  EXPECT_FALSE(apply_hold_setting(settings, "hold.pause_after", "soon").ok());
  EXPECT_TRUE(settings.is_empty());
  ASSERT_TRUE(apply_hold_setting(settings, "hold.pause_after", "1m").ok());
  ASSERT_TRUE(apply_hold_setting(settings, "hold.fail_after", "never").ok());
  EXPECT_EQ(settings, (HoldSettings{60s, kNever}));
  ASSERT_TRUE(apply_hold_setting(settings, "hold.pause_after", "default").ok());
  EXPECT_FALSE(settings.pause_after.has_value());
}

}  // namespace
}  // namespace holdfast
