// SPDX-License-Identifier: Apache-2.0
#include "base/ids.h"

namespace holdfast {
namespace {

constexpr std::string_view kHexDigits = "0123456789abcdef";
constexpr std::size_t kTextLength = 36;

bool is_dash_position(std::size_t i) { return i == 8 || i == 13 || i == 18 || i == 23; }

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

bool Uuid::is_nil() const { return *this == Uuid{}; }

std::string Uuid::to_string() const {
  std::string text;
  text.reserve(kTextLength);
  for (const std::byte b : bytes) {
    if (is_dash_position(text.size())) text.push_back('-');
    text.push_back(kHexDigits[std::to_integer<std::size_t>(b >> 4)]);
    text.push_back(kHexDigits[std::to_integer<std::size_t>(b & std::byte{15})]);
  }
  return text;
}

std::optional<Uuid> Uuid::parse(std::string_view text) {
  if (text.size() != kTextLength) return std::nullopt;
  Uuid id;
  std::size_t out = 0;
  for (std::size_t i = 0; i < kTextLength;) {
    if (is_dash_position(i)) {
      if (text[i] != '-') return std::nullopt;
      ++i;
      continue;
    }
    const int high = hex_value(text[i]);
    const int low = hex_value(text[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    id.bytes[out++] = static_cast<std::byte>(high * 16 + low);
    i += 2;
  }
  return id;
}

Uuid Uuid::from_random(const std::array<std::byte, 16>& random) {
  Uuid id{random};
  id.bytes[6] = (id.bytes[6] & std::byte{0x0f}) | std::byte{0x40};
  id.bytes[8] = (id.bytes[8] & std::byte{0x3f}) | std::byte{0x80};
  return id;
}

}  // namespace holdfast
