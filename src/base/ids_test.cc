// SPDX-License-Identifier: Apache-2.0
#include "base/ids.h"

#include <gtest/gtest.h>

#include <unordered_set>

namespace holdfast {
namespace {

constexpr const char* kText = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";

TEST(UuidTest, TextRoundTrips) {
  const auto id = Uuid::parse(kText);
  ASSERT_TRUE(id.has_value());
  EXPECT_EQ(id->bytes[0], std::byte{0xf8});
  EXPECT_EQ(id->bytes[15], std::byte{0xf6});
  EXPECT_EQ(id->to_string(), kText);
  EXPECT_EQ(Uuid::parse("F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6"), id);
}

TEST(UuidTest, WhatIsNotAUuidIsRefused) {
  EXPECT_FALSE(Uuid::parse("").has_value());
  EXPECT_FALSE(Uuid::parse("f81d4fae-7dec-11d0-a765-00a0c91e6bf").has_value());
  EXPECT_FALSE(Uuid::parse("f81d4fae-7dec-11d0-a765-00a0c91e6bf6a").has_value());
  EXPECT_FALSE(Uuid::parse("f81d4fae_7dec-11d0-a765-00a0c91e6bf6").has_value());
  EXPECT_FALSE(Uuid::parse("g81d4fae-7dec-11d0-a765-00a0c91e6bf6").has_value());
  EXPECT_FALSE(Uuid::parse("f81d4fae7-dec-11d0-a765-00a0c91e6bf6").has_value());
}

TEST(UuidTest, FromRandomIsVersionFour) {
  std::array<std::byte, 16> random;
  random.fill(std::byte{0xff});
  const std::string text = Uuid::from_random(random).to_string();
  EXPECT_EQ(text, "ffffffff-ffff-4fff-bfff-ffffffffffff");
}

TEST(UuidTest, OnlyZerosAreNil) {
  EXPECT_TRUE(Uuid{}.is_nil());
  EXPECT_FALSE(Uuid::parse(kText)->is_nil());
}

TEST(UuidTest, HashesSpreadOverTheLowBytes) {
  std::unordered_set<std::size_t> hashes;
  Uuid id;
  for (unsigned i = 0; i < 256; ++i) {
    id.bytes[15] = static_cast<std::byte>(i);
    hashes.insert(std::hash<Uuid>()(id));
  }
  EXPECT_EQ(hashes.size(), 256u);
}

TEST(StrongNumberTest, ComparesWithItsOwnKind) {
  EXPECT_LT(Epoch{1}, Epoch{2});
  EXPECT_EQ(SegmentNumber{7}, SegmentNumber{7});
  static_assert(!std::is_convertible_v<Epoch, SegmentNumber>);
}

}  // namespace
}  // namespace holdfast
