// SPDX-License-Identifier: Apache-2.0
//
// What every pool must do, and what one on RADOS does besides, on a real cluster: tests/
// test_rados_pool.py starts it and runs this. HOLDFAST_RADOS is "POOL?conf=FILE"; each test has a
// namespace of its own.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "io/disk.h"
#include "io/loop.h"
#include "io/rados_client.h"
#include "pool/dir_layout.h"
#include "pool/open_pool.h"
#include "pool/pool_contract.h"
#include "pool/rados_layout.h"

namespace holdfast {
namespace {

std::string location_in(const std::string& name_space) {
  const char* given = std::getenv("HOLDFAST_RADOS");
  HOLDFAST_ASSERT(given != nullptr);
  const std::string text(given);
  const std::size_t options = text.find('?');
  return "rados:" + text.substr(0, options) + "/" + name_space + text.substr(options);
}

class RadosHarness final : public PoolHarness {
 public:
  RadosHarness() {
    static int count = 0;
    location_ = location_in("contract-" + std::to_string(getpid()) + "-" + std::to_string(++count));
    auto loop = Loop::create();
    HOLDFAST_ASSERT(loop.ok());
    loop_ = std::move(loop).value();
    files_ = std::make_unique<Disk>(*loop_);
    PoolCreateOptions options;
    options.segment_bytes = kContractSegmentBytes;
    keep(run(create_pool(context(), location_, options)));
  }
  Pool& pool() override { return *pool_; }
  void reopen() override {
    pool_.reset();
    keep(run(open_pool(context(), location_)));
  }
  bool has_spares() const override { return false; }
  void run_until(const std::function<bool()>& done) override {
    EXPECT_TRUE(loop_->run_until(done, std::chrono::seconds(60))) << "the cluster did not answer";
  }
  PoolContext context() { return {*loop_, *files_, "", "host-a"}; }
  Loop& loop() { return *loop_; }
  const std::string& location() const { return location_; }
  template <typename T>
  T run(Task<T> task) {
    return run_task<T>([this](const std::function<bool()>& done) { run_until(done); },
                       std::move(task));
  }

 private:
  void keep(Result<std::unique_ptr<Pool>> made) {
    if (!made.ok()) std::fprintf(stderr, "%s\n", made.error().message().c_str());
    HOLDFAST_ASSERT(made.ok());
    pool_ = std::move(made).value();
  }

  std::string location_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Disk> files_;
  std::unique_ptr<Pool> pool_;
};

std::unique_ptr<PoolHarness> make_harness() {
  return std::make_unique<RadosHarness>();
}
INSTANTIATE_TEST_SUITE_P(Rados, PoolContract, testing::Values(&make_harness));

class RadosPoolTest : public testing::Test {
 protected:
  using Bytes = std::vector<std::byte>;

  Pool& pool() { return harness_.pool(); }
  template <typename T>
  T run(Task<T> task) {
    return harness_.run(std::move(task));
  }
  static VolumeId id_of(unsigned number) {
    std::array<std::byte, 16> random{};
    random[0] = static_cast<std::byte>(number);
    return Uuid::from_random(random);
  }
  void create(unsigned number, const std::string& name) {
    VolumeRecord record;
    record.id = id_of(number);
    record.name = name;
    const auto made = run(pool().create_volume(record, RootId{record.id, Epoch{1}, 0}, Bytes(512)));
    ASSERT_TRUE(made.ok()) << made.error().message();
  }
  static SegmentId segment_of(unsigned volume, std::uint64_t epoch, std::uint64_t number) {
    return {id_of(volume), Epoch{epoch}, SegmentNumber{number}};
  }
  template <typename T>
  static ErrorCode code_of(const Result<T>& result) {
    EXPECT_FALSE(result.ok());
    return result.ok() ? ErrorCode::internal : result.error().code();
  }
  static Task<int> io(File* file, FileOperation operation, std::uint64_t offset_bytes,
                      std::span<std::byte> buffer) {
    co_return co_await FileIo(*file, operation, offset_bytes, buffer);
  }
  // The other pool in the same place: another host, though in this process.
  std::unique_ptr<Pool> open_again() {
    auto opened = run(open_pool(harness_.context(), harness_.location()));
    EXPECT_TRUE(opened.ok()) << (opened.ok() ? "" : opened.error().message());
    return opened.ok() ? std::move(opened).value() : nullptr;
  }
  std::unique_ptr<RadosClient> client() {
    auto address = rados_layout::parse_location(harness_.location());
    auto connected = run(RadosClient::connect(harness_.loop(), address.value()));
    EXPECT_TRUE(connected.ok());
    return std::move(connected).value();
  }

  RadosHarness harness_;
};

TEST_F(RadosPoolTest, APlaceThatIsAPoolIsNotMadeOneAgain) {
  EXPECT_EQ(code_of(run(create_pool(harness_.context(), harness_.location(), {}))),
            ErrorCode::already_exists);
  EXPECT_TRUE(pool().info().shared);
}

TEST_F(RadosPoolTest, WhatIsMissingIsNamed) {
  const auto none = run(open_pool(harness_.context(), location_in("nothing-here")));
  EXPECT_EQ(code_of(none), ErrorCode::not_found);
  EXPECT_NE(none.error().message().find("pool create"), std::string::npos);
  std::string other = location_in("x");
  other.replace(0, other.find('/'), "rados:no-such-pool");
  const auto no_pool = run(open_pool(harness_.context(), other));
  EXPECT_EQ(code_of(no_pool), ErrorCode::not_found);
  EXPECT_NE(no_pool.error().message().find("ceph osd pool create no-such-pool"), std::string::npos)
      << no_pool.error().message();
  const auto no_conf = run(open_pool(harness_.context(), "rados:rbd/x?conf=/none/ceph.conf"));
  EXPECT_EQ(code_of(no_conf), ErrorCode::not_found);
  EXPECT_NE(no_conf.error().message().find("--conf"), std::string::npos);
}

TEST_F(RadosPoolTest, AnOwnerBeforePublishesAndRemovesNothingAnyMore) {
  create(1, "one");
  create(2, "two");
  const VolumeId volume = id_of(1);
  ASSERT_TRUE(run(pool().begin_epoch(volume, Epoch{5})).ok());
  const RootId root{volume, Epoch{5}, 0};
  const SnapshotId snapshot{volume, SnapshotNumber{1}};
  ASSERT_TRUE(run(pool().publish_root(root, Bytes(100), Epoch{5})).ok());
  ASSERT_TRUE(run(pool().publish_snapshot(snapshot, Bytes(100), Epoch{5})).ok());
  const auto second = open_again();
  ASSERT_TRUE(run(second->begin_epoch(volume, Epoch{6})).ok());
  EXPECT_EQ(code_of(run(pool().begin_epoch(volume, Epoch{5}))), ErrorCode::busy);
  const RootId late{volume, Epoch{5}, 1};
  EXPECT_EQ(code_of(run(pool().publish_root(late, Bytes(100), Epoch{5}))), ErrorCode::busy);
  EXPECT_EQ(code_of(run(pool().remove_root(root, Epoch{5}))), ErrorCode::busy);
  EXPECT_EQ(code_of(run(pool().publish_snapshot(SnapshotId{volume, SnapshotNumber{2}}, Bytes(100),
                                                Epoch{5}))),
            ErrorCode::busy);
  EXPECT_EQ(code_of(run(pool().remove_snapshot(snapshot, Epoch{5}))), ErrorCode::busy);
  { const auto file = run(pool().create_segment(segment_of(2, 1, 1), SegmentPurpose::metadata)); }
  EXPECT_EQ(
      code_of(run(pool().adopt_segment(segment_of(2, 1, 1), volume, AdoptBy::link, Epoch{5}))),
      ErrorCode::busy);
  EXPECT_EQ(run(pool().list_roots(volume)).value().size(), 2u);
  EXPECT_EQ(run(pool().list_snapshots(volume)).value().size(), 1u);
  EXPECT_TRUE(run(pool().list_segments(volume)).value().empty());
  ASSERT_TRUE(run(second->publish_root(RootId{volume, Epoch{6}, 0}, Bytes(10), Epoch{6})).ok());
  ASSERT_TRUE(run(second->begin_epoch(volume, Epoch{0x123456789abcd})).ok());
  EXPECT_EQ(code_of(run(second->begin_epoch(volume, Epoch{0xfffff}))), ErrorCode::busy)
      << "compared as numbers";
}

TEST_F(RadosPoolTest, ALateWriteBringsBackNoRemovedSegment) {
  create(1, "one");
  const SegmentId segment = segment_of(1, 1, 1);
  auto file = run(pool().create_segment(segment, SegmentPurpose::guest_data));
  ASSERT_TRUE(file.ok());
  AlignedBuffer data(4096);
  std::memset(data.data(), 1, data.size());
  EXPECT_EQ(run(io(file->get(), FileOperation::write, 0, data.span())), 0);
  ASSERT_TRUE(run(pool().remove_segment(segment)).ok());
  EXPECT_EQ(run(io(file->get(), FileOperation::write, 0, data.span())), ENOENT);
  EXPECT_EQ(run(io(file->get(), FileOperation::read, 0, data.span())), 0);
  EXPECT_EQ(data.data()[0], std::byte{0});
  EXPECT_EQ(code_of(run(pool().open_segment(segment))), ErrorCode::not_found);
}

TEST_F(RadosPoolTest, ASegmentThatACrashLeftHalfMadeReadsAsZerosAndIsRemoved) {
  create(1, "one");
  const SegmentId segment = segment_of(1, 1, 1);
  const auto objects = client();
  RadosWrite entry;
  entry.values = {{dir_layout::segment_name(segment),
                   rados_layout::encode_segment_entry({kContractSegmentBytes, 0})}};
  ASSERT_EQ(run(objects->write(rados_layout::volume_object(id_of(1)), entry)), 0);
  auto file = run(pool().open_segment(segment));
  ASSERT_TRUE(file.ok());
  AlignedBuffer data(kContractSegmentBytes);
  std::memset(data.data(), 1, data.size());
  EXPECT_EQ(run(io(file->get(), FileOperation::read, 0, data.span())), 0);
  EXPECT_TRUE(std::all_of(data.data(), data.data() + data.size(),
                          [](std::byte each) { return each == std::byte{0}; }));
  EXPECT_TRUE(run(pool().remove_segment(segment)).ok());
  EXPECT_TRUE(run(pool().list_segments(id_of(1))).value().empty());
}

TEST_F(RadosPoolTest, RequestsAcrossStripesAndManyBuffersReadBackWhatWasWritten) {
  create(1, "one");
  auto file = run(pool().create_segment(segment_of(1, 1, 1), SegmentPurpose::guest_data));
  ASSERT_TRUE(file.ok());
  // From the first stripe far into the second, out of three pieces of memory.
  AlignedBuffer data(768 * kKiB);
  for (std::size_t i = 0; i < data.size(); ++i) data.span()[i] = static_cast<std::byte>(i * 7 / 13);
  std::vector<iovec> vectors = {{data.data(), 4096},
                                {data.data() + 4096, 500 * kKiB},
                                {data.data() + 4096 + 500 * kKiB, data.size() - 4096 - 500 * kKiB}};
  FileRequest request;
  request.operation = FileOperation::write;
  request.offset_bytes = 128 * kKiB;
  request.vectors = vectors.data();
  request.vector_count = 3;
  bool done = false;
  request.context = &done;
  request.on_complete = [](FileRequest& completed) {
    *static_cast<bool*>(completed.context) = true;
  };
  (*file)->submit(request);
  harness_.run_until([&] { return done; });
  ASSERT_EQ(request.error, 0);
  AlignedBuffer back(1 * kMiB);
  std::memset(back.data(), 0xff, back.size());
  std::vector<iovec> targets = {{back.data(), 700 * kKiB},
                                {back.data() + 700 * kKiB, back.size() - 700 * kKiB}};
  request.operation = FileOperation::read;
  request.offset_bytes = 0;
  request.vectors = targets.data();
  request.vector_count = 2;
  done = false;
  (*file)->submit(request);
  harness_.run_until([&] { return done; });
  ASSERT_EQ(request.error, 0);
  const std::span<std::byte> all = back.span();
  for (std::size_t i = 0; i < 128 * kKiB; ++i) ASSERT_EQ(all[i], std::byte{0}) << i;
  EXPECT_EQ(std::memcmp(back.data() + 128 * kKiB, data.data(), data.size()), 0);
  for (std::size_t i = 896 * kKiB; i < kMiB; ++i) ASSERT_EQ(all[i], std::byte{0}) << i;
  EXPECT_EQ(run(io(file->get(), FileOperation::read, kMiB - 4096, back.span(0, 8192))), ENODATA)
      << "behind the segment's end";
}

TEST_F(RadosPoolTest, NothingIsLeftOfRemovedVolumes) {
  create(1, "one");
  create(2, "two");
  for (std::uint64_t number = 1; number < 4; ++number) {
    auto file = run(pool().create_segment(segment_of(1, 1, number), SegmentPurpose::guest_data));
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(run(pool().adopt_segment(segment_of(1, 1, number), id_of(2), AdoptBy::copy)).ok());
  }
  const auto objects = client();
  for (unsigned number = 1; number < 3; ++number) {
    const auto segments = run(pool().list_segments(id_of(number))).value();
    EXPECT_EQ(segments.size(), 3u);
    EXPECT_EQ(run(objects->read(rados_layout::volume_object(id_of(number)), 1)).error, 0);
    ASSERT_TRUE(run(pool().remove_volume(id_of(number))).ok());
    EXPECT_EQ(run(objects->read(rados_layout::volume_object(id_of(number)), 1)).error, ENOENT);
    EXPECT_EQ(run(objects->read(rados_layout::lease_object(id_of(number)), 1)).error, ENOENT);
    const auto names = rados_layout::segment_objects(
        segments[0], {}, rados_layout::striping_of(kContractSegmentBytes));
    EXPECT_EQ(run(objects->read(names[0], 1)).error, ENOENT);
  }
  const auto index = run(objects->list_keys("holdfast.pool", ""));
  ASSERT_EQ(index.error, 0);
  ASSERT_EQ(index.values.size(), 2u) << index.values.back().first;
  EXPECT_EQ(index.values[0].first, "client-host-a");
  EXPECT_EQ(index.values[1].first, "version");
}

TEST_F(RadosPoolTest, WhatACrashLeftOfCreatingRemovingAndCopyingGoes) {
  create(1, "one");
  const auto objects = client();
  // In the middle of creating: the mark and the volume's object, but no name yet.
  const std::string half = id_of(7).to_string();
  RadosWrite mark;
  mark.values = {{"creating-" + half, rados_layout::bytes_of("host-a#1")},
                 {"creating-" + id_of(8).to_string(), rados_layout::bytes_of("host-b#1")}};
  ASSERT_EQ(run(objects->write("holdfast.pool", mark)), 0);
  RadosWrite made;
  made.object = RadosWrite::Object::must_be_new;
  ASSERT_EQ(run(objects->write(rados_layout::volume_object(id_of(7)), made)), 0);
  // In the middle of a copy.
  const SegmentId segment = segment_of(1, 1, 5);
  const rados_layout::SegmentEntry entry{4096, 77};
  RadosWrite copying;
  copying.values = {
      {rados_layout::new_copy_key(segment, 77), rados_layout::encode_segment_entry(entry)}};
  ASSERT_EQ(run(objects->write(rados_layout::volume_object(id_of(1)), copying)), 0);
  const std::string part = rados_layout::segment_objects(
      segment, entry, rados_layout::striping_of(kContractSegmentBytes))[0];
  ASSERT_EQ(run(objects->write(part, made)), 0);
  EXPECT_TRUE(run(pool().list_segments(id_of(1))).value().empty()) << "nothing half done is listed";

  harness_.reopen();
  EXPECT_EQ(run(objects->read(rados_layout::volume_object(id_of(7)), 1)).error, ENOENT);
  const auto creating = run(objects->list_keys("holdfast.pool", "creating-"));
  ASSERT_EQ(creating.values.size(), 1u) << "what others are creating is theirs";
  EXPECT_EQ(creating.values[0].first, "creating-" + id_of(8).to_string());
  EXPECT_TRUE(run(objects->list_keys("holdfast.pool", "removing-")).values.empty());
  EXPECT_EQ(run(objects->read(part, 1)).error, 0) << "its volume may be in use";
  run([](Pool* from, VolumeId volume) -> Task<bool> {
    co_await from->remove_leftovers(volume);
    co_return true;
  }(&pool(), id_of(1)));
  EXPECT_EQ(run(objects->read(part, 1)).error, ENOENT);
  EXPECT_TRUE(
      run(objects->list_keys(rados_layout::volume_object(id_of(1)), ".new-")).values.empty());
}

TEST_F(RadosPoolTest, LeasesAreReadAndWrittenBySectors) {
  create(1, "one");
  EXPECT_EQ(code_of(run(pool().open_volume_lease(id_of(9)))), ErrorCode::not_found);
  auto hosts = run(pool().open_host_leases());
  auto lease = run(pool().open_volume_lease(id_of(1)));
  ASSERT_TRUE(hosts.ok() && lease.ok());
  AlignedBuffer sector(4096);
  std::memset(sector.data(), 0x42, sector.size());
  for (File* file : {hosts->get(), lease->get()}) {
    EXPECT_EQ(run(io(file, FileOperation::write, 512 * 100, sector.span(0, 512))), 0);
    AlignedBuffer all(kMiB);
    EXPECT_EQ(run(io(file, FileOperation::read, 0, all.span())), 0);
    EXPECT_EQ(std::memcmp(all.data() + 512 * 100, sector.data(), 512), 0);
    EXPECT_EQ(run(io(file, FileOperation::read, kMiB, all.span(0, 512))), ENODATA);
  }
}

TEST_F(RadosPoolTest, AListOfManyIsWhole) {
  create(1, "one");
  const auto objects = client();
  RadosWrite many;
  for (std::uint64_t number = 1; number <= 2500; ++number) {
    many.values.emplace_back(dir_layout::segment_name(segment_of(1, 1, number)),
                             rados_layout::encode_segment_entry({kContractSegmentBytes, 0}));
  }
  ASSERT_EQ(run(objects->write(rados_layout::volume_object(id_of(1)), many)), 0);
  EXPECT_EQ(run(pool().list_segments(id_of(1))).value().size(), 2500u);
  EXPECT_EQ(run(pool().volume_allocated_bytes(id_of(1))).value(), 2500 * kContractSegmentBytes);
}

}  // namespace
}  // namespace holdfast
