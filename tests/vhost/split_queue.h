// SPDX-License-Identifier: Apache-2.0
//
// A split virtqueue in guest memory and the driver's half of it. Everything that a guest driver
// may check about the device's half is checked as completions are taken: a broken rule is an error
// that says which. A test that wants to be rude writes to the rings itself.
//
// Thread: one at a time. The guest memory outlives the queue.
#pragma once

#include <linux/virtio_blk.h>

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "vhost/fd.h"
#include "vhost/guest_memory.h"
#include "vhost/virtqueue.h"

namespace holdfast::vhost_frontend {

struct Segment {
  std::uint64_t guest_address = 0;
  std::uint32_t bytes = 0;
};

// `data` is written by the device when bit 0 of the type is clear (read, get-id), else read by it.
struct BlockRequest {
  std::uint32_t type = VIRTIO_BLK_T_IN;
  std::uint64_t sector = 0;
  std::span<const Segment> data;
  std::uint64_t tag = 0;
};

struct ChainElement {
  std::uint64_t guest_address = 0;
  std::uint32_t bytes = 0;
  bool device_writes = false;
};

// A chain of any shape. The status byte must be the last that the device writes.
struct Chain {
  std::span<const ChainElement> elements;
  std::uint64_t status_address = 0;
  std::uint64_t tag = 0;
  bool indirect = false;
};

struct Completion {
  std::uint64_t tag = 0;
  std::uint8_t status = 0;
  std::uint32_t written_bytes = 0;
};

struct QueueOptions {
  std::uint16_t size = 128;
  std::uint32_t segments_max = 4;  // of submit(), without header and status
  bool indirect = false;           // as negotiated
  bool event_index = false;        // as negotiated
  bool blocking_call = false;      // sleep() instead of wait()
};

class SplitQueue {
 public:
  static constexpr std::uint8_t kStatusNotWritten = 0xa5;

  SplitQueue(GuestMemory& memory, const QueueOptions& options);
  SplitQueue(SplitQueue&&) noexcept = default;
  SplitQueue& operator=(SplitQueue&&) = delete;

  const QueueOptions& options() const { return options_; }
  // What was negotiated, known only after the rings were laid out. Nothing may be in flight.
  void set_features(bool indirect, bool event_index);

  // Fresh eventfds, as QEMU makes them for each start; the kick starts out signalled.
  Result<void> make_event_fds();
  void close_event_fds();
  bool has_event_fds() const { return kick_.is_open(); }
  int kick_fd() const { return kick_.number(); }
  int call_fd() const { return call_.number(); }
  int error_fd() const { return error_.number(); }

  // Both put a request into the available ring; publish() shows it to the device.
  // No room: no_space, and nothing has happened.
  Result<void> submit(const BlockRequest& request);
  Result<void> submit_chain(const Chain& chain);
  bool has_room(std::uint32_t elements) const;
  // True when the device wanted a kick and got it.
  bool publish();
  void kick();

  // Appends what has completed since the last call. An error means that the device broke a rule.
  Result<void> take_completions(std::vector<Completion>& completions);
  std::uint32_t in_flight() const { return in_flight_; }
  bool has_completions() const;

  // Asks for a call once something completes; true when something has completed already.
  bool arm_call();
  // Waits for a call and takes it. False when none came in time.
  Result<bool> wait(std::chrono::milliseconds timeout);
  // The same without limit, in one system call; only with blocking_call.
  void sleep();

  // The device has stopped or is gone, and forgets: what is in flight is forgotten here as well,
  // the rings are as new.
  void reset();

  // For the protocol, and for the rude.
  std::uint64_t descriptors_address() const { return descriptors_address_; }
  std::uint64_t available_address() const { return available_address_; }
  std::uint64_t used_address() const { return used_address_; }
  Descriptor* descriptors() const { return descriptors_; }
  std::uint16_t used_index() const;  // as the device wrote it
  std::uint16_t available_index() const { return available_index_; }
  void set_available_index(std::uint16_t value);  // stored at once, and kept
  void set_available_entry(std::uint16_t position, std::uint16_t head);
  std::uint16_t available_event() const;  // what the device asked for, with EVENT_IDX
  void set_used_event(std::uint16_t value);
  void set_available_flags(std::uint16_t value);
  std::uint64_t kicks() const { return kicks_; }
  std::uint64_t calls() const { return calls_; }

 private:
  struct Head {
    bool in_flight = false;
    std::uint32_t writable_bytes = 0;
    std::uint32_t descriptor_count = 0;
    std::uint64_t tag = 0;
    std::uint8_t* status = nullptr;
  };

  void release(std::uint16_t head);
  Error broken(const std::string& what) const;

  GuestMemory* memory_;
  QueueOptions options_;
  std::uint64_t descriptors_address_;
  std::uint64_t available_address_;
  std::uint64_t used_address_;
  std::uint64_t headers_address_;
  std::uint64_t statuses_address_;
  std::uint64_t tables_address_ = 0;  // indirect tables, one a head
  Descriptor* descriptors_;
  std::uint16_t* available_;  // flags, index, ring, used_event
  std::uint16_t* used_;       // flags, index, ring of 8-byte elements, available_event

  std::vector<Head> heads_;
  std::vector<std::uint16_t> next_;  // of each descriptor in a chain: ours, the device's may change
  std::vector<std::uint16_t> free_;
  std::vector<ChainElement> scratch_;
  std::uint16_t available_index_ = 0;
  std::uint16_t published_index_ = 0;
  std::uint16_t last_used_ = 0;
  std::uint32_t in_flight_ = 0;
  std::uint64_t kicks_ = 0;
  std::uint64_t calls_ = 0;
  Fd kick_;
  Fd call_;
  Fd error_;
};

}  // namespace holdfast::vhost_frontend
