// SPDX-License-Identifier: Apache-2.0
//
// The streams in which Ceph's `rbd` carries images: `rbd export-diff` (a *diff*, version 1 or 2)
// and `rbd export --export-format 2` (an *image*: properties, then a diff for each snapshot and one
// for what is newest). Ceph describes them in doc/dev/rbd-diff.rst and doc/dev/rbd-export.rst.
// Pure.
//
//   diff    "rbd diff v1\n" or "rbd diff v2\n", records, 'e'
//   record  a tag; in version 2 also the u64 length of what follows
//           'f', 't'  u32 length, name of the snapshot: the diff begins, ends there
//           's'       u64 size of the image at the end
//           'p'       u8: is the snapshot at the end protected (Ceph 16.2 gives it the length 8)
//           'w'       u64 offset, u64 length, data        'z'  u64 offset, u64 length: zeros
//   image   "rbd image v2\n", properties (tag, u64 length, value), 'E',
//           "rbd image diffs v2\n", u64 count, diffs
//
// Integers are little-endian. All that says something of a diff comes before its first 'w' or 'z'.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace holdfast {

enum class RbdVersion : std::uint8_t { v1 = 1, v2 = 2 };

struct RbdDiff {
  std::string from;              // empty: the beginning, when the image had no content
  std::string to;                // empty: no snapshot, what the image held then
  std::uint64_t size_bytes = 0;  // of the image at the end
};

// Reads a stream from pieces of any length, in memory that does not depend on what it says. Every
// byte is checked: what next() gives lies within the image, and the diffs of an image follow each
// other. One thread.
class RbdStreamReader {
 public:
  enum class Event {
    need_input,  // feed() more, or finish()
    diff,        // a diff begins: diff()
    data,        // bytes() stand at offset_bytes(); the next piece follows them
    zero,        // length_bytes() zeros at offset_bytes()
    diff_end,
    end,  // of the stream
  };

  // The bytes must stay until next() says need_input.
  void feed(std::span<const std::byte> input) { input_ = input; }
  // corrupt: the stream lies, or is none; unsupported: a version that is not known.
  Result<Event> next();
  // There is no more input: corrupt unless the stream is at its end.
  Result<void> finish() const;

  const RbdDiff& diff() const { return diff_; }
  std::uint64_t diff_index() const { return diff_index_; }
  std::uint64_t diff_count() const { return diff_count_; }
  bool is_image() const { return is_image_; }
  std::uint64_t offset_bytes() const { return offset_bytes_; }
  std::uint64_t length_bytes() const { return length_bytes_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  // Since the beginning of the stream.
  std::uint64_t position_bytes() const { return position_bytes_; }

  // Do these bytes, the first of a file, begin such a stream?
  static bool is_rbd_stream(std::span<const std::byte> beginning);

 private:
  enum class State {
    banner,
    image_banner,  // its last byte
    property,
    property_length,
    skip_property,
    diffs_banner,
    diff_banner,
    tag,
    record_length,
    name_length,
    name,
    size,
    protection,
    extent,
    data,
    skip_record,
    done,
  };

  bool gather(std::size_t bytes);
  bool skip();
  void expect(State state);
  Error refuse(std::string why) const;
  Result<Event> step(bool* has_event);
  Result<void> read_diff_banner();
  Result<void> read_image_count();
  Result<void> read_tag();
  Result<void> read_record_length();
  Result<void> start_record();
  Result<void> read_name_length();
  Result<void> read_extent();
  Result<void> check_diff() const;
  Result<void> check_record_length(std::uint64_t expected) const;

  State state_ = State::banner;
  std::span<const std::byte> input_;
  std::vector<std::byte> gathered_;  // at most limits::kRbdNameBytesMax
  std::uint64_t position_bytes_ = 0;
  bool is_image_ = false;
  std::uint64_t diff_count_ = 1;
  std::uint64_t diff_index_ = 0;
  RbdVersion version_ = RbdVersion::v1;
  RbdDiff diff_;
  std::string previous_to_;
  bool has_size_ = false;
  bool is_announced_ = false;  // the event `diff` was given
  char tag_ = 0;
  std::uint64_t record_bytes_ = 0;  // version 2: what the record says of itself
  std::uint64_t skip_bytes_ = 0;
  std::size_t name_bytes_ = 0;
  std::uint64_t offset_bytes_ = 0;
  std::uint64_t length_bytes_ = 0;
  std::uint64_t left_bytes_ = 0;  // of a 'w' record
  std::span<const std::byte> bytes_;
};

// What a writer puts together: begin; then for each extent its header and, of data, the bytes; end.
std::vector<std::byte> encode_rbd_diff_begin(RbdVersion version, const RbdDiff& diff);
std::vector<std::byte> encode_rbd_extent(RbdVersion version, bool is_zero,
                                         std::uint64_t offset_bytes, std::uint64_t length_bytes);
std::vector<std::byte> encode_rbd_diff_end();
// The diffs that follow are of version 2. Without properties: whoever imports it chooses them.
std::vector<std::byte> encode_rbd_image_begin(std::uint64_t diff_count);

}  // namespace holdfast
