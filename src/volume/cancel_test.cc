// SPDX-License-Identifier: Apache-2.0
//
// Requests that are cancelled while the storage is out of reach, on the kernel's file system. At
// every other moment, and with crashes: the simulator (cancel_chance).
#include <gtest/gtest.h>

#include <deque>
#include <filesystem>
#include <random>

#include "block/checked_device.h"
#include "volume/testing_volume.h"
#include "volume/volume.h"

namespace holdfast {
namespace {

// A request with its memory.
struct Io {
  BlockRequest request;
  Bytes memory;
  iovec vector{};
  bool is_done = false;
  BlockStatus status{};
};

class VolumeCancelTest : public VolumeFixture {
 protected:
  static constexpr std::uint64_t kVolumeBytes = 64 * kMiB;

  VolumeCancelTest() {
    create_volume(7, kVolumeBytes);
    volume_ = run(Volume::open(*loop_, *pool_, id_of(7), {.checkpoint_idle = 1h})).value();
    device_ = std::make_unique<CheckedDevice>(*volume_);
  }
  ~VolumeCancelTest() override {
    come_back();
    wait_for([&] { return device_->in_flight_count() == 0; });
    EXPECT_TRUE(run(volume_->close()).ok());
  }

  // The volume's directory goes out of sight: no new segment can be made, what is open stays open.
  void go_away() {
    std::filesystem::rename(pool_path() + "/volumes", pool_path() + "/away");
    is_away_ = true;
  }
  void come_back() {
    if (is_away_) std::filesystem::rename(pool_path() + "/away", pool_path() + "/volumes");
    is_away_ = false;
  }

  void submit(Io& io, BlockOperation operation, std::uint64_t offset_bytes, Bytes memory,
              bool force_unit_access = false) {
    io.is_done = false;
    io.memory = std::move(memory);
    io.vector = {io.memory.data(), io.memory.size()};
    io.request.operation = operation;
    io.request.offset_bytes = offset_bytes;
    io.request.length_bytes = io.memory.size();
    io.request.force_unit_access = force_unit_access;
    io.request.buffers = {};
    if (operation == BlockOperation::read || operation == BlockOperation::write) {
      io.request.buffers = {&io.vector, 1};
    }
    io.request.context = &io;
    io.request.on_complete = [](BlockRequest& request, BlockStatus status) {
      auto& self = *static_cast<Io*>(request.context);
      self.is_done = true;
      self.status = status;
    };
    device_->submit(io.request);
  }
  using VolumeFixture::wait_for;
  BlockStatus wait_for(Io& io) {
    wait_for([&] { return io.is_done; });
    return io.status;
  }
  Bytes read(std::uint64_t offset_bytes, std::size_t count) {
    Io io;
    submit(io, BlockOperation::read, offset_bytes, Bytes(count, std::byte{0xEE}));
    EXPECT_EQ(wait_for(io), BlockStatus::ok);
    return std::move(io.memory);
  }
  // So much that no segment can take it all, each of 64 KiB.
  static constexpr std::size_t kWriteBytes = 64 * kKiB;
  void write_until_held(std::deque<Io>& writes, std::uint64_t seed,
                        bool force_unit_access = false) {
    for (std::size_t i = 0; i < writes.size(); ++i) {
      submit(writes[i], BlockOperation::write, i * kWriteBytes, pattern(kWriteBytes, seed + i),
             force_unit_access);
    }
    wait_for([&] { return volume_->is_holding(); });
  }
  std::size_t done_count(const std::deque<Io>& all) const {
    return static_cast<std::size_t>(
        std::count_if(all.begin(), all.end(), [](const Io& io) { return io.is_done; }));
  }
  void turn() {
    bool is_over = false;
    loop_->post([&] { is_over = true; });
    wait_for([&] { return is_over; });
  }

  std::unique_ptr<Volume> volume_;
  std::unique_ptr<CheckedDevice> device_;
  bool is_away_ = false;
};

TEST_F(VolumeCancelTest, HeldWritesAreGivenBackAtOnceAndWrittenWhenTheyAreSubmittedAgain) {
  go_away();
  std::deque<Io> writes(100);
  write_until_held(writes, 1);
  ASSERT_LT(done_count(writes), writes.size());
  for (Io& io : writes) {
    if (!io.is_done) device_->cancel(io.request);
  }
  turn();
  ASSERT_EQ(done_count(writes), writes.size()) << "without waiting for the storage";
  EXPECT_TRUE(volume_->is_holding());
  // Their memory is theirs again.
  for (Io& io : writes) std::fill(io.memory.begin(), io.memory.end(), std::byte{0xDD});
  for (std::size_t i = 0; i < writes.size(); ++i) {
    submit(writes[i], BlockOperation::write, i * kWriteBytes, pattern(kWriteBytes, 500 + i));
  }
  come_back();
  for (Io& io : writes) EXPECT_EQ(wait_for(io), BlockStatus::ok);
  for (std::size_t i = 0; i < writes.size(); ++i) {
    EXPECT_EQ(read(i * kWriteBytes, kWriteBytes), pattern(kWriteBytes, 500 + i)) << i;
  }
  EXPECT_EQ(volume_->statistics().errors, 0u);
}

TEST_F(VolumeCancelTest, NobodySeesACancelledWriteAppear) {
  go_away();
  std::deque<Io> writes(100);
  write_until_held(writes, 1);
  std::deque<Io> reads(writes.size());
  std::vector<bool> was_cancelled(writes.size());
  for (std::size_t i = 0; i < writes.size(); ++i) {
    if (writes[i].is_done) continue;
    device_->cancel(writes[i].request);
    was_cancelled[i] = true;
  }
  for (std::size_t i = 0; i < writes.size(); ++i) {
    submit(reads[i], BlockOperation::read, i * kWriteBytes, Bytes(kWriteBytes, std::byte{0xEE}));
  }
  come_back();
  std::size_t written_count = 0;
  for (std::size_t i = 0; i < reads.size(); ++i) {
    ASSERT_EQ(wait_for(reads[i]), BlockStatus::ok);
    const Bytes written = pattern(kWriteBytes, 1 + i);
    if (!was_cancelled[i]) {
      EXPECT_EQ(reads[i].memory, written);
    } else if (reads[i].memory == written) {
      ++written_count;
    }
  }
  EXPECT_NE(written_count, 0u) << "some stood in the log already";
  wait_for([&] { return !volume_->is_holding(); });
  for (std::size_t i = 0; i < reads.size(); ++i) {
    EXPECT_EQ(read(i * kWriteBytes, kWriteBytes), reads[i].memory)
        << "what was read first is what is there for good: " << i;
  }
}

TEST_F(VolumeCancelTest, FlushesUnitAccessPartialBlocksAndDiscardsAreGivenBackToo) {
  go_away();
  std::deque<Io> writes(100);
  write_until_held(writes, 1, true);
  std::deque<Io> others(4);
  submit(others[0], BlockOperation::write, 100, pattern(1000, 7));
  submit(others[1], BlockOperation::write, 600, pattern(9000, 8), true);
  submit(others[2], BlockOperation::discard, 0, Bytes(40960));
  submit(others[3], BlockOperation::write_zeroes, 512, Bytes(6000), true);
  for (Io& io : writes) {
    if (!io.is_done) device_->cancel(io.request);
  }
  for (Io& io : others) {
    if (!io.is_done) device_->cancel(io.request);
  }
  turn();
  turn();
  EXPECT_EQ(done_count(writes), writes.size());
  EXPECT_EQ(done_count(others), others.size());
  come_back();
  wait_for([&] { return !volume_->is_holding(); });
  Io flush;
  submit(flush, BlockOperation::flush, 0, {});
  EXPECT_EQ(wait_for(flush), BlockStatus::ok);
}

TEST_F(VolumeCancelTest, OnlyRequestsThatAreOldEnoughFailWithAHoldThatLasts) {
  std::deque<Io> early(1);
  submit(early[0], BlockOperation::write, 0, pattern(kWriteBytes, 1));
  ASSERT_EQ(wait_for(early[0]), BlockStatus::ok);
  volume_->fail_held(loop_->now());  // nothing is held: nothing happens
  go_away();
  std::deque<Io> writes(100);
  write_until_held(writes, 1);
  const auto count_expired = [&] {
    return std::count_if(writes.begin(), writes.end(), [](const Io& io) {
      return io.is_done && io.status == BlockStatus::hold_expired;
    });
  };
  volume_->fail_held(MonotonicTime{} + 1ns);
  turn();
  EXPECT_EQ(count_expired(), 0);
  wait_for([&, until = loop_->now() + 5ms] { return loop_->now() > until; });
  const MonotonicTime between = loop_->now();
  Io late;
  submit(late, BlockOperation::write, 50 * kMiB, pattern(4096, 3));
  volume_->fail_held(between);
  turn();
  EXPECT_EQ(done_count(writes), writes.size());
  EXPECT_GT(count_expired(), 0);
  for (const Io& io : writes) {  // those at the log's end had room
    EXPECT_TRUE(io.status == BlockStatus::ok || io.status == BlockStatus::hold_expired);
  }
  EXPECT_FALSE(late.is_done);
  come_back();
  EXPECT_EQ(wait_for(late), BlockStatus::ok);
}

}  // namespace
}  // namespace holdfast
