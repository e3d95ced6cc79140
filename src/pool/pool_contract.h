// SPDX-License-Identifier: Apache-2.0
//
// What every Pool must do: dir_pool_test.cc and the simulator run these tests. Include it in one
// test file and instantiate the suite with a factory:
//   INSTANTIATE_TEST_SUITE_P(Dir, PoolContract, testing::Values(&make_harness));
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/units.h"
#include "io/aligned_buffer.h"
#include "io/file_io.h"
#include "io/run_task.h"
#include "pool/pool.h"
#include "pool/preallocation.h"

namespace holdfast {

inline constexpr std::uint64_t kContractSegmentBytes = 1 * kMiB;

// A pool with segments of kContractSegmentBytes and nothing in it, open.
class PoolHarness {
 public:
  virtual ~PoolHarness() = default;
  virtual Pool& pool() = 0;
  // Closes the pool and opens it again. Nothing of the old object may be alive.
  virtual void reopen() = 0;
  // Whether it can keep space for a volume beforehand.
  virtual bool has_spares() const { return true; }
  // Drives the executor until the predicate holds; fails the test when it never does.
  virtual void run_until(const std::function<bool()>& done) = 0;
};

using PoolHarnessFactory = std::unique_ptr<PoolHarness> (*)();

class PoolContract : public testing::TestWithParam<PoolHarnessFactory> {
 protected:
  using Bytes = std::vector<std::byte>;

  Pool& pool() { return harness_->pool(); }
  template <typename T>
  T run(Task<T> task) {
    return run_task<T>([this](const std::function<bool()>& done) { harness_->run_until(done); },
                       std::move(task));
  }
  static Bytes bytes_of(std::string_view text) {
    const auto view = as_bytes(text);
    return Bytes(view.begin(), view.end());
  }
  static VolumeId id_of(unsigned number) {
    std::array<std::byte, 16> random{};
    random[0] = static_cast<std::byte>(number);
    random[15] = static_cast<std::byte>(number >> 8);
    return Uuid::from_random(random);
  }
  static VolumeRecord record_of(unsigned number, std::string name) {
    VolumeRecord record;
    record.id = id_of(number);
    record.name = std::move(name);
    record.thick = number % 2 == 1;
    record.created = WallTime{1'700'000'000 + static_cast<std::int64_t>(number)};
    return record;
  }
  static RootId root_of(const VolumeId& volume, std::uint64_t epoch, std::uint64_t number) {
    return RootId{volume, Epoch{epoch}, number};
  }
  static SegmentId segment_of(const VolumeId& volume, std::uint64_t epoch, std::uint64_t number) {
    return SegmentId{volume, Epoch{epoch}, SegmentNumber{number}};
  }
  Result<void> create(unsigned number, const std::string& name) {
    return run(pool().create_volume(record_of(number, name), root_of(id_of(number), 1, 0),
                                    bytes_of("first root of " + name)));
  }
  std::vector<VolumeRecord> volumes() {
    auto list = run(pool().list_volumes());
    EXPECT_TRUE(list.ok());
    std::vector<VolumeRecord> sorted = std::move(list).value();
    std::sort(sorted.begin(), sorted.end(),
              [](const VolumeRecord& a, const VolumeRecord& b) { return a.name < b.name; });
    return sorted;
  }
  std::vector<TrashedVolume> trash() {
    auto list = run(pool().list_trash());
    EXPECT_TRUE(list.ok());
    return list.ok() ? std::move(list).value() : std::vector<TrashedVolume>{};
  }
  std::unique_ptr<File> new_segment(const SegmentId& segment) {
    auto file = run(pool().create_segment(segment, SegmentPurpose::guest_data));
    EXPECT_TRUE(file.ok()) << (file.ok() ? "" : file.error().message());
    return file.ok() ? std::move(file).value() : nullptr;
  }
  static Task<int> io_task(File* file, FileOperation operation, std::uint64_t offset_bytes,
                           std::span<std::byte> buffer) {
    co_return co_await FileIo(*file, operation, offset_bytes, buffer);
  }
  int io(File& file, FileOperation operation, std::uint64_t offset_bytes,
         std::span<std::byte> buffer) {
    return run(io_task(&file, operation, offset_bytes, buffer));
  }
  template <typename T>
  static ErrorCode code_of(const Result<T>& result) {
    EXPECT_FALSE(result.ok());
    return result.ok() ? ErrorCode::internal : result.error().code();
  }

  std::unique_ptr<PoolHarness> harness_ = GetParam()();
};

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(PoolContract);

TEST_P(PoolContract, ItSaysWhatItIsAndStillDoesAfterReopening) {
  const PoolInfo before = pool().info();
  EXPECT_FALSE(before.id.is_nil());
  EXPECT_EQ(before.segment_bytes, kContractSegmentBytes);
  EXPECT_GE(before.format_version, 1u);
  EXPECT_FALSE(before.location.empty());
  harness_->reopen();
  EXPECT_EQ(pool().info().id, before.id);
  EXPECT_EQ(pool().info().segment_bytes, before.segment_bytes);
  EXPECT_EQ(pool().info().created.unix_seconds, before.created.unix_seconds);
}

TEST_P(PoolContract, SpaceIsReportedWithAReserve) {
  const auto space = run(pool().space());
  ASSERT_TRUE(space.ok());
  EXPECT_GT(space->capacity_bytes, 0u);
  EXPECT_LE(space->available_bytes, space->capacity_bytes);
  EXPECT_GT(space->reserve_bytes, 0u);
  EXPECT_LE(space->reserve_bytes, space->capacity_bytes / limits::kReserveTinyPoolDivisor);
}

TEST_P(PoolContract, CreatedVolumesAreListedWithAllTheirFields) {
  EXPECT_TRUE(volumes().empty());
  ASSERT_TRUE(create(1, "one").ok());
  ASSERT_TRUE(create(2, "two").ok());
  for (int round = 0; round < 2; ++round) {
    const auto list = volumes();
    ASSERT_EQ(list.size(), 2u);
    EXPECT_EQ(list[0].name, "one");
    EXPECT_EQ(list[0].id, id_of(1));
    EXPECT_TRUE(list[0].thick);
    EXPECT_EQ(list[0].created.unix_seconds, 1'700'000'001);
    EXPECT_EQ(list[1].name, "two");
    EXPECT_FALSE(list[1].thick);
    harness_->reopen();
  }
}

TEST_P(PoolContract, AVolumeIsMadeWithItsFirstRoot) {
  ASSERT_TRUE(create(1, "one").ok());
  const auto roots = run(pool().list_roots(id_of(1)));
  ASSERT_TRUE(roots.ok());
  ASSERT_EQ(roots.value(), (std::vector<RootId>{root_of(id_of(1), 1, 0)}));
  const auto root = run(pool().read_root(roots.value()[0]));
  ASSERT_TRUE(root.ok());
  EXPECT_EQ(root.value(), bytes_of("first root of one"));
}

TEST_P(PoolContract, NamesAreUnique) {
  ASSERT_TRUE(create(1, "one").ok());
  EXPECT_EQ(code_of(create(2, "one")), ErrorCode::already_exists);
  EXPECT_EQ(code_of(create(1, "other")), ErrorCode::already_exists) << "the same identity";
  ASSERT_TRUE(create(2, "two").ok());
  EXPECT_EQ(code_of(run(pool().update_volume(record_of(2, "one")))), ErrorCode::already_exists);
  EXPECT_EQ(volumes().size(), 2u);
}

namespace detail {
inline Task<void> create_into(Pool* pool, VolumeRecord record, std::vector<ErrorCode>* failures,
                              int* done) {
  RootId root{record.id, Epoch{1}, 0};
  std::vector<std::byte> bytes(16);
  const auto created = co_await pool->create_volume(record, root, std::move(bytes));
  if (!created.ok()) failures->push_back(created.error().code());
  ++*done;
}
}  // namespace detail

TEST_P(PoolContract, OfTwoThatMakeTheSameNameAtOnceOneFails) {
  std::vector<ErrorCode> failures;
  int done = 0;
  TaskScope scope;
  scope.spawn(detail::create_into(&pool(), record_of(1, "same"), &failures, &done));
  scope.spawn(detail::create_into(&pool(), record_of(2, "same"), &failures, &done));
  harness_->run_until([&] { return done == 2; });
  EXPECT_EQ(failures, (std::vector<ErrorCode>{ErrorCode::already_exists}));
  EXPECT_EQ(volumes().size(), 1u);
}

TEST_P(PoolContract, BadNamesAreRefused) {
  const std::string names[] = {"",         ".hidden",           "-x", "a/b", "a b", "..", "a\n",
                               "\xc3\xa4", std::string(64, 'a')};
  unsigned number = 1;
  for (const std::string& name : names) {
    EXPECT_EQ(code_of(create(number++, name)), ErrorCode::invalid_argument) << name;
  }
  EXPECT_TRUE(volumes().empty());
  EXPECT_TRUE(create(100, std::string(63, 'a')).ok());
  EXPECT_TRUE(create(101, "A.b_c-9").ok());
}

TEST_P(PoolContract, ARenamedVolumeKeepsEverythingElse) {
  ASSERT_TRUE(create(1, "one").ok());
  ASSERT_TRUE(run(pool().update_volume(record_of(1, "uno"))).ok());
  ASSERT_TRUE(run(pool().update_volume(record_of(1, "uno"))).ok()) << "its own name is free";
  EXPECT_EQ(code_of(run(pool().update_volume(record_of(1, "bad/name")))),
            ErrorCode::invalid_argument);
  EXPECT_EQ(code_of(run(pool().update_volume(record_of(9, "nine")))), ErrorCode::not_found);
  harness_->reopen();
  const auto list = volumes();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].name, "uno");
  EXPECT_EQ(list[0].id, id_of(1));
  EXPECT_TRUE(run(pool().read_root(root_of(id_of(1), 1, 0))).ok());
  EXPECT_TRUE(create(2, "one").ok()) << "the old name is free again";
}

TEST_P(PoolContract, ARemovedVolumeIsGoneWithAllItHad) {
  ASSERT_TRUE(create(1, "one").ok());
  ASSERT_TRUE(create(2, "two").ok());
  { const auto file = new_segment(segment_of(id_of(1), 1, 1)); }
  ASSERT_TRUE(run(pool().remove_volume(id_of(1))).ok());
  EXPECT_EQ(volumes().size(), 1u);
  EXPECT_EQ(code_of(run(pool().list_roots(id_of(1)))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(pool().list_segments(id_of(1)))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(pool().remove_volume(id_of(1)))), ErrorCode::not_found);
  harness_->reopen();
  EXPECT_EQ(volumes().size(), 1u);
  EXPECT_TRUE(create(1, "one").ok());
}

TEST_P(PoolContract, ATrashedVolumeIsKeptWholeUnderNoNameAndComesBack) {
  ASSERT_TRUE(create(1, "one").ok());
  ASSERT_TRUE(create(2, "two").ok());
  { const auto file = new_segment(segment_of(id_of(1), 1, 1)); }
  const WallTime since{1'700'000'100};
  const WallTime until{1'700'000'900};
  EXPECT_TRUE(trash().empty());
  ASSERT_TRUE(run(pool().trash_volume(id_of(1), since, until)).ok());
  for (int round = 0; round < 2; ++round) {
    ASSERT_EQ(volumes().size(), 1u);
    EXPECT_EQ(volumes()[0].name, "two");
    ASSERT_EQ(trash().size(), 1u);
    EXPECT_EQ(trash()[0].record.id, id_of(1));
    EXPECT_EQ(trash()[0].record.name, "one");
    EXPECT_EQ(trash()[0].record.thick, record_of(1, "").thick);
    EXPECT_EQ(trash()[0].record.created.unix_seconds, record_of(1, "").created.unix_seconds);
    EXPECT_EQ(trash()[0].since.unix_seconds, since.unix_seconds);
    EXPECT_EQ(trash()[0].until.unix_seconds, until.unix_seconds);
    EXPECT_EQ(run(pool().list_segments(id_of(1)))->size(), 1u);
    EXPECT_TRUE(run(pool().read_root(root_of(id_of(1), 1, 0))).ok());
    harness_->reopen();
  }
  EXPECT_EQ(code_of(run(pool().trash_volume(id_of(1), since, until))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(pool().update_volume(record_of(1, "one")))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(pool().restore_volume(id_of(2), "two"))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(pool().restore_volume(id_of(9), "nine"))), ErrorCode::not_found);
  ASSERT_TRUE(run(pool().restore_volume(id_of(1), "one")).ok());
  harness_->reopen();
  ASSERT_EQ(volumes().size(), 2u);
  EXPECT_EQ(volumes()[0].id, id_of(1));
  EXPECT_EQ(volumes()[0].thick, record_of(1, "").thick);
  EXPECT_TRUE(trash().empty());
  EXPECT_EQ(run(pool().list_segments(id_of(1)))->size(), 1u);
}

TEST_P(PoolContract, TheNameOfATrashedVolumeIsFreeAndItIsRestoredUnderAnother) {
  ASSERT_TRUE(create(1, "one").ok());
  ASSERT_TRUE(run(pool().trash_volume(id_of(1), WallTime{10}, WallTime{20})).ok());
  ASSERT_TRUE(create(2, "one").ok());
  ASSERT_TRUE(run(pool().trash_volume(id_of(2), WallTime{30}, WallTime{40})).ok());
  ASSERT_TRUE(create(3, "one").ok());
  EXPECT_EQ(trash().size(), 2u);
  EXPECT_EQ(code_of(run(pool().restore_volume(id_of(1), "one"))), ErrorCode::already_exists);
  EXPECT_EQ(code_of(run(pool().restore_volume(id_of(1), "bad/name"))), ErrorCode::invalid_argument);
  EXPECT_EQ(trash().size(), 2u);
  ASSERT_TRUE(run(pool().restore_volume(id_of(1), "uno")).ok());
  harness_->reopen();
  ASSERT_EQ(volumes().size(), 2u);
  EXPECT_EQ(volumes()[1].name, "uno");
  EXPECT_EQ(volumes()[1].id, id_of(1));
  ASSERT_EQ(trash().size(), 1u);
  EXPECT_EQ(trash()[0].record.id, id_of(2));
  // In and out again: one place at a time.
  ASSERT_TRUE(run(pool().trash_volume(id_of(1), WallTime{50}, WallTime{60})).ok());
  ASSERT_EQ(trash().size(), 2u);
  EXPECT_EQ(volumes().size(), 1u);
}

TEST_P(PoolContract, ATrashedVolumeIsRemovedForGoodAlsoGently) {
  for (unsigned number : {1u, 2u, 3u}) {
    ASSERT_TRUE(create(number, "one").ok());
    { const auto file = new_segment(segment_of(id_of(number), 1, 1)); }
    ASSERT_TRUE(run(pool().trash_volume(id_of(number), WallTime{10}, WallTime{20})).ok());
  }
  const bool stop = true;
  ASSERT_TRUE(run(pool().remove_volume(id_of(1))).ok());
  ASSERT_TRUE(run(pool().remove_volume(id_of(2), RemovalOptions{true, nullptr})).ok());
  ASSERT_TRUE(run(pool().remove_volume(id_of(3), RemovalOptions{true, &stop})).ok())
      << "gone, though its files are still to go";
  EXPECT_TRUE(trash().empty());
  EXPECT_TRUE(volumes().empty());
  harness_->reopen();
  EXPECT_TRUE(trash().empty());
  EXPECT_EQ(code_of(run(pool().list_roots(id_of(3)))), ErrorCode::not_found);
  EXPECT_TRUE(create(3, "one").ok()) << "nothing is in the way";
}

TEST_P(PoolContract, SegmentsHoldWhatWasAppended) {
  ASSERT_TRUE(create(1, "one").ok());
  const AlignedBuffer data(64 * kKiB);
  std::memset(data.data(), 0x5a, data.size());
  {
    const auto file = new_segment(segment_of(id_of(1), 3, 0x1f));
    ASSERT_NE(file, nullptr);
    EXPECT_EQ(io(*file, FileOperation::write, kContractSegmentBytes - data.size(), data.span()), 0)
        << "a segment is as long as the pool says";
    EXPECT_EQ(io(*file, FileOperation::sync_data, 0, {}), 0);
  }
  harness_->reopen();
  auto file = run(pool().open_segment(segment_of(id_of(1), 3, 0x1f)));
  ASSERT_TRUE(file.ok()) << file.error().message();
  const AlignedBuffer back(64 * kKiB);
  EXPECT_EQ(io(**file, FileOperation::read, kContractSegmentBytes - data.size(), back.span()), 0);
  EXPECT_EQ(std::memcmp(data.data(), back.data(), data.size()), 0);
}

TEST_P(PoolContract, SegmentsAreListedByTheirFullIdentity) {
  ASSERT_TRUE(create(1, "one").ok());
  ASSERT_TRUE(create(2, "two").ok());
  const std::vector<SegmentId> made = {segment_of(id_of(1), 1, 1),
                                       segment_of(id_of(1), 1, 0xffffffffff),
                                       segment_of(id_of(1), 2, 1)};
  for (const SegmentId& segment : made) {
    const auto file = new_segment(segment);
    ASSERT_NE(file, nullptr);
  }
  { const auto file = new_segment(segment_of(id_of(2), 1, 1)); }
  const auto listed = run(pool().list_segments(id_of(1)));
  ASSERT_TRUE(listed.ok());
  EXPECT_EQ(listed.value(), made);
  EXPECT_EQ(code_of(run(pool().create_segment(made[0], SegmentPurpose::metadata))),
            ErrorCode::already_exists);
}

TEST_P(PoolContract, RemovedSegmentsGiveTheirSpaceBack) {
  ASSERT_TRUE(create(1, "one").ok());
  const auto before = run(pool().volume_allocated_bytes(id_of(1)));
  ASSERT_TRUE(before.ok());
  const SegmentId segment = segment_of(id_of(1), 1, 1);
  { const auto file = new_segment(segment); }
  const auto with = run(pool().volume_allocated_bytes(id_of(1)));
  ASSERT_TRUE(with.ok());
  EXPECT_GE(with.value(), before.value() + kContractSegmentBytes);
  ASSERT_TRUE(run(pool().remove_segment(segment)).ok());
  const auto after = run(pool().volume_allocated_bytes(id_of(1)));
  ASSERT_TRUE(after.ok());
  EXPECT_LT(after.value(), before.value() + kContractSegmentBytes / 2);
  EXPECT_EQ(code_of(run(pool().remove_segment(segment))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(pool().open_segment(segment))), ErrorCode::not_found);
}

TEST_P(PoolContract, ATrimmedSegmentKeepsItsUsedPart) {
  ASSERT_TRUE(create(1, "one").ok());
  const SegmentId segment = segment_of(id_of(1), 1, 1);
  const AlignedBuffer data(8192);
  std::memset(data.data(), 0x77, data.size());
  const auto file = new_segment(segment);
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(io(*file, FileOperation::write, 0, data.span()), 0);
  const auto before = run(pool().volume_allocated_bytes(id_of(1)));
  ASSERT_TRUE(run(pool().trim_segment(segment, 8192)).ok());
  const auto after = run(pool().volume_allocated_bytes(id_of(1)));
  ASSERT_TRUE(before.ok() && after.ok());
  EXPECT_LT(after.value(), before.value());
  const AlignedBuffer back(8192);
  EXPECT_EQ(io(*file, FileOperation::read, 0, back.span()), 0);
  EXPECT_EQ(std::memcmp(data.data(), back.data(), data.size()), 0);
}

TEST_P(PoolContract, RootsArePublishedReadAndRemovedByIdentity) {
  ASSERT_TRUE(create(1, "one").ok());
  const RootId second = root_of(id_of(1), 1, 1);
  const RootId taken_over = root_of(id_of(1), 2, 0);
  ASSERT_TRUE(run(pool().publish_root(second, bytes_of("second"))).ok());
  const Bytes large(4096, std::byte{9});
  ASSERT_TRUE(run(pool().publish_root(taken_over, large)).ok());
  harness_->reopen();
  const auto roots = run(pool().list_roots(id_of(1)));
  ASSERT_TRUE(roots.ok());
  EXPECT_EQ(roots.value(), (std::vector<RootId>{root_of(id_of(1), 1, 0), second, taken_over}));
  const auto read = run(pool().read_root(taken_over));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read.value(), large);
  ASSERT_TRUE(run(pool().remove_root(second)).ok());
  EXPECT_EQ(code_of(run(pool().read_root(second))), ErrorCode::not_found);
  EXPECT_EQ(run(pool().list_roots(id_of(1))).value().size(), 2u);
}

TEST_P(PoolContract, SnapshotsArePublishedReadAndRemovedByNumber) {
  ASSERT_TRUE(create(1, "one").ok());
  ASSERT_TRUE(create(2, "two").ok());
  const SnapshotId first{id_of(1), SnapshotNumber{1}};
  const SnapshotId tenth{id_of(1), SnapshotNumber{10}};
  const Bytes large(8192, std::byte{9});
  ASSERT_TRUE(run(pool().publish_snapshot(tenth, large)).ok());
  ASSERT_TRUE(run(pool().publish_snapshot(first, bytes_of("first"))).ok());
  harness_->reopen();
  EXPECT_EQ(run(pool().list_snapshots(id_of(1))).value(), (std::vector<SnapshotId>{first, tenth}));
  EXPECT_TRUE(run(pool().list_snapshots(id_of(2))).value().empty());
  EXPECT_EQ(run(pool().read_snapshot(tenth)).value(), large);
  EXPECT_EQ(run(pool().list_roots(id_of(1))).value().size(), 1u) << "a snapshot is no root";
  ASSERT_TRUE(run(pool().remove_snapshot(first)).ok());
  EXPECT_TRUE(run(pool().remove_snapshot(first)).ok()) << "it is gone already";
  EXPECT_EQ(code_of(run(pool().read_snapshot(first))), ErrorCode::not_found);
  EXPECT_EQ(run(pool().list_snapshots(id_of(1))).value(), (std::vector<SnapshotId>{tenth}));
  ASSERT_TRUE(run(pool().remove_volume(id_of(1))).ok());
  EXPECT_EQ(code_of(run(pool().list_snapshots(id_of(1)))), ErrorCode::not_found);
}

TEST_P(PoolContract, CloneMarksAreKeptBesideTheParent) {
  ASSERT_TRUE(create(1, "one").ok());
  const CloneMark second{{id_of(1), SnapshotNumber{3}}, id_of(2)};
  const CloneMark third{{id_of(1), SnapshotNumber{3}}, id_of(3)};
  ASSERT_TRUE(run(pool().add_clone_mark(second)).ok());
  ASSERT_TRUE(run(pool().add_clone_mark(third)).ok());
  EXPECT_TRUE(run(pool().add_clone_mark(third)).ok()) << "twice is once";
  harness_->reopen();
  EXPECT_EQ(run(pool().list_clone_marks(id_of(1))).value(),
            (std::vector<CloneMark>{second, third}));
  ASSERT_TRUE(run(pool().remove_clone_mark(second)).ok());
  EXPECT_TRUE(run(pool().remove_clone_mark(second)).ok()) << "it is gone already";
  EXPECT_EQ(run(pool().list_clone_marks(id_of(1))).value(), (std::vector<CloneMark>{third}));
  ASSERT_TRUE(run(pool().remove_volume(id_of(1))).ok()) << "with its marks";
}

// --- Spares ---

TEST_P(PoolContract, SparesAreCountedListedAndRemoved) {
  if (!harness_->has_spares()) GTEST_SKIP() << "the pool keeps no space beforehand";
  ASSERT_TRUE(create(1, "one").ok());
  ASSERT_TRUE(create(2, "two").ok());
  const VolumeId volume = id_of(1);
  EXPECT_EQ(run(pool().count_segment_files(volume)).value().guaranteed(), 0u);
  const auto before = run(pool().volume_allocated_bytes(volume));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(run(pool().create_spare(volume)).ok());
  const auto with = run(pool().volume_allocated_bytes(volume));
  ASSERT_TRUE(before.ok() && with.ok());
  EXPECT_GE(with.value(), before.value() + 3 * kContractSegmentBytes);
  harness_->reopen();
  const auto listed = run(pool().list_spares(volume));
  ASSERT_TRUE(listed.ok());
  ASSERT_EQ(listed->size(), 3u);
  EXPECT_TRUE(run(pool().list_segments(volume)).value().empty()) << "a spare is no segment";
  EXPECT_TRUE(run(pool().list_spares(id_of(2))).value().empty());
  ASSERT_TRUE(run(pool().remove_spare(listed.value()[1])).ok());
  EXPECT_EQ(code_of(run(pool().remove_spare(listed.value()[1]))), ErrorCode::not_found);
  const auto count = run(pool().count_segment_files(volume));
  ASSERT_TRUE(count.ok());
  EXPECT_EQ(count->spares, 2u);
  EXPECT_EQ(count->guaranteed(), 2u);
  EXPECT_EQ(code_of(run(pool().list_spares(id_of(7)))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(pool().create_spare(id_of(7)))), ErrorCode::not_found);
}

TEST_P(PoolContract, ASegmentIsMadeOfASpareAndBecomesOneAgain) {
  if (!harness_->has_spares()) GTEST_SKIP() << "the pool keeps no space beforehand";
  ASSERT_TRUE(create(1, "one").ok());
  const VolumeId volume = id_of(1);
  ASSERT_TRUE(run(pool().create_spare(volume)).ok());
  const SpareId fresh = run(pool().list_spares(volume)).value().front();
  const SegmentId first = segment_of(volume, 3, 7);
  const AlignedBuffer data(64 * kKiB);
  std::memset(data.data(), 0x5a, data.size());
  const auto before = run(pool().volume_allocated_bytes(volume));
  {
    const auto file = run(pool().create_segment_from(fresh, first));
    ASSERT_TRUE(file.ok()) << file.error().message();
    EXPECT_EQ(
        io(*file.value(), FileOperation::write, kContractSegmentBytes - data.size(), data.span()),
        0);
    EXPECT_EQ(code_of(run(pool().create_segment_from(fresh, segment_of(volume, 3, 8)))),
              ErrorCode::not_found)
        << "it is taken";
  }
  harness_->reopen();
  EXPECT_EQ(run(pool().list_segments(volume)).value(), (std::vector<SegmentId>{first}));
  EXPECT_EQ(run(pool().count_segment_files(volume)).value().full_segments, 1u);
  const auto recycled = run(pool().recycle_segment(first));
  ASSERT_TRUE(recycled.ok()) << recycled.error().message();
  EXPECT_EQ(run(pool().list_spares(volume)).value(), (std::vector<SpareId>{recycled.value()}));
  EXPECT_TRUE(run(pool().list_segments(volume)).value().empty());
  EXPECT_EQ(code_of(run(pool().open_segment(first))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(pool().recycle_segment(first))), ErrorCode::not_found);
  const SegmentId second = segment_of(volume, 3, 9);
  auto file = run(pool().create_segment_from(recycled.value(), second));
  ASSERT_TRUE(file.ok());
  const AlignedBuffer back(64 * kKiB);
  EXPECT_EQ(io(**file, FileOperation::read, 0, back.span()), 0) << "all of it is there to be read";
  EXPECT_EQ(run(pool().volume_allocated_bytes(volume)).value(), before.value());
}

TEST_P(PoolContract, ATrimmedSegmentIsNotGuaranteedUntilItIsRecycled) {
  if (!harness_->has_spares()) GTEST_SKIP() << "the pool keeps no space beforehand";
  ASSERT_TRUE(create(1, "one").ok());
  const SegmentId segment = segment_of(id_of(1), 1, 1);
  { const auto file = new_segment(segment); }
  ASSERT_TRUE(run(pool().trim_segment(segment, 8192)).ok());
  const auto cut = run(pool().count_segment_files(id_of(1)));
  ASSERT_TRUE(cut.ok());
  EXPECT_EQ(cut->short_segments, 1u);
  EXPECT_EQ(cut->guaranteed(), 0u);
  const auto spare = run(pool().recycle_segment(segment));
  ASSERT_TRUE(spare.ok()) << spare.error().message();
  EXPECT_EQ(run(pool().count_segment_files(id_of(1))).value().guaranteed(), 1u);
  EXPECT_GE(run(pool().volume_allocated_bytes(id_of(1))).value(), kContractSegmentBytes);
  auto file = run(pool().create_segment_from(spare.value(), segment_of(id_of(1), 1, 2)));
  ASSERT_TRUE(file.ok());
  const AlignedBuffer data(4096);
  std::memset(data.data(), 0x11, data.size());
  EXPECT_EQ(io(**file, FileOperation::write, kContractSegmentBytes - 4096, data.span()), 0);
}

TEST_P(PoolContract, APoolThatKeepsNoSpaceBeforehandSaysSo) {
  if (harness_->has_spares()) GTEST_SKIP() << "it does";
  ASSERT_TRUE(create(1, "one").ok());
  const SegmentId segment = segment_of(id_of(1), 1, 1);
  { const auto file = new_segment(segment); }
  EXPECT_EQ(code_of(run(pool().create_spare(id_of(1)))), ErrorCode::unsupported);
  EXPECT_EQ(code_of(run(pool().recycle_segment(segment))), ErrorCode::unsupported);
  EXPECT_TRUE(run(pool().list_spares(id_of(1))).value().empty());
  EXPECT_EQ(run(pool().count_segment_files(id_of(1))).value().guaranteed(), 0u);
  EXPECT_EQ(code_of(run(pool().list_spares(id_of(7)))), ErrorCode::not_found);
}

// --- Adoption ---

TEST_P(PoolContract, AnAdoptedSegmentIsThereWhenItsFirstOwnerIsGone) {
  ASSERT_TRUE(create(1, "one").ok());
  ASSERT_TRUE(create(2, "two").ok());
  for (const AdoptBy by : {AdoptBy::link, AdoptBy::copy}) {
    const SegmentId from = segment_of(id_of(1), 3, by == AdoptBy::link ? 7 : 8);
    const SegmentId to = segment_of(id_of(2), 3, from.number.value);
    AlignedBuffer data(64 * kKiB);
    std::memset(data.data(), 0x5a, data.size());
    {
      const auto file = new_segment(from);
      EXPECT_EQ(io(*file, FileOperation::write, 8192, data.span()), 0);
      EXPECT_EQ(io(*file, FileOperation::sync_data, 0, {}), 0);
    }
    ASSERT_TRUE(run(pool().trim_segment(from, 128 * kKiB)).ok());
    for (int i = 0; i < 2; ++i) {
      const auto adopted = run(pool().adopt_segment(from, id_of(2), by));
      ASSERT_TRUE(adopted.ok()) << adopted.error().message();
    }
    ASSERT_TRUE(run(pool().sync_segments(id_of(2))).ok());
    harness_->reopen();
    EXPECT_EQ(run(pool().list_segments(id_of(2))).value(), (std::vector<SegmentId>{to}));
    EXPECT_EQ(run(pool().list_segments(id_of(1))).value(), (std::vector<SegmentId>{from}));
    ASSERT_TRUE(run(pool().remove_segment(from)).ok());
    auto file = run(pool().open_segment(to));
    ASSERT_TRUE(file.ok()) << file.error().message();
    AlignedBuffer back(64 * kKiB);
    EXPECT_EQ(io(**file, FileOperation::read, 8192, back.span()), 0);
    EXPECT_EQ(std::memcmp(back.data(), data.data(), data.size()), 0);
    file.value().reset();
    ASSERT_TRUE(run(pool().remove_segment(to)).ok());
  }
  EXPECT_EQ(code_of(run(pool().adopt_segment(segment_of(id_of(1), 9, 9), id_of(2), AdoptBy::link))),
            ErrorCode::not_found);
  EXPECT_EQ(code_of(run(pool().adopt_segment(segment_of(id_of(1), 9, 9), id_of(2), AdoptBy::copy))),
            ErrorCode::not_found);
  EXPECT_TRUE(run(pool().list_segments(id_of(2))).value().empty());
}

TEST_P(PoolContract, ASegmentOfTwoVolumesIsNoSpareOfEither) {
  if (!harness_->has_spares()) GTEST_SKIP() << "the pool keeps no space beforehand";
  ASSERT_TRUE(create(1, "one").ok());
  ASSERT_TRUE(create(2, "two").ok());
  const SegmentId first = segment_of(id_of(1), 1, 1);
  const SegmentId second = segment_of(id_of(2), 1, 1);
  { const auto file = new_segment(first); }
  EXPECT_EQ(run(pool().count_segment_files(id_of(1)))->full_segments, 1u);
  ASSERT_TRUE(run(pool().adopt_segment(first, id_of(2), AdoptBy::link)).ok());
  for (const SegmentId& segment : {first, second}) {
    EXPECT_EQ(code_of(run(pool().recycle_segment(segment))), ErrorCode::unsupported);
    EXPECT_EQ(run(pool().count_segment_files(segment.volume))->guaranteed(), 0u)
        << "its space would not come back";
  }
  ASSERT_TRUE(run(pool().remove_segment(first)).ok());
  EXPECT_EQ(run(pool().count_segment_files(id_of(2)))->guaranteed(), 1u) << "the other is alone";
  EXPECT_TRUE(run(pool().recycle_segment(second)).ok());
}

TEST_P(PoolContract, ACopyHasAllTheSpaceOfASegment) {
  if (!harness_->has_spares()) GTEST_SKIP() << "the pool keeps no space beforehand";
  ASSERT_TRUE(create(1, "one").ok());
  ASSERT_TRUE(create(2, "two").ok());
  const SegmentId from = segment_of(id_of(1), 1, 1);
  { const auto file = new_segment(from); }
  ASSERT_TRUE(run(pool().trim_segment(from, 8192)).ok());
  ASSERT_TRUE(run(pool().adopt_segment(from, id_of(2), AdoptBy::copy)).ok());
  EXPECT_EQ(run(pool().count_segment_files(id_of(2)))->full_segments, 1u);
  EXPECT_TRUE(run(pool().recycle_segment(segment_of(id_of(2), 1, 1))).ok());
}

TEST_P(PoolContract, PreallocationShowsItsProgressStopsAndGoesOn) {
  if (!harness_->has_spares()) GTEST_SKIP() << "the pool keeps no space beforehand";
  ASSERT_TRUE(create(1, "one").ok());
  const VolumeId volume = id_of(1);
  { const auto file = new_segment(segment_of(volume, 1, 1)); }
  Preallocation progress;
  bool stop = true;
  ASSERT_TRUE(run(preallocate(pool(), volume, 6, &progress, &stop)).ok());
  EXPECT_EQ(progress.done_segments, 1u) << "segments count";
  EXPECT_FALSE(progress.is_complete());
  stop = false;
  ASSERT_TRUE(run(preallocate(pool(), volume, 3, &progress, &stop)).ok());
  EXPECT_EQ(run(pool().list_spares(volume)).value().size(), 2u);
  harness_->reopen();
  ASSERT_TRUE(run(preallocate(pool(), volume, 6, &progress, &stop)).ok());
  EXPECT_EQ(progress.done_segments, 6u);
  EXPECT_TRUE(progress.is_complete());
  EXPECT_EQ(run(pool().list_spares(volume)).value().size(), 5u);
  ASSERT_TRUE(run(preallocate(pool(), volume, 2, &progress, &stop)).ok());
  EXPECT_EQ(run(pool().list_spares(volume)).value().size(), 1u) << "what is too much goes back";
}

TEST_P(PoolContract, RootsFollowEachOtherInTheSpaceOfRemovedOnes) {
  ASSERT_TRUE(create(1, "one").ok());
  for (std::uint64_t number = 1; number < 6; ++number) {
    const Bytes bytes(4096 - number * 512, static_cast<std::byte>(number));
    ASSERT_TRUE(run(pool().publish_root(root_of(id_of(1), 1, number), bytes)).ok());
    ASSERT_TRUE(run(pool().remove_root(root_of(id_of(1), 1, number - 1))).ok());
    EXPECT_EQ(run(pool().read_root(root_of(id_of(1), 1, number))).value(), bytes);
    EXPECT_EQ(run(pool().list_roots(id_of(1))).value().size(), 1u);
  }
}

TEST_P(PoolContract, VolumesThatDoNotExistHaveNothing) {
  EXPECT_EQ(code_of(run(pool().list_roots(id_of(7)))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(pool().list_segments(id_of(7)))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(pool().volume_allocated_bytes(id_of(7)))), ErrorCode::not_found);
  EXPECT_EQ(
      code_of(run(pool().create_segment(segment_of(id_of(7), 1, 1), SegmentPurpose::guest_data))),
      ErrorCode::not_found);
  EXPECT_EQ(code_of(run(pool().publish_root(root_of(id_of(7), 1, 0), bytes_of("x")))),
            ErrorCode::not_found);
}

}  // namespace holdfast
