// SPDX-License-Identifier: Apache-2.0
#include "base/list.h"

#include <gtest/gtest.h>

#include <vector>

namespace holdfast {
namespace {

struct Item {
  explicit Item(int number) : value(number) {}
  int value;
  ListLink first;
  ListLink second;
};
using FirstList = List<Item, &Item::first>;
using SecondList = List<Item, &Item::second>;

std::vector<int> values(FirstList& list) {
  std::vector<int> out;
  for (Item* item = list.front(); item != nullptr; item = list.next(*item)) {
    out.push_back(item->value);
  }
  return out;
}

TEST(ListTest, KeepsTheOrderOfInsertion) {
  Item a(1), b(2), c(3);
  FirstList list;
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(list.front(), nullptr);
  list.push_back(b);
  list.push_back(c);
  list.push_front(a);
  EXPECT_EQ(values(list), (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(list.back(), &c);
}

TEST(ListTest, RemovesFromTheMiddle) {
  Item a(1), b(2), c(3);
  FirstList list;
  for (Item* item : {&a, &b, &c}) list.push_back(*item);
  FirstList::remove(b);
  EXPECT_FALSE(b.first.is_linked());
  EXPECT_EQ(values(list), (std::vector<int>{1, 3}));
  FirstList::remove(b);  // not in a list: nothing happens
  EXPECT_EQ(list.pop_front(), &a);
  EXPECT_EQ(list.pop_front(), &c);
  EXPECT_EQ(list.pop_front(), nullptr);
}

TEST(ListTest, AnElementIsInOneListPerLink) {
  Item a(1);
  FirstList first;
  SecondList second;
  first.push_back(a);
  second.push_back(a);
  EXPECT_EQ(second.front(), &a);
  first.clear();
  EXPECT_TRUE(first.empty());
  EXPECT_EQ(second.front(), &a);
}

TEST(ListTest, ACopyOfAnElementIsInNoList) {
  Item a(1);
  FirstList list;
  list.push_back(a);
  const Item copy = a;  // NOLINT(performance-unnecessary-copy-initialization)
  EXPECT_FALSE(copy.first.is_linked());
}

TEST(ListDeathTest, InsertingTwiceIsOurBug) {
  Item a(1);
  FirstList list;
  list.push_back(a);
  EXPECT_DEATH(list.push_back(a), "assertion failed");
}

}  // namespace
}  // namespace holdfast
