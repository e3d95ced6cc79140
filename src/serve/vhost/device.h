// SPDX-License-Identifier: Apache-2.0
//
// What the queues of one session share. When a guest breaks the rules of its rings, its device is
// broken: its queues take no more until the guest resets it. Nobody else notices.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "io/executor.h"
#include "serve/vhost/dirty_log.h"
#include "serve/vhost/guest_memory.h"
#include "serve/vhost/request.h"
#include "serve/vhost/statistics.h"
#include "serve/vhost/virtio.h"

namespace holdfast::vhost {

struct Device {
  Device(Executor& executor_value, BlockDevice& block_value, VhostStatistics& statistics_value,
         Deferred::Callback publish_callback, void* context)
      : executor(executor_value),
        block(block_value),
        statistics(statistics_value),
        publish(publish_callback, context) {}

  Executor& executor;
  BlockDevice& block;
  VhostStatistics& statistics;
  GuestMemory memory;
  LongRequestPool long_requests;
  DirtyLog log;

  // Negotiated.
  bool event_index = false;
  bool indirect = false;
  bool read_only = false;
  bool is_logging = false;  // what is written into the guest's memory
  bool write_through = false;
  std::array<std::byte, kSerialBytes> serial{};

  Deferred publish;           // armed when a request is done, and when the device breaks
  std::size_t in_flight = 0;  // requests of all queues
  bool is_stalled = false;    // a queue waits for room for a long request
  bool has_logged = false;    // since the front-end was told
  bool is_broken = false;
  VhostFault broken_by{};

  // We have written there. Without its mark a migration would leave the page behind.
  void note_written(std::uint64_t guest_address, std::uint64_t size_bytes) {
    if (!is_logging) return;
    has_logged = true;
    if (!log.mark(guest_address, size_bytes)) break_down(VhostFault::log_out_of_range);
  }
  // The same of bytes of one region.
  void note_written(const void* at, std::uint64_t size_bytes) {
    if (!is_logging || size_bytes == 0) return;
    const auto address = memory.guest_address(static_cast<const std::byte*>(at));
    if (!address.has_value()) return break_down(VhostFault::log_out_of_range);
    note_written(*address, size_bytes);
  }

  void break_down(VhostFault fault) {
    // What is read from memory that is gone says nothing about the guest.
    if (memory.is_lost() || log.is_lost()) fault = VhostFault::memory_lost;
    if (is_broken && fault == broken_by) return;
    statistics.count(fault);
    if (is_broken) return;
    is_broken = true;
    broken_by = fault;
    ++statistics.devices_broken;
    executor.defer(publish);
  }
};

}  // namespace holdfast::vhost
