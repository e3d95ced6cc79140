// SPDX-License-Identifier: Apache-2.0
#include "io/unix_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "io/temporary_directory.h"

namespace holdfast {
namespace {

struct Call : StreamRequest {
  bool done = false;
  Call() {
    context = this;
    on_complete = [](StreamRequest& request) { static_cast<Call*>(request.context)->done = true; };
  }
};

class UnixSocketTest : public testing::Test {
 protected:
  void make_pair() {
    int descriptors[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, descriptors), 0);
    left_ = make_stream(*loop_, descriptors[0]);
    right_ = make_stream(*loop_, descriptors[1]);
  }
  void wait_for(const Call& call) {
    ASSERT_TRUE(loop_->run_until([&] { return call.done; }, 10s));
  }
  void settle() {
    loop_->run_until([] { return false; }, 5ms);
  }
  std::string path(const std::string& name) { return directory_.path() + "/" + name; }

  TemporaryDirectory directory_;
  std::unique_ptr<Loop> loop_ = Loop::create().value();
  std::unique_ptr<Stream> left_;
  std::unique_ptr<Stream> right_;
};

TEST_F(UnixSocketTest, WhatIsSentArrives) {
  make_pair();
  std::string hello = "hello ";
  std::string world = "world";
  std::vector<iovec> vectors = {
      {hello.data(), hello.size()}, {nullptr, 0}, {world.data(), world.size()}};
  Call send;
  left_->send(send, vectors);
  EXPECT_FALSE(send.done) << "completed inside send()";
  wait_for(send);
  EXPECT_EQ(send.error, 0);
  EXPECT_EQ(send.transferred, 11u);
  std::vector<std::byte> buffer(100);
  Call receive;
  right_->receive(receive, buffer);
  wait_for(receive);
  EXPECT_EQ(receive.error, 0);
  EXPECT_EQ(as_text(std::span(buffer).first(receive.transferred)), "hello world");
}

TEST_F(UnixSocketTest, AReceiveWaitsForData) {
  make_pair();
  std::vector<std::byte> buffer(10);
  Call receive;
  right_->receive(receive, buffer);
  settle();
  EXPECT_FALSE(receive.done);
  std::string text = "x";
  std::vector<iovec> vectors = {{text.data(), 1}};
  Call send;
  left_->send(send, vectors);
  wait_for(receive);
  EXPECT_EQ(receive.transferred, 1u);
}

TEST_F(UnixSocketTest, SendsLargerThanTheSocketAndLongerThanOneCallArriveWhole) {
  make_pair();
  constexpr std::size_t kPieces = 5000;  // more vectors than one system call takes
  constexpr std::size_t kPieceBytes = 7001;
  std::vector<std::byte> data(kPieces * kPieceBytes);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 31 >> 3);
  std::vector<iovec> vectors;
  for (std::size_t i = 0; i < kPieces; ++i) {
    vectors.push_back({data.data() + i * kPieceBytes, kPieceBytes});
  }
  Call send;
  left_->send(send, vectors);
  std::vector<std::byte> received;
  std::vector<std::byte> buffer(300'000);
  while (received.size() < data.size()) {
    Call receive;
    right_->receive(receive, buffer);
    wait_for(receive);
    ASSERT_EQ(receive.error, 0);
    ASSERT_NE(receive.transferred, 0u);
    received.insert(received.end(), buffer.begin(),
                    buffer.begin() + static_cast<std::ptrdiff_t>(receive.transferred));
  }
  wait_for(send);
  EXPECT_EQ(send.error, 0);
  EXPECT_EQ(send.transferred, data.size());
  EXPECT_TRUE(received == data);
}

TEST_F(UnixSocketTest, BothDirectionsWorkAtOnce) {
  make_pair();
  std::vector<std::byte> buffer(10);
  Call receive;
  left_->receive(receive, buffer);
  std::string text = "ping";
  std::vector<iovec> vectors = {{text.data(), text.size()}};
  Call send;
  left_->send(send, vectors);
  wait_for(send);
  EXPECT_FALSE(receive.done);
  std::vector<std::byte> other_buffer(10);
  Call other;
  right_->receive(other, other_buffer);
  wait_for(other);
  EXPECT_EQ(other.transferred, 4u);
}

TEST_F(UnixSocketTest, AClosedPeerIsTheEndAndABrokenPipe) {
  make_pair();
  right_.reset();
  std::vector<std::byte> buffer(10);
  Call receive;
  left_->receive(receive, buffer);
  wait_for(receive);
  EXPECT_EQ(receive.error, 0);
  EXPECT_EQ(receive.transferred, 0u);
  std::string text = "x";
  std::vector<iovec> vectors = {{text.data(), 1}};
  Call send;
  left_->send(send, vectors);
  wait_for(send);
  EXPECT_EQ(send.error, EPIPE);
}

TEST_F(UnixSocketTest, APeerThatOnlyStopsSendingStillReceives) {
  int descriptors[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, descriptors), 0);
  left_ = make_stream(*loop_, descriptors[0]);
  ASSERT_EQ(shutdown(descriptors[1], SHUT_WR), 0);
  std::vector<std::byte> buffer(10);
  Call receive;
  left_->receive(receive, buffer);
  wait_for(receive);
  EXPECT_EQ(receive.transferred, 0u);
  std::string text = "still here";
  std::vector<iovec> vectors = {{text.data(), text.size()}};
  Call send;
  left_->send(send, vectors);
  wait_for(send);
  EXPECT_EQ(send.error, 0);
  char back[32];
  EXPECT_EQ(read(descriptors[1], back, sizeof back), 10);
  close(descriptors[1]);
}

TEST_F(UnixSocketTest, ShutdownEndsRequestsInFlight) {
  make_pair();
  std::vector<std::byte> buffer(10);
  Call receive;
  left_->receive(receive, buffer);
  std::vector<std::byte> big(64 << 20);
  std::vector<iovec> vectors = {{big.data(), big.size()}};
  Call send;
  left_->send(send, vectors);
  settle();
  EXPECT_FALSE(receive.done);
  EXPECT_FALSE(send.done) << "nobody reads: the socket must be full";
  left_->shutdown();
  wait_for(receive);
  wait_for(send);
  EXPECT_NE(send.error, 0);
}

TEST_F(UnixSocketTest, ADestroyedStreamTouchesNothingAnyMore) {
  for (const bool submitted : {false, true}) {
    make_pair();
    auto buffer = std::make_unique<std::vector<std::byte>>(10);
    auto big = std::make_unique<std::vector<std::byte>>(64 << 20);
    Call receive;
    Call send;
    right_->receive(receive, *buffer);
    std::vector<iovec> vectors = {{big->data(), big->size()}};
    right_->send(send, vectors);
    if (submitted) settle();
    // Data for the pending receive, which must not be written any more.
    std::string text = "late";
    std::vector<iovec> late = {{text.data(), text.size()}};
    Call late_send;
    left_->send(late_send, late);
    right_.reset();
    const std::vector<std::byte> before = *buffer;
    big.reset();
    settle();
    EXPECT_EQ(*buffer, before);
    EXPECT_FALSE(receive.done);
    EXPECT_FALSE(send.done);
    left_.reset();
    settle();
  }
}

TEST_F(UnixSocketTest, AStreamMayBeDestroyedInItsOwnCallback) {
  make_pair();
  struct Destroying : StreamRequest {
    std::unique_ptr<Stream>* stream = nullptr;
  } receive;
  receive.stream = &right_;
  receive.context = &receive;
  receive.on_complete = [](StreamRequest& request) {
    static_cast<Destroying*>(request.context)->stream->reset();
  };
  std::vector<std::byte> buffer(10);
  right_->receive(receive, buffer);
  left_->shutdown();
  EXPECT_TRUE(loop_->run_until([&] { return right_ == nullptr; }, 10s));
}

TEST_F(UnixSocketTest, ALoopMayDieWithAStreamsOperationsLeft) {
  make_pair();
  std::vector<std::byte> buffer(10);
  Call receive;
  left_->receive(receive, buffer);
  settle();
  left_.reset();
  right_.reset();
  loop_.reset();
  EXPECT_FALSE(receive.done);
}

TEST_F(UnixSocketTest, ClientsAreAcceptedAndServed) {
  std::vector<std::unique_ptr<Stream>> accepted;
  auto listener = listen_unix(*loop_, path("socket"), 0600, [&](std::unique_ptr<Stream> stream) {
    accepted.push_back(std::move(stream));
  });
  ASSERT_TRUE(listener.ok()) << listener.error().message();
  listener.value()->start_accepting();
  struct stat status {};
  ASSERT_EQ(stat(path("socket").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  std::vector<std::unique_ptr<Stream>> clients;
  for (int i = 0; i < 20; ++i) {
    auto client = connect_unix(*loop_, path("socket"));
    ASSERT_TRUE(client.ok()) << client.error().message();
    clients.push_back(std::move(client).value());
  }
  EXPECT_TRUE(loop_->run_until([&] { return accepted.size() == 20; }, 10s));
  std::move(listener).value().reset();
  EXPECT_NE(access(path("socket").c_str(), F_OK), 0);
  settle();
  const auto refused = connect_unix(*loop_, path("socket"));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), ErrorCode::not_found);
}

TEST_F(UnixSocketTest, ClientsThatComeBeforeAcceptingStartsWaitAndAreServed) {
  std::vector<std::unique_ptr<Stream>> accepted;
  auto listener = listen_unix(*loop_, path("socket"), 0600, [&](std::unique_ptr<Stream> stream) {
    accepted.push_back(std::move(stream));
  });
  ASSERT_TRUE(listener.ok()) << listener.error().message();
  auto client = connect_unix(*loop_, path("socket"));
  ASSERT_TRUE(client.ok()) << client.error().message();
  settle();
  EXPECT_TRUE(accepted.empty());
  listener.value()->start_accepting();
  EXPECT_TRUE(loop_->run_until([&] { return accepted.size() == 1; }, 10s));
}

TEST_F(UnixSocketTest, AListenerMayBeDestroyedInItsCallback) {
  std::unique_ptr<Listener> listener;
  int accepted = 0;
  listener = listen_unix(*loop_, path("socket"), 0600, [&](std::unique_ptr<Stream>) {
               ++accepted;
               listener.reset();
             }).value();
  listener->start_accepting();
  auto client = connect_unix(*loop_, path("socket"));
  ASSERT_TRUE(client.ok());
  EXPECT_TRUE(loop_->run_until([&] { return accepted == 1; }, 10s));
  settle();
  EXPECT_EQ(listener, nullptr);
}

TEST_F(UnixSocketTest, AStaleSocketIsReplacedALivingOneIsNot) {
  {
    auto first = listen_unix(*loop_, path("socket"), 0600, [](std::unique_ptr<Stream>) {});
    ASSERT_TRUE(first.ok());
    const auto second = listen_unix(*loop_, path("socket"), 0600, [](std::unique_ptr<Stream>) {});
    ASSERT_FALSE(second.ok());
    EXPECT_EQ(second.error().code(), ErrorCode::busy);
    // As after SIGKILL: the name stays, nobody listens.
    ASSERT_EQ(link(path("socket").c_str(), path("left-over").c_str()), 0);
  }
  settle();
  // One that died while it made its socket left that, too.
  ASSERT_EQ(link(path("left-over").c_str(), path("left-ove~").c_str()), 0);
  auto again = listen_unix(*loop_, path("left-over"), 0600, [](std::unique_ptr<Stream>) {});
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(connect_unix(*loop_, path("left-over")).ok());
  EXPECT_NE(access(path("left-ove~").c_str(), F_OK), 0);
}

TEST_F(UnixSocketTest, WhoOwnsThePathReplacesALivingListenerToo) {
  auto first = listen_unix(*loop_, path("socket"), 0600, [](std::unique_ptr<Stream>) {});
  ASSERT_TRUE(first.ok());
  int accepted = 0;
  auto second = listen_unix(
      *loop_, path("socket"), 0600, [&](std::unique_ptr<Stream>) { ++accepted; },
      LivingListener::replace);
  ASSERT_TRUE(second.ok()) << second.error().message();
  second.value()->start_accepting();
  std::move(first).value().reset();  // leaves the other's name alone
  EXPECT_TRUE(connect_unix(*loop_, path("socket")).ok());
  EXPECT_TRUE(loop_->run_until([&] { return accepted == 1; }, 10s));
}

TEST_F(UnixSocketTest, AnythingButASocketIsNotReplaced) {
  std::ofstream(path("file")) << "precious";
  const auto listener = listen_unix(*loop_, path("file"), 0600, [](std::unique_ptr<Stream>) {});
  ASSERT_FALSE(listener.ok());
  EXPECT_EQ(listener.error().code(), ErrorCode::already_exists);
  EXPECT_EQ(access(path("file").c_str(), F_OK), 0);
}

TEST_F(UnixSocketTest, ATooLongPathIsRefusedWithTheLimit) {
  const auto listener =
      listen_unix(*loop_, path(std::string(120, 'x')), 0600, [](std::unique_ptr<Stream>) {});
  ASSERT_FALSE(listener.ok());
  EXPECT_NE(listener.error().message().find("107"), std::string::npos)
      << listener.error().message();
}

TEST_F(UnixSocketTest, OutOfDescriptorsClientsWaitAndAreServedLater) {
  std::vector<std::unique_ptr<Stream>> accepted;
  auto listener = listen_unix(*loop_, path("socket"), 0600, [&](std::unique_ptr<Stream> stream) {
    accepted.push_back(std::move(stream));
  });
  ASSERT_TRUE(listener.ok());
  listener.value()->start_accepting();
  auto client = connect_unix(*loop_, path("socket"));
  ASSERT_TRUE(client.ok());
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  rlimit none = old;
  none.rlim_cur = 3;  // below what is open: no new descriptor
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  loop_->run_until([] { return false; }, 50ms);
  EXPECT_TRUE(accepted.empty());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
  EXPECT_TRUE(loop_->run_until([&] { return accepted.size() == 1; }, 10s));
}

}  // namespace
}  // namespace holdfast
