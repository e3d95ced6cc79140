// SPDX-License-Identifier: Apache-2.0
//
// The one place that sorts errno values.
#pragma once

#include <string_view>

#include "base/result.h"

namespace holdfast {

ErrorCode error_code_of_errno(int error);

// "cannot <action> <path>: <strerror>; <what to do>"
Error file_error(std::string_view action, std::string_view path, int error);

}  // namespace holdfast
