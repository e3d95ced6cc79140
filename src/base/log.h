// SPDX-License-Identifier: Apache-2.0
//
// The log: bounded, and never in the way. Until start_logging() is called (tests, the simulator)
// messages go nowhere. A message that repeats is written once and counted; a rotating file has a
// hard total bound (limits.h); a log that cannot be written loses messages, never blocks I/O.
// Safe to call from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace holdfast {

enum class LogLevel { debug, info, warning, error };

struct LogOptions {
  bool to_stderr = true;
  std::string file;  // empty: none
  LogLevel level = LogLevel::info;
};

void start_logging(const LogOptions& options);
void stop_logging();  // writes what is pending, but does not wait long for a reader that is stuck

// Messages lost since start_logging(): the queue was full, or the log could not be written.
std::uint64_t dropped_log_messages();

void log(LogLevel level, std::string_view message);
inline void log_info(std::string_view message) {
  log(LogLevel::info, message);
}
inline void log_warning(std::string_view message) {
  log(LogLevel::warning, message);
}
inline void log_error(std::string_view message) {
  log(LogLevel::error, message);
}

}  // namespace holdfast
