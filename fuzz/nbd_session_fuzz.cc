// SPDX-License-Identifier: Apache-2.0
//
// A whole NBD session with a hostile client, in virtual time over a RAM disk. Whatever the client
// sends, in whatever pieces: every device request keeps the contract (CheckedDevice), the output is
// well-formed NBD, memory is bounded, another client is served, and the server can be closed.
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/assert.h"
#include "base/limits.h"
#include "block/checked_device.h"
#include "block/memory_device.h"
#include "fuzz/nbd_session_input.h"
#include "io/test_executor.h"
#include "io/test_stream.h"
#include "serve/nbd/server.h"
#include "serve/nbd/test_client.h"

namespace holdfast {
namespace {

using nbd::Command;

class Session {
 public:
  explicit Session(const NbdSessionInput& input) : input_(input) {}

  void run(std::span<const std::byte> client_bytes) {
    auto peer = connect();
    peer->reading = !has(NbdSessionInput::kPeerNeverReads);
    if (has(NbdSessionInput::kHeldDevice)) memory_.hold();
    if (has(NbdSessionInput::kWithHandshake)) {
      peer->push(nbd::handshake_bytes(has(NbdSessionInput::kStructured)));
      executor_.run_until_idle();
    }
    split(*peer);
    peer->push(client_bytes);
    advance(1ms);
    check_bounds();
    if (!has(NbdSessionInput::kCloseEarly)) {
      if (!has(NbdSessionInput::kHeldDevice)) serve_another_client();
      if (has(NbdSessionInput::kEndWithError)) {
        peer->receive_error = ECONNRESET;
        peer->send_error = EPIPE;
      }
      peer->end_input();
      advance(limits::kNbdHandshakeTime + limits::kNbdDrainTime);
    }
    check_output(*peer);
    close();
    HOLDFAST_ASSERT(peer->is_destroyed);
  }

 private:
  bool has(NbdSessionInput::Flags flag) const { return (input_.flags & flag) != 0; }

  std::shared_ptr<TestPeer> connect() {
    auto peer = std::make_shared<TestPeer>();
    server_.accept(std::make_unique<TestStream>(executor_, peer));
    return peer;
  }
  void split(TestPeer& peer) const {
    const std::size_t piece_bytes_max = std::size_t{1} << (input_.piece_bytes_scale % 20);
    std::uint32_t state = input_.piece_seed;
    for (int i = 0; i < 64; ++i) {
      state = state * 1664525u + 1013904223u;
      peer.piece_bytes.push_back(1 + (state >> 8) % piece_bytes_max);
    }
    peer.receive_bytes_max = piece_bytes_max < 64 ? 4096 : piece_bytes_max;  // not for ever
  }
  void advance(Duration duration) {
    HOLDFAST_ASSERT(executor_.run_until_idle());
    executor_.advance(duration);
  }
  void check_bounds() const {
    HOLDFAST_ASSERT(server_.buffer_bytes() <= limits::kNbdBufferBytesPerConnectionMax +
                                                  limits::kNbdPooledBytesMax + 1 * kMiB);
    HOLDFAST_ASSERT(server_.request_count() <= limits::kNbdRequestsPerConnectionMax);
  }
  void serve_another_client() {
    auto peer = connect();
    peer->push(nbd::handshake_bytes(true));
    peer->push(nbd::request_bytes(Command::read, {.cookie = 42, .length_bytes = 512}));
    advance(10ms);
    nbd::OutputReader reader;
    reader.add(peer->take_output());
    HOLDFAST_ASSERT(reader.take_greeting());
    HOLDFAST_ASSERT(!reader.take_option_answers().empty());
    const auto answers = reader.take_answers();
    HOLDFAST_ASSERT(answers.size() == 1 && answers[0].cookie == 42 &&
                    answers[0].data.size() == 512);
    peer->push(nbd::request_bytes(Command::disconnect, {}));
    advance(1ms);
    HOLDFAST_ASSERT(peer->is_destroyed);
  }
  // Simple replies do not say how long they are, so only structured ones are taken apart.
  void check_output(TestPeer& peer) const {
    if (!peer.reading) return;
    nbd::OutputReader reader;
    reader.add(peer.take_output());
    // Who begins with nonsense may be cut off before the greeting has left.
    if (reader.remaining() == 0 && !has(NbdSessionInput::kWithHandshake)) return;
    HOLDFAST_ASSERT(reader.take_greeting());
    if (!has(NbdSessionInput::kWithHandshake)) return;
    const auto options = reader.take_option_answers();
    HOLDFAST_ASSERT(!options.empty() && options.back().type == nbd::OptionReply::ack);
    if (!has(NbdSessionInput::kStructured)) return;
    for (const nbd::Answer& answer : reader.take_answers()) {
      HOLDFAST_ASSERT(answer.structured && answer.done);
    }
    HOLDFAST_ASSERT(!reader.broken() && reader.remaining() == 0);
  }
  void close() {
    TaskScope scope;
    scope.spawn(server_.close());
    HOLDFAST_ASSERT(executor_.run_until_idle());
    memory_.release();
    HOLDFAST_ASSERT(executor_.run_until([&] { return scope.empty(); }));
    HOLDFAST_ASSERT(server_.connection_count() == 0 && server_.request_count() == 0);
    executor_.advance(3 * limits::kNbdPoolIdleTime);
    HOLDFAST_ASSERT(server_.buffer_bytes() == 0);
  }

  const NbdSessionInput& input_;
  TestExecutor executor_;
  MemoryDevice memory_{
      executor_,
      {.name = "disk",
       .size_bytes = NbdSessionInput::kDeviceBytes,
       .delay = has(NbdSessionInput::kSlowDevice) ? Duration(100us) : Duration(0)}};
  CheckedDevice checked_{memory_};
  NbdServer server_{executor_, NbdExport{"disk", "", checked_, has(NbdSessionInput::kReadOnly)}};
};

}  // namespace
}  // namespace holdfast

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  using holdfast::NbdSessionInput;
  if (bytes < NbdSessionInput::kHeaderBytes) return 0;
  NbdSessionInput input;
  input.flags = data[0];
  input.piece_bytes_scale = data[1];
  input.piece_seed = static_cast<std::uint16_t>(data[2] << 8 | data[3]);
  const auto* rest = reinterpret_cast<const std::byte*>(data) + NbdSessionInput::kHeaderBytes;
  holdfast::Session(input).run({rest, bytes - NbdSessionInput::kHeaderBytes});
  return 0;
}
