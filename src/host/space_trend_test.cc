// SPDX-License-Identifier: Apache-2.0
#include "host/space_trend.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/limits.h"
#include "base/units.h"

namespace holdfast {
namespace {

MonotonicTime at(Duration since) {
  return MonotonicTime{} + 1000s + since;
}

std::vector<SpaceSample> line(std::size_t count, Duration step, double first, double per_step) {
  std::vector<SpaceSample> samples;
  for (std::size_t i = 0; i < count; ++i) {
    const auto n = static_cast<std::int64_t>(i);
    const double bytes = first + per_step * static_cast<double>(i);
    samples.push_back({at(step * n), static_cast<std::uint64_t>(bytes)});
  }
  return samples;
}

TEST(GrowthTest, OfALineIsItsSlopeUpAndDown) {
  EXPECT_DOUBLE_EQ(*growth_bytes_per_second(line(20, 60s, 1e9, 6000)), 100);
  EXPECT_DOUBLE_EQ(*growth_bytes_per_second(line(20, 60s, 1e9, -6000)), -100);
  EXPECT_DOUBLE_EQ(*growth_bytes_per_second(line(21, 60s, 1e9, 0)), 0);
}

TEST(GrowthTest, OfTooFewSamplesOrOneMomentIsNotTold) {
  EXPECT_FALSE(growth_bytes_per_second({}).has_value());
  EXPECT_FALSE(growth_bytes_per_second(line(4, 60s, 1e9, 6000)).has_value());
  EXPECT_TRUE(growth_bytes_per_second(line(5, 60s, 1e9, 6000)).has_value());
  EXPECT_FALSE(growth_bytes_per_second(line(10, 0s, 1e9, 6000)).has_value());
}

TEST(GrowthTest, IsHardlyMovedByAFewOutliers) {
  auto samples = line(40, 60s, 1e9, 6000);
  samples[7].bytes += 50 * kGiB;
  samples[8].bytes += 50 * kGiB;
  samples[39].bytes += 20 * kGiB;  // where least squares would follow
  EXPECT_NEAR(*growth_bytes_per_second(samples), 100, 10);
}

TEST(SpaceHistoryTest, KeepsASampleAMinuteAndAnHourAndForgetsTheOldest) {
  SpaceHistory history;
  // Three days at 1 MiB a minute, then an hour at 3 MiB a minute; looked at every second of some.
  std::uint64_t bytes = 0;
  Duration time{};
  for (; time < 72h; time += 20s) history.add(at(time), bytes += kMiB / 3);
  EXPECT_NEAR(*history.trend().bytes_per_hour, 60.0 * kMiB, 1e4);
  EXPECT_NEAR(*history.trend().bytes_per_day, 24 * 60.0 * kMiB, 1e6);
  for (; time < 73h + 1min; time += 20s) history.add(at(time), bytes += kMiB);
  EXPECT_NEAR(*history.trend().bytes_per_hour, 180.0 * kMiB, 1e4);
  EXPECT_NEAR(*history.trend().bytes_per_day, 24 * 60.0 * kMiB, 1e8) << "the days weigh more";
}

TEST(SpaceHistoryTest, TellsNothingBeforeItHasSeenEnough) {
  SpaceHistory history;
  for (Duration time{}; time < 4min; time += 1s) history.add(at(time), kGiB);
  EXPECT_FALSE(history.trend().bytes_per_hour.has_value());
  history.add(at(4min), kGiB);
  EXPECT_TRUE(history.trend().bytes_per_hour.has_value());
  EXPECT_FALSE(history.trend().bytes_per_day.has_value());
}

TEST(TimeToFullTest, IsAtTheFasterPaceAndAbsentWhenNothingGrows) {
  EXPECT_FALSE(time_to_full({}, kGiB).has_value());
  EXPECT_FALSE(time_to_full({0.0, -5.0}, kGiB).has_value());
  EXPECT_EQ(time_to_full({3600.0, std::nullopt}, 7200), Duration(7200s));
  EXPECT_EQ(time_to_full({3600.0, 86400.0 * 2}, 7200), Duration(3600s));
  EXPECT_EQ(time_to_full({-3600.0, 86400.0}, 7200), Duration(7200s));
  EXPECT_EQ(time_to_full({3600.0, std::nullopt}, 0), Duration(0s));
  EXPECT_FALSE(time_to_full({1.0, std::nullopt}, 1024 * kTiB).has_value()) << "years";
}

}  // namespace
}  // namespace holdfast
