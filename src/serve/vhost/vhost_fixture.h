// SPDX-License-Identifier: Apache-2.0
//
// For tests of VhostServer: a daemon with a disk, and virtual machines. Whatever happened, the
// daemon can be stopped and nothing is left behind.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "serve/vhost/testing_peer.h"

namespace holdfast::vhost {

class VhostTest : public testing::Test {
 protected:
  static constexpr std::size_t kDiskBytes = 1 * kMiB;

  void make_daemon(bool read_only = false) {
    frontend_.reset();
    daemon_ = std::make_unique<TestDaemon>(disk_, read_only);
  }
  void make_guest(const GuestOptions& options) { guest_ = std::make_unique<TestGuest>(options); }
  // A daemon, and a virtual machine that has connected.
  void connect(const GuestOptions& options = {}) {
    if (daemon_ == nullptr) make_daemon();
    make_guest(options);
    frontend_ = std::make_unique<TestFrontend>(*daemon_, *guest_);
  }
  // The same with queues that run.
  void start(const GuestOptions& options = {}) {
    connect(options);
    ASSERT_TRUE(frontend_->start());
  }
  std::uint64_t fault_count(VhostFault fault) const {
    return daemon_->statistics().fault_count(fault);
  }
  std::uint64_t fault_count() const {
    std::uint64_t count = 0;
    for (const std::uint64_t faults : daemon_->statistics().faults) count += faults;
    return count;
  }
  void fill_data(std::size_t offset_bytes, const Bytes& bytes) const {
    std::copy(bytes.begin(), bytes.end(), guest_->data(offset_bytes));
  }
  Bytes data(std::size_t offset_bytes, std::size_t count) const {
    return {guest_->data(offset_bytes), guest_->data(offset_bytes) + count};
  }
  Bytes disk_bytes(std::size_t offset_bytes, std::size_t count) const {
    const auto at = disk_.bytes.begin() + static_cast<std::ptrdiff_t>(offset_bytes);
    return {at, at + static_cast<std::ptrdiff_t>(count)};
  }

  TestDisk disk_{kDiskBytes};
  std::unique_ptr<TestGuest> guest_;
  std::unique_ptr<TestDaemon> daemon_;
  std::unique_ptr<TestFrontend> frontend_;
};

}  // namespace holdfast::vhost
