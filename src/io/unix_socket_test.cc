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

// --- Descriptors ---

class DescriptorPassingTest : public UnixSocketTest {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    left_ = make_stream(*loop_, ends[0]);
    peer_ = Descriptor(ends[1]);
  }
  // As a peer does it: bytes, and copies of one descriptor with the first of them.
  void send_copies(const std::string& text, std::size_t count, int descriptor) const {
    std::vector<int> numbers(count, descriptor);
    std::string bytes = text;
    iovec vector{bytes.data(), bytes.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 253)] = {};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    if (count != 0) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
      cmsghdr* const part = CMSG_FIRSTHDR(&message);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(sizeof(int) * count);
      std::memcpy(CMSG_DATA(part), numbers.data(), sizeof(int) * count);
    }
    ASSERT_EQ(sendmsg(peer_.get(), &message, 0), static_cast<ssize_t>(bytes.size()));
  }
  // Whether every writing end of the pipe is closed.
  static bool is_at_end(const Descriptor& reading) {
    char byte;
    return read(reading.get(), &byte, 1) == 0;
  }
  void make_pipe() {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    reading_ = Descriptor(ends[0]);
    writing_ = Descriptor(ends[1]);
  }

  Descriptor peer_;
  Descriptor reading_;
  Descriptor writing_;
};

TEST_F(DescriptorPassingTest, SeveralDescriptorsArriveWithTheFirstBytesOfTheirMessage) {
  make_pipe();
  send_copies("no", 0, -1);
  send_copies("eight", 8, writing_.get());
  std::vector<std::byte> buffer(2);
  std::vector<Descriptor> descriptors;
  Call receive;
  left_->receive_message(receive, buffer, descriptors);
  wait_for(receive);
  EXPECT_TRUE(descriptors.empty());
  Call again;
  left_->receive_message(again, buffer, descriptors);
  wait_for(again);
  EXPECT_EQ(again.transferred, 2u);
  ASSERT_EQ(descriptors.size(), 8u);
  for (const Descriptor& descriptor : descriptors) {
    EXPECT_NE(fcntl(descriptor.get(), F_GETFD) & FD_CLOEXEC, 0);
  }
  EXPECT_EQ(write(descriptors[7].get(), "x", 1), 1);
  char byte;
  EXPECT_EQ(read(reading_.get(), &byte, 1), 1);
  std::vector<std::byte> rest(10);
  Call last;
  left_->receive_message(last, rest, descriptors);
  wait_for(last);
  EXPECT_EQ(last.transferred, 3u);
  EXPECT_EQ(descriptors.size(), 8u);
  descriptors.clear();
  writing_ = Descriptor();
  EXPECT_TRUE(is_at_end(reading_));
}

TEST_F(DescriptorPassingTest, WhatIsMoreThanThereIsRoomForIsClosed) {
  make_pipe();
  send_copies("many", 100, writing_.get());
  std::vector<std::byte> buffer(10);
  std::vector<Descriptor> descriptors;
  Call receive;
  left_->receive_message(receive, buffer, descriptors);
  wait_for(receive);
  EXPECT_EQ(receive.error, 0);
  EXPECT_GE(descriptors.size(), 8u);
  EXPECT_LT(descriptors.size(), 100u);
  descriptors.clear();
  writing_ = Descriptor();
  EXPECT_TRUE(is_at_end(reading_));
}

TEST_F(DescriptorPassingTest, APlainReceiveClosesWhatComesAlong) {
  make_pipe();
  send_copies("x", 3, writing_.get());
  std::vector<std::byte> buffer(10);
  Call receive;
  left_->receive(receive, buffer);
  wait_for(receive);
  writing_ = Descriptor();
  EXPECT_TRUE(is_at_end(reading_));
}

TEST_F(DescriptorPassingTest, AnOrphanedReceiveClosesWhatComes) {
  make_pipe();
  std::vector<std::byte> buffer(10);
  std::vector<Descriptor> descriptors;
  Call receive;
  left_->receive_message(receive, buffer, descriptors);
  settle();
  send_copies("x", 3, writing_.get());  // received by the kernel, perhaps, but not by us
  left_.reset();
  settle();
  peer_ = Descriptor();
  writing_ = Descriptor();
  EXPECT_TRUE(is_at_end(reading_));
  EXPECT_FALSE(receive.done);
  EXPECT_TRUE(descriptors.empty());
}

TEST_F(DescriptorPassingTest, ADescriptorIsSentOnceWithTheFirstByteOfALongMessage) {
  make_pipe();
  std::vector<std::byte> data(3'000'000, std::byte{5});
  std::vector<iovec> vectors = {{data.data(), data.size()}};
  Call send;
  left_->send_message(send, vectors, writing_);
  std::size_t received = 0;
  std::size_t descriptor_count = 0;
  while (received < data.size()) {
    settle();
    std::vector<char> buffer(100'000);
    iovec vector{buffer.data(), buffer.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 4)] = {};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t count = recvmsg(peer_.get(), &message, MSG_CMSG_CLOEXEC);
    ASSERT_GT(count, 0);
    if (cmsghdr* const part = CMSG_FIRSTHDR(&message); part != nullptr) {
      EXPECT_EQ(received, 0u);
      int number;
      std::memcpy(&number, CMSG_DATA(part), sizeof number);
      const Descriptor descriptor(number);
      ++descriptor_count;
    }
    received += static_cast<std::size_t>(count);
  }
  wait_for(send);
  EXPECT_EQ(send.error, 0);
  EXPECT_EQ(descriptor_count, 1u);
  EXPECT_NE(fcntl(writing_.get(), F_GETFD), -1) << "the sender's own stays open";
}

TEST_F(DescriptorPassingTest, OnlyUnixStreamSocketsAreAdopted) {
  make_pipe();
  EXPECT_EQ(adopt_stream(*loop_, std::move(reading_)), nullptr);
  EXPECT_EQ(adopt_stream(*loop_, Descriptor(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0))),
            nullptr);
  EXPECT_EQ(adopt_stream(*loop_, Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))),
            nullptr);
  EXPECT_EQ(adopt_stream(*loop_, Descriptor()), nullptr);
  EXPECT_NE(adopt_stream(*loop_, std::move(peer_)), nullptr);
}

}  // namespace
}  // namespace holdfast
