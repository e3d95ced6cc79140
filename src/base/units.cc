// SPDX-License-Identifier: Apache-2.0
#include "base/units.h"

#include <array>
#include <cctype>
#include <cstdio>
#include <limits>

namespace holdfast {
namespace {

Error bad_size(std::string_view text, std::string_view why) {
  return Error(ErrorCode::invalid_argument,
               "'" + std::string(text) + "' is not a size: " + std::string(why) +
                   "; write a number and a unit, such as 512M, 20G or 1.5T");
}

// 1024^n for the unit letter, or 0.
std::uint64_t unit_factor(char letter) {
  switch (std::toupper(static_cast<unsigned char>(letter))) {
    case 'K':
      return kKiB;
    case 'M':
      return kMiB;
    case 'G':
      return kGiB;
    case 'T':
      return kTiB;
    case 'P':
      return 1024 * kTiB;
    default:
      return 0;
  }
}

bool ends_unit(std::string_view rest) {
  return rest.empty() || rest == "B" || rest == "b" || rest == "iB" || rest == "ib" || rest == "IB";
}

}  // namespace

Result<std::uint64_t> parse_bytes(std::string_view text) {
  const std::string_view whole = text;
  std::uint64_t integer = 0;
  std::size_t digits = 0;
  while (!text.empty() && std::isdigit(static_cast<unsigned char>(text.front())) != 0) {
    const auto digit = static_cast<std::uint64_t>(text.front() - '0');
    if (integer > (std::numeric_limits<std::uint64_t>::max() - digit) / 10) {
      return bad_size(whole, "the number is too large");
    }
    integer = integer * 10 + digit;
    ++digits;
    text.remove_prefix(1);
  }
  if (digits == 0) return bad_size(whole, "it does not start with a number");
  std::uint64_t fraction_numerator = 0;
  std::uint64_t fraction_denominator = 1;
  if (!text.empty() && text.front() == '.') {
    text.remove_prefix(1);
    std::size_t fraction_digits = 0;
    while (!text.empty() && std::isdigit(static_cast<unsigned char>(text.front())) != 0) {
      if (++fraction_digits > 6) return bad_size(whole, "more than six digits after the point");
      fraction_numerator = fraction_numerator * 10 + static_cast<std::uint64_t>(text.front() - '0');
      fraction_denominator *= 10;
      text.remove_prefix(1);
    }
    if (fraction_digits == 0) return bad_size(whole, "no digit after the point");
  }
  std::uint64_t factor = 1;
  if (!text.empty() && unit_factor(text.front()) != 0) {
    factor = unit_factor(text.front());
    text.remove_prefix(1);
    if (!ends_unit(text)) return bad_size(whole, "unknown unit");
  } else if (!text.empty() && text != "B" && text != "b") {
    return bad_size(whole, "unknown unit");
  }
  if (factor == 1 && fraction_numerator != 0) return bad_size(whole, "a fraction of a byte");
  // Up to 2^50 * 10^6: wider than 64 bits.
  const auto fraction = static_cast<std::uint64_t>(static_cast<unsigned __int128>(factor) *
                                                   fraction_numerator / fraction_denominator);
  if (integer > (std::numeric_limits<std::uint64_t>::max() - fraction) / factor) {
    return bad_size(whole, "the number is too large");
  }
  return integer * factor + fraction;
}

std::string format_bytes(std::uint64_t bytes) {
  static constexpr std::array<const char*, 6> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1023.5 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  char text[32];
  const bool whole =
      unit == 0 || value >= 99.95 || value == static_cast<double>(static_cast<int>(value));
  std::snprintf(text, sizeof text, whole ? "%.0f %s" : (value >= 9.995 ? "%.1f %s" : "%.2f %s"),
                value, kUnits[unit]);
  return text;
}

}  // namespace holdfast
