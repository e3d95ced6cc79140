// SPDX-License-Identifier: Apache-2.0
//
// The daemon's main program.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <thread>

#include "api/server.h"
#include "base/limits.h"
#include "base/log.h"
#include "cli/daemon.h"
#include "host/config.h"
#include "host/host_thread.h"
#include "host/names.h"

namespace holdfast {
namespace {

constexpr const char* kConfigDefault = "/etc/holdfast/holdfast.toml";

struct Options {
  std::string config_file;
  std::string runtime_directory;
  std::string state_directory;
  std::vector<std::string> pools;
  std::string log_level;
  std::optional<std::string> host_name;
  std::size_t loops = 0;
  bool foreground = false;
  bool check_config = false;
};

std::string absolute(const std::string& path) {
  return std::filesystem::absolute(path).lexically_normal().string();
}

Result<HostConfig> read_config(const std::string& path) {
  std::ifstream stream(path);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream.good()) return Error(ErrorCode::not_found, "cannot read the configuration " + path);
  return parse_config(text.str(), path);
}

// The command line goes before the file. A daemon with a runtime directory of its own keeps clear
// of the system's configuration and state.
Result<HostConfig> configure(const Options& options) {
  HostConfig config;
  std::error_code ignored;
  if (!options.config_file.empty()) {
    config = TRY(read_config(options.config_file));
  } else if (options.runtime_directory.empty() &&
             std::filesystem::exists(kConfigDefault, ignored)) {
    config = TRY(read_config(kConfigDefault));
  }
  if (!options.runtime_directory.empty()) {
    config.runtime_directory = absolute(options.runtime_directory);
    if (options.config_file.empty()) config.state_directory = config.runtime_directory;
  }
  if (!options.state_directory.empty()) config.state_directory = absolute(options.state_directory);
  for (std::string* path : {&config.runtime_directory, &config.state_directory}) {
    while (path->size() > 1 && path->back() == '/') path->pop_back();
  }
  if (!options.log_level.empty()) {
    const auto level = parse_log_level(options.log_level);
    if (!level.has_value()) {
      return Error(ErrorCode::invalid_argument,
                   "--log-level must be debug, info, warning or error");
    }
    config.log_level = *level;
  }
  if (options.loops != 0) config.loops = options.loops;
  if (options.host_name.has_value()) {
    TRY(check_host_name(*options.host_name).context("--host-name"));
    config.host_name = *options.host_name;
  }
  for (const std::string& text : options.pools) {
    PoolLocation pool = TRY(parse_pool_option(text));
    if (pool.location.starts_with("dir:") && pool.location.size() > 4) {
      pool.location = "dir:" + absolute(pool.location.substr(4));
    }
    std::erase_if(config.pools, [&](const PoolLocation& other) { return other.name == pool.name; });
    config.pools.push_back(std::move(pool));
  }
  return config;
}

sigset_t stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

void prepare_process() {
  ::umask(0077);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  const sigset_t signals = stop_signals();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // every thread inherits this
  raise_open_file_limit();
}

int wait_for_signal() {
  const sigset_t signals = stop_signals();
  int signal_number = 0;
  ::sigwait(&signals, &signal_number);
  return signal_number;
}

int run_daemon(const HostConfig& config, bool foreground, StartReport& report) {
  LogOptions log_options;
  log_options.level = config.log_level;
  log_options.file = config.log_file;
  // In the background standard error leads nowhere.
  log_options.to_stderr = foreground && config.log_file.empty();
  std::error_code error;
  std::filesystem::create_directories(config.runtime_directory, error);
  if (!foreground && config.log_file.empty())
    log_options.file = config.runtime_directory + "/holdfastd.log";

  // Before the log: a second daemon must not touch the first one's files.
  auto started = HostThread::start(config, holder_line(), [&] { start_logging(log_options); });
  if (!started.ok()) {
    stop_logging();
    report.failed(started.error().message());
    return 1;
  }
  const std::unique_ptr<HostThread> host = std::move(started).value();
  ApiContext context{*host, HOLDFAST_VERSION, host_name(), ::getpid()};
  auto served = ApiServer::start(std::move(context), config.runtime_directory + "/api.sock");
  if (!served.ok()) {
    host->stop();
    stop_logging();
    report.failed(served.error().message());
    return 1;
  }
  std::unique_ptr<ApiServer> api = std::move(served).value();
  const std::string pid_file = config.runtime_directory + "/holdfastd.pid";
  std::ofstream(pid_file, std::ios::trunc) << ::getpid() << '\n';
  log_info("holdfastd " HOLDFAST_VERSION " is ready on " + config.runtime_directory);
  report.ready();

  const int signal_number = wait_for_signal();
  log_info(std::string("stopping on ") + (signal_number == SIGINT ? "SIGINT" : "SIGTERM"));
  notify_service_manager("STOPPING=1");
  std::thread([] {
    wait_for_signal();
    ::_exit(1);  // asked twice: at once, which loses nothing that was acknowledged and flushed
  }).detach();
  // Requests under way end with the host's commands.
  std::thread api_stopper([&api] { api.reset(); });
  if (!host->stop()) {
    log_warning("the storage did not answer in time: ended without a checkpoint, as after a crash");
    stop_logging();
    ::_exit(1);
  }
  api_stopper.join();
  std::filesystem::remove(pid_file, error);
  log_info("stopped");
  stop_logging();
  return 0;
}

int main_program(int argc, char** argv) {
  Options options;
  CLI::App app("Serves virtual disks to virtual machines from shared storage.", "holdfastd");
  app.set_version_flag("--version", "holdfastd " HOLDFAST_VERSION);
  app.add_option("--config", options.config_file, "Settings (default: /etc/holdfast/holdfast.toml)")
      ->type_name("FILE");
  app.add_option("--runtime-dir", options.runtime_directory,
                 "Where the sockets are (default: /run/holdfast). Given without --config, the "
                 "daemon stands by "
                 "itself: it reads no settings of the system and keeps its state here, too")
      ->type_name("DIR")
      ->envname("HOLDFAST_RUNTIME_DIR");
  app.add_option("--state-dir", options.state_directory,
                 "What must survive a restart (default: /var/lib/holdfast)")
      ->type_name("DIR");
  app.add_option("--pool", options.pools, "Open this pool at start; may be repeated")
      ->type_name("NAME=LOCATION")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--host-name", options.host_name,
                 "What this daemon is called in shared pools, where no other may have that name "
                 "(default: made of the machine's name and id and the state's directory)")
      ->type_name("NAME");
  app.add_option("--loops", options.loops,
                 "Threads that serve volumes (default: one per core, at most " +
                     std::to_string(limits::kServiceLoopsDefaultMax) + ")")
      ->type_name("N")
      ->check(CLI::Range(std::size_t{1}, limits::kServiceLoopsMax));
  app.add_option("--log-level", options.log_level, "debug, info, warning or error")
      ->type_name("LEVEL");
  app.add_flag("--foreground", options.foreground,
               "Stay attached to the terminal, log to standard error");
  app.add_flag("--check-config", options.check_config, "Check the settings, then end");
  app.footer(
      "Without --foreground the command returns when the daemon is ready, or says why it is "
      "not.\n\n"
      "Examples:\n"
      "  holdfastd                                        as the system's daemon\n"
      "  holdfastd --runtime-dir /tmp/h --pool vms=dir:/srv/vms\n"
      "  holdfast --runtime-dir /tmp/h status");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);
    std::fprintf(stderr, "holdfastd: %s; see holdfastd --help\n", error.what());
    return 2;
  }
  StartReport foreground_report;
  auto config = configure(options);
  if (!config.ok()) {
    foreground_report.failed(config.error().message());
    return config.error().code() == ErrorCode::invalid_argument ? 2 : 1;
  }
  if (options.check_config) {
    std::printf("the settings are fine\n");
    return 0;
  }
  StartReport report(options.foreground ? -1 : go_to_background());
  prepare_process();
  return run_daemon(config.value(), options.foreground, report);
}

}  // namespace
}  // namespace holdfast

int main(int argc, char** argv) {
  try {
    return holdfast::main_program(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "holdfastd: %s\n", error.what());
    return 1;
  }
}
