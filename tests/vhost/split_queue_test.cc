// SPDX-License-Identifier: Apache-2.0
//
// The queue must notice a device that breaks a rule, or the tests that use it prove nothing. The
// device here is the test itself, writing to the used ring.
#include "vhost/split_queue.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>

#include "vhost/stamped_disk.h"

namespace holdfast::vhost_frontend {
namespace {

class SplitQueueTest : public testing::Test {
 protected:
  SplitQueueTest()
      : memory_(make_memory()), queue_(memory_, QueueOptions{.size = 8, .segments_max = 2}) {
    data_ = {memory_.allocate(512), 512};
  }

  static GuestMemory make_memory() {
    const std::array<std::uint64_t, 2> regions = {1 << 20, 1 << 20};
    auto memory = GuestMemory::create(regions);
    HOLDFAST_ASSERT(memory.ok());
    return std::move(memory).value();
  }

  // The head of the request's chain.
  std::uint16_t submit_read(std::uint64_t tag) {
    const auto done =
        queue_.submit({.type = VIRTIO_BLK_T_IN, .sector = 0, .data = {&data_, 1}, .tag = tag});
    EXPECT_TRUE(done.ok());
    const auto* available =
        reinterpret_cast<const std::uint16_t*>(memory_.at(queue_.available_address()));
    return available[2 + (queue_.available_index() - 1) % 8];
  }

  std::uint8_t* status_of(std::uint16_t head) {
    const Descriptor* descriptor = &queue_.descriptors()[head];
    while ((descriptor->flags & kDescriptorNext) != 0) {
      descriptor = &queue_.descriptors()[descriptor->next];
    }
    return reinterpret_cast<std::uint8_t*>(memory_.at(descriptor->guest_address));
  }

  // What a device does with a request that it has finished.
  void complete(std::uint32_t head, std::uint32_t length, int status = VIRTIO_BLK_S_OK) {
    if (status >= 0)
      *status_of(static_cast<std::uint16_t>(head)) = static_cast<std::uint8_t>(status);
    std::byte* used = memory_.at(queue_.used_address());
    std::uint16_t index;
    std::memcpy(&index, used + 2, sizeof index);
    const UsedElement element = {head, length};
    std::memcpy(used + 4 + index % 8 * sizeof element, &element, sizeof element);
    ++index;
    std::memcpy(used + 2, &index, sizeof index);
  }

  std::string taken() {
    completions_.clear();
    const auto done = queue_.take_completions(completions_);
    return done.ok() ? "" : done.error().message();
  }
  void expect_broken(const std::string& how) {
    const std::string said = taken();
    EXPECT_NE(said.find(how), std::string::npos) << "said: " << said;
  }

  GuestMemory memory_;
  SplitQueue queue_;
  Segment data_;
  std::vector<Completion> completions_;
};

TEST_F(SplitQueueTest, ACompletionInAnyOrderIsTakenOnce) {
  const std::uint16_t first = submit_read(10);
  const std::uint16_t second = submit_read(11);
  complete(second, 513);
  complete(first, 513);
  ASSERT_EQ(taken(), "");
  ASSERT_EQ(completions_.size(), 2U);
  EXPECT_EQ(completions_[0].tag, 11U);
  EXPECT_EQ(completions_[1].tag, 10U);
  EXPECT_EQ(queue_.in_flight(), 0U);
  EXPECT_FALSE(queue_.has_completions());
}

TEST_F(SplitQueueTest, AFullQueueSaysSo) {
  submit_read(1);
  submit_read(2);  // three descriptors each, of eight
  const auto third =
      queue_.submit({.type = VIRTIO_BLK_T_IN, .sector = 0, .data = {&data_, 1}, .tag = 3});
  ASSERT_FALSE(third.ok());
  EXPECT_EQ(third.error().code(), ErrorCode::no_space);
  EXPECT_EQ(queue_.in_flight(), 2U);
}

TEST_F(SplitQueueTest, ACompletionTooManyIsNoticed) {
  const std::uint16_t head = submit_read(1);
  complete(head, 513);
  complete(head, 513);
  expect_broken("jumped by 2");
}

TEST_F(SplitQueueTest, ASecondCompletionOfOneRequestIsNoticed) {
  const std::uint16_t head = submit_read(1);
  submit_read(2);
  complete(head, 513);
  complete(head, 513);
  expect_broken("not in flight");
}

TEST_F(SplitQueueTest, ACompletionOfWhatWasNeverSubmittedIsNoticed) {
  submit_read(1);
  complete(7, 513, -1);
  expect_broken("not in flight");
}

TEST_F(SplitQueueTest, ADescriptorOutOfRangeIsNoticed) {
  submit_read(1);
  complete(8, 513, -1);
  expect_broken("of a queue of 8");
}

TEST_F(SplitQueueTest, AMissingStatusIsNoticed) {
  complete(submit_read(1), 513, -1);
  expect_broken("without a status");
}

TEST_F(SplitQueueTest, AWrongLengthIsNoticed) {
  complete(submit_read(1), 512);
  expect_broken("length 512");
}

TEST_F(SplitQueueTest, ALengthBeyondTheBuffersIsNoticed) {
  complete(submit_read(1), 514, VIRTIO_BLK_S_IOERR);
  expect_broken("length 514");
}

TEST_F(SplitQueueTest, AFailedReadMayHaveWrittenLess) {
  complete(submit_read(1), 1, VIRTIO_BLK_S_IOERR);
  ASSERT_EQ(taken(), "");
  EXPECT_EQ(completions_.front().status, VIRTIO_BLK_S_IOERR);
}

class StampedDiskTest : public testing::Test {
 protected:
  std::string read(std::uint64_t first, std::uint64_t count) {
    EXPECT_TRUE(disk_.lock_for_read({first, count}));
    return disk_.read({first, count}, std::span(memory_).first(count * kSectorBytes));
  }
  void write(std::uint64_t first, std::uint64_t count, std::uint64_t version) {
    ASSERT_TRUE(disk_.lock_for_write({first, count}));
    StampedDisk::fill(std::span(memory_).first(count * kSectorBytes), first, version);
    disk_.wrote({first, count}, version);
  }

  StampedDisk disk_{64};
  std::array<std::byte, 8 * kSectorBytes> memory_ = {};
};

TEST_F(StampedDiskTest, WhatWasWrittenIsRight) {
  EXPECT_EQ(read(0, 8), "");
  write(3, 4, 1);
  EXPECT_EQ(read(3, 4), "");
}

TEST_F(StampedDiskTest, AnOlderVersionIsWrong) {
  write(3, 4, 1);
  const auto old = memory_;
  write(3, 4, 2);
  memory_ = old;
  EXPECT_NE(read(3, 4).find("WRONG VERSION: sector 3"), std::string::npos);
}

TEST_F(StampedDiskTest, AnotherSectorsBytesAreWrong) {
  write(3, 4, 1);
  EXPECT_NE(read(2, 4).find("MISPLACED: sector 2"), std::string::npos);
}

TEST_F(StampedDiskTest, AFlippedBitIsWrong) {
  write(3, 4, 1);
  memory_[2 * kSectorBytes + 300] ^= std::byte{1};
  EXPECT_NE(read(3, 4).find("DAMAGED: sector 5"), std::string::npos);
}

TEST_F(StampedDiskTest, ADiscardedSectorHoldsEitherUntilARead) {
  write(3, 4, 1);
  ASSERT_TRUE(disk_.lock_for_write({3, 4}));
  disk_.discarded({3, 4});
  EXPECT_EQ(read(3, 4), "");
  memory_ = {};
  EXPECT_NE(read(3, 4).find("WRONG VERSION"), std::string::npos) << "it was seen not to be zeros";
}

TEST_F(StampedDiskTest, AWriterIsAloneAndReadersAreNot) {
  ASSERT_TRUE(disk_.lock_for_read({0, 8}));
  ASSERT_TRUE(disk_.lock_for_read({4, 8}));
  EXPECT_FALSE(disk_.lock_for_write({7, 1}));
  EXPECT_TRUE(disk_.lock_for_write({12, 4}));
  EXPECT_FALSE(disk_.lock_for_read({15, 1}));
}

}  // namespace
}  // namespace holdfast::vhost_frontend
