// SPDX-License-Identifier: Apache-2.0
//
// Which requests the device has taken and not answered, in memory that the virtual machine keeps
// while a daemon dies: how the next one resumes exactly. Layout and recovery as in "Inflight I/O
// tracking" (split virtqueues) of QEMU's docs/interop/vhost-user.rst, queue after queue; behind
// them a trailer of ours remembers the write cache's setting, which nobody else does.
//
// The memory is another process's too: nothing that is read from it is trusted.
// Thread: one. Owner: a session.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "io/descriptor.h"
#include "io/shared_memory.h"

namespace holdfast::vhost {

struct InflightShape {
  std::uint64_t memory_bytes = 0;
  std::uint64_t offset_bytes = 0;
  std::uint16_t queue_count = 0;
  std::uint16_t queue_size = 0;
};

// One queue's part. All heads that the device passes in are below the queue size.
class QueueInflight {
 public:
  QueueInflight() = default;
  QueueInflight(std::byte* at, std::uint16_t size) : at_(at), size_(size) {}

  bool is_tracked() const { return at_ != nullptr; }
  std::uint16_t size() const { return size_; }
  bool is_fresh() const;  // no queue has used it yet

  // The heads in flight, in the order in which they were taken, after finishing what a daemon that
  // died may have left of its last batch. `used_index` is the used ring's. Fails on memory that
  // makes no sense.
  Result<std::vector<std::uint16_t>> recover(std::uint16_t used_index);
  // The heads in flight, in that order.
  std::vector<std::uint16_t> taken() const;
  void begin(std::uint16_t head);
  // A batch of answers: add each, make the used ring's index show them, then finish.
  void add_to_batch(std::uint16_t head);
  void finish_batch(const std::vector<std::uint16_t>& heads, std::uint16_t used_index);

 private:
  struct Taken {
    std::uint64_t counter;
    std::uint16_t head;
    auto operator<=>(const Taken&) const = default;
  };
  std::byte* entry(std::uint16_t head) const;
  std::vector<Taken> entries_taken() const;  // in order
  static std::vector<std::uint16_t> heads_of(const std::vector<Taken>& entries);

  std::byte* at_ = nullptr;
  std::uint16_t size_ = 0;
  std::uint64_t counter_ = 0;
};

class InflightMemory {
 public:
  struct Created;
  static Result<Created> create(std::uint16_t queue_count, std::uint16_t queue_size);
  static Result<std::unique_ptr<InflightMemory>> adopt(const Descriptor& file,
                                                       const InflightShape& shape);

  QueueInflight queue(std::size_t index) const;  // untracked beyond the queue count
  const InflightShape& shape() const { return shape_; }
  bool is_lost() const { return memory_->is_lost(); }
  // Write-through was chosen by the guest. False too where the memory has no trailer of ours.
  bool write_through() const;
  void set_write_through(bool value);

 private:
  InflightMemory(std::unique_ptr<SharedMemory> memory, const InflightShape& shape)
      : memory_(std::move(memory)), shape_(shape) {}
  std::byte* trailer() const;

  std::unique_ptr<SharedMemory> memory_;
  InflightShape shape_;
};

struct InflightMemory::Created {
  std::unique_ptr<InflightMemory> memory;
  Descriptor descriptor;
};

}  // namespace holdfast::vhost
