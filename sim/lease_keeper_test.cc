// SPDX-License-Identifier: Apache-2.0
//
// The keeper of the leases, several of them on one simulated storage.
#include "lease/lease_keeper.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <vector>

#include "pool/open_pool.h"
#include "sim/test_world.h"

namespace holdfast::sim {
namespace {

constexpr const char* kLocation = "dir:/pool";
constexpr std::uint16_t kTimeout = 2;  // N

class LeaseKeeperTest : public testing::Test {
 protected:
  // A process of its own, with its own view of the one storage.
  struct Machine {
    Machine(LeaseKeeperTest& test, std::string host_name)
        : name(std::move(host_name)),
          host(std::make_unique<SimHost>(test.scheduler_)),
          files(std::make_unique<SimFileSystem>(*host, test.storage_, faults)) {}
    std::string name;
    Faults faults;
    std::unique_ptr<SimHost> host;
    std::unique_ptr<SimFileSystem> files;
    std::unique_ptr<Pool> pool;
    std::unique_ptr<LeaseKeeper> keeper;
    std::vector<bool> requests;  // that were told to it: for now?
  };

  void TearDown() override {
    for (auto& machine : machines_) kill(*machine);
    EXPECT_FALSE(scheduler_.failed()) << scheduler_.violation().details;
  }

  void run_until(const std::function<bool()>& done) {
    while (!done()) ASSERT_TRUE(scheduler_.step()) << "nothing is left that could make it so";
  }
  void pass(Duration time) {
    const MonotonicTime until = scheduler_.now() + time;
    run_until([&] { return scheduler_.now() >= until; });
  }
  template <typename T>
  T run(Task<T> task) {
    return run_task<T>([this](const std::function<bool()>& done) { run_until(done); },
                       std::move(task));
  }
  PoolContext context(Machine& machine) {
    return PoolContext{*machine.host, *machine.files, "a test", machine.name};
  }
  Machine& start(const std::string& name, std::optional<HostIdentity> before = {}) {
    machines_.push_back(std::make_unique<Machine>(*this, name));
    Machine& machine = *machines_.back();
    if (!has_pool_) {
      PoolCreateOptions options;
      options.shared = true;
      options.segment_bytes = kMiB;
      options.io_timeout_seconds = kTimeout;
      machine.pool = run(create_pool(context(machine), kLocation, options)).value();
      before = HostIdentity{1, 1};
      has_pool_ = true;
    } else {
      machine.pool = run(open_pool(context(machine), kLocation)).value();
    }
    LeaseOptions options;
    options.host_name = name;
    options.before = before;
    options.on_request = [&machine](VolumeId, bool now) { machine.requests.push_back(now); };
    machine.keeper = std::make_unique<LeaseKeeper>(*machine.host, *machine.pool, options);
    return machine;
  }
  Machine& join(const std::string& name, std::optional<HostIdentity> before = {}) {
    Machine& machine = start(name, before);
    const auto joined = run(machine.keeper->join());
    EXPECT_TRUE(joined.ok()) << (joined.ok() ? "" : joined.error().message());
    return machine;
  }
  void kill(Machine& machine) {
    if (machine.host == nullptr) return;
    machine.host->kill();
    machine.files->die(false);
    machine.keeper.reset();
    machine.pool.reset();
    machine.files.reset();
    machine.host.reset();
  }
  void break_storage(Machine& machine) {
    machine.faults.enabled = true;
    machine.faults.options.read_error_chance = machine.faults.options.write_error_chance = 1.0;
  }
  VolumeId make_volume(Machine& machine, unsigned number = 1) {
    VolumeRecord record;
    record.id.bytes[0] = static_cast<std::byte>(number);
    record.name = "disk" + std::to_string(number);
    EXPECT_TRUE(run(machine.pool->create_volume(record, RootId{record.id, Epoch{1}, 0},
                                                std::vector<std::byte>(4096)))
                    .ok());
    return record.id;
  }
  AcquireAnswer acquire(Machine& machine, VolumeId volume, bool only_if_still_ours = false) {
    const LeaseKeeper::AcquireOptions options{only_if_still_ours, false, {}};
    auto answer = run(machine.keeper->acquire(volume, options));
    EXPECT_TRUE(answer.ok()) << (answer.ok() ? "" : answer.error().message());
    return answer.ok() ? std::move(answer).value() : AcquireAnswer{};
  }
  static bool holds(Machine& machine, const AcquireAnswer& answer) {
    return answer.fence != nullptr && answer.fence->holds(machine.host->boot_time());
  }

  Scheduler scheduler_{7};
  SimStorage storage_{scheduler_, kGiB};
  bool has_pool_ = false;
  std::vector<std::unique_ptr<Machine>> machines_;
};

TEST_F(LeaseKeeperTest, TheHostThatMakesAPoolNeedNotWaitAndAFreeVolumeIsTakenAtOnce) {
  Machine& a = start("a");
  const MonotonicTime begin = scheduler_.now();
  EXPECT_EQ(run(a.keeper->join()).value(), (HostIdentity{1, 1}));
  const VolumeId volume = make_volume(a);
  const AcquireAnswer first = acquire(a, volume);
  EXPECT_TRUE(holds(a, first));
  EXPECT_EQ(first.fence->epoch(), Epoch{2});
  EXPECT_LT(scheduler_.now() - begin, 200ms);
  ASSERT_TRUE(run(a.keeper->release(volume)).ok());
  EXPECT_TRUE(first.fence->is_lost());
  EXPECT_EQ(acquire(a, volume).fence->epoch(), Epoch{3});
}

TEST_F(LeaseKeeperTest, WhatALiveHostHasIsNotTakenHoweverLongOneWaits) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  const AcquireAnswer owned = acquire(a, volume);
  Machine& b = join("b");
  for (int i = 0; i < 60; ++i) {
    pass(1s);
    const AcquireAnswer refused = acquire(b, volume);
    ASSERT_EQ(refused.fence, nullptr);
    ASSERT_TRUE(holds(a, owned));
    EXPECT_EQ(refused.holder.host_name, "a");
    if (i > 10) {
      EXPECT_EQ(refused.holder.state, HostLiveness::live);
      EXPECT_FALSE(refused.holder.take_over_after.has_value());
    }
  }
  ASSERT_TRUE(run(a.keeper->release(volume)).ok());
  EXPECT_TRUE(holds(b, acquire(b, volume)));
}

TEST_F(LeaseKeeperTest, WhatADeadHostHadIsTakenSoonAfterItsDeadlineAndNeverEarlier) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  Machine& b = join("b");
  const AcquireAnswer owned = acquire(a, volume);
  pass(30s);
  const BootTime deadline = owned.fence->deadline();
  kill(a);
  AcquireAnswer taken;
  while (taken.fence == nullptr) {
    pass(100ms);
    taken = acquire(b, volume);
    if (taken.fence != nullptr) break;
    EXPECT_TRUE(taken.holder.take_over_after.has_value() ||
                taken.holder.state == HostLiveness::live);
    ASSERT_LT(b.host->boot_time(), deadline + 5s) << "too late";
  }
  EXPECT_GT(b.host->boot_time(), deadline);
  EXPECT_GT(taken.fence->epoch(), owned.fence->epoch());
}

TEST_F(LeaseKeeperTest, AHostThatCannotRenewStopsInTimeAndGoesOnIfNobodyTookItsVolume) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  const AcquireAnswer owned = acquire(a, volume);
  break_storage(a);
  pass(8 * kTimeout * 1s);
  EXPECT_FALSE(holds(a, owned));
  EXPECT_FALSE(owned.fence->is_lost());
  EXPECT_TRUE(a.keeper->report().is_expired);
  a.faults.enabled = false;
  pass(5s);
  EXPECT_TRUE(holds(a, owned));
  EXPECT_EQ(owned.fence->epoch(), Epoch{2}) << "the volume's log stays in its epoch";
  // But the lease has moved on, so that whoever thought of taking it over finds out.
  EXPECT_GT(run(a.keeper->show(volume)).value().lver, 2u);
}

TEST_F(LeaseKeeperTest, AHostThatComesBackTooLateFindsItsVolumeFencedAndItsOthersWhole) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  const VolumeId other = make_volume(a, 2);
  const AcquireAnswer owned = acquire(a, volume);
  const AcquireAnswer kept = acquire(a, other);
  Machine& b = join("b");
  break_storage(a);
  AcquireAnswer taken;
  while (taken.fence == nullptr) {
    pass(500ms);
    taken = acquire(b, volume);
    ASSERT_FALSE(taken.fence != nullptr && holds(a, owned)) << "two owners";
  }
  a.faults.enabled = false;
  pass(6s);
  EXPECT_TRUE(owned.fence->is_lost());
  EXPECT_TRUE(holds(a, kept)) << "other volumes go on";
  EXPECT_TRUE(holds(b, taken));
}

TEST_F(LeaseKeeperTest, ADaemonThatIsStartedAgainInTimeHasItsVolumesAtOnce) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  Machine& b = join("b");
  const AcquireAnswer owned = acquire(a, volume);
  kill(a);
  pass(3s);
  const MonotonicTime begin = scheduler_.now();
  Machine& again = join("a", HostIdentity{1, 1});
  const AcquireAnswer back = acquire(again, volume, true);
  EXPECT_TRUE(holds(again, back));
  EXPECT_LT(scheduler_.now() - begin, 200ms);
  EXPECT_GT(back.fence->epoch(), owned.fence->epoch());
  EXPECT_EQ(acquire(b, volume).fence, nullptr);
}

TEST_F(LeaseKeeperTest, WhatSomebodyElseHadMeanwhileIsNotTakenBackByItself) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  Machine& b = join("b");
  acquire(a, volume);
  kill(a);
  pass(8 * kTimeout * 1s + 3s);
  ASSERT_TRUE(holds(b, acquire(b, volume)));
  ASSERT_TRUE(run(b.keeper->release(volume)).ok());
  Machine& again = join("a", HostIdentity{1, 1});
  EXPECT_EQ(acquire(again, volume, true).fence, nullptr);
  EXPECT_NE(acquire(again, volume).fence, nullptr) << "only when a person says so";
}

TEST_F(LeaseKeeperTest, TwoHostsOfOneNameAreToldApart) {
  Machine& a = join("same");
  const VolumeId volume = make_volume(a);
  const AcquireAnswer owned = acquire(a, volume);
  Machine& twin = start("same");
  const auto joined = run(twin.keeper->join());
  ASSERT_FALSE(joined.ok());
  EXPECT_NE(joined.error().message().find("machine-id"), std::string::npos);
  EXPECT_TRUE(holds(a, owned));
}

TEST_F(LeaseKeeperTest, HostsThatJoinAtTheSameTimeGetDifferentIds) {
  join("a");
  std::vector<Machine*> joining;
  std::vector<std::optional<Result<HostIdentity>>> results(4);
  std::vector<std::unique_ptr<TaskScope>> scopes;
  for (std::size_t i = 0; i < results.size(); ++i) {
    Machine& machine = start("host" + std::to_string(i));
    scopes.push_back(std::make_unique<TaskScope>());
    scopes.back()->spawn(detail::store_result(machine.keeper->join(), &results[i]));
  }
  run_until([&] {
    return std::all_of(results.begin(), results.end(), [](const auto& r) { return r.has_value(); });
  });
  std::set<std::uint64_t> ids;
  for (const auto& result : results) {
    ASSERT_TRUE(result->ok()) << result->error().message();
    ids.insert(result->value().host_id);
  }
  EXPECT_EQ(ids.size(), results.size());
}

TEST_F(LeaseKeeperTest, ManyWhoWantOneVolumeFindOneOwner) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  std::vector<Machine*> all{&a, &join("b"), &join("c"), &join("d")};
  std::uint64_t epoch = 0;
  for (int round = 0; round < 20; ++round) {
    std::vector<std::optional<Result<AcquireAnswer>>> results(all.size());
    std::vector<std::unique_ptr<TaskScope>> scopes;
    for (std::size_t i = 0; i < all.size(); ++i) {
      scopes.push_back(std::make_unique<TaskScope>());
      scopes.back()->spawn(detail::store_result(
          all[i]->keeper->acquire(volume, LeaseKeeper::AcquireOptions()), &results[i]));
    }
    run_until([&] {
      return std::all_of(results.begin(), results.end(),
                         [](const auto& r) { return r.has_value(); });
    });
    int owners = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      ASSERT_TRUE(results[i]->ok()) << results[i]->error().message();
      if (!holds(*all[i], results[i]->value())) continue;
      ++owners;
      EXPECT_GT(results[i]->value().fence->epoch().value, epoch);
      epoch = results[i]->value().fence->epoch().value;
      ASSERT_TRUE(run(all[i]->keeper->release(volume)).ok());
    }
    ASSERT_EQ(owners, 1) << "round " << round;
  }
}

// --- Sharing ---

class LeaseSharingTest : public LeaseKeeperTest {
 protected:
  AcquireAnswer share(Machine& machine, VolumeId volume, Epoch since = {}) {
    const LeaseKeeper::AcquireOptions options{false, true, since};
    auto answer = run(machine.keeper->acquire(volume, options));
    EXPECT_TRUE(answer.ok()) << (answer.ok() ? "" : answer.error().message());
    if (!answer.ok()) return AcquireAnswer{};
    if (answer->fence != nullptr) {
      EXPECT_TRUE(run(machine.keeper->share(volume)).ok());
    }
    return std::move(answer).value();
  }
  // As whoever opens it to change it does first.
  void change(Machine& machine, VolumeId volume, Epoch epoch) {
    ASSERT_TRUE(run(machine.pool->begin_epoch(volume, epoch)).ok());
    std::vector<std::byte> root(4096);
    ASSERT_TRUE(
        run(machine.pool->publish_root(RootId{volume, epoch, 0}, std::move(root), epoch)).ok());
  }
};

TEST_F(LeaseSharingTest, ManyShareAVolumeAndNobodyOwnsItMeanwhile) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  Machine& b = join("b");
  Machine& c = join("c");
  const AcquireAnswer first = share(a, volume);
  EXPECT_FALSE(first.is_shared) << "the first may tidy up";
  const AcquireAnswer second = share(b, volume);
  EXPECT_TRUE(second.is_shared);
  EXPECT_TRUE(holds(a, first));
  EXPECT_TRUE(holds(b, second));
  pass(30s);
  EXPECT_TRUE(holds(a, first));
  EXPECT_TRUE(holds(b, second));
  const AcquireAnswer refused = acquire(c, volume);
  EXPECT_EQ(refused.fence, nullptr);
  EXPECT_EQ(refused.holder.sharers, (std::vector<std::string>{"a", "b"}));
  ASSERT_TRUE(run(a.keeper->release(volume)).ok());
  EXPECT_EQ(acquire(c, volume).fence, nullptr);
  EXPECT_FALSE(holds(a, first));
  ASSERT_TRUE(run(b.keeper->release(volume)).ok());
  const AcquireAnswer owned = acquire(c, volume);
  EXPECT_TRUE(holds(c, owned));
  EXPECT_EQ(share(a, volume).fence, nullptr);
}

TEST_F(LeaseSharingTest, HostsThatBeginToShareAtTheSameTimeWaitForEachOther) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  std::vector<Machine*> all{&a, &join("b"), &join("c"), &join("d")};
  std::vector<std::optional<Result<AcquireAnswer>>> results(all.size());
  std::vector<std::unique_ptr<TaskScope>> scopes;
  const auto begin = [](Machine* machine, VolumeId id) -> Task<Result<AcquireAnswer>> {
    const LeaseKeeper::AcquireOptions options{false, true, {}};
    CO_TRY_ASSIGN(AcquireAnswer answer, co_await machine->keeper->acquire(id, options));
    if (answer.fence == nullptr) co_return answer;
    co_await sleep_for(*machine->host, 300ms);  // what tidying up takes
    CO_TRY(co_await machine->keeper->share(id));
    co_return answer;
  };
  for (std::size_t i = 0; i < all.size(); ++i) {
    scopes.push_back(std::make_unique<TaskScope>());
    scopes.back()->spawn(detail::store_result(begin(all[i], volume), &results[i]));
  }
  run_until([&] {
    return std::all_of(results.begin(), results.end(), [](const auto& r) { return r.has_value(); });
  });
  int first = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    ASSERT_TRUE(results[i]->ok()) << results[i]->error().message();
    EXPECT_TRUE(holds(*all[i], results[i]->value())) << i;
    first += results[i]->value().is_shared ? 0 : 1;
  }
  EXPECT_EQ(first, 1);
}

TEST_F(LeaseSharingTest, ADeadReaderIsWaitedForAndFencedWhenItComesBackAfterAChange) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  Machine& b = join("b");
  const AcquireAnswer shared = share(a, volume);
  pass(30s);
  break_storage(a);
  AcquireAnswer owned;
  while (owned.fence == nullptr) {
    pass(500ms);
    owned = acquire(b, volume);
    ASSERT_FALSE(owned.fence != nullptr && holds(a, shared)) << "it reads what is being changed";
  }
  change(b, volume, owned.fence->epoch());
  a.faults.enabled = false;
  pass(20s);
  EXPECT_TRUE(shared.fence->is_lost());
  EXPECT_TRUE(holds(b, owned));
  // Nothing of the reader's stays in the way of others, though its host lives.
  ASSERT_TRUE(run(b.keeper->release(volume)).ok());
  EXPECT_TRUE(holds(b, acquire(b, volume)));
}

TEST_F(LeaseSharingTest, ReadersWhoseStorageFailedForLongGoOnIfNobodyChangedTheVolume) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  Machine& b = join("b");
  Machine& c = join("c");
  const AcquireAnswer first = share(a, volume);
  const AcquireAnswer second = share(b, volume);
  for (Machine* machine : {&a, &b}) break_storage(*machine);
  pass(12 * kTimeout * 1s);
  EXPECT_FALSE(holds(a, first));
  EXPECT_FALSE(holds(b, second));
  // Another one reads it meanwhile, as the only one.
  EXPECT_FALSE(share(c, volume).is_shared);
  for (Machine* machine : {&a, &b}) machine->faults.enabled = false;
  pass(20s);
  EXPECT_TRUE(holds(a, first));
  EXPECT_TRUE(holds(b, second));
  EXPECT_EQ(run(c.keeper->show(volume)).value().sharers, (std::vector<std::string>{"a", "b", "c"}));
}

TEST_F(LeaseSharingTest, AReaderThatIsStartedAgainGoesOnUnlessTheVolumeWasChanged) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  Machine& b = join("b");
  const Epoch since = share(a, volume).fence->epoch();
  kill(a);
  pass(2s);
  Machine& again = join("a", HostIdentity{1, 1});
  EXPECT_EQ(acquire(b, volume).fence, nullptr) << "it is in time, and reads on";
  EXPECT_TRUE(holds(again, share(again, volume, since)));
  kill(again);
  // Dead for a while, and nobody changed it.
  pass(8 * kTimeout * 1s + 3s);
  ASSERT_TRUE(holds(b, acquire(b, volume)));
  ASSERT_TRUE(run(b.keeper->release(volume)).ok());
  Machine& later = join("a", HostIdentity{1, 1});
  EXPECT_TRUE(holds(later, share(later, volume, since)));
  kill(later);
  pass(8 * kTimeout * 1s + 3s);
  const AcquireAnswer owned = acquire(b, volume);
  ASSERT_TRUE(holds(b, owned));
  change(b, volume, owned.fence->epoch());
  ASSERT_TRUE(run(b.keeper->release(volume)).ok());
  Machine& late = join("a", HostIdentity{1, 1});
  const AcquireAnswer refused = share(late, volume, since);
  EXPECT_EQ(refused.fence, nullptr);
  EXPECT_TRUE(refused.was_changed);
  EXPECT_EQ(share(late, volume, since).fence, nullptr) << "not the second time either";
  EXPECT_TRUE(holds(b, acquire(b, volume))) << "what it tried is in nobody's way";
  ASSERT_TRUE(run(b.keeper->release(volume)).ok());
  EXPECT_TRUE(holds(late, share(late, volume))) << "when a person says so";
}

TEST_F(LeaseSharingTest, AReaderThatHasLapsedUnknowinglyDoesNotStandForACleanVolume) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  Machine& b = join("b");
  const AcquireAnswer shared = share(a, volume);
  // Its owner since has died with something in its log.
  change(b, volume, Epoch{shared.fence->epoch().value + 1});
  EXPECT_FALSE(share(b, volume).is_shared) << "it is to be tidied up";
}

TEST_F(LeaseSharingTest, WhatIsWonAndThenRefusedIsGivenBack) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  Machine& b = join("b");
  share(a, volume);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(acquire(b, volume).fence, nullptr);
  EXPECT_EQ(share(b, volume, Epoch{1}).fence != nullptr, true) << "unchanged since it was made";
  ASSERT_TRUE(run(b.keeper->release(volume)).ok());
  ASSERT_TRUE(run(a.keeper->release(volume)).ok());
  const LeaseHolder holder = run(b.keeper->show(volume)).value();
  EXPECT_EQ(holder.claim, LeaseClaim::free);
  EXPECT_TRUE(holder.sharers.empty());
}

TEST_F(LeaseKeeperTest, AHostThatHasLeftLeavesNothingToWaitFor) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  Machine& b = join("b");
  acquire(a, volume);
  run([](LeaseKeeper* keeper) -> Task<bool> {
    co_await keeper->leave(true);
    co_return true;
  }(a.keeper.get()));
  EXPECT_TRUE(holds(b, acquire(b, volume)));
}

TEST_F(LeaseKeeperTest, OnlyADeadHoldersLeaseIsBroken) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  Machine& b = join("b");
  const AcquireAnswer owned = acquire(a, volume);
  pass(6s);
  const auto refused = run(b.keeper->break_lease(volume));
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message().find("host a"), std::string::npos);
  EXPECT_NE(refused.error().message().find("live"), std::string::npos);
  EXPECT_TRUE(holds(a, owned));
  kill(a);
  pass(8 * kTimeout * 1s + 3s);
  ASSERT_TRUE(run(b.keeper->break_lease(volume)).ok());
  EXPECT_EQ(run(b.keeper->show(volume)).value().claim, LeaseClaim::free);
}

TEST_F(LeaseKeeperTest, TheHolderHearsOfARequestSoonAndOnceItIsAnnouncedAtOnce) {
  Machine& a = join("a");
  const VolumeId volume = make_volume(a);
  acquire(a, volume);
  Machine& b = join("b");
  ASSERT_TRUE(run(b.keeper->request(volume, false)).ok());
  MonotonicTime begin = scheduler_.now();
  run_until([&] { return !a.requests.empty(); });
  EXPECT_LT(scheduler_.now() - begin, 3s);
  EXPECT_FALSE(a.requests.front());
  pass(100ms);
  ASSERT_TRUE(run(b.keeper->request(volume, true)).ok());
  begin = scheduler_.now();
  run_until([&] { return a.requests.size() == 2; });
  EXPECT_LT(scheduler_.now() - begin, 50ms);
  EXPECT_TRUE(a.requests.back());
  ASSERT_TRUE(run(a.keeper->release(volume)).ok());
  EXPECT_TRUE(holds(b, acquire(b, volume)));
  pass(5s);
  EXPECT_TRUE(b.requests.empty()) << "the request was served";
}

}  // namespace
}  // namespace holdfast::sim
