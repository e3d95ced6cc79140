// SPDX-License-Identifier: Apache-2.0
//
// vhost_bench: load on a vhost-user-blk socket and its figures as JSON, as fio gives them for NBD.
// One thread a queue keeps `depth` requests in flight. It takes completions from shared memory
// and sleeps on the call eventfd when there are none, as a guest's driver with interrupts does:
// the server shares the machine with it, so it must cost little.
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "vhost/device.h"

namespace {

using holdfast::Result;
using namespace holdfast::vhost_frontend;  // NOLINT(google-build-using-namespace)
using Clock = std::chrono::steady_clock;

constexpr const char* kUsage =
    "usage: vhost_bench --socket PATH [--op randread|randwrite|read|write|write+flush|fill]\n"
    "         [--queues N] [--depth N] [--block-bytes N] [--seconds S] [--size-bytes N]\n"
    "         [--poll-us N] [--queue-size N] [--zipf THETA] [--seed N]\n"
    "--seed: of the order of blocks; one seed is always the same order.\n"
    "--zipf: some blocks are more popular than others, the one of rank r as r to the power "
    "-THETA;\n"
    "they are spread over the disk (random operations).\n"
    "write+flush: each write is followed by a flush, the pair counts once. fill: the whole disk\n"
    "once, and a flush.\n";

struct Options {
  std::string socket;
  std::string op = "randread";
  std::uint64_t queues = 1;
  std::uint64_t depth = 1;  // of each queue
  std::uint64_t block_bytes = 4096;
  double seconds = 4;
  std::uint64_t size_bytes = 0;  // 0: the whole disk
  std::uint64_t poll_us = 0;
  std::uint64_t queue_size = 0;  // 0: 128 as QEMU has it, or as many as the depth needs
  std::uint64_t seed = 0;
  double zipf_theta = 0;  // 0: all blocks are alike

  bool is_read() const { return op == "randread" || op == "read"; }
  bool is_random() const { return op != "read" && op != "write" && op != "fill"; }
};

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "vhost_bench: %s\n", what.c_str());
  std::_Exit(1);
}

void check(Result<void> result) {
  if (!result.ok()) die(result.error().message());
}

// Nanoseconds in buckets of 1/64 of their power of two.
class Histogram {
 public:
  void add(std::uint64_t value) {
    ++counts_[bucket_of(value)];
    ++count_;
    sum_ += value;
    max_ = std::max(max_, value);
  }
  void merge(const Histogram& other) {
    for (std::size_t index = 0; index < counts_.size(); ++index) {
      counts_[index] += other.counts_[index];
    }
    count_ += other.count_;
    sum_ += other.sum_;
    max_ = std::max(max_, other.max_);
  }
  double mean_us() const {
    return count_ == 0 ? 0 : static_cast<double>(sum_) / static_cast<double>(count_) / 1000;
  }
  double max_us() const { return static_cast<double>(max_) / 1000; }
  double percentile_us(double share) const {
    const auto wanted = static_cast<std::uint64_t>(share * static_cast<double>(count_));
    std::uint64_t seen = 0;
    for (std::size_t index = 0; index < counts_.size(); ++index) {
      seen += counts_[index];
      if (seen > wanted) return static_cast<double>(std::min(upper_end(index), max_)) / 1000;
    }
    return max_us();
  }

 private:
  static constexpr std::uint64_t kSteps = 64;

  static std::size_t bucket_of(std::uint64_t value) {
    if (value < kSteps) return value;
    const auto shift = static_cast<std::size_t>(std::bit_width(value)) - 7;
    return (shift + 1) * kSteps + ((value >> shift) - kSteps);
  }
  static std::uint64_t upper_end(std::size_t bucket) {
    if (bucket < kSteps) return bucket;
    return (bucket % kSteps + kSteps + 1) << (bucket / kSteps - 1);
  }

  std::array<std::uint64_t, 60 * kSteps> counts_ = {};
  std::uint64_t count_ = 0;
  std::uint64_t sum_ = 0;
  std::uint64_t max_ = 0;
};

// Ranks from 0 with probabilities proportional to (rank + 1)^-theta, without a table: Hörmann and
// Derflinger, "Rejection-inversion to generate variates from monotone discrete distributions"
// (1996).
class Zipf {
 public:
  Zipf(std::uint64_t count, double theta)
      : theta_(theta), low_(integral(0.5)), high_(integral(static_cast<double>(count) + 0.5)) {}

  // `random()` gives numbers from [0, 1).
  template <typename Random>
  std::uint64_t operator()(Random random) const {
    for (;;) {
      const double x = inverse(low_ + random() * (high_ - low_));
      const double rank = std::floor(x + 0.5);
      // The rank's own share of the strip under the curve that x came from.
      const double strip = integral(rank + 0.5) - integral(rank - 0.5);
      if (random() * strip <= std::pow(rank, -theta_)) return static_cast<std::uint64_t>(rank) - 1;
    }
  }

 private:
  double integral(double x) const {
    return theta_ == 1 ? std::log(x) : std::pow(x, 1 - theta_) / (1 - theta_);
  }
  double inverse(double y) const {
    return theta_ == 1 ? std::exp(y) : std::pow(y * (1 - theta_), 1 / (1 - theta_));
  }

  double theta_;
  double low_;
  double high_;
};

// One queue's load. Slots are the requests in flight; the tag is the slot's number.
class Worker {
 public:
  Worker(const Options& options, VhostDevice& device, std::size_t number)
      : options_(options),
        queue_(device.queue(number)),
        type_(options.is_read() ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT),
        blocks_(options.size_bytes / options.block_bytes),
        random_((options.seed * options.queues + number) * 0x9e3779b97f4a7c15U + 1),
        zipf_(blocks_, options.zipf_theta),
        slots_(options.depth) {
    const std::uint64_t share = blocks_ / options.queues;
    next_block_ = share * number;
    last_block_ = number + 1 == options.queues ? blocks_ : next_block_ + share;
    first_block_ = next_block_;
    for (Slot& slot : slots_) {
      slot.buffer = {device.memory().allocate(options.block_bytes, 4096),
                     static_cast<std::uint32_t>(options.block_bytes)};
      auto* words = reinterpret_cast<std::uint64_t*>(
          device.memory().at(slot.buffer.guest_address, options.block_bytes));
      for (std::uint64_t index = 0; index < options.block_bytes / 8; ++index) words[index] = next();
    }
  }

  void run(Clock::time_point end) {
    end_ = end;
    now_ = Clock::now();
    for (std::size_t index = 0; index < slots_.size(); ++index) begin(index);
    queue_.publish();
    while (queue_.in_flight() > 0) {
      wait();
      completions_.clear();
      check(queue_.take_completions(completions_));
      if (completions_.empty()) continue;
      now_ = Clock::now();
      for (const Completion& completion : completions_) complete(completion);
      queue_.publish();
    }
  }

  const Histogram& latencies() const { return latencies_; }
  std::uint64_t ios() const { return ios_; }
  std::uint64_t errors() const { return errors_; }

 private:
  struct Slot {
    Segment buffer;
    Clock::time_point began;
    bool flushing = false;
  };

  std::uint64_t next() {  // xorshift64*
    random_ ^= random_ >> 12U;
    random_ ^= random_ << 25U;
    random_ ^= random_ >> 27U;
    return random_ * 0x2545f4914f6cdd1dU;
  }

  void wait() {
    if (queue_.has_completions()) return;
    if (options_.poll_us != 0) {
      const auto until = Clock::now() + std::chrono::microseconds(options_.poll_us);
      while (Clock::now() < until) {
        if (queue_.has_completions()) return;
        __builtin_ia32_pause();
      }
    }
    if (!queue_.arm_call()) queue_.sleep();
  }

  void begin(std::size_t index) {
    if (options_.op == "fill" ? next_block_ == last_block_ : now_ >= end_) return;
    std::uint64_t block = 0;
    if (options_.is_random() && options_.zipf_theta != 0) {
      const std::uint64_t rank =
          zipf_([this] { return static_cast<double>(next() >> 11U) * 0x1p-53; });
      // A prime, so that every rank has a block of its own.
      constexpr std::uint64_t kSpread = 2654435761;
      block = static_cast<std::uint64_t>(static_cast<unsigned __int128>(rank) * kSpread % blocks_);
    } else if (options_.is_random()) {
      // Multiplication instead of a remainder: no division a request.
      block = static_cast<std::uint64_t>((static_cast<unsigned __int128>(next()) * blocks_) >> 64U);
    } else {
      if (next_block_ == last_block_) next_block_ = first_block_;
      block = next_block_++;
    }
    Slot& slot = slots_[index];
    slot.began = now_;
    check(queue_.submit({.type = type_,
                         .sector = block * (options_.block_bytes / 512),
                         .data = {&slot.buffer, 1},
                         .tag = index}));
  }

  void complete(const Completion& completion) {
    Slot& slot = slots_[completion.tag];
    if (completion.status != VIRTIO_BLK_S_OK) ++errors_;
    if (options_.op == "write+flush" && !slot.flushing) {
      slot.flushing = true;
      check(queue_.submit(
          {.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = completion.tag}));
      return;
    }
    slot.flushing = false;
    ++ios_;
    latencies_.add(static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(now_ - slot.began).count()));
    begin(completion.tag);
  }

  const Options& options_;
  SplitQueue& queue_;
  std::uint32_t type_;
  std::uint64_t blocks_;
  std::uint64_t first_block_ = 0;
  std::uint64_t next_block_ = 0;
  std::uint64_t last_block_ = 0;
  std::uint64_t random_;
  Zipf zipf_;
  std::vector<Slot> slots_;
  std::vector<Completion> completions_;
  Clock::time_point now_;
  Clock::time_point end_;
  Histogram latencies_;
  std::uint64_t ios_ = 0;
  std::uint64_t errors_ = 0;
};

Options parse(int argc, char** argv) {
  Options options;
  struct Number {
    std::string_view name;
    std::uint64_t* value;
  };
  const Number numbers[] = {{"--queues", &options.queues},
                            {"--depth", &options.depth},
                            {"--block-bytes", &options.block_bytes},
                            {"--size-bytes", &options.size_bytes},
                            {"--poll-us", &options.poll_us},
                            {"--queue-size", &options.queue_size},
                            {"--seed", &options.seed}};
  for (int index = 1; index + 1 < argc; index += 2) {
    const std::string_view name = argv[index];
    const char* text = argv[index + 1];
    const auto* number = std::find_if(std::begin(numbers), std::end(numbers),
                                      [name](const Number& each) { return each.name == name; });
    if (number != std::end(numbers)) {
      *number->value = std::strtoull(text, nullptr, 10);
    } else if (name == "--socket") {
      options.socket = text;
    } else if (name == "--op") {
      options.op = text;
    } else if (name == "--zipf") {
      options.zipf_theta = std::strtod(text, nullptr);
    } else if (name == "--seconds") {
      options.seconds = std::strtod(text, nullptr);
    } else {
      die("unknown option " + std::string(name) + "\n" + kUsage);
    }
  }
  constexpr std::string_view kOps[] = {"randread", "randwrite",   "read",
                                       "write",    "write+flush", "fill"};
  if (options.socket.empty() || argc % 2 == 0 ||
      std::find(std::begin(kOps), std::end(kOps), options.op) == std::end(kOps) ||
      options.queues == 0 || options.queues > 64 || options.depth == 0 || options.depth > 1024 ||
      options.block_bytes % 512 != 0 || options.block_bytes == 0) {
    die(kUsage);
  }
  if (options.queue_size == 0) {
    options.queue_size = std::max<std::uint64_t>(128, std::bit_ceil(options.depth));
  }
  return options;
}

// The server's death would leave the workers asleep for ever.
void watch(VhostDevice& device, const std::atomic<std::size_t>& running, Clock::time_point end) {
  while (running.load() != 0) {
    if (device.connection().wait_closed(std::chrono::milliseconds(20))) {
      die("the server closed the connection");
    }
    if (Clock::now() > end + std::chrono::seconds(600)) die("requests hang");
  }
}

void print(const Options& options, VhostDevice& device, const std::vector<Worker>& workers,
           double seconds) {
  Histogram latencies;
  std::uint64_t ios = 0;
  std::uint64_t errors = 0;
  std::uint64_t kicks = 0;
  std::uint64_t calls = 0;
  for (const Worker& worker : workers) {
    latencies.merge(worker.latencies());
    ios += worker.ios();
    errors += worker.errors();
  }
  for (std::size_t index = 0; index < device.queue_count(); ++index) {
    kicks += device.queue(index).kicks();
    calls += device.queue(index).calls();
  }
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto as_seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  const double per_second = static_cast<double>(ios) / seconds;
  std::printf("{\"op\": \"%s\", \"queues\": %llu, \"depth\": %llu, \"block_bytes\": %llu,\n",
              options.op.c_str(), static_cast<unsigned long long>(options.queues),
              static_cast<unsigned long long>(options.depth),
              static_cast<unsigned long long>(options.block_bytes));
  std::printf(" \"seconds\": %.3f, \"ios\": %llu, \"errors\": %llu, \"iops\": %.1f,\n", seconds,
              static_cast<unsigned long long>(ios), static_cast<unsigned long long>(errors),
              per_second);
  std::printf(" \"mib_per_second\": %.2f,\n",
              per_second * static_cast<double>(options.block_bytes) / (1024 * 1024));
  std::printf(
      " \"latency_us\": {\"mean\": %.2f, \"p50\": %.2f, \"p99\": %.2f, \"p99_9\": %.2f,"
      " \"max\": %.2f},\n",
      latencies.mean_us(), latencies.percentile_us(0.5), latencies.percentile_us(0.99),
      latencies.percentile_us(0.999), latencies.max_us());
  std::printf(" \"kicks\": %llu, \"calls\": %llu, \"own_cpu_seconds\": %.3f}\n",
              static_cast<unsigned long long>(kicks), static_cast<unsigned long long>(calls),
              as_seconds(usage.ru_utime) + as_seconds(usage.ru_stime));
}

// A fill is not done before it is durable.
void flush(SplitQueue& queue) {
  std::vector<Completion> completions;
  check(queue.submit({.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = 0}));
  queue.publish();
  while (completions.empty()) {
    if (!queue.arm_call()) queue.sleep();
    check(queue.take_completions(completions));
  }
  if (completions.front().status != VIRTIO_BLK_S_OK) die("the flush failed");
}

int run(Options options) {
  const std::uint64_t buffer_bytes = options.queues * options.depth * options.block_bytes;
  const std::uint64_t ring_bytes = options.queues * options.queue_size * 256;
  const std::uint64_t region_bytes =
      ((buffer_bytes + ring_bytes) / 2 + options.block_bytes + 4 * 1024 * 1024) / 4096 * 4096;
  const std::array<std::uint64_t, 2> regions = {region_bytes, region_bytes};
  Result<GuestMemory> memory = GuestMemory::create(regions);
  if (!memory.ok()) die(memory.error().message());

  DeviceOptions device_options;
  device_options.socket = options.socket;
  device_options.queue_count = static_cast<std::uint16_t>(options.queues);
  device_options.queue.size = static_cast<std::uint16_t>(options.queue_size);
  device_options.queue.segments_max = 1;
  device_options.queue.blocking_call = true;
  VhostDevice device(*memory, device_options);
  check(device.connect());
  check(device.start());
  if (options.size_bytes == 0) options.size_bytes = device.capacity_bytes();
  if (options.size_bytes > device.capacity_bytes() ||
      options.size_bytes / options.block_bytes < options.queues) {
    die("--size-bytes does not fit the disk of " + std::to_string(device.capacity_bytes()) +
        " bytes");
  }
  if (!device.queue(0).has_room(static_cast<std::uint32_t>(options.depth * 3))) {
    die("without indirect descriptors this depth needs a larger --queue-size");
  }

  std::vector<Worker> workers;
  workers.reserve(options.queues);
  for (std::size_t number = 0; number < options.queues; ++number) {
    workers.emplace_back(options, device, number);
  }
  std::atomic<std::size_t> running = workers.size();
  const auto began = Clock::now();
  const auto end = began + std::chrono::duration_cast<Clock::duration>(
                               std::chrono::duration<double>(options.seconds));
  std::vector<std::thread> threads;
  for (Worker& worker : workers) {
    threads.emplace_back([&worker, &running, end] {
      worker.run(end);
      --running;
    });
  }
  watch(device, running, end);
  for (std::thread& thread : threads) thread.join();
  if (options.op == "fill") flush(device.queue(0));
  const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
  print(options, device, workers, seconds);
  check(device.stop());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  return run(parse(argc, argv));
}
