// SPDX-License-Identifier: Apache-2.0
//
// One line on a terminal that tells how far something is; nothing where there is no terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace holdfast {

class Progress {
 public:
  // `wanted` false: never a word.
  Progress(std::string what, bool wanted);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { clear(); }

  // `total_bytes` 0: not known.
  void update(std::uint64_t done_bytes, std::uint64_t total_bytes);
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  const std::string what_;
  const bool is_shown_;
  const Clock::time_point began_;
  Clock::time_point last_;
  bool has_line_ = false;
};

// "  45.2 %, 123 MiB/s"
std::string progress_text(std::uint64_t done_bytes, std::uint64_t total_bytes, double seconds);

}  // namespace holdfast
