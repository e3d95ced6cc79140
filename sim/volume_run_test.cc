// SPDX-License-Identifier: Apache-2.0
//
// The checks themselves, on a device whose faults are known.
#include "sim/volume_run.h"

#include <gtest/gtest.h>

#include "sim/reference_device.h"

namespace holdfast::sim {
namespace {

RunResult run_seed(std::uint64_t seed, ReferenceBug bug) {
  ReferenceFactory factory(bug);
  return VolumeRun(swarm_plan(seed), factory).run();
}

TEST(VolumeRun, ARightDevicePasses) {
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    const RunResult result = run_seed(seed, ReferenceBug::none);
    ASSERT_FALSE(result.failed) << "seed " << seed << ": " << result.violation.invariant << ": "
                                << result.violation.details << "\n"
                                << swarm_plan(seed).describe();
  }
}

TEST(VolumeRun, ARightDevicePassesACrashAtEveryCompletion) {
  ReferenceFactory factory(ReferenceBug::none);
  const std::uint64_t count = VolumeRun(small_plan(3), factory).run().completions;
  ASSERT_GT(count, 30u);
  for (std::uint64_t k = 1; k <= count; ++k) {
    RunPlan plan = small_plan(3);
    plan.crash_at_completion = k;
    plan.crash_kind = k % 2 == 0 ? CrashKind::process : CrashKind::power;
    plan.crash_after = k % 3 == 0;
    ReferenceFactory other(ReferenceBug::none);
    const RunResult result = VolumeRun(plan, other).run();
    ASSERT_FALSE(result.failed) << "crash at " << k << ": " << result.violation.details;
  }
}

TEST(VolumeRun, ASeedReplaysExactly) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    const RunResult first = run_seed(seed, ReferenceBug::none);
    const RunResult second = run_seed(seed, ReferenceBug::none);
    EXPECT_EQ(first.hash, second.hash);
    EXPECT_EQ(first.operations, second.operations);
    EXPECT_NE(first.hash, run_seed(seed + 1000, ReferenceBug::none).hash);
  }
}

struct BugCase {
  ReferenceBug bug;
  const char* name;
};

class EveryBugIsCaught : public testing::TestWithParam<BugCase> {};

TEST_P(EveryBugIsCaught, WithinAFewSeeds) {
  constexpr std::uint64_t kSeedsMax = 60;
  for (std::uint64_t seed = 1; seed <= kSeedsMax; ++seed) {
    const RunResult result = run_seed(seed, GetParam().bug);
    if (!result.failed) continue;
    std::printf("seed %d: %s: %s\n", static_cast<int>(seed), result.violation.invariant.c_str(),
                result.violation.details.c_str());
    return;
  }
  FAIL() << GetParam().name << " went unnoticed in " << kSeedsMax << " seeds";
}

INSTANTIATE_TEST_SUITE_P(
    Reference, EveryBugIsCaught,
    testing::Values(BugCase{ReferenceBug::acknowledge_early, "acknowledge_early"},
                    BugCase{ReferenceBug::flush_does_nothing, "flush_does_nothing"},
                    BugCase{ReferenceBug::lose_from_the_middle, "lose_from_the_middle"},
                    BugCase{ReferenceBug::stale_read, "stale_read"},
                    BugCase{ReferenceBug::torn_write, "torn_write"},
                    BugCase{ReferenceBug::misplaced_write, "misplaced_write"},
                    BugCase{ReferenceBug::forget_request, "forget_request"},
                    BugCase{ReferenceBug::answer_error, "answer_error"},
                    BugCase{ReferenceBug::answer_twice, "answer_twice"},
                    BugCase{ReferenceBug::reorder_answers, "reorder_answers"},
                    BugCase{ReferenceBug::zeroes_do_nothing, "zeroes_do_nothing"},
                    BugCase{ReferenceBug::status_lies, "status_lies"},
                    BugCase{ReferenceBug::shrink_keeps_data, "shrink_keeps_data"},
                    BugCase{ReferenceBug::lose_acknowledged, "lose_acknowledged"}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace holdfast::sim
