// SPDX-License-Identifier: Apache-2.0
//
// vhost_load: a guest's disk load on vhost-user-blk sockets while their server is killed and
// started again. Each request that was in flight must complete exactly once and without an error,
// and every sector must hold what the last completed write left.
//
// Nothing here helps the server to resume: after a reconnection no request is submitted again, no
// kick is sent, and completions are looked for only when the server says so.
//
// Standard input: `verify` drains the queues, reads the whole range and checks it, then the load
// goes on; `stop` does the same and ends. Standard output, one line an event, DISK a number:
//   loading DISK                 requests are flowing
//   lost DISK IN_FLIGHT          the connection broke with so many requests in flight
//   resumed DISK STALL_US        the first new completion after that, so long after the loss
//   verified DISK COMPLETED      all sectors are right; requests completed so far
// Anything wrong goes to standard error, and the exit status is 1.
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "vhost/device.h"
#include "vhost/stamped_disk.h"

namespace {

using holdfast::Result;
using namespace holdfast::vhost_frontend;  // NOLINT(google-build-using-namespace)
using Clock = std::chrono::steady_clock;
using Range = StampedDisk::Range;

constexpr std::uint32_t kRequestBytesMax = 256 * 1024;
constexpr std::size_t kSegmentsMax = 4;
constexpr std::uint64_t kPoison = 0xdeadbeef0badcafe;

struct Options {
  std::vector<std::string> sockets;
  std::uint64_t queues = 4;
  std::uint64_t depth = 32;  // of each queue
  std::uint64_t disk_bytes = 64 * 1024 * 1024;
  std::uint64_t request_bytes_max = kRequestBytesMax;
  std::uint64_t pause_ms = 0;  // between a completion and the next request in its place
  std::uint64_t seed = 1;
  std::uint64_t reconnect_ms = 20;
  std::uint64_t patience_seconds = 60;  // without any completion
};

[[noreturn]] void die(const char* format, ...) {
  std::fflush(stdout);
  std::fputs("vhost_load: ", stderr);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::_Exit(1);
}

void say(const char* what, std::size_t disk, std::uint64_t number) {
  std::printf("%s %zu %llu\n", what, disk, static_cast<unsigned long long>(number));
  std::fflush(stdout);
}

enum class Phase { loading, draining, verifying };

class Load {
 public:
  Load(const Options& options, std::size_t number)
      : options_(options),
        number_(number),
        random_(options.seed * 1000 + number),
        memory_(make_memory(options)),
        device_(memory_, device_options(options, number)),
        disk_(options.disk_bytes / kSectorBytes),
        wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    slots_.resize(options.queues * options.depth);
    for (std::size_t index = 0; index < slots_.size(); ++index) {
      slots_[index].queue = index / options.depth;
      slots_[index].memory = memory_.allocate(kRequestBytesMax, 4096);
    }
  }

  // From another thread: the disk is verified as often as this was called.
  void ask_to_verify(bool then_stop) {
    if (then_stop) stop_wanted_ = true;
    ++verifications_wanted_;
    const std::uint64_t one = 1;
    if (write(wake_.number(), &one, sizeof one) != sizeof one) die("eventfd: %s", strerror(errno));
  }

  void run() {
    check(device_.connect());
    check(device_.start());
    if (device_.capacity_bytes() < options_.disk_bytes) {
      die("the disk of %llu bytes is too small for the load",
          static_cast<unsigned long long>(device_.capacity_bytes()));
    }
    say("loading", number_, 0);
    last_completion_ = Clock::now();
    while (true) {
      for (std::size_t index = 0; index < slots_.size(); ++index) begin(index);
      for (std::size_t index = 0; index < device_.queue_count(); ++index) {
        device_.queue(index).publish();
      }
      if (phase_ == Phase::loading || in_flight() != 0) {
        wait();
      } else if (!next_phase()) {
        break;
      }
    }
    check(device_.stop());
  }

 private:
  struct Slot {
    std::size_t queue = 0;
    std::uint64_t memory = 0;  // guest address of the buffer
    bool busy = false;
    std::uint32_t type = 0;
    Range range;
    std::uint64_t version = 0;
    std::uint64_t poisoned_sectors = 0;  // left by the last read
    Clock::time_point ready_at;
  };

  static GuestMemory make_memory(const Options& options) {
    const std::uint64_t bytes =
        options.queues * options.depth * kRequestBytesMax / 3 / 4096 * 4096 + 2 * 1024 * 1024;
    const std::array<std::uint64_t, 3> regions = {bytes, bytes, bytes};
    Result<GuestMemory> memory = GuestMemory::create(regions);
    if (!memory.ok()) die("%s", memory.error().message().c_str());
    return std::move(memory).value();
  }

  static DeviceOptions device_options(const Options& options, std::size_t number) {
    DeviceOptions made;
    made.socket = options.sockets[number];
    made.queue_count = static_cast<std::uint16_t>(options.queues);
    made.queue.size = static_cast<std::uint16_t>(std::bit_ceil(std::max<std::uint64_t>(
        128, options.depth * (kSegmentsMax + 2))));  // room without indirect descriptors as well
    made.queue.segments_max = kSegmentsMax;
    made.timeout = std::chrono::seconds(options.patience_seconds);
    made.reconnect_interval = Milliseconds(options.reconnect_ms);
    return made;
  }

  void check(Result<void> result) const {
    if (!result.ok()) die("disk %zu: %s", number_, result.error().message().c_str());
  }

  std::uint32_t in_flight() {
    std::uint32_t count = 0;
    for (std::size_t index = 0; index < device_.queue_count(); ++index) {
      count += device_.queue(index).in_flight();
    }
    return count;
  }

  // Everything submitted is complete. False: that was all.
  bool next_phase() {
    if (phase_ == Phase::draining) {
      phase_ = Phase::verifying;
      next_sector_ = 0;
    } else if (phase_ == Phase::verifying && next_sector_ == disk_.sectors()) {
      say("verified", number_, completed_);
      ++verifications_done_;
      if (stop_wanted_ && verifications_done_ == verifications_wanted_) return false;
      phase_ = Phase::loading;
      say("loading", number_, completed_);
    }
    return true;
  }

  void begin(std::size_t index) {
    Slot& slot = slots_[index];
    if (slot.busy || phase_ == Phase::draining) return;
    if (phase_ == Phase::verifying) {
      if (next_sector_ == disk_.sectors()) return;
      slot.type = VIRTIO_BLK_T_IN;
      slot.range = {next_sector_,
                    std::min(kRequestBytesMax / kSectorBytes, disk_.sectors() - next_sector_)};
      next_sector_ += slot.range.count;
      if (!disk_.lock_for_read(slot.range)) die("a sector is locked after draining");
    } else {
      if (options_.pause_ms != 0 && Clock::now() < slot.ready_at) return;
      if (!choose(slot)) return;  // the place is taken: another one next time
    }
    submit(slot, index);
  }

  // A request and its range, locked.
  bool choose(Slot& slot) {
    const std::uint64_t dice = random_.below(100);
    slot.type = dice < 50   ? VIRTIO_BLK_T_OUT
                : dice < 85 ? VIRTIO_BLK_T_IN
                : dice < 90 ? VIRTIO_BLK_T_WRITE_ZEROES
                : dice < 95 ? VIRTIO_BLK_T_DISCARD
                            : VIRTIO_BLK_T_FLUSH;
    if (slot.type == VIRTIO_BLK_T_WRITE_ZEROES && !device_.has_feature(VIRTIO_BLK_F_WRITE_ZEROES)) {
      slot.type = VIRTIO_BLK_T_OUT;
    }
    if (slot.type == VIRTIO_BLK_T_DISCARD && !device_.has_feature(VIRTIO_BLK_F_DISCARD)) {
      slot.type = VIRTIO_BLK_T_IN;
    }
    slot.range = {0, 0};
    if (slot.type == VIRTIO_BLK_T_FLUSH) return true;
    // Each power of two as often as the next, half of them in whole 4 KiB blocks.
    const auto steps =
        static_cast<std::uint64_t>(std::bit_width(options_.request_bytes_max / kSectorBytes));
    const std::uint64_t largest = std::uint64_t{1} << random_.below(steps);
    std::uint64_t count = 1 + random_.below(largest);
    std::uint64_t first = random_.below(disk_.sectors() - count + 1);
    if (random_.percent(50)) {
      count = (count + 7) / 8 * 8;
      first = std::min(first, disk_.sectors() - count) / 8 * 8;
    }
    slot.range = {first, count};
    return slot.type == VIRTIO_BLK_T_IN ? disk_.lock_for_read(slot.range)
                                        : disk_.lock_for_write(slot.range);
  }

  std::span<std::byte> buffer(const Slot& slot) const {
    return {memory_.at(slot.memory, kRequestBytesMax), slot.range.count * kSectorBytes};
  }

  void submit(Slot& slot, std::size_t index) {
    check_poison(slot);
    std::array<Segment, kSegmentsMax> segments;
    std::size_t segment_count = 0;
    switch (slot.type) {
      case VIRTIO_BLK_T_FLUSH:
        break;
      case VIRTIO_BLK_T_DISCARD:
      case VIRTIO_BLK_T_WRITE_ZEROES: {
        const virtio_blk_discard_write_zeroes range = {
            slot.range.first, static_cast<std::uint32_t>(slot.range.count), may_unmap(slot)};
        std::memcpy(memory_.at(slot.memory), &range, sizeof range);
        segments[segment_count++] = {slot.memory, sizeof range};
        break;
      }
      default:
        if (slot.type == VIRTIO_BLK_T_OUT) {
          slot.version = ++last_version_;
          StampedDisk::fill(buffer(slot), slot.range.first, slot.version);
        }
        segment_count = split(slot, segments);
    }
    const bool has_sector = slot.type == VIRTIO_BLK_T_IN || slot.type == VIRTIO_BLK_T_OUT;
    check(device_.queue(slot.queue)
              .submit({.type = slot.type,
                       .sector = has_sector ? slot.range.first : 0,
                       .data = std::span(segments).first(segment_count),
                       .tag = index}));
    slot.busy = true;
  }

  std::uint32_t may_unmap(const Slot& slot) {
    return slot.type == VIRTIO_BLK_T_WRITE_ZEROES && device_.config().write_zeroes_may_unmap != 0 &&
                   random_.percent(50)
               ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
               : 0;
  }

  // The buffer in one or more pieces, seldom cut at whole sectors.
  std::size_t split(const Slot& slot, std::array<Segment, kSegmentsMax>& segments) {
    auto left = static_cast<std::uint32_t>(slot.range.count * kSectorBytes);
    std::uint64_t address = slot.memory;
    std::size_t count = 0;
    const std::size_t wanted = random_.percent(50) ? 1 : 1 + random_.below(kSegmentsMax);
    const std::uint32_t grain = random_.percent(80) ? 512 : 4;
    while (count + 1 < wanted && left > grain) {
      const auto bytes = static_cast<std::uint32_t>(1 + random_.below(left / grain)) * grain;
      if (bytes >= left) break;
      segments[count++] = {address, bytes};
      address += bytes;
      left -= bytes;
    }
    segments[count++] = {address, left};
    return count;
  }

  // A read that is executed again after its completion would write here.
  void check_poison(Slot& slot) {
    for (std::uint64_t sector = 0; sector < slot.poisoned_sectors; ++sector) {
      std::uint64_t word;
      std::memcpy(&word, memory_.at(slot.memory + sector * kSectorBytes), sizeof word);
      if (word != kPoison) {
        die("disk %zu: REPEATED: a buffer was written to after its read had completed", number_);
      }
    }
    slot.poisoned_sectors = 0;
  }

  void poison(Slot& slot) {
    for (std::uint64_t sector = 0; sector < slot.range.count; ++sector) {
      std::memcpy(memory_.at(slot.memory + sector * kSectorBytes), &kPoison, sizeof kPoison);
    }
    slot.poisoned_sectors = slot.range.count;
  }

  void wait() {
    std::vector<pollfd> polled = {{device_.connection().fd(), POLLIN, 0},
                                  {wake_.number(), POLLIN, 0}};
    for (std::size_t index = 0; index < device_.queue_count(); ++index) {
      polled.push_back({device_.queue(index).call_fd(), POLLIN, 0});
    }
    const int timeout_ms = options_.pause_ms != 0 ? static_cast<int>(options_.pause_ms) : 1000;
    if (poll(polled.data(), polled.size(), timeout_ms) < 0 && errno != EINTR) {
      die("poll: %s", strerror(errno));
    }
    if (polled[1].revents != 0) {
      std::uint64_t count;
      if (read(wake_.number(), &count, sizeof count) < 0) die("read: %s", strerror(errno));
    }
    if (phase_ == Phase::loading && verifications_done_ < verifications_wanted_) {
      phase_ = Phase::draining;
    }
    for (std::size_t index = 0; index < device_.queue_count(); ++index) {
      if (polled[index + 2].revents != 0) take(index);
    }
    if (polled[0].revents != 0 && device_.connection().wait_closed(Milliseconds(1))) resume();
    if (in_flight() == 0) last_completion_ = Clock::now();
    if (Clock::now() - last_completion_ > std::chrono::seconds(options_.patience_seconds)) {
      die("disk %zu: nothing completed for %llu s, %u requests are in flight", number_,
          static_cast<unsigned long long>(options_.patience_seconds), in_flight());
    }
  }

  void resume() {
    if (!is_lost_) {
      is_lost_ = true;
      lost_at_ = Clock::now();
      say("lost", number_, in_flight());
      for (std::size_t index = 0; index < device_.queue_count(); ++index) {
        // What the server has completed is not what it has resumed, seen or not.
        used_when_lost_.resize(device_.queue_count());
        used_when_lost_[index] = device_.queue(index).used_index();
      }
    }
    check(device_.reconnect(std::chrono::seconds(options_.patience_seconds)));
    last_completion_ = Clock::now();
  }

  void take(std::size_t index) {
    SplitQueue& queue = device_.queue(index);
    queue.sleep();  // takes the call, which is there
    do {
      const bool is_new = is_lost_ && queue.used_index() != used_when_lost_[index];
      completions_.clear();
      check(queue.take_completions(completions_));
      if (completions_.empty()) continue;
      last_completion_ = Clock::now();
      if (is_new) {
        is_lost_ = false;
        say("resumed", number_,
            static_cast<std::uint64_t>(
                std::chrono::duration_cast<std::chrono::microseconds>(last_completion_ - lost_at_)
                    .count()));
      }
      for (const Completion& completion : completions_) complete(completion);
    } while (queue.arm_call());
  }

  void complete(const Completion& completion) {
    Slot& slot = slots_[completion.tag];
    if (completion.status != VIRTIO_BLK_S_OK) {
      die("disk %zu: FAILED: a request of type %u of %llu sectors at %llu has status %u", number_,
          slot.type, static_cast<unsigned long long>(slot.range.count),
          static_cast<unsigned long long>(slot.range.first), completion.status);
    }
    switch (slot.type) {
      case VIRTIO_BLK_T_IN: {
        const std::string wrong = disk_.read(slot.range, buffer(slot));
        if (!wrong.empty()) die("disk %zu: %s", number_, wrong.c_str());
        poison(slot);
        break;
      }
      case VIRTIO_BLK_T_OUT:
        disk_.wrote(slot.range, slot.version);
        break;
      case VIRTIO_BLK_T_WRITE_ZEROES:
        disk_.zeroed(slot.range);
        break;
      case VIRTIO_BLK_T_DISCARD:
        disk_.discarded(slot.range);
        break;
      default:
        break;
    }
    slot.busy = false;
    slot.ready_at = last_completion_ + Milliseconds(options_.pause_ms);
    ++completed_;
  }

  const Options& options_;
  const std::size_t number_;
  Random random_;
  GuestMemory memory_;
  VhostDevice device_;
  StampedDisk disk_;
  std::vector<Slot> slots_;
  std::vector<Completion> completions_;
  Phase phase_ = Phase::loading;
  std::uint64_t next_sector_ = 0;  // to be verified
  std::uint64_t last_version_ = 0;
  std::uint64_t completed_ = 0;
  Clock::time_point last_completion_;

  bool is_lost_ = false;
  Clock::time_point lost_at_;
  std::vector<std::uint16_t> used_when_lost_;

  Fd wake_;
  std::uint64_t verifications_done_ = 0;
  std::atomic<std::uint64_t> verifications_wanted_ = 0;
  std::atomic<bool> stop_wanted_ = false;
};

Options parse(int argc, char** argv) {
  Options options;
  struct Number {
    std::string_view name;
    std::uint64_t* value;
  };
  const Number numbers[] = {{"--queues", &options.queues},
                            {"--depth", &options.depth},
                            {"--disk-bytes", &options.disk_bytes},
                            {"--request-bytes-max", &options.request_bytes_max},
                            {"--pause-ms", &options.pause_ms},
                            {"--seed", &options.seed},
                            {"--reconnect-ms", &options.reconnect_ms},
                            {"--patience-seconds", &options.patience_seconds}};
  for (int index = 1; index + 1 < argc; index += 2) {
    const std::string_view name = argv[index];
    const char* text = argv[index + 1];
    if (name == "--socket") {
      options.sockets.emplace_back(text);
      continue;
    }
    const auto* number = std::find_if(std::begin(numbers), std::end(numbers),
                                      [name](const Number& each) { return each.name == name; });
    if (number == std::end(numbers)) die("unknown option %s", argv[index]);
    *number->value = std::strtoull(text, nullptr, 10);
  }
  if (options.sockets.empty() || argc % 2 == 0) {
    die("usage: vhost_load --socket PATH [--socket PATH...] [--queues N] [--depth N] "
        "[--disk-bytes N] [--request-bytes-max N] [--pause-ms N] [--seed N] [--reconnect-ms N] "
        "[--patience-seconds N]");
  }
  if (options.request_bytes_max < kSectorBytes || options.request_bytes_max > kRequestBytesMax ||
      options.disk_bytes < 4 * options.request_bytes_max || options.queues == 0 ||
      options.queues > 64 || options.depth == 0 || options.depth > 128) {
    die("--request-bytes-max is 512 to 256K, --disk-bytes at least four times that, --queues up to "
        "64, --depth up to 128");
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  const Options options = parse(argc, argv);
  std::vector<std::unique_ptr<Load>> loads;
  std::vector<std::thread> threads;
  for (std::size_t number = 0; number < options.sockets.size(); ++number) {
    loads.push_back(std::make_unique<Load>(options, number));
  }
  for (const auto& load : loads) threads.emplace_back([&load] { load->run(); });
  std::string line;
  bool stopped = false;
  while (!stopped && std::getline(std::cin, line)) {
    stopped = line == "stop";
    if (!stopped && line != "verify") die("unknown command '%s'", line.c_str());
    for (const auto& load : loads) load->ask_to_verify(stopped);
  }
  if (!stopped) die("standard input ended without `stop`");
  for (std::thread& thread : threads) thread.join();
  return 0;
}
