// SPDX-License-Identifier: Apache-2.0
//
// Names of pools and volumes. They become parts of file names, socket names and URIs.
#pragma once

#include <string_view>

#include "base/result.h"

namespace holdfast {

// [A-Za-z0-9][A-Za-z0-9._-]*, at most limits::kNameBytesMax. `what` ("pool", "volume") is for the
// message.
Result<void> check_name(std::string_view what, std::string_view name);

}  // namespace holdfast
