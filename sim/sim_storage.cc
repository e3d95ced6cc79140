// SPDX-License-Identifier: Apache-2.0
#include "sim/sim_storage.h"

#include <algorithm>
#include <cstring>

namespace holdfast::sim {
namespace {

// Of a sector that a write in flight has changed already: no sync covers it yet.
constexpr std::uint64_t kInFlight = UINT64_MAX;

Error not_found(const std::string& path) {
  return Error(ErrorCode::not_found, path + ": no such file or directory");
}

bool is_zero(const std::byte* bytes, std::size_t count) {
  return std::all_of(bytes, bytes + count, [](std::byte byte) { return byte == std::byte{0}; });
}

std::uint8_t bit_of(std::size_t sector) {
  return static_cast<std::uint8_t>(1u << sector);
}

// The durable version of a sector becomes the visible one.
void copy_to_durable(SimPage& page, std::size_t sector) {
  const std::size_t at = sector * kSectorBytes;
  if (page.durable == nullptr) {
    if (is_zero(page.visible.data() + at, kSectorBytes)) return;
    page.durable = std::make_unique<std::array<std::byte, kBlockBytes>>();
    page.durable->fill(std::byte{0});
  }
  std::memcpy(page.durable->data() + at, page.visible.data() + at, kSectorBytes);
}

void forget_durable_if_clean(SimPage& page) {
  if ((page.dirty | page.lost) == 0) page.durable.reset();
}

}  // namespace

SimStorage::SimStorage(Scheduler& scheduler, std::uint64_t capacity_bytes)
    : scheduler_(scheduler), prng_(scheduler.prng().fork()), capacity_bytes_(capacity_bytes) {
  root_ = make_inode(true);
}

InodePointer SimStorage::make_inode(bool is_directory) {
  auto inode = std::make_shared<Inode>();
  inode->number = next_inode_number_++;
  inode->is_directory = is_directory;
  return inode;
}

Result<SimStorage::Location> SimStorage::locate(const std::string& path) const {
  if (path.empty() || path.front() != '/') {
    return Error(ErrorCode::invalid_argument, path + ": not an absolute path");
  }
  InodePointer directory = root_;
  std::string name;
  std::size_t at = 0;
  while (at < path.size()) {
    const std::size_t begin = path.find_first_not_of('/', at);
    if (begin == std::string::npos) break;
    at = std::min(path.find('/', begin), path.size());
    if (!name.empty()) {
      const auto entry = directory->entries.find(name);
      if (entry == directory->entries.end()) return not_found(path);
      if (!entry->second->is_directory) {
        return Error(ErrorCode::invalid_argument, path + ": " + name + " is not a directory");
      }
      directory = entry->second;
    }
    name = path.substr(begin, at - begin);
  }
  return Location{directory, name};
}

InodePointer SimStorage::find(const std::string& path) const {
  auto location = locate(path);
  if (!location.ok()) return nullptr;
  if (location->name.empty()) return root_;
  const auto entry = location->directory->entries.find(location->name);
  return entry == location->directory->entries.end() ? nullptr : entry->second;
}

// Changes what a name means; `inode` null: nothing any more.
void SimStorage::set_entry(Inode& directory, const std::string& name, InodePointer inode) {
  const auto old = directory.entries.find(name);
  if (old != directory.entries.end()) {
    InodePointer before = old->second;
    directory.entries.erase(old);
    --before->link_count;
    update_accounting(*before);
  }
  if (inode == nullptr) return;
  ++inode->link_count;
  update_accounting(*inode);
  directory.entries.emplace(name, std::move(inode));
}

Result<InodePointer> SimStorage::create_file(const std::string& path,
                                             std::uint64_t preallocate_bytes) {
  const Location at = TRY(locate(path));
  if (at.directory->entries.contains(at.name)) {
    return Error(ErrorCode::already_exists, path + ": exists already");
  }
  if (round_up(preallocate_bytes, kBlockBytes) > available_bytes() || available_bytes() == 0) {
    return Error(ErrorCode::no_space, path + ": no space left (simulated)");
  }
  InodePointer inode = make_inode(false);
  inode->size_bytes = preallocate_bytes;
  inode->preallocated_bytes = preallocate_bytes;
  inode->allocated_bytes = round_up(preallocate_bytes, kBlockBytes);
  at.directory->unsynced.push_back({{{at.name, nullptr}}});
  set_entry(*at.directory, at.name, inode);
  return inode;
}

Result<void> SimStorage::make_directory(const std::string& path) {
  const Location at = TRY(locate(path));
  if (at.name.empty() || at.directory->entries.contains(at.name)) {
    return Error(ErrorCode::already_exists, path + ": exists already");
  }
  if (available_bytes() == 0) {
    return Error(ErrorCode::no_space, path + ": no space left (simulated)");
  }
  at.directory->unsynced.push_back({{{at.name, nullptr}}});
  set_entry(*at.directory, at.name, make_inode(true));
  return {};
}

Result<void> SimStorage::remove_file(const std::string& path) {
  const Location at = TRY(locate(path));
  const auto entry = at.directory->entries.find(at.name);
  if (entry == at.directory->entries.end()) return not_found(path);
  if (entry->second->is_directory) {
    return Error(ErrorCode::invalid_argument, path + ": is a directory");
  }
  at.directory->unsynced.push_back({{{at.name, entry->second}}});
  set_entry(*at.directory, at.name, nullptr);
  return {};
}

Result<void> SimStorage::remove_directory(const std::string& path) {
  const Location at = TRY(locate(path));
  const auto entry = at.directory->entries.find(at.name);
  if (entry == at.directory->entries.end()) return not_found(path);
  if (!entry->second->is_directory) {
    return Error(ErrorCode::invalid_argument, path + ": not a directory");
  }
  if (!entry->second->entries.empty()) {
    return Error(ErrorCode::already_exists, path + ": the directory is not empty");
  }
  at.directory->unsynced.push_back({{{at.name, entry->second}}});
  set_entry(*at.directory, at.name, nullptr);
  return {};
}

Result<void> SimStorage::rename(const std::string& from, const std::string& to) {
  const Location source = TRY(locate(from));
  const Location target = TRY(locate(to));
  const auto entry = source.directory->entries.find(source.name);
  if (entry == source.directory->entries.end()) return not_found(from);
  InodePointer moved = entry->second;
  InodePointer replaced;
  const auto old = target.directory->entries.find(target.name);
  if (old != target.directory->entries.end()) replaced = old->second;
  if (replaced == moved) return {};
  if (replaced != nullptr && replaced->is_directory &&
      (!moved->is_directory || !replaced->entries.empty())) {
    return Error(ErrorCode::already_exists, to + ": is a directory in use");
  }
  if (source.directory == target.directory) {
    source.directory->unsynced.push_back({{{target.name, replaced}, {source.name, moved}}});
  } else {
    // One journal transaction over two directories: simplest as durable at once, with all before
    // it.
    source.directory->unsynced.clear();
    target.directory->unsynced.clear();
  }
  set_entry(*source.directory, source.name, nullptr);
  set_entry(*target.directory, target.name, std::move(moved));
  return {};
}

Result<void> SimStorage::link(const std::string& from, const std::string& to) {
  const InodePointer inode = find(from);
  if (inode == nullptr) return not_found(from);
  const Location at = TRY(locate(to));
  if (inode->is_directory) return Error(ErrorCode::invalid_argument, from + ": is a directory");
  if (at.directory->entries.contains(at.name)) {
    return Error(ErrorCode::already_exists, to + ": exists already");
  }
  if (available_bytes() == 0) {
    return Error(ErrorCode::no_space, to + ": no space left (simulated)");
  }
  at.directory->unsynced.push_back({{{at.name, nullptr}}});
  set_entry(*at.directory, at.name, inode);
  return {};
}

Result<void> SimStorage::sync_directory(const std::string& path) {
  const InodePointer directory = find(path);
  if (directory == nullptr) return not_found(path);
  if (!directory->is_directory) {
    return Error(ErrorCode::invalid_argument, path + ": not a directory");
  }
  directory->unsynced.clear();
  // The names are in the same journal as the sizes of what they name.
  for (const auto& [name, inode] : directory->entries) {
    inode->durable_size_bytes = inode->size_bytes;
  }
  return {};
}

Result<std::vector<std::string>> SimStorage::list(const std::string& path) const {
  const InodePointer directory = find(path);
  if (directory == nullptr) return not_found(path);
  if (!directory->is_directory) {
    return Error(ErrorCode::invalid_argument, path + ": not a directory");
  }
  std::vector<std::string> names;
  for (const auto& [name, inode] : directory->entries) names.push_back(name);
  return names;
}

Result<void> SimStorage::truncate(const std::string& path, std::uint64_t size_bytes) {
  const InodePointer inode = find(path);
  if (inode == nullptr) return not_found(path);
  if (inode->is_directory) {
    return Error(ErrorCode::invalid_argument, path + ": is a directory");
  }
  truncate(*inode, size_bytes);
  return {};
}

// The size is not durable before a sync, as that of a file that grows by writing.
Result<void> SimStorage::allocate(const std::string& path, std::uint64_t size_bytes) {
  const InodePointer inode = find(path);
  if (inode == nullptr) return not_found(path);
  if (inode->is_directory) {
    return Error(ErrorCode::invalid_argument, path + ": is a directory");
  }
  if (inode->size_bytes > size_bytes) truncate(*inode, size_bytes);
  const std::uint64_t wanted_bytes = round_up(size_bytes, kBlockBytes);
  if (wanted_bytes > inode->allocated_bytes &&
      wanted_bytes - inode->allocated_bytes > available_bytes()) {
    return Error(ErrorCode::no_space, path + ": no space left (simulated)");
  }
  inode->size_bytes = size_bytes;
  inode->preallocated_bytes = size_bytes;
  inode->allocated_bytes = wanted_bytes;
  update_accounting(*inode);
  return {};
}

void SimStorage::truncate(Inode& inode, std::uint64_t size_bytes) {
  inode.size_bytes = size_bytes;
  inode.durable_size_bytes = std::min(inode.durable_size_bytes, size_bytes);
  inode.preallocated_bytes = std::min(inode.preallocated_bytes, size_bytes);
  inode.allocated_bytes = std::min(inode.allocated_bytes, round_up(size_bytes, kBlockBytes));
  const std::uint64_t page_count = divide_up(size_bytes, kBlockBytes);
  if (inode.pages.size() > page_count) inode.pages.resize(page_count);
  std::erase_if(inode.dirty_pages, [&](std::uint32_t page) { return page >= page_count; });
  // The rest of the last page reads as zeros if the file grows again.
  const std::size_t rest = size_bytes % kBlockBytes;
  if (rest != 0 && inode.pages.size() == page_count && inode.pages.back() != nullptr) {
    SimPage& page = *inode.pages.back();
    std::memset(page.visible.data() + rest, 0, kBlockBytes - rest);
    if (page.durable != nullptr) std::memset(page.durable->data() + rest, 0, kBlockBytes - rest);
  }
  update_accounting(inode);
}

SimPage& SimStorage::page_for_write(Inode& inode, std::uint64_t page_number) {
  if (inode.pages.size() <= page_number) inode.pages.resize(page_number + 1);
  auto& page = inode.pages[page_number];
  if (page == nullptr) {
    page = std::make_unique<SimPage>();
    const std::uint64_t end = (page_number + 1) * kBlockBytes;
    if (end > inode.preallocated_bytes) inode.allocated_bytes += kBlockBytes;
  }
  if (!page->listed) {
    page->listed = true;
    inode.dirty_pages.push_back(static_cast<std::uint32_t>(page_number));
  }
  return *page;
}

void SimStorage::write(Inode& inode, std::uint64_t offset_bytes, std::span<const std::byte> bytes,
                       const std::function<bool(std::size_t)>& selected, bool completed) {
  std::size_t done = 0;
  std::size_t index = 0;
  std::uint64_t end_bytes = 0;
  while (done < bytes.size()) {
    const std::uint64_t at = offset_bytes + done;
    const std::size_t count = static_cast<std::size_t>(
        std::min<std::uint64_t>(bytes.size() - done, kSectorBytes - at % kSectorBytes));
    if (selected == nullptr || selected(index)) {
      SimPage& page = page_for_write(inode, at / kBlockBytes);
      const std::size_t sector = (at % kBlockBytes) / kSectorBytes;
      const std::uint8_t bit = bit_of(sector);
      if (((page.dirty | page.lost) & bit) == 0) {
        copy_to_durable(page, sector);
      } else if ((page.dirty & bit) != 0 && (inode.syncs_in_flight != 0 || prng_.chance(0.5))) {
        copy_to_durable(page, sector);  // it was written back meanwhile, which may happen any time
      }
      page.dirty = static_cast<std::uint8_t>(page.dirty | bit);
      page.lost = static_cast<std::uint8_t>(page.lost & ~bit);
      page.write_number[sector] = completed ? inode.write_counter : kInFlight;
      std::memcpy(page.visible.data() + at % kBlockBytes, bytes.data() + done, count);
      end_bytes = at + count;
    }
    done += count;
    ++index;
  }
  if (end_bytes > inode.size_bytes) inode.size_bytes = end_bytes;
  update_accounting(inode);
}

void SimStorage::read(const Inode& inode, std::uint64_t offset_bytes,
                      std::span<std::byte> bytes) const {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const std::uint64_t at = offset_bytes + done;
    const std::size_t inside = at % kBlockBytes;
    const std::size_t count = std::min(bytes.size() - done, kBlockBytes - inside);
    const std::uint64_t number = at / kBlockBytes;
    const SimPage* page = number < inode.pages.size() ? inode.pages[number].get() : nullptr;
    if (page == nullptr) {
      std::memset(bytes.data() + done, 0, count);
    } else {
      std::memcpy(bytes.data() + done, page->visible.data() + inside, count);
    }
    done += count;
  }
}

std::uint64_t SimStorage::sync_begin(Inode& inode) {
  ++inode.syncs_in_flight;
  return ++inode.write_counter;
}

void SimStorage::sync_done(Inode& inode, std::uint64_t mark, bool good) {
  --inode.syncs_in_flight;
  const double lost_share = good ? 0.0 : prng_.pick({0.0, 0.5, 1.0});
  std::vector<std::uint32_t> still_dirty;
  for (const std::uint32_t number : inode.dirty_pages) {
    SimPage& page = *inode.pages[number];
    for (std::size_t sector = 0; sector < kSectorsPerPage; ++sector) {
      const std::uint8_t bit = bit_of(sector);
      if ((page.dirty & bit) == 0 || page.write_number[sector] >= mark) continue;
      const bool lost = !good && prng_.chance(lost_share);
      if (!good && !lost) continue;
      page.dirty = static_cast<std::uint8_t>(page.dirty & ~bit);
      if (lost) page.lost = static_cast<std::uint8_t>(page.lost | bit);
    }
    forget_durable_if_clean(page);
    page.listed = page.dirty != 0;
    if (page.listed) still_dirty.push_back(number);
  }
  inode.dirty_pages = std::move(still_dirty);
  if (good) inode.durable_size_bytes = inode.size_bytes;
}

void SimStorage::land_late(InodePointer inode, std::uint64_t offset_bytes,
                           std::vector<std::byte> bytes, MonotonicTime time) {
  const std::uint64_t id = next_late_write_++;
  const EventKey key =
      scheduler_.schedule(time, nullptr, EventKind::world, [this, id] { land(id); });
  late_writes_.emplace(id, LateWrite{std::move(inode), offset_bytes, std::move(bytes), key});
}

void SimStorage::land(std::uint64_t id) {
  const LateWrite late = std::move(late_writes_.at(id));
  late_writes_.erase(id);
  if (scheduler_.tracing()) {
    scheduler_.trace("a dead process's write of " + std::to_string(late.bytes.size()) +
                     " bytes at " + std::to_string(late.offset_bytes) + " of file " +
                     std::to_string(late.inode->number) + " lands late");
  }
  write_some(*late.inode, late.offset_bytes, late.bytes);
  end_write(*late.inode, late.offset_bytes, late.bytes.size());
}

void SimStorage::write_some(Inode& inode, std::uint64_t offset_bytes,
                            std::span<const std::byte> bytes) {
  const double share = prng_.pick({0.0, 0.3, 0.8, 1.0});
  if (share == 0.0) return;
  // Half of the torn writes break off at a sector, the others leave holes.
  const bool is_prefix = prng_.chance(0.5);
  const std::size_t sectors = divide_up(bytes.size(), kSectorBytes);
  const std::size_t prefix = share == 1.0 ? sectors : prng_.below(sectors + 1);
  write(
      inode, offset_bytes, bytes,
      [&](std::size_t index) { return is_prefix ? index < prefix : prng_.chance(share); },
      /*completed=*/false);
}

void SimStorage::end_write(Inode& inode, std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  for (std::uint64_t at = offset_bytes; at < offset_bytes + length_bytes; at += kSectorBytes) {
    const std::uint64_t page = at / kBlockBytes;
    if (page >= inode.pages.size() || inode.pages[page] == nullptr) continue;
    std::uint64_t& number = inode.pages[page]->write_number[at % kBlockBytes / kSectorBytes];
    if (number == kInFlight) number = inode.write_counter;
  }
}

void SimStorage::unlock_all_of(std::uint64_t owner) {
  walk("", root_, [&](const std::string&, const InodePointer& inode) {
    if (inode->locked_by == owner) inode->locked_by = 0;
  });
}

void SimStorage::power_loss() {
  for (auto& [id, late] : late_writes_) {
    scheduler_.cancel(late.key);
    write_some(*late.inode, late.offset_bytes, late.bytes);
  }
  late_writes_.clear();
  // All survives, nothing does, or each for itself.
  undo_names(root_, prng_.pick({0.0, 0.5, 0.9, 1.0}));
  const double keep = prng_.pick({0.0, 0.3, 0.7, 0.95, 1.0});
  walk("", root_, [&](const std::string& path, const InodePointer& inode) {
    if (!inode->is_directory)
      lose_data(path, *inode, prng_.chance(0.2) ? prng_.pick({0.0, 1.0}) : keep);
  });
}

void SimStorage::undo_names(const InodePointer& directory, double keep) {
  std::size_t kept = 0;
  while (kept < directory->unsynced.size() && prng_.chance(keep)) ++kept;
  for (std::size_t i = directory->unsynced.size(); i > kept; --i) {
    for (const auto& [name, inode] : directory->unsynced[i - 1].before) {
      if (scheduler_.tracing()) {
        scheduler_.trace("power loss undoes a change of the name " + name);
      }
      set_entry(*directory, name, inode);
    }
  }
  directory->unsynced.clear();
  for (const auto& [name, inode] : directory->entries) {
    if (inode->is_directory) undo_names(inode, keep);
  }
}

void SimStorage::lose_data(const std::string& path, Inode& inode, double keep) {
  inode.locked_by = 0;
  inode.syncs_in_flight = 0;
  std::uint64_t kept_count = 0;
  std::uint64_t lost_count = 0;
  for (auto& page : inode.pages) {
    if (page == nullptr) continue;
    const std::uint8_t unsynced = static_cast<std::uint8_t>(page->dirty | page->lost);
    for (std::size_t sector = 0; unsynced != 0 && sector < kSectorsPerPage; ++sector) {
      if ((unsynced & bit_of(sector)) == 0) continue;
      const bool survives = prng_.chance((page->lost & bit_of(sector)) != 0 ? keep * 0.3 : keep);
      ++(survives ? kept_count : lost_count);
      if (survives) continue;
      const std::size_t at = sector * kSectorBytes;
      if (page->durable == nullptr) {
        std::memset(page->visible.data() + at, 0, kSectorBytes);
      } else {
        std::memcpy(page->visible.data() + at, page->durable->data() + at, kSectorBytes);
      }
    }
    page->dirty = page->lost = 0;
    page->listed = false;
    page->durable.reset();
  }
  inode.dirty_pages.clear();
  if (inode.size_bytes > inode.durable_size_bytes && !prng_.chance(keep)) {
    truncate(inode, inode.durable_size_bytes);
  }
  inode.durable_size_bytes = inode.size_bytes;
  if (scheduler_.tracing() && kept_count + lost_count != 0) {
    scheduler_.trace("power loss: " + path + " keeps " + std::to_string(kept_count) +
                     " and loses " + std::to_string(lost_count) + " unsynced sectors");
  }
}

void SimStorage::walk(
    const std::string& path, const InodePointer& inode,
    const std::function<void(const std::string&, const InodePointer&)>& visit) const {
  visit(path, inode);
  for (const auto& [name, entry] : inode->entries) walk(path + "/" + name, entry, visit);
}

bool SimStorage::rot_one_bit(const FilePredicate& accept, std::string* where) {
  struct Candidate {
    std::string path;
    InodePointer inode;
    std::size_t page;
  };
  std::vector<Candidate> candidates;
  walk("", root_, [&](const std::string& path, const InodePointer& inode) {
    if (inode->is_directory || !accept(path, *inode)) return;
    for (std::size_t page = 0; page < inode->pages.size(); ++page) {
      if (inode->pages[page] != nullptr) candidates.push_back({path, inode, page});
    }
  });
  if (candidates.empty()) return false;
  const Candidate& chosen = candidates[prng_.below(candidates.size())];
  SimPage& page = *chosen.inode->pages[chosen.page];
  const std::size_t at = prng_.below(kBlockBytes);
  const std::byte flip{static_cast<unsigned char>(1u << prng_.below(8))};
  page.visible[at] ^= flip;
  if (page.durable != nullptr) (*page.durable)[at] ^= flip;
  if (where != nullptr) {
    *where = chosen.path + " at byte " + std::to_string(chosen.page * kBlockBytes + at);
  }
  return true;
}

std::uint64_t SimStorage::available_bytes() const {
  const std::uint64_t taken = used_bytes_ + foreign_bytes_;
  return taken >= capacity_bytes_ ? 0 : capacity_bytes_ - taken;
}

void SimStorage::update_accounting(Inode& inode) {
  const std::uint64_t counts =
      inode.link_count != 0 || inode.open_count != 0 ? inode.allocated_bytes : 0;
  used_bytes_ += counts;
  used_bytes_ -= inode.counted_bytes;
  inode.counted_bytes = counts;
}

}  // namespace holdfast::sim
