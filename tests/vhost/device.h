// SPDX-License-Identifier: Apache-2.0
//
// A vhost-user-blk device as QEMU 7.2 sees it: the messages in QEMU's order, the queues in guest
// memory, and what survives the death of the server (memory, rings, the in-flight buffer).
//
//   VhostDevice device(memory, options);
//   device.connect();   // what QEMU does when it starts
//   device.start();     // what it does when the guest's driver is ready
//   device.queue(0).submit(...), publish(), wait(), take_completions()
//   device.reconnect(); // after the server died; what was in flight still is
//   device.stop();      // the guest's reboot, or its end
#pragma once

#include <linux/virtio_blk.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "vhost/connection.h"
#include "vhost/guest_memory.h"
#include "vhost/split_queue.h"

namespace holdfast::vhost_frontend {

// QEMU's device takes 57 bytes when discard and write-zeroes are on; those and the reserved ones.
inline constexpr std::uint32_t kConfigBytes = 60;

struct DeviceOptions {
  std::string socket;
  std::uint16_t queue_count = 1;
  QueueOptions queue;  // indirect and event_index are what the negotiation gives
  std::uint64_t features = ~std::uint64_t{0};  // taken when offered
  std::uint64_t protocol_features = bit(kProtocolMq) | bit(kProtocolReplyAck) |
                                    bit(kProtocolBackendRequest) | bit(kProtocolConfig) |
                                    bit(kProtocolInflight) | bit(kProtocolMemorySlots) |
                                    bit(kProtocolResetDevice) | bit(kProtocolStatus);
  Milliseconds timeout{10'000};
  Milliseconds reconnect_interval{1000};
  // Hostile: the peer is gone after so many messages, in the middle of the last if wanted.
  std::uint64_t vanish_after_messages = ~std::uint64_t{0};
  bool vanish_inside_message = false;
};

class VhostDevice {
 public:
  VhostDevice(GuestMemory& memory, const DeviceOptions& options);

  Result<void> connect();
  Result<void> start();
  // GET_VRING_BASE on each queue, which must have finished what was in flight; the connection
  // stays, start() goes on.
  Result<void> stop();
  void disconnect();
  // Connects anew, again and again until `deadline` has passed, and starts. The server's in-flight
  // requests go on by themselves: nothing is submitted or kicked.
  Result<void> reconnect(Milliseconds deadline);

  // One queue: NUM, BASE, ADDR, KICK. `base` is of the available ring.
  Result<void> start_queue(std::uint16_t index, std::uint16_t base);
  Result<void> enable_queue(std::uint16_t index, bool enabled);
  // GET_VRING_BASE: where it stopped.
  Result<std::uint16_t> stop_queue(std::uint16_t index);

  Result<void> read_config();
  // Puts bytes into the config space; busy, invalid_argument... as the server answers.
  Result<void> write_config(std::uint32_t offset, std::span<const std::byte> bytes);
  // The server's next message on its own channel; nothing when none comes in time.
  Result<std::optional<Message>> next_backend_message(Milliseconds timeout);

  Result<void> add_region(std::size_t index);
  Result<void> remove_region(std::size_t index);

  // Hostile: the in-flight buffer to be sent from now on.
  void set_inflight(const InflightDescription& description, Fd fd) {
    inflight_ = description;
    inflight_fd_ = std::move(fd);
  }
  const InflightDescription& inflight() const { return inflight_; }
  int inflight_fd() const { return inflight_fd_.number(); }

  bool has_feature(std::uint32_t number) const { return (features_ & bit(number)) != 0; }
  bool has_protocol_feature(std::uint32_t number) const {
    return (protocol_features_ & bit(number)) != 0;
  }
  std::uint64_t offered_features() const { return offered_features_; }
  std::uint64_t offered_protocol_features() const { return offered_protocol_features_; }
  std::uint64_t server_queue_count() const { return server_queue_count_; }
  std::uint64_t memory_slots_max() const { return memory_slots_max_; }
  const virtio_blk_config& config() const { return config_; }
  std::uint64_t capacity_bytes() const { return config_.capacity * 512; }

  SplitQueue& queue(std::size_t index) { return queues_.at(index); }
  std::size_t queue_count() const { return queues_.size(); }
  GuestMemory& memory() { return *memory_; }
  VhostConnection& connection() { return *connection_; }
  bool is_connected() const { return connection_.has_value(); }
  const DeviceOptions& options() const { return options_; }

 private:
  Result<void> negotiate_protocol();
  Result<void> send_number(std::uint32_t request, std::uint64_t number);
  Result<void> send_state(std::uint32_t request, std::uint32_t index, std::uint32_t number);
  Result<void> send_event_fd(std::uint32_t request, std::uint16_t index, int fd);
  // With REPLY_ACK the server's answer, which must be 0.
  Result<void> send_and_confirm(std::uint32_t request, std::span<const std::byte> payload,
                                std::span<const int> fds);
  Result<void> set_features();
  Result<void> add_status(std::uint64_t bits);
  Result<void> share_inflight_buffer();
  Result<void> share_memory();

  GuestMemory* memory_;
  DeviceOptions options_;
  std::vector<SplitQueue> queues_;
  std::optional<VhostConnection> connection_;
  std::optional<VhostConnection> backend_channel_;
  std::uint64_t offered_features_ = 0;
  std::uint64_t offered_protocol_features_ = 0;
  std::uint64_t features_ = 0;
  std::uint64_t protocol_features_ = 0;
  std::uint64_t server_queue_count_ = 1;
  std::uint64_t memory_slots_max_ = kMemoryTableRegionsMax;
  virtio_blk_config config_ = {};
  bool memory_shared_ = false;  // over this connection
  bool was_started_ = false;    // so that features stay what the guest took
  std::vector<std::uint16_t> bases_;
  InflightDescription inflight_ = {};
  Fd inflight_fd_;
};

}  // namespace holdfast::vhost_frontend
