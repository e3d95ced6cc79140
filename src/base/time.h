// SPDX-License-Identifier: Apache-2.0
//
// Strong types for time. Nothing here reads a clock: the executor (io/executor.h) does, or the
// simulator's virtual one.
#pragma once

#include <chrono>
#include <cstdint>

namespace holdfast {

using Duration = std::chrono::nanoseconds;
using namespace std::chrono_literals;

// Never read: only tags time points so that monotonic and wall time do not mix.
struct MonotonicClock {
  using rep = std::int64_t;
  using period = std::nano;
  using duration = Duration;
  using time_point = std::chrono::time_point<MonotonicClock>;
  static constexpr bool is_steady = true;
};

using MonotonicTime = MonotonicClock::time_point;

// Of one host, as monotonic time, but it goes on while the host is suspended (CLOCK_BOOTTIME): for
// what others conclude from our silence.
struct BootClock {
  using rep = std::int64_t;
  using period = std::nano;
  using duration = Duration;
  using time_point = std::chrono::time_point<BootClock>;
  static constexpr bool is_steady = true;
};

using BootTime = BootClock::time_point;

// Seconds since 1970-01-01 UTC, for people to read; for no deadline but the trash's (of days).
struct WallTime {
  std::int64_t unix_seconds = 0;
};

}  // namespace holdfast
