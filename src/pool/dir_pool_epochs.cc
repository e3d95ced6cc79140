// SPDX-License-Identifier: Apache-2.0
//
// Directories of owners: how one who lost a volume is kept from publishing and removing anything,
// however late its calls arrive. docs/decisions/0022-the-volume-behind-a-fence.md.
#include "base/log.h"
#include "pool/dir_layout.h"
#include "pool/dir_pool.h"

namespace holdfast {

using namespace dir_layout;

namespace {

// Each time somebody has put another file there meanwhile.
constexpr int kRemovalTriesMax = 100;

}  // namespace

std::string DirPool::epoch_path(const VolumeId& volume, Epoch epoch) const {
  return join(volume_path(volume), epoch_directory_name(epoch));
}

std::string DirPool::temporary_path(const VolumeId& volume, std::string_view name,
                                    Epoch owner) const {
  if (owner.value != 0) return join(epoch_path(volume, owner), name);
  return join(volume_path(volume), kNewPrefix) + std::string(name);  // remove_leftovers() knows it
}

// What was removed is durable, so that no crash of the storage brings it back; and what was made,
// because nobody ever makes it again.
Task<Result<void>> DirPool::begin_epoch(VolumeId volume, Epoch epoch) {
  FileSystem& files = context_.file_system;
  const std::string directory = volume_path(volume);
  CO_TRY_ASSIGN(const std::vector<std::string> names, co_await files.list(directory));
  for (const std::string& name : names) {
    const std::optional<Epoch> other = parse_epoch_directory_name(name);
    if (!other.has_value() || *other == epoch) continue;
    if (*other > epoch) {
      co_return Error(ErrorCode::busy, "the volume " + volume.to_string() +
                                           " has another owner by now (epoch " +
                                           std::to_string(other->value) + ", this one is " +
                                           std::to_string(epoch.value) + "); take its lease anew");
    }
    std::string path = join(directory, name);
    CO_TRY(co_await remove_epoch(std::move(path)));
  }
  std::string own = epoch_path(volume, epoch);
  const auto made = co_await files.make_directory(std::move(own));
  if (!made.ok() && made.error().code() != ErrorCode::already_exists) co_return made;
  co_return co_await files.sync_directory(directory);
}

Task<void> DirPool::end_epoch(VolumeId volume, Epoch epoch) {
  std::string own = epoch_path(volume, epoch);
  const auto removed = co_await remove_epoch(std::move(own));
  if (!removed.ok()) log_warning(removed.error().message());  // the next owner tries again
}

Task<Result<void>> DirPool::remove_epoch(std::string path) {
  FileSystem& files = context_.file_system;
  for (int tries = 1;; ++tries) {
    const auto names = co_await files.list(path);
    if (!names.ok() && names.error().code() == ErrorCode::not_found) co_return Result<void>{};
    if (!names.ok()) co_return names.error();
    for (const std::string& name : names.value()) {
      std::string file = join(path, name);
      const auto removed = co_await files.remove_file(std::move(file));
      if (!removed.ok() && removed.error().code() != ErrorCode::not_found) co_return removed;
    }
    const auto removed = co_await files.remove_directory(path);
    if (removed.ok() || removed.error().code() == ErrorCode::not_found) co_return Result<void>{};
    if (removed.error().code() == ErrorCode::path_failure || tries == kRemovalTriesMax) {
      co_return removed;
    }
  }
}

}  // namespace holdfast
