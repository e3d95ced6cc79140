// SPDX-License-Identifier: Apache-2.0
#include "pool/names.h"

#include <string>

#include "base/limits.h"

namespace holdfast {
namespace {

bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

}  // namespace

Result<void> check_name(std::string_view what, std::string_view name) {
  const auto refuse = [&](std::string_view why) {
    return Error(ErrorCode::invalid_argument,
                 "'" + std::string(name.substr(0, limits::kNameBytesMax)) +
                     "' cannot be the name of a " + std::string(what) + ": " + std::string(why));
  };
  if (name.empty()) return refuse("it is empty");
  if (name.size() > limits::kNameBytesMax) {
    return refuse("it is longer than " + std::to_string(limits::kNameBytesMax) + " characters");
  }
  if (!is_letter_or_digit(name.front())) return refuse("it must start with a letter or a digit");
  for (const char c : name) {
    if (!is_letter_or_digit(c) && c != '.' && c != '_' && c != '-') {
      return refuse("only letters, digits, '.', '_' and '-' are allowed");
    }
  }
  return {};
}

}  // namespace holdfast
