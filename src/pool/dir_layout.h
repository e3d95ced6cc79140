// SPDX-License-Identifier: Apache-2.0
//
// The names inside a pool's directory (see dir_pool.h for the whole picture).
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/time.h"

namespace holdfast::dir_layout {

inline constexpr std::string_view kRecordName = "holdfast.pool";
inline constexpr std::string_view kNewRecordName = "holdfast.pool.new";
inline constexpr std::string_view kLockName = "lock";
inline constexpr std::string_view kHostLeasesName = "hosts";
inline constexpr std::string_view kVolumeLeaseName = "lease";
inline constexpr std::string_view kVolumesName = "volumes";
inline constexpr std::string_view kVolumeRecordName = "volume";
inline constexpr std::string_view kTrashedPrefix = "trashed-";  // what the record is then
inline constexpr std::string_view kCreatingPrefix = ".creating-";
inline constexpr std::string_view kRemovingPrefix = ".removing-";
inline constexpr std::string_view kNewPrefix = ".new-";
inline constexpr std::string_view kSegmentPrefix = "seg-";
inline constexpr std::string_view kRootPrefix = "root-";
inline constexpr std::string_view kSnapshotPrefix = "snap-";
inline constexpr std::string_view kCloneMarkPrefix = "clone-";
inline constexpr std::string_view kSparePrefix = "spare-";
inline constexpr std::string_view kSpareRootName = "spare-root";
inline constexpr std::string_view kNewSparePrefix = ".spare-";
inline constexpr std::string_view kEpochPrefix = ".epoch-";

// An epoch and a number within it, as segments and roots are named.
struct NumberedName {
  std::uint64_t epoch = 0;
  std::uint64_t number = 0;
};

std::string join(std::string_view directory, std::string_view name);
std::string parent_directory(const std::string& path);
std::string segment_name(const SegmentId& segment);
std::string root_name(const RootId& root);
std::string snapshot_name(SnapshotNumber snapshot);
std::string spare_name(std::string_view prefix, std::uint64_t epoch, std::uint64_t number);
// Accept exactly what these make; anything else is somebody else's file.
std::optional<NumberedName> parse_numbered_name(std::string_view prefix, std::string_view name);
std::string epoch_directory_name(Epoch epoch);
std::optional<Epoch> parse_epoch_directory_name(std::string_view name);
// The record of a volume in the trash: since when, and until when at least.
std::string trashed_name(WallTime since, WallTime until);
struct TrashedName {
  WallTime since;
  WallTime until;
};
std::optional<TrashedName> parse_trashed_name(std::string_view name);
std::optional<SnapshotNumber> parse_snapshot_name(std::string_view name);
std::string clone_mark_name(SnapshotNumber snapshot, const VolumeId& clone);
struct CloneMarkName {
  SnapshotNumber snapshot;
  VolumeId clone;
};
std::optional<CloneMarkName> parse_clone_mark_name(std::string_view name);

// What `parse` makes of the names, ascending; without those it makes nothing of.
template <typename Id, typename Parse>
std::vector<Id> parse_names(const std::vector<std::string>& names, const Parse& parse) {
  std::vector<Id> found;
  for (const std::string& name : names) {
    if (const std::optional<Id> id = parse(name)) found.push_back(*id);
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace holdfast::dir_layout
