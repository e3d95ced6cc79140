// SPDX-License-Identifier: Apache-2.0
//
// A host whose loops a test runs by hand, all on its own thread: one loop for everything, and a
// service loop that is stuck.
#include "host/service_loop.h"

#include <gtest/gtest.h>

#include "host/host.h"
#include "io/disk.h"
#include "io/run_task.h"
#include "io/temporary_directory.h"
#include "io/unix_socket.h"

namespace holdfast {
namespace {

class ServiceLoopTest : public testing::Test {
 protected:
  void make_host(Loop& service) {
    HostConfig config;
    config.runtime_directory = directory_.path() + "/run";
    config.state_directory = directory_.path() + "/state";
    const auto make_disk = [this] { return std::make_unique<Disk>(*home_); };
    const ServiceEnvironment environment{
        service, [&service] { return std::make_unique<Disk>(service); },
        [&service](const std::string& path, ServiceEnvironment::OnAccept on_accept) {
          return listen_unix(service, path, 0600, std::move(on_accept));
        },
        VhostEnvironment::on(service)};
    HostEnvironment whole{*home_,
                          *disk_,
                          make_disk,
                          {environment},
                          LeaseEnvironment{*home_, make_disk},
                          "a test",
                          "a-host",
                          "a-boot",
                          [](const std::string&) -> Result<std::unique_ptr<Stream>> {
                            return Error(ErrorCode::not_found, "no monitors here");
                          },
                          [] {}};
    host_ = std::make_unique<Host>(std::move(whole), config);
    ASSERT_TRUE(run(host_->start()).ok());
    CreatePoolRequest pool;
    pool.name = disk1_.pool;
    pool.location = "dir:" + directory_.path() + "/vms";
    pool.segment_bytes = limits::kSegmentBytesMin;
    ASSERT_TRUE(run(host_->create_pool(pool)).ok());
    CreateVolumeRequest volume;
    volume.name = disk1_;
    volume.size_bytes = 64 * kMiB;
    ASSERT_TRUE(run(host_->create_volume(volume)).ok());
  }
  void TearDown() override {
    TaskScope scope;
    scope.spawn(host_->stop());
    run_until([&] { return scope.empty(); });
    host_.reset();
    // What lives on the other loop ends there.
    for (int i = 0; i < 10; ++i) run_turns();
  }

  void run_turns() {
    home_->run_turn(1ms);
    if (!stuck_) service_->run_turn(1ms);
  }
  void run_until(const std::function<bool()>& done) {
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    while (!done()) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline);
      run_turns();
    }
  }
  template <typename T>
  T run(Task<T> task) {
    return run_task<T>([this](const std::function<bool()>& done) { run_until(done); },
                       std::move(task));
  }
  Result<AttachAnswer> attach() {
    AttachRequest request;
    request.name = disk1_;
    return run(host_->attach(request));
  }

  const VolumeName disk1_{"vms", "disk1"};
  TemporaryDirectory directory_;
  std::unique_ptr<Loop> home_ = Loop::create().value();
  std::unique_ptr<Loop> service_ = Loop::create().value();
  std::unique_ptr<Disk> disk_ = std::make_unique<Disk>(*home_);
  bool stuck_ = false;
  std::unique_ptr<Host> host_;
};

TEST_F(ServiceLoopTest, OneLoopCanDoItAll) {
  make_host(*home_);
  stuck_ = true;  // the other loop is not needed
  const auto attached = attach();
  ASSERT_TRUE(attached.ok()) << attached.error().message();
  EXPECT_TRUE(connect_unix(*home_, attached->attachment.socket_path).ok());
  ResizeVolumeRequest request;
  request.name = disk1_;
  request.size_bytes = 128 * kMiB;
  const auto resized = run(host_->resize_volume(request));
  ASSERT_TRUE(resized.ok()) << resized.error().message();
  EXPECT_EQ(resized->size_bytes, 128 * kMiB);
  EXPECT_TRUE(run(host_->detach(disk1_)).ok());
  EXPECT_TRUE(attach().ok());
}

TEST_F(ServiceLoopTest, AStuckLoopDoesNotHoldUpTheHost) {
  make_host(*service_);
  ASSERT_TRUE(attach().ok());
  stuck_ = true;
  for (int i = 0; i < 3; ++i) {
    const auto status = run(host_->status());
    ASSERT_TRUE(status.ok()) << status.error().message();
    ASSERT_EQ(status->volumes.size(), 1u);
    const VolumeReport& volume = status->volumes.front();
    EXPECT_EQ(volume.state, ServiceState::open);
    EXPECT_EQ(volume.size_bytes, 64 * kMiB) << "as it last said";
    EXPECT_TRUE(volume.counters.has_value());
    EXPECT_NE(volume.reason.find("did not answer"), std::string::npos) << volume.reason;
  }
  CreateVolumeRequest another;
  another.name = {"vms", "disk2"};
  another.size_bytes = 64 * kMiB;
  EXPECT_TRUE(run(host_->create_volume(another)).ok()) << "what needs no loop goes on";
  const auto detached = run(host_->detach(disk1_));
  ASSERT_TRUE(detached.ok());
  EXPECT_FALSE(detached->warning.empty()) << "it goes on in the background";
  stuck_ = false;
  run_until([this] { return run(host_->status())->volumes.empty(); });
}

TEST_F(ServiceLoopTest, ALoopThatAnswersAgainIsAskedAgain) {
  make_host(*service_);
  ASSERT_TRUE(attach().ok());
  stuck_ = true;
  EXPECT_FALSE(run(host_->status())->volumes.front().reason.empty());
  stuck_ = false;
  EXPECT_TRUE(run(host_->status())->volumes.front().reason.empty());
}

}  // namespace
}  // namespace holdfast
