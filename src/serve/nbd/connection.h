// SPDX-License-Identifier: Apache-2.0
//
// One client: handshake, then transmission. Input is received into chunks and everything at hand is
// parsed in one pass; payloads go to the device from where they were received; replies of all
// requests that completed in one turn of the executor leave in one send.
//
//   handshake -> transmission -> draining (DISC, end of the stream: answers what is in flight)
//   any of them -> aborted (broken framing, a lost peer, close) -> finished
//
// A finished connection has nothing in flight anywhere: neither in the stream nor in the device.
// Thread: the executor's. Owner: NbdServer, which destroys it after it reported itself finished.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "base/list.h"
#include "base/units.h"
#include "io/executor.h"
#include "io/stream.h"
#include "io/task.h"
#include "serve/nbd/buffer_pool.h"
#include "serve/nbd/export.h"
#include "serve/nbd/handshake.h"
#include "serve/nbd/protocol.h"
#include "serve/nbd/request.h"
#include "serve/nbd/statistics.h"

namespace holdfast::nbd {

// What the connections of one export share; owned by NbdServer.
struct ExportContext {
  Executor& executor;
  NbdExport exported;
  NbdStatistics statistics;
  BufferPool buffers;
  RequestPool requests;
  std::size_t connection_count = 0;
  std::uint64_t buffered_bytes = 0;  // of all connections' requests
  Deferred reap;                     // armed by a connection that has finished
  Timer trim;                        // gives back pooled memory once the export has become idle

  // Called where memory goes back to the pool.
  void note_activity() {
    if (!trim.is_armed()) executor.arm_after(trim, limits::kNbdPoolIdleTime);
  }
};

class Connection {
 public:
  Connection(ExportContext& context, std::unique_ptr<Stream> stream);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();  // only when finished

  void start();
  // Ends it without further replies; requests in the device still complete.
  void abort();
  bool is_finished() const { return phase_ == Phase::finished; }
  // Its peer is there, and may ask for more. One that has gone may leave requests in the device.
  bool has_peer() const { return phase_ == Phase::handshake || phase_ == Phase::transmission; }

 private:
  enum class Phase : std::uint8_t { handshake, transmission, draining, aborted, finished };
  struct SendBatch;

  // Payloads up to this size move along with their header when a chunk is used up: cheaper than a
  // receive of their own. Longer ones get a buffer for what the chunk lacks.
  static constexpr std::size_t kMovedPayloadBytesMax = 8 * kKiB;

  struct Refusal {
    NbdFault fault;
    NbdErrno error;
    std::string_view message;
  };

  // connection.cc: life and input
  void on_received();
  void on_end_of_stream();
  void process_input();
  void process_handshake();
  void receive_more();
  void make_room();
  std::size_t frame_bytes_wanted() const;
  void replace_chunk(std::size_t bytes);
  void begin_draining();
  void on_timer();
  void give_up_held();
  void finish_if_idle();
  std::size_t input_bytes() const { return end_ - begin_; }

  // transmission.cc: from header to device and back
  void parse_requests();
  bool start_request(const RequestHeader& header);
  bool has_room_for(const RequestHeader& header) const;
  std::optional<Refusal> check(const RequestHeader& header) const;
  void take_payload(Request& request);
  bool consume_payload();
  void payload_complete();
  void submit(Request& request);
  Task<void> run_block_status(Request& request);
  void answer(Request& request);
  void refuse(Request& request, const Refusal& refusal);
  void charge(Request& request, std::size_t bytes);
  void release(Request& request);

  // replies.cc: from completion to the socket
  void send_pending();
  bool add_reply(SendBatch& batch, Request& request);
  void on_sent();
  void resume_input();

  ExportContext& context_;
  std::unique_ptr<Stream> stream_;
  Phase phase_ = Phase::handshake;
  std::unique_ptr<Handshake> handshake_;  // gone once it is over
  Negotiated negotiated_;

  // Input: received and not yet parsed are the bytes [begin_, end_) of the chunk.
  StreamRequest receive_request_;
  bool receive_in_flight_ = false;
  bool receiving_payload_ = false;  // the receive goes straight into a payload's buffer
  bool stalled_ = false;            // out of budget: parse and receive when requests are released
  ReceiveChunk* chunk_ = nullptr;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t receive_room_bytes_ = 0;  // offered to the receive in flight
  std::size_t chunk_bytes_wanted_ = BufferPool::kSmallChunkBytes;

  // A payload that is still arriving; without target it is thrown away.
  Request* payload_request_ = nullptr;
  std::size_t payload_left_bytes_ = 0;
  std::byte* payload_target_ = nullptr;

  // Requests.
  std::size_t request_count_ = 0;  // taken and not yet released
  std::size_t device_count_ = 0;   // of those, in the device
  std::uint64_t buffered_bytes_ = 0;
  List<Request, &Request::link> in_device_;  // but for block status
  List<Request, &Request::link> done_;
  TaskScope status_tasks_;

  // Output.
  StreamRequest send_request_;
  bool send_in_flight_ = false;
  std::vector<std::byte> handshake_output_;  // being sent
  AlignedBuffer batch_memory_;               // of the send in flight
  List<Request, &Request::link> sending_;
  Deferred flush_;
  Timer timer_;  // handshake and draining are bounded in time
};

}  // namespace holdfast::nbd
