// SPDX-License-Identifier: Apache-2.0
//
// One virtual machine's connection: its messages, one after the other, and its queues.
//
//   serving -> closing (the peer is gone, broke the protocol, or we stop: the queues take no more)
//           -> finished (nothing is in flight any more)
//
// A session is never closed by us before the peer has had its answers, but for a broken protocol: a
// virtual machine that loses its back-end during the handshake may not come back (QEMU 7.2).
//
// Thread: the executor's. Owner: VhostServer, which destroys it after it reported itself finished.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "io/stream.h"
#include "io/task.h"
#include "serve/vhost/device.h"
#include "serve/vhost/inflight.h"
#include "serve/vhost/protocol.h"
#include "serve/vhost/queue.h"
#include "serve/vhost/server.h"

namespace holdfast::vhost {

class Session {
 public:
  Session(VhostServer& server, std::unique_ptr<Stream> stream);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();  // only when finished

  void start() { tasks_.spawn(run()); }
  void begin_close();
  bool is_finished() const { return is_finished_; }
  std::size_t request_count() const { return device_.in_flight; }

  // Starts what the front-end has made ready, if this session's queues may run.
  void start_queues();
  // Tells the front-end that the configuration space has changed, if it wants to know.
  void announce_config();

 private:
  struct Message {
    MessageHeader header;
    std::vector<std::byte> payload;
    std::vector<Descriptor> descriptors;
  };
  // What a message is answered with: its own reply, or success or failure for those who ask.
  struct Answer {
    bool is_reply = false;
    bool refused = false;
    std::vector<std::byte> payload = {};
    std::optional<Descriptor> descriptor = {};
  };
  struct Transfer;

  // session.cc: life, and the way of a message
  Task<void> run();
  Task<bool> receive_message(Message& message);
  Task<bool> receive_exactly(std::span<std::byte> into, Message& message, bool may_end);
  Task<bool> send_answer(MessageHeader header, Answer answer);
  Task<void> wait_for_queue(Queue& queue);
  Task<void> wait_for_queues();
  void give_up_held();
  void stop_queues();
  bool is_any_queue_active() const;
  void publish();
  bool look();
  void wake();
  void on_kick();
  void tell_of_log();
  void send_config_change();

  // messages.cc: what each means
  Task<std::optional<Answer>> handle(Message& message);
  Answer set_features(std::uint64_t features);
  Answer set_protocol_features(std::uint64_t features);
  Answer set_memory_table(Message& message);
  Answer change_region(Message& message, bool is_added);
  void forget_leaving_regions();
  Answer set_vring_number(ByteReader& in, MessageType type);
  Answer set_vring_addresses(ByteReader& in);
  Answer set_vring_event(Message& message);
  Task<Answer> get_vring_base(std::uint32_t index);
  Answer get_config(std::span<const std::byte> payload) const;
  Answer set_config(std::span<const std::byte> payload);
  Answer get_inflight(ByteReader& in);
  Answer set_inflight(ByteReader& in, Message& message);
  Answer set_log_base(ByteReader& in, const Message& message);
  Answer set_log_event(Message& message);
  Answer refuse(const std::string& why);
  std::uint64_t offered_features() const;
  void choose_write_through();
  bool must_log_without_log(std::uint64_t features) const;
  bool is_log_wanted(std::uint64_t features) const;
  void find_rings_again();

  VhostServer& server_;
  std::unique_ptr<Stream> stream_;
  Device device_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::unique_ptr<InflightMemory> inflight_;
  Descriptor log_event_;  // signalled after pages were marked
  std::uint64_t features_ = 0;
  std::uint64_t protocol_features_ = 0;
  bool cache_is_off_ = false;  // the guest switched it off
  bool is_closing_ = false;
  bool is_finished_ = false;
  bool has_logged_ = false;  // one line about what the peer did wrong

  // While a queue stops.
  Timer held_timer_{[](void* self) { static_cast<Session*>(self)->progress_.notify_all(); }, this};
  Timer leave_timer_{[](void* self) { static_cast<Session*>(self)->forget_leaving_regions(); },
                     this};

  // The channel for messages to the front-end.
  std::unique_ptr<Stream> backend_channel_;
  StreamRequest config_request_;
  std::array<std::byte, kMessageHeaderBytes> config_message_{};
  iovec config_vector_{};
  bool is_sending_config_ = false;
  bool must_send_config_ = false;

  // Polling: for a while after answers went out, if the guest has been seen to come back that soon.
  // Asleep: every running queue has asked for a kick.
  Poller poller_;
  std::vector<Queue*> running_;
  bool is_awake_ = false;
  Duration window_{};
  MonotonicTime last_publish_{};
  MonotonicTime look_until_{};
  bool was_kicked_ = false;

  Condition progress_;  // a request was released, or the session is closing
  TaskScope tasks_;     // last: uses all of the above
};

}  // namespace holdfast::vhost
