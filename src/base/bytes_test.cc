// SPDX-License-Identifier: Apache-2.0
#include "base/bytes.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace holdfast {
namespace {

std::vector<unsigned> to_numbers(std::span<const std::byte> bytes) {
  std::vector<unsigned> numbers;
  for (const std::byte b : bytes) numbers.push_back(std::to_integer<unsigned>(b));
  return numbers;
}

TEST(BytesTest, LittleAndBigEndianAreWhatTheirNamesSay) {
  std::array<std::byte, 4> memory{};
  store_little<std::uint32_t>(memory.data(), 0x01020304);
  EXPECT_EQ(to_numbers(memory), (std::vector<unsigned>{4, 3, 2, 1}));
  EXPECT_EQ(load_little<std::uint32_t>(memory.data()), 0x01020304u);
  store_big<std::uint32_t>(memory.data(), 0x01020304);
  EXPECT_EQ(to_numbers(memory), (std::vector<unsigned>{1, 2, 3, 4}));
  EXPECT_EQ(load_big<std::uint32_t>(memory.data()), 0x01020304u);
  EXPECT_EQ(load_big<std::uint16_t>(memory.data()), 0x0102u);
}

TEST(BytesTest, SwapBytesCoversEveryWidth) {
  EXPECT_EQ(swap_bytes(std::uint8_t{0xab}), 0xab);
  EXPECT_EQ(swap_bytes(std::uint16_t{0xabcd}), 0xcdab);
  EXPECT_EQ(swap_bytes(std::uint64_t{0x0102030405060708}), 0x0807060504030201u);
}

TEST(BytesTest, AReaderGetsBackWhatAWriterPut) {
  std::array<std::byte, 64> memory;
  memory.fill(std::byte{0xff});
  ByteWriter writer(memory);
  writer.put<std::uint8_t>(1);
  writer.put<std::uint64_t>(0x1122334455667788);
  writer.put_text("vms", 8);
  writer.put_bytes(as_bytes("abc"));
  EXPECT_EQ(writer.position(), 20u);
  writer.fill_rest_with_zeros();
  EXPECT_EQ(writer.position(), 64u);

  ByteReader reader(memory);
  EXPECT_EQ(reader.get<std::uint8_t>(), 1);
  EXPECT_EQ(reader.get<std::uint64_t>(), 0x1122334455667788u);
  EXPECT_EQ(reader.get_text(8), "vms");
  std::array<std::byte, 3> text{};
  reader.get_bytes(text);
  EXPECT_EQ(as_text(text), "abc");
  reader.expect_zeros(reader.remaining());
  EXPECT_TRUE(reader.ok());
  EXPECT_EQ(reader.remaining(), 0u);
}

TEST(BytesTest, ReadingPastTheEndIsAnErrorThatStays) {
  const std::array<std::byte, 3> memory{std::byte{1}, std::byte{2}, std::byte{3}};
  ByteReader reader(memory);
  EXPECT_EQ(reader.get<std::uint32_t>(), 0u);
  EXPECT_FALSE(reader.ok());
  EXPECT_EQ(reader.get<std::uint8_t>(), 0);
  EXPECT_FALSE(reader.ok());
}

TEST(BytesTest, ReservedBytesMustBeZero) {
  const std::array<std::byte, 4> memory{std::byte{0}, std::byte{0}, std::byte{1}, std::byte{0}};
  ByteReader good(memory);
  good.expect_zeros(2);
  EXPECT_TRUE(good.ok());
  ByteReader bad(memory);
  bad.expect_zeros(4);
  EXPECT_FALSE(bad.ok());
}

TEST(BytesTest, TextBehindItsEndIsRefused) {
  const std::string good("ab\0\0", 4);
  const std::string bad("ab\0c", 4);
  ByteReader good_reader(as_bytes(good));
  EXPECT_EQ(good_reader.get_text(4), "ab");
  EXPECT_TRUE(good_reader.ok());
  ByteReader bad_reader(as_bytes(bad));
  static_cast<void>(bad_reader.get_text(4));
  EXPECT_FALSE(bad_reader.ok());
}

TEST(BytesDeathTest, WritingPastTheEndIsOurBug) {
  std::array<std::byte, 2> memory{};
  ByteWriter writer(memory);
  EXPECT_DEATH(writer.put<std::uint32_t>(1), "assertion failed");
}

}  // namespace
}  // namespace holdfast
