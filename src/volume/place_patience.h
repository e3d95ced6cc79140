// SPDX-License-Identifier: Apache-2.0
//
// How long a write that fails is tried again at its place before it goes to another one. A path
// that is lost comes back, and the place is as good as any; a bad place never does. Which of the
// two it is shows only by writing elsewhere, so each attempt that did not help waits longer.
#pragma once

#include <algorithm>

#include "base/time.h"

namespace holdfast {

class PlacePatience {
 public:
  static constexpr Duration kMin = 5s;
  static constexpr Duration kMax = 10min;

  bool is_over(Duration tried) const { return tried >= limit_; }
  void gave_up() { limit_ = std::min(2 * limit_, kMax); }
  void wrote() { limit_ = kMin; }

 private:
  Duration limit_ = kMin;
};

}  // namespace holdfast
