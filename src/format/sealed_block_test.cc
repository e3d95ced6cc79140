// SPDX-License-Identifier: Apache-2.0
#include "format/sealed_block.h"

#include <gtest/gtest.h>

#include "format/testing_golden.h"

namespace holdfast::format {
namespace {

constexpr std::uint32_t kMagic = 0x44434241;  // "ABCD"

TEST(SealedBlockTest, TheSealIsMagicAndCrc32cOfTheRest) {
  Bytes block(8 + 9);
  const std::span<const std::byte> digits = as_bytes("123456789");
  std::copy(digits.begin(), digits.end(), block.begin() + 8);
  seal_block(block, kMagic);
  EXPECT_EQ(as_text(std::span(block).first(4)), "ABCD");
  EXPECT_EQ(load_little<std::uint32_t>(block.data() + 4), 0xE3069283u) << "RFC 3720";
  EXPECT_TRUE(check_sealed_block(block, kMagic));
}

TEST(SealedBlockTest, EveryFlippedBitAndEveryOtherMagicAreRefused) {
  Bytes block(kBlockBytes);
  block[1000] = std::byte{77};
  seal_block(block, kMagic);
  ASSERT_TRUE(check_sealed_block(block, kMagic));
  EXPECT_FALSE(check_sealed_block(block, kMagic + 1));
  expect_every_flip_refused(block,
                            [](const Bytes& bytes) { return !check_sealed_block(bytes, kMagic); });
}

TEST(SealedBlockTest, ABlockWithoutABodyIsRefused) {
  Bytes block(9);
  seal_block(block, kMagic);
  for (std::size_t length = 0; length <= kSealBytes; ++length) {
    EXPECT_FALSE(check_sealed_block(std::span(block).first(length), kMagic)) << length;
  }
  EXPECT_TRUE(check_sealed_block(block, kMagic));
}

TEST(SealedBlockTest, BlocksOfZerosAndOfOnesAreRefused) {
  EXPECT_FALSE(check_sealed_block(Bytes(kBlockBytes), 0)) << "the CRC of zeros is not zero";
  EXPECT_FALSE(check_sealed_block(Bytes(kBlockBytes, std::byte{0xff}), 0xffffffff));
}

}  // namespace
}  // namespace holdfast::format
