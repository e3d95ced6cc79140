// SPDX-License-Identifier: Apache-2.0
#include "sim/volume_model.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

#include "base/bytes.h"
#include "base/units.h"

namespace holdfast::sim {
namespace {

constexpr std::size_t kHistoryPruneLength = 6;

// The 8-byte word of a write at an offset that is a multiple of 8: even words name the write, odd
// ones also the place.
std::uint64_t word_of(std::uint64_t stamp, std::uint64_t offset_bytes) {
  return (offset_bytes / 8) % 2 == 0 ? stamp : mix64(stamp, offset_bytes);
}

void make_bytes(std::uint64_t stamp, std::uint64_t offset_bytes, std::span<std::byte> bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const std::uint64_t at = offset_bytes + done;
    const std::size_t skip = at % 8;
    const std::size_t count = std::min<std::size_t>(8 - skip, bytes.size() - done);
    const std::uint64_t word = word_of(stamp, at - skip);
    std::memcpy(bytes.data() + done, reinterpret_cast<const std::byte*>(&word) + skip, count);
    done += count;
  }
}

bool is_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

VolumeModel::VolumeModel(Scheduler& scheduler, std::uint64_t size_bytes, std::uint64_t salt)
    : scheduler_(scheduler),
      size_bytes_(size_bytes),
      salt_(mix64(salt, 0x57414D50) | 1),
      sectors_(divide_up(size_bytes, kSectorBytes)),
      bases_(sectors_.size()),
      was_mixed_(sectors_.size(), false) {
  writes_.push_back(Write{});
  writes_[0].length_bytes = UINT64_MAX;
}

bool VolumeModel::touches_one_block(const Write& write) const {
  return write.offset_bytes / kBlockBytes == (write.end_bytes() - 1) / kBlockBytes;
}

// What the device says by now about where the write is.
void VolumeModel::learn_order(Write& write) {
  if (write.request == nullptr || write.request->log_order == 0) return;
  write.high = incarnation_ * kIncarnationOrders + 2 * write.request->log_order;
  if (touches_one_block(write)) write.low = write.high;
}

std::uint32_t VolumeModel::begin_write(WriteKind kind, const BlockRequest& request) {
  // It may join a record that is still open, but none that was applied.
  std::uint64_t low = std::max(last_acknowledged_ + 1, incarnation_ * kIncarnationOrders);
  for (const std::uint32_t other : in_flight_) {
    learn_order(writes_[other]);
    if (writes_[other].high != kNever) low = std::max(low, writes_[other].high);
  }
  const auto number = static_cast<std::uint32_t>(writes_.size());
  Write write;
  write.kind = kind;
  write.device_bytes = size_bytes_;
  write.offset_bytes = request.offset_bytes;
  write.length_bytes = request.length_bytes;
  write.low = low;
  write.high = kNever;
  write.acknowledged_at_submission = last_acknowledged_;
  write.submitted_event = ++event_;
  write.acknowledged_event = kNever;
  write.force_unit_access = request.force_unit_access;
  write.request = &request;
  writes_.push_back(write);
  in_flight_.push_back(number);
  for (std::uint64_t sector = write.offset_bytes / kSectorBytes;
       sector * kSectorBytes < write.end_bytes(); ++sector) {
    History& history = sectors_[sector];
    if (history.size() >= kHistoryPruneLength) prune(history, sector);
    history.push_back(number);
    if (!covers(writes_[number], sector * kSectorBytes, (sector + 1) * kSectorBytes)) {
      was_mixed_[sector] = true;
    }
  }
  return number;
}

// Forgets the writes that nothing can bring back: a later one is durable, and no read is old
// enough.
void VolumeModel::prune(History& history, std::uint64_t sector) {
  const Token oldest = active_reads_.empty()
                           ? kNever
                           : *std::min_element(active_reads_.begin(), active_reads_.end());
  const std::uint64_t begin = sector * kSectorBytes;
  std::uint64_t newest = 0;
  for (const std::uint32_t entry : history) {
    const Write& write = write_of(entry);
    if ((entry & kMaybe) == 0 && write.acknowledged_event < oldest && write.high <= durable_ &&
        covers(write, begin, begin + kSectorBytes) &&
        !is_weak(write, begin, begin + kSectorBytes)) {
      newest = std::max(newest, write.low);
    }
  }
  std::erase_if(history, [&](std::uint32_t entry) { return write_of(entry).high < newest; });
}

void VolumeModel::fill(std::uint32_t write, std::span<std::byte> bytes) const {
  make_bytes(salt_ ^ (std::uint64_t{write} << 24), writes_[write].offset_bytes, bytes);
}

void VolumeModel::end_write(std::uint32_t number, bool acknowledged) {
  Write& write = writes_[number];
  learn_order(write);
  write.request = nullptr;
  std::erase(in_flight_, number);
  if (!acknowledged) {
    if (!touches_one_block(write)) mark_torn(number);
    return;
  }
  write.acknowledged_event = ++event_;
  if (write.high == kNever) {
    if (write.kind == WriteKind::data) {
      scheduler_.fail("log order",
                      "acknowledged without a place in the log: " + describe_write(number));
      return;
    }
    // What is a hole already needs no record: it took effect at some moment between the submission
    // and now, behind what was acknowledged then.
    write.low = write.acknowledged_at_submission | 1;
    write.high = std::max(write.low, last_acknowledged_ | 1);
    if (write.force_unit_access) durable_ = std::max(durable_, what_made_zeros(write));
    last_acknowledged_ = write.high;
    return;
  }
  // One with FUA waits for a sync too, while those behind it need not.
  if (write.high < last_acknowledged_ && !write.force_unit_access) {
    scheduler_.fail("log order", "acknowledged after a write that is behind it in the log (order " +
                                     std::to_string(last_acknowledged_) +
                                     "): " + describe_write(number));
  }
  last_acknowledged_ = std::max(last_acknowledged_, write.high);
  if (write.force_unit_access) durable_ = std::max(durable_, write.high);
}

// A write that was cancelled stands in the log with as much of it as was placed by then.
void VolumeModel::mark_torn(std::uint32_t number) {
  const Write& write = writes_[number];
  const std::uint64_t end =
      std::min<std::uint64_t>(divide_up(write.end_bytes(), kSectorBytes), sectors_.size());
  for (std::uint64_t sector = write.offset_bytes / kSectorBytes; sector < end; ++sector) {
    for (std::uint32_t& entry : sectors_[sector]) {
      if (entry == number) entry |= kMaybe;
    }
  }
}

// The order up to which the log must be durable so that the range of `write`, which found it a
// hole, certainly stays zeros.
std::uint64_t VolumeModel::what_made_zeros(const Write& write) const {
  std::uint64_t order = 0;
  for (std::uint64_t begin = round_up(write.offset_bytes, kBlockBytes);
       begin + kSectorBytes <= round_down(write.end_bytes(), kBlockBytes); begin += kSectorBytes) {
    const Write* newest = nullptr;
    for (const std::uint32_t entry : sectors_[begin / kSectorBytes]) {
      const Write& other = write_of(entry);
      const bool is_before = (entry & kMaybe) == 0 &&
                             other.acknowledged_event < write.submitted_event &&
                             covers(other, begin, begin + kSectorBytes);
      if (is_before && (newest == nullptr || newest->low < other.low)) newest = &other;
    }
    if (newest != nullptr && newest->kind != WriteKind::data &&
        !is_weak(*newest, begin, begin + kSectorBytes)) {
      order = std::max(order, newest->high);
    }
  }
  return order;
}

VolumeModel::Token VolumeModel::begin_read() {
  active_reads_.push_back(++event_);
  return event_;
}

void VolumeModel::end_read(Token token) {
  std::erase(active_reads_, token);
}

bool VolumeModel::covers(const Write& write, std::uint64_t begin, std::uint64_t end) const {
  return write.offset_bytes <= begin && end <= write.end_bytes();
}

bool VolumeModel::is_weak(const Write& write, std::uint64_t begin, std::uint64_t end) const {
  return write.kind == WriteKind::discard &&
         !covers(write, round_down(begin, kBlockBytes),
                 std::min(round_up(end, kBlockBytes), write.device_bytes));
}

bool VolumeModel::matches_base(std::uint64_t offset_bytes, std::span<const std::byte> bytes) const {
  const auto& base = bases_[offset_bytes / kSectorBytes];
  if (base == nullptr) return is_zero(bytes);
  return std::memcmp(base->data() + offset_bytes % kSectorBytes, bytes.data(), bytes.size()) == 0;
}

bool VolumeModel::matches(std::uint32_t write, std::uint64_t offset_bytes,
                          std::span<const std::byte> bytes) const {
  if (writes_[write].kind != WriteKind::data) return is_zero(bytes);
  std::array<std::byte, kSectorBytes> expected;
  make_bytes(salt_ ^ (std::uint64_t{write} << 24), offset_bytes, {expected.data(), bytes.size()});
  return std::memcmp(expected.data(), bytes.data(), bytes.size()) == 0;
}

template <typename Each>
void VolumeModel::for_each_part(std::uint64_t begin, std::uint64_t end, Each each) const {
  std::array<std::uint64_t, 64> edges;
  std::size_t count = 0;
  edges[count++] = begin;
  for (const std::uint32_t entry : sectors_[begin / kSectorBytes]) {
    const Write& write = write_of(entry);
    for (const std::uint64_t edge : {write.offset_bytes, write.end_bytes()}) {
      if (edge > begin && edge < end && count + 1 < edges.size()) edges[count++] = edge;
    }
  }
  edges[count++] = end;
  if (count > 2) std::sort(edges.begin(), edges.begin() + static_cast<std::ptrdiff_t>(count));
  for (std::size_t i = 0; i + 1 < count; ++i) {
    if (edges[i] != edges[i + 1]) each(edges[i], edges[i + 1]);
  }
}

// Whether every part of the bytes (of one sector) can come from a write that `may` be there and is
// not certainly overwritten by one that `must`.
template <typename Must, typename May>
bool VolumeModel::explains(std::uint64_t offset_bytes, std::span<const std::byte> bytes, Must must,
                           May may) const {
  const History& history = sectors_[offset_bytes / kSectorBytes];
  if (history.empty()) return matches_base(offset_bytes, bytes);
  bool all = true;
  for_each_part(offset_bytes, offset_bytes + bytes.size(),
                [&](std::uint64_t begin, std::uint64_t end) {
                  if (!all) return;
                  std::uint64_t newest = 0;
                  for (const std::uint32_t entry : history) {
                    const Write& write = write_of(entry);
                    if ((entry & kMaybe) == 0 && must(write) && covers(write, begin, end) &&
                        !is_weak(write, begin, end)) {
                      newest = std::max(newest, write.low);
                    }
                  }
                  const auto part = bytes.subspan(begin - offset_bytes, end - begin);
                  if (newest == 0 && matches_base(begin, part)) return;
                  for (std::size_t i = history.size(); i > 0; --i) {
                    const Write& write = write_of(history[i - 1]);
                    if (write.high < newest || !may(write) || !covers(write, begin, end)) continue;
                    if (matches(history[i - 1] & ~kMaybe, begin, part)) return;
                  }
                  all = false;
                });
  return all;
}

void VolumeModel::check_read(Token token, std::uint64_t offset_bytes,
                             std::span<const std::byte> bytes) {
  for (const std::uint32_t number : in_flight_) learn_order(writes_[number]);
  std::size_t done = 0;
  while (done < bytes.size()) {
    const std::uint64_t at = offset_bytes + done;
    const std::size_t count =
        std::min<std::size_t>(kSectorBytes - at % kSectorBytes, bytes.size() - done);
    const auto part = bytes.subspan(done, count);
    ++checked_sectors_;
    const bool good = explains(
        at, part, [&](const Write& write) { return write.acknowledged_event < token; },
        [](const Write&) { return true; });
    if (!good) {
      scheduler_.fail("read", "a read submitted at event " + std::to_string(token) +
                                  " returned what cannot be there:\n" + describe(at, part));
      return;
    }
    done += count;
  }
}

void VolumeModel::check_reads_as_zero(Token token, std::uint64_t offset_bytes,
                                      std::uint64_t length_bytes) {
  for (const std::uint32_t number : in_flight_) learn_order(writes_[number]);
  const std::array<std::byte, kSectorBytes> zeros{};
  for (std::uint64_t sector = divide_up(offset_bytes, kSectorBytes);
       (sector + 1) * kSectorBytes <= offset_bytes + length_bytes; ++sector) {
    const bool good = explains(
        sector * kSectorBytes, zeros,
        [&](const Write& write) { return write.acknowledged_event < token; },
        [](const Write&) { return true; });
    if (good) continue;
    scheduler_.fail("block status", "said to read as zeros, at event " + std::to_string(token) +
                                        ", but cannot:\n" + describe(sector * kSectorBytes, zeros));
    return;
  }
}

void VolumeModel::resize(std::uint64_t size_bytes) {
  // Behind the new end all is gone; a partial last sector is not made by any workload.
  sectors_.resize(divide_up(size_bytes, kSectorBytes));
  bases_.resize(sectors_.size());
  was_mixed_.resize(sectors_.size(), false);
  size_bytes_ = size_bytes;
  for (const std::uint32_t number : in_flight_) {
    writes_[number].device_bytes = std::max(writes_[number].device_bytes, size_bytes);
  }
}

void VolumeModel::replaced(std::span<const std::byte> content) {
  resize(content.size());
  power_was_lost_ = true;  // nothing older can come back
  settle(content, {}, last_acknowledged_);
}

void VolumeModel::crash(CrashKind kind) {
  for (const std::uint32_t number : in_flight_) {
    learn_order(writes_[number]);
    writes_[number].request = nullptr;
  }
  in_flight_.clear();
  active_reads_.clear();
  const std::uint64_t floor = kind == CrashKind::power ? durable_ : last_acknowledged_;
  crash_floor_ = crashed_ ? std::min(crash_floor_, floor) : floor;
  crashed_ = true;
  power_was_lost_ = power_was_lost_ || kind == CrashKind::power;
}

bool VolumeModel::explains_cut(std::uint64_t sector, std::span<const std::byte> bytes,
                               std::uint64_t cut) const {
  return explains(
      sector * kSectorBytes, bytes, [cut](const Write& write) { return write.high <= cut; },
      [cut](const Write& write) { return write.low <= cut; });
}

std::vector<std::uint64_t> VolumeModel::possible_cuts(std::uint64_t floor) const {
  std::vector<std::uint64_t> cuts = {floor};
  for (const Write& write : writes_) {
    if (write.is_dropped) continue;
    if (write.low > floor) cuts.push_back(write.low);
    if (write.high > floor && write.high != kNever) cuts.push_back(write.high);
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  return cuts;
}

void VolumeModel::check_authentic(std::span<const std::byte> content,
                                  const std::vector<bool>& unreadable) {
  for (std::uint64_t sector = 0; sector < sectors_.size(); ++sector) {
    if (!unreadable.empty() && unreadable[sector * kSectorBytes / kBlockBytes]) continue;
    const auto bytes = content.subspan(sector * kSectorBytes, kSectorBytes);
    ++checked_sectors_;
    if (is_zero(bytes)) continue;
    // Sectors that writes of parts of them have touched are mixtures; the others name their write.
    if (was_mixed_[sector]) continue;
    const std::uint64_t stamp = load_little<std::uint64_t>(bytes.data()) ^ salt_;
    const std::uint64_t number = stamp >> 24;
    const bool is_ours =
        (stamp & 0xFFFFFF) == 0 && number != 0 && number < writes_.size() &&
        covers(writes_[number], sector * kSectorBytes, (sector + 1) * kSectorBytes) &&
        matches(static_cast<std::uint32_t>(number), sector * kSectorBytes, bytes);
    if (is_ours) continue;
    scheduler_.fail("never wrong data", "bytes that were never written here:\n" +
                                            describe(sector * kSectorBytes, bytes));
    return;
  }
}

void VolumeModel::recovered(std::span<const std::byte> content,
                            const std::vector<bool>& unreadable) {
  const std::uint64_t floor = crash_floor_;
  const std::vector<std::uint64_t> cuts = possible_cuts(floor);
  // For each cut, how many of the sectors that were asked agree with it; by differences.
  std::vector<std::int64_t> change(cuts.size() + 1, 0);
  std::uint32_t asked = 0;
  std::vector<std::uint64_t> breaks;
  for (std::uint64_t sector = 0; sector < sectors_.size(); ++sector) {
    if (!unreadable.empty() && unreadable[sector * kSectorBytes / kBlockBytes]) continue;
    const auto bytes = content.subspan(sector * kSectorBytes, kSectorBytes);
    ++checked_sectors_;
    breaks.assign(1, floor);
    for (const std::uint32_t entry : sectors_[sector]) {
      const Write& write = write_of(entry);
      if (write.low > floor) breaks.push_back(write.low);
      if (write.high > floor && write.high != kNever) breaks.push_back(write.high);
    }
    std::sort(breaks.begin(), breaks.end());
    breaks.erase(std::unique(breaks.begin(), breaks.end()), breaks.end());
    ++asked;
    for (std::size_t i = 0; i < breaks.size(); ++i) {
      if (!explains_cut(sector, bytes, breaks[i])) continue;
      const auto index = [&](std::uint64_t order) {
        return static_cast<std::size_t>(std::lower_bound(cuts.begin(), cuts.end(), order) -
                                        cuts.begin());
      };
      ++change[index(breaks[i])];
      --change[i + 1 < breaks.size() ? index(breaks[i + 1]) : cuts.size()];
    }
  }
  std::vector<std::uint32_t> agreeing(cuts.size());
  std::int64_t running = 0;
  for (std::size_t i = 0; i < cuts.size(); ++i) {
    running += change[i];
    agreeing[i] = static_cast<std::uint32_t>(running);
  }
  // The longest prefix that agrees: what it has in excess made no difference to any byte.
  const auto found = std::find(agreeing.rbegin(), agreeing.rend(), asked);
  if (found == agreeing.rend()) {
    report_no_cut(content, unreadable, cuts, agreeing, asked);
    return;
  }
  settle(content, unreadable, cuts[static_cast<std::size_t>(agreeing.rend() - found) - 1]);
}

void VolumeModel::settle(std::span<const std::byte> content, const std::vector<bool>& unreadable,
                         std::uint64_t cut) {
  for (std::uint64_t sector = 0; sector < sectors_.size(); ++sector) {
    if (!unreadable.empty() && unreadable[sector * kSectorBytes / kBlockBytes]) continue;
    const auto bytes = content.subspan(sector * kSectorBytes, kSectorBytes);
    if (power_was_lost_) {
      make_base(sector, bytes);
    } else {
      settle_sector(sector, bytes, cut);
    }
  }
  ++event_;
  for (Write& write : writes_) {
    if (write.is_dropped) continue;
    if (write.low > cut) {
      write.is_dropped = true;
      write.acknowledged_event = kNever;
      continue;
    }
    write.high = std::min(write.high, cut);
    if (write.acknowledged_event == kNever) write.acknowledged_event = event_;
  }
  last_acknowledged_ = cut;
  if (power_was_lost_) durable_ = cut;
  ++incarnation_;
  crashed_ = false;
  power_was_lost_ = false;
}

// What is there is durable: nothing older can come back.
void VolumeModel::make_base(std::uint64_t sector, std::span<const std::byte> bytes) {
  sectors_[sector].clear();
  if (is_zero(bytes)) {
    bases_[sector].reset();
    return;
  }
  if (bases_[sector] == nullptr) {
    bases_[sector] = std::make_unique<std::array<std::byte, kSectorBytes>>();
  }
  std::copy(bytes.begin(), bytes.end(), bases_[sector]->begin());
}

// Drops from the history what lies behind the cut. Of the writes that were cut somewhere, those
// that the sector cannot do without were made here; the others perhaps, under what is shown, and
// may come out again after a power loss.
void VolumeModel::settle_sector(std::uint64_t sector, std::span<const std::byte> bytes,
                                std::uint64_t cut) {
  History& history = sectors_[sector];
  std::erase_if(history, [&](std::uint32_t entry) { return write_of(entry).low > cut; });
  if (history.empty()) return;
  const std::uint64_t base = sector * kSectorBytes;
  const auto is_certain = [&](const Write& write) { return write.high <= cut; };
  const bool certain_suffice = explains(base, bytes, is_certain, is_certain);
  History shown;
  for_each_part(base, base + kSectorBytes, [&](std::uint64_t begin, std::uint64_t end) {
    const auto part = bytes.subspan(begin - base, end - begin);
    for (const std::uint32_t entry : history) {
      if (is_certain(write_of(entry)) || certain_suffice) continue;
      if (!covers(write_of(entry), begin, end) || !matches(entry & ~kMaybe, begin, part)) continue;
      // What one part shows (zeros, most likely) may contradict another part of the sector.
      const Write* const candidate = &write_of(entry);
      const auto is_certain_with_it = [&](const Write& write) {
        return is_certain(write) || &write == candidate;
      };
      if (explains(base, bytes, is_certain_with_it,
                   [cut](const Write& write) { return write.low <= cut; })) {
        shown.push_back(entry);
      }
    }
  });
  for (std::uint32_t& entry : history) {
    if (is_certain(write_of(entry))) continue;
    if (std::find(shown.begin(), shown.end(), entry) == shown.end()) entry |= kMaybe;
  }
}

}  // namespace holdfast::sim
