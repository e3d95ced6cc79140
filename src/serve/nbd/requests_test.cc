// SPDX-License-Identifier: Apache-2.0
//
// What requests do and how they are answered.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "base/limits.h"
#include "serve/nbd/server_fixture.h"

namespace holdfast::nbd {
namespace {

constexpr std::uint32_t kEperm = 1;
constexpr std::uint32_t kEio = 5;
constexpr std::uint32_t kEinval = 22;
constexpr std::uint32_t kEnospc = 28;
constexpr std::uint32_t kEshutdown = 108;

using NbdRequests = NbdServerTest;

TEST_F(NbdRequests, ReadReturnsWhatWasWritten) {
  for (const bool structured : {true, false}) {
    auto client = negotiated(structured);
    const Bytes data = pattern(12'345, structured);
    const Answer written = client->write(777, data);
    EXPECT_EQ(written.error, 0u);
    EXPECT_EQ(written.structured, structured);
    const Answer read = client->read(777, 12'345);
    EXPECT_EQ(read.error, 0u);
    EXPECT_EQ(read.structured, structured);
    EXPECT_EQ(read.data, data);
    if (structured) {
      EXPECT_EQ(read.type, Reply::offset_data);
      EXPECT_EQ(read.offset_bytes, 777u);
    }
  }
}

TEST_F(NbdRequests, LargestRequestsWork) {
  auto client = negotiated();
  const Bytes data = pattern(limits::kNbdRequestBytesMax, 5);
  EXPECT_EQ(client->write(kDeviceBytes - data.size(), data).error, 0u);
  EXPECT_EQ(client->read(kDeviceBytes - data.size(), limits::kNbdRequestBytesMax).data, data);
}

TEST_F(NbdRequests, PayloadMayBeSplitAnywhere) {
  const Bytes data = pattern(600, 3);
  const Bytes request =
      request_bytes(Command::write, {.offset_bytes = 100, .length_bytes = 600}, data);
  for (std::size_t split = 1; split < request.size(); ++split) {
    auto client = negotiated();
    memory_.resize(0);
    memory_.resize(kDeviceBytes);
    client->peer().piece_bytes = {split};
    client->send(request);
    ASSERT_EQ(client->collect().size(), 1u) << split;
    ASSERT_EQ(client->read(100, 600).data, data) << split;
    client->peer().end_input();
    executor_.run_until_idle();
  }
}

TEST_F(NbdRequests, LargePayloadMayArriveInPiecesOfAnySize) {
  for (const std::size_t piece : {1'000u, 16'384u, 65'537u, 1'000'000u}) {
    auto client = negotiated();
    const Bytes data = pattern(1'500'001, static_cast<std::uint32_t>(piece));
    client->peer().receive_bytes_max = piece;
    ASSERT_EQ(client->write(4096, data).error, 0u) << piece;
    client->peer().receive_bytes_max = ~std::size_t{0};
    ASSERT_EQ(client->read(4096, 1'500'001).data, data) << piece;
  }
}

// Many sizes, so that payloads lie across the ends of chunks in every way.
TEST_F(NbdRequests, PipelinedWritesOfAllSizesLandWhereTheyBelong) {
  std::mt19937_64 random(42);
  constexpr std::size_t kRegionBytes = 8 * kMiB;
  for (int round = 0; round < 12; ++round) {
    auto client = negotiated(round % 2 == 0);
    Bytes model(kRegionBytes);
    std::memset(model.data(), 0, model.size());
    memory_.resize(0);
    memory_.resize(kDeviceBytes);
    Bytes stream;
    std::size_t position = 0;
    std::size_t count = 0;
    while (position < kRegionBytes) {
      constexpr std::size_t kSizes[] = {1,    512,  4096,   4096,   4096,   8163,
                                        8192, 8193, 20'000, 70'000, 300'000};
      const std::size_t bytes =
          std::min(kSizes[random() % std::size(kSizes)] + random() % 3, kRegionBytes - position);
      const Bytes data = pattern(bytes, static_cast<std::uint32_t>(position));
      std::copy(data.begin(), data.end(), model.begin() + static_cast<std::ptrdiff_t>(position));
      append(stream, request_bytes(Command::write,
                                   {.cookie = count,
                                    .offset_bytes = position,
                                    .length_bytes = static_cast<std::uint32_t>(bytes)},
                                   data));
      position += bytes;
      ++count;
    }
    if (round % 3 == 1) client->peer().receive_bytes_max = 10'007;
    if (round % 3 == 2) {
      for (int i = 0; i < 3000; ++i) client->peer().piece_bytes.push_back(1 + random() % 9000);
    }
    client->send(stream);
    const auto answers = client->collect();
    ASSERT_EQ(answers.size(), count);
    for (const Answer& answer : answers) ASSERT_EQ(answer.error, 0u);
    ASSERT_EQ(client->read(0, kRegionBytes).data, model) << round;
  }
}

TEST_F(NbdRequests, ForceUnitAccessReachesTheDevice) {
  auto client = negotiated();
  EXPECT_EQ(client->write(0, pattern(512, 1)).error, 0u);
  EXPECT_EQ(memory_.force_unit_access_count(), 0u);
  EXPECT_EQ(client->write(0, pattern(512, 1), kCommandFua).error, 0u);
  EXPECT_EQ(client->ask(Command::trim, {.flags = kCommandFua, .length_bytes = 4096}).error, 0u);
  EXPECT_EQ(client->ask(Command::write_zeroes, {.flags = kCommandFua, .length_bytes = 1}).error,
            0u);
  EXPECT_EQ(memory_.force_unit_access_count(), 3u);
  // Allowed with every command, where it means nothing.
  EXPECT_EQ(client->read(0, 512, kCommandFua).error, 0u);
  EXPECT_EQ(client->ask(Command::flush, {.flags = kCommandFua}).error, 0u);
  EXPECT_EQ(memory_.force_unit_access_count(), 3u);
}

TEST_F(NbdRequests, FlushReachesTheDevice) {
  auto client = negotiated();
  EXPECT_EQ(client->ask(Command::flush, {}).error, 0u);
  EXPECT_EQ(memory_.operation_count(BlockOperation::flush), 1u);
  EXPECT_EQ(client->ask(Command::flush, {.length_bytes = 512}).error, kEinval);
}

TEST_F(NbdRequests, TrimAndWriteZeroesFreeSpaceUnlessToldNotTo) {
  auto client = negotiated();
  EXPECT_EQ(client->write(0, pattern(16 * 4096, 1)).error, 0u);
  EXPECT_EQ(client->ask(Command::trim, {.length_bytes = 4 * 4096}).error, 0u);
  EXPECT_EQ(memory_.allocated_block_count(), 12u);
  EXPECT_EQ(client->ask(Command::write_zeroes, {.offset_bytes = 4 * 4096, .length_bytes = 4 * 4096})
                .error,
            0u);
  EXPECT_EQ(memory_.allocated_block_count(), 8u);
  EXPECT_EQ(client
                ->ask(Command::write_zeroes,
                      {.flags = kCommandNoHole, .offset_bytes = 8 * 4096, .length_bytes = 4 * 4096})
                .error,
            0u);
  EXPECT_EQ(memory_.allocated_block_count(), 8u);
  EXPECT_EQ(client->read(0, 12 * 4096).data, Bytes(12 * 4096));
  EXPECT_EQ(client->read(12 * 4096, 512).data, [] {
    const Bytes all = pattern(16 * 4096, 1);
    return Bytes(all.begin() + 12 * 4096, all.begin() + 12 * 4096 + 512);
  }());
}

TEST_F(NbdRequests, TrimAndWriteZeroesMayBeLongerThanAnyPayload) {
  auto client = negotiated();
  EXPECT_EQ(client->ask(Command::trim, {.length_bytes = kDeviceBytes}).error, 0u);
  EXPECT_EQ(client->ask(Command::write_zeroes, {.length_bytes = kDeviceBytes}).error, 0u);
}

TEST_F(NbdRequests, BlockStatusTellsTheDevicesExtents) {
  auto client = negotiated();
  client->write(4096, pattern(8192, 1));
  client->ask(Command::write_zeroes,
              {.flags = kCommandNoHole, .offset_bytes = 12'288, .length_bytes = 4096});
  const Answer all = client->ask(Command::block_status, {.length_bytes = kDeviceBytes});
  EXPECT_EQ(all.type, Reply::block_status);
  EXPECT_EQ(all.extents, (std::vector<Answer::Extent>{
                             {4096, 3}, {8192, 0}, {4096, 2}, {kDeviceBytes - 16'384, 3}}));
  const Answer one =
      client->ask(Command::block_status,
                  {.flags = kCommandRequestOne, .offset_bytes = 5000, .length_bytes = 1'000'000});
  EXPECT_EQ(one.extents, (std::vector<Answer::Extent>{{12'288 - 5000, 0}}));
}

TEST_F(NbdRequests, BlockStatusHasBoundedExtents) {
  auto client = negotiated();
  for (std::uint64_t i = 0; i < limits::kNbdBlockStatusExtentsMax; ++i) {
    client->write(i * 8192, pattern(1, 1));
  }
  const Answer answer = client->ask(Command::block_status, {.length_bytes = kDeviceBytes});
  EXPECT_EQ(answer.extents.size(), limits::kNbdBlockStatusExtentsMax);
}

TEST_F(NbdRequests, BlockStatusNeedsAContextAndALength) {
  auto client = negotiated();
  EXPECT_EQ(client->ask(Command::block_status, {}).error, kEinval);
  auto without = negotiated(false);
  EXPECT_EQ(without->ask(Command::block_status, {.length_bytes = 4096}).error, kEinval);
  EXPECT_EQ(fault_count(NbdFault::request_malformed), 2u);
}

TEST_F(NbdRequests, NothingMayReachBeyondTheEnd) {
  for (const bool structured : {true, false}) {
    auto client = negotiated(structured);
    const RequestOptions behind{.offset_bytes = kDeviceBytes - 511, .length_bytes = 512};
    EXPECT_EQ(client->ask(Command::read, behind).error, kEinval);
    EXPECT_EQ(client->ask(Command::write, behind, pattern(512, 1)).error, kEnospc);
    EXPECT_EQ(client->ask(Command::write_zeroes, behind).error, kEnospc);
    EXPECT_EQ(client->ask(Command::trim, behind).error, kEinval);
    EXPECT_EQ(client->ask(Command::block_status, behind).error, kEinval);
    // An end that overflows 64 bits.
    const RequestOptions wrapping{.offset_bytes = ~std::uint64_t{0} - 100, .length_bytes = 512};
    EXPECT_EQ(client->ask(Command::read, wrapping).error, kEinval);
    EXPECT_EQ(client->ask(Command::write, wrapping, pattern(512, 1)).error, kEnospc);
    EXPECT_EQ(client->read(kDeviceBytes - 512, 512).error, 0u);
  }
  EXPECT_EQ(memory_.operation_count(BlockOperation::write), 0u);
}

TEST_F(NbdRequests, RangeIsCheckedAgainstTheCurrentSize) {
  auto client = negotiated();
  memory_.resize(kDeviceBytes + kMiB);
  EXPECT_EQ(client->write(kDeviceBytes, pattern(4096, 1)).error, 0u);
  memory_.resize(kMiB);
  EXPECT_EQ(client->read(kDeviceBytes, 4096).error, kEinval);
}

TEST_F(NbdRequests, RequestsOfNothingSucceed) {
  for (const bool structured : {true, false}) {
    auto client = negotiated(structured);
    EXPECT_EQ(client->ask(Command::read, {}).error, 0u);
    EXPECT_EQ(client->ask(Command::write, {.offset_bytes = kDeviceBytes}).error, 0u);
    EXPECT_EQ(client->ask(Command::trim, {}).error, 0u);
    EXPECT_EQ(client->ask(Command::write_zeroes, {}).error, 0u);
  }
}

TEST_F(NbdRequests, UnknownCommandsAndFlagsAreInvalid) {
  auto client = negotiated();
  EXPECT_EQ(client->ask(Command::cache, {.length_bytes = 4096}).error, kEinval);
  EXPECT_EQ(client->ask(8, {.length_bytes = 4096}).error, kEinval);
  EXPECT_EQ(client->ask(0xffff, {.length_bytes = 4096}).error, kEinval);
  EXPECT_EQ(fault_count(NbdFault::command_unknown), 3u);
  constexpr std::uint16_t kFastZero = 1 << 4;
  constexpr std::uint16_t kPayloadLength = 1 << 5;
  EXPECT_EQ(client->ask(Command::write_zeroes, {.flags = kFastZero, .length_bytes = 512}).error,
            kEinval);
  EXPECT_EQ(client->write(0, pattern(512, 1), kPayloadLength).error, kEinval);
  EXPECT_EQ(client->write(0, pattern(512, 1), kCommandNoHole).error, kEinval);
  EXPECT_EQ(client->read(0, 512, kCommandRequestOne).error, kEinval);
  EXPECT_EQ(fault_count(NbdFault::command_flags), 4u);
  const Answer answer = client->read(0, 512, 0x8000);
  EXPECT_EQ(answer.error, kEinval);
  EXPECT_FALSE(answer.message.empty());
  EXPECT_EQ(client->read(0, 512).error, 0u);
}

TEST_F(NbdRequests, DontFragmentNeedsStructuredReplies) {
  auto client = negotiated(true);
  EXPECT_EQ(client->read(0, 1'000'000, kCommandDontFragment).data.size(), 1'000'000u);
  auto simple = negotiated(false);
  EXPECT_EQ(simple->read(0, 512, kCommandDontFragment).error, kEinval);
}

TEST_F(NbdRequests, TooLongARequestIsRefusedAndItsPayloadSkipped) {
  auto client = negotiated();
  EXPECT_EQ(client->read(0, limits::kNbdRequestBytesMax + 1).error, kEinval);
  const Bytes data = pattern(limits::kNbdRequestBytesMax + 1, 1);
  EXPECT_EQ(client->write(0, data).error, kEinval);
  EXPECT_EQ(fault_count(NbdFault::request_too_big), 2u);
  EXPECT_EQ(client->read(0, 4096).data, Bytes(4096));
  EXPECT_LE(server_->buffer_bytes(), kMiB);
}

TEST_F(NbdRequests, RefusedWriteIsAnsweredOnlyAfterItsPayload) {
  auto client = negotiated();
  const Bytes data = pattern(100'000, 1);
  const Bytes request =
      request_bytes(Command::write, {.offset_bytes = kDeviceBytes, .length_bytes = 100'000}, data);
  client->send(Bytes(request.begin(), request.end() - 1));
  EXPECT_TRUE(client->collect().empty());
  client->send(Bytes(request.end() - 1, request.end()));
  const auto answers = client->collect();
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].error, kEnospc);
}

TEST_F(NbdRequests, ReadOnlyExportRefusesWhateverWrites) {
  make_server(true);
  auto client = negotiated();
  EXPECT_EQ(client->write(0, pattern(100'000, 1)).error, kEperm);
  EXPECT_EQ(client->ask(Command::trim, {.length_bytes = 4096}).error, kEperm);
  EXPECT_EQ(client->ask(Command::write_zeroes, {.length_bytes = 4096}).error, kEperm);
  EXPECT_EQ(fault_count(NbdFault::request_on_read_only), 3u);
  EXPECT_EQ(client->ask(Command::flush, {}).error, 0u);
  EXPECT_EQ(client->read(0, 4096).data, Bytes(4096));
  EXPECT_EQ(memory_.operation_count(BlockOperation::write), 0u);
}

TEST_F(NbdRequests, DeviceErrorsBecomeTheProtocols) {
  auto client = negotiated();
  memory_.fail_range(8192, 1, BlockStatus::medium_error);
  const Answer answer = client->read(0, 16'384);
  EXPECT_EQ(answer.error, kEio);
  EXPECT_FALSE(answer.message.empty());
  EXPECT_EQ(client->read(0, 8192).error, 0u);
  memory_.fail_range(0, kDeviceBytes, BlockStatus::shutting_down);
  EXPECT_EQ(client->write(0, pattern(512, 1)).error, kEshutdown);
  memory_.fail_range(0, kDeviceBytes, BlockStatus::read_only);
  EXPECT_EQ(client->write(0, pattern(512, 1)).error, kEperm);
  memory_.fail_range(0, kDeviceBytes, BlockStatus::out_of_range);  // it shrank meanwhile
  EXPECT_EQ(client->write(0, pattern(512, 1)).error, kEnospc);
  EXPECT_EQ(client->read(0, 512).error, kEinval);
  EXPECT_EQ(server_->statistics().requests_failed, 5u);
  auto simple = negotiated(false);
  memory_.fail_range(0, kDeviceBytes, BlockStatus::medium_error);
  const Answer failed = simple->read(0, 4096);
  EXPECT_EQ(failed.error, kEio);
  EXPECT_TRUE(failed.data.empty());
}

TEST_F(NbdRequests, AnswersOfOneTurnLeaveInOneSend) {
  auto client = negotiated();
  client->peer().send_count = 0;
  Bytes stream;
  for (std::uint64_t i = 0; i < 100; ++i) {
    append(stream, request_bytes(i % 2 == 0 ? Command::read : Command::flush,
                                 {.cookie = i, .length_bytes = i % 2 == 0 ? 4096u : 0u}));
  }
  client->send(stream);
  EXPECT_EQ(client->collect().size(), 100u);
  EXPECT_EQ(client->peer().send_count, 1u);
}

TEST_F(NbdRequests, WritesOfOneConnectionAreSeenByOthersOnceAnswered) {
  auto one = negotiated();
  auto other = negotiated();
  const Bytes data = pattern(4096, 9);
  EXPECT_EQ(one->write(0, data).error, 0u);
  EXPECT_EQ(other->read(0, 4096).data, data);
}

}  // namespace
}  // namespace holdfast::nbd
