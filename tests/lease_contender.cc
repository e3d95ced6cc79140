// SPDX-License-Identifier: Apache-2.0
//
// lease_contender: one host of a shared pool, without a daemon and without volumes: the keeper of
// leases (src/lease/), steered by tests/test_sanlock.py.
//
//   lease_contender make DIRECTORY IO_TIMEOUT WATCHDOG VOLUMES
//       a shared pool with so many volumes; prints its id, then theirs, one on a line
//   lease_contender run DIRECTORY HOST_NAME
//       joins, prints "joined HOST_ID GENERATION", then does what its standard input says, one
//       command on a line, and answers each with one line; leaves the pool at the end of the input
//         acquire VOLUME               "held LVER" or "refused CLAIM HOST_NAME STATE" or "error
//         ..." wait VOLUME                  tries again until it is "held LVER"; meanwhile "waits
//         for
//                                      HOST_NAME STATE" whenever that changes
//         release VOLUME               "released"
//         count VOLUME FILE ROUNDS     adds 1 to the number in a file, so often, each time under
//                                      the lease: "counted ROUNDS refused TIMES"
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "base/limits.h"
#include "io/disk.h"
#include "io/loop.h"
#include "io/run_task.h"
#include "lease/lease_keeper.h"
#include "pool/open_pool.h"

using namespace holdfast;  // NOLINT: a program of one file

namespace {

[[noreturn]] void fail(const std::string& why) {
  std::fprintf(stderr, "lease_contender: %s\n", why.c_str());
  std::exit(1);
}

template <typename T>
T checked(Result<T> result) {
  if (!result.ok()) fail(result.error().message());
  return std::move(result).value();
}

void say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

std::string claim_text(LeaseClaim claim) {
  switch (claim) {
    case LeaseClaim::free:
      return "free";
    case LeaseClaim::own:
      return "own";
    case LeaseClaim::host_gone:
      return "host-gone";
    case LeaseClaim::host_dead:
      return "host-dead";
    case LeaseClaim::handed_over:
      return "handed-over";
    case LeaseClaim::held:
      return "held";
  }
  return "?";
}

std::uint64_t read_number(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  if (!(file >> number)) fail("there is no number in " + path);
  return number;
}

void write_number(const std::string& path, std::uint64_t number) {
  std::ofstream file(path);
  file << number << "\n";
  if (!file.flush()) fail("cannot write " + path);
}

class Contender {
 public:
  explicit Contender(std::string host_name)
      : loop_(checked(Loop::create())), disk_(*loop_), host_name_(std::move(host_name)) {}

  template <typename T>
  T run(Task<T> task) {
    return run_task<T>(
        [this](const std::function<bool()>& done) {
          while (!done()) loop_->run_until(done, 1h);
        },
        std::move(task));
  }

  void make(const std::string& directory, PoolCreateOptions options, unsigned volumes) {
    pool_ = checked(run(create_pool(context(), "dir:" + directory, options)));
    say(pool_->info().id.to_string());
    for (unsigned number = 1; number <= volumes; ++number) {
      VolumeRecord record;
      record.id =
          Uuid::parse("0000000" + std::to_string(number) + "-7654-4210-8123-456789abcdef").value();
      record.name = "volume-" + std::to_string(number);
      // Nobody ever reads this root.
      checked_void(run(pool_->create_volume(record, RootId{record.id, Epoch{1}, 0},
                                            std::vector<std::byte>(kBlockBytes))));
      say(record.id.to_string());
    }
  }

  void join(const std::string& directory) {
    pool_ = checked(run(open_pool(context(), "dir:" + directory)));
    LeaseOptions options;
    options.host_name = host_name_;
    keeper_.emplace(*loop_, *pool_, options);
    const HostIdentity self = checked(run(keeper_->join()));
    say("joined " + std::to_string(self.host_id) + " " + std::to_string(self.generation));
  }

  void leave() {
    run(left());
    keeper_.reset();
  }

  // Renewal goes on while nobody says anything. None: the end of the input.
  std::optional<std::string> next_line() {
    std::string line;
    for (;;) {
      pollfd input{STDIN_FILENO, POLLIN, 0};
      if (::poll(&input, 1, 0) == 0) {
        loop_->run_turn(2ms);
        continue;
      }
      char byte = 0;
      if (::read(STDIN_FILENO, &byte, 1) != 1) return std::nullopt;
      if (byte == '\n') return line;
      line += byte;
    }
  }

  void obey(const std::string& line) {
    std::istringstream words(line);
    std::string command, volume, path;
    std::uint64_t rounds = 0;
    words >> command >> volume;
    const auto id = Uuid::parse(volume);
    if (!id.has_value()) fail("no volume in: " + line);
    if (command == "acquire") {
      say(run(acquire(*id)));
    } else if (command == "wait") {
      say(run(wait(*id)));
    } else if (command == "release") {
      checked_void(run(release(*id)));
      say("released");
    } else if (command == "count" && words >> path >> rounds) {
      say(run(count(*id, path, rounds)));
    } else {
      fail("no such command: " + line);
    }
  }

 private:
  PoolContext context() { return {*loop_, disk_, "lease_contender", host_name_}; }

  static void checked_void(Result<void> result) {
    if (!result.ok()) fail(result.error().message());
  }

  Task<bool> left() {
    co_await keeper_->leave(true);
    co_return true;
  }

  Task<Result<AcquireAnswer>> take(VolumeId volume) {
    LeaseKeeper::AcquireOptions options;
    auto answer = co_await keeper_->acquire(volume, options);
    if (answer.ok() && answer->fence != nullptr) fence_ = answer->fence;
    co_return answer;
  }

  Task<std::string> acquire(VolumeId volume) {
    const auto answer = co_await take(volume);
    if (!answer.ok()) co_return "error " + answer.error().message();
    if (answer->fence != nullptr) {
      co_return "held " + std::to_string(answer->fence->epoch().value);
    }
    const LeaseHolder& holder = answer->holder;
    co_return "refused " + claim_text(holder.claim) + " " + holder.host_name + " " +
        std::string(host_liveness_text(holder.state));
  }

  Task<std::string> wait(VolumeId volume) {
    std::string waits;
    for (;;) {
      const auto answer = co_await take(volume);
      if (!answer.ok()) co_return "error " + answer.error().message();
      if (answer->fence != nullptr) {
        co_return "held " + std::to_string(answer->fence->epoch().value);
      }
      const LeaseHolder& holder = answer->holder;
      const std::string now =
          "waits for " + holder.host_name + " " + std::string(host_liveness_text(holder.state));
      if (now != waits) say(now);
      waits = now;
      co_await sleep_for(*loop_, 50ms);
    }
  }

  Task<Result<void>> release(VolumeId volume) {
    fence_ = nullptr;
    return keeper_->release(volume);
  }

  Duration random_time(std::uint64_t milliseconds_max) {
    return std::chrono::milliseconds(loop_->random() % (milliseconds_max + 1));
  }

  Task<std::string> count(VolumeId volume, std::string path, std::uint64_t rounds) {
    std::uint64_t done = 0;
    std::uint64_t refused = 0;
    while (done < rounds) {
      const auto answer = co_await take(volume);
      if (!answer.ok() && answer.error().code() != ErrorCode::busy) {
        co_return "error " + answer.error().message();
      }
      if (!answer.ok() || answer->fence == nullptr) {
        ++refused;
        co_await sleep_for(*loop_, random_time(20));
        continue;
      }
      // Time for others to do the same, should they believe it to be theirs.
      const std::uint64_t number = read_number(path);
      co_await sleep_for(*loop_, random_time(3));
      const bool holds = fence_->holds(loop_->boot_time());
      if (holds) {
        write_number(path, number + 1);
        ++done;
      }
      const auto released = co_await release(volume);
      if (!released.ok()) co_return "error " + released.error().message();
      co_await sleep_for(*loop_, random_time(20));
    }
    co_return "counted " + std::to_string(done) + " refused " + std::to_string(refused);
  }

  std::unique_ptr<Loop> loop_;
  Disk disk_;
  const std::string host_name_;
  std::unique_ptr<Pool> pool_;
  std::shared_ptr<const Fence> fence_;
  std::optional<LeaseKeeper> keeper_;
};

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  const std::string command = words.empty() ? "" : words[0];
  if (command == "make" && words.size() == 5) {
    PoolCreateOptions options;
    options.shared = true;
    options.io_timeout_seconds = static_cast<std::uint16_t>(std::stoul(words[2]));
    options.watchdog_seconds = static_cast<std::uint16_t>(std::stoul(words[3]));
    Contender("").make(words[1], options, static_cast<unsigned>(std::stoul(words[4])));
    return 0;
  }
  if (command != "run" || words.size() != 3) fail("usage: make|run ..., as its source says");
  Contender contender(words[2]);
  contender.join(words[1]);
  while (const auto line = contender.next_line()) contender.obey(*line);
  contender.leave();
  return 0;
}
