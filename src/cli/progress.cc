// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <unistd.h>

#include <cstdio>

#include "base/units.h"

namespace holdfast {
namespace {

constexpr auto kStep = std::chrono::milliseconds(200);

}  // namespace

std::string progress_text(std::uint64_t done_bytes, std::uint64_t total_bytes, double seconds) {
  std::string text;
  if (total_bytes != 0) {
    char percent[32];
    std::snprintf(percent, sizeof percent, "%.1f %%",
                  100.0 * static_cast<double>(done_bytes) / static_cast<double>(total_bytes));
    text = percent;
  } else {
    text = format_bytes(done_bytes);
  }
  if (seconds < 0.1) return text;
  return text + ", " +
         format_bytes(static_cast<std::uint64_t>(static_cast<double>(done_bytes) / seconds)) + "/s";
}

Progress::Progress(std::string what, bool wanted)
    : what_(std::move(what)),
      is_shown_(wanted && ::isatty(STDERR_FILENO) != 0),
      began_(Clock::now()),
      last_(began_) {}

void Progress::update(std::uint64_t done_bytes, std::uint64_t total_bytes) {
  const Clock::time_point now = Clock::now();
  if (!is_shown_ || now - last_ < kStep) return;
  last_ = now;
  has_line_ = true;
  const double seconds = std::chrono::duration<double>(now - began_).count();
  std::fprintf(stderr, "\r%s: %s\033[K", what_.c_str(),
               progress_text(done_bytes, total_bytes, seconds).c_str());
}

void Progress::clear() {
  if (has_line_) std::fputs("\r\033[K", stderr);
  has_line_ = false;
}

}  // namespace holdfast
