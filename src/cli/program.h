// SPDX-License-Identifier: Apache-2.0
//
// Runs another program to its end.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace holdfast {

struct ProgramEnd {
  int status = 0;      // 127: there is no such program
  std::string output;  // the first 64 KiB of each
  std::string errors;
};

// Without a standard input; it ends when we do. `on_output` sees the output as it comes.
Result<ProgramEnd> run_program(
    const std::vector<std::string>& arguments,
    const std::function<void(std::string_view)>& on_output = [](std::string_view) {});

}  // namespace holdfast
