// SPDX-License-Identifier: Apache-2.0
#include "host/names.h"

#include <gtest/gtest.h>

namespace holdfast {
namespace {

TEST(NamesTest, AcceptsWhatIsSafeInPathsAndUris) {
  for (const char* name : {"a", "vms", "disk1", "web-01.root_disk", "0", "A.B"}) {
    EXPECT_TRUE(check_name("volume", name).ok()) << name;
  }
  EXPECT_TRUE(check_name("volume", std::string(63, 'x')).ok());
}

TEST(NamesTest, RefusesTheRestWithAReason) {
  for (const std::string name :
       {"", ".", "..", ".a", "-a", "_a", "a/b", "a b", "a\n", "ä", "a:b", "a%"}) {
    const auto result = check_name("volume", name);
    ASSERT_FALSE(result.ok()) << name;
    EXPECT_EQ(result.error().code(), ErrorCode::invalid_argument);
    EXPECT_NE(result.error().message().find("name of a volume"), std::string::npos);
  }
  EXPECT_FALSE(check_name("pool", std::string(64, 'x')).ok());
  EXPECT_FALSE(check_name("pool", std::string("a\0b", 3)).ok());
}

TEST(NamesTest, AHostsNameFitsIntoALease) {
  for (const std::string& name : {std::string("kvm1"), std::string("kvm1.0123456789abcdef"),
                                  std::string("a/b:c"), std::string(48, 'x')}) {
    EXPECT_TRUE(check_host_name(name).ok()) << name;
  }
  for (const std::string& name :
       {std::string(), std::string(49, 'x'), std::string("a b"), std::string("a\n"),
        std::string("\xc3\xa4"), std::string("a\0b", 3), std::string("\x7f")}) {
    EXPECT_FALSE(check_host_name(name).ok()) << name;
  }
}

TEST(NamesTest, EditDistanceCountsSwapsOnce) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("abc", ""), 3u);
  EXPECT_EQ(edit_distance("disk1", "diks1"), 1u);
  EXPECT_EQ(edit_distance("disk1", "disk2"), 1u);
  EXPECT_EQ(edit_distance("disk1", "disk"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
}

TEST(NamesTest, SuggestsTheNearestNameOnly) {
  const std::vector<std::string> known = {"vms/disk1", "vms/web", "backup/disk1"};
  EXPECT_EQ(suggestion("vms/diks1", known), "; did you mean 'vms/disk1'?");
  EXPECT_EQ(suggestion("VMS/DISK1", known), "; did you mean 'vms/disk1'?");
  EXPECT_EQ(suggestion("entirely-else", known), "");
  EXPECT_EQ(suggestion("x", {}), "");
  EXPECT_EQ(suggestion(std::string(100'000, 'x'), known), "");
}

}  // namespace
}  // namespace holdfast
