// SPDX-License-Identifier: Apache-2.0
//
// The pace of a volume's cleaner: how much it may do, given what the guest writes. Arithmetic only;
// docs/decisions/0011-cleaner-pace.md has the reasons.
//
// Unit: blocks that the cleaner reads or writes. Each block that the guest adds to the log earns
// what it costs to make one block free again: a victim of which a share u is live costs 1 + u
// blocks of transfers for every 1 - u that come free. Around the start this is scaled by how much
// garbage there is, so that garbage settles at the start.
//
// Thread: the executor's. Owner: a volume.
#pragma once

#include <cstdint>

#include "base/time.h"

namespace holdfast {

class CleanerPace {
 public:
  struct Share {
    std::uint64_t blocks = 0;  // of all segments concerned
    std::uint64_t live_blocks = 0;
    double garbage_percent() const {
      const auto all = static_cast<double>(blocks);
      return blocks == 0 ? 0 : 100 * (all - static_cast<double>(live_blocks)) / all;
    }
    double live() const {
      return blocks == 0 ? 0 : static_cast<double>(live_blocks) / static_cast<double>(blocks);
    }
  };
  struct Percents {
    std::uint32_t start = 0;
    std::uint32_t stop = 0;
  };

  explicit CleanerPace(Percents percents) : percents_(percents) {}

  // A round begins: nothing is earned, nothing owed.
  void begin(MonotonicTime now);
  // What there is to clean, what is being cleaned, and how near the pool is to its reserve, from 0
  // to 1.
  void look(Share volume, Share victim, double pool_tightness);
  void guest_wrote(std::uint64_t blocks);
  void worked(std::uint64_t blocks);
  // Time earns a little too, as long as garbage is beyond the start.
  void time_passed(MonotonicTime now);

  bool may_work() const { return credit_blocks_ >= 0; }
  // The cleaner has fallen behind so far that larger steps are better for everybody.
  bool is_behind() const;
  // The cleaner cannot keep up and garbage runs away: the guest's writes wait for it.
  bool presses_guest() const;
  // Transfers earned by each block of the guest's log.
  double rate() const { return rate_; }

 private:
  Percents percents_;
  double garbage_percent_ = 0;
  double rate_ = 0;
  double credit_blocks_ = 0;
  MonotonicTime last_time_{};
};

}  // namespace holdfast
