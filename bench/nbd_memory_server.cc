// SPDX-License-Identifier: Apache-2.0
//
// Serves a RAM disk, or a null disk, over NBD on a unix socket: what the frontend costs without a
// volume behind it (the protocol's ceiling here), and a server for trying NBD clients on.
//
//   nbd_memory_server SOCKET [--size 4G] [--null] [--read-only] [--name NAME]
//
// SIGTERM or SIGINT ends it; then it prints what it did.
#include <sys/resource.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>

#include "base/units.h"
#include "block/memory_device.h"
#include "io/loop.h"
#include "io/unix_socket.h"
#include "serve/nbd/server.h"

namespace holdfast {
namespace {

struct Arguments {
  std::string socket;
  std::string name = "memory";
  std::uint64_t size_bytes = 4 * kGiB;
  bool null_device = false;
  bool read_only = false;
};

Result<Arguments> parse_arguments(int count, char** values) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string_view argument = values[i];
    const bool has_value = i + 1 < count;
    if (argument == "--null") {
      arguments.null_device = true;
    } else if (argument == "--read-only") {
      arguments.read_only = true;
    } else if (argument == "--size" && has_value) {
      arguments.size_bytes = TRY(parse_bytes(values[++i]));
    } else if (argument == "--name" && has_value) {
      arguments.name = values[++i];
    } else if (arguments.socket.empty() && !argument.starts_with('-')) {
      arguments.socket = argument;
    } else {
      return Error(ErrorCode::invalid_argument, "unexpected argument " + std::string(argument));
    }
  }
  if (arguments.socket.empty()) {
    return Error(
        ErrorCode::invalid_argument,
        "usage: nbd_memory_server SOCKET [--size 4G] [--null] [--read-only] [--name NAME]");
  }
  return arguments;
}

void print_statistics(const NbdServer& server) {
  const NbdStatistics& statistics = server.statistics();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  std::printf("connections %llu requests %llu failed %llu receives %llu sends %llu\n",
              static_cast<unsigned long long>(statistics.connections_accepted),
              static_cast<unsigned long long>(statistics.requests),
              static_cast<unsigned long long>(statistics.requests_failed),
              static_cast<unsigned long long>(statistics.receives),
              static_cast<unsigned long long>(statistics.sends));
  std::printf("cpu seconds user %.2f system %.2f, peak memory %ld KiB, buffers now %zu\n",
              seconds(usage.ru_utime), seconds(usage.ru_stime), usage.ru_maxrss,
              server.buffer_bytes());
  for (std::size_t i = 0; i < kNbdFaultCount; ++i) {
    const auto fault = static_cast<NbdFault>(i);
    if (statistics.fault_count(fault) == 0) continue;
    std::printf("fault %s %llu\n", std::string(nbd_fault_name(fault)).c_str(),
                static_cast<unsigned long long>(statistics.fault_count(fault)));
  }
}

// Signals are taken by a thread of their own, which only tells the loop to stop.
std::thread stop_on_signal(Loop& loop) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return std::thread([&loop, signals] {
    int signal = 0;
    sigwait(&signals, &signal);
    loop.stop();
  });
}

Result<void> serve(const Arguments& arguments) {
  std::signal(SIGPIPE, SIG_IGN);
  std::unique_ptr<Loop> loop = TRY(Loop::create());
  std::thread signal_thread = stop_on_signal(*loop);
  MemoryDevice::Options options;
  options.name = arguments.name;
  options.size_bytes = arguments.size_bytes;
  options.read_only = arguments.read_only;
  options.discard_data = arguments.null_device;
  MemoryDevice device(*loop, options);
  NbdServer server(*loop, NbdExport{arguments.name, "RAM disk of nbd_memory_server", device});
  Result<std::unique_ptr<Listener>> listener =
      listen_unix(*loop, arguments.socket, 0600,
                  [&server](std::unique_ptr<Stream> stream) { server.accept(std::move(stream)); });
  if (!listener.ok()) {
    pthread_kill(signal_thread.native_handle(), SIGTERM);
    signal_thread.join();
    return listener.take_error();
  }
  listener.value()->start_accepting();
  loop->run();
  signal_thread.join();
  TaskScope scope;
  scope.spawn(server.close());
  loop->run_until([&] { return scope.empty(); }, 10s);
  print_statistics(server);
  return {};
}

}  // namespace
}  // namespace holdfast

int main(int count, char** values) {
  holdfast::Result<holdfast::Arguments> arguments = holdfast::parse_arguments(count, values);
  if (!arguments.ok()) {
    std::fprintf(stderr, "%s\n", arguments.error().message().c_str());
    return 2;
  }
  const holdfast::Result<void> served = holdfast::serve(*arguments);
  if (served.ok()) return 0;
  std::fprintf(stderr, "nbd_memory_server: %s\n", served.error().message().c_str());
  return 1;
}
