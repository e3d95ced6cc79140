// SPDX-License-Identifier: Apache-2.0
#include "serve/vhost/inflight.h"

#include <algorithm>
#include <utility>

#include "base/bytes.h"
#include "base/limits.h"
#include "base/units.h"

namespace holdfast::vhost {
namespace {

// A queue's part: features u64, version u16, descriptors u16, last_batch_head u16, used_index u16,
// then an entry for each descriptor: inflight u8, 5 unused, next u16, counter u64.
constexpr std::size_t kHeaderBytes = 16;
constexpr std::size_t kVersionAt = 8;
constexpr std::size_t kDescriptorsAt = 10;
constexpr std::size_t kLastBatchHeadAt = 12;
constexpr std::size_t kUsedIndexAt = 14;
constexpr std::size_t kEntryBytes = 16;
constexpr std::size_t kEntryNextAt = 6;
constexpr std::size_t kEntryCounterAt = 8;
constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kQueueAlignmentBytes = 64;

constexpr std::size_t kTrailerBytes = 64;
constexpr std::uint64_t kTrailerMagic = 0x31544C464E494648;  // "HFINFLT1"

std::uint64_t queue_bytes(std::uint16_t queue_size) {
  return round_up(kHeaderBytes + kEntryBytes * queue_size, kQueueAlignmentBytes);
}

// The order of these stores is what a crash anywhere between them relies on: the compiler must keep
// it (the processor's order does not matter to a process that died).
void in_this_order() {
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

Error malformed(const std::string& why) {
  return Error(ErrorCode::invalid_argument, "in-flight memory refused: " + why);
}

}  // namespace

std::byte* QueueInflight::entry(std::uint16_t head) const {
  return at_ + kHeaderBytes + kEntryBytes * head;
}

bool QueueInflight::is_fresh() const {
  return load_little<std::uint16_t>(at_ + kVersionAt) == 0;
}

Result<std::vector<std::uint16_t>> QueueInflight::recover(std::uint16_t used_index) {
  const auto version = load_little<std::uint16_t>(at_ + kVersionAt);
  if (is_fresh()) {
    store_little(at_ + kDescriptorsAt, size_);
    store_little(at_ + kUsedIndexAt, used_index);
    in_this_order();
    store_little(at_ + kVersionAt, kVersion);
  } else if (version != kVersion || load_little<std::uint16_t>(at_ + kDescriptorsAt) != size_) {
    return malformed("of another version or size");
  }
  const auto seen_index = load_little<std::uint16_t>(at_ + kUsedIndexAt);
  auto batch = static_cast<std::uint16_t>(used_index - seen_index);
  if (batch > size_) return malformed("its last batch is longer than the queue");
  auto head = load_little<std::uint16_t>(at_ + kLastBatchHeadAt);
  for (; batch != 0; --batch) {
    if (head >= size_) return malformed("its last batch names no descriptor");
    *entry(head) = std::byte{0};
    head = load_little<std::uint16_t>(entry(head) + kEntryNextAt);
  }
  in_this_order();
  store_little(at_ + kUsedIndexAt, used_index);

  const auto entries = entries_taken();
  counter_ = entries.empty() ? 0 : entries.back().counter + 1;
  return heads_of(entries);
}

std::vector<std::uint16_t> QueueInflight::taken() const {
  return heads_of(entries_taken());
}

std::vector<std::uint16_t> QueueInflight::heads_of(const std::vector<Taken>& entries) {
  std::vector<std::uint16_t> heads;
  heads.reserve(entries.size());
  for (const Taken& taken : entries) heads.push_back(taken.head);
  return heads;
}

std::vector<QueueInflight::Taken> QueueInflight::entries_taken() const {
  std::vector<Taken> entries;
  for (std::uint16_t i = 0; i < size_; ++i) {
    if (*entry(i) == std::byte{0}) continue;
    entries.push_back({load_little<std::uint64_t>(entry(i) + kEntryCounterAt), i});
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

void QueueInflight::begin(std::uint16_t head) {
  std::byte* const at = entry(head);
  store_little(at + kEntryCounterAt, counter_++);
  in_this_order();
  *at = std::byte{1};
}

void QueueInflight::add_to_batch(std::uint16_t head) {
  store_little(entry(head) + kEntryNextAt, load_little<std::uint16_t>(at_ + kLastBatchHeadAt));
  in_this_order();
  store_little(at_ + kLastBatchHeadAt, head);
}

void QueueInflight::finish_batch(const std::vector<std::uint16_t>& heads,
                                 std::uint16_t used_index) {
  in_this_order();
  for (const std::uint16_t head : heads) *entry(head) = std::byte{0};
  in_this_order();
  store_little(at_ + kUsedIndexAt, used_index);
}

Result<InflightMemory::Created> InflightMemory::create(std::uint16_t queue_count,
                                                       std::uint16_t queue_size) {
  if (queue_count == 0 || queue_count > limits::kVhostQueuesMax || queue_size == 0 ||
      queue_size > limits::kVhostQueueSizeMax) {
    return malformed("asked for " + std::to_string(queue_count) + " queues of " +
                     std::to_string(queue_size));
  }
  InflightShape shape;
  shape.queue_count = queue_count;
  shape.queue_size = queue_size;
  shape.memory_bytes = round_up(queue_bytes(queue_size) * queue_count + kTrailerBytes, kBlockBytes);
  SharedMemory::Created created =
      TRY(SharedMemory::create("holdfast-inflight", shape.memory_bytes));
  std::unique_ptr<InflightMemory> memory(
      new InflightMemory(std::move(created.memory), shape));  // NOLINT: private constructor
  store_little(memory->trailer(), kTrailerMagic);
  return Created{std::move(memory), std::move(created.descriptor)};
}

Result<std::unique_ptr<InflightMemory>> InflightMemory::adopt(const Descriptor& file,
                                                              const InflightShape& shape) {
  if (shape.queue_count == 0 || shape.queue_count > limits::kVhostQueuesMax ||
      shape.queue_size == 0 || shape.queue_size > limits::kVhostQueueSizeMax ||
      shape.memory_bytes < queue_bytes(shape.queue_size) * shape.queue_count) {
    return malformed("its size does not fit its queues");
  }
  auto memory = TRY(SharedMemory::map(file, shape.offset_bytes, shape.memory_bytes));
  return std::unique_ptr<InflightMemory>(
      new InflightMemory(std::move(memory), shape));  // NOLINT: private constructor
}

QueueInflight InflightMemory::queue(std::size_t index) const {
  if (index >= shape_.queue_count) return {};
  return {memory_->data() + queue_bytes(shape_.queue_size) * index, shape_.queue_size};
}

std::byte* InflightMemory::trailer() const {
  const std::uint64_t at = queue_bytes(shape_.queue_size) * shape_.queue_count;
  return at + kTrailerBytes <= shape_.memory_bytes ? memory_->data() + at : nullptr;
}

bool InflightMemory::write_through() const {
  const std::byte* const at = trailer();
  return at != nullptr && load_little<std::uint64_t>(at) == kTrailerMagic && at[8] != std::byte{0};
}

void InflightMemory::set_write_through(bool value) {
  std::byte* const at = trailer();
  if (at == nullptr || load_little<std::uint64_t>(at) != kTrailerMagic) return;
  at[8] = value ? std::byte{1} : std::byte{0};
}

}  // namespace holdfast::vhost
