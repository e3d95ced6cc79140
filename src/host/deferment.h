// SPDX-License-Identifier: Apache-2.0
//
// How long a removed volume stays in the trash, as people write it.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/time.h"

namespace holdfast {

// "3d", "12h", "30m", "90s", "2w", up to limits::kTrashDeferMax; "0": not at all.
Result<Duration> parse_deferment(std::string_view text);
// The same back, in the largest unit that has no remainder.
std::string format_deferment(Duration time);

}  // namespace holdfast
