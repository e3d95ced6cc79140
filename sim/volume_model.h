// SPDX-License-Identifier: Apache-2.0
//
// What a block device must hold: for every 512-byte sector, the writes that its content may come
// from. Every write fills its range with bytes that only it can have made, so what is read names
// the write it came from.
//
// Order. A volume gives each write its place in the one log (BlockRequest::log_order). A write of
// several blocks may be spread over several records, so its place is a range [low, high]: from the
// first record that was not complete when it was submitted to the one that it ended in. Of two
// writes one is certainly before the other only when its range ends before the other's begins.
// Orders here are twice the volume's, plus a base for each process; odd ones are between records.
//
// Checks:
//  - a read returns for each sector what some write left that was not certainly overwritten by a
//    write acknowledged before the read was submitted, and that was submitted before the read
//    ended;
//  - acknowledgements come in log order;
//  - after a crash the whole content is the state after some prefix of the log order. The prefix
//    contains every acknowledged write after the death of a process, and every flushed one after a
//    power loss.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/units.h"
#include "block/block_device.h"
#include "sim/scheduler.h"

namespace holdfast::sim {

enum class WriteKind : std::uint8_t { data, zeros, discard };
enum class CrashKind : std::uint8_t { process, power };

class VolumeModel {
 public:
  // `salt` tells the bytes of this run apart from those of others.
  VolumeModel(Scheduler& scheduler, std::uint64_t size_bytes, std::uint64_t salt);

  std::uint64_t size_bytes() const { return size_bytes_; }

  // Writes. The request must stay alive until end_write() or crash().
  std::uint32_t begin_write(WriteKind kind, const BlockRequest& request);
  // The bytes that the write must carry.
  void fill(std::uint32_t write, std::span<std::byte> bytes) const;
  // `acknowledged` false: an error that leaves open whether the write was made.
  void end_write(std::uint32_t write, bool acknowledged);

  // Reads and block status: the answer is checked against what could be there between the two.
  using Token = std::uint64_t;
  Token begin_read();
  void check_read(Token token, std::uint64_t offset_bytes, std::span<const std::byte> bytes);
  void check_reads_as_zero(Token token, std::uint64_t offset_bytes, std::uint64_t length_bytes);
  void end_read(Token token);

  std::uint64_t begin_flush() const { return last_acknowledged_; }
  void end_flush(std::uint64_t covered) { durable_ = std::max(durable_, covered); }
  // All that was acknowledged is durable (a clean close).
  void all_durable() { durable_ = std::max(durable_, last_acknowledged_); }

  // Durable at once. What lies behind the new end is gone.
  void resize(std::uint64_t size_bytes);

  // The whole content and size are these from now on, durably; no write is in flight. Also for a
  // device that has crashed.
  void replaced(std::span<const std::byte> content);

  // Writes in flight will never be answered; which of them were made, recovered() finds out.
  void crash(CrashKind kind);
  bool is_settled() const { return !crashed_; }
  // What the device holds after a crash. `unreadable` blocks (if any: one flag per 4 KiB) are those
  // whose bytes were answered with medium_error.
  void recovered(std::span<const std::byte> content, const std::vector<bool>& unreadable);
  // For a log that was damaged on purpose, where even what was flushed may be missing: every sector
  // that can be read holds zeros or what was once written there.
  void check_authentic(std::span<const std::byte> content, const std::vector<bool>& unreadable);

  std::uint64_t checked_sectors() const { return checked_sectors_; }
  // For people: what the bytes (of one sector) show, and the sector's history.
  std::string describe(std::uint64_t offset_bytes, std::span<const std::byte> bytes) const;

 private:
  static constexpr std::uint64_t kNever = UINT64_MAX;
  static constexpr std::uint64_t kIncarnationOrders = 1ull << 40;

  struct Write {
    WriteKind kind = WriteKind::zeros;
    std::uint64_t offset_bytes = 0;
    std::uint64_t length_bytes = 0;
    std::uint64_t low = 0;
    std::uint64_t high = 0;                        // kNever: not in the log, as far as we know
    std::uint64_t acknowledged_at_submission = 0;  // the last order
    std::uint64_t submitted_event = 0;
    std::uint64_t acknowledged_event = 0;  // kNever: not
    std::uint64_t device_bytes = 0;        // the largest size while it was in flight
    bool is_dropped = false;
    bool force_unit_access = false;
    const BlockRequest* request = nullptr;  // while in flight

    std::uint64_t end_bytes() const { return offset_bytes + length_bytes; }
  };
  // Of one sector: the writes that touched it, in the order of submission. kMaybe: whether a write
  // that a crash or its cancelling cut was made here cannot be told.
  using History = std::vector<std::uint32_t>;
  static constexpr std::uint32_t kMaybe = 1u << 31;
  const Write& write_of(std::uint32_t entry) const { return writes_[entry & ~kMaybe]; }

  bool touches_one_block(const Write& write) const;
  void learn_order(Write& write);
  void mark_torn(std::uint32_t number);
  std::uint64_t what_made_zeros(const Write& write) const;
  bool covers(const Write& write, std::uint64_t begin, std::uint64_t end) const;
  // A discard may leave what is not a whole block as it was.
  bool is_weak(const Write& write, std::uint64_t begin, std::uint64_t end) const;
  bool matches_base(std::uint64_t offset_bytes, std::span<const std::byte> bytes) const;
  bool matches(std::uint32_t write, std::uint64_t offset_bytes,
               std::span<const std::byte> bytes) const;
  // Calls `each(begin, end)` for the runs of that part of a sector that the same writes cover.
  template <typename Each>
  void for_each_part(std::uint64_t begin, std::uint64_t end, Each each) const;
  template <typename Must, typename May>
  bool explains(std::uint64_t offset_bytes, std::span<const std::byte> bytes, Must must,
                May may) const;
  bool explains_cut(std::uint64_t sector, std::span<const std::byte> bytes,
                    std::uint64_t cut) const;
  void prune(History& history, std::uint64_t sector);
  std::string describe_write(std::uint32_t write) const;
  std::string describe_bytes(std::uint64_t offset_bytes, std::span<const std::byte> bytes) const;
  std::vector<std::uint64_t> possible_cuts(std::uint64_t floor) const;
  void report_no_cut(std::span<const std::byte> content, const std::vector<bool>& unreadable,
                     const std::vector<std::uint64_t>& cuts,
                     const std::vector<std::uint32_t>& agreeing, std::uint32_t asked);
  void settle(std::span<const std::byte> content, const std::vector<bool>& unreadable,
              std::uint64_t cut);
  void make_base(std::uint64_t sector, std::span<const std::byte> bytes);
  void settle_sector(std::uint64_t sector, std::span<const std::byte> bytes, std::uint64_t cut);

  Scheduler& scheduler_;
  std::uint64_t size_bytes_;
  std::uint64_t salt_;
  std::vector<Write> writes_;  // [0]: the zeros of a new volume
  std::vector<std::uint32_t> in_flight_;
  std::vector<History> sectors_;
  std::vector<std::unique_ptr<std::array<std::byte, kSectorBytes>>> bases_;  // null: zeros
  std::vector<bool> was_mixed_;  // by writes of a part of the sector
  std::vector<Token> active_reads_;
  std::uint64_t event_ = 1;  // counts submissions and answers
  std::uint64_t incarnation_ = 0;
  std::uint64_t last_acknowledged_ = 0;  // orders
  std::uint64_t durable_ = 0;
  bool crashed_ = false;
  bool power_was_lost_ = false;
  std::uint64_t crash_floor_ = 0;
  std::uint64_t checked_sectors_ = 0;
};

}  // namespace holdfast::sim
