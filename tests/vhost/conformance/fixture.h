// SPDX-License-Identifier: Apache-2.0
//
// What the tests of a vhost-user-blk server from outside have in common. The servers to be tested
// are in environment variables, a socket each:
//   VHOST_SOCKET             a disk of at least 32 MiB, 4 queues; it will be written to
//   VHOST_OTHER_SOCKET       of the same process, another disk (suites Hostile*)
//   VHOST_READ_ONLY_SOCKET   a read-only disk (suite ReadOnly)
//   VHOST_RESIZE_COMMAND     a shell command that grows the disk of VHOST_SOCKET (suite Resize)
// Suites Conformance* hold for any server; Holdfast* for more than the specification demands.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vhost/device.h"
#include "vhost/stamped_disk.h"

namespace holdfast::vhost_frontend {

#define ASSERT_DONE(expression)                         \
  do {                                                  \
    const auto& done_ = (expression);                   \
    ASSERT_TRUE(done_.ok()) << done_.error().message(); \
  } while (false)

#define EXPECT_DONE(expression)                         \
  do {                                                  \
    const auto& done_ = (expression);                   \
    EXPECT_TRUE(done_.ok()) << done_.error().message(); \
  } while (false)

// The value of an environment variable that must be there.
std::string setting(const char* name);

// One client with memory of its own.
class Client {
 public:
  explicit Client(DeviceOptions options, std::vector<std::uint64_t> regions = {});

  static DeviceOptions default_options(const char* socket_setting = "VHOST_SOCKET");

  GuestMemory& memory() { return memory_; }
  VhostDevice& device() { return device_; }
  SplitQueue& queue(std::size_t index = 0) { return device_.queue(index); }
  Result<void> open();

  // Memory with known bytes: a stamp of `version` for sectors from `sector` on, or a fill.
  Segment stamped(std::uint64_t bytes, std::uint64_t sector, std::uint64_t version);
  Segment filled(std::uint64_t bytes, std::uint8_t value = 0);
  std::span<std::byte> bytes(const Segment& segment) const {
    return {memory_.at(segment.guest_address, segment.bytes), segment.bytes};
  }

  // Completions of queue `index`, waiting for calls as a driver does, until there are `count`.
  Result<std::vector<Completion>> wait_for(std::size_t count, std::size_t index = 0);
  // One request from begin to end: its status.
  Result<int> run(std::uint32_t type, std::uint64_t sector, std::span<const Segment> data,
                  std::size_t index = 0);
  Result<int> run(std::uint32_t type, std::uint64_t sector, std::initializer_list<Segment> data) {
    return run(type, sector, std::span(data.begin(), data.size()));
  }
  Result<int> run_chain(std::span<const ChainElement> elements, bool indirect);
  // Discard or write-zeroes of several ranges.
  Result<int> run_ranges(std::uint32_t type,
                         std::initializer_list<virtio_blk_discard_write_zeroes> ranges);

  // Writes, reads back, and says what is wrong, if anything is.
  std::string check_works(std::uint64_t sector = 64);

 private:
  GuestMemory memory_;
  VhostDevice device_;
  std::uint64_t version_ = 0;
};

class ConformanceTest : public testing::Test {
 protected:
  // Replaces the client by one that is connected and started.
  void open(const DeviceOptions& options = Client::default_options(),
            std::vector<std::uint64_t> regions = {});
  Client& client() { return *client_; }
  VhostDevice& device() { return client_->device(); }
  SplitQueue& queue() { return client_->queue(); }

  // The request's status, or a failure of the test.
  int run(std::uint32_t type, std::uint64_t sector, std::initializer_list<Segment> data);
  int run_chain(std::span<const ChainElement> elements, bool indirect = false);

  std::unique_ptr<Client> client_;
};

}  // namespace holdfast::vhost_frontend
