// SPDX-License-Identifier: Apache-2.0
//
// Clients that misbehave, vanish, stall or flood; and closing while requests are in flight.
#include <gtest/gtest.h>

#include <random>

#include "base/limits.h"
#include "serve/nbd/server_fixture.h"

namespace holdfast::nbd {
namespace {

using NbdHostile = NbdServerTest;

Bytes read_request(std::uint64_t cookie, std::uint32_t length_bytes) {
  return request_bytes(Command::read, {.cookie = cookie, .length_bytes = length_bytes});
}

TEST_F(NbdHostile, BadMagicEndsOnlyItsOwnConnection) {
  auto good = negotiated();
  auto bad = negotiated();
  bad->send(Bytes(28, std::byte{0x42}));
  EXPECT_TRUE(bad->is_closed());
  EXPECT_EQ(fault_count(NbdFault::bad_request_magic), 1u);
  EXPECT_EQ(server_->connection_count(), 1u);
  EXPECT_EQ(good->read(0, 512).error, 0u);
}

TEST_F(NbdHostile, BadHandshakeEndsItsConnection) {
  auto client = connect();
  client->send(Bytes(64, std::byte{0xff}));
  EXPECT_TRUE(client->is_closed());
  EXPECT_EQ(fault_count(NbdFault::bad_client_flags), 1u);
}

TEST_F(NbdHostile, AbortedHandshakeIsAnsweredThenClosed) {
  auto client = connect();
  Bytes bytes = client_flags();
  append(bytes, option_bytes(Option::abort));
  client->send(bytes);
  ASSERT_TRUE(client->reader().take_greeting());
  EXPECT_EQ(client->reader().take_option_answers().size(), 1u);
  EXPECT_TRUE(client->is_closed());
}

TEST_F(NbdHostile, HandshakeIsBoundedInTime) {
  auto silent = connect();
  auto slow = connect();
  slow->send(client_flags());
  auto unread = connect();
  unread->peer().reading = false;
  auto established = negotiated();
  executor_.advance(limits::kNbdHandshakeTime - 1ms);
  EXPECT_EQ(server_->connection_count(), 4u);
  executor_.advance(2ms);
  EXPECT_EQ(server_->connection_count(), 1u);
  EXPECT_TRUE(silent->is_closed() && slow->is_closed() && unread->is_closed());
  EXPECT_EQ(fault_count(NbdFault::handshake_timeout), 3u);
  // Idle for as long as it likes.
  executor_.advance(std::chrono::hours(1000));
  EXPECT_EQ(established->read(0, 512).error, 0u);
}

TEST_F(NbdHostile, MoreConnectionsThanAllowedAreTurnedAway) {
  std::vector<std::unique_ptr<TestConnection>> clients;
  for (std::size_t i = 0; i < limits::kNbdConnectionsPerExportMax; ++i)
    clients.push_back(negotiated());
  auto refused = connect();
  EXPECT_TRUE(refused->is_closed());
  EXPECT_EQ(fault_count(NbdFault::too_many_connections), 1u);
  clients.pop_back();
  clients.back()->send(request_bytes(Command::disconnect, {}));
  EXPECT_TRUE(clients.back()->is_closed());
  EXPECT_EQ(negotiated()->read(0, 512).error, 0u);
}

TEST_F(NbdHostile, DisconnectAnswersWhatIsInFlightFirst) {
  auto client = negotiated();
  memory_.hold();
  Bytes bytes = read_request(7, 4096);
  append(bytes, request_bytes(Command::disconnect, {}));
  append(bytes, read_request(8, 4096));  // ignored
  client->send(bytes);
  EXPECT_FALSE(client->is_closed());
  memory_.release();
  const auto answers = client->collect();
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].cookie, 7u);
  EXPECT_TRUE(client->is_closed());
}

TEST_F(NbdHostile, EndOfStreamBetweenRequestsAnswersWhatIsInFlight) {
  auto client = negotiated();
  memory_.hold();
  client->send(read_request(7, 4096));
  client->peer().end_input();
  executor_.run_until_idle();
  EXPECT_FALSE(client->is_closed());
  memory_.release();
  EXPECT_EQ(client->collect().size(), 1u);
  EXPECT_TRUE(client->is_closed());
  EXPECT_EQ(fault_count(NbdFault::request_truncated), 0u);
}

TEST_F(NbdHostile, LastRepliesThatNobodyReadsAreGivenUp) {
  auto client = negotiated();
  client->peer().reading = false;
  Bytes bytes = read_request(7, 4096);
  append(bytes, request_bytes(Command::disconnect, {}));
  client->send(bytes);
  EXPECT_FALSE(client->is_closed());
  executor_.advance(limits::kNbdDrainTime + 1ms);
  EXPECT_TRUE(client->is_closed());
  EXPECT_EQ(fault_count(NbdFault::drain_timeout), 1u);
}

TEST_F(NbdHostile, DrainingWaitsForTheDeviceHoweverLongItTakes) {
  auto client = negotiated();
  memory_.hold();
  Bytes bytes = read_request(7, 4096);
  append(bytes, request_bytes(Command::disconnect, {}));
  client->send(bytes);
  executor_.advance(std::chrono::hours(5));
  EXPECT_FALSE(client->is_closed());
  memory_.release();
  EXPECT_EQ(client->collect().size(), 1u);
  EXPECT_TRUE(client->is_closed());
}

// A session with everything in it, cut off after each byte.
TEST_F(NbdHostile, PeerMayVanishAfterAnyByte) {
  Bytes session = handshake_bytes(true);
  append(session, request_bytes(Command::write, {.length_bytes = 100}, pattern(100, 1)));
  append(session, read_request(2, 4096));
  append(session, request_bytes(Command::block_status, {.length_bytes = 4096}));
  append(session, request_bytes(Command::write, {.offset_bytes = kDeviceBytes, .length_bytes = 50},
                                pattern(50, 1)));
  append(session, request_bytes(Command::write, {.length_bytes = 10'000}, pattern(10'000, 1)));
  append(session, request_bytes(Command::flush, {}));
  for (std::size_t count = 0; count <= session.size(); count += count < 600 ? 1 : 97) {
    for (const bool hold : {false, true}) {
      if (hold) memory_.hold();
      auto client = connect();
      client->send(Bytes(session.begin(), session.begin() + static_cast<std::ptrdiff_t>(count)));
      if (count % 2 == 0) {
        client->peer().end_input();
      } else {
        client->peer().receive_error = ECONNRESET;
        client->peer().send_error = EPIPE;
        client->peer().poke();
      }
      executor_.run_until_idle();
      memory_.release();
      executor_.run_until_idle();
      ASSERT_TRUE(client->is_closed()) << count;
      ASSERT_EQ(server_->request_count(), 0u) << count;
    }
  }
  EXPECT_GT(fault_count(NbdFault::handshake_truncated), 0u);
  EXPECT_GT(fault_count(NbdFault::request_truncated), 0u);
  EXPECT_GT(server_->statistics().connections_lost, 0u);
}

TEST_F(NbdHostile, PeerThatVanishesLeavesItsRequestsTheirMemory) {
  auto client = negotiated();
  memory_.hold();
  Bytes bytes = request_bytes(Command::write, {.length_bytes = 4096}, pattern(4096, 1));
  append(bytes, request_bytes(Command::write, {.offset_bytes = 4096, .length_bytes = 500'000},
                              pattern(500'000, 2)));
  append(bytes, read_request(3, kMiB));
  client->send(bytes);
  EXPECT_EQ(server_->client_count(), 1u);
  client->peer().receive_error = ECONNRESET;
  client->peer().poke();
  executor_.run_until_idle();
  EXPECT_EQ(server_->connection_count(), 1u);
  EXPECT_EQ(server_->client_count(), 0u);
  EXPECT_EQ(memory_.in_flight_count(), 3u);
  memory_.release();  // the sanitizers see it, were the memory gone
  executor_.run_until_idle();
  EXPECT_EQ(server_->connection_count(), 0u);
  EXPECT_EQ(negotiated()->read(4096, 500'000).data, pattern(500'000, 2));
}

TEST_F(NbdHostile, ClientThatNeverReadsItsRepliesIsBoundedAndAlone) {
  auto good = negotiated();
  auto bad = negotiated();
  bad->peer().reading = false;
  Bytes flood;
  for (std::uint64_t i = 0; i < 1000; ++i) append(flood, read_request(i, 128 * kKiB));
  bad->send(flood);
  EXPECT_LE(server_->buffer_bytes(), limits::kNbdBufferBytesPerConnectionMax + kMiB);
  EXPECT_LE(server_->request_count(), limits::kNbdRequestsPerConnectionMax);
  EXPECT_FALSE(bad->peer().input.empty());
  const Bytes data = pattern(100'000, 4);
  EXPECT_EQ(good->write(0, data).error, 0u);
  EXPECT_EQ(good->read(0, 100'000).data, data);
  // It reads after all: every request is answered.
  bad->peer().set_reading(true);
  std::size_t count = 0;
  while (executor_.run_turn()) count += bad->collect().size();
  EXPECT_EQ(count + bad->collect().size(), 1000u);
}

TEST_F(NbdHostile, ManyClientsThatNeverReadShareOneBound) {
  std::vector<std::unique_ptr<TestConnection>> clients;
  Bytes flood;
  for (std::uint64_t i = 0; i < 300; ++i) append(flood, read_request(i, kMiB));
  for (int i = 0; i < 30; ++i) {
    clients.push_back(negotiated());
    clients.back()->peer().reading = false;
    clients.back()->send(flood);
  }
  EXPECT_LE(server_->buffer_bytes(),
            limits::kNbdBufferBytesPerExportMax + 31 * limits::kNbdBufferBytesGuaranteed);
  // Somebody else still gets many small requests in flight at a time.
  auto good = negotiated();
  memory_.hold();
  Bytes requests;
  for (std::uint64_t i = 0; i < 64; ++i) append(requests, read_request(i, 4096));
  good->send(requests);
  EXPECT_EQ(memory_.in_flight_count(), 64u);
  memory_.release();
  EXPECT_EQ(good->collect().size(), 64u);
}

TEST_F(NbdHostile, ManySmallRequestsWithoutReadingAreBounded) {
  auto bad = negotiated();
  bad->peer().reading = false;
  Bytes flood;
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    append(flood, request_bytes(Command::flush, {.cookie = i}));
  }
  bad->send(flood);
  EXPECT_LE(server_->request_count(), limits::kNbdRequestsPerConnectionMax);
  EXPECT_FALSE(bad->peer().input.empty());
  bad->peer().set_reading(true);
  EXPECT_EQ(bad->collect().size(), 20'000u);
}

TEST_F(NbdHostile, FloodOfLargestWritesIsBoundedAndAlone) {
  auto good = negotiated();
  auto bad = negotiated();
  memory_.hold();
  for (std::uint64_t i = 0; i < 4; ++i) {
    bad->send(request_bytes(Command::write,
                            {.cookie = i, .length_bytes = limits::kNbdRequestBytesMax},
                            Bytes(limits::kNbdRequestBytesMax)));
  }
  EXPECT_EQ(memory_.in_flight_count(), 1u);
  EXPECT_GT(bad->peer().input.size(), limits::kNbdRequestBytesMax);
  EXPECT_LE(server_->buffer_bytes(), limits::kNbdBufferBytesPerConnectionMax + kMiB);
  good->send(request_bytes(Command::write, {.length_bytes = 512}, pattern(512, 1)));
  EXPECT_EQ(memory_.in_flight_count(), 2u);
  memory_.release();
  EXPECT_EQ(good->collect().size(), 1u);
  EXPECT_EQ(bad->collect().size(), 4u);
}

TEST_F(NbdHostile, HeaderAloneDoesNotKeepOthersFromWorking) {
  auto bad = negotiated();
  bad->send(request_bytes(Command::write, {.length_bytes = limits::kNbdRequestBytesMax}));
  auto good = negotiated();
  EXPECT_EQ(good->write(0, pattern(100'000, 1)).error, 0u);
  bad->peer().end_input();
  executor_.run_until_idle();
  EXPECT_TRUE(bad->is_closed());
  EXPECT_EQ(fault_count(NbdFault::request_truncated), 1u);
}

TEST_F(NbdHostile, WhatIsHeldIsGivenUpWithItsConnection) {
  auto client = negotiated();
  memory_.hold();
  for (std::uint64_t i = 0; i < 3; ++i) {
    client->send(request_bytes(Command::write, {.offset_bytes = i * 8192, .length_bytes = 4096},
                               pattern(4096, 1)));
  }
  ASSERT_EQ(memory_.in_flight_count(), 3u);
  TaskScope scope;
  scope.spawn(server_->close());
  executor_.run_until_idle();
  EXPECT_FALSE(scope.empty()) << "not held, only slow";
  memory_.set_holding(true);
  executor_.advance(limits::kHeldLookTime);
  executor_.run_until_idle();
  EXPECT_TRUE(scope.empty());
  EXPECT_EQ(memory_.in_flight_count(), 0u);
  EXPECT_TRUE(client->collect().empty()) << "a lost connection is no error";
}

TEST_F(NbdHostile, CloseWaitsForWhatIsInFlight) {
  auto client = negotiated();
  auto drained = negotiated();
  auto receiving = negotiated();
  receiving->send(request_bytes(Command::write, {.length_bytes = kMiB}, Bytes(300'000)));
  auto skipping = negotiated();
  skipping->send(request_bytes(Command::write, {.length_bytes = 0xffffffff}, Bytes(300'000)));
  auto unread = negotiated();
  unread->peer().reading = false;
  unread->send(read_request(1, 100'000));
  auto handshaking = connect();
  memory_.hold();
  client->send(request_bytes(Command::write, {.length_bytes = 4096}, pattern(4096, 1)));
  TaskScope scope;
  scope.spawn(server_->close());
  executor_.advance(std::chrono::minutes(1));
  EXPECT_FALSE(scope.empty());
  EXPECT_EQ(server_->connection_count(), 1u);
  EXPECT_TRUE(client->peer().is_shut_down);
  auto late = connect();
  EXPECT_TRUE(late->is_closed());
  memory_.release();
  executor_.run_until_idle();
  EXPECT_TRUE(scope.empty());
  EXPECT_TRUE(client->is_closed() && drained->is_closed() && receiving->is_closed() &&
              skipping->is_closed() && unread->is_closed() && handshaking->is_closed());
}

TEST_F(NbdHostile, IdleConnectionsKeepLittleMemory) {
  std::vector<std::unique_ptr<TestConnection>> clients;
  for (int i = 0; i < 10; ++i) {
    clients.push_back(negotiated());
    EXPECT_EQ(clients.back()->write(0, pattern(5'000'000, 1)).error, 0u);
    EXPECT_EQ(clients.back()->read(0, 5'000'000).error, 0u);
  }
  executor_.advance(3 * limits::kNbdPoolIdleTime);
  EXPECT_LE(server_->buffer_bytes(), clients.size() * 16 * kKiB);
  EXPECT_EQ(executor_.armed_timer_count(), 0u);  // an idle export does not wake the host
}

TEST_F(NbdHostile, RandomBytesNeverDoHarm) {
  std::mt19937_64 random(7);
  auto good = negotiated();
  for (int round = 0; round < 2000; ++round) {
    auto client = connect();
    Bytes bytes;
    if (round % 2 == 0) bytes = handshake_bytes(round % 4 == 0);
    for (int i = 0; i < 6; ++i) {
      Bytes request = request_bytes(
          static_cast<std::uint16_t>(random() % 9),
          {.flags = static_cast<std::uint16_t>(random() % 4 == 0 ? random() : random() % 16),
           .cookie = random(),
           .offset_bytes = random() % 3 == 0 ? random() : random() % kDeviceBytes,
           .length_bytes =
               static_cast<std::uint32_t>(random() % 3 == 0 ? random() : random() % 9000)},
          pattern(random() % 9000, 1));
      if (random() % 8 == 0) request[random() % request.size()] ^= std::byte{1};
      append(bytes, request);
    }
    client->peer().receive_bytes_max = 1 + random() % 30'000;
    client->send(bytes);
    client->peer().end_input();
    executor_.run_until_idle();
    ASSERT_TRUE(client->is_closed());
  }
  EXPECT_EQ(good->read(0, 512).error, 0u);
}

class NbdSlowDevice : public NbdServerTest {
 protected:
  NbdSlowDevice()
      : NbdServerTest(MemoryDevice::Options{
            .name = "disk", .size_bytes = kDeviceBytes, .delay = std::chrono::milliseconds(3)}) {}
};

TEST_F(NbdSlowDevice, AnswersComeWhenTheDeviceIsDone) {
  auto client = negotiated();
  client->send(read_request(1, 4096));
  client->send(request_bytes(Command::block_status, {.cookie = 2, .length_bytes = 4096}));
  executor_.advance(2ms);
  EXPECT_TRUE(client->collect().empty());
  executor_.advance(2ms);
  EXPECT_EQ(client->collect().size(), 2u);
}

TEST_F(NbdSlowDevice, CloseWaitsForBlockStatusToo) {
  auto client = negotiated();
  client->send(request_bytes(Command::block_status, {.length_bytes = 4096}));
  TaskScope scope;
  scope.spawn(server_->close());
  executor_.run_until_idle();
  EXPECT_FALSE(scope.empty());
  executor_.advance(4ms);
  EXPECT_TRUE(scope.empty());
}

}  // namespace
}  // namespace holdfast::nbd
