// SPDX-License-Identifier: Apache-2.0
#include "host/leases.h"

#include <gtest/gtest.h>

namespace holdfast {
namespace {

bool has(const Error& error, const char* part) {
  return error.message().find(part) != std::string::npos;
}

TEST(AttachModeTest, EveryModeHasANameThatIsReadBack) {
  for (const AttachMode mode : {AttachMode::exclusive, AttachMode::incoming,
                                AttachMode::shared_read_only, AttachMode::shared_writable}) {
    EXPECT_EQ(parse_attach_mode(attach_mode_name(mode)), mode) << attach_mode_name(mode);
  }
  EXPECT_FALSE(parse_attach_mode("").has_value());
  EXPECT_FALSE(parse_attach_mode("exclusively").has_value());
}

TEST(AttachModeTest, FollowsTheFlags) {
  AttachRequest request;
  EXPECT_EQ(attach_mode(request, false).value(), AttachMode::exclusive);
  request.read_only = true;
  EXPECT_EQ(attach_mode(request, false).value(), AttachMode::exclusive)
      << "a reader that nobody else may change anything under";
  request.shared_read_only = true;
  EXPECT_EQ(attach_mode(request, false).value(), AttachMode::shared_read_only);
  EXPECT_EQ(attach_mode(request, true).value(), AttachMode::exclusive)
      << "a snapshot does not change, whoever reads it";
  request = {};
  request.shared_writable = true;
  EXPECT_EQ(attach_mode(request, false).value(), AttachMode::shared_writable);
  request = {};
  request.incoming = true;
  EXPECT_EQ(attach_mode(request, false).value(), AttachMode::incoming);
}

TEST(AttachModeTest, RefusesFlagsThatContradictEachOther) {
  const auto refused = [](bool incoming, bool writable, bool shared, bool read_only,
                          bool is_snapshot) {
    AttachRequest request;
    request.incoming = incoming;
    request.shared_writable = writable;
    request.shared_read_only = shared;
    request.read_only = read_only;
    const auto mode = attach_mode(request, is_snapshot);
    return !mode.ok() && mode.error().code() == ErrorCode::invalid_argument;
  };
  EXPECT_TRUE(refused(true, true, false, false, false));
  EXPECT_TRUE(refused(true, false, true, false, false));
  EXPECT_TRUE(refused(false, true, true, false, false));
  EXPECT_TRUE(refused(false, true, false, true, false)) << "a writer that is read-only";
  EXPECT_TRUE(refused(false, true, false, false, true)) << "a snapshot is not written to";
  EXPECT_TRUE(refused(true, false, false, false, true)) << "nobody owns a snapshot";
}

LeaseReport held(LeaseHolderState state) {
  LeaseReport lease;
  lease.volume = {"vms", "web"};
  lease.is_held = true;
  lease.mode = "exclusive";
  lease.host_id = 2;
  lease.host = "kvm2";
  lease.holder_state = state;
  lease.last_renewal_age = 2500ms;
  return lease;
}

TEST(LeaseHeldErrorTest, OfAHolderThatLivesSaysWhereToDetach) {
  const Error error = lease_held_error(held(LeaseHolderState::live), AttachMode::exclusive);
  EXPECT_EQ(error.code(), ErrorCode::lease_held);
  EXPECT_EQ(error.message(),
            "volume 'vms/web' belongs to host 'kvm2', which is live (it renewed its lease 3 s "
            "ago); detach it there (holdfast detach vms/web), or let it go from there (holdfast "
            "handover vms/web)");
}

TEST(LeaseHeldErrorTest, OfOneThatDoesNotLiveSaysWhenItIsTakenOver) {
  LeaseReport lease = held(LeaseHolderState::failing);
  lease.last_renewal_age = 17s;
  lease.take_over_in = 22'100ms;
  EXPECT_EQ(lease_held_error(lease, AttachMode::exclusive).message(),
            "volume 'vms/web' belongs to host 'kvm2', which has not renewed its lease for 17 s; it "
            "can be attached here in 23 s, unless that host comes back before");
  lease.holder_state = LeaseHolderState::dead;
  EXPECT_TRUE(has(lease_held_error(lease, AttachMode::exclusive), "dead"));
  lease.holder_state = LeaseHolderState::unknown;
  lease.take_over_in.reset();
  EXPECT_TRUE(has(lease_held_error(lease, AttachMode::exclusive), "takes a while to know"));
}

TEST(OverdueTest, AHolderThatDoesNotRenewInTimeIsFailingUntilItMayBeReplaced) {
  const LeaseTimes times{5s, 60s};
  LeaseReport lease = held(LeaseHolderState::live);
  lease.last_renewal_age = 15s;
  judge_overdue(lease, times);
  EXPECT_EQ(lease.holder_state, LeaseHolderState::live);
  EXPECT_FALSE(lease.take_over_in.has_value());
  lease.last_renewal_age = 15'001ms;
  judge_overdue(lease, times);
  EXPECT_EQ(lease.holder_state, LeaseHolderState::failing);
  EXPECT_EQ(lease.take_over_in, 84'999ms);
  PoolHostReport host;
  host.state = LeaseHolderState::live;
  host.unchanged = 20s;
  judge_overdue(host, {5s, 0s});
  EXPECT_EQ(host.state, LeaseHolderState::failing);
  EXPECT_EQ(host.dead_in, 20s);
}

TEST(OverdueTest, NothingElseIsJudgedAnew) {
  const LeaseTimes times{5s, 0s};
  LeaseReport lease = held(LeaseHolderState::dead);
  lease.last_renewal_age = 100s;
  lease.take_over_in = 0s;
  judge_overdue(lease, times);
  EXPECT_EQ(lease.holder_state, LeaseHolderState::dead);
  EXPECT_EQ(lease.take_over_in, 0s);
  lease.holder_state = LeaseHolderState::live;
  lease.take_over_in.reset();
  lease.is_ours = true;
  judge_overdue(lease, times);
  EXPECT_EQ(lease.holder_state, LeaseHolderState::live) << "nobody takes over from itself";
}

TEST(BreakTest, OnlyOfADeadHolderAndElseItSaysWhyAndForHowLong) {
  EXPECT_TRUE(check_breakable(held(LeaseHolderState::dead)).ok());
  EXPECT_TRUE(check_breakable(held(LeaseHolderState::free)).ok()) << "it has left without a word";
  EXPECT_TRUE(check_breakable(LeaseReport{}).ok()) << "nobody has it";
  LeaseReport lease = held(LeaseHolderState::failing);
  lease.take_over_in = 2'300ms;
  const auto refused = check_breakable(lease);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), ErrorCode::busy);
  EXPECT_EQ(
      refused.error().message(),
      "the lease of 'vms/web' is not broken: host 'kvm2' has it, and may still come back; try "
      "again in 3 s, or attach the volume, which waits for that");
  EXPECT_FALSE(check_breakable(held(LeaseHolderState::live)).ok());
  EXPECT_FALSE(check_breakable(held(LeaseHolderState::unknown)).ok());
  lease = held(LeaseHolderState::dead);
  lease.is_ours = true;
  EXPECT_FALSE(check_breakable(lease).ok()) << "detaching is the way";
}

TEST(LeaseHeldErrorTest, OfASharedVolumeSaysHowItIsShared) {
  LeaseReport lease = held(LeaseHolderState::live);
  EXPECT_TRUE(has(lease_held_error(lease, AttachMode::shared_writable),
                  "one host serves a shared-writable volume"));
  lease.mode = "shared";
  EXPECT_TRUE(has(lease_held_error(lease, AttachMode::exclusive), "attach it --shared here, too"));
  lease.host.clear();
  EXPECT_TRUE(has(lease_held_error(lease, AttachMode::exclusive), "host with the id 2"));
}

}  // namespace
}  // namespace holdfast
