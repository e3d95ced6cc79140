// SPDX-License-Identifier: Apache-2.0
#include "volume/cleaner_pace.h"

#include <gtest/gtest.h>

#include <cmath>
#include <list>

#include "base/limits.h"
#include "volume/cleaner_turns.h"

namespace holdfast {
namespace {

constexpr CleanerPace::Percents kPercents{30, 28};
constexpr CleanerPace::Share kVictim{1000, 500};  // costs 1500 transfers for 500 blocks: 3 each
constexpr double kVictimCost = 3;

CleanerPace::Share share_of(std::uint64_t garbage_percent) {
  return {10'000, 100 * (100 - garbage_percent)};
}

// Blocks that the cleaner may transfer before it has to wait, in steps of one.
std::uint64_t budget(CleanerPace& pace) {
  std::uint64_t blocks = 0;
  while (pace.may_work() && blocks < 100'000) {
    pace.worked(1);
    ++blocks;
  }
  return blocks;
}

CleanerPace pace_at(std::uint64_t garbage_percent, double pool_tightness = 0) {
  CleanerPace pace(kPercents);
  pace.begin(MonotonicTime{});
  pace.look(share_of(garbage_percent), kVictim, pool_tightness);
  budget(pace);
  return pace;
}

TEST(CleanerPace, BudgetFollowsTheGuestsWrites) {
  for (const std::uint64_t written : {1, 10, 100, 1000}) {
    CleanerPace pace = pace_at(30);
    pace.guest_wrote(written);
    EXPECT_EQ(budget(pace), static_cast<std::uint64_t>(kVictimCost) * written);
  }
}

TEST(CleanerPace, AGuestThatWritesNothingEarnsNothing) {
  CleanerPace pace = pace_at(60);
  EXPECT_FALSE(pace.may_work());
  EXPECT_EQ(budget(pace), 0u);
}

TEST(CleanerPace, EmptierVictimsEarnLess) {
  CleanerPace full(kPercents);
  CleanerPace empty(kPercents);
  full.look(share_of(30), {1000, 800}, 0);
  empty.look(share_of(30), {1000, 100}, 0);
  EXPECT_NEAR(full.rate(), 9, 0.001);
  EXPECT_NEAR(empty.rate(), 11.0 / 9, 0.001);
}

TEST(CleanerPace, BudgetEndsAtTheStopAndGrowsSteeplyBeyondTheStart) {
  EXPECT_EQ(pace_at(28).rate(), 0);
  EXPECT_EQ(pace_at(20).rate(), 0);
  EXPECT_NEAR(pace_at(29).rate(), kVictimCost / 2, 0.001);
  EXPECT_NEAR(pace_at(30).rate(), kVictimCost, 0.001);
  EXPECT_NEAR(pace_at(32).rate(), kVictimCost * 2, 0.001);
  EXPECT_NEAR(pace_at(90).rate(), kVictimCost * limits::kCleanerHasteMax, 0.001);
}

TEST(CleanerPace, ATightPoolMakesHaste) {
  EXPECT_NEAR(pace_at(29, 0.5).rate(), kVictimCost * limits::kCleanerHasteMax / 2, 0.001);
  EXPECT_NEAR(pace_at(29, 1).rate(), kVictimCost * limits::kCleanerHasteMax, 0.001);
  EXPECT_EQ(pace_at(28, 1).rate(), 0);  // nothing worth it
}

TEST(CleanerPace, WorkBesideAnIdleGuestIsNotPaidForLater) {
  CleanerPace pace = pace_at(30);
  for (int i = 0; i < 1000; ++i) pace.worked(limits::kCleanerStepBlocks);
  pace.guest_wrote(limits::kCleanerStepBlocks);
  EXPECT_TRUE(pace.may_work());
}

TEST(CleanerPace, ItNeverFallsBehindByMoreThanItsBound) {
  CleanerPace pace = pace_at(60);
  pace.guest_wrote(1'000'000);
  EXPECT_TRUE(pace.is_behind());
  EXPECT_LE(static_cast<double>(budget(pace)), limits::kCleanerCreditBlocksMax + 1);
}

TEST(CleanerPace, TimeEarnsALittleBesideAGuestThatDoesNotWrite) {
  CleanerPace pace = pace_at(40);
  pace.time_passed(MonotonicTime{} + 1s);
  EXPECT_NEAR(static_cast<double>(budget(pace)), limits::kCleanerIdleBlocksPerSecond, 2);
}

TEST(CleanerPace, AGuestWaitsOnlyOnceGarbageRanAwayAndTheCleanerIsBehind) {
  CleanerPace near_start = pace_at(34);
  near_start.guest_wrote(1'000'000);
  EXPECT_FALSE(near_start.presses_guest());
  CleanerPace far_beyond = pace_at(36);
  EXPECT_FALSE(far_beyond.presses_guest());
  far_beyond.guest_wrote(1'000'000);
  EXPECT_TRUE(far_beyond.presses_guest());
  while (far_beyond.presses_guest()) far_beyond.worked(limits::kCleanerStepBlocks);
  EXPECT_TRUE(far_beyond.may_work());  // what it owes is not forgotten
}

TEST(CleanerTurns, AreBoundedAndAVolumeHeldForSpaceDoesNotWaitForTidyOnes) {
  CleanerTurns turns;
  std::list<CleanerTurns::Turn> taken;
  while (taken.emplace_back().take(turns, false)) {
  }
  taken.pop_back();
  EXPECT_EQ(taken.size(), limits::kCleanersPerLoopMax);
  while (taken.emplace_back().take(turns, true)) {
  }
  taken.pop_back();
  EXPECT_EQ(taken.size(), limits::kCleanersPerLoopMax + limits::kUrgentCleanersPerLoopMax);
  taken.clear();
  EXPECT_TRUE(taken.emplace_back().take(turns, false));
}

// A volume under uniform overwrites, as a flow: each block written makes one of garbage, each
// victim is live to the share that theory gives.
TEST(CleanerPace, GarbageSettlesAtTheStart) {
  const double live = 1'000'000;
  for (const double garbage_at_first : {0.25, 0.30, 0.50}) {
    double all = live / (1 - garbage_at_first);
    CleanerPace pace(kPercents);
    pace.begin(MonotonicTime{});
    for (int i = 0; i < 200'000; ++i) {
      const double density = live / all;
      double victim = density / 2;
      for (int k = 0; k < 20; ++k) victim = std::exp((victim - 1) / density);
      const auto as_share = [](double of, double part) {
        return CleanerPace::Share{static_cast<std::uint64_t>(of), static_cast<std::uint64_t>(part)};
      };
      pace.look(as_share(all, live), as_share(10'000, 10'000 * victim), 0);
      pace.guest_wrote(32);
      all += 32;
      while (pace.may_work()) {
        pace.worked(limits::kCleanerStepBlocks);
        all -= limits::kCleanerStepBlocks * (1 - victim) / (1 + victim);
      }
    }
    EXPECT_NEAR(100 * (1 - live / all), 30, 1) << "from " << garbage_at_first;
  }
}

}  // namespace
}  // namespace holdfast
