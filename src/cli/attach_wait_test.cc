// SPDX-License-Identifier: Apache-2.0
#include "cli/attach_wait.h"

#include <gtest/gtest.h>

namespace holdfast {
namespace {

Json holder(const char* state, Json take_over_in_seconds = nullptr) {
  return {{"host", "kvm2"},
          {"host_id", 2},
          {"state", state},
          {"take_over_in_seconds", take_over_in_seconds}};
}

TEST(AttachWaitTest, AHolderThatLivesIsWaitedForAsLongAsAskedFor) {
  AttachWait wait(10);
  EXPECT_TRUE(wait.goes_on(holder("live"), 0));
  EXPECT_TRUE(wait.goes_on(holder("live"), 9.5));
  EXPECT_EQ(wait.text(holder("live")), "waits for host kvm2 (live) for another 0.5 s");
  EXPECT_FALSE(wait.goes_on(holder("live"), 0.5));
  EXPECT_DOUBLE_EQ(wait.waited_seconds(), 10);
}

TEST(AttachWaitTest, NoPatienceAsksOnce) {
  AttachWait wait(0);
  EXPECT_FALSE(wait.goes_on(holder("live"), 0));
  AttachWait other(0);
  EXPECT_FALSE(other.goes_on(holder("free"), 0)) << "asked again for as long as it is refused";
  AttachWait unknown(0);
  EXPECT_FALSE(unknown.goes_on(Json(), 0)) << "nothing is known of who has it";
}

TEST(AttachWaitTest, OneThatDoesNotLiveIsWaitedForUntilTheTakeOver) {
  AttachWait wait(10);
  for (const char* state : {"unknown", "failing", "dead"}) {
    EXPECT_TRUE(wait.goes_on(holder(state), 100)) << state;
  }
  EXPECT_EQ(wait.text(holder("failing", 23.2)),
            "waits for host kvm2 (failing): may be taken over in 23 s");
  EXPECT_EQ(wait.text(holder("dead", 0)), "waits for host kvm2 (dead): may be taken over now");
  EXPECT_EQ(wait.text(holder("unknown")), "waits for host kvm2 (unknown)");
  EXPECT_TRUE(wait.goes_on(holder("live"), 9)) << "that time does not count against one that lives";
  EXPECT_FALSE(wait.goes_on(holder("live"), 2));
}

TEST(AttachWaitTest, AHolderThatMayHaveDiedJustBeforeIsNotGivenUp) {
  const auto renewed = [](double seconds_ago) {
    Json details = holder("live");
    details["last_renewal_seconds_ago"] = seconds_ago;
    return details;
  };
  AttachWait wait(10);
  EXPECT_TRUE(wait.goes_on(renewed(3), 0));
  EXPECT_TRUE(wait.goes_on(renewed(13), 10)) << "not since we came";
  EXPECT_EQ(wait.text(renewed(13)), "waits for host kvm2 (live) to renew its lease");
  EXPECT_TRUE(wait.goes_on(renewed(14.5), 1.5));
  EXPECT_TRUE(wait.goes_on(holder("failing", 24), 1)) << "it was dead indeed";
  AttachWait alive(10);
  EXPECT_TRUE(alive.goes_on(renewed(3), 0));
  EXPECT_FALSE(alive.goes_on(renewed(4), 10)) << "it has renewed since";
  AttachWait impatient(0);
  EXPECT_FALSE(impatient.goes_on(renewed(3), 0));
  AttachWait unlucky(1);
  EXPECT_TRUE(unlucky.goes_on(renewed(2), 0));
  EXPECT_TRUE(unlucky.goes_on(renewed(1), 1.1)) << "seen since, perhaps written before";
  EXPECT_TRUE(unlucky.goes_on(renewed(1.5), 0.5));
  EXPECT_FALSE(unlucky.goes_on(renewed(0.4), 1));
}

TEST(AttachWaitTest, AHolderThatComesAndGoesDoesNotKeepItForEver) {
  AttachWait wait(10);
  int rounds = 0;
  while (wait.goes_on(holder(rounds % 2 == 0 ? "live" : "failing"), 1) && rounds < 100) ++rounds;
  EXPECT_EQ(rounds, 18);
}

TEST(AttachWaitTest, ToleratesDetailsThatAreMissing) {
  const AttachWait wait(10);
  EXPECT_EQ(wait.text(Json()), "waits for another host for another 10 s");
  EXPECT_EQ(wait.text(Json::parse(R"({"state": 5, "host": []})")),
            "waits for another host for another 10 s");
}

}  // namespace
}  // namespace holdfast
