// SPDX-License-Identifier: Apache-2.0
#include "lease/ballot.h"

#include <gtest/gtest.h>

#include <vector>

namespace holdfast {
namespace {

constexpr HostIdentity kSelf{1, 1};
constexpr HostIdentity kOther{3, 7};

class SharerTest : public testing::Test {
 protected:
  SharerTest() : watches_(4) {
    area_.blocks.resize(watches_.size());
    for (auto& block : area_.blocks) block.emplace();
  }

  void share(const HostIdentity& host) {
    area_.blocks[host.host_id - 1]->shared_mode = true;
    area_.blocks[host.host_id - 1]->shared_generation = host.generation;
  }
  // As a look at its host lease shows it, now.
  void see(std::uint64_t generation, std::uint64_t timestamp, Duration at) {
    format::LeaseLeader lease;
    lease.owner_id = kOther.host_id;
    lease.owner_generation = generation;
    lease.timestamp = timestamp;
    lease.io_timeout = 1;
    watches_[kOther.host_id - 1].see(lease, BootTime(at), BootTime(at));
  }
  std::optional<HostIdentity> found() const {
    const auto sharers = find_sharers(
        area_,
        [this](std::uint64_t id) { return id <= watches_.size() ? &watches_[id - 1] : nullptr; },
        kWatchdog);
    EXPECT_LE(sharers.size(), 1u);
    return sharers.empty() ? std::nullopt : std::optional(sharers.front());
  }

  static constexpr Duration kWatchdog = 2s;
  VolumeLeaseArea area_;
  std::vector<HostWatch> watches_;
};

TEST_F(SharerTest, NobodySharesUnlessABlockSaysSo) {
  see(kOther.generation, 100, 1s);
  EXPECT_EQ(found(), std::nullopt);
  share(kOther);
  EXPECT_EQ(found(), kOther);
  area_.blocks[kOther.host_id - 1].reset();  // damaged
  EXPECT_EQ(found(), std::nullopt);
}

TEST_F(SharerTest, ManyShare) {
  share(kOther);
  share(kSelf);
  const auto nobody = [](std::uint64_t) { return nullptr; };
  EXPECT_EQ(find_sharers(area_, nobody, kWatchdog), (std::vector<HostIdentity>{kSelf, kOther}));
}

TEST_F(SharerTest, AHostThatWasNotSeenYetMayShare) {
  share(kOther);
  EXPECT_EQ(found(), kOther);
  see(kOther.generation, 100, 1s);
  EXPECT_EQ(found(), kOther);
}

TEST_F(SharerTest, AHostSharesUntilItIsCertainlyDead) {
  share(kOther);
  see(kOther.generation, 100, 1s);
  see(kOther.generation, 100, 1s + 8s + kWatchdog - 1ms);
  EXPECT_EQ(found(), kOther);
  see(kOther.generation, 100, 1s + 8s + kWatchdog);
  EXPECT_EQ(found(), std::nullopt);
  see(kOther.generation, 101, 12s);
  EXPECT_EQ(found(), kOther) << "it was not dead after all";
}

TEST_F(SharerTest, AHostThatHasLeftOrLivesAnotherLifeDoesNotShare) {
  share(kOther);
  see(kOther.generation, 0, 1s);
  EXPECT_EQ(found(), std::nullopt);
  see(kOther.generation + 1, 100, 2s);
  EXPECT_EQ(found(), std::nullopt);
  // What an earlier life left behind, written late, says nothing of this one.
  see(kOther.generation - 1, 0, 3s);
  EXPECT_EQ(found(), kOther);
}

}  // namespace
}  // namespace holdfast
