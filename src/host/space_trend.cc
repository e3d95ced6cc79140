// SPDX-License-Identifier: Apache-2.0
#include "host/space_trend.h"

#include <algorithm>
#include <vector>

#include "base/limits.h"

namespace holdfast {
namespace {

constexpr double kSecondsPerHour = 3600;
constexpr double kSecondsPerDay = 86400;

double seconds_between(MonotonicTime from, MonotonicTime to) {
  return static_cast<double>((to - from).count()) / 1e9;
}

// True: it was kept.
bool keep(std::deque<SpaceSample>& samples, SpaceSample sample, Duration step,
          std::size_t count_max) {
  if (!samples.empty() && sample.time - samples.back().time < step) return false;
  if (samples.size() == count_max) samples.pop_front();
  samples.push_back(sample);
  return true;
}

std::optional<double> growth(const std::deque<SpaceSample>& samples, double seconds) {
  const std::vector<SpaceSample> flat(samples.begin(), samples.end());
  const auto slope = growth_bytes_per_second(flat);
  if (!slope.has_value()) return std::nullopt;
  return *slope * seconds;
}

}  // namespace

std::optional<double> growth_bytes_per_second(std::span<const SpaceSample> samples) {
  if (samples.size() < limits::kTrendSamplesMin) return std::nullopt;
  std::vector<double> slopes;
  slopes.reserve(samples.size() * (samples.size() - 1) / 2);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    for (std::size_t j = i + 1; j < samples.size(); ++j) {
      const double seconds = seconds_between(samples[i].time, samples[j].time);
      if (seconds <= 0) continue;
      const double grown =
          static_cast<double>(samples[j].bytes) - static_cast<double>(samples[i].bytes);
      slopes.push_back(grown / seconds);
    }
  }
  if (slopes.empty()) return std::nullopt;
  const auto middle = slopes.begin() + static_cast<std::ptrdiff_t>(slopes.size() / 2);
  std::nth_element(slopes.begin(), middle, slopes.end());
  if (slopes.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(slopes.begin(), middle)) / 2;
}

void SpaceHistory::add(MonotonicTime now, std::uint64_t bytes) {
  const SpaceSample sample{now, bytes};
  if (keep(minutes_, sample, limits::kTrendMinute, limits::kTrendMinutesMax)) {
    trend_.bytes_per_hour = growth(minutes_, kSecondsPerHour);
  }
  if (keep(hours_, sample, limits::kTrendHour, limits::kTrendHoursMax)) {
    trend_.bytes_per_day = growth(hours_, kSecondsPerDay);
  }
}

std::optional<Duration> time_to_full(const TrendReport& trend, std::uint64_t free_bytes) {
  const double pace = std::max(trend.bytes_per_hour.value_or(0) / kSecondsPerHour,
                               trend.bytes_per_day.value_or(0) / kSecondsPerDay);
  if (pace <= 0) return std::nullopt;
  const double seconds = static_cast<double>(free_bytes) / pace;
  const double seconds_max = static_cast<double>(limits::kTimeToFullMax.count()) / 1e9;
  if (seconds > seconds_max) return std::nullopt;
  return Duration(static_cast<std::int64_t>(seconds * 1e9));
}

}  // namespace holdfast
