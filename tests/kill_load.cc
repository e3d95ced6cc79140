// SPDX-License-Identifier: Apache-2.0
//
// kill_load: writes to an NBD export while its server is killed, over and over, and checks after
// each death that every acknowledged write is there.
//
// Each 512-byte or 4 KiB unit of the disk carries its own number and the version of the write that
// stored it. At most one write covers a unit at a time, so after a death a unit must show the last
// acknowledged version, or the one that was in flight; anything else (an older one, another unit's
// bytes, a torn unit) is a loss. What was seen after a death counts as acknowledged from then on.
//
// Standard output, one line an event, for the test that does the killing:
//   loading ROUND         writes are flowing; kill the server when you like
//   lost ACKED IN_DOUBT   the connection broke
//   verified UNITS LANDED the whole range was read and is right; LANDED in-doubt units are there
//   done ACKED            all rounds are over (exit status 0)
// Anything wrong goes to standard error, and the exit status is 1.
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string socket;
  std::string export_name;
  std::uint64_t unit_bytes = 4096;
  std::uint64_t units = 16384;
  std::uint64_t write_units_max = 8;
  std::uint64_t depth = 32;
  std::uint64_t connections = 2;
  std::uint64_t rounds = 1;
  std::uint64_t seed = 1;
  std::uint64_t zero_percent = 5;
  std::uint64_t flush_percent = 1;
  std::uint64_t fua_percent = 1;
  std::uint64_t reconnect_seconds = 60;
};

[[noreturn]] void die(const char* format, ...) {
  std::fflush(stdout);
  std::fputs("kill_load: ", stderr);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::_Exit(1);
}

void say(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::putchar('\n');
  std::fflush(stdout);
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {  // splitmix64
    state_ += 0x9e3779b97f4a7c15U;
    std::uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30U)) * 0xbf58476d1ce4e5b9U;
    mixed = (mixed ^ (mixed >> 27U)) * 0x94d049bb133111ebU;
    return mixed ^ (mixed >> 31U);
  }
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }
  bool percent(std::uint64_t share) { return below(100) < share; }

 private:
  std::uint64_t state_;
};

// Version 0 and every version with the top bit set mean zeros.
constexpr std::uint64_t kZeroFlag = 1ULL << 63U;
constexpr std::uint64_t kMagic = 0x4c4c494b444c4f48U;

bool is_zero_version(std::uint64_t version) { return version == 0 || (version & kZeroFlag) != 0; }

void fill_unit(std::uint8_t* memory, std::uint64_t unit_bytes, std::uint64_t unit,
               std::uint64_t version) {
  if (is_zero_version(version)) {
    std::memset(memory, 0, unit_bytes);
    return;
  }
  const std::uint64_t header[3] = {kMagic, unit, version};
  std::memcpy(memory, header, sizeof(header));
  Random random(unit * 0x100000001b3U ^ version);
  for (std::uint64_t at = sizeof(header); at < unit_bytes; at += 8) {
    const std::uint64_t word = random.next();
    std::memcpy(memory + at, &word, 8);
  }
}

struct Unit {
  std::uint64_t acknowledged = 0;
  std::uint64_t in_doubt = 0;  // written when the server died, or in flight now; 0: none
};

class Load;

// One command in flight. `buffer` outlives the command: slots are reused only after completion.
struct Slot {
  Load* load = nullptr;
  std::uint64_t first_unit = 0;
  std::uint64_t unit_count = 0;  // 0: a flush
  std::uint64_t version = 0;
  bool busy = false;
  std::vector<std::uint8_t> buffer;
};

struct Connection {
  nbd_handle* handle = nullptr;
  std::vector<std::unique_ptr<Slot>> slots;
};

class Load {
 public:
  explicit Load(const Options& options)
      : options_(options), random_(options.seed), units_(options.units) {}

  int run() {
    for (std::uint64_t round = 0; round <= options_.rounds; ++round) {
      do {
        connect_all();
      } while (!verify());
      if (round == options_.rounds) break;
      say("loading %llu", static_cast<unsigned long long>(round));
      write_until_lost();
      disconnect_all();
    }
    for (auto& connection : connections_) nbd_shutdown(connection.handle, 0);
    disconnect_all();
    say("done %llu", static_cast<unsigned long long>(acknowledged_writes_));
    return 0;
  }

 private:
  void connect_all() {
    disconnect_all();
    const auto deadline = Clock::now() + std::chrono::seconds(options_.reconnect_seconds);
    while (connections_.size() < options_.connections) {
      nbd_handle* handle = nbd_create();
      if (handle == nullptr) die("nbd_create: %s", nbd_get_error());
      nbd_set_export_name(handle, options_.export_name.c_str());
      if (nbd_connect_unix(handle, options_.socket.c_str()) == 0) {
        connections_.push_back({handle, {}});
        continue;
      }
      const std::string error = nbd_get_error();
      nbd_close(handle);
      if (Clock::now() > deadline) die("cannot connect again: %s", error.c_str());
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    nbd_handle* handle = connections_.front().handle;
    const std::int64_t size_bytes = nbd_get_size(handle);
    if (size_bytes < 0 ||
        static_cast<std::uint64_t>(size_bytes) < options_.units * options_.unit_bytes) {
      die("the export has %lld bytes, too few for the load", static_cast<long long>(size_bytes));
    }
    can_zero_ = nbd_can_zero(handle) == 1;
    can_flush_ = nbd_can_flush(handle) == 1;
    can_fua_ = nbd_can_fua(handle) == 1;
    if (options_.connections > 1 && nbd_can_multi_conn(handle) != 1) {
      die("the export does not offer multi-conn; use --connections 1");
    }
  }

  void disconnect_all() {
    for (auto& connection : connections_) nbd_close(connection.handle);
    connections_.clear();
  }

  // False when the server died meanwhile: connect and verify again.
  bool verify() {
    const std::uint64_t chunk_units = std::max<std::uint64_t>(1, kMiB / options_.unit_bytes);
    std::vector<std::uint8_t> memory(chunk_units * options_.unit_bytes);
    std::vector<std::uint8_t> expected(options_.unit_bytes);
    std::vector<Unit> seen = units_;  // kept only when the whole range was read
    std::uint64_t landed = 0;
    nbd_handle* handle = connections_.front().handle;
    for (std::uint64_t first = 0; first < options_.units; first += chunk_units) {
      const std::uint64_t count = std::min(chunk_units, options_.units - first);
      if (nbd_pread(handle, memory.data(), count * options_.unit_bytes,
                    first * options_.unit_bytes, 0) != 0) {
        if (nbd_aio_is_dead(handle) == 1 || nbd_aio_is_closed(handle) == 1) return false;
        die("reading %llu units at %llu failed: %s", static_cast<unsigned long long>(count),
            static_cast<unsigned long long>(first), nbd_get_error());
      }
      for (std::uint64_t index = 0; index < count; ++index) {
        const std::uint64_t number = first + index;
        Unit& unit = seen[number];
        const std::uint8_t* actual = memory.data() + index * options_.unit_bytes;
        if (unit.in_doubt != 0 && matches(actual, expected, number, unit.in_doubt)) {
          unit.acknowledged = unit.in_doubt;
          ++landed;
        } else if (!matches(actual, expected, number, unit.acknowledged)) {
          die_of_loss(number, unit, actual);
        }
        unit.in_doubt = 0;
      }
    }
    units_ = std::move(seen);
    say("verified %llu %llu", static_cast<unsigned long long>(options_.units),
        static_cast<unsigned long long>(landed));
    return true;
  }

  bool matches(const std::uint8_t* actual, std::vector<std::uint8_t>& expected, std::uint64_t unit,
               std::uint64_t version) const {
    fill_unit(expected.data(), options_.unit_bytes, unit, version);
    return std::memcmp(actual, expected.data(), options_.unit_bytes) == 0;
  }

  [[noreturn]] void die_of_loss(std::uint64_t number, const Unit& unit,
                                const std::uint8_t* actual) const {
    std::uint64_t header[3];
    std::memcpy(header, actual, sizeof(header));
    die("LOST WRITE: unit %llu (%llu bytes at %llu) must have version %llx or %llx, has magic %llx "
        "unit %llu version %llx",
        static_cast<unsigned long long>(number),
        static_cast<unsigned long long>(options_.unit_bytes),
        static_cast<unsigned long long>(number * options_.unit_bytes),
        static_cast<unsigned long long>(unit.acknowledged),
        static_cast<unsigned long long>(unit.in_doubt), static_cast<unsigned long long>(header[0]),
        static_cast<unsigned long long>(header[1]), static_cast<unsigned long long>(header[2]));
  }

  void write_until_lost() {
    lost_ = false;
    const std::uint64_t acknowledged_before = acknowledged_writes_;
    for (auto& connection : connections_) {
      for (std::uint64_t index = 0; index < options_.depth; ++index) {
        connection.slots.push_back(std::make_unique<Slot>());
        connection.slots.back()->load = this;
      }
    }
    while (!lost_) {
      for (auto& connection : connections_) fill_pipeline(connection);
      if (!lost_) wait_for_events();
    }
    // Closing the handles ends every command that is still in flight as lost, so count first.
    std::uint64_t in_doubt = 0;
    for (const Unit& unit : units_) in_doubt += unit.in_doubt != 0 ? 1 : 0;
    say("lost %llu %llu",
        static_cast<unsigned long long>(acknowledged_writes_ - acknowledged_before),
        static_cast<unsigned long long>(in_doubt));
  }

  void fill_pipeline(Connection& connection) {
    for (auto& slot : connection.slots) {
      if (lost_) return;
      if (!slot->busy) submit(connection.handle, *slot);
    }
  }

  void submit(nbd_handle* handle, Slot& slot) {
    nbd_completion_callback callback = {};
    callback.callback = &Load::on_complete;
    callback.user_data = &slot;
    if (can_flush_ && random_.percent(options_.flush_percent)) {
      slot.unit_count = 0;
      slot.busy = true;
      started(handle, slot, nbd_aio_flush(handle, callback, 0));
      return;
    }
    if (!choose_range(slot)) return;
    const bool zero = can_zero_ && random_.percent(options_.zero_percent);
    const bool fua = can_fua_ && random_.percent(options_.fua_percent);
    const std::uint32_t flags = fua ? LIBNBD_CMD_FLAG_FUA : 0;
    slot.version = ++last_version_ | (zero ? kZeroFlag : 0);
    const std::uint64_t offset = slot.first_unit * options_.unit_bytes;
    const std::uint64_t length = slot.unit_count * options_.unit_bytes;
    slot.buffer.resize(length);
    for (std::uint64_t index = 0; index < slot.unit_count; ++index) {
      const std::uint64_t number = slot.first_unit + index;
      units_[number].in_doubt = slot.version;
      if (!zero) {
        fill_unit(slot.buffer.data() + index * options_.unit_bytes, options_.unit_bytes, number,
                  slot.version);
      }
    }
    slot.busy = true;
    started(handle, slot,
            zero ? nbd_aio_zero(handle, length, offset, callback, flags)
                 : nbd_aio_pwrite(handle, slot.buffer.data(), length, offset, callback, flags));
  }

  void started(nbd_handle* handle, Slot& slot, std::int64_t cookie) {
    if (cookie != -1) return;
    if (nbd_aio_is_dead(handle) != 1 && nbd_aio_is_closed(handle) != 1) {
      die("cannot submit: %s", nbd_get_error());
    }
    slot.busy = false;  // in_doubt stays: the bytes may have left before the connection broke
    lost_ = true;
  }

  bool choose_range(Slot& slot) {
    slot.unit_count = 1 + random_.below(options_.write_units_max);
    slot.first_unit = random_.below(options_.units - slot.unit_count + 1);
    for (std::uint64_t index = 0; index < slot.unit_count; ++index) {
      if (units_[slot.first_unit + index].in_doubt != 0) return false;  // try again next time
    }
    return true;
  }

  void wait_for_events() {
    std::vector<pollfd> polled;
    for (const auto& connection : connections_) {
      const unsigned direction = nbd_aio_get_direction(connection.handle);
      pollfd entry = {nbd_aio_get_fd(connection.handle), 0, 0};
      if (entry.fd < 0) {
        lost_ = true;
        return;
      }
      if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) entry.events |= POLLIN;
      if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) entry.events |= POLLOUT;
      polled.push_back(entry);
    }
    const int ready = poll(polled.data(), polled.size(), 60'000);
    if (ready == 0) die("nothing completed for 60 s");
    if (ready < 0 && errno != EINTR) die("poll: %s", std::strerror(errno));
    for (std::size_t index = 0; index < polled.size(); ++index) {
      nbd_handle* handle = connections_[index].handle;
      const int events = polled[index].revents;
      if ((events & (POLLIN | POLLHUP | POLLERR)) != 0 &&
          (nbd_aio_get_direction(handle) & LIBNBD_AIO_DIRECTION_READ) != 0) {
        nbd_aio_notify_read(handle);
      } else if ((events & (POLLOUT | POLLHUP | POLLERR)) != 0 &&
                 (nbd_aio_get_direction(handle) & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
        nbd_aio_notify_write(handle);
      }
      if (nbd_aio_is_dead(handle) == 1 || nbd_aio_is_closed(handle) == 1) lost_ = true;
    }
  }

  static int on_complete(void* user_data, int* error) {
    Slot& slot = *static_cast<Slot*>(user_data);
    slot.load->complete(slot, *error);
    return 1;  // retire the command
  }

  void complete(Slot& slot, int error) {
    slot.busy = false;
    if (error != 0) {
      // The library fails what was in flight with ENOTCONN when the connection breaks; any other
      // error was answered by the server.
      if (error != ENOTCONN && error != ESHUTDOWN) {
        die("the server answered a %s of %llu units at %llu with %s",
            slot.unit_count == 0 ? "flush" : "write",
            static_cast<unsigned long long>(slot.unit_count),
            static_cast<unsigned long long>(slot.first_unit), std::strerror(error));
      }
      lost_ = true;
      return;
    }
    for (std::uint64_t index = 0; index < slot.unit_count; ++index) {
      Unit& unit = units_[slot.first_unit + index];
      unit.acknowledged = slot.version;
      unit.in_doubt = 0;
    }
    if (slot.unit_count != 0) ++acknowledged_writes_;
  }

  static constexpr std::uint64_t kMiB = 1024 * 1024;

  Options options_;
  Random random_;
  std::vector<Unit> units_;
  std::vector<Connection> connections_;
  std::uint64_t last_version_ = 0;
  std::uint64_t acknowledged_writes_ = 0;
  bool lost_ = false;
  bool can_zero_ = false;
  bool can_flush_ = false;
  bool can_fua_ = false;
};

Options parse(int argc, char** argv) {
  Options options;
  struct Number {
    std::string_view name;
    std::uint64_t* value;
  };
  const Number numbers[] = {{"--unit-bytes", &options.unit_bytes},
                            {"--units", &options.units},
                            {"--write-units-max", &options.write_units_max},
                            {"--depth", &options.depth},
                            {"--connections", &options.connections},
                            {"--rounds", &options.rounds},
                            {"--seed", &options.seed},
                            {"--zero-percent", &options.zero_percent},
                            {"--flush-percent", &options.flush_percent},
                            {"--fua-percent", &options.fua_percent},
                            {"--reconnect-seconds", &options.reconnect_seconds}};
  for (int index = 1; index + 1 < argc; index += 2) {
    const std::string_view name = argv[index];
    const char* text = argv[index + 1];
    if (name == "--socket") {
      options.socket = text;
    } else if (name == "--export") {
      options.export_name = text;
    } else {
      const auto* number = std::find_if(std::begin(numbers), std::end(numbers),
                                        [name](const Number& each) { return each.name == name; });
      if (number == std::end(numbers)) die("unknown option %s", argv[index]);
      *number->value = std::strtoull(text, nullptr, 10);
    }
  }
  if (options.socket.empty() || argc % 2 == 0) {
    die("usage: kill_load --socket PATH --export NAME [--rounds N] [--seed N] ...");
  }
  if (options.unit_bytes < 512 || options.unit_bytes % 8 != 0 ||
      options.units < options.write_units_max || options.write_units_max == 0) {
    die("unit-bytes must be 512 or more, and units at least write-units-max");
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  Load load(parse(argc, argv));
  return load.run();
}
