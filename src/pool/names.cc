// SPDX-License-Identifier: Apache-2.0
#include "pool/names.h"

#include <algorithm>
#include <string>

#include "base/limits.h"

namespace holdfast {
namespace {

bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

}  // namespace

Result<void> check_name(std::string_view what, std::string_view name) {
  const bool good =
      !name.empty() && name.size() <= limits::kNameBytesMax && is_letter_or_digit(name.front()) &&
      std::all_of(name.begin(), name.end(),
                  [](char c) { return is_letter_or_digit(c) || c == '.' || c == '_' || c == '-'; });
  if (good) return {};
  return Error(ErrorCode::invalid_argument,
               "'" + std::string(name) + "' is not a " + std::string(what) + " name: use 1 to " +
                   std::to_string(limits::kNameBytesMax) +
                   " letters, digits, '.', '_' and '-', beginning with a letter or digit");
}

}  // namespace holdfast
