// SPDX-License-Identifier: Apache-2.0
#include "volume/cleaner_pace.h"

#include <algorithm>

#include "base/limits.h"

namespace holdfast {

namespace {

// 0 at the stop, 1 at the start, and steeper from there.
double haste_of(double garbage_percent, double start, double stop) {
  if (garbage_percent >= start) {
    return std::min(1 + (garbage_percent - start) / limits::kCleanerHastePercent,
                    limits::kCleanerHasteMax);
  }
  return std::clamp((garbage_percent - stop) / (start - stop), 0.0, 1.0);
}

}  // namespace

void CleanerPace::begin(MonotonicTime now) {
  rate_ = credit_blocks_ = garbage_percent_ = 0;
  last_time_ = now;
}

void CleanerPace::look(Share volume, Share victim, double pool_tightness) {
  garbage_percent_ = volume.garbage_percent();
  double haste = haste_of(garbage_percent_, percents_.start, percents_.stop);
  if (garbage_percent_ > percents_.stop) {
    haste = std::max(haste, limits::kCleanerHasteMax * std::clamp(pool_tightness, 0.0, 1.0));
  }
  const double live = std::min(victim.live(), limits::kCleanerVictimLiveMax);
  rate_ = haste * (1 + live) / (1 - live);
}

void CleanerPace::guest_wrote(std::uint64_t blocks) {
  credit_blocks_ = std::min(credit_blocks_ + static_cast<double>(blocks) * rate_,
                            limits::kCleanerCreditBlocksMax);
}

// A debt is not carried on: what was done while the guest was idle was free.
void CleanerPace::worked(std::uint64_t blocks) {
  const auto cost = static_cast<double>(blocks);
  credit_blocks_ = std::max(credit_blocks_ - cost, -cost);
}

void CleanerPace::time_passed(MonotonicTime now) {
  const double seconds = std::chrono::duration<double>(now - last_time_).count();
  last_time_ = now;
  if (garbage_percent_ <= percents_.start) return;
  credit_blocks_ = std::min(credit_blocks_ + seconds * limits::kCleanerIdleBlocksPerSecond,
                            limits::kCleanerCreditBlocksMax);
}

bool CleanerPace::is_behind() const {
  return credit_blocks_ >= limits::kCleanerCreditBlocksMax / 4;
}

bool CleanerPace::presses_guest() const {
  return garbage_percent_ > percents_.start + limits::kCleanerPressurePercent &&
         credit_blocks_ >= limits::kCleanerCreditBlocksMax / 2;
}

}  // namespace holdfast
