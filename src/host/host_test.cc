// SPDX-License-Identifier: Apache-2.0
//
// Commands on a real host: its own thread and loop, pools in a temporary directory.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "host/host_thread.h"
#include "io/run_task.h"
#include "io/unix_socket.h"

namespace holdfast {
namespace {

class HostTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "holdfast-host-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    config_.runtime_directory = directory_ + "/run";
    config_.state_directory = directory_ + "/state";
    start();
  }
  void TearDown() override {
    if (host_ != nullptr) stop();
    std::filesystem::remove_all(directory_);
  }
  void start() {
    auto host = HostThread::start(config_, "a test", [] {});
    ASSERT_TRUE(host.ok()) << host.error().message();
    host_ = std::move(host).value();
  }
  void stop() {
    EXPECT_TRUE(host_->stop());
    host_.reset();
  }
  std::string location(const std::string& name) const { return "dir:" + directory_ + "/" + name; }

  Result<PoolChange> create_pool(const std::string& name) {
    return create_pool(name, location(name));
  }
  Result<PoolChange> create_pool(const std::string& name, const std::string& where) {
    CreatePoolRequest request;
    request.name = name;
    request.location = where;
    request.segment_bytes = limits::kSegmentBytesMin;
    return host_->call<PoolChange>([request](Host& host) { return host.create_pool(request); });
  }
  Result<PoolChange> open_pool(const std::string& name, const std::string& where) {
    const PoolLocation request{name, where};
    return host_->call<PoolChange>([request](Host& host) { return host.open_pool(request); });
  }
  Result<DoneAnswer> close_pool(const std::string& name) {
    return host_->call<DoneAnswer>([name](Host& host) { return host.close_pool(name); });
  }
  Result<VolumeReport> create_volume(const VolumeName& name, std::uint64_t size_bytes = 64 * kMiB) {
    CreateVolumeRequest request;
    request.name = name;
    request.size_bytes = size_bytes;
    return host_->call<VolumeReport>([request](Host& host) { return host.create_volume(request); });
  }
  Result<VolumeReport> create_thick(const VolumeName& name, std::uint64_t size_bytes) {
    CreateVolumeRequest request{name, size_bytes, true};
    return host_->call<VolumeReport>([request](Host& host) { return host.create_volume(request); });
  }
  Result<VolumeReport> convert(const VolumeName& name, bool thick) {
    const ConvertVolumeRequest request{name, thick};
    return host_->call<VolumeReport>(
        [request](Host& host) { return host.convert_volume(request); });
  }
  // Its state; "": it has none.
  std::string preallocation_of(const VolumeName& name) {
    const auto shown = show(name);
    return shown.ok() && shown->preallocation.has_value() ? shown->preallocation->state : "";
  }
  Result<VolumeReport> resize(const VolumeName& name, std::uint64_t size_bytes,
                              bool force = false) {
    ResizeVolumeRequest request;
    request.name = name;
    request.size_bytes = size_bytes;
    request.force = force;
    return host_->call<VolumeReport>([request](Host& host) { return host.resize_volume(request); });
  }
  Result<VolumeReport> rename(const VolumeName& name, const std::string& new_name) {
    return host_->call<VolumeReport>(
        [name, new_name](Host& host) { return host.rename_volume(name, new_name); });
  }
  Result<VolumeReport> show(const VolumeName& name) {
    return host_->call<VolumeReport>([name](Host& host) { return host.show_volume(name); });
  }
  Result<RemoveAnswer> remove(const VolumeName& name, std::optional<Duration> defer = Duration{},
                              bool with_snapshots = false) {
    RemoveVolumeRequest request;
    request.name = name;
    request.defer = defer;
    request.with_snapshots = with_snapshots;
    return host_->call<RemoveAnswer>([request](Host& host) { return host.remove_volume(request); });
  }
  std::vector<TrashReport> trash() {
    auto list =
        host_->call<std::vector<TrashReport>>([](Host& host) { return host.list_trash(""); });
    EXPECT_TRUE(list.ok());
    return list.ok() ? std::move(list).value() : std::vector<TrashReport>{};
  }
  Result<VolumeReport> restore(const std::string& item, const std::string& new_name = "") {
    const RestoreRequest request{{"vms", item}, new_name};
    return host_->call<VolumeReport>(
        [request](Host& host) { return host.restore_volume(request); });
  }
  Result<EmptyTrashAnswer> empty_trash(const std::string& item, bool only_expired = false) {
    const EmptyTrashRequest request{"vms", item, only_expired};
    return host_->call<EmptyTrashAnswer>(
        [request](Host& host) { return host.empty_trash(request); });
  }
  Result<std::vector<SnapshotReport>> snapshot(const VolumeName& name, const std::string& as) {
    const std::vector<SnapshotName> names{{name, as}};
    return host_->call<std::vector<SnapshotReport>>(
        [names](Host& host) { return host.create_snapshots(names); });
  }
  Result<VolumeReport> clone(const VolumeName& from, const std::string& of,
                             const std::string& name) {
    const CloneRequest request{{from, of}, name};
    return host_->call<VolumeReport>([request](Host& host) { return host.clone_volume(request); });
  }
  Result<DoneAnswer> remove_snapshot(const VolumeName& name, const std::string& of) {
    const SnapshotName snapshot{name, of};
    return host_->call<DoneAnswer>(
        [snapshot](Host& host) { return host.remove_snapshot(snapshot); });
  }
  Result<AttachAnswer> attach(const VolumeName& name, bool read_only = false,
                              const std::string& protocol = "nbd") {
    AttachRequest request;
    request.name = name;
    request.read_only = read_only;
    request.protocol = protocol;
    return host_->call<AttachAnswer>([request](Host& host) { return host.attach(request); });
  }
  Result<DoneAnswer> detach(const VolumeName& name) {
    return host_->call<DoneAnswer>([name](Host& host) { return host.detach(name); });
  }
  Result<TransferAnswer> begin_import(const ImportRequest& request) {
    return host_->call<TransferAnswer>(
        [request](Host& host) { return host.begin_import(request); });
  }
  Result<TransferAnswer> begin_export(const ExportRequest& request) {
    return host_->call<TransferAnswer>(
        [request](Host& host) { return host.begin_export(request); });
  }
  Result<DoneAnswer> end_transfer(const VolumeName& name) {
    return host_->call<DoneAnswer>([name](Host& host) { return host.end_transfer(name); });
  }
  StatusReport status() {
    auto result = host_->call<StatusReport>([](Host& host) { return host.status(); });
    EXPECT_TRUE(result.ok());
    return result.ok() ? std::move(result).value() : StatusReport{};
  }
  // Background work has no event to wait for from here.
  template <typename Condition>
  bool eventually(Condition condition) {
    for (int i = 0; i < 200; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(50ms);
    }
    return false;
  }
  static void expect_refusal(const auto& result, ErrorCode code, const std::string& words) {
    ASSERT_FALSE(result.ok()) << "expected: " << words;
    EXPECT_EQ(result.error().code(), code) << result.error().message();
    EXPECT_NE(result.error().message().find(words), std::string::npos) << result.error().message();
  }

  const VolumeName disk_{"vms", "disk1"};
  std::string directory_;
  HostConfig config_;
  std::unique_ptr<HostThread> host_;
};

TEST_F(HostTest, ARestartServesWhatWasAttached) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  ASSERT_TRUE(create_volume({"vms", "disk2"}).ok());
  ASSERT_TRUE(create_volume({"vms", "disk3"}).ok());
  ASSERT_TRUE(attach(disk_).ok());
  ASSERT_TRUE(attach({"vms", "disk2"}, true).ok());
  const auto before = show(disk_);
  ASSERT_TRUE(before.ok());
  stop();
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/run/vms.disk1.nbd.sock"));
  start();
  // Served before anything is answered.
  EXPECT_TRUE(std::filesystem::is_socket(directory_ + "/run/vms.disk1.nbd.sock"));
  const StatusReport now = status();
  ASSERT_EQ(now.volumes.size(), 2u);
  EXPECT_EQ(now.volumes[0].state, ServiceState::open);
  EXPECT_EQ(now.volumes[0].id, before->id);
  EXPECT_EQ(now.volumes[0].attachment->since.unix_seconds, before->attachment->since.unix_seconds);
  EXPECT_TRUE(now.volumes[1].attachment->read_only);
}

TEST_F(HostTest, ClosedAndDetachedStaysSoOverARestart) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_pool("old").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  ASSERT_TRUE(attach(disk_).ok());
  ASSERT_TRUE(detach(disk_).ok());
  ASSERT_TRUE(close_pool("old").ok());
  stop();
  start();
  const StatusReport now = status();
  EXPECT_EQ(now.pools.size(), 1u);
  EXPECT_TRUE(now.volumes.empty());
}

TEST_F(HostTest, APoolThatIsAwayAtStartIsServedWhenItComesBack) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_pool("here").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  ASSERT_TRUE(create_volume({"here", "disk2"}).ok());
  ASSERT_TRUE(attach(disk_).ok());
  ASSERT_TRUE(attach({"here", "disk2"}).ok());
  stop();
  std::filesystem::rename(directory_ + "/vms", directory_ + "/away");
  start();
  StatusReport now = status();
  ASSERT_EQ(now.pools.size(), 2u);
  ASSERT_EQ(now.volumes.size(), 2u);
  EXPECT_EQ(now.volumes[0].state, ServiceState::open) << "the other pool's volume is served";
  EXPECT_EQ(now.volumes[1].state, ServiceState::failed);
  EXPECT_FALSE(now.volumes[1].reason.empty());
  EXPECT_EQ(now.pools[1].state, ServiceState::failed);
  expect_refusal(create_volume({"vms", "x"}), ErrorCode::path_failure, "cannot be used now");
  stop();  // the attachment is still known after another restart
  start();
  EXPECT_EQ(status().volumes.size(), 2u);
  std::filesystem::rename(directory_ + "/away", directory_ + "/vms");
  EXPECT_TRUE(eventually([&] {
    const StatusReport later = status();
    return later.volumes.size() == 2 && later.volumes[1].state == ServiceState::open;
  }));
  EXPECT_EQ(status().pools[1].reason, "");
}

TEST_F(HostTest, AFailedAttachmentCanBeDetached) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  ASSERT_TRUE(attach(disk_).ok());
  stop();
  std::filesystem::rename(directory_ + "/vms", directory_ + "/away");
  start();
  expect_refusal(close_pool("vms"), ErrorCode::busy, "holdfast detach vms/disk1");
  EXPECT_TRUE(detach(disk_).ok());
  EXPECT_TRUE(close_pool("vms").ok());
  EXPECT_TRUE(status().pools.empty());
}

TEST_F(HostTest, ADamagedStateKeepsTheHostFromStarting) {
  ASSERT_TRUE(create_pool("vms").ok());
  stop();
  for (const char* name : {"state.json", "state.json.2"}) {
    std::ofstream(directory_ + "/state/" + name) << "{\"holdfast_state_version\": 1}";
  }
  const auto refused = HostThread::start(config_, "a test", [] {});
  expect_refusal(refused, ErrorCode::corrupt, "state.json");
  EXPECT_TRUE(std::filesystem::exists(directory_ + "/state/state.json.damaged"));
  EXPECT_TRUE(std::filesystem::exists(directory_ + "/state/state.json.2.damaged"));
}

TEST_F(HostTest, AttachingAgainGivesTheSameAnswer) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  const auto first = attach(disk_);
  const auto second = attach(disk_);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->attachment.uri, second->attachment.uri);
  EXPECT_EQ(first->attachment.uri,
            "nbd+unix:///disk1?socket=" + directory_ + "/run/vms.disk1.nbd.sock");
  expect_refusal(attach(disk_, true), ErrorCode::busy, "attached read-write");
  expect_refusal(attach(disk_, false, "vhost"), ErrorCode::busy, "by nbd");
  expect_refusal(attach(VolumeName{"vms", "other"}, false, "iscsi"), ErrorCode::invalid_argument,
                 "use nbd or vhost");
  ASSERT_TRUE(detach(disk_).ok());
  expect_refusal(detach(disk_), ErrorCode::not_found, "is not attached");
  EXPECT_TRUE(attach(disk_, true).ok());
}

TEST_F(HostTest, ALocalPoolRefusesWhatIsAboutLeases) {
  ASSERT_TRUE(create_pool("vms").ok());
  const VolumeName disk{"vms", "disk1"};
  ASSERT_TRUE(create_volume(disk).ok());
  const auto refused = [](const auto& result, const char* what) {
    ASSERT_FALSE(result.ok()) << what;
    EXPECT_EQ(result.error().code(), ErrorCode::unsupported) << what;
    EXPECT_NE(result.error().message().find("pool 'vms' is local"), std::string::npos)
        << result.error().message();
  };
  refused(host_->call<LeaseReport>([disk](Host& host) { return host.show_lease(disk); }), "show");
  refused(host_->call<LeaseReport>([disk](Host& host) { return host.break_lease(disk); }), "break");
  refused(host_->call<HandOverAnswer>([disk](Host& host) { return host.hand_over(disk); }), "hand");
  using Leases = std::vector<LeaseReport>;
  using Hosts = std::vector<PoolHostReport>;
  refused(host_->call<Leases>([](Host& host) { return host.list_leases("vms"); }), "list");
  refused(host_->call<Hosts>([](Host& host) { return host.list_hosts("vms"); }), "hosts");
  const auto of_all = host_->call<Leases>([](Host& host) { return host.list_leases(""); });
  ASSERT_TRUE(of_all.ok()) << of_all.error().message();
  EXPECT_TRUE(of_all->empty()) << "no shared pool is open";
  for (bool AttachRequest::*flag : {&AttachRequest::incoming, &AttachRequest::shared_writable,
                                    &AttachRequest::shared_read_only}) {
    AttachRequest request;
    request.name = disk;
    request.*flag = true;
    refused(host_->call<AttachAnswer>([request](Host& host) { return host.attach(request); }),
            "attach");
  }
  EXPECT_EQ(show(disk)->state, ServiceState::detached);
  AttachRequest plain;
  plain.name = disk;
  const auto attached =
      host_->call<AttachAnswer>([plain](Host& host) { return host.attach(plain); });
  ASSERT_TRUE(attached.ok()) << attached.error().message();
  EXPECT_EQ(attached->attachment.mode, "");
  EXPECT_FALSE(attached->attachment.lease.has_value());
}

TEST_F(HostTest, TimesOfLeasesThatMakeNoSenseAreRefused) {
  CreatePoolRequest request;
  request.name = "vms";
  request.location = location("vms");
  request.shared = true;
  for (const auto& [io_timeout_seconds, watchdog_seconds] :
       {std::pair(0u, 0u), std::pair(121u, 0u), std::pair(5u, 3601u)}) {
    request.io_timeout_seconds = io_timeout_seconds;
    request.watchdog_seconds = watchdog_seconds;
    const auto made =
        host_->call<PoolChange>([request](Host& host) { return host.create_pool(request); });
    ASSERT_FALSE(made.ok());
    EXPECT_EQ(made.error().code(), ErrorCode::invalid_argument) << made.error().message();
  }
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/vms"));
}

TEST_F(HostTest, SocketsThatWouldMeetAreRefused) {
  ASSERT_TRUE(create_pool("a.b", location("1")).ok());
  ASSERT_TRUE(create_pool("a", location("2")).ok());
  ASSERT_TRUE(create_volume({"a.b", "c"}).ok());
  ASSERT_TRUE(create_volume({"a", "b.c"}).ok());
  ASSERT_TRUE(attach({"a.b", "c"}).ok());
  expect_refusal(attach({"a", "b.c"}), ErrorCode::busy, "which serves 'a.b/c'");
}

TEST_F(HostTest, ASocketPathThatIsTooLongIsRefusedBeforeTheVolumeIsOpened) {
  const VolumeName name{std::string(63, 'p'), std::string(63, 'v')};
  ASSERT_TRUE(create_pool(name.pool, location("vms")).ok());
  ASSERT_TRUE(create_volume(name).ok());
  expect_refusal(attach(name), ErrorCode::invalid_argument, "shorter runtime directory");
  EXPECT_EQ(show(name)->state, ServiceState::detached);
}

TEST_F(HostTest, AttachedVolumesAreNeitherRemovedNorRenamedNorTheirPoolClosed) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  ASSERT_TRUE(attach(disk_).ok());
  expect_refusal(remove(disk_), ErrorCode::busy, "holdfast detach vms/disk1");
  expect_refusal(rename(disk_, "disk2"), ErrorCode::busy, "holdfast detach vms/disk1");
  expect_refusal(close_pool("vms"), ErrorCode::busy, "holdfast detach vms/disk1");
  ASSERT_TRUE(detach(disk_).ok());
  const auto renamed = rename(disk_, "disk2");
  ASSERT_TRUE(renamed.ok()) << renamed.error().message();
  EXPECT_EQ(renamed->name.volume, "disk2");
  expect_refusal(show(disk_), ErrorCode::not_found, "did you mean 'vms/disk2'?");
  EXPECT_TRUE(remove({"vms", "disk2"}).ok());
}

TEST_F(HostTest, RenamingOntoAnotherVolumeIsRefused) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  ASSERT_TRUE(create_volume({"vms", "disk2"}).ok());
  expect_refusal(rename(disk_, "disk2"), ErrorCode::already_exists, "already");
  expect_refusal(rename(disk_, "../x"), ErrorCode::invalid_argument, "cannot be the name");
  EXPECT_TRUE(rename(disk_, "disk1").ok()) << "its own name is no change";
}

TEST_F(HostTest, ResizingGrowsOnlineAndShrinksOnlyByForce) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  for (const bool attached : {false, true}) {
    if (attached) {
      ASSERT_TRUE(attach(disk_).ok());
    }
    const auto grown = resize(disk_, 128 * kMiB);
    ASSERT_TRUE(grown.ok()) << grown.error().message();
    EXPECT_EQ(grown->size_bytes, 128 * kMiB);
    expect_refusal(resize(disk_, 64 * kMiB), ErrorCode::invalid_argument, "--force");
    const auto shrunk = resize(disk_, 64 * kMiB, true);
    ASSERT_TRUE(shrunk.ok()) << shrunk.error().message();
    EXPECT_EQ(show(disk_)->size_bytes, 64 * kMiB);
  }
  ASSERT_TRUE(detach(disk_).ok());
  ASSERT_TRUE(attach(disk_, true).ok());
  expect_refusal(resize(disk_, 128 * kMiB), ErrorCode::busy, "read-only");
}

TEST_F(HostTest, AThickVolumeIsPreallocatedAttachedOrNotAndConvertedBothWays) {
  ASSERT_TRUE(create_pool("vms").ok());
  const auto created = create_thick(disk_, 8 * kMiB);
  ASSERT_TRUE(created.ok()) << created.error().message();
  EXPECT_EQ(created->thick, true);
  ASSERT_TRUE(created->preallocation.has_value());
  EXPECT_GT(created->preallocation->total_bytes, 8 * kMiB);
  ASSERT_TRUE(eventually([&] { return preallocation_of(disk_) == "complete"; }));
  EXPECT_GE(show(disk_)->allocated_bytes, created->preallocation->total_bytes);
  ASSERT_TRUE(attach(disk_).ok());
  const auto thin = convert(disk_, false);
  ASSERT_TRUE(thin.ok()) << thin.error().message();
  EXPECT_EQ(thin->thick, false);
  EXPECT_EQ(preallocation_of(disk_), "");
  EXPECT_TRUE(eventually([&] { return show(disk_)->allocated_bytes < 8 * kMiB; }));
  ASSERT_TRUE(convert(disk_, true).ok());
  ASSERT_TRUE(convert(disk_, true).ok()) << "it is that already";
  ASSERT_TRUE(eventually([&] { return preallocation_of(disk_) == "complete"; }));
  ASSERT_EQ(status().volumes.size(), 1u);
  EXPECT_TRUE(status().volumes[0].preallocation.has_value());
  const auto larger = resize(disk_, 16 * kMiB);
  ASSERT_TRUE(larger.ok()) << larger.error().message();
  EXPECT_GE(larger->allocated_bytes, created->preallocation->total_bytes + 8 * kMiB);
  expect_refusal(convert({"vms", "none"}, true), ErrorCode::not_found, "no volume");
}

TEST_F(HostTest, WhatAThickVolumeWouldNeedIsRefusedWithTheNumbers) {
  ASSERT_TRUE(create_pool("vms").ok());
  expect_refusal(create_thick(disk_, limits::kVolumeBytesMax), ErrorCode::no_space,
                 "after the reserve of");
  EXPECT_FALSE(show(disk_).ok()) << "nothing is left of it";
  ASSERT_TRUE(create_volume(disk_, limits::kVolumeBytesMax).ok());
  expect_refusal(convert(disk_, true), ErrorCode::no_space, "needs");
  EXPECT_EQ(show(disk_)->thick, false);
}

TEST_F(HostTest, APreallocationThatIsUnderWayStopsForClosingAndRemovingAndGoesOn) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_thick(disk_, 300 * kMiB).ok());
  const auto closed = close_pool("vms");
  ASSERT_TRUE(closed.ok()) << closed.error().message();
  ASSERT_TRUE(open_pool("vms", location("vms")).ok());
  ASSERT_TRUE(eventually([&] { return preallocation_of(disk_) != ""; }));
  stop();
  start();
  ASSERT_TRUE(create_thick({"vms", "disk2"}, 100 * kMiB).ok());
  ASSERT_TRUE(remove({"vms", "disk2"}).ok());
  ASSERT_TRUE(eventually([&] { return preallocation_of(disk_) == "complete"; }));
  ASSERT_TRUE(remove(disk_).ok());
  EXPECT_TRUE(std::filesystem::is_empty(directory_ + "/vms/volumes"));
}

TEST_F(HostTest, SizesThatMakeNoSenseAreRefused) {
  ASSERT_TRUE(create_pool("vms").ok());
  expect_refusal(create_volume(disk_, 0), ErrorCode::invalid_argument, "the least is 1 MiB");
  expect_refusal(create_volume(disk_, 64 * kMiB + 1), ErrorCode::invalid_argument,
                 "the next larger one is 67109376");
  expect_refusal(create_volume(disk_, limits::kVolumeBytesMax + 512), ErrorCode::invalid_argument,
                 "the most is 32 TiB");
  EXPECT_TRUE(create_volume(disk_, limits::kVolumeBytesMax).ok());
}

TEST_F(HostTest, TheSameNameIsCreatedOnce) {
  ASSERT_TRUE(create_pool("vms").ok());
  std::atomic<int> created{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      if (create_volume(disk_).ok()) ++created;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(created, 1);
  const auto volumes =
      host_->call<std::vector<VolumeReport>>([](Host& host) { return host.list_volumes(""); });
  ASSERT_TRUE(volumes.ok());
  EXPECT_EQ(volumes->size(), 1u);
}

TEST_F(HostTest, CommandsOnOneVolumeAtOnceLeaveItWhole) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 10; ++round) {
        if ((i + round) % 2 == 0) {
          static_cast<void>(attach(disk_).ok());
        } else {
          static_cast<void>(detach(disk_).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(attach(disk_).ok());
  EXPECT_EQ(show(disk_)->state, ServiceState::open);
  EXPECT_EQ(status().volumes.size(), 1u);
}

TEST_F(HostTest, OnePlaceIsOpenUnderOneName) {
  ASSERT_TRUE(create_pool("vms").ok());
  expect_refusal(create_pool("vms", location("other")), ErrorCode::already_exists,
                 "is open already");
  expect_refusal(open_pool("web", location("vms") + "/"), ErrorCode::already_exists,
                 "as pool 'vms'");
  EXPECT_TRUE(open_pool("vms", location("vms")).ok()) << "the same again is no change";
  expect_refusal(open_pool("vms", location("other")), ErrorCode::already_exists, "is open already");
  expect_refusal(close_pool("vsm"), ErrorCode::not_found, "did you mean 'vms'?");
  ASSERT_TRUE(close_pool("vms").ok());
  EXPECT_TRUE(open_pool("web", location("vms")).ok());
  EXPECT_FALSE(open_pool("none", location("none")).ok());
  EXPECT_EQ(status().pools.size(), 1u) << "what could not be opened is not remembered";
}

TEST_F(HostTest, AStateThatCannotBeSavedIsAWarningAndSavedLater) {
  stop();
  config_.state_directory = directory_ + "/other";
  const std::string blocker = directory_ + "/other/state.json.2";
  start();  // saves once, in the first file
  stop();
  std::filesystem::remove(blocker);
  std::filesystem::create_directory(blocker);
  start();
  EXPECT_NE(create_pool("vms")->warning.find("could not be recorded"), std::string::npos);
  ASSERT_TRUE(create_volume(disk_).ok());
  const auto attached = attach(disk_);
  ASSERT_TRUE(attached.ok()) << "a machine starts all the same";
  EXPECT_NE(attached->warning.find("could not be recorded"), std::string::npos);
  EXPECT_FALSE(status().state_error.empty());
  std::filesystem::remove(blocker);
  EXPECT_TRUE(eventually([&] { return status().state_error.empty(); }));
  stop();
  start();
  EXPECT_EQ(status().volumes.size(), 1u);
}

TEST_F(HostTest, ConfiguredPoolsAreOpenedAndMustAgreeWithTheState) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(close_pool("vms").ok());
  stop();
  config_.pools = {{"vms", location("vms")}, {"absent", location("absent")}};
  start();
  const StatusReport now = status();
  ASSERT_EQ(now.pools.size(), 2u);
  EXPECT_EQ(now.pools[0].state, ServiceState::failed);
  EXPECT_EQ(now.pools[1].state, ServiceState::open);
  stop();
  config_.pools = {{"vms", location("elsewhere")}};
  expect_refusal(HostThread::start(config_, "a test", [] {}), ErrorCode::invalid_argument,
                 "is recorded at");
}

TEST_F(HostTest, SettingsOfAVolumeFollowItAndEndWithIt) {
  const VolumeName disk{"vms", "disk"};
  const VolumeName other{"vms", "other"};
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk).ok());
  const auto set = [this](const VolumeName& name, const std::string& setting,
                          const std::string& value) {
    const SetVolumeRequest request{name, {{setting, value}}};
    return host_->call<VolumeReport>([request](Host& host) { return host.set_volume(request); });
  };
  EXPECT_EQ(show(disk)->hold_pause_after, "25s");
  EXPECT_EQ(show(disk)->hold_fail_after, "never");
  EXPECT_FALSE(set(disk, "hold.pause", "1s").ok());
  EXPECT_FALSE(set(disk, "hold.pause_after", "later").ok());
  EXPECT_FALSE(set(other, "hold.pause_after", "1s").ok()) << "there is none";
  ASSERT_TRUE(set(disk, "hold.pause_after", "10s").ok());
  EXPECT_EQ(set(disk, "hold.fail_after", "1h")->hold_pause_after, "10s");
  stop();
  start();
  ASSERT_TRUE(eventually([&] { return show(disk).ok(); }));
  EXPECT_EQ(show(disk)->hold_pause_after, "10s");
  ASSERT_TRUE(rename(disk, "other").ok());
  EXPECT_EQ(show(other)->hold_fail_after, "1h");
  ASSERT_TRUE(create_volume(disk).ok());
  EXPECT_EQ(show(disk)->hold_fail_after, "never");
  ASSERT_TRUE(remove(other).ok());
  ASSERT_TRUE(create_volume(other).ok());
  EXPECT_EQ(show(other)->hold_pause_after, "25s");
}

TEST_F(HostTest, TheMonitorOfAMachineIsRememberedAndMayChange) {
  const VolumeName disk{"vms", "disk"};
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk).ok());
  const auto attach_with = [&](const std::string& qmp) {
    AttachRequest request;
    request.name = disk;
    request.qmp_path = qmp;
    return host_->call<AttachAnswer>([request](Host& host) { return host.attach(request); });
  };
  EXPECT_FALSE(attach_with("relative.qmp").ok());
  EXPECT_FALSE(attach_with("/" + std::string(107, 'x')).ok());
  ASSERT_TRUE(attach_with("/run/one.qmp").ok());
  EXPECT_EQ(attach_with("")->attachment.qmp_path, "/run/one.qmp");
  ASSERT_TRUE(attach_with("/run/two.qmp").ok());
  stop();
  start();
  ASSERT_TRUE(eventually([&] { return show(disk).ok() && show(disk)->attachment->machine; }));
  EXPECT_EQ(show(disk)->attachment->qmp_path, "/run/two.qmp");
  EXPECT_EQ(show(disk)->attachment->machine->state, "running") << "nobody has asked yet";
  ASSERT_TRUE(detach(disk).ok());
}

TEST_F(HostTest, VolumesAreSpreadOverTheLoops) {
  stop();
  config_.loops = 3;
  start();
  ASSERT_TRUE(create_pool("vms").ok());
  for (const char* name : {"a", "b", "c", "d", "e", "f"}) {
    ASSERT_TRUE(create_volume({"vms", name}).ok());
    ASSERT_TRUE(attach({"vms", name}).ok());
  }
  const auto loops_in_use = [this] {
    std::map<std::size_t, int> counts;
    for (const VolumeReport& volume : status().volumes) ++counts[volume.attachment->loop];
    return counts;
  };
  const std::map<std::size_t, int> even = {{0, 2}, {1, 2}, {2, 2}};
  EXPECT_EQ(loops_in_use(), even);
  // What becomes free is filled first.
  const std::size_t freed = show({"vms", "b"})->attachment->loop;
  ASSERT_TRUE(detach({"vms", "b"}).ok());
  EXPECT_EQ(attach({"vms", "b"})->attachment.loop, freed);
  stop();
  start();
  EXPECT_EQ(loops_in_use(), even) << "a restart spreads them anew";
  for (const VolumeReport& volume : status().volumes) {
    EXPECT_EQ(volume.state, ServiceState::open) << volume.reason;
  }
}

TEST_F(HostTest, ASocketIsThereWhileItsPoolIsAwayAndServesWhenItIsBack) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  const auto attached = attach(disk_);
  ASSERT_TRUE(attached.ok());
  stop();
  std::filesystem::rename(directory_ + "/vms", directory_ + "/away");
  start();
  EXPECT_EQ(show(disk_)->state, ServiceState::failed);
  auto loop = Loop::create().value();
  auto client = connect_unix(*loop, attached->attachment.socket_path);
  ASSERT_TRUE(client.ok()) << client.error().message();
  // The server speaks first, but not before it can serve.
  StreamRequest receive;
  bool greeted = false;
  receive.on_complete = [](StreamRequest& done) { *static_cast<bool*>(done.context) = true; };
  receive.context = &greeted;
  std::vector<std::byte> greeting(8);
  client.value()->receive(receive, greeting);
  EXPECT_FALSE(loop->run_until([&] { return greeted; }, 100ms));
  std::filesystem::rename(directory_ + "/away", directory_ + "/vms");
  EXPECT_TRUE(loop->run_until([&] { return greeted; }, 20s)) << "the same connection is served";
  EXPECT_EQ(receive.error, 0);
  EXPECT_EQ(receive.transferred, greeting.size());
  stop();
  EXPECT_FALSE(std::filesystem::exists(attached->attachment.socket_path));
}

TEST_F(HostTest, AnAttachThatFailsLeavesNoSocket) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  const auto id = show(disk_)->id;
  const std::string volume = directory_ + "/vms/volumes/" + id->to_string();
  for (const auto& entry : std::filesystem::directory_iterator(volume)) {
    if (entry.path().filename().string().starts_with("root-")) {
      std::ofstream(entry.path(), std::ios::trunc) << "garbage";
    }
  }
  EXPECT_FALSE(attach(disk_).ok());
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/run/vms.disk1.nbd.sock"));
  EXPECT_TRUE(status().volumes.empty());
}

TEST_F(HostTest, WhatIsImportedHasAnotherNameUntilItIsWhole) {
  ASSERT_TRUE(create_pool("vms").ok());
  const auto begun = begin_import({disk_, 8 * kMiB, "", "whole"});
  ASSERT_TRUE(begun.ok()) << begun.error().message();
  const VolumeName importing{"vms", "disk1.importing"};
  EXPECT_EQ(begun->transfer, importing);
  EXPECT_EQ(begun->size_bytes, 8 * kMiB);
  expect_refusal(attach(importing), ErrorCode::busy, "being imported");
  expect_refusal(detach(importing), ErrorCode::busy, "being imported");
  expect_refusal(remove(importing), ErrorCode::busy, "being imported");
  expect_refusal(create_volume(disk_), ErrorCode::busy, "being imported as");
  expect_refusal(begin_import({disk_, 8 * kMiB, "", ""}), ErrorCode::busy, "already");
  const auto finished =
      host_->call<VolumeReport>([importing](Host& host) { return host.finish_import(importing); });
  ASSERT_TRUE(finished.ok()) << finished.error().message();
  EXPECT_EQ(finished->name, disk_);
  EXPECT_FALSE(finished->attachment.has_value());
  const auto snapshots = host_->call<std::vector<SnapshotReport>>(
      [this](Host& host) { return host.list_snapshots(disk_); });
  ASSERT_TRUE(snapshots.ok());
  ASSERT_EQ(snapshots->size(), 1u);
  EXPECT_EQ(snapshots->front().name.snapshot, "whole");
  expect_refusal(end_transfer(importing), ErrorCode::not_found, "any more");
  expect_refusal(begin_import({disk_, 8 * kMiB, "", ""}), ErrorCode::already_exists, "vms/disk1");
}

TEST_F(HostTest, TransfersThatEndBadlyLeaveNothingOverARestartToo) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_, 8 * kMiB).ok());
  const std::vector<SnapshotName> first = {{disk_, "first"}};
  const auto snapshot = host_->call<std::vector<SnapshotReport>>(
      [first](Host& host) { return host.create_snapshots(first); });
  ASSERT_TRUE(snapshot.ok()) << snapshot.error().message();
  const VolumeName made{"vms", "new.importing"};
  for (const bool restarts : {false, true}) {
    const auto read = begin_export({disk_, ""});
    ASSERT_TRUE(read.ok()) << read.error().message();
    ASSERT_TRUE(begin_import({{"vms", "new"}, 8 * kMiB, "", ""}).ok());
    // Its size is changed at once, and is the snapshot's again after all.
    const auto change = begin_import({disk_, 16 * kMiB, "first", "second"});
    ASSERT_TRUE(change.ok()) << change.error().message();
    EXPECT_EQ(change->size_bytes, 16 * kMiB);
    EXPECT_EQ(status().volumes.size(), 3u);
    if (restarts) {
      stop();
      start();
      EXPECT_EQ(status().volumes.size(), 0u);
    } else {
      for (const VolumeName& name : {read->transfer, made, disk_}) {
        const auto ended = end_transfer(name);
        EXPECT_TRUE(ended.ok()) << ended.error().message();
      }
    }
    const auto is_undone = [&] {
      const auto snapshots = host_->call<std::vector<SnapshotReport>>(
          [this](Host& host) { return host.list_snapshots(disk_); });
      const auto disk = show(disk_);
      return snapshots.ok() && snapshots->size() == 1 && !show(made).ok() && disk.ok() &&
             disk->size_bytes == 8 * kMiB && !disk->attachment.has_value();
    };
    EXPECT_TRUE(eventually(is_undone)) << restarts;
  }
}

TEST_F(HostTest, OverviewsAddUp) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_, 64 * kMiB).ok());
  ASSERT_TRUE(create_volume({"vms", "disk2"}, 32 * kMiB).ok());
  ASSERT_TRUE(attach(disk_).ok());
  const auto pool = host_->call<PoolReport>([](Host& host) { return host.show_pool("vms"); });
  ASSERT_TRUE(pool.ok());
  EXPECT_EQ(pool->volume_count, 2u);
  ASSERT_TRUE(pool->volumes.has_value());
  EXPECT_EQ(pool->volumes->provisioned_bytes, 96 * kMiB);
  ASSERT_TRUE(pool->space.has_value());
  EXPECT_GT(pool->space->capacity_bytes, 0u);
  const auto attached = show(disk_);
  ASSERT_TRUE(attached.ok());
  EXPECT_TRUE(attached->counters.has_value());
  EXPECT_EQ(attached->attachment->clients->count, 0u);
  EXPECT_FALSE(show({"vms", "disk2"})->counters.has_value());
}

// --- The trash ---

TEST_F(HostTest, ARemovedVolumeIsInTheTrashOverARestartAndComesBackAsItWas) {
  ASSERT_TRUE(create_pool("vms").ok());
  const auto made = create_volume(disk_);
  ASSERT_TRUE(made.ok());
  const auto removed = remove(disk_, std::nullopt);
  ASSERT_TRUE(removed.ok()) << removed.error().message();
  ASSERT_TRUE(removed->trashed.has_value());
  EXPECT_EQ(removed->trashed->until.unix_seconds - removed->trashed->since.unix_seconds,
            limits::kTrashDeferDefault / 1s);
  expect_refusal(show(disk_), ErrorCode::not_found, "trash restore vms/disk1");
  expect_refusal(attach(disk_), ErrorCode::not_found, "in the trash");
  ASSERT_TRUE(create_volume(disk_, 4 * kMiB).ok()) << "its name is free";
  for (int round = 0; round < 2; ++round) {
    ASSERT_EQ(trash().size(), 1u);
    EXPECT_EQ(trash()[0].id, *made->id);
    EXPECT_EQ(trash()[0].size_bytes, 64 * kMiB);
    EXPECT_FALSE(trash()[0].is_expired);
    stop();
    start();
  }
  expect_refusal(restore("disk1"), ErrorCode::already_exists, "NEW");
  const auto restored = restore("disk1", "old");
  ASSERT_TRUE(restored.ok()) << restored.error().message();
  EXPECT_EQ(restored->id, made->id);
  EXPECT_EQ(restored->size_bytes, 64 * kMiB);
  EXPECT_TRUE(trash().empty());
  ASSERT_TRUE(attach({"vms", "old"}).ok());
}

TEST_F(HostTest, OfSeveralOfOneNameTheIdTellsWhich) {
  ASSERT_TRUE(create_pool("vms").ok());
  std::vector<VolumeId> ids;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(*create_volume(disk_)->id);
    ASSERT_TRUE(remove(disk_, 1h).ok());
  }
  expect_refusal(restore("disk1"), ErrorCode::invalid_argument, ids[1].to_string().substr(0, 8));
  expect_refusal(empty_trash("disk1"), ErrorCode::invalid_argument, "name one by its id");
  expect_refusal(restore("disk2"), ErrorCode::not_found, "trash list vms");
  ASSERT_TRUE(restore(ids[1].to_string().substr(0, 8)).ok());
  EXPECT_EQ(show(disk_)->id, ids[1]);
  const auto emptied = empty_trash(ids[0].to_string());
  ASSERT_TRUE(emptied.ok());
  ASSERT_EQ(emptied->removed.size(), 1u);
  EXPECT_EQ(emptied->removed[0].id, ids[0]);
  ASSERT_EQ(trash().size(), 1u);
  EXPECT_EQ(trash()[0].id, ids[2]);
  expect_refusal(restore("disk1"), ErrorCode::already_exists, ids[2].to_string().substr(0, 8));
}

TEST_F(HostTest, WhatHasExpiredIsRemovedByItselfAndNothingElse) {
  ASSERT_TRUE(create_pool("vms").ok());
  for (const char* name : {"a", "b", "c"}) ASSERT_TRUE(create_volume({"vms", name}).ok());
  ASSERT_TRUE(remove({"vms", "a"}, 1h).ok());
  ASSERT_TRUE(remove({"vms", "b"}, 5s).ok());
  EXPECT_EQ(empty_trash("", true)->removed.size(), 0u);
  EXPECT_EQ(trash().size(), 2u);
  stop();  // it expires while the daemon is away
  std::this_thread::sleep_for(5s);
  start();
  EXPECT_TRUE(eventually([&] { return trash().size() == 1; }));
  EXPECT_EQ(trash()[0].name.volume, "a");
  ASSERT_TRUE(remove({"vms", "c"}, 1s).ok());
  EXPECT_TRUE(eventually([&] { return trash().size() == 1; }));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_ + "/vms/volumes"), {}), 1);
  EXPECT_EQ(empty_trash("")->removed.size(), 1u);
  EXPECT_TRUE(std::filesystem::is_empty(directory_ + "/vms/volumes"));
}

TEST_F(HostTest, WithoutADefermentARemovedVolumeIsGone) {
  config_.trash_defer = Duration{};
  stop();
  start();
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  const auto removed = remove(disk_, std::nullopt);
  ASSERT_TRUE(removed.ok());
  EXPECT_FALSE(removed->trashed.has_value());
  EXPECT_TRUE(trash().empty());
  EXPECT_TRUE(std::filesystem::is_empty(directory_ + "/vms/volumes"));
  ASSERT_TRUE(create_volume(disk_).ok());
  EXPECT_TRUE(remove(disk_, 1h)->trashed.has_value()) << "who asks for it gets it";
  ASSERT_TRUE(create_volume(disk_).ok());
  expect_refusal(remove(disk_, limits::kTrashDeferMax + 1s), ErrorCode::invalid_argument, "3650d");
}

TEST_F(HostTest, SnapshotsGoAlongIntoTheTrashAndBackButNotForGoodUnasked) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  ASSERT_TRUE(snapshot(disk_, "s").ok());
  expect_refusal(remove(disk_), ErrorCode::busy, "--now --with-snapshots vms/disk1");
  ASSERT_TRUE(attach({"vms", "disk1@s"}).ok());
  expect_refusal(remove(disk_, 1h), ErrorCode::busy, "detach vms/disk1@s");
  ASSERT_TRUE(detach({"vms", "disk1@s"}).ok());
  ASSERT_TRUE(remove(disk_, 1h).ok());
  ASSERT_EQ(trash().size(), 1u);
  EXPECT_EQ(trash()[0].snapshot_count, 1u);
  ASSERT_TRUE(restore("disk1").ok());
  ASSERT_TRUE(attach({"vms", "disk1@s"}).ok());
  ASSERT_TRUE(detach({"vms", "disk1@s"}).ok());
  ASSERT_TRUE(remove(disk_, Duration{}, true).ok());
  EXPECT_TRUE(trash().empty());
  EXPECT_TRUE(std::filesystem::is_empty(directory_ + "/vms/volumes"));
}

TEST_F(HostTest, ACloneInTheTrashKeepsItsParentsSnapshotUntilItIsGone) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_volume(disk_).ok());
  ASSERT_TRUE(snapshot(disk_, "gold").ok());
  ASSERT_TRUE(clone(disk_, "gold", "web").ok());
  expect_refusal(remove(disk_, 1h), ErrorCode::busy, "'gold', which the clone 'vms/web'");
  ASSERT_TRUE(remove({"vms", "web"}, 1h).ok());
  for (int round = 0; round < 2; ++round) {
    expect_refusal(remove_snapshot(disk_, "gold"), ErrorCode::busy, "trash empty vms/web");
    expect_refusal(remove(disk_, 1h), ErrorCode::busy, "trash empty vms/web");
    expect_refusal(remove(disk_, Duration{}, true), ErrorCode::busy, "trash empty vms/web");
    const auto listed = host_->call<std::vector<SnapshotReport>>(
        [this](Host& host) { return host.list_snapshots(disk_); });
    ASSERT_TRUE(listed.ok());
    EXPECT_TRUE(listed->front().clones.empty());
    EXPECT_EQ(listed->front().clones_in_trash, std::vector<std::string>{"web"});
    stop();
    start();
  }
  ASSERT_TRUE(restore("web").ok());
  ASSERT_TRUE(attach({"vms", "web"}).ok());
  ASSERT_TRUE(detach({"vms", "web"}).ok());
  ASSERT_TRUE(remove({"vms", "web"}, 1h).ok());
  ASSERT_TRUE(empty_trash("web").ok());
  ASSERT_TRUE(remove_snapshot(disk_, "gold").ok());
  ASSERT_TRUE(remove(disk_).ok());
  EXPECT_TRUE(std::filesystem::is_empty(directory_ + "/vms/volumes"));
}

TEST_F(HostTest, ACloneWhoseParentAnotherProgramRemovedIsNotRestored) {
  ASSERT_TRUE(create_pool("vms").ok());
  const auto parent = create_volume(disk_);
  ASSERT_TRUE(snapshot(disk_, "gold").ok());
  ASSERT_TRUE(clone(disk_, "gold", "web").ok());
  ASSERT_TRUE(remove({"vms", "web"}, 1h).ok());
  for (const auto& file : std::filesystem::directory_iterator(directory_ + "/vms/volumes/" +
                                                              parent->id->to_string())) {
    if (file.path().filename().string().starts_with("snap-")) std::filesystem::remove(file.path());
  }
  expect_refusal(restore("web"), ErrorCode::corrupt, "the snapshot that it reads from is gone");
  EXPECT_EQ(trash().size(), 1u);
  EXPECT_EQ(empty_trash("")->removed.size(), 1u);
}

TEST_F(HostTest, ADamagedVolumeCanBeTrashedAndRemoved) {
  ASSERT_TRUE(create_pool("vms").ok());
  const auto made = create_volume(disk_);
  ASSERT_TRUE(made.ok());
  for (const auto& file :
       std::filesystem::directory_iterator(directory_ + "/vms/volumes/" + made->id->to_string())) {
    if (!file.path().filename().string().starts_with("root-")) continue;
    std::ofstream(file.path(), std::ios::binary | std::ios::in).write("XXXX", 4);
  }
  ASSERT_TRUE(remove(disk_, 1h).ok());
  ASSERT_EQ(trash().size(), 1u);
  EXPECT_FALSE(trash()[0].size_bytes.has_value());
  EXPECT_EQ(empty_trash("disk1")->removed.size(), 1u);
  EXPECT_TRUE(std::filesystem::is_empty(directory_ + "/vms/volumes"));
}

TEST_F(HostTest, AThickVolumeKeepsItsSpaceInTheTrashAndIsTendedAgainWhenItIsBack) {
  ASSERT_TRUE(create_pool("vms").ok());
  ASSERT_TRUE(create_thick(disk_, 16 * kMiB).ok());
  ASSERT_TRUE(eventually([&] { return preallocation_of(disk_) == "complete"; }));
  ASSERT_TRUE(remove(disk_, 1h).ok());
  ASSERT_EQ(trash().size(), 1u);
  EXPECT_TRUE(trash()[0].thick);
  EXPECT_GT(*trash()[0].allocated_bytes, 16 * kMiB);
  const auto pool = host_->call<PoolReport>([](Host& host) { return host.show_pool("vms"); });
  ASSERT_TRUE(pool.ok());
  ASSERT_TRUE(pool->trash.has_value());
  EXPECT_EQ(pool->trash->count, 1u);
  EXPECT_EQ(pool->trash->allocated_bytes, *trash()[0].allocated_bytes);
  EXPECT_EQ(pool->volumes->allocated_bytes, 0u);
  ASSERT_TRUE(restore("disk1").ok());
  EXPECT_TRUE(eventually([&] { return preallocation_of(disk_) == "complete"; }));
}

}  // namespace
}  // namespace holdfast
