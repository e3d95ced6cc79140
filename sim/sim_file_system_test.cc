// SPDX-License-Identifier: Apache-2.0
#include "sim/sim_file_system.h"

#include <gtest/gtest.h>

#include "io/file_system_contract.h"
#include "sim/test_world.h"

namespace holdfast {
namespace {

using sim::World;

class SimHarness final : public FileSystemHarness {
 public:
  SimHarness() {
    EXPECT_TRUE(world_.run(world_.files->make_directory("/base")).ok());
    world_.faults.enabled = true;  // delays, stragglers and early landings; no errors
    world_.faults.options.slow_chance = 0.05;
    world_.faults.options.lands_early_chance = 0.3;
  }
  ~SimHarness() override {
    EXPECT_FALSE(world_.scheduler.failed()) << world_.scheduler.violation().details;
  }
  Executor& executor() override { return *world_.host; }
  FileSystem& file_system() override { return *world_.files; }
  std::string base_path() override { return "/base"; }
  void run_until(const std::function<bool()>& done) override { world_.run_until(done); }

 private:
  World world_;
};

std::unique_ptr<FileSystemHarness> make_harness() {
  return std::make_unique<SimHarness>();
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(Simulated, FileSystemContract, testing::Values(&make_harness));

namespace {

TEST(SimFileSystem, CompletedWritesSurviveTheProcess) {
  World world;
  world.file = world.open("/f", true);
  EXPECT_EQ(world.write(8192, 7), 0);
  world.kill(false);
  world.start();
  world.file = world.open("/f", false);
  EXPECT_EQ(world.sectors(8192), std::vector<int>(8, 7));
}

TEST(SimFileSystem, SyncedWritesAndNamesSurvivePowerLoss) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    World world(seed);
    world.file = world.open("/f", true);
    EXPECT_TRUE(world.run(world.files->sync_directory("/")).ok());
    EXPECT_EQ(world.write(0, 7), 0);
    EXPECT_EQ(world.sync(), 0);
    EXPECT_EQ(world.write(4096, 8), 0);
    world.kill(true);
    world.start();
    world.file = world.open("/f", false);
    EXPECT_EQ(world.sectors(0), std::vector<int>(8, 7));
  }
}

TEST(SimFileSystem, UnsyncedSectorsSurvivePowerLossEachForItself) {
  int all = 0;
  int none = 0;
  int torn = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    World world(seed);
    world.file = world.open("/f", true);
    EXPECT_TRUE(world.run(world.files->sync_directory("/")).ok());
    EXPECT_EQ(world.write(0, 7), 0);
    EXPECT_EQ(world.sync(), 0);
    EXPECT_EQ(world.write(0, 8), 0);
    world.kill(true);
    world.start();
    world.file = world.open("/f", false);
    int survived = 0;
    for (const int value : world.sectors(0)) {
      EXPECT_TRUE(value == 7 || value == 8) << value;
      survived += value == 8;
    }
    ++(survived == 8 ? all : survived == 0 ? none : torn);
  }
  EXPECT_GT(all, 20);
  EXPECT_GT(none, 20);
  EXPECT_GT(torn, 20);
}

TEST(SimFileSystem, UnsyncedNamesAreUndoneFromTheLastOn) {
  std::vector<int> counts(4, 0);
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    World world(seed);
    const char* names[] = {"/a", "/b", "/c"};
    for (const char* name : names) world.file = world.open(name, true, 4096);
    world.kill(true);
    world.start();
    std::vector<std::string> left = world.run(world.files->list("/")).value();
    std::sort(left.begin(), left.end());
    const std::vector<std::string> all = {"a", "b", "c"};
    EXPECT_TRUE(std::equal(left.begin(), left.end(), all.begin())) << "not a prefix";
    ++counts[left.size()];
  }
  for (const int count : counts) EXPECT_GT(count, 0);
}

TEST(SimFileSystem, AnUnsyncedRenameMayBeUndoneButNeverHalf) {
  int undone = 0;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    World world(seed);
    EXPECT_TRUE(world.run(world.files->write_file("/old", {std::byte{1}})).ok());
    EXPECT_TRUE(world.run(world.files->write_file("/new", {std::byte{2}})).ok());
    EXPECT_TRUE(world.run(world.files->sync_directory("/")).ok());
    EXPECT_TRUE(world.run(world.files->rename("/new", "/old")).ok());
    world.kill(true);
    world.start();
    const auto content = world.run(world.files->read_file("/old"));
    ASSERT_TRUE(content.ok());
    const bool new_is_there = world.run(world.files->read_file("/new")).ok();
    EXPECT_EQ(new_is_there, content.value()[0] == std::byte{1});
    undone += new_is_there;
  }
  EXPECT_GT(undone, 10);
  EXPECT_LT(undone, 90);
}

TEST(SimFileSystem, AfterAFailedSyncALaterGoodOneMayNotHelp) {
  int lost = 0;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    World world(seed);
    world.file = world.open("/f", true);
    EXPECT_EQ(world.sync(), 0);
    EXPECT_TRUE(world.run(world.files->sync_directory("/")).ok());
    EXPECT_EQ(world.write(0, 7), 0);
    world.faults.enabled = true;
    world.faults.options.sync_error_chance = 1;
    EXPECT_NE(world.sync(), 0);
    world.faults.enabled = false;
    EXPECT_EQ(world.sync(), 0);
    EXPECT_EQ(world.sectors(0), std::vector<int>(8, 7)) << "still visible";
    world.kill(true);
    world.start();
    world.file = world.open("/f", false);
    for (const int value : world.sectors(0)) lost += value == 0;
  }
  EXPECT_GT(lost, 100);
}

TEST(SimFileSystem, ASyncDoesNotCoverWritesThatCompleteAfterItsSubmission) {
  int lost = 0;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    World world(seed);
    world.file = world.open("/f", true);
    EXPECT_EQ(world.sync(), 0);
    EXPECT_TRUE(world.run(world.files->sync_directory("/")).ok());
    AlignedBuffer buffer(4096);
    std::memset(buffer.data(), 9, 4096);
    int done = 0;
    FileRequest write;
    FileRequest sync;
    write.operation = FileOperation::write;
    write.set_buffer(buffer.data(), 4096);
    sync.operation = FileOperation::sync_data;
    write.context = sync.context = &done;
    write.on_complete = sync.on_complete = [](FileRequest& r) { ++*static_cast<int*>(r.context); };
    world.file->submit(write);
    world.file->submit(sync);
    world.run_until([&] { return done == 2; });
    world.kill(true);
    world.start();
    world.file = world.open("/f", false);
    for (const int value : world.sectors(0)) lost += value == 0;
  }
  EXPECT_GT(lost, 100);
}

TEST(SimFileSystem, AWriteInFlightLandsBeforeTheLockIsFreeOrNever) {
  int landed = 0;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    World world(seed);
    world.file = world.open("/f", true);
    world.lock = world.run(world.files->lock("/lock", "first")).value();
    AlignedBuffer buffer(4096);
    std::memset(buffer.data(), 9, 4096);
    FileRequest write;
    write.operation = FileOperation::write;
    write.set_buffer(buffer.data(), 4096);
    write.on_complete = [](FileRequest&) {};
    world.file->submit(write);
    world.kill(false);
    world.start();
    for (;;) {
      auto lock = world.run(world.files->lock("/lock", "second"));
      if (lock.ok()) {
        world.lock = std::move(lock).value();
        break;
      }
      EXPECT_EQ(lock.error().code(), ErrorCode::busy);
    }
    EXPECT_GE(world.scheduler.now(), world.drained_at);
    world.file = world.open("/f", false);
    const std::vector<int> before = world.sectors(0);
    while (world.scheduler.step()) {
    }
    EXPECT_EQ(world.sectors(0), before) << "landed after the lock was taken";
    for (const int value : before) landed += value == 9;
  }
  EXPECT_GT(landed, 100);
  EXPECT_LT(landed, 750);
}

TEST(SimFileSystem, ASyncCoversWhatFailedAndWhatLandedLate) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    World world(seed);
    world.file = world.open("/f", true);
    EXPECT_TRUE(world.run(world.files->sync_directory("/")).ok());
    world.faults.enabled = true;
    world.faults.options.lands_early_chance = 0.5;
    world.faults.options.write_error_chance = 1;
    EXPECT_NE(world.write(0, 7), 0);
    AlignedBuffer buffer(4096);
    std::memset(buffer.data(), 9, 4096);
    FileRequest write;
    write.operation = FileOperation::write;
    write.offset_bytes = 4096;
    write.set_buffer(buffer.data(), 4096);
    write.on_complete = [](FileRequest&) {};
    world.file->submit(write);
    world.kill(false);
    world.faults.enabled = false;
    while (world.scheduler.step()) {
    }
    world.start();
    world.file = world.open("/f", false);
    EXPECT_EQ(world.sync(), 0);
    const std::vector<int> before = world.sectors(0, 8192);
    world.kill(true);
    world.start();
    world.file = world.open("/f", false);
    EXPECT_EQ(world.sectors(0, 8192), before);
  }
}

TEST(SimFileSystem, BreachesOfDirectInputOutputRulesAreViolations) {
  AlignedBuffer buffer(8192);
  const auto breach = [&](std::uint64_t offset_bytes, std::size_t skip, std::size_t bytes) {
    World world;
    world.file = world.open("/f", true, 64 * kKiB);
    FileRequest write;
    write.operation = FileOperation::write;
    write.offset_bytes = offset_bytes;
    write.set_buffer(buffer.data() + skip, bytes);
    write.on_complete = [](FileRequest&) {};
    world.file->submit(write);
    const bool failed = world.scheduler.failed();
    world.kill(false);
    return failed;
  };
  EXPECT_FALSE(breach(0, 0, 4096));
  EXPECT_TRUE(breach(100, 0, 4096));
  EXPECT_TRUE(breach(0, 8, 4096));
  EXPECT_TRUE(breach(0, 0, 1000));
  EXPECT_TRUE(breach(64 * kKiB, 0, 4096)) << "behind the preallocated space";
}

TEST(SimFileSystem, OverlappingWritesInFlightAreAViolation) {
  World world;
  world.file = world.open("/f", true);
  AlignedBuffer buffer(8192);
  FileRequest requests[3];
  const std::uint64_t offsets[] = {0, 8192, 4096};
  for (int i = 0; i < 3; ++i) {
    requests[i].operation = FileOperation::write;
    requests[i].offset_bytes = offsets[i];
    requests[i].set_buffer(buffer.data(), 8192);
    requests[i].on_complete = [](FileRequest&) {};
    world.file->submit(requests[i]);
    EXPECT_EQ(world.scheduler.failed(), i == 2);
  }
  world.kill(false);
}

TEST(SimFileSystem, ClosingAFileWithRequestsInFlightIsAViolation) {
  World world;
  world.file = world.open("/f", true);
  AlignedBuffer buffer(4096);
  FileRequest read;
  read.set_buffer(buffer.data(), 4096);
  read.on_complete = [](FileRequest&) {};
  world.file->submit(read);
  world.file.reset();
  EXPECT_TRUE(world.scheduler.failed());
}

TEST(SimFileSystem, AChangedBufferOfAWriteInFlightIsAViolation) {
  World world;
  world.file = world.open("/f", true);
  AlignedBuffer buffer(4096);
  std::memset(buffer.data(), 0, 4096);
  bool done = false;
  FileRequest write;
  write.operation = FileOperation::write;
  write.set_buffer(buffer.data(), 4096);
  write.context = &done;
  write.on_complete = [](FileRequest& r) { *static_cast<bool*>(r.context) = true; };
  world.file->submit(write);
  buffer.data()[17] = std::byte{1};
  world.run_until([&] { return done; });
  EXPECT_TRUE(world.scheduler.failed());
}

TEST(SimFileSystem, AFullDeviceRefusesAndTakesAgain) {
  World world;
  world.storage.set_foreign_bytes(kGiB - 64 * kKiB);
  FileOpenOptions options;
  options.writable = options.create_new = true;
  options.preallocate_bytes = kMiB;
  EXPECT_EQ(world.run(world.files->open("/f", options)).error().code(), ErrorCode::no_space);
  world.storage.set_foreign_bytes(0);
  world.file = world.open("/f", true);
  EXPECT_EQ(world.storage.used_bytes(), kMiB);
  EXPECT_TRUE(world.run(world.files->remove_file("/f")).ok());
  EXPECT_EQ(world.storage.used_bytes(), kMiB) << "deleted but still open";
  world.file.reset();
  EXPECT_EQ(world.storage.used_bytes(), 0u);
}

TEST(SimFileSystem, AnOutageFailsOrHoldsEverythingUntilItEnds) {
  World world;
  world.file = world.open("/f", true);
  world.faults.enabled = true;
  world.faults.outage_until = world.scheduler.now() + 5s;
  EXPECT_NE(world.write(0, 1), 0);
  EXPECT_EQ(world.run(world.files->list("/")).error().code(), ErrorCode::path_failure);
  world.faults.outage_hangs = true;
  const MonotonicTime end = world.faults.outage_until;
  world.write(0, 1);
  EXPECT_GE(world.scheduler.now(), end);
  EXPECT_EQ(world.write(0, 2), 0);
  EXPECT_EQ(world.sectors(0), std::vector<int>(8, 2));
}

TEST(SimFileSystem, RotChangesWhatIsRead) {
  World world;
  world.file = world.open("/f", true);
  EXPECT_EQ(world.write(0, 0), 0);
  std::string where;
  EXPECT_TRUE(world.storage.rot_one_bit([](const std::string&, const sim::Inode&) { return true; },
                                        &where));
  AlignedBuffer buffer(4096);
  EXPECT_EQ(world.run(World::io(world.file.get(), FileOperation::read, 0, buffer.span())), 0);
  int changed = 0;
  for (const std::byte byte : buffer.span()) changed += byte != std::byte{0};
  EXPECT_EQ(changed, 1) << where;
}

}  // namespace
}  // namespace holdfast
