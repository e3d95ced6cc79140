// SPDX-License-Identifier: Apache-2.0
#include "base/units.h"

#include <gtest/gtest.h>

namespace holdfast {
namespace {

std::uint64_t parsed(std::string_view text) {
  const auto result = parse_bytes(text);
  EXPECT_TRUE(result.ok()) << text;
  return result.ok() ? result.value() : 0;
}

TEST(UnitsTest, ParsesSizesAsPeopleWriteThem) {
  EXPECT_EQ(parsed("0"), 0u);
  EXPECT_EQ(parsed("512"), 512u);
  EXPECT_EQ(parsed("512B"), 512u);
  EXPECT_EQ(parsed("4k"), 4096u);
  EXPECT_EQ(parsed("4K"), 4096u);
  EXPECT_EQ(parsed("64MiB"), 64 * kMiB);
  EXPECT_EQ(parsed("20G"), 20 * kGiB);
  EXPECT_EQ(parsed("20GB"), 20 * kGiB);
  EXPECT_EQ(parsed("1.5T"), kTiB + kTiB / 2);
  EXPECT_EQ(parsed("0.5G"), 512 * kMiB);
  EXPECT_EQ(parsed("1P"), 1024 * kTiB);
  EXPECT_EQ(parsed("18446744073709551615"), 18446744073709551615u);
}

TEST(UnitsTest, RefusesNonsenseWithAMessageThatHelps) {
  for (const char* text : {"",          " ",      "G",          "-1",
                           "+1",        "1X",     "1 G",        "1.G",
                           ".5G",       "1.5",    "1.2.3G",     "20GX",
                           "20GiBs",    "0x10",   "1e9",        "18446744073709551616",
                           "16777216T", "99999P", "1.1234567G", "NaN",
                           "1,5G"}) {
    const auto result = parse_bytes(text);
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_EQ(result.error().code(), ErrorCode::invalid_argument);
    EXPECT_NE(result.error().message().find("such as 512M, 20G or 1.5T"), std::string::npos);
  }
}

TEST(UnitsTest, FormatsWithAtMostThreeDigits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(kKiB), "1 KiB");
  EXPECT_EQ(format_bytes(20 * kGiB), "20 GiB");
  EXPECT_EQ(format_bytes(kTiB + kTiB / 2), "1.50 TiB");
  EXPECT_EQ(format_bytes(15 * kGiB + kGiB / 2), "15.5 GiB");
  EXPECT_EQ(format_bytes(200 * kGiB + kGiB / 2), "200 GiB");
}

TEST(UnitsTest, WhatIsFormattedWholeParsesBackToTheSame) {
  for (const std::uint64_t bytes : {kKiB, 3 * kMiB, 20 * kGiB, 32 * kTiB}) {
    std::string text = format_bytes(bytes);
    text.erase(text.find(' '), 1);
    EXPECT_EQ(parsed(text), bytes) << text;
  }
}

TEST(UnitsTest, RoundsToUnits) {
  EXPECT_EQ(round_up(1, 512), 512u);
  EXPECT_EQ(round_up(512, 512), 512u);
  EXPECT_EQ(round_down(1023, 512), 512u);
  EXPECT_EQ(divide_up(4097, 4096), 2u);
  EXPECT_EQ(divide_up(0, 4096), 0u);
}

}  // namespace
}  // namespace holdfast
