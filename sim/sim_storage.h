// SPDX-License-Identifier: Apache-2.0
//
// What a simulated host's storage holds: a tree of directories and sparse files, and for all of it
// what would survive a power loss. It outlives every process. Faults of transport (delays, errors,
// hangs) are sim_file_system's; this file knows durability only:
//
//  - Each 512-byte sector written since the last good sync has two versions, the visible one and
//  the
//    durable one. Power loss picks one of them for each sector, independently.
//  - A failed sync loses: any sector it should have covered may be marked clean although it is not
//    durable, and later syncs do not help it ("fsyncgate").
//  - Names made, renamed and removed since the directory's last sync form a list; power loss keeps
//  a
//    prefix of it and undoes the rest.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "io/file_system.h"
#include "sim/scheduler.h"

namespace holdfast::sim {

inline constexpr std::size_t kSectorsPerPage = kBlockBytes / kSectorBytes;

struct SimPage {
  std::array<std::byte, kBlockBytes> visible{};
  std::unique_ptr<std::array<std::byte, kBlockBytes>> durable;  // null: zeros; see `unsynced`
  std::uint8_t dirty = 0;  // sectors that the next good sync makes durable
  std::uint8_t lost = 0;   // sectors that look clean but are not durable
  bool listed = false;     // in Inode::dirty_pages
  std::array<std::uint64_t, kSectorsPerPage> write_number{};  // of the last write, to tell what a
                                                              // sync covers
};

struct Inode;
using InodePointer = std::shared_ptr<Inode>;

// One change of names in a directory that is not durable yet: what each name meant before.
struct DirectoryChange {
  std::vector<std::pair<std::string, InodePointer>> before;
};

struct Inode {
  std::uint64_t number = 0;
  bool is_directory = false;

  // Of a file.
  std::vector<std::unique_ptr<SimPage>> pages;
  std::vector<std::uint32_t> dirty_pages;
  std::uint64_t size_bytes = 0;
  std::uint64_t durable_size_bytes = 0;
  std::uint64_t preallocated_bytes = 0;  // not 0: writing behind it is a bug
  std::uint64_t write_counter = 0;
  std::uint32_t syncs_in_flight = 0;
  std::uint64_t bad_begin_bytes = 0;  // writes that touch this range always fail; empty: none
  std::uint64_t bad_end_bytes = 0;
  std::uint64_t locked_by = 0;  // the number of a file system view; 0: nobody

  // Of a directory.
  std::map<std::string, InodePointer> entries;
  std::vector<DirectoryChange> unsynced;

  // Space accounting: a file counts while it has a name or is open.
  std::uint32_t link_count = 0;
  std::uint32_t open_count = 0;
  std::uint64_t allocated_bytes = 0;
  std::uint64_t counted_bytes = 0;
};

class SimStorage {
 public:
  SimStorage(Scheduler& scheduler, std::uint64_t capacity_bytes);

  // Names.
  InodePointer find(const std::string& path) const;  // null: not there
  Result<InodePointer> create_file(const std::string& path, std::uint64_t preallocate_bytes);
  Result<void> make_directory(const std::string& path);
  Result<void> remove_file(const std::string& path);
  Result<void> remove_directory(const std::string& path);
  Result<void> rename(const std::string& from, const std::string& to);
  Result<void> link(const std::string& from, const std::string& to);
  Result<void> sync_directory(const std::string& path);
  Result<std::vector<std::string>> list(const std::string& path) const;
  Result<void> truncate(const std::string& path, std::uint64_t size_bytes);
  void truncate(Inode& inode, std::uint64_t size_bytes);
  Result<void> allocate(const std::string& path, std::uint64_t size_bytes);

  // Data. `selected` says which sectors are written (by index from the start); null: all.
  void write(Inode& inode, std::uint64_t offset_bytes, std::span<const std::byte> bytes,
             const std::function<bool(std::size_t)>& selected, bool completed);
  void read(const Inode& inode, std::uint64_t offset_bytes, std::span<std::byte> bytes) const;
  // What a sync submitted now covers; given back to sync_done().
  std::uint64_t sync_begin(Inode& inode);
  void sync_done(Inode& inode, std::uint64_t mark, bool good);

  // Every process is gone, and each sector, size and name that was not synced survives or not.
  void power_loss();
  // Flips one bit, in the visible and the durable version, of a written page of a file that
  // `accept` takes. False: nothing to rot.
  using FilePredicate = std::function<bool(const std::string& path, const Inode& inode)>;
  bool rot_one_bit(const FilePredicate& accept, std::string* where);

  // Writes a random part of the sectors: none, a prefix, some or all, as a write that failed may.
  // The write counts as in flight, for syncs, until end_write().
  void write_some(Inode& inode, std::uint64_t offset_bytes, std::span<const std::byte> bytes);
  void end_write(Inode& inode, std::uint64_t offset_bytes, std::uint64_t length_bytes);
  // A dead process's write that is still on its way and lands, in part or not at all, at `time`.
  void land_late(InodePointer inode, std::uint64_t offset_bytes, std::vector<std::byte> bytes,
                 MonotonicTime time);
  void unlock_all_of(std::uint64_t owner);

  // Space.
  std::uint64_t capacity_bytes() const { return capacity_bytes_; }
  std::uint64_t available_bytes() const;
  // Space that somebody else uses.
  void set_foreign_bytes(std::uint64_t bytes) { foreign_bytes_ = bytes; }
  std::uint64_t used_bytes() const { return used_bytes_; }
  void update_accounting(Inode& inode);

  Scheduler& scheduler() { return scheduler_; }
  Prng& prng() { return prng_; }

 private:
  struct Location {
    InodePointer directory;
    std::string name;
  };
  struct LateWrite {
    InodePointer inode;
    std::uint64_t offset_bytes;
    std::vector<std::byte> bytes;
    EventKey key;
  };
  void land(std::uint64_t id);
  Result<Location> locate(const std::string& path) const;
  InodePointer make_inode(bool is_directory);
  void set_entry(Inode& directory, const std::string& name, InodePointer inode);
  void undo_names(const InodePointer& directory, double keep);
  void lose_data(const std::string& path, Inode& inode, double keep);
  void walk(const std::string& path, const InodePointer& inode,
            const std::function<void(const std::string&, const InodePointer&)>& visit) const;
  SimPage& page_for_write(Inode& inode, std::uint64_t page_number);

  Scheduler& scheduler_;
  Prng prng_;
  InodePointer root_;
  std::uint64_t next_inode_number_ = 1;
  std::map<std::uint64_t, LateWrite> late_writes_;
  std::uint64_t next_late_write_ = 1;
  std::uint64_t capacity_bytes_;
  std::uint64_t used_bytes_ = 0;
  std::uint64_t foreign_bytes_ = 0;
};

}  // namespace holdfast::sim
