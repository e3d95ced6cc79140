// SPDX-License-Identifier: Apache-2.0
//
// The figures that monitoring collects, in the text format of Prometheus (version 0.0.4). One table
// in metrics.cc names all of them; docs/metrics.md is held to it by a test.
//
// Bounded: so many lines per pool and per attached volume, of which limits.h allows so many.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "host/commands.h"

namespace holdfast {

inline constexpr const char* kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

// What is not known is left out, as is whatever is not attached.
std::string metrics_text(const StatusReport& status, std::string_view version,
                         std::uint64_t dropped_log_lines);

struct MetricDescription {
  std::string_view name;
  std::string_view type;  // "gauge", "counter"
  std::string_view help;
};
std::vector<MetricDescription> describe_metrics();

}  // namespace holdfast
