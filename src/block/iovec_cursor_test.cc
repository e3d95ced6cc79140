// SPDX-License-Identifier: Apache-2.0
#include "block/iovec_cursor.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace holdfast {
namespace {

// Pieces of 3, 0, 5 and 2 bytes that hold 0, 1, 2, ...
class IovecCursorTest : public testing::Test {
 protected:
  IovecCursorTest() {
    for (std::size_t i = 0; i < memory_.size(); ++i) memory_[i] = static_cast<std::byte>(i);
  }
  std::vector<std::byte> memory_ = std::vector<std::byte>(10);
  std::vector<iovec> vectors_ = {{memory_.data(), 3},
                                 {memory_.data() + 3, 0},
                                 {memory_.data() + 3, 5},
                                 {memory_.data() + 8, 2}};
};

TEST_F(IovecCursorTest, TakesContiguousPiecesAndPassesOverEmptyOnes) {
  IovecCursor cursor(vectors_);
  EXPECT_EQ(cursor.take(2).size(), 2u);
  EXPECT_EQ(cursor.take(100).size(), 1u) << "to the end of the first piece";
  const std::span<std::byte> third = cursor.take(4);
  EXPECT_EQ(third.data(), memory_.data() + 3);
  EXPECT_EQ(third.size(), 4u);
  EXPECT_EQ(cursor.take(4).size(), 1u);
  EXPECT_EQ(cursor.take(4).size(), 2u);
}

TEST_F(IovecCursorTest, CopiesOutAcrossPieces) {
  IovecCursor cursor(vectors_);
  cursor.skip(1);
  std::vector<std::byte> out(8);
  cursor.copy_out(out.data(), out.size());
  EXPECT_EQ(out, std::vector<std::byte>(memory_.begin() + 1, memory_.begin() + 9));
  EXPECT_EQ(cursor.take(9).size(), 1u);
}

TEST_F(IovecCursorTest, CopiesInAndZeroesOnlyItsRange) {
  const std::vector<std::byte> in(4, std::byte{0xaa});
  IovecCursor cursor(vectors_);
  cursor.skip(2);
  cursor.copy_in(in.data(), in.size());
  cursor.fill_zeros(3);
  const std::vector<std::byte> expected = {
      std::byte{0},    std::byte{1}, std::byte{0xaa}, std::byte{0xaa}, std::byte{0xaa},
      std::byte{0xaa}, std::byte{0}, std::byte{0},    std::byte{0},    std::byte{9}};
  EXPECT_EQ(memory_, expected);
}

TEST_F(IovecCursorTest, ACopyOfACursorIsACursorOfItsOwn) {
  IovecCursor cursor(vectors_);
  cursor.skip(4);
  IovecCursor copy = cursor;
  copy.skip(6);
  EXPECT_EQ(cursor.take(1).data(), memory_.data() + 4);
}

TEST_F(IovecCursorTest, TakingBeyondTheEndIsOurBug) {
  IovecCursor cursor(vectors_);
  cursor.skip(10);
  EXPECT_DEATH((void)cursor.take(1), "assertion failed");
}

}  // namespace
}  // namespace holdfast
