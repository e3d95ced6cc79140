// SPDX-License-Identifier: Apache-2.0
#include "pool/dir_pool.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <utility>

#include "io/disk.h"
#include "io/temporary_directory.h"
#include "pool/names.h"
#include "pool/open_pool.h"
#include "pool/pool_contract.h"
#include "pool/space.h"
#include "pool/testing_forwarding_pool.h"

namespace holdfast {
namespace {

namespace fs = std::filesystem;

// The kernel's file system with the space and the failures of a test's choice.
class TweakedFileSystem final : public FileSystem {
 public:
  explicit TweakedFileSystem(FileSystem& below) : below_(below) {}
  std::optional<FileSystemSpace> space_answer;
  bool has_links = true;
  std::string failing_sync;           // sync_directory of this path fails
  std::string lost_answer;            // renaming to this path is done, and yet it fails
  std::function<void()> before_look;  // once, before a file's size is looked at

  Task<Result<std::unique_ptr<File>>> open(std::string path, FileOpenOptions options) override {
    return below_.open(std::move(path), options);
  }
  Task<Result<void>> make_directory(std::string path) override {
    return below_.make_directory(std::move(path));
  }
  Task<Result<void>> remove_file(std::string path) override {
    return below_.remove_file(std::move(path));
  }
  Task<Result<void>> remove_directory(std::string path) override {
    return below_.remove_directory(std::move(path));
  }
  Task<Result<void>> rename(std::string from, std::string to) override {
    const bool is_lost = to == lost_answer;
    CO_TRY(co_await below_.rename(std::move(from), std::move(to)));
    if (is_lost) co_return Error(ErrorCode::path_failure, "injected");
    co_return Result<void>{};
  }
  Task<Result<void>> link(std::string from, std::string to) override {
    if (!has_links) co_return Error(ErrorCode::unsupported, "injected");
    co_return co_await below_.link(std::move(from), std::move(to));
  }
  Task<Result<FileStatus>> status(std::string path) override {
    if (const auto meanwhile = std::exchange(before_look, nullptr)) meanwhile();
    return below_.status(std::move(path));
  }
  Task<Result<void>> sync_directory(std::string path) override {
    if (path == failing_sync) co_return Error(ErrorCode::path_failure, "injected");
    co_return co_await below_.sync_directory(std::move(path));
  }
  Task<Result<std::vector<std::string>>> list(std::string path) override {
    return below_.list(std::move(path));
  }
  Task<Result<void>> truncate(std::string path, std::uint64_t size_bytes) override {
    return below_.truncate(std::move(path), size_bytes);
  }
  Task<Result<std::uint64_t>> allocated_bytes(std::string path) override {
    if (const auto meanwhile = std::exchange(before_look, nullptr)) meanwhile();
    return below_.allocated_bytes(std::move(path));
  }
  Task<Result<void>> allocate(std::string path, std::uint64_t size_bytes) override {
    return below_.allocate(std::move(path), size_bytes);
  }
  Task<Result<FileSystemSpace>> space(std::string path) override {
    if (space_answer.has_value()) co_return *space_answer;
    co_return co_await below_.space(std::move(path));
  }
  Task<Result<std::vector<std::byte>>> read_file(std::string path) override {
    return below_.read_file(std::move(path));
  }
  Task<Result<void>> write_file(std::string path, std::vector<std::byte> bytes) override {
    return below_.write_file(std::move(path), std::move(bytes));
  }
  Task<Result<std::unique_ptr<FileLock>>> lock(std::string path, std::string holder) override {
    return below_.lock(std::move(path), std::move(holder));
  }

 private:
  FileSystem& below_;
};

class DirHarness final : public PoolHarness {
 public:
  DirHarness() {
    PoolCreateOptions options;
    options.segment_bytes = kContractSegmentBytes;
    auto created = run(create_pool(context("test holder"), location(), options));
    EXPECT_TRUE(created.ok()) << created.error().message();
    pool_ = std::move(created).value();
  }
  Pool& pool() override { return *pool_; }
  void reopen() override {
    pool_.reset();
    auto opened = open();
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    pool_ = std::move(opened).value();
  }
  void run_until(const std::function<bool()>& done) override {
    EXPECT_TRUE(loop_->run_until(done, 30s)) << "nothing happened for 30 s";
  }

  template <typename T>
  T run(Task<T> task) {
    return run_task<T>([this](const std::function<bool()>& done) { run_until(done); },
                       std::move(task));
  }
  PoolContext context(std::string holder) { return PoolContext{*loop_, files_, std::move(holder)}; }
  Loop& loop() { return *loop_; }
  std::string path() const { return directory_.path() + "/pool"; }
  std::string location() const { return "dir:" + path(); }
  using Opened = Result<std::unique_ptr<Pool>>;
  Opened open() { return run(open_pool(context("test holder"), location())); }
  void close() { pool_.reset(); }
  TweakedFileSystem& files() { return files_; }
  const std::string& directory() const { return directory_.path(); }

 private:
  TemporaryDirectory directory_;
  std::unique_ptr<Loop> loop_ = Loop::create().value();
  Disk disk_{*loop_};
  TweakedFileSystem files_{disk_};
  std::unique_ptr<Pool> pool_;
};

std::unique_ptr<PoolHarness> make_harness() {
  return std::make_unique<DirHarness>();
}

// A pool as the host and a service loop use it together: names through the first, what volumes
// store through a view with a file system of its own.
class ViewedPool final : public ForwardingPool {
 public:
  ViewedPool(Pool& first, std::unique_ptr<Pool> view)
      : ForwardingPool(*view), first_(first), view_(std::move(view)) {}

  Task<Result<std::vector<VolumeRecord>>> list_volumes() override { return first_.list_volumes(); }
  Task<Result<void>> create_volume(VolumeRecord record, RootId root,
                                   std::vector<std::byte> root_bytes) override {
    return first_.create_volume(std::move(record), root, std::move(root_bytes));
  }
  Task<Result<void>> update_volume(VolumeRecord record) override {
    return first_.update_volume(std::move(record));
  }
  Task<Result<void>> remove_volume(VolumeId volume, RemovalOptions options) override {
    return first_.remove_volume(volume, options);
  }
  Task<Result<void>> trash_volume(VolumeId volume, WallTime since, WallTime until) override {
    return first_.trash_volume(volume, since, until);
  }
  Task<Result<std::vector<TrashedVolume>>> list_trash() override { return first_.list_trash(); }
  Task<Result<void>> restore_volume(VolumeId volume, std::string name) override {
    return first_.restore_volume(volume, std::move(name));
  }
  Task<Result<std::uint64_t>> volume_allocated_bytes(VolumeId volume) override {
    return first_.volume_allocated_bytes(volume);
  }
  Task<Result<void>> create_spare(VolumeId volume, SegmentPurpose purpose) override {
    return first_.create_spare(volume, purpose);
  }
  Task<Result<void>> remove_spare(SpareId spare) override { return first_.remove_spare(spare); }
  Task<Result<SegmentFiles>> count_segment_files(VolumeId volume) override {
    return first_.count_segment_files(volume);
  }
  Task<Result<std::vector<SnapshotId>>> list_snapshots(VolumeId volume) override {
    return first_.list_snapshots(volume);
  }
  Task<Result<std::vector<std::byte>>> read_snapshot(SnapshotId snapshot) override {
    return first_.read_snapshot(snapshot);
  }
  Task<Result<void>> add_clone_mark(CloneMark mark) override { return first_.add_clone_mark(mark); }
  Task<Result<void>> remove_clone_mark(CloneMark mark) override {
    return first_.remove_clone_mark(mark);
  }
  Task<Result<std::vector<CloneMark>>> list_clone_marks(VolumeId volume) override {
    return first_.list_clone_marks(volume);
  }

 private:
  Pool& first_;
  std::unique_ptr<Pool> view_;
};

class ViewHarness final : public PoolHarness {
 public:
  ViewHarness() { make_view(); }
  Pool& pool() override { return *viewed_; }
  void reopen() override {
    viewed_.reset();
    first_.reopen();
    make_view();
  }
  void run_until(const std::function<bool()>& done) override { first_.run_until(done); }

 private:
  void make_view() {
    viewed_.reset();
    files_ = std::make_unique<Disk>(first_.loop());
    const PoolContext context{first_.loop(), *files_, ""};
    viewed_ = std::make_unique<ViewedPool>(first_.pool(), view_pool(first_.pool().info(), context));
  }

  DirHarness first_;
  std::unique_ptr<Disk> files_;
  std::unique_ptr<ViewedPool> viewed_;
};

std::unique_ptr<PoolHarness> make_view_harness() {
  return std::make_unique<ViewHarness>();
}

INSTANTIATE_TEST_SUITE_P(Dir, PoolContract, testing::Values(&make_harness));
INSTANTIATE_TEST_SUITE_P(DirView, PoolContract, testing::Values(&make_view_harness));

Task<bool> remove_leftovers(Pool* pool, VolumeId volume) {
  co_await pool->remove_leftovers(volume);
  co_return true;
}

class DirPoolTest : public testing::Test {
 protected:
  template <typename T>
  T run(Task<T> task) {
    return harness_.run(std::move(task));
  }
  static VolumeId volume_id() {
    return Uuid::parse("00112233-4455-4677-8899-aabbccddeeff").value();
  }
  void make_volume() {
    VolumeRecord record;
    record.id = volume_id();
    record.name = "vol";
    RootId root{record.id, Epoch{1}, 0};
    std::vector<std::byte> bytes(100);
    ASSERT_TRUE(run(harness_.pool().create_volume(record, root, std::move(bytes))).ok());
  }
  fs::path volumes() { return fs::path(harness_.path()) / "volumes"; }
  fs::path volume() { return volumes() / volume_id().to_string(); }
  SegmentId segment(std::uint64_t number) {
    return SegmentId{volume_id(), Epoch{1}, SegmentNumber{number}};
  }
  static bool mentions(const Error& error, std::string_view text) {
    return error.message().find(text) != std::string::npos;
  }
  std::vector<std::byte> read_record() {
    return run(harness_.files().read_file(harness_.path() + "/holdfast.pool")).value();
  }
  void write_record(std::vector<std::byte> bytes) {
    ASSERT_TRUE(
        run(harness_.files().write_file(harness_.path() + "/holdfast.pool", std::move(bytes)))
            .ok());
  }

  DirHarness harness_;
};

TEST_F(DirPoolTest, TheLayoutIsAsDocumented) {
  make_volume();
  {
    const auto file = run(harness_.pool().create_segment(segment(0x2a), SegmentPurpose::metadata));
  }
  EXPECT_TRUE(fs::is_regular_file(fs::path(harness_.path()) / "holdfast.pool"));
  EXPECT_TRUE(fs::is_regular_file(volume() / "volume"));
  EXPECT_TRUE(fs::is_regular_file(volume() / "root-0000000000000001-0000000000000000"));
  EXPECT_TRUE(fs::is_regular_file(volume() / "seg-0000000000000001-000000000000002a"));
  EXPECT_EQ(std::distance(fs::directory_iterator(volume()), fs::directory_iterator()), 3);
  EXPECT_EQ(std::distance(fs::directory_iterator(volumes()), fs::directory_iterator()), 1);
}

TEST_F(DirPoolTest, ASecondDaemonIsKeptOutAndToldByWhom) {
  const auto second = run(open_pool(harness_.context("the second"), harness_.location()));
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code(), ErrorCode::busy);
  EXPECT_TRUE(mentions(second.error(), "test holder")) << second.error().message();
  harness_.close();
  EXPECT_TRUE(harness_.open().ok());
}

TEST_F(DirPoolTest, LocationsThatMakeNoSenseAreExplained) {
  const auto refusal = [&](const std::string& location) {
    const auto opened = run(open_pool(harness_.context("x"), location));
    EXPECT_FALSE(opened.ok()) << location;
    return opened.ok() ? Error(ErrorCode::internal, "") : opened.error();
  };
  EXPECT_EQ(refusal("dir:relative/path").code(), ErrorCode::invalid_argument);
  EXPECT_TRUE(mentions(refusal("dir:relative/path"), "absolute"));
  EXPECT_TRUE(mentions(refusal("/srv/x"), "dir:/srv/x"));
  EXPECT_EQ(refusal("dir:").code(), ErrorCode::invalid_argument);
  EXPECT_EQ(refusal("dir:///").code(), ErrorCode::invalid_argument);
  EXPECT_EQ(refusal("nfs:host").code(), ErrorCode::invalid_argument);
  EXPECT_EQ(refusal("lun:/dev/sda").code(), ErrorCode::unsupported);
}

TEST_F(DirPoolTest, WhatIsNotAPoolIsNotOpened) {
  const auto missing = run(open_pool(harness_.context("x"), harness_.location() + "-none"));
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code(), ErrorCode::not_found);
  EXPECT_TRUE(mentions(missing.error(), "there is no directory")) << missing.error().message();
  fs::create_directory(harness_.path() + "-empty");
  const auto empty = run(open_pool(harness_.context("x"), harness_.location() + "-empty"));
  ASSERT_FALSE(empty.ok());
  EXPECT_TRUE(mentions(empty.error(), "is not a pool")) << empty.error().message();
  EXPECT_TRUE(fs::is_empty(harness_.path() + "-empty")) << "a failed open leaves no trace";
}

TEST_F(DirPoolTest, APoolIsOnlyMadeWhereNothingIs) {
  PoolCreateOptions options;
  const auto again = run(create_pool(harness_.context("x"), harness_.location(), options));
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.error().code(), ErrorCode::already_exists);
  EXPECT_TRUE(mentions(again.error(), "pool open")) << again.error().message();

  const std::string full = harness_.directory() + "/full";
  fs::create_directory(full);
  std::ofstream(full + "/precious") << "x";
  const auto refused = run(create_pool(harness_.context("x"), "dir:" + full, options));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), ErrorCode::already_exists);
  EXPECT_TRUE(mentions(refused.error(), "precious"));

  const auto deep =
      run(create_pool(harness_.context("x"), "dir:" + harness_.directory() + "/a/b", options));
  ASSERT_FALSE(deep.ok());
  EXPECT_EQ(deep.error().code(), ErrorCode::not_found);
  EXPECT_TRUE(mentions(deep.error(), "mount")) << deep.error().message();
}

TEST_F(DirPoolTest, WithoutLinksWhatIsAdoptedIsCopiedInItsOwnLength) {
  make_volume();
  VolumeRecord record;
  record.id = Uuid::parse("10112233-4455-4677-8899-aabbccddeeff").value();
  record.name = "clone";
  std::vector<std::byte> bytes(100);
  const RootId root{record.id, Epoch{1}, 0};
  ASSERT_TRUE(run(harness_.pool().create_volume(record, root, std::move(bytes))).ok());
  ASSERT_TRUE(run(harness_.pool().create_segment(segment(1), SegmentPurpose::guest_data)).ok());
  ASSERT_TRUE(run(harness_.pool().trim_segment(segment(1), 64 * kKiB)).ok());
  const fs::path name = "seg-0000000000000001-0000000000000001";
  const fs::path adopted = volumes() / record.id.to_string() / name;
  const fs::path cut_off = volumes() / record.id.to_string() / (".new-" + name.string());
  std::ofstream(cut_off) << "what a crash left";
  harness_.files().has_links = false;
  ASSERT_TRUE(run(harness_.pool().adopt_segment(segment(1), record.id, AdoptBy::link)).ok());
  EXPECT_EQ(fs::file_size(adopted), 64 * kKiB);
  EXPECT_EQ(fs::hard_link_count(adopted), 1u);
  EXPECT_FALSE(fs::exists(cut_off));
  // It may not take of the reserve what a guest may not.
  const PoolSpace space = run(harness_.pool().space()).value();
  harness_.files().space_answer = FileSystemSpace{space.capacity_bytes, space.reserve_bytes};
  fs::remove(adopted);
  const auto refused = run(harness_.pool().adopt_segment(segment(1), record.id, AdoptBy::link));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), ErrorCode::no_space);
  EXPECT_FALSE(fs::exists(adopted));
}

TEST_F(DirPoolTest, AFreshFileSystemAndAnInterruptedCreationAreEmptyEnough) {
  const std::string path = harness_.directory() + "/fresh";
  fs::create_directories(path + "/lost+found");
  fs::create_directories(path + "/volumes");
  std::ofstream(path + "/holdfast.pool.new") << "half";
  PoolCreateOptions options;
  auto made = run(create_pool(harness_.context("x"), "dir:" + path + "/", options));
  ASSERT_TRUE(made.ok()) << made.error().message();
  EXPECT_EQ((*made)->info().location, "dir:" + path);
  EXPECT_EQ((*made)->info().segment_bytes, limits::kSegmentBytesDefault);
}

TEST_F(DirPoolTest, OptionsOutOfRangeAreRefused) {
  PoolCreateOptions shared;
  shared.shared = true;
  shared.io_timeout_seconds = 0;
  const std::string location = "dir:" + harness_.directory() + "/other";
  EXPECT_EQ(run(create_pool(harness_.context("x"), location, shared)).error().code(),
            ErrorCode::invalid_argument);
  for (const std::uint64_t bytes : {std::uint64_t{0}, 512 * kKiB, kMiB + 4096, 2 * kGiB}) {
    PoolCreateOptions options;
    options.segment_bytes = bytes;
    EXPECT_EQ(run(create_pool(harness_.context("x"), location, options)).error().code(),
              ErrorCode::invalid_argument);
  }
  EXPECT_FALSE(fs::exists(harness_.directory() + "/other"));
}

TEST_F(DirPoolTest, ADamagedPoolRecordIsReported) {
  harness_.close();
  auto bytes = read_record();
  bytes[20] ^= std::byte{1};
  write_record(bytes);
  const auto opened = harness_.open();
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code(), ErrorCode::corrupt);
  EXPECT_TRUE(mentions(opened.error(), harness_.path())) << opened.error().message();
  write_record({});
  EXPECT_EQ(harness_.open().error().code(), ErrorCode::corrupt) << "an empty record";
}

TEST_F(DirPoolTest, AnUnknownIncompatibleFeatureIsRefusedWithItsName) {
  harness_.close();
  auto record = format::decode_pool_record(read_record()).value();
  record.incompatible_features = std::uint64_t{1} << 9;
  write_record(format::encode_pool_record(record));
  const auto opened = harness_.open();
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code(), ErrorCode::unsupported);
  EXPECT_TRUE(mentions(opened.error(), "bit 9")) << opened.error().message();
  EXPECT_TRUE(mentions(opened.error(), "format version")) << opened.error().message();
}

TEST_F(DirPoolTest, OneDamagedVolumeDoesNotHideTheOthers) {
  make_volume();
  const fs::path other = volumes() / "99999999-9999-4999-8999-999999999999";
  fs::create_directory(other);
  std::ofstream(other / "volume") << "garbage";
  fs::create_directory(volumes() / "88888888-8888-4888-8888-888888888888");
  fs::copy(volume(), volumes() / "77777777-7777-4777-8777-777777777777");
  fs::create_directory(volumes() / "notes");
  const auto list = run(harness_.pool().list_volumes());
  ASSERT_TRUE(list.ok());
  ASSERT_EQ(list->size(), 1u);
  EXPECT_EQ(list->front().name, "vol");
}

TEST_F(DirPoolTest, LeftoversOfInterruptedOperationsAreRemovedAtOpen) {
  make_volume();
  harness_.close();
  const fs::path creating = volumes() / ".creating-99999999-9999-4999-8999-999999999999";
  const fs::path removing = volumes() / ".removing-88888888-8888-4888-8888-888888888888";
  fs::create_directory(creating);
  std::ofstream(creating / "volume") << "x";
  fs::create_directory(removing);
  std::ofstream(removing / "seg-0000000000000001-0000000000000001") << "x";
  harness_.reopen();
  EXPECT_FALSE(fs::exists(creating));
  EXPECT_FALSE(fs::exists(removing));
}

TEST_F(DirPoolTest, WhatAPublishingLeftIsRemovedOnlyWhenTheVolumesOwnerAsks) {
  make_volume();
  const fs::path left = volume() / ".new-root-0000000000000001-0000000000000005";
  std::ofstream(left) << "x";
  const auto roots = run(harness_.pool().list_roots(volume_id()));
  ASSERT_TRUE(roots.ok());
  EXPECT_EQ(roots->size(), 1u);
  EXPECT_TRUE(fs::exists(left)) << "a volume on another view may be writing it";
  run(remove_leftovers(&harness_.pool(), volume_id()));
  EXPECT_FALSE(fs::exists(left));
}

TEST_F(DirPoolTest, AViewNeedsNoLockAndLeavesItToThePool) {
  make_volume();
  Disk files(harness_.loop());
  auto view =
      view_pool(harness_.pool().info(), PoolContext{harness_.loop(), files, "somebody else"});
  EXPECT_EQ(run(view->list_roots(volume_id()))->size(), 1u);
  view.reset();
  EXPECT_EQ(harness_.open().error().code(), ErrorCode::busy) << "the pool still has its lock";
}

TEST_F(DirPoolTest, ForeignFilesAreNeitherSegmentsNorRoots) {
  make_volume();
  for (const char* name :
       {"seg-1-1", "seg-0000000000000001-00000000000000zz", "seg-0000000000000001_0000000000000001",
        "seg-0000000000000001-0000000000000001.bak", "seg-000000000000000A-0000000000000001",
        "root-0000000000000001-00000000000000001", "README"}) {
    std::ofstream(volume() / name) << "x";
  }
  EXPECT_TRUE(run(harness_.pool().list_segments(volume_id()))->empty());
  EXPECT_EQ(run(harness_.pool().list_roots(volume_id()))->size(), 1u);
}

TEST_F(DirPoolTest, GuestsStopAtTheReserveAndMetadataGoesOn) {
  make_volume();
  const std::uint64_t capacity = 1 * kTiB;
  const std::uint64_t reserve = reserve_bytes_of(capacity);
  harness_.files().space_answer = FileSystemSpace{capacity, reserve + kContractSegmentBytes - 1};
  const auto refused = run(harness_.pool().create_segment(segment(1), SegmentPurpose::guest_data));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), ErrorCode::no_space);
  EXPECT_TRUE(mentions(refused.error(), format_bytes(reserve))) << refused.error().message();
  EXPECT_TRUE(run(harness_.pool().list_segments(volume_id()))->empty());
  EXPECT_TRUE(run(harness_.pool().create_segment(segment(1), SegmentPurpose::metadata)).ok());
  harness_.files().space_answer = FileSystemSpace{capacity, reserve + kContractSegmentBytes};
  EXPECT_TRUE(run(harness_.pool().create_segment(segment(2), SegmentPurpose::guest_data)).ok());
}

TEST_F(DirPoolTest, DiscardsMayHaveHalfOfTheReserve) {
  make_volume();
  const std::uint64_t capacity = 1 * kTiB;
  const std::uint64_t reserve = reserve_bytes_of(capacity);
  harness_.files().space_answer = FileSystemSpace{capacity, reserve};
  EXPECT_FALSE(run(harness_.pool().create_segment(segment(1), SegmentPurpose::guest_data)).ok());
  EXPECT_TRUE(run(harness_.pool().create_segment(segment(2), SegmentPurpose::guest_discard)).ok());
  harness_.files().space_answer = FileSystemSpace{capacity, reserve / 2};
  EXPECT_FALSE(run(harness_.pool().create_segment(segment(3), SegmentPurpose::guest_discard)).ok());
}

TEST_F(DirPoolTest, ASegmentWhoseNameIsNotDurableIsNotLeftBehind) {
  make_volume();
  harness_.files().failing_sync = volume().string();
  const auto failed = run(harness_.pool().create_segment(segment(1), SegmentPurpose::guest_data));
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code(), ErrorCode::path_failure);
  harness_.files().failing_sync.clear();
  EXPECT_TRUE(run(harness_.pool().list_segments(volume_id()))->empty());
  EXPECT_TRUE(run(harness_.pool().create_segment(segment(1), SegmentPurpose::guest_data)).ok());
}

TEST_F(DirPoolTest, ASpareOfWhichNoSegmentCouldBeMadeIsASpareAgain) {
  make_volume();
  ASSERT_TRUE(run(harness_.pool().create_spare(volume_id())).ok());
  const SpareId spare = run(harness_.pool().list_spares(volume_id())).value().front();
  harness_.files().failing_sync = volume().string();
  EXPECT_FALSE(run(harness_.pool().create_segment_from(spare, segment(1))).ok());
  // The rename was done, only its answer was lost.
  harness_.files().failing_sync.clear();
  harness_.files().lost_answer = (volume() / "seg-0000000000000001-0000000000000001").string();
  EXPECT_FALSE(run(harness_.pool().create_segment_from(spare, segment(1))).ok());
  harness_.files().lost_answer.clear();
  EXPECT_TRUE(run(harness_.pool().list_segments(volume_id()))->empty());
  EXPECT_EQ(run(harness_.pool().list_spares(volume_id())).value(), (std::vector<SpareId>{spare}));
  EXPECT_TRUE(run(harness_.pool().create_segment_from(spare, segment(2))).ok());
}

TEST_F(DirPoolTest, WhatAnInterruptedPreallocationLeftIsRemovedAndNotCounted) {
  make_volume();
  const fs::path leftover = volume() / ".spare-0000000000000000-0000000000000abc";
  std::ofstream(leftover) << "cut off";
  EXPECT_TRUE(run(harness_.pool().list_spares(volume_id()))->empty());
  EXPECT_TRUE(fs::exists(leftover)) << "whoever only lists cannot know";
  EXPECT_EQ(run(harness_.pool().count_segment_files(volume_id()))->guaranteed(), 0u);
  EXPECT_FALSE(fs::exists(leftover));
}

TEST_F(DirPoolTest, GuestsStopAtTheReserveAndSoDoesPreallocation) {
  make_volume();
  FileSystemSpace space;
  space.capacity_bytes = 800 * kMiB;
  space.available_bytes = 100 * kMiB;  // an eighth is the reserve
  harness_.files().space_answer = space;
  const auto refused = run(harness_.pool().create_spare(volume_id()));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), ErrorCode::no_space);
  harness_.files().space_answer->available_bytes = 101 * kMiB;
  EXPECT_TRUE(run(harness_.pool().create_spare(volume_id())).ok());
}

TEST_F(DirPoolTest, ASegmentThatIsRecycledWhileSpaceIsCountedIsCounted) {
  make_volume();
  { const auto file = run(harness_.pool().create_segment(segment(1), SegmentPurpose::metadata)); }
  ASSERT_TRUE(run(harness_.pool().recycle_segment(segment(1))).ok());
  const std::uint64_t before = run(harness_.pool().volume_allocated_bytes(volume_id())).value();
  EXPECT_GE(before, kContractSegmentBytes);
  harness_.files().before_look = [this] {
    for (const auto& entry : fs::directory_iterator(volume())) {
      if (!entry.path().filename().string().starts_with("spare-")) continue;
      fs::rename(entry.path(), volume() / "seg-0000000000000001-0000000000000002");
      return;
    }
    ADD_FAILURE() << "there is no spare";
  };
  EXPECT_EQ(run(harness_.pool().volume_allocated_bytes(volume_id())).value(), before);
}

TEST_F(DirPoolTest, AFailedCreationLeavesNothing) {
  harness_.files().failing_sync = (volumes() / (".creating-" + volume_id().to_string())).string();
  VolumeRecord record;
  record.id = volume_id();
  record.name = "vol";
  RootId root{record.id, Epoch{1}, 0};
  std::vector<std::byte> bytes(100);
  const auto failed = run(harness_.pool().create_volume(record, root, bytes));
  ASSERT_FALSE(failed.ok());
  EXPECT_TRUE(fs::is_empty(volumes()));
  harness_.files().failing_sync.clear();
  make_volume();
}

TEST(ReserveTest, TheReserveIsOnePercentButAtLeastAGibibyteAndSmallOnTinyPools) {
  EXPECT_EQ(reserve_bytes_of(1000 * kGiB), 10 * kGiB);
  EXPECT_EQ(reserve_bytes_of(50 * kGiB), 1 * kGiB);
  EXPECT_EQ(reserve_bytes_of(4 * kGiB), 512 * kMiB);
  EXPECT_EQ(reserve_bytes_of(0), 0u);
}

TEST(NamesTest, ARefusalSaysWhatIsAllowed) {
  const auto refused = check_name("volume", "a b");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message(),
            "'a b' cannot be the name of a volume: only letters, digits, '.', '_' and '-' are "
            "allowed");
  EXPECT_TRUE(check_name("pool", "0-fast.ssd_1").ok());
}

}  // namespace
}  // namespace holdfast
