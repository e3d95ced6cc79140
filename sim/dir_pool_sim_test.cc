// SPDX-License-Identifier: Apache-2.0
//
// DirPool on the simulated storage: its contract, and what a crash at any moment leaves of its
// operations.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "pool/open_pool.h"
#include "pool/pool_contract.h"
#include "sim/test_world.h"

namespace holdfast {
namespace {

using sim::World;

constexpr const char* kLocation = "dir:/pool";

class SimPoolHarness final : public PoolHarness {
 public:
  SimPoolHarness() {
    PoolCreateOptions options;
    options.segment_bytes = kContractSegmentBytes;
    auto pool = world_.run(create_pool(context(), kLocation, options));
    EXPECT_TRUE(pool.ok()) << (pool.ok() ? "" : pool.error().message());
    pool_ = std::move(pool).value();
    world_.faults.enabled = true;  // delays and stragglers, no errors
    world_.faults.options.slow_chance = 0.05;
  }
  ~SimPoolHarness() override {
    EXPECT_FALSE(world_.scheduler.failed()) << world_.scheduler.violation().details;
  }
  Pool& pool() override { return *pool_; }
  void reopen() override {
    pool_.reset();
    auto pool = world_.run(open_pool(context(), kLocation));
    EXPECT_TRUE(pool.ok()) << (pool.ok() ? "" : pool.error().message());
    pool_ = std::move(pool).value();
  }
  void run_until(const std::function<bool()>& done) override { world_.run_until(done); }

 private:
  PoolContext context() { return PoolContext{*world_.host, *world_.files, "the contract's tests"}; }

  World world_;
  std::unique_ptr<Pool> pool_;
};

std::unique_ptr<PoolHarness> make_harness() {
  return std::make_unique<SimPoolHarness>();
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(DirSimulated, PoolContract, testing::Values(&make_harness));

namespace {

// Crashes one operation of a pool right before its k-th completion, for all k.
class PoolCrash {
 public:
  using Bytes = std::vector<std::byte>;

  explicit PoolCrash(std::uint64_t seed, bool with_pool = true) : world(seed) {
    volume.bytes[3] = std::byte{7};
    if (with_pool) make();
  }
  ~PoolCrash() { pool.reset(); }

  PoolContext context() { return PoolContext{*world.host, *world.files, "a test"}; }
  Task<Result<std::unique_ptr<Pool>>> creation() {
    PoolCreateOptions options;
    options.segment_bytes = kContractSegmentBytes;
    return create_pool(context(), kLocation, options);
  }
  void make() { pool = std::move(world.run(creation())).value(); }
  VolumeRecord record() const {
    VolumeRecord result;
    result.id = volume;
    result.name = "disk";
    return result;
  }
  RootId root(std::uint64_t number) const { return RootId{volume, Epoch{1}, number}; }
  static Bytes root_bytes(std::uint64_t number) {
    return Bytes(3000, static_cast<std::byte>(number + 1));
  }
  Result<void> create_volume() {
    return world.run(pool->create_volume(record(), root(0), root_bytes(0)));
  }

  // True: the operation ended before its k-th completion; the crash came right after it.
  template <typename T>
  bool crash_in(Task<T> task, std::uint64_t k, bool power) {
    std::optional<T> result;
    auto scope = std::make_unique<TaskScope>();
    scope->spawn(detail::store_result(std::move(task), &result));
    for (std::uint64_t i = 0; i < k && !result.has_value(); ++i) world.scheduler.step();
    const bool done = result.has_value();
    if (done) {
      EXPECT_TRUE(result->ok()) << result->error().message();
    }
    world.host->kill();
    scope.reset();
    result.reset();
    pool.reset();
    world.kill(power);
    while (world.scheduler.step()) {
    }
    world.start();
    return done;
  }
  void reopen() {
    auto opened = world.run(open_pool(context(), kLocation));
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    pool = std::move(opened).value();
  }
  std::size_t volume_count() { return world.run(pool->list_volumes()).value().size(); }
  // Every root that is listed can be read and is whole.
  std::vector<std::uint64_t> whole_roots() {
    std::vector<std::uint64_t> numbers;
    const std::vector<RootId> listed = world.run(pool->list_roots(volume)).value();
    for (const RootId& id : listed) {
      const auto bytes = world.run(pool->read_root(id));
      EXPECT_TRUE(bytes.ok() && bytes.value() == root_bytes(id.number)) << "root " << id.number;
      numbers.push_back(id.number);
    }
    std::sort(numbers.begin(), numbers.end());
    return numbers;
  }

  World world;
  VolumeId volume;
  std::unique_ptr<Pool> pool;
};

// Calls `test(k, power, seed)` for growing k until it says that the operation came to its end.
void at_every_completion(const std::function<bool(std::uint64_t, bool, std::uint64_t)>& test) {
  for (const bool power : {false, true}) {
    for (std::uint64_t seed = 1; seed <= (power ? 12u : 2u); ++seed) {
      std::uint64_t k = 0;
      while (!test(k, power, seed * 1000 + k)) {
        ASSERT_LT(++k, 500u);
        if (testing::Test::HasFailure()) return;
      }
    }
  }
}

TEST(DirPoolCrash, APoolIsThereOrCanBeCreatedAgain) {
  at_every_completion([](std::uint64_t k, bool power, std::uint64_t seed) {
    PoolCrash test(seed, false);
    const bool done = test.crash_in(test.creation(), k, power);
    auto opened = test.world.run(open_pool(test.context(), kLocation));
    if (opened.ok()) {
      test.pool = std::move(opened).value();
    } else {
      EXPECT_FALSE(done) << "a created pool is gone: " << opened.error().message();
      auto created = test.world.run(test.creation());
      EXPECT_TRUE(created.ok()) << "crash before completion " << k << ": "
                                << (created.ok() ? "" : created.error().message())
                                << "; open said: " << opened.error().message();
      if (!created.ok()) return true;
      test.pool = std::move(created).value();
    }
    EXPECT_TRUE(test.create_volume().ok());
    return done;
  });
}

TEST(DirPoolCrash, AVolumeIsCreatedWhollyOrNotAtAll) {
  at_every_completion([](std::uint64_t k, bool power, std::uint64_t seed) {
    PoolCrash test(seed);
    const bool done = test.crash_in(
        test.pool->create_volume(test.record(), test.root(0), test.root_bytes(0)), k, power);
    test.reopen();
    const std::size_t count = test.volume_count();
    EXPECT_TRUE(count == 1 || (count == 0 && !done)) << count;
    if (count == 1) {
      EXPECT_EQ(test.whole_roots(), std::vector<std::uint64_t>{0});
    } else {
      EXPECT_TRUE(test.create_volume().ok()) << "leftovers are in the way";
    }
    return done;
  });
}

TEST(DirPoolCrash, ARootIsPublishedWhollyOrNotAtAll) {
  at_every_completion([](std::uint64_t k, bool power, std::uint64_t seed) {
    PoolCrash test(seed);
    EXPECT_TRUE(test.create_volume().ok());
    const bool done =
        test.crash_in(test.pool->publish_root(test.root(1), test.root_bytes(1)), k, power);
    test.reopen();
    const std::vector<std::uint64_t> roots = test.whole_roots();
    const bool has_new = roots == std::vector<std::uint64_t>{0, 1};
    EXPECT_TRUE(has_new || (roots == std::vector<std::uint64_t>{0} && !done));
    if (!has_new) {
      EXPECT_TRUE(test.world.run(test.pool->publish_root(test.root(1), test.root_bytes(1))).ok());
    }
    return done;
  });
}

TEST(DirPoolCrash, ACreatedSegmentSurvivesWithItsSpace) {
  at_every_completion([](std::uint64_t k, bool power, std::uint64_t seed) {
    PoolCrash test(seed);
    EXPECT_TRUE(test.create_volume().ok());
    const SegmentId segment{test.volume, Epoch{1}, SegmentNumber{1}};
    const bool done =
        test.crash_in(test.pool->create_segment(segment, SegmentPurpose::guest_data), k, power);
    test.reopen();
    const auto listed = test.world.run(test.pool->list_segments(test.volume)).value();
    EXPECT_TRUE(listed == std::vector<SegmentId>{segment} || (listed.empty() && !done));
    if (done && !listed.empty()) {
      auto file = test.world.run(test.pool->open_segment(segment)).value();
      AlignedBuffer buffer(4096);
      EXPECT_EQ(test.world.run(World::io(file.get(), FileOperation::read,
                                         kContractSegmentBytes - 4096, buffer.span())),
                0);
    }
    return done;
  });
}

TEST(DirPoolCrash, ASpareThatIsListedHasAllItsSpace) {
  at_every_completion([](std::uint64_t k, bool power, std::uint64_t seed) {
    PoolCrash test(seed);
    EXPECT_TRUE(test.create_volume().ok());
    const std::uint64_t before = test.world.storage.used_bytes();
    const bool done = test.crash_in(test.pool->create_spare(test.volume), k, power);
    test.reopen();
    const auto spares = test.world.run(test.pool->list_spares(test.volume)).value();
    EXPECT_TRUE(spares.size() == 1 || (spares.empty() && !done)) << spares.size();
    EXPECT_EQ(test.world.run(test.pool->count_segment_files(test.volume)).value().guaranteed(),
              spares.size());
    if (spares.empty()) {
      EXPECT_LE(test.world.storage.used_bytes(), before) << "a leftover takes space";
      return done;
    }
    const SegmentId segment{test.volume, Epoch{1}, SegmentNumber{1}};
    auto file = test.world.run(test.pool->create_segment_from(spares[0], segment)).value();
    AlignedBuffer buffer(4096);
    EXPECT_EQ(test.world.run(World::io(file.get(), FileOperation::read,
                                       kContractSegmentBytes - 4096, buffer.span())),
              0);
    return done;
  });
}

TEST(DirPoolCrash, TakingASpareAndRecyclingASegmentLoseNoSpace) {
  for (const bool recycles : {false, true}) {
    at_every_completion([recycles](std::uint64_t k, bool power, std::uint64_t seed) {
      PoolCrash test(seed);
      EXPECT_TRUE(test.create_volume().ok());
      const SegmentId segment{test.volume, Epoch{1}, SegmentNumber{1}};
      bool done = false;
      if (recycles) {
        (void)test.world.run(test.pool->create_segment(segment, SegmentPurpose::guest_data));
        done = test.crash_in(test.pool->recycle_segment(segment), k, power);
      } else {
        EXPECT_TRUE(test.world.run(test.pool->create_spare(test.volume)).ok());
        const SpareId spare = test.world.run(test.pool->list_spares(test.volume)).value().front();
        done = test.crash_in(test.pool->create_segment_from(spare, segment), k, power);
      }
      test.reopen();
      const auto files = test.world.run(test.pool->count_segment_files(test.volume)).value();
      EXPECT_EQ(files.guaranteed(), 1u);
      // The new name of a recycled one need not be durable: it is dead under either.
      if (done && (!recycles || !power)) {
        EXPECT_EQ(recycles ? files.spares : files.full_segments, 1u);
      }
      return done;
    });
  }
}

TEST(DirPoolCrash, ARootThatTakesThePlaceOfAnOldOneIsPublishedWhollyOrNotAtAll) {
  at_every_completion([](std::uint64_t k, bool power, std::uint64_t seed) {
    PoolCrash test(seed);
    EXPECT_TRUE(test.create_volume().ok());
    EXPECT_TRUE(test.world.run(test.pool->publish_root(test.root(1), test.root_bytes(1))).ok());
    EXPECT_TRUE(test.world.run(test.pool->remove_root(test.root(0))).ok());
    const bool done =
        test.crash_in(test.pool->publish_root(test.root(2), test.root_bytes(2)), k, power);
    test.reopen();
    // The name of the removed one may come back after a power loss, with anything in it; what
    // counts is the newest.
    const auto listed = test.world.run(test.pool->list_roots(test.volume)).value();
    const std::uint64_t newest = listed.back().number;
    EXPECT_TRUE(newest == 2 || (newest == 1 && !done)) << newest;
    EXPECT_EQ(test.world.run(test.pool->read_root(listed.back())).value(), test.root_bytes(newest));
    return done;
  });
}

TEST(DirPoolCrash, ARemovedVolumeIsGoneOrCanBeRemovedAgain) {
  at_every_completion([](std::uint64_t k, bool power, std::uint64_t seed) {
    PoolCrash test(seed);
    EXPECT_TRUE(test.create_volume().ok());
    const bool done = test.crash_in(test.pool->remove_volume(test.volume), k, power);
    test.reopen();
    const std::size_t count = test.volume_count();
    EXPECT_TRUE(count == 0 || !done);
    if (count == 1) {
      EXPECT_EQ(test.whole_roots(), std::vector<std::uint64_t>{0});
      EXPECT_TRUE(test.world.run(test.pool->remove_volume(test.volume)).ok());
      EXPECT_EQ(test.volume_count(), 0u);
    }
    EXPECT_TRUE(test.create_volume().ok()) << "leftovers are in the way";
    return done;
  });
}

TEST(DirPoolCrash, AVolumeOnItsWayIntoTheTrashIsInOnePlaceAndWhole) {
  at_every_completion([](std::uint64_t k, bool power, std::uint64_t seed) {
    PoolCrash test(seed);
    EXPECT_TRUE(test.create_volume().ok());
    const bool done =
        test.crash_in(test.pool->trash_volume(test.volume, WallTime{10}, WallTime{20}), k, power);
    test.reopen();
    const auto trash = test.world.run(test.pool->list_trash()).value();
    EXPECT_EQ(trash.size() + test.volume_count(), 1u);
    EXPECT_TRUE(trash.size() == 1 || !done);
    EXPECT_EQ(test.whole_roots(), std::vector<std::uint64_t>{0});
    if (!trash.empty()) {
      EXPECT_EQ(trash[0].until.unix_seconds, 20);
    }
    return done;
  });
}

TEST(DirPoolCrash, AVolumeOnItsWayOutOfTheTrashIsInOnePlaceAndWhole) {
  at_every_completion([](std::uint64_t k, bool power, std::uint64_t seed) {
    PoolCrash test(seed);
    EXPECT_TRUE(test.create_volume().ok());
    EXPECT_TRUE(
        test.world.run(test.pool->trash_volume(test.volume, WallTime{10}, WallTime{20})).ok());
    const bool done = test.crash_in(test.pool->restore_volume(test.volume, "other"), k, power);
    test.reopen();
    const auto trash = test.world.run(test.pool->list_trash()).value();
    const auto volumes = test.world.run(test.pool->list_volumes()).value();
    EXPECT_EQ(trash.size() + volumes.size(), 1u);
    EXPECT_TRUE(volumes.size() == 1 || !done);
    EXPECT_EQ(test.whole_roots(), std::vector<std::uint64_t>{0});
    if (volumes.size() == 1) {
      EXPECT_EQ(volumes[0].name, "other");
    } else {
      EXPECT_EQ(trash[0].until.unix_seconds, 20);
      EXPECT_TRUE(test.world.run(test.pool->restore_volume(test.volume, "again")).ok());
      EXPECT_EQ(test.volume_count(), 1u);
    }
    return done;
  });
}

TEST(DirPoolCrash, ASecondProcessIsRefusedWhileTheFirstLives) {
  PoolCrash test(1);
  sim::SimHost other_host(test.world.scheduler);
  sim::SimFileSystem other_files(other_host, test.world.storage, test.world.faults);
  const auto second = test.world.run(open_pool({other_host, other_files, "the second"}, kLocation));
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code(), ErrorCode::busy);
  EXPECT_NE(second.error().message().find("a test"), std::string::npos) << second.error().message();
}

// Volumes of one pool live on several loops, each of which creates segments through its own view.
TEST(SimPoolSpace, CreationsSideBySideNeverTakeOfTheReserveAndLeaveNothingBehind) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    PoolCrash test(seed);
    ASSERT_TRUE(test.create_volume().ok());
    const PoolSpace before = test.world.run(test.pool->space()).value();
    constexpr std::uint64_t kRoom = 3;  // segments
    const std::uint64_t filler_bytes = before.available_bytes - before.reserve_bytes -
                                       kRoom * kContractSegmentBytes - kContractSegmentBytes / 2;
    const auto filler = test.world.open("/filler", true, filler_bytes);
    ASSERT_NE(filler, nullptr);
    std::vector<std::unique_ptr<Pool>> views;
    for (int i = 0; i < 4; ++i) views.push_back(view_pool(test.pool->info(), test.context()));

    using Created = Result<std::unique_ptr<File>>;
    std::vector<std::optional<Created>> created(16);
    std::size_t made = 0;
    std::uint64_t next = 1;
    const auto segment = [&] { return SegmentId{test.volume, Epoch{1}, SegmentNumber{next++}}; };
    {
      TaskScope scope;
      for (std::size_t i = 0; i < created.size(); ++i) {
        scope.spawn(detail::store_result(
            views[i % views.size()]->create_segment(segment(), SegmentPurpose::guest_data),
            &created[i]));
      }
      test.world.run_until([&] {
        return std::all_of(created.begin(), created.end(),
                           [](const auto& result) { return result.has_value(); });
      });
    }
    for (const auto& result : created) {
      made += result->ok() ? 1 : 0;
      if (!result->ok()) {
        EXPECT_EQ(result->error().code(), ErrorCode::no_space);
      }
    }
    EXPECT_LE(made, kRoom) << "seed " << seed;
    PoolSpace now = test.world.run(test.pool->space()).value();
    EXPECT_GE(now.available_bytes, now.reserve_bytes) << "seed " << seed;
    // What gave way took nothing with it: the rest of the room is there.
    for (; made < kRoom; ++made) {
      EXPECT_TRUE(
          test.world.run(views[0]->create_segment(segment(), SegmentPurpose::guest_data)).ok());
    }
    EXPECT_FALSE(
        test.world.run(views[0]->create_segment(segment(), SegmentPurpose::guest_data)).ok());
    EXPECT_EQ(test.world.run(test.pool->list_segments(test.volume))->size(), kRoom);
    now = test.world.run(test.pool->space()).value();
    EXPECT_GE(now.available_bytes, now.reserve_bytes);
    created.clear();
    views.clear();
  }
}

}  // namespace
}  // namespace holdfast
