// SPDX-License-Identifier: Apache-2.0
#include "serve/vhost/queue.h"

#include <algorithm>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/limits.h"

namespace holdfast::vhost {
namespace {

constexpr std::size_t kIndexAt = 2;  // in both rings, behind the flags
constexpr std::uint64_t kDescriptorsAlignmentBytes = 16;
constexpr std::uint64_t kAvailableAlignmentBytes = 2;
constexpr std::uint64_t kUsedAlignmentBytes = 4;

std::uint64_t available_bytes(std::uint32_t size) {
  return kRingHeaderBytes + 2 * size + 2;
}
std::uint64_t used_bytes(std::uint32_t size) {
  return kRingHeaderBytes + kUsedEntryBytes * size + 2;
}

// The fields that order other accesses. They are aligned: find_rings() saw to it.
std::uint16_t load_shared(const std::byte* at) {
  return __atomic_load_n(reinterpret_cast<const std::uint16_t*>(at), __ATOMIC_ACQUIRE);
}
void store_shared(std::byte* at, std::uint16_t value) {
  __atomic_store_n(reinterpret_cast<std::uint16_t*>(at), value, __ATOMIC_RELEASE);
}
void full_fence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

bool is_aligned(const std::byte* at, std::uint64_t bytes) {
  return reinterpret_cast<std::uintptr_t>(at) % bytes == 0;
}

}  // namespace

Queue::~Queue() {
  HOLDFAST_ASSERT(in_flight_ == 0);
}

bool Queue::find_rings() {
  const std::uint32_t size = setup_.size;
  const GuestMemory& memory = device_.memory;
  descriptors_ = memory.user_bytes(setup_.descriptors_address, kDescriptorBytes * size);
  available_ = memory.user_bytes(setup_.available_address, available_bytes(size));
  used_ = memory.user_bytes(setup_.used_address, used_bytes(size));
  return descriptors_ != nullptr && available_ != nullptr && used_ != nullptr &&
         is_aligned(descriptors_, kDescriptorsAlignmentBytes) &&
         is_aligned(available_, kAvailableAlignmentBytes) && is_aligned(used_, kUsedAlignmentBytes);
}

void Queue::find_rings_again() {
  if (state_ != State::stopped && !find_rings()) device_.break_down(VhostFault::ring_address);
}

void Queue::start(QueueInflight inflight) {
  HOLDFAST_ASSERT(state_ == State::stopped && in_flight_ == 0);
  state_ = State::running;
  const std::uint32_t size = setup_.size;
  if (size > limits::kVhostQueueSizeMax || (size & (size - 1)) != 0) {
    return device_.break_down(VhostFault::ring_setup);
  }
  if (!find_rings()) return device_.break_down(VhostFault::ring_address);
  size_ = static_cast<std::uint16_t>(size);
  // A daemon that died may have written more than it came to mark.
  log_used_ring();
  requests_ = std::vector<Request>(size_);
  published_.reserve(size_);
  inflight_ = inflight;
  asked_for_kick_ = false;
  puts_back_ = false;
  used_index_ = load_shared(used_ + kIndexAt);
  next_available_ = setup_.base;
  // The interrupt for the last answers may have been lost with the daemon that gave them; after
  // 65536 of them the index is 0 again.
  const bool has_answered = used_index_ != 0 || (inflight_.is_tracked() && !inflight_.is_fresh());
  if (has_answered && call_.is_open()) signal_event(call_);
  if (!inflight_.is_tracked()) return;
  if (inflight_.size() < size_) return device_.break_down(VhostFault::ring_setup);
  const auto heads = inflight_.recover(used_index_);
  if (!heads.ok()) return device_.break_down(VhostFault::inflight_malformed);
  // A front-end that lost us cannot know how far we had come; the two memories do.
  next_available_ = static_cast<std::uint16_t>(used_index_ + heads.value().size());
  for (const std::uint16_t head : heads.value()) {
    ++device_.statistics.requests_resumed;
    if (!take(head, true)) return;
  }
}

void Queue::stop(bool puts_back) {
  if (state_ == State::running) state_ = State::stopping;
  if (puts_back) puts_back_ = true;
  kick_.reset();
  setup_.has_kick = false;
  note_idle();
}

void Queue::give_up_held() {
  if (state_ != State::stopping || !inflight_.is_tracked() || !device_.block.is_holding()) return;
  for (Request& request : requests_) {
    if (request.is_taken && !request.link.is_linked()) device_.block.cancel(request.block);
  }
}

void Queue::note_idle() {
  if (state_ == State::stopping && in_flight_ == 0) {
    if (puts_back_) put_back_given_up();
    state_ = State::stopped;
    requests_.clear();
    inflight_ = {};
  }
}

// As if it had not been taken. Whoever starts the queue with the same in-flight memory knows these
// heads from there; after a live migration nobody does. The slots from the used index on are not
// the driver's until they are answered, and no driver reads its available ring.
void Queue::put_back_given_up() {
  if (device_.is_broken || !inflight_.is_tracked()) return;
  const std::vector<std::uint16_t> heads = inflight_.taken();
  const auto is_known = [this](std::uint16_t head) { return head < size_; };
  // The memory is not ours alone: only what fits the rings.
  if (heads.size() != static_cast<std::uint16_t>(next_available_ - used_index_) ||
      heads.size() > size_ || !std::all_of(heads.begin(), heads.end(), is_known)) {
    return;
  }
  next_available_ = used_index_;
  for (std::size_t i = 0; i < heads.size(); ++i) {
    const std::size_t slot = static_cast<std::uint16_t>(used_index_ + i) % size_;
    std::byte* const at = available_ + kRingHeaderBytes + 2 * slot;
    store_little(at, heads[i]);
    device_.note_written(at, sizeof heads[i]);
  }
}

void Queue::log_used_ring() {
  if (state_ != State::stopped) log_used(0, used_bytes(setup_.size));
}

void Queue::log_used(std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  if (!device_.is_logging || !setup_.used_log_address.has_value()) return;
  device_.note_written(*setup_.used_log_address + offset_bytes, size_bytes);
}

void Queue::log_payload(const Request& request) {
  if (!device_.is_logging || request.payload.empty()) return;
  const auto type = static_cast<BlkType>(load_little<std::uint32_t>(request.header.data()));
  if (type != BlkType::in && type != BlkType::get_id) return;
  for (const iovec& vector : request.payload) device_.note_written(vector.iov_base, vector.iov_len);
}

std::uint16_t Queue::available_index() const {
  return load_shared(available_ + kIndexAt);
}

bool Queue::take_requests() {
  if (!takes_requests()) return false;
  auto pending = static_cast<std::uint16_t>(available_index() - next_available_);
  if (pending == 0) return false;
  if (asked_for_kick_) {
    asked_for_kick_ = false;
    // With event indexes the one that was passed stays behind, which asks for nothing.
    if (!device_.event_index) {
      store_shared(used_, kUsedNoNotify);
      log_used(0, sizeof kUsedNoNotify);
    }
  }
  for (; pending != 0; pending = static_cast<std::uint16_t>(available_index() - next_available_)) {
    if (pending > size_) {
      device_.break_down(VhostFault::available_index);
      return true;
    }
    for (; pending != 0; --pending) {
      if (device_.long_requests.is_exhausted()) {
        device_.is_stalled = true;
        return true;
      }
      const std::size_t slot = next_available_ % size_;
      const auto head = load_little<std::uint16_t>(available_ + kRingHeaderBytes + 2 * slot);
      ++next_available_;
      if (!take(head, false)) return true;
    }
  }
  return true;
}

bool Queue::take(std::uint16_t head, bool is_resumed) {
  if (head >= size_) {
    device_.break_down(VhostFault::descriptor_out_of_range);
    return false;
  }
  Request& request = requests_[head];
  if (request.is_taken) {
    device_.break_down(VhostFault::head_in_flight);
    return false;
  }
  request.queue = this;
  request.head = head;
  request.is_taken = true;
  request.memory_generation = device_.memory.begin_request();
  ++in_flight_;
  ++device_.in_flight;
  ++device_.statistics.requests;
  if (!gather(request)) {
    release(request);
    return false;
  }
  if (inflight_.is_tracked() && !is_resumed) inflight_.begin(head);
  execute(request);
  return true;
}

bool Queue::ask_for_kick() {
  if (!takes_requests()) return false;
  if (!asked_for_kick_) {
    asked_for_kick_ = true;
    ask_from(next_available_, 0);
    full_fence();
  }
  return available_index() != next_available_;
}

void Queue::stop_asking() {
  if (!asked_for_kick_ || !takes_requests()) return;
  asked_for_kick_ = false;
  // An index that is behind already is never passed.
  ask_from(static_cast<std::uint16_t>(next_available_ - 1), kUsedNoNotify);
}

// With event indexes the one to be kicked for, without them the flags.
void Queue::ask_from(std::uint16_t event, std::uint16_t flags) {
  const std::size_t at = device_.event_index ? kRingHeaderBytes + kUsedEntryBytes * size_ : 0;
  store_shared(used_ + at, device_.event_index ? event : flags);
  log_used(at, sizeof event);
}

bool Queue::publish() {
  if (device_.is_broken) {
    while (Request* request = done_.pop_front()) release(*request);
  }
  if (done_.empty()) {
    note_idle();
    return false;
  }
  const std::uint16_t before = used_index_;
  published_.clear();
  while (Request* request = done_.pop_front()) {
    const bool is_ok = request->status == BlkStatus::ok;
    *request->status_at = static_cast<std::byte>(request->status);
    device_.note_written(request->status_at, 1);
    const std::size_t at = kRingHeaderBytes + kUsedEntryBytes * (used_index_ % size_);
    store_little<std::uint32_t>(used_ + at, request->head);
    store_little<std::uint32_t>(used_ + at + 4, (is_ok ? request->writable_bytes : 0) + 1);
    log_used(at, kUsedEntryBytes);
    if (inflight_.is_tracked()) inflight_.add_to_batch(request->head);
    published_.push_back(request->head);
    ++used_index_;
    release(*request);
  }
  // What is not marked must not be seen.
  if (device_.is_logging && device_.log.is_lost()) device_.break_down(VhostFault::memory_lost);
  if (device_.is_broken) {
    note_idle();
    return false;
  }
  store_shared(used_ + kIndexAt, used_index_);
  log_used(kIndexAt, sizeof used_index_);
  if (inflight_.is_tracked()) inflight_.finish_batch(published_, used_index_);
  if (wants_interrupt(before, used_index_) && call_.is_open()) {
    ++device_.statistics.calls;
    signal_event(call_);
  }
  note_idle();
  return true;
}

bool Queue::wants_interrupt(std::uint16_t before, std::uint16_t after) {
  full_fence();
  if (!device_.event_index) return (load_shared(available_) & kAvailableNoInterrupt) == 0;
  const std::uint16_t event = load_shared(available_ + kRingHeaderBytes + 2 * size_);
  return static_cast<std::uint16_t>(after - event - 1) < static_cast<std::uint16_t>(after - before);
}

void Queue::release(Request& request) {
  HOLDFAST_ASSERT(request.is_taken && !request.link.is_linked());
  log_payload(request);
  request.is_taken = false;
  if (request.long_request != nullptr) {
    device_.long_requests.put(*request.long_request);
    request.long_request = nullptr;
    if (device_.is_stalled) device_.executor.defer(device_.publish);
  }
  device_.memory.end_request(request.memory_generation);
  --in_flight_;
  --device_.in_flight;
}

}  // namespace holdfast::vhost
