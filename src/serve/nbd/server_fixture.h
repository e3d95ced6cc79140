// SPDX-License-Identifier: Apache-2.0
//
// For tests of NbdServer: a server over a checked RAM disk, in virtual time, and clients of it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "base/units.h"
#include "block/checked_device.h"
#include "block/memory_device.h"
#include "io/test_executor.h"
#include "io/test_stream.h"
#include "serve/nbd/server.h"
#include "serve/nbd/test_client.h"

namespace holdfast::nbd {

// One connection, seen from the client.
class TestConnection {
 public:
  TestConnection(TestExecutor& executor, NbdServer& server)
      : executor_(executor), peer_(std::make_shared<TestPeer>()) {
    server.accept(std::make_unique<TestStream>(executor, peer_));
  }

  TestPeer& peer() { return *peer_; }
  OutputReader& reader() { return reader_; }
  // Closed by the server, for good.
  bool is_closed() const { return peer_->is_shut_down && peer_->is_destroyed; }

  void send(const Bytes& bytes) {
    peer_->push(bytes);
    executor_.run_until_idle();
    reader_.add(peer_->take_output());
  }
  // Up to the transmission phase.
  void negotiate(bool structured = true) {
    send(handshake_bytes(structured));
    EXPECT_TRUE(reader_.take_greeting());
    const auto answers = reader_.take_option_answers();
    ASSERT_FALSE(answers.empty());
    EXPECT_EQ(answers.back().type, OptionReply::ack);
    EXPECT_EQ(answers.back().option, static_cast<std::uint32_t>(Option::go));
  }
  std::vector<Answer> collect() {
    executor_.run_until_idle();
    reader_.add(peer_->take_output());
    auto answers = reader_.take_answers();
    EXPECT_FALSE(reader_.broken());
    return answers;
  }
  // One request with one answer.
  Answer ask(std::uint16_t command, RequestOptions options, const Bytes& payload = {}) {
    options.cookie = ++last_cookie_;
    if (command == static_cast<std::uint16_t>(Command::read)) {
      reader_.expect_read(options.cookie, options.length_bytes);
    }
    send(request_bytes(command, options, payload));
    auto answers = collect();
    EXPECT_EQ(answers.size(), 1u);
    if (answers.size() != 1) return {};
    EXPECT_EQ(answers[0].cookie, options.cookie);
    EXPECT_TRUE(answers[0].done);
    return answers[0];
  }
  Answer ask(Command command, const RequestOptions& options, const Bytes& payload = {}) {
    return ask(static_cast<std::uint16_t>(command), options, payload);
  }
  Answer write(std::uint64_t offset_bytes, const Bytes& data, std::uint16_t flags = 0) {
    return ask(Command::write,
               {.flags = flags,
                .offset_bytes = offset_bytes,
                .length_bytes = static_cast<std::uint32_t>(data.size())},
               data);
  }
  Answer read(std::uint64_t offset_bytes, std::uint32_t length_bytes, std::uint16_t flags = 0) {
    return ask(Command::read,
               {.flags = flags, .offset_bytes = offset_bytes, .length_bytes = length_bytes});
  }

 private:
  TestExecutor& executor_;
  std::shared_ptr<TestPeer> peer_;
  OutputReader reader_;
  std::uint64_t last_cookie_ = 1000;
};

class NbdServerTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kDeviceBytes = 64 * kMiB;

  NbdServerTest()
      : NbdServerTest(MemoryDevice::Options{.name = "disk", .size_bytes = kDeviceBytes}) {}
  explicit NbdServerTest(MemoryDevice::Options options)
      : memory_(executor_, std::move(options)), checked_(memory_) {
    make_server(false);
  }
  // Whatever happened, the server can be closed and nothing is left behind.
  ~NbdServerTest() override {
    memory_.release();
    close_server();
  }

  void make_server(bool read_only) {
    if (server_ != nullptr) close_server();
    server_ = std::make_unique<NbdServer>(executor_, NbdExport{"disk", "", checked_, read_only});
  }
  void close_server() {
    TaskScope scope;
    scope.spawn(server_->close());
    EXPECT_TRUE(executor_.run_until([&] { return scope.empty(); }));
    EXPECT_EQ(server_->connection_count(), 0u);
    EXPECT_EQ(server_->request_count(), 0u);
    executor_.advance(3 * limits::kNbdPoolIdleTime);
    EXPECT_EQ(server_->buffer_bytes(), 0u);
    server_.reset();
  }
  std::unique_ptr<TestConnection> connect() {
    return std::make_unique<TestConnection>(executor_, *server_);
  }
  std::unique_ptr<TestConnection> negotiated(bool structured = true) {
    auto connection = connect();
    connection->negotiate(structured);
    return connection;
  }
  std::uint64_t fault_count(NbdFault fault) const {
    return server_->statistics().fault_count(fault);
  }

  TestExecutor executor_;
  MemoryDevice memory_;
  CheckedDevice checked_;
  std::unique_ptr<NbdServer> server_;
};

}  // namespace holdfast::nbd
