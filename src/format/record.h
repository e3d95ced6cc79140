// SPDX-License-Identifier: Apache-2.0
//
// A record of the main log, or of what the cleaner copied: one header block, then payload blocks.
// docs/format.md, "Record".
//
// Header block (4096 bytes):
//   0 u32 magic "HFRC"   4 u32 CRC-32C of bytes 8..4095   8 u16 version   10 u8 kind   11 u8 zero
//   12 u32 payload blocks   16 volume id (16)   32 u64 epoch   40 u64 segment number
//   48 u32 block index of this header in its segment   52 u32 extent count   56 u64 sequence
//   64 u64 durable sequence: every record up to it was durable when this one was written
//   72 extents, 16 bytes each: u64 first block, u32 block count, u8 kind, 3 zero
//   ... zeros ...
//   4096 - 4*(i+1): CRC-32C of payload block i
// Extents of kind data take the payload blocks in order; hole and zero take none.
//
// RecordBuilder works in place, in the memory that is written to disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/ids.h"
#include "base/units.h"

namespace holdfast::format {

inline constexpr std::uint32_t kRecordMagic = 0x43524648;  // "HFRC"
inline constexpr std::uint16_t kRecordVersion = 1;
inline constexpr std::size_t kRecordFixedBytes = 72;
inline constexpr std::size_t kRecordExtentBytes = 16;
inline constexpr std::size_t kRecordVariableBytes = kBlockBytes - kRecordFixedBytes;

enum class RecordKind : std::uint8_t {
  write = 1,
  copy = 2,  // in a cold segment: blocks moved by the cleaner; not part of the log
};
enum class ExtentKind : std::uint8_t { data = 1, hole = 2, zero = 3 };

struct RecordExtent {
  BlockNumber first_block;
  std::uint32_t block_count = 0;
  ExtentKind kind = ExtentKind::data;
  bool operator==(const RecordExtent&) const = default;
};

struct RecordIdentity {
  VolumeId volume;
  Epoch epoch;
  SegmentNumber segment;
  std::uint32_t block_index = 0;
  Sequence sequence;
  bool operator==(const RecordIdentity&) const = default;
};

// Fills a header block while payload is gathered behind it.
class RecordBuilder {
 public:
  RecordBuilder() = default;
  // Starts anew in `header` (one block), which it zeroes.
  explicit RecordBuilder(std::span<std::byte> header);

  // Payload blocks that an extent beginning at `first` could still add; at most `wanted`.
  std::uint32_t data_room(BlockNumber first, std::uint32_t wanted) const;
  // Whether one more extent without payload fits.
  bool has_extent_room(BlockNumber first, ExtentKind kind) const;
  // Merges with the last extent where it continues it.
  void add_extent(RecordExtent extent);
  void add_checksum(std::uint32_t crc);  // of the next payload block
  std::uint32_t payload_blocks() const { return payload_blocks_; }
  std::uint32_t extent_count() const { return extent_count_; }
  bool empty() const { return extent_count_ == 0; }
  // Completes and seals the header; may be called again with another place. `durable`: the sequence
  // up to which all records are known to be durable now.
  void finish(const RecordIdentity& identity, Sequence durable = {},
              RecordKind kind = RecordKind::write);

 private:
  bool continues_last(BlockNumber first, ExtentKind kind) const;
  std::byte* extent_at(std::uint32_t i) const;

  std::byte* header_ = nullptr;
  std::uint32_t payload_blocks_ = 0;
  std::uint32_t checksum_count_ = 0;
  std::uint32_t extent_count_ = 0;
};

// A checked view of a header block. parse() accepts only what RecordBuilder can have made.
class RecordView {
 public:
  static std::optional<RecordView> parse(std::span<const std::byte> header);

  RecordKind kind() const { return kind_; }
  const RecordIdentity& identity() const { return identity_; }
  Sequence durable() const { return durable_; }
  std::uint32_t payload_blocks() const { return payload_blocks_; }
  std::uint32_t extent_count() const { return extent_count_; }
  RecordExtent extent(std::uint32_t i) const;
  std::uint32_t checksum(std::uint32_t payload_block) const;
  bool payload_is_intact(std::span<const std::byte> payload) const;

 private:
  const std::byte* header_ = nullptr;
  RecordKind kind_ = RecordKind::write;
  RecordIdentity identity_;
  Sequence durable_;
  std::uint32_t payload_blocks_ = 0;
  std::uint32_t extent_count_ = 0;
};

// Reads back from a header that RecordBuilder is known to have made in this memory.
RecordExtent record_extent(const std::byte* header, std::uint32_t i);
std::uint32_t record_checksum(const std::byte* header, std::uint32_t payload_block);

}  // namespace holdfast::format
