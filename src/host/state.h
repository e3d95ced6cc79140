// SPDX-License-Identifier: Apache-2.0
//
// What the daemon must still know after it was killed: the open pools and the attachments.
//
// Two small JSON files of a fixed size, allocated when they are made and written in turn, each with
// a generation and a checksum: the newest valid one counts. So a save that is cut off anywhere
// leaves the state before it, and saving needs no space on a host disk that is full (a temporary
// file and a rename would).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "host/config.h"
#include "host/leases.h"
#include "io/file_system.h"
#include "lease/host_watch.h"

namespace holdfast {

struct SavedAttachment {
  std::string pool;
  std::string volume;
  std::string protocol = "nbd";
  bool read_only = false;
  WallTime since;
  std::string qmp_path = {};
  AttachMode mode = AttachMode::exclusive;
  std::uint64_t shared_since = 0;  // of a shared one: the ownership since which it is unchanged
};

struct SavedVolumeSettings {
  std::string pool;
  std::string volume;
  HoldSettings hold;
};

// What is to be undone unless it ends well: a volume that is being made, one that is being changed,
// a snapshot that is being read.
enum class SavedTransferKind { make, change, read };

struct SavedTransfer {
  std::string pool;
  std::string volume;  // that is served
  SavedTransferKind kind = SavedTransferKind::read;
  std::string name;
  std::string since;
  std::string snapshot;
};

// Which host this daemon is in a shared pool, so that one that is started again soon goes on as it.
struct SavedHost {
  std::string pool;
  std::string host_name;
  std::string boot_id;  // of the machine at that time
  HostIdentity identity;
};

struct HostState {
  std::vector<PoolLocation> pools;
  std::vector<SavedAttachment> attachments;
  std::vector<SavedVolumeSettings> volume_settings;
  std::vector<SavedTransfer> transfers;
  std::vector<SavedHost> hosts;
  std::vector<std::string> paused_machines;  // by us: paths of their monitors
  std::uint64_t generation = 0;              // counts the saves; the store's business
};

std::string encode_state(const HostState& state);
// Bytes of any kind are fine: what is no state is corrupt, what a newer version wrote unsupported.
Result<HostState> decode_state(std::string_view text);

// state.json and state.json.2 in one directory. One call at a time.
class StateStore {
 public:
  StateStore(FileSystem& file_system, std::string directory)
      : file_system_(file_system), directory_(std::move(directory)) {}

  // No file: an empty state. Nothing but damaged files: refused, and copies are kept beside them.
  Task<Result<HostState>> load();
  Task<Result<void>> save(HostState state);
  std::string path(std::size_t slot = 0) const {
    return directory_ + (slot == 0 ? "/state.json" : "/state.json.2");
  }

 private:
  struct Slot {
    std::unique_ptr<File> file;  // allocated in full
  };

  Task<Result<void>> open_slot(std::size_t index);

  FileSystem& file_system_;
  const std::string directory_;
  std::array<Slot, 2> slots_;
  std::size_t newest_ = 1;  // the slot that must not be written next
  std::uint64_t generation_ = 0;
};

}  // namespace holdfast
