// SPDX-License-Identifier: Apache-2.0
//
// For tests and fuzz targets of VhostServer: a guest. Its memory is a memfd that the test has
// mapped too; its virtqueues are driven as a driver does, or written to as none should. It shares
// only constants with the server.
#pragma once

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/units.h"
#include "io/descriptor.h"
#include "serve/testing_bytes.h"
#include "serve/vhost/guest_memory.h"
#include "serve/vhost/virtio.h"

namespace holdfast::vhost {

// Shared memory as the virtual machine's process has it.
class TestMemory {
 public:
  explicit TestMemory(std::size_t size_bytes)
      : file_(memfd_create("holdfast-test", MFD_CLOEXEC)), size_bytes_(size_bytes) {
    HOLDFAST_ASSERT(file_.is_open() && ftruncate(file_.get(), static_cast<off_t>(size_bytes)) == 0);
    map();
  }
  // Memory that somebody else made.
  TestMemory(Descriptor file, std::size_t size_bytes)
      : file_(std::move(file)), size_bytes_(size_bytes) {
    map();
  }
  TestMemory(const TestMemory&) = delete;
  TestMemory& operator=(const TestMemory&) = delete;
  ~TestMemory() { munmap(data_, size_bytes_); }

  std::byte* data() const { return data_; }
  std::size_t size_bytes() const { return size_bytes_; }
  std::span<std::byte> bytes() const { return {data_, size_bytes_}; }
  Descriptor descriptor() const { return Descriptor(dup(file_.get())); }
  std::unique_ptr<TestMemory> copy() const {
    auto other = std::make_unique<TestMemory>(size_bytes_);
    std::memcpy(other->data_, data_, size_bytes_);
    return other;
  }
  // What the test itself then still touches must be below the new size.
  void truncate(std::size_t size_bytes) const {
    HOLDFAST_ASSERT(ftruncate(file_.get(), static_cast<off_t>(size_bytes)) == 0);
  }

 private:
  void map() {
    void* const at = mmap(nullptr, size_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
    HOLDFAST_ASSERT(at != MAP_FAILED);
    data_ = static_cast<std::byte*>(at);
  }

  Descriptor file_;
  std::size_t size_bytes_;
  std::byte* data_ = nullptr;
};

struct GuestOptions {
  std::uint16_t queue_count = 1;
  std::uint16_t queue_size = 64;
  std::size_t data_bytes = 256 * kKiB;
  bool event_index = true;
  bool indirect = false;  // well-formed requests are put into tables
};

struct UsedEntry {
  std::uint32_t head = 0;
  std::uint32_t length_bytes = 0;
  std::uint8_t status = 0xFF;  // where submit() had it written
  bool operator==(const UsedEntry&) const = default;
};

// One buffer of a request: a place in the guest's data.
struct Piece {
  std::uint64_t data_offset_bytes = 0;
  std::uint32_t length_bytes = 0;
};

class TestGuest {
 public:
  static constexpr std::uint64_t kGuestBase = 0x40'0000;           // as the guest counts
  static constexpr std::uint64_t kUserBase = 0x7F00'0000'0000ull;  // in the VM's process
  static constexpr std::uint16_t kNone = 0xFFFF;

  explicit TestGuest(GuestOptions options)
      : options_(options),
        queue_bytes_(round_up(std::size_t{128} * options.queue_size + 64, 4096)),
        memory_(
            std::make_unique<TestMemory>(queue_bytes_ * options.queue_count + options.data_bytes)) {
    for (std::size_t i = 0; i < options_.queue_count; ++i) reset_queue(i);
  }
  TestGuest(const TestGuest&) = delete;
  TestGuest& operator=(const TestGuest&) = delete;

  const GuestOptions& options() const { return options_; }
  TestMemory& memory() { return *memory_; }
  RegionPlace region() const { return {kGuestBase, memory_->size_bytes(), kUserBase, 0}; }
  // From now on the guest's memory is a copy: whoever has mapped it before sees no change any more,
  // and makes none.
  void leave_memory_behind() { memory_ = memory_->copy(); }

  // Where things are, as offsets into the memory.
  std::size_t descriptors_at(std::size_t queue) const { return queue * queue_bytes_; }
  std::size_t available_at(std::size_t queue) const {
    return descriptors_at(queue) + kDescriptorBytes * options_.queue_size;
  }
  std::size_t used_at(std::size_t queue) const {
    return round_up(available_at(queue) + 6 + std::size_t{2} * options_.queue_size, 4);
  }
  std::size_t frames_at(std::size_t queue) const {  // header and status of each head
    return round_up(used_at(queue) + 6 + kUsedEntryBytes * options_.queue_size, 16);
  }
  std::size_t frame_at(std::size_t queue, std::uint16_t head) const {
    return frames_at(queue) + std::size_t{32} * head;
  }
  std::size_t data_at() const { return queue_bytes_ * options_.queue_count; }
  std::byte* data(std::size_t offset_bytes) const {
    return memory_->data() + data_at() + offset_bytes;
  }
  static std::uint64_t guest_address(std::size_t at) { return kGuestBase + at; }
  static std::uint64_t user_address(std::size_t at) { return kUserBase + at; }

  template <typename T>
  T load(std::size_t at) const {
    T value;
    std::memcpy(&value, memory_->data() + at, sizeof value);
    return value;
  }
  template <typename T>
  void store(std::size_t at, T value) const {
    std::memcpy(memory_->data() + at, &value, sizeof value);
  }

  // --- The rings, raw ---
  void set_descriptor(std::size_t queue, std::size_t index, std::uint64_t address,
                      std::uint32_t length_bytes, std::uint16_t flags, std::uint16_t next) const {
    store_descriptor(descriptors_at(queue) + index * kDescriptorBytes, address, length_bytes, flags,
                     next);
  }
  void store_descriptor(std::size_t at, std::uint64_t address, std::uint32_t length_bytes,
                        std::uint16_t flags, std::uint16_t next) const {
    store(at, address);
    store(at + 8, length_bytes);
    store(at + 12, flags);
    store(at + 14, next);
  }
  std::uint16_t available_index(std::size_t queue) const {
    return load<std::uint16_t>(available_at(queue) + 2);
  }
  void set_available_index(std::size_t queue, std::uint16_t value) const {
    store(available_at(queue) + 2, value);
  }
  void set_available_flags(std::size_t queue, std::uint16_t value) const {
    store(available_at(queue), value);
  }
  void set_used_event(std::size_t queue, std::uint16_t value) const {
    store(available_at(queue) + 4 + std::size_t{2} * options_.queue_size, value);
  }
  std::uint16_t used_index(std::size_t queue) const {
    return load<std::uint16_t>(used_at(queue) + 2);
  }
  std::uint16_t used_flags(std::size_t queue) const { return load<std::uint16_t>(used_at(queue)); }
  std::uint16_t available_event(std::size_t queue) const {
    return load<std::uint16_t>(used_at(queue) + 4 + kUsedEntryBytes * options_.queue_size);
  }

  // The rings as new, but for where their indexes begin.
  void reset_queue(std::size_t index, std::uint16_t base = 0) {
    std::memset(memory_->data() + descriptors_at(index), 0, queue_bytes_);
    if (queues_.size() <= index) queues_.resize(index + 1);
    Driver& driver = queues_[index];
    driver = {};
    driver.available_index = driver.published_index = driver.last_used = base;
    store(available_at(index) + 2, base);
    store(used_at(index) + 2, base);
    for (std::uint16_t i = options_.queue_size; i != 0; --i) {
      driver.free.push_back(static_cast<std::uint16_t>(i - 1));
    }
    driver.chains.resize(options_.queue_size);
  }

  // --- A driver ---
  // Puts a request into the ring; publish() shows it to the device. kNone: no room.
  std::uint16_t submit(std::size_t queue, BlkType type, std::uint64_t sector,
                       const std::vector<Piece>& pieces) {
    const bool is_read = type == BlkType::in || type == BlkType::get_id;
    Driver& driver = queues_[queue];
    const std::size_t needed = options_.indirect ? 1 : pieces.size() + 2;
    if (driver.free.size() < needed) return kNone;
    std::vector<std::uint16_t> chain(driver.free.rbegin(),
                                     driver.free.rbegin() + static_cast<std::ptrdiff_t>(needed));
    driver.free.resize(driver.free.size() - needed);
    const std::uint16_t head = chain.front();
    const std::size_t frame = frame_at(queue, head);
    store(frame, static_cast<std::uint32_t>(type));
    store(frame + 4, std::uint32_t{0});
    store(frame + 8, sector);
    store(frame + 16, std::uint8_t{0xFF});
    std::vector<std::size_t> places;  // of the descriptors
    std::size_t table = 0;
    if (options_.indirect) {
      HOLDFAST_ASSERT((pieces.size() + 2) * kDescriptorBytes <= kTableBytes);
      table =
          memory_->size_bytes() - (std::size_t{head} + 1) * kTableBytes;  // one queue's, at the end
      for (std::size_t i = 0; i < pieces.size() + 2; ++i) {
        places.push_back(table + i * kDescriptorBytes);
        chain.push_back(static_cast<std::uint16_t>(i));
      }
      chain.erase(chain.begin());
      set_descriptor(queue, head, guest_address(table),
                     static_cast<std::uint32_t>(places.size() * kDescriptorBytes),
                     kDescriptorIndirect, 0);
    } else {
      for (const std::uint16_t index : chain) {
        places.push_back(descriptors_at(queue) + index * kDescriptorBytes);
      }
    }
    for (std::size_t i = 0; i < places.size(); ++i) {
      const bool is_last = i + 1 == places.size();
      std::uint64_t address = guest_address(i == 0 ? frame : frame + 16);
      std::uint32_t length_bytes = i == 0 ? kRequestHeaderBytes : 1;
      std::uint16_t flags = i != 0 && (is_last || is_read) ? kDescriptorWrite : std::uint16_t{0};
      if (i != 0 && !is_last) {
        address = guest_address(data_at() + pieces[i - 1].data_offset_bytes);
        length_bytes = pieces[i - 1].length_bytes;
      }
      if (!is_last) flags = static_cast<std::uint16_t>(flags | kDescriptorNext);
      store_descriptor(places[i], address, length_bytes, flags,
                       is_last ? std::uint16_t{0} : chain[i + 1]);
    }
    if (options_.indirect) chain = {head};
    driver.chains[head] = std::move(chain);
    make_available(queue, head);
    return head;
  }
  // Whatever is at that head.
  void make_available(std::size_t queue, std::uint16_t head) {
    Driver& driver = queues_[queue];
    store(available_at(queue) + 4 + std::size_t{2} * (driver.available_index % options_.queue_size),
          head);
    ++driver.available_index;
  }
  // True: the device wants a kick for what was published.
  bool publish(std::size_t queue) {
    Driver& driver = queues_[queue];
    const std::uint16_t before = driver.published_index;
    const std::uint16_t after = driver.available_index;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    set_available_index(queue, after);
    driver.published_index = after;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!options_.event_index) return (used_flags(queue) & kUsedNoNotify) == 0;
    return static_cast<std::uint16_t>(after - available_event(queue) - 1) <
           static_cast<std::uint16_t>(after - before);
  }
  // What the device has answered since the last call; its descriptors may be used again.
  std::vector<UsedEntry> take_used(std::size_t queue) {
    Driver& driver = queues_[queue];
    std::vector<UsedEntry> entries;
    for (; driver.last_used != used_index(queue); ++driver.last_used) {
      const std::size_t at =
          used_at(queue) + 4 + kUsedEntryBytes * (driver.last_used % options_.queue_size);
      UsedEntry entry{load<std::uint32_t>(at), load<std::uint32_t>(at + 4)};
      const auto head = static_cast<std::uint16_t>(entry.head % options_.queue_size);
      entry.status = load<std::uint8_t>(frame_at(queue, head) + 16);
      auto& chain = driver.chains[head];
      driver.free.insert(driver.free.end(), chain.rbegin(), chain.rend());
      chain.clear();
      entries.push_back(entry);
    }
    // Interrupt for the next one.
    if (options_.event_index) set_used_event(queue, driver.last_used);
    return entries;
  }
  std::size_t free_descriptor_count(std::size_t queue) const { return queues_[queue].free.size(); }
  std::uint16_t driver_available_index(std::size_t queue) const {
    return queues_[queue].available_index;
  }

 private:
  static constexpr std::size_t kTableBytes = 8 * kDescriptorBytes;

  struct Driver {
    std::vector<std::uint16_t> free;
    std::vector<std::vector<std::uint16_t>> chains;  // by head
    std::uint16_t available_index = 0;
    std::uint16_t published_index = 0;
    std::uint16_t last_used = 0;
  };

  GuestOptions options_;
  std::size_t queue_bytes_;
  std::unique_ptr<TestMemory> memory_;
  std::vector<Driver> queues_;
};

}  // namespace holdfast::vhost
