// SPDX-License-Identifier: Apache-2.0
//
// The command: turns its arguments into one call of the daemon's control interface, and the answer
// into text (or JSON).
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "api/client.h"
#include "base/limits.h"
#include "base/units.h"
#include "cli/attach_wait.h"
#include "cli/completion_bash.h"
#include "cli/lease_output.h"
#include "cli/output.h"
#include "cli/table.h"
#include "cli/transfer.h"
#include "cli/vhost_snippets.h"
#include "host/config.h"
#include "host/deferment.h"
#include "host/names.h"

namespace holdfast {
namespace {

constexpr int kDone = 0;
constexpr int kRefused = 1;
constexpr int kUsage = 2;
constexpr unsigned kFlattenPollMicroseconds = 200'000;
constexpr unsigned kAttachPollMicroseconds = 500'000;
constexpr double kAttachWaitSecondsDefault = 10;
constexpr double kAttachWaitSecondsMax = 86'400;

// One line, whatever a message holds.
void complain(std::string message) {
  for (char& c : message) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  std::fflush(stdout);
  std::fprintf(stderr, "holdfast: %s\n", message.c_str());
}

struct Arguments {
  std::string runtime_directory = kRuntimeDirectoryDefault;
  bool json = false;
  std::string name;
  std::string location;
  std::string size;
  std::string segment_size;
  std::string ceph_configuration;
  std::string ceph_client;
  std::string ceph_keyring;
  std::string new_name;
  std::vector<std::string> names;
  std::string since;
  std::string file;
  std::string format;
  bool shared = false;
  bool thick = false;
  bool thin = false;
  bool force = false;
  bool now = false;
  std::string defer;
  bool with_snapshots = false;
  bool expired = false;
  bool nbd = false;
  bool vhost = false;
  bool read_only = false;
  std::string qmp;
  bool incoming = false;
  bool shared_writable = false;
  double wait_seconds = kAttachWaitSecondsDefault;
  std::optional<std::uint32_t> io_timeout_seconds;
  std::optional<std::uint32_t> watchdog_seconds;
  std::vector<std::string> settings;
  bool watch = false;
  bool cancel = false;

  std::string socket() const { return runtime_directory + "/api.sock"; }
};

// An argument that makes no sense: a person's slip, not the daemon's refusal.
struct UsageError {
  std::string message;
};

struct Names {
  std::string pool;
  std::string volume;
  std::string target() const {
    return "/v1/pools/" + escape_url(pool) + "/volumes/" + escape_url(volume);
  }
};

Names parse_volume_name(const std::string& text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == text.size() ||
      text.find('/', slash + 1) != std::string::npos) {
    throw UsageError{"'" + text +
                     "' does not name a volume; write it as POOL/VOLUME, such as vms/disk1"};
  }
  return {text.substr(0, slash), text.substr(slash + 1)};
}

struct SnapshotNames {
  Names volume;
  std::string snapshot;
  std::string target() const { return volume.target() + "/snapshots/" + escape_url(snapshot); }
};

SnapshotNames parse_snapshot_name(const std::string& text) {
  const std::size_t at = text.find('@');
  if (at == std::string::npos || at + 1 == text.size()) {
    throw UsageError{"'" + text +
                     "' does not name a snapshot; write it as POOL/VOLUME@SNAPSHOT, such as "
                     "vms/disk1@monday"};
  }
  return {parse_volume_name(text.substr(0, at)), text.substr(at + 1)};
}

std::uint64_t parse_size(const std::string& text) {
  auto bytes = parse_bytes(text);
  if (!bytes.ok()) throw UsageError{bytes.error().message()};
  return bytes.value();
}

std::int64_t parse_defer(const std::string& text) {
  auto time = parse_deferment(text);
  if (!time.ok()) throw UsageError{time.error().message()};
  return time.value() / std::chrono::seconds(1);
}

// The daemon has another working directory.
std::string absolute_location(const std::string& location) {
  if (!location.starts_with("dir:") || location.size() == 4 || location[4] == '/') return location;
  return "dir:" + std::filesystem::absolute(location.substr(4)).lexically_normal().string();
}

std::string absolute_path(const std::string& path);

// Where a pool is: for one on Ceph with which cluster that is, and as whom.
std::string pool_location(const Arguments& arguments) {
  std::string location = absolute_location(arguments.location);
  const bool is_on_ceph = location.starts_with("rados:");
  const std::pair<const char*, std::string> options[] = {
      {"conf", absolute_path(arguments.ceph_configuration)},
      {"id", arguments.ceph_client},
      {"keyring", absolute_path(arguments.ceph_keyring)}};
  for (const auto& [name, value] : options) {
    if (value.empty()) continue;
    if (!is_on_ceph) throw UsageError{std::string("--") + name + " is for pools on Ceph (rados:)"};
    location += location.find('?') == std::string::npos ? '?' : '&';
    location.append(name).append("=").append(value);
  }
  return location;
}

std::string absolute_path(const std::string& path) {
  return path.empty() ? path : std::filesystem::absolute(path).lexically_normal().string();
}

std::string pool_target(const std::string& name) {
  // An empty part would be another route.
  if (name.empty()) throw UsageError{"the pool's name is empty"};
  return "/v1/pools/" + escape_url(name);
}

ErrorCode error_code_of(const std::string& name) {
  for (const ErrorCode code :
       {ErrorCode::invalid_argument, ErrorCode::not_found, ErrorCode::already_exists,
        ErrorCode::busy, ErrorCode::lease_held, ErrorCode::no_space, ErrorCode::path_failure,
        ErrorCode::corrupt, ErrorCode::unsupported, ErrorCode::read_only}) {
    if (error_code_name(code) == name) return code;
  }
  return ErrorCode::internal;
}

class Client {
 public:
  explicit Client(const Arguments& arguments) : arguments_(arguments) {}

  // What the daemon answered, or why there is no answer.
  struct Reply {
    std::optional<Json> answer;
    std::string code;
    std::string message;
    Json details;  // of some errors
  };

  // Without a word.
  Reply request(const char* method, const std::string& target, const Json& body = nullptr) const {
    const auto reply =
        call_api(arguments_.socket(), method, target, body.is_null() ? "" : body.dump());
    if (!reply.ok()) return {{}, "daemon-unreachable", unreachable(reply.error()), {}};
    Json answer = Json::parse(reply->body, nullptr, false);
    if (answer.is_discarded() || !answer.is_object()) {
      return {{},
              "internal",
              "holdfastd answered with something that is not JSON (status " +
                  std::to_string(reply->status) + ")",
              {}};
    }
    if (reply->status < 300 && !answer.contains("error")) return {std::move(answer), {}, {}, {}};
    const Json error = answer.value("error", Json::object());
    return {{}, text_of(error, "code"), text_of(error, "message"), member(error, "details")};
  }

  // Prints what went wrong when there is no answer.
  std::optional<Json> call(const char* method, const std::string& target,
                           const Json& body = nullptr) {
    Reply reply = request(method, target, body);
    if (!reply.answer.has_value()) refuse(reply);
    return std::move(reply.answer);
  }

  // For callers that have more to do when something fails.
  Result<Json> ask(const char* method, const std::string& target, const Json& body) {
    Reply reply = request(method, target, body);
    if (reply.answer.has_value()) return std::move(*reply.answer);
    const ErrorCode code =
        reply.code == "daemon-unreachable" ? ErrorCode::path_failure : error_code_of(reply.code);
    return Error(code, reply.message);
  }

  int refuse(const Reply& reply) const {
    fail(reply.code, reply.message, reply.details);
    return kRefused;
  }

  int refuse(const Error& error) {
    fail(std::string(error_code_name(error.code())), error.message());
    return kRefused;
  }

  // Prints what is not JSON as it is.
  int run_plain(const std::string& target) {
    const auto reply = call_api(arguments_.socket(), "GET", target, "");
    if (!reply.ok()) {
      fail("daemon-unreachable", unreachable(reply.error()));
      return kRefused;
    }
    if (reply->status != 200) {
      const Json answer = Json::parse(reply->body, nullptr, false);
      const Json error =
          answer.is_object() ? answer.value("error", Json::object()) : Json::object();
      fail(text_of(error, "code"), text_of(error, "message"));
      return kRefused;
    }
    std::fputs(reply->body.c_str(), stdout);
    if (std::fflush(stdout) == 0) return kDone;
    complain("cannot write the answer");
    return kRefused;
  }

  // Calls, then prints the answer as JSON or as `text` says.
  int run(const char* method, const std::string& target, const Json& body,
          const std::function<std::string(const Json&)>& text) {
    const auto answer = call(method, target, body);
    if (!answer.has_value()) return kRefused;
    return print(*answer, text);
  }

  int print(const Json& answer, const std::function<std::string(const Json&)>& text) const {
    if (arguments_.json) {
      std::printf("%s\n", answer.dump(2).c_str());
    } else {
      std::fputs(text(answer).c_str(), stdout);
    }
    const std::string warning = text_of(answer, "warning");
    if (!warning.empty()) complain("warning: " + warning);
    if (std::fflush(stdout) != 0) {
      complain("cannot write the answer");
      return kRefused;
    }
    return kDone;
  }

 private:
  void fail(const std::string& code, const std::string& message,
            const Json& details = nullptr) const {
    if (arguments_.json) {
      Json error = {{"error", {{"code", code}, {"message", message}}}};
      if (!details.is_null()) error["error"]["details"] = details;
      std::printf("%s\n", error.dump(2).c_str());
    }
    complain(message);
  }

  std::string unreachable(const Error& error) const {
    if (error.code() != ErrorCode::not_found) return error.message();
    const std::string socket = arguments_.socket();
    if (::access(arguments_.runtime_directory.c_str(), X_OK) != 0 && errno == EACCES) {
      return "no permission for " + socket + "; run this as the user of holdfastd (root, usually)";
    }
    if (::access(socket.c_str(), F_OK) == 0 && ::access(socket.c_str(), W_OK) != 0) {
      return "no permission for " + socket + "; run this as the user of holdfastd (root, usually)";
    }
    const bool is_default = arguments_.runtime_directory == kRuntimeDirectoryDefault;
    return "holdfastd does not answer on " + socket + "; start it with '" +
           (is_default ? std::string("systemctl start holdfastd")
                       : "holdfastd --runtime-dir " + arguments_.runtime_directory) +
           "', or name the directory of a running one with --runtime-dir";
  }

  const Arguments& arguments_;
};

std::string details_and(const Json& answer, std::string (*details)(const Json&),
                        const std::string& headline) {
  return headline + "\n" + details(answer);
}

// The socket on the first line, for scripts; then what a person pastes.
std::string attach_text(const Json& answer) {
  const std::string socket = text_of(answer, "socket");
  if (text_of(answer, "protocol") == "vhost")
    return vhost_attach_text(socket, text_of(answer, "volume"));
  return socket + "\n" + text_of(answer, "uri") + "\n";
}

std::string who_sees_resize(const Json& volume) {
  if (!volume.value("attached", false)) return "";
  const Json attachment = volume.value("attachment", Json::object());
  return text_of(attachment, "protocol") == "vhost" ? "; the guest is told"
                                                    : "; clients see it when they connect anew";
}

int watch_status(Client& client, const Arguments& arguments) {
  const bool terminal = ::isatty(STDOUT_FILENO) != 0;
  for (;;) {
    const auto answer = client.call("GET", "/v1/status");
    if (answer.has_value()) {
      if (arguments.json) {
        std::printf("%s\n", answer->dump().c_str());
      } else {
        std::printf("%s%s%s", terminal ? "\033[H\033[2J" : "", status_text(*answer).c_str(),
                    terminal ? "" : "\n");
      }
      if (std::fflush(stdout) != 0) return kRefused;
    }
    ::sleep(1);
  }
}

volatile std::sig_atomic_t interrupted = 0;

void on_interrupt(int) {
  interrupted = 1;
}

// Waits until the daemon has flattened the volume; shows how far it is on a terminal. Ctrl-C stops
// it, and not only the waiting.
int flatten(Client& client, const Arguments& arguments) {
  const std::string target = parse_volume_name(arguments.name).target() + "/flatten";
  if (arguments.cancel) return client.run("DELETE", target, nullptr, flatten_text);
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  const bool is_shown = !arguments.json && ::isatty(STDERR_FILENO) != 0;
  auto answer = client.call("POST", target, Json::object());
  while (answer.has_value() && text_of(*answer, "state") == "running") {
    if (is_shown) std::fprintf(stderr, "\r\033[K%s", flatten_progress(*answer).c_str());
    if (interrupted == 0) ::usleep(kFlattenPollMicroseconds);
    answer = client.call(interrupted == 0 ? "GET" : "DELETE", target);
  }
  if (is_shown) std::fprintf(stderr, "\r\033[K");
  if (!answer.has_value()) return kRefused;
  const std::string state = text_of(*answer, "state");
  if (state == "done") return client.print(*answer, flatten_text);
  if (arguments.json) std::printf("%s\n", answer->dump(2).c_str());
  complain(state == "failed" ? text_of(*answer, "reason")
                             : "the flattening of " + arguments.name +
                                   " was cancelled; the same command goes on with it");
  return kRefused;
}

// The shell's prompt is not to stand behind what is shown.
void end_line(int signal_number) {
  static_cast<void>(::write(STDERR_FILENO, "\n", 1) == 1);
  ::raise(signal_number);  // ends the process: the handler is gone (SA_RESETHAND)
}

// A volume that another host has is asked for again, for as long as that makes sense. Ctrl-C ends
// the waiting: nothing is left of it, as the daemon does not wait.
int attach(Client& client, const Arguments& arguments) {
  const std::string target = parse_volume_name(arguments.name).target() + "/attach";
  const Json body = {
      {"protocol", arguments.vhost ? "vhost" : "nbd"}, {"read_only", arguments.read_only},
      {"qmp", absolute_path(arguments.qmp)},           {"incoming", arguments.incoming},
      {"shared_writable", arguments.shared_writable},  {"shared_read_only", arguments.shared}};
  const bool is_shown = !arguments.json && ::isatty(STDERR_FILENO) != 0;
  if (is_shown) {
    struct sigaction action {};
    action.sa_handler = end_line;
    action.sa_flags = SA_RESETHAND;
    ::sigaction(SIGINT, &action, nullptr);
  }
  AttachWait wait(arguments.wait_seconds);
  auto asked = std::chrono::steady_clock::now();
  double passed_seconds = 0;
  for (;;) {
    Client::Reply reply = client.request("POST", target, body);
    if (is_shown) std::fprintf(stderr, "\r\033[K");
    if (reply.answer.has_value()) return client.print(*reply.answer, attach_text);
    if (reply.code != error_code_name(ErrorCode::lease_held)) return client.refuse(reply);
    if (!wait.goes_on(reply.details, passed_seconds)) {
      if (wait.waited_seconds() >= 1) {
        reply.message += " (waited for " + format_seconds(wait.waited_seconds()) + ")";
      }
      return client.refuse(reply);
    }
    if (is_shown) std::fprintf(stderr, "%s", wait.text(reply.details).c_str());
    ::usleep(kAttachPollMicroseconds);
    const auto now = std::chrono::steady_clock::now();
    passed_seconds = std::chrono::duration<double>(now - asked).count();
    asked = now;
  }
}

using Action = std::function<int(Client&)>;

// The tree of commands. Each leaf sets `action`.
class Commands {
 public:
  Commands(CLI::App& app, Arguments& arguments) : app_(app), arguments_(arguments) {
    app_.require_subcommand(1);
    app_.fallthrough();
    add_pool_commands();
    add_volume_commands();
    add_trash_commands();
    add_snapshot_commands();
    add_attach_commands();
    add_lease_commands();
    add_image_commands();
    add_other_commands();
  }
  const Action& action() const { return action_; }

 private:
  CLI::App* leaf(CLI::App* parent, const char* name, const char* description, Action action) {
    CLI::App* command = parent->add_subcommand(name, description);
    command->fallthrough();
    command->footer("");
    command->callback([this, action = std::move(action)] { action_ = action; });
    return command;
  }
  void add_pool_name(CLI::App* command) {
    command->add_option("name", arguments_.name, "The pool")
        ->type_name("")
        ->option_text("NAME")
        ->required();
  }
  void add_location(CLI::App* command) {
    command
        ->add_option("location", arguments_.location,
                     "Where it is: dir:/PATH for a directory, rados:POOL/NAMESPACE for Ceph")
        ->type_name("")
        ->option_text("dir:PATH|rados:POOL[/NAMESPACE]")
        ->required();
    command
        ->add_option("--conf", arguments_.ceph_configuration,
                     "Of a pool on Ceph: the cluster's configuration (default: "
                     "/etc/ceph/ceph.conf)")
        ->type_name("FILE");
    command
        ->add_option("--id", arguments_.ceph_client,
                     "Of a pool on Ceph: use it as client.NAME (default: admin)")
        ->type_name("NAME");
    command
        ->add_option("--keyring", arguments_.ceph_keyring,
                     "Of a pool on Ceph: where the client's key is (default: as the configuration "
                     "says)")
        ->type_name("FILE");
  }
  void add_volume_name(CLI::App* command) {
    command->add_option("volume", arguments_.name, "The volume")
        ->option_text("POOL/VOLUME")
        ->required();
  }
  void add_size(CLI::App* command, const char* description) {
    command->add_option("--size", arguments_.size, description)->type_name("SIZE")->required();
  }

  void add_pool_commands() {
    CLI::App* pool = app_.add_subcommand("pool", "Places on storage that hold volumes");
    pool->require_subcommand(1);
    pool->fallthrough();
    pool->footer("");
    CLI::App* create = leaf(pool, "create", "Make a pool in an empty directory, and open it",
                            [this](Client& client) {
                              const std::string location = pool_location(arguments_);
                              if ((arguments_.io_timeout_seconds.has_value() ||
                                   arguments_.watchdog_seconds.has_value()) &&
                                  !arguments_.shared && !location.starts_with("rados:")) {
                                throw UsageError{
                                    "--io-timeout and --watchdog are for pools that "
                                    "several hosts use: --shared"};
                              }
                              Json body = {{"name", arguments_.name},
                                           {"location", location},
                                           {"create", true},
                                           {"shared", arguments_.shared}};
                              if (!arguments_.segment_size.empty())
                                body["segment_bytes"] = parse_size(arguments_.segment_size);
                              if (arguments_.io_timeout_seconds.has_value())
                                body["io_timeout_seconds"] = *arguments_.io_timeout_seconds;
                              if (arguments_.watchdog_seconds.has_value())
                                body["watchdog_seconds"] = *arguments_.watchdog_seconds;
                              return client.run("POST", "/v1/pools", body, [](const Json& answer) {
                                return "Pool " + text_of(answer, "name") + " is ready at " +
                                       text_of(answer, "location") + "\n";
                              });
                            });
    add_pool_name(create);
    add_location(create);
    create->add_flag("--shared", arguments_.shared,
                     "Several hosts use it (guarded by leases); one on Ceph always is");
    create
        ->add_option("--io-timeout", arguments_.io_timeout_seconds,
                     "How long the storage may take for a lease (default: 5): a host renews its "
                     "lease every 2 times that, and what it had is taken over after 8 times that")
        ->type_name("SECONDS")
        ->check(CLI::Range(std::uint32_t{limits::kLeaseIoTimeoutSecondsMin},
                           std::uint32_t{limits::kLeaseIoTimeoutSecondsMax}));
    create
        ->add_option("--watchdog", arguments_.watchdog_seconds,
                     "How much longer a take-over waits, for hosts that also run sanlock with its "
                     "watchdog (default: 0; such hosts: 60)")
        ->type_name("SECONDS")
        ->check(CLI::Range(std::uint32_t{0}, std::uint32_t{limits::kLeaseWatchdogSecondsMax}));
    create
        ->add_option("--segment-size", arguments_.segment_size,
                     "The unit of allocation (default 32M)")
        ->type_name("SIZE");
    CLI::App* open = leaf(
        pool, "open", "Open a pool that exists; it stays open over restarts",
        [this](Client& client) {
          const Json body = {{"name", arguments_.name}, {"location", pool_location(arguments_)}};
          return client.run("POST", "/v1/pools", body, [](const Json& answer) {
            return "Pool " + text_of(answer, "name") + " is open at " +
                   text_of(answer, "location") + "\n";
          });
        });
    add_pool_name(open);
    add_location(open);
    leaf(pool, "list", "The open pools", [](Client& client) {
      return client.run("GET", "/v1/pools", nullptr, [](const Json& answer) {
        return pool_table(answer.value("pools", Json::array()));
      });
    });
    add_pool_name(leaf(pool, "show", "All about one pool", [this](Client& client) {
      return client.run("GET", pool_target(arguments_.name), nullptr, pool_details);
    }));
    add_pool_name(
        leaf(pool, "close", "Close a pool; its volumes stay in it", [this](Client& client) {
          return client.run("DELETE", pool_target(arguments_.name), nullptr,
                            [](const Json& answer) {
                              return "Pool " + text_of(answer, "name") + " is closed\n";
                            });
        }));
  }

  void add_volume_commands() {
    CLI::App* volume = app_.add_subcommand("volume", "Virtual disks");
    volume->require_subcommand(1);
    volume->fallthrough();
    volume->footer("");
    CLI::App* create = leaf(volume, "create", "Make a volume", [this](Client& client) {
      const Names names = parse_volume_name(arguments_.name);
      const Json body = {{"name", names.volume},
                         {"size_bytes", parse_size(arguments_.size)},
                         {"thick", arguments_.thick}};
      return client.run("POST", pool_target(names.pool) + "/volumes", body, [](const Json& answer) {
        return details_and(answer, volume_details,
                           answer.value("thick", false)
                               ? "The volume can be attached; its space is being preallocated, "
                                 "which 'holdfast volume show' follows"
                               : "The volume is ready; attach it to serve it");
      });
    });
    add_volume_name(create);
    add_size(create, "How large the guest sees it: 512M, 20G, 1.5T");
    create->add_flag("--thick", arguments_.thick,
                     "Preallocate all its space: its writes never wait for it");
    CLI::App* list =
        leaf(volume, "list", "The volumes of one pool, or of all", [this](Client& client) {
          const std::string query =
              arguments_.name.empty() ? "" : "?pool=" + escape_url(arguments_.name);
          return client.run("GET", "/v1/volumes" + query, nullptr, [](const Json& answer) {
            return volume_table(answer.value("volumes", Json::array()));
          });
        });
    list->add_option("pool", arguments_.name, "Only this pool")->option_text("[POOL]");
    add_volume_name(leaf(volume, "show", "All about one volume", [this](Client& client) {
      return client.run("GET", parse_volume_name(arguments_.name).target(), nullptr,
                        volume_details);
    }));
    CLI::App* resize = leaf(
        volume, "resize", "Change a volume's size, also while it is in use",
        [this](Client& client) {
          const Names names = parse_volume_name(arguments_.name);
          const Json body = {{"size_bytes", parse_size(arguments_.size)},
                             {"force", arguments_.force}};
          return client.run("POST", names.target() + "/resize", body, [](const Json& answer) {
            const Json size = answer.value("size_bytes", Json());
            return "Volume " + text_of(answer, "pool") + "/" + text_of(answer, "name") + " has " +
                   (size.is_number() ? format_bytes(size.get<std::uint64_t>())
                                     : std::string("its new size")) +
                   who_sees_resize(answer) + "\n";
          });
        });
    add_volume_name(resize);
    add_size(resize, "The new size");
    resize->add_flag("--force", arguments_.force, "Shrink, dropping what lies beyond");
    CLI::App* set = leaf(volume, "set", "Change a volume's settings", [this](Client& client) {
      Json body = Json::object();
      for (const std::string& setting : arguments_.settings) {
        const std::size_t equals = setting.find('=');
        if (equals == 0 || equals == std::string::npos || equals + 1 == setting.size()) {
          throw UsageError{"'" + setting +
                           "' sets nothing; write NAME=VALUE, such as hold.pause_after=10s"};
        }
        body[setting.substr(0, equals)] = setting.substr(equals + 1);
      }
      return client.run("POST", parse_volume_name(arguments_.name).target() + "/settings", body,
                        [](const Json& answer) {
                          return details_and(answer, volume_details, "The volume's settings hold");
                        });
    });
    add_volume_name(set);
    set->add_option("settings", arguments_.settings,
                    "hold.pause_after=TIME: pause its virtual machine (attach --qmp) when requests "
                    "are held for so long (25s); hold.fail_after=TIME: then fail them (never). "
                    "TIME: 10s, 2m, never, or default")
        ->option_text("NAME=VALUE...")
        ->required();
    CLI::App* convert = leaf(
        volume, "convert", "Make a volume thick or thin, also while it is in use",
        [this](Client& client) {
          if (arguments_.thick == arguments_.thin) throw UsageError{"say --thick or --thin"};
          const Names names = parse_volume_name(arguments_.name);
          return client.run("POST", names.target() + "/convert", Json{{"thick", arguments_.thick}},
                            [](const Json& answer) {
                              const bool is_thick = answer.value("thick", false);
                              return details_and(
                                  answer, volume_details,
                                  is_thick ? "The volume is thick; its space is being "
                                             "preallocated, which 'holdfast volume show' follows"
                                           : "The volume is thin; what it does not use goes back "
                                             "to the pool");
                            });
        });
    add_volume_name(convert);
    CLI::Option* to_thick = convert->add_flag(
        "--thick", arguments_.thick, "Preallocate all its space: its writes never wait for it");
    convert->add_flag("--thin", arguments_.thin, "Give back what it does not use")
        ->excludes(to_thick);
    CLI::App* rename =
        leaf(volume, "rename", "Give a detached volume another name", [this](Client& client) {
          const Names names = parse_volume_name(arguments_.name);
          std::string new_name = arguments_.new_name;
          if (new_name.starts_with(names.pool + "/")) new_name.erase(0, names.pool.size() + 1);
          if (new_name.find('/') != std::string::npos) {
            throw UsageError{"'" + arguments_.new_name +
                             "' is in another pool; a volume stays in its own"};
          }
          return client.run("POST", names.target() + "/rename", Json{{"name", new_name}},
                            [](const Json& answer) {
                              return "The volume is now " + text_of(answer, "pool") + "/" +
                                     text_of(answer, "name") + "\n";
                            });
        });
    add_volume_name(rename);
    rename->add_option("new", arguments_.new_name, "Its new name")->option_text("NEW")->required();
    CLI::App* remove =
        leaf(volume, "remove", "Move a detached volume to the trash, or remove it for good",
             [this](Client& client) {
               Json body = {{"now", arguments_.now}, {"with_snapshots", arguments_.with_snapshots}};
               if (!arguments_.defer.empty()) body["defer_seconds"] = parse_defer(arguments_.defer);
               return client.run("POST", parse_volume_name(arguments_.name).target() + "/remove",
                                 body, removed_text);
             });
    add_volume_name(remove);
    CLI::Option* now = remove->add_flag("--now", arguments_.now, "For good, and its space at once");
    remove
        ->add_option("--defer", arguments_.defer,
                     "Keep it in the trash for so long: 12h, 7d (default: as configured, 3d)")
        ->type_name("TIME")
        ->excludes(now);
    remove->add_flag("--with-snapshots", arguments_.with_snapshots,
                     "For good though it has snapshots");
  }

  void add_trash_item(CLI::App* command) {
    command->add_option("volume", arguments_.name, "Its name when it was removed, or its id")
        ->option_text("POOL/VOLUME|POOL/ID")
        ->required();
  }

  int restore(Client& client) {
    const Names item = parse_volume_name(arguments_.name);
    std::string name = arguments_.new_name;
    if (name.starts_with(item.pool + "/")) name.erase(0, item.pool.size() + 1);
    if (name.find('/') != std::string::npos) {
      throw UsageError{"'" + arguments_.new_name +
                       "' is in another pool; a volume stays in its own"};
    }
    return client.run("POST",
                      pool_target(item.pool) + "/trash/" + escape_url(item.volume) + "/restore",
                      Json{{"name", name}}, [](const Json& answer) {
                        return "Volume " + text_of(answer, "pool") + "/" + text_of(answer, "name") +
                               " is back; attach it to serve it\n";
                      });
  }

  // Of all pools, of one, or one volume.
  int empty_trash(Client& client) {
    Json body = {{"expired", arguments_.expired}};
    if (arguments_.name.find('/') != std::string::npos) {
      const Names item = parse_volume_name(arguments_.name);
      body["pool"] = item.pool;
      body["volume"] = item.volume;
    } else if (!arguments_.name.empty()) {
      body["pool"] = arguments_.name;
    }
    return client.run("POST", "/v1/trash/empty", body, emptied_text);
  }

  void add_trash_commands() {
    CLI::App* trash = app_.add_subcommand("trash", "Volumes that were removed");
    trash->require_subcommand(1);
    trash->fallthrough();
    trash->footer("");
    CLI::App* list =
        leaf(trash, "list", "The trash of one pool, or of all", [this](Client& client) {
          const std::string query =
              arguments_.name.empty() ? "" : "?pool=" + escape_url(arguments_.name);
          return client.run("GET", "/v1/trash" + query, nullptr, [](const Json& answer) {
            return trash_table(answer.value("trash", Json::array()));
          });
        });
    list->add_option("pool", arguments_.name, "Only this pool")->option_text("[POOL]");
    CLI::App* restored = leaf(trash, "restore", "Take a volume out of the trash, as it was",
                              [this](Client& client) { return restore(client); });
    add_trash_item(restored);
    restored->add_option("new", arguments_.new_name, "A new name for it")->option_text("[NEW]");
    CLI::App* empty = leaf(trash, "empty", "Remove what is in the trash for good; asks nothing",
                           [this](Client& client) { return empty_trash(client); });
    empty->add_option("what", arguments_.name, "Only this pool, or this volume (name or id)")
        ->option_text("[POOL|POOL/VOLUME]");
    empty->add_flag("--expired", arguments_.expired, "Only what has been there for its time");
  }

  void add_snapshot_name(CLI::App* command) {
    command->add_option("snapshot", arguments_.name, "The snapshot")
        ->option_text("POOL/VOLUME@SNAPSHOT")
        ->required();
  }

  int create_snapshots(Client& client) {
    Json body = {{"snapshots", Json::array()}};
    std::string pool;
    for (const std::string& name : arguments_.names) {
      const SnapshotNames names = parse_snapshot_name(name);
      if (pool.empty()) pool = names.volume.pool;
      if (names.volume.pool != pool) {
        throw UsageError{"'" + name + "' is not in pool '" + pool +
                         "'; snapshots at one moment are of one pool"};
      }
      body["snapshots"].push_back({{"volume", names.volume.volume}, {"name", names.snapshot}});
    }
    return client.run("POST", pool_target(pool) + "/snapshots", body, [](const Json& answer) {
      std::string text;
      for (const Json& snapshot : answer.value("snapshots", Json::array())) {
        text += "Snapshot " + snapshot_name(snapshot) + " is taken\n";
      }
      return text;
    });
  }

  // Part by part; all is printed at the end, so that a failure leaves no half of it.
  int diff(Client& client) {
    const std::size_t at = arguments_.name.find('@');
    const Names volume = parse_volume_name(arguments_.name.substr(0, at));
    Json body = {{"snapshot", at == std::string::npos ? "" : arguments_.name.substr(at + 1)},
                 {"since", arguments_.since}};
    Json all = nullptr;
    for (;;) {
      const auto part = client.call("POST", volume.target() + "/diff", body);
      if (!part.has_value()) return kRefused;
      if (all.is_null()) {
        all = {{"size_bytes", part->value("size_bytes", Json())}, {"extents", Json::array()}};
      }
      for (const Json& extent : part->value("extents", Json::array())) {
        all["extents"].push_back(extent);
      }
      const Json next = part->value("next_bytes", Json());
      if (!next.is_number()) return client.print(all, diff_table);
      body["offset_bytes"] = next;
    }
  }

  void add_diff_command() {
    CLI::App* command = leaf(&app_, "diff", "Where a volume or snapshot differs from an older one",
                             [this](Client& client) { return diff(client); });
    command->add_option("volume", arguments_.name, "What to look at")
        ->option_text("POOL/VOLUME[@SNAPSHOT]")
        ->required();
    command
        ->add_option("--since", arguments_.since,
                     "The older snapshot; without it, all that has content")
        ->type_name("SNAPSHOT");
  }

  void add_flatten_command() {
    CLI::App* command =
        leaf(&app_, "flatten", "Make a clone independent of its parent, also while it is in use",
             [this](Client& client) { return flatten(client, arguments_); });
    add_volume_name(command);
    command->add_flag("--cancel", arguments_.cancel, "Stop it; what was done stays done");
  }

  void add_snapshot_commands() {
    CLI::App* snapshot = app_.add_subcommand("snapshot", "What a volume held at a moment");
    snapshot->require_subcommand(1);
    snapshot->fallthrough();
    snapshot->footer("");
    CLI::App* create = leaf(snapshot, "create", "Take a snapshot, also while the volume is in use",
                            [this](Client& client) { return create_snapshots(client); });
    create->add_option("snapshots", arguments_.names, "The snapshots; all of one moment")
        ->option_text("POOL/VOLUME@SNAPSHOT...")
        ->required();
    add_volume_name(leaf(snapshot, "list", "The snapshots of a volume", [this](Client& client) {
      return client.run("GET", parse_volume_name(arguments_.name).target() + "/snapshots", nullptr,
                        [](const Json& answer) {
                          return snapshot_table(answer.value("snapshots", Json::array()));
                        });
    }));
    add_snapshot_name(leaf(snapshot, "remove", "Remove a snapshot; its space comes back by itself",
                           [this](Client& client) {
                             return client.run(
                                 "DELETE", parse_snapshot_name(arguments_.name).target(), nullptr,
                                 [](const Json& answer) {
                                   return "Snapshot " + snapshot_name(answer) + " is removed\n";
                                 });
                           }));
    add_snapshot_name(leaf(snapshot, "rollback", "Give a detached volume the content of a snapshot",
                           [this](Client& client) {
                             const SnapshotNames names = parse_snapshot_name(arguments_.name);
                             const std::string text =
                                 "Volume " + names.volume.pool + "/" + names.volume.volume +
                                 " is what it was at snapshot " + names.snapshot + "\n";
                             return client.run("POST", names.target() + "/rollback", Json::object(),
                                               [text](const Json&) { return text; });
                           }));
    CLI::App* clone = leaf(
        &app_, "clone", "Make a volume that begins as a snapshot, at once", [this](Client& client) {
          const SnapshotNames from = parse_snapshot_name(arguments_.name);
          const Names made = parse_volume_name(arguments_.new_name);
          if (made.pool != from.volume.pool) {
            throw UsageError{"'" + arguments_.new_name + "' is in another pool than '" +
                             arguments_.name + "'; a clone stays with its parent"};
          }
          return client.run("POST", from.target() + "/clone", Json{{"name", made.volume}},
                            [](const Json& answer) {
                              return details_and(answer, volume_details,
                                                 "The clone is ready; attach it to serve it");
                            });
        });
    add_flatten_command();
    add_diff_command();
    add_snapshot_name(clone);
    clone->add_option("new", arguments_.new_name, "The new volume")
        ->option_text("POOL/NEW")
        ->required();
  }

  // Of volumes of shared pools.
  void add_sharing_options(CLI::App* attach) {
    CLI::Option* incoming = attach->add_flag(
        "--incoming", arguments_.incoming,
        "For the destination of a live migration: the host that has the volume hands it over when "
        "the machine starts here");
    CLI::Option* shared = attach->add_flag("--shared", arguments_.shared,
                                           "Read-only, also on other hosts at the same time");
    CLI::Option* writable = attach->add_flag(
        "--shared-writable", arguments_.shared_writable,
        "For machines with a cluster filesystem; all of them connect to this host");
    shared->excludes(incoming)->excludes(writable);
    writable->excludes(incoming);
    attach
        ->add_option("--wait", arguments_.wait_seconds,
                     "How long to wait for a host that has the volume and lives (default: 10); one "
                     "that does not is waited for until the volume can be taken over")
        ->type_name("SECONDS")
        ->check(CLI::Range(0.0, kAttachWaitSecondsMax));
  }

  void add_lease_commands() {
    CLI::App* lease = app_.add_subcommand("lease", "Who has the volumes of shared pools");
    lease->require_subcommand(1);
    lease->fallthrough();
    lease->footer("");
    CLI::App* list =
        leaf(lease, "list", "The leases of one shared pool, or of all", [this](Client& client) {
          const std::string query =
              arguments_.name.empty() ? "" : "?pool=" + escape_url(arguments_.name);
          return client.run("GET", "/v1/leases" + query, nullptr, [](const Json& answer) {
            return lease_table(answer.value("leases", Json::array()));
          });
        });
    list->add_option("pool", arguments_.name, "Only this pool")->option_text("[POOL]");
    add_volume_name(
        leaf(lease, "show", "Who has a volume, and how that host is", [this](Client& client) {
          return client.run("GET", parse_volume_name(arguments_.name).target() + "/lease", nullptr,
                            lease_details);
        }));
    add_volume_name(leaf(
        lease, "break", "Free the lease of a dead host; attaching does that by itself",
        [this](Client& client) {
          return client.run("POST", parse_volume_name(arguments_.name).target() + "/lease/break",
                            Json::object(), broken_text);
        }));
    CLI::App* host = app_.add_subcommand("host", "The hosts of shared pools");
    host->require_subcommand(1);
    host->fallthrough();
    host->footer("");
    add_pool_name(
        leaf(host, "list", "The hosts of a shared pool, and how they are", [this](Client& client) {
          return client.run(
              "GET", pool_target(arguments_.name) + "/hosts", nullptr,
              [](const Json& answer) { return host_table(answer.value("hosts", Json::array())); });
        }));
    add_volume_name(leaf(&app_, "handover", "Let another host have an attached volume, at once",
                         [this](Client& client) {
                           return client.run(
                               "POST", parse_volume_name(arguments_.name).target() + "/handover",
                               Json::object(), hand_over_text);
                         }));
  }

  void add_attach_commands() {
    CLI::App* attach =
        leaf(&app_, "attach", "Serve a volume; prints its socket and how to use it",
             [this](Client& client) { return holdfast::attach(client, arguments_); });
    attach->add_option("volume", arguments_.name, "The volume, or a snapshot (read-only)")
        ->option_text("POOL/VOLUME[@SNAPSHOT]")
        ->required();
    CLI::Option* nbd = attach->add_flag("--nbd", arguments_.nbd, "Over NBD (the default)");
    attach
        ->add_flag("--vhost", arguments_.vhost,
                   "Over vhost-user-blk, the fast path for machines of this host")
        ->excludes(nbd);
    attach->add_flag("--read-only", arguments_.read_only, "Refuse writes");
    attach
        ->add_option("--qmp", arguments_.qmp,
                     "A QMP socket of the virtual machine, for holdfastd alone: it pauses the "
                     "machine while requests are held for long, and resumes it")
        ->type_name("SOCKET");
    add_sharing_options(attach);
    attach->footer(
        "A volume stays attached over restarts of holdfastd until it is detached. Examples:\n"
        "  holdfast attach vms/disk1 --vhost      # prints what to paste for QEMU and libvirt\n"
        "  holdfast attach vms/disk1\n"
        "  qemu-system-x86_64 ... -blockdev driver=nbd,node-name=disk1,reconnect-delay=300,\\\n"
        "    server.type=unix,server.path=/run/holdfast/vms.disk1.nbd.sock,export=disk1");
    add_volume_name(leaf(&app_, "detach", "Stop serving a volume", [this](Client& client) {
      return client.run("POST", parse_volume_name(arguments_.name).target() + "/detach",
                        Json::object(), [](const Json& answer) {
                          return "Volume " + text_of(answer, "pool") + "/" +
                                 text_of(answer, "volume") + " is detached\n";
                        });
    }));
  }

  int import_file(Client& client) {
    const Names names = parse_volume_name(arguments_.name);
    ImportArguments importing;
    importing.file = arguments_.file;
    importing.pool = names.pool;
    importing.volume = names.volume;
    importing.format = arguments_.format;
    if (!arguments_.size.empty()) importing.size_bytes = parse_size(arguments_.size);
    importing.shows_progress = !arguments_.json;
    const AskDaemon ask = [&client](const char* method, const std::string& target,
                                    const Json& body) { return client.ask(method, target, body); };
    const auto imported = import_image(ask, importing);
    if (!imported.ok()) return client.refuse(imported.error());
    return client.print(imported.value(), [](const Json& answer) {
      return details_and(answer, volume_details, "The image is imported; attach it to serve it");
    });
  }

  int export_file(Client& client) {
    const std::size_t at = arguments_.name.find('@');
    if (at != std::string::npos) parse_snapshot_name(arguments_.name);
    const Names names = parse_volume_name(arguments_.name.substr(0, at));
    const bool is_stream = arguments_.file == "-";
    if (is_stream && arguments_.json) {
      throw UsageError{"--json and an export to '-' would both write to standard output"};
    }
    ExportArguments exporting;
    exporting.pool = names.pool;
    exporting.volume = names.volume;
    if (at != std::string::npos) exporting.snapshot = arguments_.name.substr(at + 1);
    exporting.file = arguments_.file;
    exporting.format = arguments_.format;
    exporting.since = arguments_.since;
    exporting.shows_progress = !arguments_.json;
    const AskDaemon ask = [&client](const char* method, const std::string& target,
                                    const Json& body) { return client.ask(method, target, body); };
    const auto exported = export_image(ask, exporting);
    if (!exported.ok()) return client.refuse(exported.error());
    if (is_stream) return kDone;
    return client.print(exported.value(), [this](const Json& answer) {
      return arguments_.name + " is exported to " + text_of(answer, "file") + " (" +
             text_of(answer, "format") + ")\n";
    });
  }

  void add_image_commands() {
    CLI::App* importing =
        leaf(&app_, "import", "Make a volume of an image, or bring one up to date",
             [this](Client& client) { return import_file(client); });
    importing->add_option("file", arguments_.file, "The image; '-' for standard input")
        ->option_text("FILE")
        ->required();
    add_volume_name(importing);
    importing
        ->add_option("--format", arguments_.format,
                     "raw, qcow2, vhd, vmdk; rbd-diff and rbd for what 'rbd export-diff' and 'rbd "
                     "export --export-format 2' write; else it is recognized")
        ->type_name("FORMAT");
    importing
        ->add_option("--size", arguments_.size,
                     "What a raw image has to have, which may come from a pipe")
        ->type_name("SIZE");
    importing->footer(
        "Until all is there the volume has another name, and nobody can use it; an import that\n"
        "fails or is killed leaves nothing. Examples:\n"
        "  holdfast import debian.qcow2 vms/web\n"
        "  zcat disk.raw.gz | holdfast import - vms/web --format raw\n"
        "  rbd export-diff pool/img@a - | holdfast import - vms/img --format rbd-diff\n"
        "  rbd export-diff --from-snap a pool/img@b - | holdfast import - vms/img --format "
        "rbd-diff");
    CLI::App* exporting = leaf(&app_, "export", "Write a volume or a snapshot into an image",
                               [this](Client& client) { return export_file(client); });
    exporting->add_option("volume", arguments_.name, "What to export, also while it is in use")
        ->option_text("POOL/VOLUME[@SNAPSHOT]")
        ->required();
    exporting->add_option("file", arguments_.file, "The image; '-' for standard output")
        ->option_text("FILE")
        ->required();
    exporting
        ->add_option("--format", arguments_.format,
                     "raw, qcow2, vhd, vmdk; rbd-diff for 'rbd import-diff', rbd (with all "
                     "snapshots) for 'rbd import --export-format 2'; else what FILE ends with, or "
                     "raw")
        ->type_name("FORMAT");
    exporting
        ->add_option("--since", arguments_.since, "rbd-diff: only what changed since this snapshot")
        ->type_name("SNAPSHOT");
    exporting->footer(
        "Examples:\n"
        "  holdfast export vms/web@monday web.qcow2\n"
        "  holdfast export vms/web@b - --format rbd-diff --since a | rbd import-diff - pool/web");
  }

  void add_other_commands() {
    CLI::App* status =
        leaf(&app_, "status", "The daemon, its pools, and what it serves", [this](Client& client) {
          if (arguments_.watch) return watch_status(client, arguments_);
          return client.run("GET", "/v1/status", nullptr, status_text);
        });
    status->add_flag("--watch", arguments_.watch, "Again every second");
    leaf(&app_, "metrics", "Figures for monitoring, in Prometheus's text format",
         [](Client& client) { return client.run_plain("/metrics"); });
    CLI::App* completion =
        app_.add_subcommand("completion", "Print the completion script of a shell");
    completion->require_subcommand(1);
    completion->fallthrough();
    completion->footer("");
    leaf(completion, "bash", "source <(holdfast completion bash)", [](Client&) {
      std::fputs(kCompletionBash, stdout);
      return kDone;
    });
  }

  CLI::App& app_;
  Arguments& arguments_;
  Action action_;
};

// CLI11's own words, but with what a person may have meant.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* deepest = &app;
  while (!deepest->get_subcommands().empty()) deepest = deepest->get_subcommands().front();
  std::vector<std::string> known;
  for (const CLI::App* command : deepest->get_subcommands([](const CLI::App*) { return true; })) {
    known.push_back(command->get_name());
  }
  const auto extras = app.remaining(true);
  std::string message = error.what();
  if (!extras.empty() && (error.get_name() == "ExtrasError" || !known.empty())) {
    const std::string& first = extras.front();
    message = "unknown " +
              std::string(first.starts_with("-") ? "option"
                          : known.empty()        ? "argument"
                                                 : "command") +
              " '" + first + "'" + suggestion(first, known);
  } else if (!known.empty() && error.get_name() == "RequiredError") {
    message = "a command is missing; there are";
    for (const std::string& name : known) message += (name == known.front() ? " " : ", ") + name;
  }
  return message;
}

int main_program(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Virtual disks that keep their virtual machines running.", "holdfast");
  app.set_version_flag("--version", "holdfast " HOLDFAST_VERSION);
  app.add_option("--runtime-dir", arguments.runtime_directory,
                 "The daemon's directory (default: /run/holdfast)")
      ->type_name("DIR")
      ->envname("HOLDFAST_RUNTIME_DIR");
  app.add_flag("--json", arguments.json, "Answer in JSON");
  app.footer(
      "Examples:\n"
      "  holdfast pool create vms dir:/srv/vms\n"
      "  holdfast pool create web rados:POOL/NAMESPACE --id NAME\n"
      "  holdfast volume create vms/disk1 --size 20G\n"
      "  holdfast attach vms/disk1\n"
      "  holdfast status --watch\n\n"
      "Exit status: 0 done, 1 refused or failed, 2 wrong use. See also: holdfast COMMAND --help");
  const Commands commands(app, arguments);
  try {
    app.parse(argc, argv);
    if (!commands.action()) throw UsageError{"a command is missing"};
    while (arguments.runtime_directory.size() > 1 && arguments.runtime_directory.back() == '/') {
      arguments.runtime_directory.pop_back();
    }
    Client client(arguments);
    return commands.action()(client);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);
    complain(usage_message(app, error) + "; see holdfast --help");
    return kUsage;
  } catch (const UsageError& error) {
    complain(error.message);
    return kUsage;
  }
}

}  // namespace
}  // namespace holdfast

int main(int argc, char** argv) {
  try {
    return holdfast::main_program(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "holdfast: %s\n", error.what());
    return 1;
  }
}
