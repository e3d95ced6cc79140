// SPDX-License-Identifier: Apache-2.0
#include "host/deferment.h"

#include <gtest/gtest.h>

#include "base/limits.h"

namespace holdfast {
namespace {

TEST(DefermentTest, ReadsWhatPeopleWriteAndWritesItBack) {
  const std::pair<const char*, Duration> times[] = {{"0", Duration{}}, {"1s", 1s},   {"90s", 90s},
                                                    {"30m", 1800s},    {"36h", 36h}, {"3d", 72h}};
  for (const auto& [text, time] : times) {
    const auto parsed = parse_deferment(text);
    ASSERT_TRUE(parsed.ok()) << text;
    EXPECT_EQ(parsed.value(), time) << text;
    EXPECT_EQ(format_deferment(time), text);
  }
  EXPECT_EQ(parse_deferment("2w").value(), 14 * 24h);
  EXPECT_EQ(parse_deferment("0d").value(), Duration{});
  EXPECT_EQ(parse_deferment(format_deferment(limits::kTrashDeferMax)).value(),
            limits::kTrashDeferMax);
}

TEST(DefermentTest, RefusesWhatIsNoTimeOrTooLong) {
  for (const char* text : {"", "7", "d", "-1d", "1.5d", "3 d", "3y", "3651d", "522w", "4294967296s",
                           "never", "3d\n"}) {
    const auto parsed = parse_deferment(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.error().code(), ErrorCode::invalid_argument);
  }
}

}  // namespace
}  // namespace holdfast
