// SPDX-License-Identifier: Apache-2.0
#include "cli/table.h"

#include <gtest/gtest.h>

namespace holdfast {
namespace {

TEST(TableTest, AlignsItsColumnsWithoutTrailingBlanks) {
  Table table({{"NAME"}, {"SIZE", Table::Align::right}, {"STATE"}});
  table.add({"disk1", "20 GiB", "serving"});
  table.add({"a", "512 B", ""});
  EXPECT_EQ(table.text(),
            "NAME     SIZE  STATE\n"
            "disk1  20 GiB  serving\n"
            "a       512 B\n");
}

TEST(TableTest, FormatsDurations) {
  EXPECT_EQ(format_seconds(0), "0 s");
  EXPECT_EQ(format_seconds(0.42), "0.4 s");
  EXPECT_EQ(format_seconds(12.3), "12 s");
  EXPECT_EQ(format_seconds(59.7), "1 min 0 s");
  EXPECT_EQ(format_seconds(200), "3 min 20 s");
  EXPECT_EQ(format_seconds(18120), "5 h 2 min");
  EXPECT_EQ(format_seconds(273600), "3 d 4 h");
  EXPECT_EQ(format_seconds(-1), "0 s");
}

TEST(TableTest, FormatsCounts) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1.00k");
  EXPECT_EQ(format_count(12345), "12.3k");
  EXPECT_EQ(format_count(999999), "1.00M");
  EXPECT_EQ(format_count(123456789), "123M");
  EXPECT_EQ(format_count(~0ull), "18.4E");
}

}  // namespace
}  // namespace holdfast
