// SPDX-License-Identifier: Apache-2.0
//
// Exact resume: a daemon may die at any store; the next one completes every request exactly once,
// as the guest sees it, in the order in which they were taken.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/limits.h"
#include "serve/vhost/testing_store_trap.h"
#include "serve/vhost/vhost_fixture.h"

namespace holdfast::vhost {
namespace {

// Places in the in-flight memory of the first queue, as the specification has them.
constexpr std::size_t kVersionAt = 8;
constexpr std::size_t kDescriptorCountAt = 10;
constexpr std::size_t kLastBatchHeadAt = 12;
constexpr std::size_t kUsedIndexAt = 14;
constexpr std::size_t entry_at(std::size_t head) {
  return 16 + 16 * head;
}

template <typename T>
void store_into(const TestMemory& memory, std::size_t at, T value) {
  store_little(memory.data() + at, value);
}

class VhostInflightTest : public VhostTest {
 protected:
  // A virtual machine whose daemon tracks what is in flight.
  void start_tracked(const GuestOptions& options = {}) {
    connect(options);
    ASSERT_TRUE(frontend_->negotiate());
    inflight_ = frontend_->get_inflight();
    ASSERT_NE(inflight_, nullptr);
    ASSERT_TRUE(frontend_->set_inflight(*inflight_));
    ASSERT_TRUE(frontend_->share_memory());
    for (std::size_t i = 0; i < options.queue_count; ++i) {
      ASSERT_TRUE(frontend_->prepare_queue(i));
      ASSERT_TRUE(frontend_->enable_queue(i));
    }
  }
  // The daemon dies as it is; a new one takes its place. Nothing that the old one still does
  // reaches anybody.
  void die() {
    guest_->leave_memory_behind();
    inflight_ = inflight_->copy();
    frontend_.reset();
    daemon_->stop(BlockStatus::shutting_down);
    make_daemon();
  }
  void resume() {
    frontend_ = std::make_unique<TestFrontend>(*daemon_, *guest_);
    ASSERT_TRUE(frontend_->start(inflight_.get()));
    daemon_->run();
  }
  std::vector<std::uint64_t> submitted_sectors() const {
    std::vector<std::uint64_t> sectors;
    for (const auto& operation : disk_.submitted) sectors.push_back(operation.offset_bytes / 512);
    return sectors;
  }

  std::unique_ptr<TestMemory> inflight_;
};

TEST_F(VhostInflightTest, WhatWasInFlightIsAnsweredByTheNextDaemonInTheOrderItWasTaken) {
  start_tracked();
  daemon_->device().hold();
  std::vector<std::uint16_t> heads;
  for (std::uint64_t i = 0; i < 10; ++i) {
    heads.push_back(guest_->submit(0, BlkType::in, 100 - i, {{i * 512, 512}}));
  }
  frontend_->publish(0);
  daemon_->device().complete(4);
  daemon_->run();
  EXPECT_EQ(guest_->take_used(0).at(0).head, heads[4]);
  die();
  disk_.submitted.clear();
  resume();
  EXPECT_EQ(submitted_sectors(), (std::vector<std::uint64_t>{100, 99, 98, 97, 95, 94, 93, 92, 91}));
  const auto used = guest_->take_used(0);
  ASSERT_EQ(used.size(), 9u);
  std::set<std::uint32_t> answered{heads[4]};
  for (const UsedEntry& entry : used) {
    EXPECT_TRUE(answered.insert(entry.head).second);
    EXPECT_EQ(entry.status, 0);
  }
  EXPECT_EQ(daemon_->statistics().requests_resumed, 9u);
  EXPECT_TRUE(frontend_->take_call(0));
}

TEST_F(VhostInflightTest, WhatWasNotTakenBeforeIsTakenWithoutAKick) {
  start_tracked();
  daemon_->device().hold();
  guest_->submit(0, BlkType::in, 1, {{0, 512}});
  frontend_->publish(0);
  guest_->submit(0, BlkType::in, 2, {{0, 512}});
  guest_->publish(0);  // the kick died with the daemon
  die();
  resume();
  EXPECT_EQ(guest_->take_used(0).size(), 2u);
  EXPECT_EQ(daemon_->statistics().requests_resumed, 1u);
}

TEST_F(VhostInflightTest, TheBaseThatTheFrontendRemembersDoesNotMatter) {
  start_tracked();
  for (int i = 0; i < 3; ++i) frontend_->perform(0, BlkType::in, 0, {{0, 512}});
  daemon_->device().hold();
  guest_->submit(0, BlkType::in, 1, {{0, 512}});
  frontend_->publish(0);
  die();
  frontend_ = std::make_unique<TestFrontend>(*daemon_, *guest_);
  ASSERT_TRUE(frontend_->start(inflight_.get(), 1234));
  EXPECT_EQ(guest_->take_used(0).size(), 1u);
  EXPECT_EQ(frontend_->stop_queue(0), 4u);
}

TEST_F(VhostInflightTest, AnInterruptThatDiedWithTheDaemonIsGivenByTheNext) {
  for (const std::uint16_t base : {std::uint16_t{0}, std::uint16_t{0xFFFE}}) {
    make_daemon();
    connect({.queue_size = 4});
    guest_->reset_queue(0, base);
    ASSERT_TRUE(frontend_->negotiate());
    inflight_ = frontend_->get_inflight();
    ASSERT_TRUE(frontend_->set_inflight(*inflight_));
    ASSERT_TRUE(frontend_->share_memory());
    ASSERT_TRUE(frontend_->prepare_queue(0, base));
    ASSERT_TRUE(frontend_->enable_queue(0));
    frontend_->perform(0, BlkType::in, 0, {{0, 512}});
    guest_->submit(0, BlkType::in, 0, {{0, 512}});
    frontend_->publish(0);  // answered: the used index is 2, or 0 again
    die();
    resume();
    EXPECT_TRUE(frontend_->take_call(0)) << "from " << base;
    EXPECT_EQ(guest_->take_used(0).size(), 1u);
  }
}

TEST_F(VhostInflightTest, RequestsThatTheDeviceGivesBackStayInFlight) {
  start_tracked();
  daemon_->device().hold();
  guest_->submit(0, BlkType::out, 1, {{0, 512}});
  guest_->submit(0, BlkType::discard, 0, {{4096, 32}});
  fill_data(4096, Bytes(32));
  frontend_->publish(0);
  frontend_.reset();
  daemon_->stop(BlockStatus::shutting_down);
  EXPECT_TRUE(guest_->take_used(0).empty());
  make_daemon();
  resume();
  EXPECT_EQ(guest_->take_used(0).size(), 2u);
  EXPECT_EQ(daemon_->statistics().requests_resumed, 2u);
}

TEST_F(VhostInflightTest, WhatTheGuestChoseForTheCacheOutlivesTheDaemon) {
  start_tracked();
  ASSERT_TRUE(frontend_->tell(MessageType::set_config,
                              Payload().put(32u).put(1u).put(0u).put(std::uint8_t{0})));
  die();
  resume();
  frontend_->perform(0, BlkType::out, 0, {{0, 512}});
  EXPECT_TRUE(disk_.submitted.back().force_unit_access);
}

TEST_F(VhostInflightTest, QueuesAreTrackedEachForItself) {
  start_tracked({.queue_count = 3, .queue_size = 8});
  daemon_->device().hold();
  for (std::size_t queue = 0; queue < 3; ++queue) {
    for (std::size_t i = 0; i <= queue % 2; ++i) {
      guest_->submit(queue, BlkType::in, queue * 10 + i, {{0, 512}});
    }
    frontend_->publish(queue);
  }
  die();
  resume();
  for (std::size_t queue = 0; queue < 3; ++queue) {
    EXPECT_EQ(guest_->take_used(queue).size(), 1 + queue % 2);
  }
  EXPECT_EQ(daemon_->statistics().requests_resumed, 4u);
}

// --- Malformed memory ---

struct Damage {
  const char* name;
  std::size_t at;
  std::uint16_t value;
};
class VhostInflightDamageTest : public VhostInflightTest,
                                public testing::WithParamInterface<Damage> {};

TEST_P(VhostInflightDamageTest, InflightMemoryThatMakesNoSenseIsRefused) {
  start_tracked({.queue_size = 16});
  frontend_->perform(0, BlkType::in, 0, {{0, 512}});
  die();
  store_into(*inflight_, GetParam().at, GetParam().value);
  resume();
  EXPECT_EQ(fault_count(VhostFault::inflight_malformed), 1u);
  EXPECT_EQ(daemon_->statistics().devices_broken, 1u);
  EXPECT_TRUE(frontend_->take_error(0));
  // With fresh memory it goes on.
  ASSERT_TRUE(frontend_->stop_queue(0).has_value());
  guest_->reset_queue(0);
  const auto fresh = frontend_->get_inflight();
  ASSERT_TRUE(frontend_->set_inflight(*fresh));
  ASSERT_TRUE(frontend_->prepare_queue(0));
  EXPECT_EQ(frontend_->perform(0, BlkType::in, 0, {{0, 512}})->status, 0);
}

INSTANTIATE_TEST_SUITE_P(Vhost, VhostInflightDamageTest,
                         testing::Values(Damage{"version", kVersionAt, 2},
                                         Damage{"descriptors", kDescriptorCountAt, 15},
                                         Damage{"used_index", kUsedIndexAt, 2},
                                         Damage{"used_index_far_back", kUsedIndexAt, 0x8000}),
                         [](const auto& test) { return test.param.name; });

TEST_F(VhostInflightTest, ABatchThatNamesNoDescriptorIsRefused) {
  start_tracked({.queue_size = 16});
  frontend_->perform(0, BlkType::in, 0, {{0, 512}});
  die();
  store_into(*inflight_, kUsedIndexAt, std::uint16_t{0});  // as if the batch was not finished
  store_into(*inflight_, kLastBatchHeadAt, std::uint16_t{16});
  resume();
  EXPECT_EQ(fault_count(VhostFault::inflight_malformed), 1u);
}

TEST_F(VhostInflightTest, AHeadInFlightThatIsNoChainBreaksTheDevice) {
  start_tracked({.queue_size = 16});
  die();
  inflight_->data()[entry_at(7)] = std::byte{1};
  resume();
  EXPECT_EQ(fault_count(VhostFault::chain_too_short), 1u);
  EXPECT_EQ(daemon_->server().request_count(), 0u);
}

TEST_F(VhostInflightTest, EverythingInFlightInGarbageIsSurvived) {
  for (std::uint32_t seed = 0; seed < 50; ++seed) {
    make_daemon();
    start_tracked({.queue_size = 16});
    die();
    const Bytes garbage = pattern(16 + 16 * 16, seed);
    std::copy(garbage.begin(), garbage.end(), inflight_->data());
    if (seed % 2 == 0) {
      store_into(*inflight_, kVersionAt, std::uint16_t{1});
      store_into(*inflight_, kDescriptorCountAt, std::uint16_t{16});
      store_into(*inflight_, kUsedIndexAt, static_cast<std::uint16_t>(0xFFF0 + seed % 17));
    }
    resume();
    EXPECT_EQ(daemon_->statistics().devices_broken, 1u);
  }
}

TEST_F(VhostInflightTest, ShapesThatDoNotFitAreRefused) {
  connect();
  ASSERT_TRUE(frontend_->negotiate());
  const TestMemory memory(64 * kKiB);
  const auto set = [&](const Bytes& payload) {
    std::vector<Descriptor> files;
    files.push_back(memory.descriptor());
    return frontend_->tell(MessageType::set_inflight_fd, payload, std::move(files));
  };
  const auto payload = [](std::uint64_t bytes, std::uint64_t offset, std::uint16_t queues,
                          std::uint16_t size) {
    return Payload().put(bytes).put(offset).put(queues).put(size).put(std::uint32_t{0});
  };
  EXPECT_TRUE(set(payload(64 * kKiB, 0, 1, 64)));
  EXPECT_TRUE(set(payload(60 * kKiB, 4096, 1, 64)));
  EXPECT_TRUE(set(payload(16 + 16 * 15, 0, 1, 15))) << "just enough for the one queue";
  EXPECT_FALSE(set(payload(64 * kKiB + 1, 0, 1, 64)));
  EXPECT_FALSE(set(payload(64 * kKiB, 1, 1, 64)));
  EXPECT_FALSE(set(payload(64 * kKiB, ~std::uint64_t{0} - 100, 1, 64)));
  EXPECT_FALSE(set(payload(~std::uint64_t{0}, 2, 1, 64)));
  EXPECT_FALSE(set(payload(1024, 0, 1, 64)));
  EXPECT_FALSE(set(payload(64 * kKiB, 0, 0, 64)));
  EXPECT_FALSE(set(payload(64 * kKiB, 0, 1, 0)));
  EXPECT_FALSE(set(payload(1024 * kKiB, 0, 65, 64)));
  EXPECT_FALSE(set(payload(64 * kKiB, 0, 1, 1025)));
  EXPECT_EQ(fault_count(VhostFault::message_refused), 9u);
  EXPECT_FALSE(frontend_->tell(MessageType::set_inflight_fd, payload(64 * kKiB, 0, 1, 64)));
  EXPECT_FALSE(frontend_->is_closed());
}

TEST_F(VhostInflightTest, InflightMemoryCannotBeExchangedWhileQueuesRun) {
  start_tracked();
  EXPECT_FALSE(frontend_->set_inflight(*inflight_));
  EXPECT_EQ(fault_count(VhostFault::message_refused), 1u);
  ASSERT_TRUE(frontend_->stop_queue(0).has_value());
  EXPECT_TRUE(frontend_->set_inflight(*inflight_));
}

TEST_F(VhostInflightTest, MemoryThatIsAskedForHasRoomForAllQueuesAndIsFresh) {
  connect({.queue_count = 3, .queue_size = 1024});
  ASSERT_TRUE(frontend_->negotiate());
  const auto memory = frontend_->get_inflight();
  ASSERT_NE(memory, nullptr);
  EXPECT_GE(memory->size_bytes(), 3u * (16 + 16 * 1024));
  for (std::size_t i = 0; i < 3 * (16 + 16 * 1024); ++i) {
    ASSERT_EQ(memory->data()[i], std::byte{0}) << i;
  }
  const auto refused =
      frontend_->ask(MessageType::get_inflight_fd, TestFrontend::inflight_payload(0, 0, 64));
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(load_little<std::uint64_t>(refused->payload.data()), 0u);
  EXPECT_TRUE(frontend_->peer().sent_descriptors.empty());
}

// --- Death at every store ---

// What the death of a daemon leaves.
struct Remains {
  Bytes guest;
  Bytes inflight;
  Bytes disk;
};

class VhostDeathTest : public VhostInflightTest {
 protected:
  static constexpr std::uint16_t kRequests = 7;

  static GuestOptions small() { return {.queue_size = 32, .data_bytes = 8192}; }

  // Every state of the memories before one of the stores that `work` makes, and the last.
  std::vector<Remains> remains_of(TestGuest& guest, const TestMemory& inflight,
                                  const TestDisk& disk, const std::function<void()>& work) {
    std::vector<Remains> remains;
    const auto note = [&] {
      remains.push_back({Bytes(guest.memory().bytes().begin(), guest.memory().bytes().end()),
                         Bytes(inflight.bytes().begin(), inflight.bytes().end()), disk.bytes});
    };
    {
      const StoreTrap trap({{&guest.memory(), guest.data_at()}, {&inflight, inflight.size_bytes()}},
                           note);
      EXPECT_EQ(trap.mapping_count(), 2u);
      work();
    }
    note();
    return remains;
  }
  struct Life {
    explicit Life(const Remains& remains)
        : guest(small()), inflight(remains.inflight.size()), disk(remains.disk.size()) {
      std::copy(remains.guest.begin(), remains.guest.end(), guest.memory().data());
      std::copy(remains.inflight.begin(), remains.inflight.end(), inflight.data());
      disk.bytes = remains.disk;
      daemon = std::make_unique<TestDaemon>(disk);
      frontend = std::make_unique<TestFrontend>(*daemon, guest);
    }
    // All but the last message: the queue does not run yet.
    void connect() const {
      ASSERT_TRUE(frontend->negotiate());
      ASSERT_TRUE(frontend->set_inflight(inflight));
      ASSERT_TRUE(frontend->share_memory());
      ASSERT_TRUE(frontend->prepare_queue(0));
    }
    TestGuest guest;
    TestMemory inflight;
    TestDisk disk;
    std::unique_ptr<TestDaemon> daemon;
    std::unique_ptr<TestFrontend> frontend;
  };

  std::uint16_t available(const TestGuest& guest) const { return guest.available_index(0); }
  static std::uint16_t available_head(const TestGuest& guest, std::uint16_t position) {
    return guest.load<std::uint16_t>(guest.available_at(0) + 4 + 2 * std::size_t{position});
  }
  static std::uint32_t used_head(const TestGuest& guest, std::uint16_t position) {
    return guest.load<std::uint32_t>(guest.used_at(0) + 4 + 8 * std::size_t{position});
  }

  // A daemon that finds these remains, and completes everything.
  void expect_exact_resume(const Remains& remains) {
    Life life(remains);
    const std::uint16_t used_before = life.guest.used_index(0);
    std::vector<std::uint32_t> answered_before;
    for (std::uint16_t i = 0; i < used_before; ++i) {
      answered_before.push_back(used_head(life.guest, i));
    }
    life.connect();
    ASSERT_TRUE(life.frontend->enable_queue(0));
    life.daemon->run();
    ASSERT_EQ(life.daemon->statistics().devices_broken, 0u);
    const std::uint16_t count = available(life.guest);
    ASSERT_EQ(life.guest.used_index(0), count);
    // Each exactly once; what the guest saw before has not changed.
    std::set<std::uint32_t> answered;
    for (std::uint16_t i = 0; i < count; ++i) {
      const std::uint32_t head = used_head(life.guest, i);
      EXPECT_TRUE(answered.insert(head).second) << head << " twice";
      EXPECT_EQ(life.guest.load<std::uint8_t>(
                    life.guest.frame_at(0, static_cast<std::uint16_t>(head)) + 16),
                0);
      if (i < used_before) {
        EXPECT_EQ(head, answered_before[i]);
      }
    }
    // In the order in which they were taken, which is that of the available ring.
    std::vector<std::uint64_t> expected;
    for (std::uint16_t i = 0; i < count; ++i) {
      const std::uint16_t head = available_head(life.guest, i);
      EXPECT_TRUE(answered.count(head));
      if (std::find(answered_before.begin(), answered_before.end(), head) ==
          answered_before.end()) {
        expected.push_back(life.guest.load<std::uint64_t>(life.guest.frame_at(0, head) + 8));
      }
    }
    std::vector<std::uint64_t> submitted;
    for (const auto& operation : life.disk.submitted) {
      submitted.push_back(operation.offset_bytes / 512);
    }
    EXPECT_EQ(submitted, expected);
    for (std::uint16_t i = 0; i < count; ++i) {
      EXPECT_EQ(life.disk.bytes[std::size_t{i} * 512], static_cast<std::byte>(i + 1));
    }
    // Nothing is left in flight.
    for (std::size_t head = 0; head < small().queue_size; ++head) {
      EXPECT_EQ(life.inflight.data()[entry_at(head)], std::byte{0});
    }
    life.daemon->stop();
  }

  // Request i writes i + 1 into sector i.
  void submit_write(std::uint16_t i) {
    fill_data(std::size_t{i} * 512, Bytes(512, static_cast<std::byte>(i + 1)));
    guest_->submit(0, BlkType::out, i, {{std::size_t{i} * 512, 512}});
  }
  // The first life: batches of several answers, in another order than that of the requests.
  std::vector<Remains> first_life() {
    daemon_->device().hold();
    return remains_of(*guest_, *inflight_, disk_, [&] {
      for (std::uint16_t i = 0; i < 4; ++i) submit_write(i);
      frontend_->publish(0);
      daemon_->device().complete(2);
      daemon_->device().complete(0);
      daemon_->run();
      for (std::uint16_t i = 4; i < kRequests; ++i) submit_write(i);
      frontend_->publish(0);
      daemon_->device().complete(4);
      daemon_->device().complete(0);
      daemon_->device().complete(1);
      daemon_->run();
    });
  }
};

TEST_F(VhostDeathTest, ADaemonMayDieAtEveryStore) {
  start_tracked(small());
  const std::vector<Remains> all = first_life();
  EXPECT_GT(all.size(), 7u * 2 + 5 * 5 + 4) << "the trap has seen every store";
  for (std::size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE("store " + std::to_string(i));
    expect_exact_resume(all[i]);
  }
}

TEST_F(VhostDeathTest, TheNextDaemonMayDieAtEveryStoreToo) {
  start_tracked(small());
  const std::vector<Remains> first = first_life();
  std::set<std::pair<Bytes, Bytes>> seen;  // the same remains twice say nothing new
  for (std::size_t i = 0; i < first.size(); ++i) {
    Life life(first[i]);
    life.connect();
    life.daemon->device().hold();
    const auto second = remains_of(life.guest, life.inflight, life.disk, [&] {
      ASSERT_TRUE(life.frontend->enable_queue(0));
      // From the last to the first: batches that name those of the first life in another order.
      while (life.daemon->device().waiting_count() > 1) {
        life.daemon->device().complete(life.daemon->device().waiting_count() - 1);
        if (life.daemon->device().waiting_count() % 2 == 0) life.daemon->run();
      }
    });
    for (std::size_t j = 0; j < second.size(); ++j) {
      if (!seen.insert({second[j].guest, second[j].inflight}).second) continue;
      SCOPED_TRACE("store " + std::to_string(i) + ", then " + std::to_string(j));
      expect_exact_resume(second[j]);
    }
    life.daemon->stop(BlockStatus::shutting_down);
  }
  EXPECT_GT(seen.size(), first.size());
}

// --- Many deaths ---

class VhostManyDeathsTest : public VhostInflightTest, public testing::WithParamInterface<int> {};

TEST_P(VhostManyDeathsTest, EveryRequestIsAnsweredExactlyOnce) {
  TestExecutor random(static_cast<std::uint64_t>(GetParam()) + 17);
  const auto below = [&](std::uint64_t limit) { return random.random() % limit; };
  const GuestOptions options{
      .queue_size = 256, .event_index = GetParam() % 2 == 0, .indirect = GetParam() % 3 == 0};
  start_tracked(options);
  daemon_->device().hold();
  std::map<std::uint32_t, std::uint64_t> outstanding;  // sector by head
  std::map<std::uint64_t, std::uint32_t> versions;     // that was acknowledged, by sector
  std::set<std::uint64_t> busy_sectors;
  std::uint32_t next_version = 0;
  std::map<std::uint64_t, std::uint32_t> written;
  std::size_t submitted = 0;
  std::size_t answered = 0;
  std::size_t deaths = 0;
  const auto take = [&] {
    for (const UsedEntry& entry : guest_->take_used(0)) {
      const auto found = outstanding.find(entry.head);
      ASSERT_NE(found, outstanding.end()) << "answered twice, or never asked";
      EXPECT_EQ(entry.status, 0);
      versions[found->second] = written[found->second];
      busy_sectors.erase(found->second);
      outstanding.erase(found);
      ++answered;
    }
  };
  for (int step = 0; step < 600; ++step) {
    switch (below(8)) {
      case 0:
      case 1:
      case 2:
        for (std::uint64_t count = below(6); count != 0 && outstanding.size() < 64; --count) {
          const std::uint64_t sector = below(200);
          if (!busy_sectors.insert(sector).second) continue;
          written[sector] = ++next_version;
          fill_data(sector * 512, pattern(512, next_version));
          const std::uint16_t head = guest_->submit(
              0, BlkType::out, sector, {{sector * 512, 256}, {sector * 512 + 256, 256}});
          ASSERT_NE(head, TestGuest::kNone);
          ASSERT_TRUE(outstanding.emplace(head, sector).second);
          ++submitted;
        }
        if (below(8) == 0) {
          guest_->publish(0);  // dies before it sees the kick
          die();
          daemon_->device().hold();
          resume();
          ++deaths;
        } else {
          frontend_->publish(0);
        }
        break;
      case 3:
      case 4:
      case 5:
        for (std::uint64_t count = below(5); count != 0; --count) {
          if (daemon_->device().waiting_count() == 0) break;
          daemon_->device().complete(below(daemon_->device().waiting_count()));
        }
        if (below(3) != 0) daemon_->run();  // else it may die before it answers
        break;
      case 6:
        take();
        break;
      case 7:
        if (below(4) != 0) break;
        die();
        daemon_->device().hold();
        resume();
        ++deaths;
        break;
    }
    if (HasFatalFailure()) return;
  }
  daemon_->device().release();
  daemon_->run();
  take();
  EXPECT_TRUE(outstanding.empty());
  EXPECT_EQ(answered, submitted);
  EXPECT_GT(deaths, 5u);
  EXPECT_GT(submitted, 200u);
  EXPECT_EQ(fault_count(), 0u);
  for (const auto& [sector, version] : versions) {
    EXPECT_EQ(disk_bytes(sector * 512, 512), pattern(512, version)) << sector;
  }
}

INSTANTIATE_TEST_SUITE_P(Vhost, VhostManyDeathsTest, testing::Range(0, 24));

}  // namespace
}  // namespace holdfast::vhost
