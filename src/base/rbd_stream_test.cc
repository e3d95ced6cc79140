// SPDX-License-Identifier: Apache-2.0
//
// The streams in base/testdata were written by Debian's `rbd` 16.2 (tests/support/ceph.py,
// write_streams): an image of 3 MiB in objects of 64 KiB, with snapshots "a" and "b".
#include "base/rbd_stream.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>

#include "base/bytes.h"

namespace holdfast {
namespace {

using Bytes = std::vector<std::byte>;
using Event = RbdStreamReader::Event;

Bytes golden(const std::string& name) {
  std::ifstream file(std::string(HOLDFAST_SOURCE_DIR) + "/src/base/testdata/" + name,
                     std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto bytes = as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}
Bytes text(std::string_view value) {
  const auto bytes = as_bytes(value);
  return {bytes.begin(), bytes.end()};
}
template <typename T>
Bytes number(T value) {
  Bytes out(sizeof value);
  store_little(out.data(), value);
  return out;
}
Bytes extent(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  return number(offset_bytes) + number(length_bytes);
}

struct Diff {
  RbdDiff about;
  std::string content;  // of the image, as far as the diffs say
  std::string story;    // "w0+4 z8+4": the extents
};
struct Reading {
  std::vector<Diff> diffs;
  std::string error;  // empty: read to its end
  ErrorCode code = ErrorCode::internal;
};

Reading read(const Bytes& stream, std::size_t piece_bytes = 1 << 20) {
  Reading reading;
  RbdStreamReader reader;
  std::string content;
  std::uint64_t expected_bytes = 0;  // where the next piece of data continues the last
  std::span<const std::byte> rest(stream);
  const auto fail = [&reading](const Error& error) {
    reading.error = error.message();
    reading.code = error.code();
    return reading;
  };
  for (;;) {
    const auto event = reader.next();
    if (!event.ok()) return fail(event.error());
    const std::uint64_t at = reader.offset_bytes();
    switch (event.value()) {
      case Event::need_input:
      case Event::end: {
        if (rest.empty()) {
          const auto finished = reader.finish();
          if (!finished.ok()) return fail(finished.error());
          return reading;
        }
        const std::size_t taken = std::min(piece_bytes, rest.size());
        reader.feed(rest.first(taken));
        rest = rest.subspan(taken);
        break;
      }
      case Event::diff:
        reading.diffs.push_back({reader.diff(), {}, {}});
        content.resize(reader.diff().size_bytes);
        break;
      case Event::data:
        content.replace(at, reader.length_bytes(), as_text(reader.bytes()));
        if (at != expected_bytes || reading.diffs.back().story.empty()) {
          reading.diffs.back().story += " w" + std::to_string(at);
        }
        expected_bytes = at + reader.length_bytes();
        break;
      case Event::zero:
        content.replace(at, reader.length_bytes(), reader.length_bytes(), '\0');
        reading.diffs.back().story +=
            " z" + std::to_string(at) + "+" + std::to_string(reader.length_bytes());
        break;
      case Event::diff_end:
        reading.diffs.back().content = content;
        break;
    }
  }
}

void expect_refused(const Bytes& stream, const std::string& words,
                    ErrorCode code = ErrorCode::corrupt) {
  for (const std::size_t piece_bytes : {std::size_t{1}, std::size_t{7}, stream.size() + 1}) {
    const Reading reading = read(stream, piece_bytes);
    EXPECT_NE(reading.error.find(words), std::string::npos)
        << "'" << reading.error << "', expected: " << words;
    EXPECT_EQ(reading.code, code) << words;
  }
}

const Bytes kBegin1 = text("rbd diff v1\n");
const Bytes kBegin2 = text("rbd diff v2\n");
const Bytes kSize1 = text("s") + number<std::uint64_t>(4096);
const Bytes kSize2 = text("s") + number<std::uint64_t>(8) + number<std::uint64_t>(4096);
const Bytes kEnd = text("e");
const Bytes kImage = text("rbd image v2\nE") + text("rbd image diffs v2\n");

TEST(RbdStream, ReadsVersion1InPiecesOfAnyLength) {
  const Bytes stream = kBegin1 + text("f") + number<std::uint32_t>(3) + text("mon") + text("t") +
                       number<std::uint32_t>(3) + text("tue") + kSize1 + text("w") +
                       extent(512, 6) + text("abcdef") + text("z") + extent(1024, 3072) +
                       text("w") + extent(2000, 0) + kEnd;
  for (std::size_t piece_bytes = 1; piece_bytes <= stream.size(); ++piece_bytes) {
    const Reading reading = read(stream, piece_bytes);
    ASSERT_EQ(reading.error, "");
    ASSERT_EQ(reading.diffs.size(), 1u);
    const Diff& diff = reading.diffs[0];
    EXPECT_EQ(diff.about.from, "mon");
    EXPECT_EQ(diff.about.to, "tue");
    EXPECT_EQ(diff.about.size_bytes, 4096u);
    EXPECT_EQ(diff.story, " w512 z1024+3072");
    EXPECT_EQ(diff.content.substr(510, 10), std::string("\0\0abcdef\0\0", 10));
  }
}

TEST(RbdStream, ReadsVersion2AndSkipsRecordsThatItDoesNotKnow) {
  const Bytes unknown = text("Q") + number<std::uint64_t>(5) + text("12345");
  const Bytes stream = kBegin2 + unknown + kSize2 + text("w") + number<std::uint64_t>(16 + 3) +
                       extent(4093, 3) + text("xyz") + unknown + text("z") +
                       number<std::uint64_t>(16) + extent(0, 4096) + kEnd;
  for (const std::size_t piece_bytes : {1, 2, 3, 1000}) {
    const Reading reading = read(stream, piece_bytes);
    ASSERT_EQ(reading.error, "");
    EXPECT_EQ(reading.diffs.at(0).story, " w4093 z0+4096");
    EXPECT_EQ(reading.diffs.at(0).about.from, "");
    EXPECT_EQ(reading.diffs.at(0).about.to, "");
  }
}

TEST(RbdStream, EveryCutIsNoticed) {
  for (const char* name : {"rbd_diff_a_b", "rbd_image"}) {
    const Bytes stream = golden(name);
    ASSERT_EQ(read(stream).error, "");
    for (std::size_t bytes = 0; bytes < stream.size(); bytes += bytes < 400 ? 1 : 997) {
      const Reading reading =
          read(Bytes(stream.begin(), stream.begin() + static_cast<long>(bytes)));
      EXPECT_NE(reading.error, "") << name << " cut to " << bytes;
      EXPECT_EQ(reading.code, ErrorCode::corrupt);
    }
  }
}

TEST(RbdStream, WhatLiesIsRefusedWithTheReason) {
  const auto u64 = [](std::uint64_t value) { return number(value); };
  const auto u32 = [](std::uint32_t value) { return number(value); };
  expect_refused({}, "empty");
  expect_refused(text("QFI\xfb, something else altogether"), "no RBD stream");
  expect_refused(text("rbd diff v3\n") + kSize1, "not known here", ErrorCode::unsupported);
  expect_refused(text("rbd image v1\n") + kSize1, "not known here", ErrorCode::unsupported);
  expect_refused(text("rbd image v2 \n"), "first line");
  expect_refused(kBegin1 + kEnd, "does not give the image's size");
  expect_refused(kBegin1 + text("w") + extent(0, 1) + text("x"), "does not give the image's size");
  expect_refused(kBegin1 + kSize1 + kSize1 + kEnd, "twice");
  expect_refused(kBegin1 + kSize1 + text("q"), "no record 'q'");
  expect_refused(kBegin1 + kSize1 + text("\xff"), "no record 255");
  expect_refused(kBegin1 + kSize1 + text("z") + extent(0, 4096) + kSize1, "after data");
  expect_refused(kBegin1 + kSize1 + kEnd + text("rbd"), "behind its end");
  // Extents that are not in the image, whose ends overflow among them.
  expect_refused(kBegin1 + kSize1 + text("w") + extent(4000, 97), "4096 bytes");
  expect_refused(kBegin1 + kSize1 + text("z") + extent(4097, 0), "4096 bytes");
  expect_refused(kBegin1 + kSize1 + text("w") + extent(1, ~std::uint64_t{0}), "4096 bytes");
  expect_refused(kBegin1 + kSize1 + text("z") + extent(~std::uint64_t{0}, 2), "4096 bytes");
  // Names.
  expect_refused(kBegin1 + text("t") + u32(0), "cannot have 0 bytes");
  expect_refused(kBegin1 + text("t") + u32(0xffffffff), "cannot have 4294967295 bytes");
  expect_refused(kBegin1 + text("t") + u32(1) + text("x") + text("t") + u32(1),
                 "'t' is there twice");
  // Lengths that contradict each other.
  expect_refused(kBegin2 + text("s") + u64(9), "'s' says that it has 9 bytes");
  expect_refused(kBegin2 + text("p") + u64(2), "'p' says that it has 2 bytes");
  expect_refused(kBegin2 + text("f") + u64(4) + u32(1), "'f' says that it has 4 bytes");
  expect_refused(kBegin2 + kSize2 + text("w") + u64(16) + extent(0, 1), "but it has 17");
  expect_refused(kBegin2 + kSize2 + text("z") + u64(17) + extent(0, 1), "but it has 16");
  expect_refused(kBegin2 + text("Q") + u64(~std::uint64_t{0}) + text("?"), "cut off");
  // Images.
  expect_refused(kImage + u64(0), "0 diffs");
  expect_refused(kImage + u64(1'000'000'000), "1000000000 diffs");
  expect_refused(text("rbd image v2\nE") + Bytes(27, std::byte{'x'}), "should begin");
  expect_refused(kImage + u64(2) + kBegin2 + kSize2 + kEnd, "ends at no snapshot");
  const Bytes to_a = text("t") + u64(5) + u32(1) + text("a");
  const Bytes from_b = text("f") + u64(5) + u32(1) + text("b");
  expect_refused(
      kImage + u64(2) + kBegin2 + to_a + kSize2 + kEnd + kBegin2 + from_b + kSize2 + kEnd,
      "do not follow each other");
  expect_refused(kImage + u64(2) + kBegin2 + to_a + kSize2 + kEnd + Bytes(12, std::byte{'x'}),
                 "a diff should begin");
  expect_refused(kImage + u64(1) + kBegin2 + from_b + kSize2 + kEnd, "do not follow each other");
}

TEST(RbdStream, WhatCephWroteIsReadAndWrittenTheSame) {
  // name of the stream -> from, to, and the extents that `rbd` was made to write
  struct Expected {
    std::string from;
    std::string to;
  };
  const std::map<std::string, Expected> streams = {
      {"rbd_diff_a", {"", "a"}}, {"rbd_diff_a_b", {"a", "b"}}, {"rbd_diff_b_head", {"b", ""}}};
  for (const auto& [name, expected] : streams) {
    const Bytes stream = golden(name);
    const Reading reading = read(stream, 4099);
    ASSERT_EQ(reading.error, "") << name;
    const RbdDiff& about = reading.diffs.at(0).about;
    EXPECT_EQ(about.from, expected.from);
    EXPECT_EQ(about.to, expected.to);
    const Bytes begin = encode_rbd_diff_begin(RbdVersion::v1, about);
    EXPECT_EQ(Bytes(stream.begin(), stream.begin() + static_cast<long>(begin.size())), begin);
  }
}

TEST(RbdStream, AnImageSaysTheSameAsItsDiffsOneByOne) {
  const Reading image = read(golden("rbd_image"), 1013);
  ASSERT_EQ(image.error, "");
  ASSERT_EQ(image.diffs.size(), 3u);
  const char* const names[] = {"rbd_diff_a", "rbd_diff_a_b", "rbd_diff_b_head"};
  for (std::size_t i = 0; i < 3; ++i) {
    const Reading one = read(golden(names[i]));
    ASSERT_EQ(one.error, "");
    EXPECT_EQ(image.diffs[i].story, one.diffs[0].story) << names[i];
    EXPECT_EQ(image.diffs[i].about.from, one.diffs[0].about.from);
    EXPECT_EQ(image.diffs[i].about.to, one.diffs[0].about.to);
    EXPECT_EQ(image.diffs[i].about.size_bytes, one.diffs[0].about.size_bytes);
  }
  EXPECT_NE(image.diffs[0].content, image.diffs[1].content);
}

TEST(RbdStream, WhatIsWrittenIsReadBack) {
  for (const RbdVersion version : {RbdVersion::v1, RbdVersion::v2}) {
    const RbdDiff about{"before", "after", 1 << 20};
    const Bytes stream = encode_rbd_diff_begin(version, about) +
                         encode_rbd_extent(version, false, 4096, 5) + text("abcde") +
                         encode_rbd_extent(version, true, 65536, 4096) + encode_rbd_diff_end();
    const Reading reading = read(stream, 3);
    ASSERT_EQ(reading.error, "");
    EXPECT_EQ(reading.diffs.at(0).about.from, about.from);
    EXPECT_EQ(reading.diffs.at(0).about.to, about.to);
    EXPECT_EQ(reading.diffs.at(0).about.size_bytes, about.size_bytes);
    EXPECT_EQ(reading.diffs.at(0).story, " w4096 z65536+4096");
  }
  const RbdDiff to_a{"", "a", 4096};
  const RbdDiff head{"a", "", 8192};
  const Bytes image = encode_rbd_image_begin(2) + encode_rbd_diff_begin(RbdVersion::v2, to_a) +
                      encode_rbd_diff_end() + encode_rbd_diff_begin(RbdVersion::v2, head) +
                      encode_rbd_diff_end();
  EXPECT_EQ(read(image, 5).error, "");
  EXPECT_EQ(read(image, 5).diffs.size(), 2u);
}

}  // namespace
}  // namespace holdfast
