// SPDX-License-Identifier: Apache-2.0
#include "base/result.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace holdfast {
namespace {

Result<int> half(int value) {
  if (value % 2 != 0) return Error(ErrorCode::invalid_argument, "odd");
  return value / 2;
}
Result<int> quarter(int value) {
  const int first = TRY(half(value));
  return TRY(half(first));
}
Result<void> check_even(int value) {
  TRY(half(value));
  return {};
}

TEST(ResultTest, CarriesAValueOrAnError) {
  EXPECT_TRUE(half(4).ok());
  EXPECT_EQ(half(4).value(), 2);
  ASSERT_FALSE(half(3).ok());
  EXPECT_EQ(half(3).error().code(), ErrorCode::invalid_argument);
  EXPECT_EQ(half(3).error().message(), "odd");
}

TEST(ResultTest, TryReturnsTheFirstError) {
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_FALSE(quarter(6).ok());
  EXPECT_TRUE(check_even(2).ok());
  EXPECT_FALSE(check_even(1).ok());
}

TEST(ResultTest, ContextGoesInFrontAndKeepsTheCode) {
  const auto result = half(3).context("halve 3");
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message(), "halve 3: odd");
  EXPECT_EQ(result.error().code(), ErrorCode::invalid_argument);
  EXPECT_EQ(half(2).context("halve 2").value(), 1);
  const auto nothing = check_even(1).context("check");
  ASSERT_FALSE(nothing.ok());
  EXPECT_EQ(nothing.error().message(), "check: odd");
}

TEST(ResultTest, CarriesWhatOnlyMoves) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(7));
  const std::unique_ptr<int> value = std::move(result).value();
  EXPECT_EQ(*value, 7);
}

TEST(ResultTest, EveryCodeHasItsOwnName) {
  EXPECT_EQ(error_code_name(ErrorCode::not_found), "not-found");
  EXPECT_EQ(error_code_name(ErrorCode::no_space), "no-space");
  EXPECT_EQ(error_code_name(ErrorCode::internal), "internal");
}

TEST(ResultDeathTest, TheValueOfAFailureIsOurBug) {
  EXPECT_DEATH(static_cast<void>(half(1).value()), "assertion failed");
}

}  // namespace
}  // namespace holdfast
