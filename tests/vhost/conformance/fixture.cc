// SPDX-License-Identifier: Apache-2.0
#include "vhost/conformance/fixture.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace holdfast::vhost_frontend {
namespace {

constexpr Milliseconds kPatience{20'000};

GuestMemory make_memory(std::vector<std::uint64_t> regions) {
  if (regions.empty()) regions = {8 << 20, 8 << 20, 4 << 20};
  Result<GuestMemory> memory = GuestMemory::create(regions);
  HOLDFAST_ASSERT(memory.ok());
  return std::move(memory).value();
}

}  // namespace

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr) {
    std::fprintf(stderr, "the environment variable %s must name a socket of the server\n", name);
    std::_Exit(2);
  }
  return value;
}

Client::Client(DeviceOptions options, std::vector<std::uint64_t> regions)
    : memory_(make_memory(std::move(regions))), device_(memory_, options) {}

DeviceOptions Client::default_options(const char* socket_setting) {
  DeviceOptions options;
  options.socket = setting(socket_setting);
  options.timeout = kPatience;
  options.reconnect_interval = Milliseconds(10);
  return options;
}

Result<void> Client::open() {
  TRY(device_.connect());
  return device_.start();
}

Segment Client::stamped(std::uint64_t bytes, std::uint64_t sector, std::uint64_t version) {
  const Segment segment = filled(bytes);
  StampedDisk::fill(this->bytes(segment), sector, version);
  return segment;
}

Segment Client::filled(std::uint64_t bytes, std::uint8_t value) {
  const Segment segment = {memory_.allocate(bytes, 512), static_cast<std::uint32_t>(bytes)};
  std::memset(memory_.at(segment.guest_address, bytes), value, bytes);
  return segment;
}

Result<std::vector<Completion>> Client::wait_for(std::size_t count, std::size_t index) {
  std::vector<Completion> completions;
  SplitQueue& queue = device_.queue(index);
  TRY(queue.take_completions(completions));
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (completions.size() < count) {
    if (!queue.arm_call() && !TRY(queue.wait(Milliseconds(5000)))) {
      if (std::chrono::steady_clock::now() > deadline) {
        return Error(ErrorCode::busy, std::to_string(completions.size()) + " of " +
                                          std::to_string(count) + " requests completed in time");
      }
    }
    TRY(queue.take_completions(completions));
  }
  return completions;
}

Result<int> Client::run(std::uint32_t type, std::uint64_t sector, std::span<const Segment> data,
                        std::size_t index) {
  SplitQueue& queue = device_.queue(index);
  TRY(queue.submit({.type = type, .sector = sector, .data = data, .tag = 1}));
  queue.publish();
  return TRY(wait_for(1, index)).front().status;
}

Result<int> Client::run_chain(std::span<const ChainElement> elements, bool indirect) {
  SplitQueue& queue = device_.queue(0);
  const ChainElement& last = elements.back();
  TRY(queue.submit_chain({.elements = elements,
                          .status_address = last.guest_address + last.bytes - 1,
                          .tag = 1,
                          .indirect = indirect}));
  queue.publish();
  return TRY(wait_for(1)).front().status;
}

Result<int> Client::run_ranges(std::uint32_t type,
                               std::initializer_list<virtio_blk_discard_write_zeroes> ranges) {
  const std::uint64_t bytes = ranges.size() * sizeof(virtio_blk_discard_write_zeroes);
  const Segment segment = filled(bytes);
  std::memcpy(memory_.at(segment.guest_address), ranges.begin(), bytes);
  return run(type, 0, {segment});
}

std::string Client::check_works(std::uint64_t sector) {
  constexpr std::uint64_t kBytes = 64 * 1024;
  const Segment written = stamped(kBytes, sector, ++version_);
  const Segment read = filled(kBytes, 0xee);
  const Result<int> write_status = run(VIRTIO_BLK_T_OUT, sector, {written});
  if (!write_status.ok()) return "write: " + write_status.error().message();
  const Result<int> read_status = run(VIRTIO_BLK_T_IN, sector, {read});
  if (!read_status.ok()) return "read: " + read_status.error().message();
  if (write_status.value() != VIRTIO_BLK_S_OK || read_status.value() != VIRTIO_BLK_S_OK) {
    return "status " + std::to_string(write_status.value()) + " of the write, " +
           std::to_string(read_status.value()) + " of the read";
  }
  return std::ranges::equal(bytes(written), bytes(read)) ? "" : "other bytes were read back";
}

void ConformanceTest::open(const DeviceOptions& options, std::vector<std::uint64_t> regions) {
  // A server has a bounded number of clients at a time, and those before may still be ending there.
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    client_.reset();
    client_ = std::make_unique<Client>(options, regions);
    const Result<void> opened = client_->open();
    if (opened.ok()) return;
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << opened.error().message();
    std::this_thread::sleep_for(Milliseconds(10));
  }
}

int ConformanceTest::run(std::uint32_t type, std::uint64_t sector,
                         std::initializer_list<Segment> data) {
  const Result<int> status = client_->run(type, sector, data);
  EXPECT_TRUE(status.ok()) << status.error().message();
  return status.ok() ? status.value() : -1;
}

int ConformanceTest::run_chain(std::span<const ChainElement> elements, bool indirect) {
  const Result<int> status = client_->run_chain(elements, indirect);
  EXPECT_TRUE(status.ok()) << status.error().message();
  return status.ok() ? status.value() : -1;
}

}  // namespace holdfast::vhost_frontend
