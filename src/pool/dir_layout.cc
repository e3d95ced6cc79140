// SPDX-License-Identifier: Apache-2.0
#include "pool/dir_layout.h"

#include <charconv>
#include <cstdio>

namespace holdfast::dir_layout {
namespace {

constexpr std::size_t kHexDigits = 16;

std::string numbered_name(std::string_view prefix, std::uint64_t epoch, std::uint64_t number) {
  char digits[2 * kHexDigits + 2];
  std::snprintf(digits, sizeof digits, "%016llx-%016llx", static_cast<unsigned long long>(epoch),
                static_cast<unsigned long long>(number));
  return std::string(prefix).append(digits);
}

std::optional<std::uint64_t> parse_hex(std::string_view digits) {
  std::uint64_t value = 0;
  for (const char c : digits) {
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return std::nullopt;
  }
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), value, 16);
  if (error != std::errc{} || end != digits.end()) return std::nullopt;
  return value;
}

}  // namespace

std::string join(std::string_view directory, std::string_view name) {
  std::string path(directory);
  return path.append("/").append(name);
}

std::string parent_directory(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string segment_name(const SegmentId& segment) {
  return numbered_name(kSegmentPrefix, segment.epoch.value, segment.number.value);
}

std::string root_name(const RootId& root) {
  return numbered_name(kRootPrefix, root.epoch.value, root.number);
}

std::string snapshot_name(SnapshotNumber snapshot) {
  char digits[kHexDigits + 1];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(snapshot.value));
  return std::string(kSnapshotPrefix).append(digits);
}

std::optional<SnapshotNumber> parse_snapshot_name(std::string_view name) {
  if (!name.starts_with(kSnapshotPrefix)) return std::nullopt;
  name.remove_prefix(kSnapshotPrefix.size());
  if (name.size() != kHexDigits) return std::nullopt;
  const auto number = parse_hex(name);
  if (!number.has_value()) return std::nullopt;
  return SnapshotNumber{*number};
}

std::string clone_mark_name(SnapshotNumber snapshot, const VolumeId& clone) {
  const std::string digits = snapshot_name(snapshot).substr(kSnapshotPrefix.size());
  return std::string(kCloneMarkPrefix).append(digits).append("-").append(clone.to_string());
}

std::optional<CloneMarkName> parse_clone_mark_name(std::string_view name) {
  if (!name.starts_with(kCloneMarkPrefix)) return std::nullopt;
  name.remove_prefix(kCloneMarkPrefix.size());
  if (name.size() < kHexDigits + 1 || name[kHexDigits] != '-') return std::nullopt;
  const auto number = parse_hex(name.substr(0, kHexDigits));
  const std::string_view id = name.substr(kHexDigits + 1);
  const auto clone = Uuid::parse(id);
  if (!number.has_value() || !clone.has_value() || clone->to_string() != id) return std::nullopt;
  return CloneMarkName{SnapshotNumber{*number}, *clone};
}

std::string spare_name(std::string_view prefix, std::uint64_t epoch, std::uint64_t number) {
  return numbered_name(prefix, epoch, number);
}

std::string epoch_directory_name(Epoch epoch) {
  char digits[kHexDigits + 1];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(epoch.value));
  return std::string(kEpochPrefix).append(digits);
}

std::optional<Epoch> parse_epoch_directory_name(std::string_view name) {
  if (!name.starts_with(kEpochPrefix)) return std::nullopt;
  name.remove_prefix(kEpochPrefix.size());
  if (name.size() != kHexDigits) return std::nullopt;
  const auto number = parse_hex(name);
  if (!number.has_value()) return std::nullopt;
  return Epoch{*number};
}

std::string trashed_name(WallTime since, WallTime until) {
  return numbered_name(kTrashedPrefix, static_cast<std::uint64_t>(since.unix_seconds),
                       static_cast<std::uint64_t>(until.unix_seconds));
}

std::optional<TrashedName> parse_trashed_name(std::string_view name) {
  const auto times = parse_numbered_name(kTrashedPrefix, name);
  if (!times.has_value()) return std::nullopt;
  return TrashedName{WallTime{static_cast<std::int64_t>(times->epoch)},
                     WallTime{static_cast<std::int64_t>(times->number)}};
}

std::optional<NumberedName> parse_numbered_name(std::string_view prefix, std::string_view name) {
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  if (name.size() != 2 * kHexDigits + 1 || name[kHexDigits] != '-') return std::nullopt;
  const auto epoch = parse_hex(name.substr(0, kHexDigits));
  const auto number = parse_hex(name.substr(kHexDigits + 1));
  if (!epoch.has_value() || !number.has_value()) return std::nullopt;
  return NumberedName{*epoch, *number};
}

}  // namespace holdfast::dir_layout
