// SPDX-License-Identifier: Apache-2.0
//
// guest_load: a load for the inside of a guest, and its own judge. Threads write, read and fsync
// random ranges of a disk or a file with O_DIRECT. Each 4 KiB block carries its number, the
// sequence of the write that stored it, and a checksum; a thread is alone in its part of the
// target, so that every read has one right answer.
//
//   guest_load FILE BYTES SEED [THREADS]   runs until SIGTERM, then reads everything back; FILE is
//                                          new or zeros
//   guest_load --check FILE BYTES SEED     after a reset: each block is zeros or whole and in place
//
// Standard output, for the test on the host:
//   load: progress WRITES READS FLUSHES      twice a second
//   load: done WRITES READS FLUSHES BLOCKS LONGEST_MS     all blocks read back are right; the
//   longest
//                                            time that one request took
//   load: checked WRITTEN BLOCKS             --check: so many of the blocks were ever written
//   load: failed ...                         exit status 1
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr std::uint64_t kBlockBytes = 4096;
constexpr std::uint64_t kWords = kBlockBytes / sizeof(std::uint64_t);
constexpr std::uint64_t kRequestBlocksMax = 16;
constexpr std::uint64_t kMagic = 0x64616f6c74736668U;
constexpr std::uint64_t kReadPercent = 30;
constexpr std::uint64_t kFlushPercent = 3;

// What each block holds in its first words; a stream of its own fills the rest.
enum Word { kMagicWord, kSeedWord, kBlockWord, kSequenceWord, kChecksumWord, kFirstPayloadWord };

std::atomic<bool> stopping{false};
std::atomic<std::uint64_t> writes{0};
std::atomic<std::uint64_t> reads{0};
std::atomic<std::uint64_t> flushes{0};
std::atomic<std::int64_t> longest_ms{0};

[[noreturn]] void fail(const char* format, ...) {
  static std::mutex only_the_first;
  only_the_first.lock();
  std::printf("load: failed: ");
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::putchar('\n');
  std::fflush(stdout);
  std::_Exit(1);
}

std::uint64_t mixed(std::uint64_t value) {  // splitmix64's finisher
  value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9U;
  value = (value ^ (value >> 27U)) * 0x94d049bb133111ebU;
  return value ^ (value >> 31U);
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15U;
    return mixed(state_);
  }
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }

 private:
  std::uint64_t state_;
};

std::uint64_t checksum_of(const std::uint64_t* block) {
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < kWords; ++i) {
    if (i != kChecksumWord) sum = (sum ^ block[i]) * 0x100000001b3U;
  }
  return sum;
}

void fill(std::uint64_t* block, std::uint64_t seed, std::uint64_t number, std::uint64_t sequence) {
  block[kMagicWord] = kMagic;
  block[kSeedWord] = seed;
  block[kBlockWord] = number;
  block[kSequenceWord] = sequence;
  Random payload(mixed(seed) ^ mixed(number << 32U) ^ sequence);
  for (std::uint64_t i = kFirstPayloadWord; i < kWords; ++i) block[i] = payload.next();
  block[kChecksumWord] = checksum_of(block);
}

bool is_zero(const std::uint64_t* block) {
  return std::all_of(block, block + kWords, [](std::uint64_t word) { return word == 0; });
}

// A block that says of itself that it is whole and in its place. The sequence, or a failure.
std::uint64_t sequence_of(const std::uint64_t* block, std::uint64_t seed, std::uint64_t number) {
  if (is_zero(block)) return 0;
  if (block[kMagicWord] != kMagic || block[kSeedWord] != seed || block[kBlockWord] != number) {
    fail("block %llu holds bytes of something else (it says: block %llu, seed %llu)",
         static_cast<unsigned long long>(number),
         static_cast<unsigned long long>(block[kBlockWord]),
         static_cast<unsigned long long>(block[kSeedWord]));
  }
  if (block[kChecksumWord] != checksum_of(block)) {
    fail("block %llu is torn (sequence %llu)", static_cast<unsigned long long>(number),
         static_cast<unsigned long long>(block[kSequenceWord]));
  }
  return block[kSequenceWord];
}

struct FreeDeleter {
  void operator()(std::uint64_t* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<std::uint64_t[], FreeDeleter>;

Buffer make_buffer() {
  void* memory = std::aligned_alloc(kBlockBytes, kRequestBlocksMax * kBlockBytes);
  if (memory == nullptr) fail("no memory");
  return Buffer(static_cast<std::uint64_t*>(memory));
}

using Clock = std::chrono::steady_clock;

void note_duration(Clock::time_point began) {
  const std::int64_t took_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - began).count();
  std::int64_t known = longest_ms.load();
  while (took_ms > known && !longest_ms.compare_exchange_weak(known, took_ms)) {
  }
}

void read_blocks(int file, std::uint64_t* buffer, std::uint64_t first, std::uint64_t count) {
  const auto began = Clock::now();
  const std::size_t bytes = count * kBlockBytes;
  const ssize_t got = ::pread(file, buffer, bytes, static_cast<off_t>(first * kBlockBytes));
  note_duration(began);
  if (got < 0) {
    fail("read of block %llu: %s", static_cast<unsigned long long>(first), strerror(errno));
  }
  // A file that was not written to its end yet reads short.
  std::memset(reinterpret_cast<char*>(buffer) + got, 0, bytes - static_cast<std::size_t>(got));
}

void write_blocks(int file, const std::uint64_t* buffer, std::uint64_t first, std::uint64_t count) {
  const auto began = Clock::now();
  const std::size_t bytes = count * kBlockBytes;
  const ssize_t put = ::pwrite(file, buffer, bytes, static_cast<off_t>(first * kBlockBytes));
  note_duration(began);
  if (put != static_cast<ssize_t>(bytes)) {
    fail("write of block %llu: %s", static_cast<unsigned long long>(first),
         put < 0 ? strerror(errno) : "short");
  }
}

// One thread's part of the target.
class Part {
 public:
  Part(int file, std::uint64_t seed, std::uint64_t first, std::uint64_t blocks)
      : file_(file), seed_(seed), first_(first), random_(mixed(seed + first)), sequences_(blocks) {}

  void run() {
    while (!stopping.load(std::memory_order_relaxed)) {
      const std::uint64_t dice = random_.below(100);
      const std::uint64_t at = random_.below(sequences_.size());
      const std::uint64_t count =
          std::min(1 + random_.below(kRequestBlocksMax), sequences_.size() - at);
      if (dice < kFlushPercent) {
        flush();
      } else if (dice < kFlushPercent + kReadPercent) {
        verify(at, count);
      } else {
        write(at, count);
      }
    }
  }

  // Everything, after the load.
  void verify_all() {
    for (std::uint64_t at = 0; at < sequences_.size(); at += kRequestBlocksMax) {
      verify(at, std::min<std::uint64_t>(kRequestBlocksMax, sequences_.size() - at));
    }
  }

 private:
  void flush() {
    const auto began = Clock::now();
    if (::fsync(file_) != 0) fail("fsync: %s", strerror(errno));
    note_duration(began);
    ++flushes;
  }

  void write(std::uint64_t at, std::uint64_t count) {
    ++sequence_;
    for (std::uint64_t i = 0; i < count; ++i) {
      fill(buffer_.get() + i * kWords, seed_, first_ + at + i, sequence_);
    }
    write_blocks(file_, buffer_.get(), first_ + at, count);
    std::fill_n(sequences_.begin() + static_cast<std::ptrdiff_t>(at), count, sequence_);
    ++writes;
  }

  void verify(std::uint64_t at, std::uint64_t count) {
    read_blocks(file_, buffer_.get(), first_ + at, count);
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t number = first_ + at + i;
      const std::uint64_t found = sequence_of(buffer_.get() + i * kWords, seed_, number);
      if (found != sequences_[at + i]) {
        fail("block %llu holds sequence %llu, and %llu was written last",
             static_cast<unsigned long long>(number), static_cast<unsigned long long>(found),
             static_cast<unsigned long long>(sequences_[at + i]));
      }
    }
    ++reads;
  }

  int file_;
  std::uint64_t seed_;
  std::uint64_t first_;
  Random random_;
  std::vector<std::uint64_t> sequences_;  // of the last write of each block; 0: none
  std::uint64_t sequence_ = 0;
  Buffer buffer_ = make_buffer();
};

void say_progress() {
  std::printf("load: progress %llu %llu %llu\n", static_cast<unsigned long long>(writes.load()),
              static_cast<unsigned long long>(reads.load()),
              static_cast<unsigned long long>(flushes.load()));
  std::fflush(stdout);
}

void run_load(int file, std::uint64_t blocks, std::uint64_t seed, std::uint64_t thread_count) {
  std::vector<std::unique_ptr<Part>> parts;
  const std::uint64_t share = blocks / thread_count;
  for (std::uint64_t i = 0; i < thread_count; ++i) {
    parts.push_back(std::make_unique<Part>(file, seed, i * share, share));
  }
  std::vector<std::thread> threads;
  for (auto& part : parts) threads.emplace_back([&part] { part->run(); });
  while (!stopping.load()) {
    say_progress();
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
  for (std::thread& thread : threads) thread.join();
  if (::fsync(file) != 0) fail("fsync: %s", strerror(errno));
  const std::uint64_t loaded_reads = reads.load();
  for (auto& part : parts) part->verify_all();
  std::printf("load: done %llu %llu %llu %llu %lld\n",
              static_cast<unsigned long long>(writes.load()),
              static_cast<unsigned long long>(loaded_reads),
              static_cast<unsigned long long>(flushes.load()),
              static_cast<unsigned long long>(share * thread_count),
              static_cast<long long>(longest_ms.load()));
}

void check(int file, std::uint64_t blocks, std::uint64_t seed) {
  const Buffer buffer = make_buffer();
  std::uint64_t written = 0;
  for (std::uint64_t at = 0; at < blocks; at += kRequestBlocksMax) {
    const std::uint64_t count = std::min(kRequestBlocksMax, blocks - at);
    read_blocks(file, buffer.get(), at, count);
    for (std::uint64_t i = 0; i < count; ++i) {
      if (sequence_of(buffer.get() + i * kWords, seed, at + i) != 0) ++written;
    }
  }
  std::printf("load: checked %llu %llu\n", static_cast<unsigned long long>(written),
              static_cast<unsigned long long>(blocks));
}

std::uint64_t parse_number(const char* text) {
  char* end = nullptr;
  const std::uint64_t value = std::strtoull(text, &end, 10);
  if (end == text || *end != '\0') fail("'%s' is not a number", text);
  return value;
}

void stop(int) {
  stopping.store(true);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<const char*> words(argv + 1, argv + argc);
  const bool check_only = !words.empty() && std::string_view(words[0]) == "--check";
  if (check_only) words.erase(words.begin());
  if (words.size() < 3 || words.size() > 4) {
    std::fprintf(stderr, "guest_load [--check] FILE BYTES SEED [THREADS]\n");
    return 2;
  }
  const int file = ::open(words[0], O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
  if (file < 0) fail("%s: %s", words[0], strerror(errno));
  const std::uint64_t blocks = parse_number(words[1]) / kBlockBytes;
  const std::uint64_t seed = parse_number(words[2]);
  const std::uint64_t threads = words.size() == 4 ? parse_number(words[3]) : 4;
  if (threads == 0 || blocks < threads) fail("%s has too few blocks", words[0]);
  if (check_only) {
    check(file, blocks, seed);
  } else {
    struct sigaction action = {};
    action.sa_handler = stop;
    ::sigaction(SIGTERM, &action, nullptr);
    run_load(file, blocks, seed, threads);
  }
  std::fflush(stdout);
  ::close(file);
  return 0;
}
