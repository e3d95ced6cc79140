// SPDX-License-Identifier: Apache-2.0
//
// How many volumes of one executor may clean at a time: each takes memory to do it. A volume that
// is held for want of space does not wait for those that are only tidy.
//
// Thread: the executor's. Lifetime: outlives the volumes.
#pragma once

#include <cstddef>

#include "base/limits.h"

namespace holdfast {

class CleanerTurns {
 public:
  // Given back when it is destroyed.
  class Turn {
   public:
    Turn() = default;
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() { give_back(); }
    bool is_taken() const { return turns_ != nullptr; }
    // `urgent`: the volume's guest waits for space.
    bool take(CleanerTurns& turns, bool urgent) {
      const std::size_t count_max =
          limits::kCleanersPerLoopMax + (urgent ? limits::kUrgentCleanersPerLoopMax : 0);
      if (turns.count_ >= count_max) return false;
      ++turns.count_;
      turns_ = &turns;
      return true;
    }
    void give_back() {
      if (turns_ != nullptr) --turns_->count_;
      turns_ = nullptr;
    }

   private:
    CleanerTurns* turns_ = nullptr;
  };

  CleanerTurns() = default;
  CleanerTurns(const CleanerTurns&) = delete;
  CleanerTurns& operator=(const CleanerTurns&) = delete;

 private:
  std::size_t count_ = 0;
};

}  // namespace holdfast
