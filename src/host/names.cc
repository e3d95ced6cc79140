// SPDX-License-Identifier: Apache-2.0
#include "host/names.h"

#include <algorithm>
#include <cctype>

#include "base/limits.h"

namespace holdfast {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

std::pair<std::string, std::string> split_snapshot(std::string_view name) {
  const std::size_t at = name.find('@');
  if (at == std::string_view::npos) return {std::string(name), {}};
  return {std::string(name.substr(0, at)), std::string(name.substr(at + 1))};
}

Result<void> check_attachable_name(std::string_view name) {
  const auto [volume, snapshot] = split_snapshot(name);
  TRY(check_name("volume", volume));
  if (name.find('@') == std::string_view::npos) return {};
  return check_name("snapshot", snapshot);
}

Result<void> check_host_name(std::string_view name) {
  const bool is_printable =
      std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (is_printable && !name.empty() && name.size() <= limits::kHostNameBytesMax) return {};
  return Error(ErrorCode::invalid_argument,
               "the name of a host must be 1 to " + std::to_string(limits::kHostNameBytesMax) +
                   " printable characters of ASCII without spaces, such as kvm1.example.org");
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before_last(b.size() + 1);
  std::vector<std::size_t> last(b.size() + 1);
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replace = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, replace});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      }
    }
    before_last.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

std::string suggestion(std::string_view unknown, const std::vector<std::string>& known) {
  if (unknown.size() > 2 * limits::kNameBytesMax + 1) return {};
  const std::string wanted = lower(unknown);
  const std::size_t worst = std::max<std::size_t>(1, unknown.size() / 3);
  const std::string* best = nullptr;
  std::size_t best_distance = worst + 1;
  for (const std::string& name : known) {
    const std::size_t distance = edit_distance(wanted, lower(name));
    if (distance < best_distance) {
      best = &name;
      best_distance = distance;
    }
  }
  return best == nullptr ? std::string() : "; did you mean '" + *best + "'?";
}

}  // namespace holdfast
