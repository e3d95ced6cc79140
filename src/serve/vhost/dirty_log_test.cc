// SPDX-License-Identifier: Apache-2.0
//
// Live migration: every page that the device writes to is marked in the front-end's log, and
// requests that were not done are known to whoever goes on with the guest's memory.
#include "serve/vhost/dirty_log.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "base/limits.h"
#include "serve/vhost/vhost_fixture.h"

namespace holdfast::vhost {
namespace {

using Pages = std::set<std::uint64_t>;

// The pages that are marked; takes the marks away, as QEMU does.
Pages take_marks(const TestMemory& log) {
  Pages pages;
  for (std::size_t i = 0; i < log.size_bytes(); ++i) {
    const auto bits = static_cast<unsigned>(log.data()[i]);
    for (unsigned bit = 0; bit < 8; ++bit) {
      if ((bits >> bit & 1) != 0) pages.insert(i * 8 + bit);
    }
    log.data()[i] = std::byte{0};
  }
  return pages;
}

Pages pages_of(std::uint64_t guest_address, std::uint64_t size_bytes) {
  Pages pages;
  for (std::uint64_t at = guest_address; at < guest_address + size_bytes; ++at) {
    pages.insert(at / 4096);
  }
  return pages;
}

Pages operator|(Pages a, const Pages& b) {
  a.insert(b.begin(), b.end());
  return a;
}

TEST(DirtyLogTest, MarksExactlyThePagesThatWereTouched) {
  std::mt19937_64 random(1);
  const TestMemory memory(64);  // of 512 pages
  DirtyLog log;
  ASSERT_TRUE(log.adopt(memory.descriptor(), {.size_bytes = 64}, 512 * 4096).ok());
  for (int i = 0; i < 2000; ++i) {
    const std::uint64_t at = random() % (512 * 4096);
    const std::uint64_t count = random() % 3 == 0 ? random() % (100 * 4096) : random() % 10;
    const bool fits = count == 0 || at + count <= 512 * 4096;
    ASSERT_EQ(log.covers(at, count), fits) << at << " " << count;
    ASSERT_EQ(log.mark(at, count), fits);
    ASSERT_EQ(take_marks(memory), fits ? pages_of(at, count) : Pages{}) << at << " " << count;
  }
}

TEST(DirtyLogTest, MarksStayUntilTheyAreTaken) {
  const TestMemory memory(64);
  DirtyLog log;
  ASSERT_TRUE(log.adopt(memory.descriptor(), {.size_bytes = 64}, 0).ok());
  for (const std::uint64_t page : {3, 7, 5, 3, 400}) ASSERT_TRUE(log.mark(page * 4096, 1));
  EXPECT_EQ(take_marks(memory), (Pages{3, 5, 7, 400}));
}

TEST(DirtyLogTest, RefusesAddressesThatWrapAround) {
  const TestMemory memory(64);
  DirtyLog log;
  EXPECT_FALSE(log.covers(0, 1)) << "there is none";
  ASSERT_TRUE(log.adopt(memory.descriptor(), {.size_bytes = 64}, 0).ok());
  EXPECT_FALSE(log.mark(~std::uint64_t{0} - 10, 100));
  EXPECT_FALSE(log.mark(0, ~std::uint64_t{0}));
  EXPECT_FALSE(log.mark(512 * 4096, 1));
  EXPECT_EQ(take_marks(memory), Pages{});
}

TEST(DirtyLogTest, RefusesALogThatEndsBeforeTheGuestsMemory) {
  const TestMemory memory(4096);
  DirtyLog log;
  EXPECT_TRUE(log.adopt(memory.descriptor(), {.size_bytes = 2}, 16 * 4096).ok());
  EXPECT_FALSE(log.adopt(memory.descriptor(), {.size_bytes = 2}, 16 * 4096 + 1).ok());
  EXPECT_FALSE(log.adopt(memory.descriptor(), {.size_bytes = 0}, 0).ok());
  EXPECT_FALSE(log.adopt(memory.descriptor(), {.size_bytes = 4097}, 0).ok()) << "file too short";
  EXPECT_FALSE(log.adopt(memory.descriptor(), {.size_bytes = ~std::uint64_t{0}}, 0).ok());
  EXPECT_FALSE(
      log.adopt(memory.descriptor(), {.size_bytes = 64, .offset_bytes = ~std::uint64_t{0}}, 0)
          .ok());
  EXPECT_TRUE(log.is_there()) << "the one before";
  EXPECT_TRUE(log.mark(15 * 4096, 4096));
}

class VhostLogTest : public VhostTest {
 protected:
  static constexpr std::size_t kLogBytes = 4096;  // guest addresses up to 128 MiB

  void start_logging() {
    start(options_);
    EXPECT_EQ(frontend_->give_log(log_), 0u);
    ASSERT_TRUE(frontend_->set_logging(true));
    take_marks(log_);
  }
  // What QEMU sends to a back-end that comes back during a migration: the log comes last.
  void reconnect_logging(const TestMemory* inflight) {
    frontend_ = std::make_unique<TestFrontend>(*daemon_, *guest_);
    frontend_->want_logging(true);
    ASSERT_TRUE(frontend_->start(inflight));
  }
  static std::uint64_t data_address(const TestGuest& guest, std::uint64_t offset_bytes) {
    return TestGuest::guest_address(guest.data_at() + offset_bytes);
  }
  Pages data_pages(std::uint64_t offset_bytes, std::uint64_t size_bytes) const {
    return pages_of(data_address(*guest_, offset_bytes), size_bytes);
  }
  Pages status_pages(std::uint32_t head, std::size_t queue = 0) const {
    return pages_of(
        TestGuest::guest_address(guest_->frame_at(queue, static_cast<std::uint16_t>(head))) + 16,
        1);
  }
  static Pages used_pages(std::size_t queue = 0) {
    return pages_of(TestFrontend::used_log_address(queue), 4 + 8 * 64 + 2);
  }

  GuestOptions options_;
  TestMemory log_{kLogBytes};
};

TEST_F(VhostLogTest, OffersToLog) {
  connect();
  EXPECT_NE(frontend_->ask(MessageType::get_features)->u64() & bit(kFeatureLogAll), 0u);
  EXPECT_NE(frontend_->ask(MessageType::get_protocol_features)->u64() & bit(kProtocolLogMemory),
            0u);
}

TEST_F(VhostLogTest, AReadMarksEveryPageOfItsPayloadItsStatusAndTheUsedRing) {
  for (const bool indirect : {false, true}) {
    options_.indirect = indirect;
    make_daemon();
    start_logging();
    // Two bytes of one page, two pages and a bit, and one in the middle of a page.
    const std::vector<Piece> pieces = {{4094, 514}, {3 * 4096, 2 * 4096}, {7 * 4096 + 1024, 510}};
    ASSERT_NE(guest_->submit(0, BlkType::in, 0, pieces), TestGuest::kNone);
    frontend_->publish(0);
    const auto used = guest_->take_used(0);
    ASSERT_EQ(used.size(), 1u);
    EXPECT_EQ(used[0].status, 0);
    EXPECT_EQ(take_marks(log_), data_pages(4094, 514) | data_pages(3 * 4096, 2 * 4096) |
                                    data_pages(7 * 4096 + 1024, 510) | status_pages(used[0].head) |
                                    used_pages());
  }
}

TEST_F(VhostLogTest, AWriteMarksItsStatusAndTheUsedRingOnly) {
  start_logging();
  for (const BlkType type : {BlkType::out, BlkType::flush}) {
    const std::vector<Piece> pieces =
        type == BlkType::out ? std::vector<Piece>{{8192, 4096}} : std::vector<Piece>{};
    const auto used = frontend_->perform(0, type, 0, pieces);
    ASSERT_TRUE(used.has_value());
    EXPECT_EQ(take_marks(log_), status_pages(used->head) | used_pages());
  }
}

TEST_F(VhostLogTest, AnAnswerToGetIdMarksItsPayload) {
  start_logging();
  const auto used = frontend_->perform(0, BlkType::get_id, 0, {{8192, 20}});
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(take_marks(log_), data_pages(8192, 20) | status_pages(used->head) | used_pages());
}

TEST_F(VhostLogTest, AReadThatFailedMarksWhatItMayHaveTouched) {
  start_logging();
  daemon_->device().fail_all(BlockStatus::medium_error);
  const auto used = frontend_->perform(0, BlkType::in, 0, {{8192, 4096}});
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->status, static_cast<std::uint8_t>(BlkStatus::io_error));
  EXPECT_EQ(take_marks(log_), data_pages(8192, 4096) | status_pages(used->head) | used_pages());
}

TEST_F(VhostLogTest, TheUsedRingIsMarkedWhereTheFrontEndSaysAndOnlyIfItSaysSo) {
  options_.queue_count = 2;
  start_logging();
  const auto used = frontend_->perform(1, BlkType::out, 0, {{0, 512}});
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(take_marks(log_), status_pages(used->head, 1) | used_pages(1));
  // Both logged, but the rings of neither: the flag is gone, the feature is not.
  frontend_->want_logging(false);
  ASSERT_TRUE(frontend_->set_addresses(0) && frontend_->set_addresses(1));
  const auto other = frontend_->perform(0, BlkType::out, 0, {{0, 512}});
  ASSERT_TRUE(other.has_value());
  EXPECT_EQ(take_marks(log_), status_pages(other->head));
}

TEST_F(VhostLogTest, WithoutEventIndexesTheFlagsOfTheUsedRingAreMarked) {
  options_.event_index = false;
  start_logging();
  guest_->set_available_flags(0, kAvailableNoInterrupt);
  daemon_->device().hold();
  // Taken, not answered: all that was written is the flag that asks for no more kicks.
  ASSERT_NE(guest_->submit(0, BlkType::out, 0, {{0, 512}}), TestGuest::kNone);
  frontend_->publish(0);
  ASSERT_EQ(daemon_->device().waiting_count(), 1u);
  EXPECT_EQ(take_marks(log_), used_pages());
  daemon_->device().release();
  daemon_->run();
}

TEST_F(VhostLogTest, NothingIsMarkedBeforeLoggingOrAfterIt) {
  start(options_);
  EXPECT_EQ(frontend_->give_log(log_), 0u);
  ASSERT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 4096}}).has_value());
  EXPECT_EQ(take_marks(log_), Pages{});
  ASSERT_TRUE(frontend_->set_logging(true));
  ASSERT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 4096}}).has_value());
  EXPECT_NE(take_marks(log_), Pages{});
  ASSERT_TRUE(frontend_->set_logging(false));
  ASSERT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 4096}}).has_value());
  EXPECT_EQ(take_marks(log_), Pages{});
  EXPECT_EQ(fault_count(), 0u);
}

TEST_F(VhostLogTest, ReadsThatWereUnderWayWhenLoggingBeganAreMarked) {
  start(options_);
  daemon_->device().hold();
  ASSERT_NE(guest_->submit(0, BlkType::in, 0, {{4096, 8192}}), TestGuest::kNone);
  frontend_->publish(0);
  EXPECT_EQ(frontend_->give_log(log_), 0u);
  ASSERT_TRUE(frontend_->set_logging(true));
  EXPECT_EQ(daemon_->device().waiting_count(), 1u) << "switching it on disturbs nobody";
  take_marks(log_);
  daemon_->device().complete(0);
  daemon_->run();
  const auto used = guest_->take_used(0);
  ASSERT_EQ(used.size(), 1u);
  EXPECT_EQ(take_marks(log_), data_pages(4096, 8192) | status_pages(used[0].head) | used_pages());
}

TEST_F(VhostLogTest, TheUsedRingIsMarkedAsAWholeWhenItsLoggingBegins) {
  start(options_);
  ASSERT_TRUE(frontend_->perform(0, BlkType::out, 0, {{0, 512}}).has_value());
  EXPECT_EQ(frontend_->give_log(log_), 0u);
  ASSERT_TRUE(frontend_->set_logging(true));
  EXPECT_EQ(take_marks(log_), used_pages());
}

TEST_F(VhostLogTest, ReadsIntoARegionThatWasTakenAwayAreMarkedWhereItWas) {
  start_logging();
  daemon_->device().hold();
  ASSERT_NE(guest_->submit(0, BlkType::in, 0, {{4096, 4096}}), TestGuest::kNone);
  frontend_->publish(0);
  // The same memory again in another mapping, as QEMU does when regions change.
  ASSERT_TRUE(frontend_->share_memory());
  take_marks(log_);
  daemon_->device().release();
  daemon_->run();
  const auto used = guest_->take_used(0);
  ASSERT_EQ(used.size(), 1u);
  EXPECT_EQ(take_marks(log_), data_pages(4096, 4096) | status_pages(used[0].head) | used_pages());
  EXPECT_EQ(fault_count(), 0u);
}

TEST_F(VhostLogTest, ReadsThatAreGivenUpAreMarked) {
  connect();
  ASSERT_TRUE(frontend_->negotiate());
  const auto inflight = frontend_->get_inflight();
  ASSERT_TRUE(inflight != nullptr && frontend_->set_inflight(*inflight));
  ASSERT_TRUE(frontend_->share_memory() && frontend_->prepare_queue(0));
  ASSERT_TRUE(frontend_->enable_queue(0));
  EXPECT_EQ(frontend_->give_log(log_), 0u);
  ASSERT_TRUE(frontend_->set_logging(true));
  daemon_->device().hold();
  daemon_->device().set_holding(true);
  ASSERT_NE(guest_->submit(0, BlkType::in, 0, {{4096, 4096}}), TestGuest::kNone);
  frontend_->publish(0);
  take_marks(log_);
  EXPECT_EQ(frontend_->stop_queue(0), 0u);
  // And the available ring, which shows it again.
  EXPECT_EQ(
      take_marks(log_),
      data_pages(4096, 4096) | pages_of(TestGuest::guest_address(guest_->available_at(0)) + 4, 2));
}

TEST_F(VhostLogTest, TheEventOfTheLogIsSignalledAfterMarks) {
  start_logging();
  const Descriptor event = make_event();
  std::vector<Descriptor> files;
  files.push_back(copy_of(event));
  ASSERT_TRUE(frontend_->tell(MessageType::set_log_fd, {}, std::move(files)));
  take_event(event);
  ASSERT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 4096}}).has_value());
  EXPECT_TRUE(take_event(event));
  ASSERT_TRUE(frontend_->set_logging(false));
  take_event(event);
  ASSERT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 4096}}).has_value());
  EXPECT_FALSE(take_event(event));
}

TEST_F(VhostLogTest, AnEventOfTheLogThatIsNoneIsRefused) {
  start_logging();
  EXPECT_FALSE(frontend_->tell(MessageType::set_log_fd, {}));
  std::vector<Descriptor> files;
  files.push_back(log_.descriptor());
  EXPECT_FALSE(frontend_->tell(MessageType::set_log_fd, {}, std::move(files)));
  ASSERT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 4096}}).has_value());
}

// Whatever a guest asks for and however it is answered: a page that differs from what it was before
// the device's turn is marked.
TEST_F(VhostLogTest, NoPageChangesWithoutItsMark) {
  std::mt19937_64 random(1);
  options_ = {.queue_count = 2, .data_bytes = 128 * kKiB, .event_index = false};
  for (const bool event_index : {false, true}) {
    options_.event_index = event_index;
    make_daemon();
    connect(options_);
    ASSERT_TRUE(frontend_->negotiate());
    const auto inflight = frontend_->get_inflight();
    ASSERT_TRUE(inflight != nullptr && frontend_->set_inflight(*inflight));
    ASSERT_TRUE(frontend_->share_memory());
    for (std::size_t i = 0; i < 2; ++i) {
      ASSERT_TRUE(frontend_->prepare_queue(i) && frontend_->enable_queue(i));
    }
    EXPECT_EQ(frontend_->give_log(log_), 0u);
    ASSERT_TRUE(frontend_->set_logging(true));
    std::generate(disk_.bytes.begin(), disk_.bytes.end(),
                  [&] { return static_cast<std::byte>(random()); });
    std::size_t changed = 0;
    std::size_t given_up = 0;
    for (int round = 0; round < 600; ++round) {
      const std::size_t queue = random() % 2;
      for (std::uint64_t i = random() % 4; i != 0; --i) {
        constexpr BlkType kTypes[] = {BlkType::in, BlkType::in, BlkType::out, BlkType::flush,
                                      BlkType::get_id};
        const BlkType type = kTypes[random() % std::size(kTypes)];
        std::vector<Piece> pieces;
        if (type != BlkType::flush) {
          pieces = {{random() % (64 * kKiB), static_cast<std::uint32_t>(1 + random() % 30) * 512},
                    {random() % (64 * kKiB), 512}};
        }
        guest_->submit(queue, type, random() % 1024, pieces);
      }
      const bool must_kick = guest_->publish(queue);
      guest_->take_used(queue);
      take_marks(log_);
      const Bytes before(guest_->memory().bytes().begin(), guest_->memory().bytes().end());
      const std::uint64_t what = random() % 8;
      if (what == 0) {
        daemon_->device().hold();
        daemon_->device().set_holding(true);
      } else if (what == 1) {
        daemon_->device().set_holding(false);
        daemon_->device().release();
      } else if (what == 2 && daemon_->device().waiting_count() != 0) {
        daemon_->device().complete(random() % daemon_->device().waiting_count(),
                                   random() % 4 == 0 ? BlockStatus::medium_error : BlockStatus::ok);
      } else if (what == 3) {
        const auto base = frontend_->stop_queue(queue);
        ASSERT_TRUE(base.has_value());
        given_up += static_cast<std::uint16_t>(guest_->available_index(queue) - *base);
        ASSERT_TRUE(frontend_->prepare_queue(queue, *base));
      } else if (must_kick) {
        frontend_->kick(queue);
      }
      daemon_->run();
      Pages marks = take_marks(log_);
      for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
        if (!marks.contains(*used_pages(i).begin())) continue;
        const std::uint64_t ring = TestGuest::guest_address(guest_->used_at(i));
        marks = marks | pages_of(ring, 4 + 8 * 64 + 2);
      }
      for (std::size_t at = 0; at < before.size(); ++at) {
        if (guest_->memory().data()[at] == before[at]) continue;
        ++changed;
        ASSERT_TRUE(marks.contains(TestGuest::guest_address(at) / 4096)) << round << " " << at;
      }
    }
    EXPECT_GT(changed, 100'000u);
    EXPECT_GT(given_up, 50u);
    EXPECT_EQ(fault_count(VhostFault::log_out_of_range), 0u);
    EXPECT_EQ(daemon_->statistics().devices_broken, 0u);
  }
}

// --- Which log ---

TEST_F(VhostLogTest, ABackEndThatComesBackStartsItsQueuesWhenItHasTheLog) {
  connect();
  ASSERT_TRUE(frontend_->negotiate());
  const auto inflight = frontend_->get_inflight();
  ASSERT_TRUE(inflight != nullptr && frontend_->set_inflight(*inflight));
  ASSERT_TRUE(frontend_->share_memory() && frontend_->prepare_queue(0));
  ASSERT_TRUE(frontend_->enable_queue(0));
  EXPECT_EQ(frontend_->give_log(log_), 0u);
  ASSERT_TRUE(frontend_->set_logging(true));
  daemon_->device().hold();
  ASSERT_NE(guest_->submit(0, BlkType::in, 0, {{4096, 4096}}), TestGuest::kNone);
  frontend_->publish(0);
  // It dies: QEMU has taken what it marked, and makes a new log.
  guest_->leave_memory_behind();
  daemon_->stop(BlockStatus::shutting_down);
  make_daemon();
  const TestMemory log(kLogBytes);
  reconnect_logging(inflight.get());
  EXPECT_TRUE(disk_.submitted.size() == 1u) << "it could not mark what it does";
  EXPECT_EQ(frontend_->give_log(log), 0u);
  ASSERT_EQ(guest_->take_used(0).size(), 1u);
  EXPECT_EQ(disk_.submitted.size(), 2u);
  EXPECT_EQ(take_marks(log), data_pages(4096, 4096) | status_pages(0) | used_pages());
}

TEST_F(VhostLogTest, ADaemonThatComesBackMarksTheUsedRing) {
  // The one before may have died between a store and its mark.
  make_daemon();
  make_guest(options_);
  reconnect_logging(nullptr);
  EXPECT_EQ(frontend_->give_log(log_), 0u);
  EXPECT_EQ(take_marks(log_), used_pages());
}

TEST_F(VhostLogTest, ALogThatIsReplacedIsLeftAlone) {
  start_logging();
  const TestMemory larger(2 * kLogBytes);
  EXPECT_EQ(frontend_->give_log(larger), 0u);
  ASSERT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 4096}}).has_value());
  EXPECT_EQ(take_marks(log_), Pages{});
  EXPECT_NE(take_marks(larger), Pages{});
}

TEST_F(VhostLogTest, AfterARestartOfQueuesTheNextLogGetsWhatTheOldOneGot) {
  start_logging();
  ASSERT_TRUE(frontend_->stop_queue(0).has_value());
  take_marks(log_);
  // A guest that was reset: QEMU starts its queues again, and then gives another log.
  guest_->reset_queue(0);
  ASSERT_TRUE(frontend_->prepare_queue(0));
  const auto used = frontend_->perform(0, BlkType::in, 0, {{4096, 4096}});
  ASSERT_TRUE(used.has_value());
  const TestMemory next(kLogBytes);
  EXPECT_EQ(frontend_->give_log(next), 0u);
  EXPECT_EQ(take_marks(next), data_pages(4096, 4096) | status_pages(used->head) | used_pages());
}

TEST_F(VhostLogTest, ALogThatIsTooSmallOrNoFileIsRefused) {
  start(options_);
  const TestMemory small(64);  // 2 MiB; the guest's memory begins behind
  EXPECT_EQ(frontend_->give_log(small), 1u);
  const auto give = [&](std::uint64_t size_bytes, std::vector<Descriptor> files) {
    const auto reply = frontend_->ask(MessageType::set_log_base,
                                      TestFrontend::log_payload(size_bytes), std::move(files));
    return reply.has_value() ? reply->u64() : ~std::uint64_t{0};
  };
  EXPECT_EQ(give(kLogBytes, {}), 1u);
  std::vector<Descriptor> events;
  events.push_back(make_event());
  EXPECT_EQ(give(kLogBytes, std::move(events)), 1u);
  std::vector<Descriptor> shorter;
  shorter.push_back(log_.descriptor());
  EXPECT_EQ(give(kLogBytes + 1, std::move(shorter)), 1u);
  std::vector<Descriptor> two;
  two.push_back(log_.descriptor());
  two.push_back(log_.descriptor());
  EXPECT_EQ(give(kLogBytes, std::move(two)), 1u);
  EXPECT_EQ(fault_count(VhostFault::message_refused), 5u);
  EXPECT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 4096}}).has_value());
}

TEST_F(VhostLogTest, ToLogWithoutALogEndsASessionWhoseQueuesRun) {
  start(options_);
  frontend_->want_logging(true);
  EXPECT_FALSE(frontend_->tell_u64(MessageType::set_features, frontend_->features()));
  EXPECT_TRUE(frontend_->is_closed());
  EXPECT_EQ(fault_count(VhostFault::message_refused), 1u);
}

TEST_F(VhostLogTest, AFrontEndThatCannotShareALogMayTakeTheFeature) {
  start(options_);
  const std::uint64_t unshared = TestFrontend::kProtocolFeatures & ~bit(kProtocolLogMemory);
  ASSERT_TRUE(frontend_->tell_u64(MessageType::set_protocol_features, unshared));
  frontend_->want_logging(true);
  EXPECT_TRUE(frontend_->tell_u64(MessageType::set_features, frontend_->features()));
  EXPECT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 4096}}).has_value());
  EXPECT_EQ(fault_count(), 0u);
  // It can after all, and has not: what it would miss is not shown.
  ASSERT_TRUE(
      frontend_->tell_u64(MessageType::set_protocol_features, TestFrontend::kProtocolFeatures));
  EXPECT_FALSE(frontend_->perform(0, BlkType::in, 0, {{0, 4096}}).has_value());
  EXPECT_NE(fault_count(VhostFault::log_out_of_range), 0u);
}

TEST_F(VhostLogTest, QueuesThatWaitForALogStartWhenLoggingIsSwitchedOff) {
  make_daemon();
  make_guest(options_);
  reconnect_logging(nullptr);
  ASSERT_NE(guest_->submit(0, BlkType::in, 0, {{0, 512}}), TestGuest::kNone);
  frontend_->publish(0);
  EXPECT_TRUE(guest_->take_used(0).empty());
  ASSERT_TRUE(frontend_->set_logging(false));
  EXPECT_EQ(guest_->take_used(0).size(), 1u);
}

TEST_F(VhostLogTest, AUsedRingThatIsLoggedOutsideTheLogBreaksTheDevice) {
  start(options_);
  const TestMemory small(512);  // the guest's memory, but not where the ring is to be logged
  EXPECT_EQ(frontend_->give_log(small), 0u);
  frontend_->set_logging(true);
  ASSERT_NE(guest_->submit(0, BlkType::in, 0, {{0, 512}}), TestGuest::kNone);
  frontend_->publish(0);
  EXPECT_TRUE(guest_->take_used(0).empty()) << "nobody is to see what is not marked";
  EXPECT_EQ(fault_count(VhostFault::log_out_of_range), 1u);
  EXPECT_EQ(daemon_->statistics().devices_broken, 1u);
  EXPECT_FALSE(frontend_->is_closed());
}

TEST_F(VhostLogTest, MemoryThatIsAddedBehindTheLogBreaksTheDeviceWhenItIsUsed) {
  start(options_);
  const TestMemory log(1024);  // up to 32 MiB
  EXPECT_EQ(frontend_->give_log(log), 0u);
  ASSERT_TRUE(frontend_->set_logging(true));
  const TestMemory more(64 * kKiB);
  const std::uint64_t address = 64 * kMiB;
  std::vector<Descriptor> files;
  files.push_back(more.descriptor());
  ASSERT_TRUE(
      frontend_->tell(MessageType::add_mem_reg,
                      Payload()
                          .put(std::uint64_t{0})
                          .put(RegionPlace{address, more.size_bytes(), 0x6F00'0000'0000ull, 0}),
                      std::move(files)));
  EXPECT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 512}}).has_value());
  guest_->store(guest_->frame_at(0, 0), static_cast<std::uint32_t>(BlkType::in));
  guest_->store(guest_->frame_at(0, 0) + 8, std::uint64_t{0});
  guest_->set_descriptor(0, 0, TestGuest::guest_address(guest_->frame_at(0, 0)), 16,
                         kDescriptorNext, 1);
  guest_->set_descriptor(0, 1, address, 512, kDescriptorNext | kDescriptorWrite, 2);
  guest_->set_descriptor(0, 2, TestGuest::guest_address(guest_->frame_at(0, 0)) + 16, 1,
                         kDescriptorWrite, 0);
  guest_->make_available(0, 0);
  frontend_->publish(0);
  EXPECT_EQ(guest_->used_index(0), 1u);
  EXPECT_EQ(fault_count(VhostFault::log_out_of_range), 1u);
}

TEST_F(VhostLogTest, ALogThatIsTruncatedBreaksTheDeviceAndAnotherOneMendsIt) {
  start_logging();
  log_.truncate(0);
  ASSERT_NE(guest_->submit(0, BlkType::in, 0, {{0, 512}}), TestGuest::kNone);
  frontend_->publish(0);
  EXPECT_TRUE(guest_->take_used(0).empty());
  EXPECT_EQ(fault_count(VhostFault::memory_lost), 1u);
  EXPECT_FALSE(frontend_->is_closed());
  ASSERT_TRUE(frontend_->stop_queue(0).has_value());
  guest_->reset_queue(0);
  const TestMemory next(kLogBytes);
  EXPECT_EQ(frontend_->give_log(next), 0u);
  ASSERT_TRUE(frontend_->prepare_queue(0));
  EXPECT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 512}}).has_value());
}

// --- Requests that were not done ---

TEST_F(VhostLogTest, WhatWasGivenUpIsTakenAgainByWhoHasTheMemoryAndNoInflightMemory) {
  connect();
  ASSERT_TRUE(frontend_->negotiate());
  const auto inflight = frontend_->get_inflight();
  ASSERT_TRUE(inflight != nullptr && frontend_->set_inflight(*inflight));
  ASSERT_TRUE(frontend_->share_memory() && frontend_->prepare_queue(0));
  ASSERT_TRUE(frontend_->enable_queue(0));
  daemon_->device().hold();
  daemon_->device().set_holding(true);
  for (std::uint64_t i = 0; i < 6; ++i) {
    fill_data(i * 512, pattern(512, static_cast<std::uint32_t>(i)));
    ASSERT_NE(guest_->submit(0, BlkType::out, i, {{i * 512, 512}}), TestGuest::kNone);
  }
  frontend_->publish(0);
  daemon_->device().complete(4);  // out of order: their slots are not the last ones
  daemon_->device().complete(1);
  daemon_->run();
  ASSERT_EQ(guest_->take_used(0).size(), 2u);
  EXPECT_EQ(frontend_->stop_queue(0), 2u) << "as many as were answered";
  frontend_->hang_up();
  daemon_->device().set_holding(false);
  daemon_->device().release();
  disk_.submitted.clear();
  // The destination of a migration: another QEMU, with in-flight memory of its own.
  frontend_ = std::make_unique<TestFrontend>(*daemon_, *guest_);
  const auto fresh = frontend_->get_inflight();
  ASSERT_TRUE(fresh != nullptr && frontend_->start(fresh.get(), 2));
  ASSERT_EQ(disk_.submitted.size(), 4u);
  EXPECT_EQ(disk_.submitted[0].offset_bytes, 0u);
  EXPECT_EQ(disk_.submitted[1].offset_bytes, 2 * 512u);
  EXPECT_EQ(disk_.submitted[2].offset_bytes, 3 * 512u);
  EXPECT_EQ(disk_.submitted[3].offset_bytes, 5 * 512u);
  EXPECT_EQ(guest_->take_used(0).size(), 4u);
  for (std::uint64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(disk_bytes(i * 512, 512), pattern(512, static_cast<std::uint32_t>(i))) << i;
  }
  EXPECT_TRUE(frontend_->perform(0, BlkType::in, 0, {{0, 512}}).has_value());
}

TEST_F(VhostLogTest, GivenUpRequestsArePutBackAcrossTheEndOfTheRing) {
  make_daemon();
  make_guest({.queue_size = 16});
  frontend_ = std::make_unique<TestFrontend>(*daemon_, *guest_);
  guest_->reset_queue(0, 65'534);
  ASSERT_TRUE(frontend_->negotiate());
  const auto inflight = frontend_->get_inflight();
  ASSERT_TRUE(inflight != nullptr && frontend_->set_inflight(*inflight));
  ASSERT_TRUE(frontend_->share_memory() && frontend_->prepare_queue(0, 65'534));
  ASSERT_TRUE(frontend_->enable_queue(0));
  daemon_->device().hold();
  daemon_->device().set_holding(true);
  for (std::uint64_t i = 0; i < 5; ++i) {
    ASSERT_NE(guest_->submit(0, BlkType::out, i, {{i * 512, 512}}), TestGuest::kNone);
  }
  frontend_->publish(0);
  daemon_->device().complete(2);
  daemon_->run();
  EXPECT_EQ(frontend_->stop_queue(0), 65'535u);
  frontend_->hang_up();
  daemon_->device().set_holding(false);
  daemon_->device().release();
  disk_.submitted.clear();
  frontend_ = std::make_unique<TestFrontend>(*daemon_, *guest_);
  ASSERT_TRUE(frontend_->start(nullptr, 65'535));
  ASSERT_EQ(disk_.submitted.size(), 4u);
  EXPECT_EQ(disk_.submitted[2].offset_bytes, 3 * 512u);
  EXPECT_EQ(guest_->take_used(0).size(), 5u);
}

TEST_F(VhostLogTest, InflightMemoryThatWasTamperedWithPutsNothingBack) {
  connect();
  ASSERT_TRUE(frontend_->negotiate());
  const auto inflight = frontend_->get_inflight();
  ASSERT_TRUE(inflight != nullptr && frontend_->set_inflight(*inflight));
  ASSERT_TRUE(frontend_->share_memory() && frontend_->prepare_queue(0));
  ASSERT_TRUE(frontend_->enable_queue(0));
  daemon_->device().hold();
  daemon_->device().set_holding(true);
  ASSERT_NE(guest_->submit(0, BlkType::out, 0, {{0, 512}}), TestGuest::kNone);
  frontend_->publish(0);
  inflight->data()[16 + 16 * 40] = std::byte{1};  // one more head in flight than was taken
  const Bytes before(guest_->memory().data() + guest_->available_at(0),
                     guest_->memory().data() + guest_->used_at(0));
  EXPECT_EQ(frontend_->stop_queue(0), 1u);
  EXPECT_EQ(Bytes(guest_->memory().data() + guest_->available_at(0),
                  guest_->memory().data() + guest_->used_at(0)),
            before);
}

}  // namespace
}  // namespace holdfast::vhost
