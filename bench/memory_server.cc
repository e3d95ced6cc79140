// SPDX-License-Identifier: Apache-2.0
//
// Serves a RAM disk, or a null disk, over NBD or vhost-user-blk on a unix socket: what a frontend
// costs without a volume behind it (the protocol's ceiling here), and a server to try clients on.
//
//   memory_server SOCKET [--vhost] [--size 4G] [--null] [--read-only] [--name NAME]
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
#include "serve/vhost/server.h"

namespace holdfast {
namespace {

struct Arguments {
  std::string socket;
  std::string name = "memory";
  std::uint64_t size_bytes = 4 * kGiB;
  bool null_device = false;
  bool read_only = false;
  bool vhost = false;
};

Result<Arguments> parse_arguments(int count, char** values) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string_view argument = values[i];
    const bool has_value = i + 1 < count;
    if (argument == "--null") {
      arguments.null_device = true;
    } else if (argument == "--vhost") {
      arguments.vhost = true;
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
        "usage: memory_server SOCKET [--vhost] [--size 4G] [--null] [--read-only] [--name NAME]");
  }
  return arguments;
}

unsigned long long wide(std::uint64_t value) {
  return value;
}

void print_usage() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  std::printf("cpu seconds user %.2f system %.2f, peak memory %ld KiB\n", seconds(usage.ru_utime),
              seconds(usage.ru_stime), usage.ru_maxrss);
}

void print_fault(std::string_view name, std::uint64_t count) {
  if (count != 0) std::printf("fault %s %llu\n", std::string(name).c_str(), wide(count));
}

void print_statistics(const NbdServer& server) {
  const NbdStatistics& statistics = server.statistics();
  std::printf("connections %llu requests %llu failed %llu receives %llu sends %llu buffers %zu\n",
              wide(statistics.connections_accepted), wide(statistics.requests),
              wide(statistics.requests_failed), wide(statistics.receives), wide(statistics.sends),
              server.buffer_bytes());
  for (std::size_t i = 0; i < kNbdFaultCount; ++i) {
    const auto fault = static_cast<NbdFault>(i);
    print_fault(nbd_fault_name(fault), statistics.fault_count(fault));
  }
}

void print_statistics(const VhostServer& server) {
  const VhostStatistics& statistics = server.statistics();
  std::printf(
      "sessions %llu requests %llu failed %llu resumed %llu kicks %llu calls %llu "
      "polled %llu\n",
      wide(statistics.sessions_accepted), wide(statistics.requests),
      wide(statistics.requests_failed), wide(statistics.requests_resumed), wide(statistics.kicks),
      wide(statistics.calls), wide(statistics.polled));
  for (std::size_t i = 0; i < kVhostFaultCount; ++i) {
    const auto fault = static_cast<VhostFault>(i);
    print_fault(vhost_fault_name(fault), statistics.fault_count(fault));
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
  const auto run = [&](auto& server) -> Result<void> {
    Result<std::unique_ptr<Listener>> listener = listen_unix(
        *loop, arguments.socket, 0600,
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
    print_usage();
    return {};
  };
  if (arguments.vhost) {
    VhostServer server(VhostEnvironment::on(*loop), device, arguments.read_only);
    return run(server);
  }
  NbdServer server(*loop, NbdExport{arguments.name, "RAM disk of memory_server", device});
  return run(server);
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
  std::fprintf(stderr, "memory_server: %s\n", served.error().message().c_str());
  return 1;
}
