// SPDX-License-Identifier: Apache-2.0
#include "vhost/split_queue.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/assert.h"

namespace holdfast::vhost_frontend {
namespace {

constexpr std::size_t kHeaderBytes = 16;

std::uint16_t load(const std::uint16_t* from) {
  return std::atomic_ref<std::uint16_t>(*const_cast<std::uint16_t*>(from))
      .load(std::memory_order_acquire);
}

void store(std::uint16_t* to, std::uint16_t value) {
  std::atomic_ref<std::uint16_t>(*to).store(value, std::memory_order_release);
}

std::uint16_t narrow(std::size_t value) {
  return static_cast<std::uint16_t>(value);
}

}  // namespace

SplitQueue::SplitQueue(GuestMemory& memory, const QueueOptions& options)
    : memory_(&memory), options_(options) {
  const std::size_t size = options.size;
  descriptors_address_ = memory.allocate(size * sizeof(Descriptor), 16);
  available_address_ = memory.allocate(6 + size * 2, 2);
  used_address_ = memory.allocate(6 + size * sizeof(UsedElement), 4);
  headers_address_ = memory.allocate(size * kHeaderBytes, 16);
  statuses_address_ = memory.allocate(size, 1);
  tables_address_ = memory.allocate(size * (options.segments_max + 2) * sizeof(Descriptor), 16);
  descriptors_ = reinterpret_cast<Descriptor*>(memory.at(descriptors_address_));
  available_ = reinterpret_cast<std::uint16_t*>(memory.at(available_address_));
  used_ = reinterpret_cast<std::uint16_t*>(memory.at(used_address_));
  heads_.resize(size);
  next_.resize(size);
  reset();
}

void SplitQueue::set_features(bool indirect, bool event_index) {
  HOLDFAST_ASSERT(in_flight_ == 0);
  options_.indirect = indirect;
  options_.event_index = event_index;
}

void SplitQueue::reset() {
  std::memset(descriptors_, 0, options_.size * sizeof(Descriptor));
  std::memset(available_, 0, 6 + options_.size * std::size_t{2});
  std::memset(used_, 0, 6 + options_.size * sizeof(UsedElement));
  for (Head& head : heads_) head = {};
  free_.clear();
  for (std::size_t index = options_.size; index > 0; --index) free_.push_back(narrow(index - 1));
  available_index_ = published_index_ = last_used_ = 0;
  in_flight_ = 0;
}

Result<void> SplitQueue::make_event_fds() {
  kick_ = Fd(eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
  call_ = Fd(eventfd(0, EFD_CLOEXEC | (options_.blocking_call ? 0 : EFD_NONBLOCK)));
  error_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (kick_.is_open() && call_.is_open() && error_.is_open()) return {};
  return Error(ErrorCode::internal, std::string("eventfd: ") + std::strerror(errno));
}

void SplitQueue::close_event_fds() {
  kick_.reset();
  call_.reset();
  error_.reset();
}

bool SplitQueue::has_room(std::uint32_t elements) const {
  return options_.indirect ? !free_.empty() : free_.size() >= elements;
}

Result<void> SplitQueue::submit(const BlockRequest& request) {
  HOLDFAST_ASSERT(request.data.size() <= options_.segments_max);
  const std::size_t count = request.data.size() + 2;
  if (!has_room(static_cast<std::uint32_t>(count))) {
    return Error(ErrorCode::no_space, "the queue is full");
  }
  const std::uint16_t head = free_.back();  // the one that submit_chain() takes
  const std::uint64_t header_address = headers_address_ + head * kHeaderBytes;
  const virtio_blk_outhdr header = {request.type, 0, request.sector};
  std::memcpy(memory_->at(header_address), &header, sizeof header);
  scratch_.clear();
  scratch_.push_back({header_address, kHeaderBytes, false});
  const bool device_writes = (request.type & 1U) == 0;
  for (const Segment& segment : request.data) {
    scratch_.push_back({segment.guest_address, segment.bytes, device_writes});
  }
  scratch_.push_back({statuses_address_ + head, 1, true});
  return submit_chain({.elements = scratch_,
                       .status_address = statuses_address_ + head,
                       .tag = request.tag,
                       .indirect = options_.indirect});
}

Result<void> SplitQueue::submit_chain(const Chain& chain) {
  const std::size_t count = chain.elements.size();
  HOLDFAST_ASSERT(count > 0);
  const std::size_t descriptor_count = chain.indirect ? 1 : count;
  if (free_.size() < descriptor_count) return Error(ErrorCode::no_space, "the queue is full");
  const std::uint16_t head_index = free_.back();
  Head& head = heads_[head_index];
  head = {.in_flight = true,
          .writable_bytes = 0,
          .descriptor_count = static_cast<std::uint32_t>(descriptor_count),
          .tag = chain.tag,
          .status = reinterpret_cast<std::uint8_t*>(memory_->at(chain.status_address))};
  *head.status = kStatusNotWritten;

  Descriptor* table = descriptors_;
  if (chain.indirect) {
    HOLDFAST_ASSERT(count <= options_.segments_max + 2);
    const std::uint64_t address =
        tables_address_ + head_index * (options_.segments_max + 2) * sizeof(Descriptor);
    table = reinterpret_cast<Descriptor*>(memory_->at(address));
    descriptors_[head_index] = {address, static_cast<std::uint32_t>(count * sizeof(Descriptor)),
                                kDescriptorIndirect, 0};
    free_.pop_back();
  }
  std::uint16_t slot = 0;
  if (!chain.indirect) {
    slot = free_.back();
    free_.pop_back();
  }
  for (std::size_t index = 0; index < count; ++index) {
    const ChainElement& element = chain.elements[index];
    const bool is_last = index + 1 == count;
    std::uint16_t flags = element.device_writes ? kDescriptorWrite : 0;
    std::uint16_t next = 0;
    if (!is_last) {
      flags |= kDescriptorNext;
      next = narrow(slot + 1U);
      if (!chain.indirect) {
        next = free_.back();
        free_.pop_back();
      }
    }
    table[slot] = {element.guest_address, element.bytes, flags, next};
    if (!chain.indirect) next_[slot] = next;
    if (element.device_writes) head.writable_bytes += element.bytes;
    slot = next;
  }
  set_available_entry(available_index_, head_index);
  ++available_index_;
  ++in_flight_;
  return {};
}

bool SplitQueue::publish() {
  const std::uint16_t old = published_index_;
  if (old == available_index_) return false;
  store(available_ + 1, available_index_);
  published_index_ = available_index_;
  std::atomic_thread_fence(std::memory_order_seq_cst);  // the index is out before we look
  const bool wanted = options_.event_index ? passes_event(available_event(), old, published_index_)
                                           : (load(used_) & kUsedNoNotify) == 0;
  if (wanted) kick();
  return wanted;
}

void SplitQueue::kick() {
  const std::uint64_t one = 1;
  // EAGAIN means that the counter is full, so that the device has been kicked all right.
  if (write(kick_.number(), &one, sizeof one) == sizeof one) ++kicks_;
}

bool SplitQueue::has_completions() const {
  return load(used_ + 1) != last_used_;
}

Result<void> SplitQueue::take_completions(std::vector<Completion>& completions) {
  const std::uint16_t used_now = load(used_ + 1);
  const std::uint16_t count = narrow(static_cast<std::size_t>(used_now - last_used_));
  if (count > in_flight_) {
    return broken("the used index jumped by " + std::to_string(count) + " with " +
                  std::to_string(in_flight_) + " requests in flight");
  }
  const auto* ring = reinterpret_cast<const UsedElement*>(used_ + 2);
  for (; last_used_ != used_now; ++last_used_) {
    const UsedElement element = ring[last_used_ % options_.size];
    if (element.id >= options_.size) {
      return broken("a used element names descriptor " + std::to_string(element.id) +
                    " of a queue of " + std::to_string(options_.size));
    }
    Head& head = heads_[element.id];
    const std::string named = "the request at descriptor " + std::to_string(element.id) +
                              " with tag " + std::to_string(head.tag);
    if (!head.in_flight) return broken(named + " completed, but is not in flight");
    const std::uint8_t status = *head.status;
    if (status == kStatusNotWritten) return broken(named + " completed without a status");
    if (element.len > head.writable_bytes || element.len == 0 ||
        (status == VIRTIO_BLK_S_OK && element.len != head.writable_bytes)) {
      return broken(named + " completed with status " + std::to_string(status) + " and length " +
                    std::to_string(element.len) + ", the device may write " +
                    std::to_string(head.writable_bytes));
    }
    completions.push_back({head.tag, status, element.len});
    release(static_cast<std::uint16_t>(element.id));
  }
  return {};
}

void SplitQueue::release(std::uint16_t index) {
  Head& head = heads_[index];
  head.in_flight = false;
  --in_flight_;
  for (std::uint32_t left = head.descriptor_count; left > 0; --left) {
    free_.push_back(index);
    index = next_[index];
  }
}

bool SplitQueue::arm_call() {
  if (options_.event_index) {
    set_used_event(last_used_);
  } else {
    set_available_flags(0);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);  // the wish is out before we look
  return has_completions();
}

Result<bool> SplitQueue::wait(std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd polled = {call_.number(), POLLIN, 0};
    const int ready = poll(&polled, 1, left.count() > 0 ? static_cast<int>(left.count()) : 0);
    if (ready < 0 && errno != EINTR) {
      return Error(ErrorCode::internal, std::string("poll: ") + std::strerror(errno));
    }
    if (ready == 0) return false;
    if (ready > 0) break;
  }
  sleep();
  return true;
}

void SplitQueue::sleep() {
  std::uint64_t count = 0;
  if (read(call_.number(), &count, sizeof count) == sizeof count) calls_ += count;
}

std::uint16_t SplitQueue::used_index() const {
  return load(used_ + 1);
}

void SplitQueue::set_available_index(std::uint16_t value) {
  available_index_ = published_index_ = value;
  store(available_ + 1, value);
}

void SplitQueue::set_available_entry(std::uint16_t position, std::uint16_t head) {
  available_[2 + position % options_.size] = head;
}

std::uint16_t SplitQueue::available_event() const {
  return load(used_ + 2 + options_.size * std::size_t{4});
}

void SplitQueue::set_used_event(std::uint16_t value) {
  store(available_ + 2 + options_.size, value);
}

void SplitQueue::set_available_flags(std::uint16_t value) {
  store(available_, value);
}

Error SplitQueue::broken(const std::string& what) const {
  return {ErrorCode::corrupt, "the device broke the queue's rules: " + what};
}

}  // namespace holdfast::vhost_frontend
