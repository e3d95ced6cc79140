// SPDX-License-Identifier: Apache-2.0
//
// How fast something grows, from samples of it over time. Pure: the times are given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>

#include "base/time.h"
#include "host/commands.h"

namespace holdfast {

struct SpaceSample {
  MonotonicTime time{};
  std::uint64_t bytes = 0;
};

// Bytes per second, by Theil and Sen: the median of the slopes between any two samples, so that
// less than a quarter of outliers (a file that came and went, a trim) changes little. Absent for
// fewer than limits::kTrendSamplesMin samples or when they are of one time. Quadratic.
std::optional<double> growth_bytes_per_second(std::span<const SpaceSample> samples);

// A bounded history: a sample a minute for the last hour, and one an hour for the last days.
class SpaceHistory {
 public:
  // Keeps it when a minute (or an hour) has passed since the last one.
  void add(MonotonicTime now, std::uint64_t bytes);
  const TrendReport& trend() const { return trend_; }

 private:
  std::deque<SpaceSample> minutes_;
  std::deque<SpaceSample> hours_;
  TrendReport trend_;
};

// When `free_bytes` will be gone at the faster of the two paces. Absent when nothing grows, or so
// slowly that it is years.
std::optional<Duration> time_to_full(const TrendReport& trend, std::uint64_t free_bytes);

}  // namespace holdfast
