// SPDX-License-Identifier: Apache-2.0
#include "io/rados_cluster.h"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "base/log.h"

namespace holdfast {

using Json = nlohmann::json;

// Outlives the cluster where a connection is still in use: its operations are not answered yet.
struct RadosClusterState : std::enable_shared_from_this<RadosClusterState> {
  explicit RadosClusterState(RadosAddress where) : address(std::move(where)) {}

  // False: nobody runs jobs any more.
  bool push(std::function<void()> job) {
    const std::lock_guard lock(mutex);
    if (is_stopped) return false;
    jobs.push_back(std::move(job));
    not_empty.notify_one();
    return true;
  }
  void thread_main();
  std::shared_ptr<RadosConnection> find(RadosLane lane);  // null: not connected, or not any more
  Result<std::shared_ptr<RadosConnection>> make_connection(RadosLane lane);
  void replace(RadosLane lane);

  struct Space {
    RadosSpace space;
    std::chrono::steady_clock::time_point at;
  };

  const RadosAddress address;
  std::mutex mutex;  // guards what follows
  std::condition_variable not_empty;
  std::deque<std::function<void()>> jobs;
  bool is_stopping = false;
  bool is_stopped = false;
  std::condition_variable stopped;
  std::size_t connection_count = 0;  // that are not closed
  std::array<std::shared_ptr<RadosConnection>, 2> connections;
  std::array<bool, 2> is_replacing{};
  std::optional<Space> space;
  struct Taken {
    std::uint64_t bytes = 0;
    std::chrono::steady_clock::time_point at;
  };
  std::deque<Taken> taken;  // lately, oldest first
  bool is_asking_space = false;
};

namespace {

std::mutex registry_mutex;  // guards the registry
std::map<RadosAddress, std::weak_ptr<RadosCluster>>& registry() {
  static auto* const all =
      new std::map<RadosAddress, std::weak_ptr<RadosCluster>>();  // NOLINT: outlives all threads
  return *all;
}

std::size_t index_of(RadosLane lane) {
  return lane == RadosLane::data ? 0 : 1;
}

std::string client_name(const RadosAddress& address) {
  return "client." + (address.client_id.empty() ? std::string("admin") : address.client_id);
}

// What we need to be so, whatever the configuration file says.
int configure(rados_t cluster, const RadosAddress& address) {
  const std::string seconds = std::to_string(limits::kRadosMonitorTimeoutSeconds);
  const std::pair<const char*, std::string> settings[] = {
      {"client_mount_timeout", seconds},
      {"rados_mon_op_timeout", seconds},
      // An operation that was given up could still be done, after others: it is waited for.
      {"rados_osd_op_timeout", "0"},
      // A submission never blocks the loop; volumes bound what is in flight.
      {"objecter_inflight_ops", "0"},
      {"objecter_inflight_op_bytes", "0"},
      // The daemon has its own log; a library writes nowhere.
      {"log_file", ""},
      {"log_to_stderr", "false"},
      {"err_to_stderr", "false"},
      {"log_to_syslog", "false"},
      {"err_to_syslog", "false"},
      {"admin_socket", ""},
  };
  for (const auto& [name, value] : settings) {
    const int error = rados_conf_set(cluster, name, value.c_str());
    if (error < 0) return error;
  }
  if (address.keyring_file.empty()) return 0;
  return rados_conf_set(cluster, "keyring", address.keyring_file.c_str());
}

Error connect_error(const RadosAddress& address, int error) {
  const std::string who = client_name(address);
  const std::string file =
      address.configuration_file.empty() ? "/etc/ceph/ceph.conf" : address.configuration_file;
  const std::string what = "cannot connect to the Ceph cluster of " + file + " as " + who + ": ";
  switch (error) {
    case ENOENT:
      return Error(
          ErrorCode::not_found,
          what + "there is no key for it" +
              (address.keyring_file.empty() ? std::string() : " in " + address.keyring_file) +
              "; get it with 'ceph auth get " + who + "', and say where it is with --keyring");
    case EACCES:
    case EPERM:
      return Error(
          ErrorCode::invalid_argument,
          what + "the cluster does not accept its key, or there is none for it" +
              (address.keyring_file.empty() ? std::string() : " in " + address.keyring_file) +
              "; 'ceph auth get " + who +
              "' has it, and --keyring says where it is. It needs the capabilities mon "
              "'profile rbd' osd 'allow rwx pool=" +
              address.pool + "'");
    case ETIMEDOUT:
      return Error(ErrorCode::path_failure,
                   what + "no monitor answers within " +
                       std::to_string(limits::kRadosMonitorTimeoutSeconds) +
                       " s; check 'mon host' in that file, network and cluster");
    default:
      return Error(ErrorCode::path_failure, what + std::strerror(error));
  }
}

std::uint64_t number_of(const Json& object, const char* name) {
  const auto at = object.find(name);
  if (at == object.end() || !at->is_number()) return 0;
  if (at->is_number_unsigned()) return at->get<std::uint64_t>();
  const double value = at->get<double>();
  return value <= 0 ? 0 : static_cast<std::uint64_t>(value);
}

// Of the answer to "df detail".
std::optional<RadosSpace> parse_space(const std::string& text, const std::string& pool) {
  const Json answer = Json::parse(text, nullptr, false);
  if (!answer.is_object() || !answer.contains("pools") || !answer["pools"].is_array()) {
    return std::nullopt;
  }
  for (const Json& each : answer["pools"]) {
    if (!each.is_object() || each.value("name", "") != pool || !each.contains("stats")) continue;
    const Json& stats = each["stats"];
    if (!stats.is_object()) return std::nullopt;
    const std::uint64_t stored = number_of(stats, "stored");
    RadosSpace space;
    space.available_bytes = number_of(stats, "max_avail");
    space.capacity_bytes = stored + space.available_bytes;
    const std::uint64_t quota = number_of(stats, "quota_bytes");
    if (quota != 0 && quota < space.capacity_bytes) {
      space.capacity_bytes = quota;
      space.available_bytes = quota - std::min(quota, stored);
    }
    return space;
  }
  return std::nullopt;
}

}  // namespace

// --- Connections ---

RadosConnection::~RadosConnection() {
  if (io != nullptr) rados_ioctx_destroy(io);
  if (cluster != nullptr) rados_shutdown(cluster);
}

void RadosConnection::was_blocked() {
  const std::shared_ptr<RadosClusterState> state = owner.lock();
  if (state == nullptr) return;
  const std::size_t index = index_of(lane);
  {
    const std::lock_guard lock(state->mutex);
    if (state->connections[index].get() != this || state->is_replacing[index]) return;
    state->is_replacing[index] = true;
  }
  state->push([raw = state.get(), of = lane] { raw->replace(of); });
}

std::string RadosConnection::client_address() const {
  char* addresses = nullptr;
  if (rados_getaddrs(cluster, &addresses) != 0 || addresses == nullptr) return "";
  std::string text(addresses);
  rados_buffer_free(addresses);
  return text;
}

Result<std::shared_ptr<RadosConnection>> RadosClusterState::make_connection(RadosLane lane) {
  auto made = std::make_unique<RadosConnection>();
  made->lane = lane;
  made->owner = weak_from_this();
  int error = rados_create2(&made->cluster, "ceph", client_name(address).c_str(), 0);
  if (error < 0) {
    made->cluster = nullptr;
    return Error(ErrorCode::internal,
                 "cannot set up a client of Ceph: " + std::string(std::strerror(-error)));
  }
  const char* file =
      address.configuration_file.empty() ? nullptr : address.configuration_file.c_str();
  error = rados_conf_read_file(made->cluster, file);
  if (error < 0) {
    return Error(ErrorCode::not_found,
                 "cannot read the Ceph configuration " +
                     (file == nullptr ? std::string("(/etc/ceph/ceph.conf)") : std::string(file)) +
                     ": " + std::strerror(-error) + "; say where it is with --conf");
  }
  error = configure(made->cluster, address);
  if (error < 0) {
    return Error(ErrorCode::internal,
                 "cannot set up a client of Ceph: " + std::string(std::strerror(-error)));
  }
  error = rados_connect(made->cluster);
  if (error < 0) return connect_error(address, -error);
  error = rados_ioctx_create(made->cluster, address.pool.c_str(), &made->io);
  if (error < 0) {
    made->io = nullptr;
    if (error != -ENOENT) return rados_error(address, "use pool '" + address.pool + "'", -error);
    return Error(ErrorCode::not_found, "the Ceph cluster has no pool '" + address.pool +
                                           "'; make it: ceph osd pool create " + address.pool +
                                           " && ceph osd pool application enable " + address.pool +
                                           " holdfast");
  }
  rados_ioctx_set_namespace(made->io, address.name_space.c_str());
  rados_set_pool_full_try(made->io);
  {
    const std::lock_guard lock(mutex);
    ++connection_count;
  }
  // Closed on the thread that made it, which waits for that: closing waits for librados' threads,
  // of which one may have been the last to let go.
  auto close = [state = shared_from_this()](RadosConnection* connection) {
    const bool is_queued = state->push([raw = state.get(), connection] {
      delete connection;  // NOLINT: the pointer's own deleter
      const std::lock_guard lock(raw->mutex);
      --raw->connection_count;
    });
    HOLDFAST_ASSERT(is_queued);
  };
  return std::shared_ptr<RadosConnection>(made.release(), std::move(close));
}

std::shared_ptr<RadosConnection> RadosClusterState::find(RadosLane lane) {
  const std::lock_guard lock(mutex);
  return connections[index_of(lane)];
}

void RadosClusterState::replace(RadosLane lane) {
  auto made = make_connection(lane);
  std::shared_ptr<RadosConnection> old;
  {
    const std::lock_guard lock(mutex);
    is_replacing[index_of(lane)] = false;  // the next operation that fails asks again
    if (is_stopping) return;
    if (made.ok()) {
      old = std::exchange(connections[index_of(lane)], std::move(made).value());
    }
  }
  if (made.ok()) {
    log_warning("the Ceph cluster had put this client on its blocklist; there is a new connection");
  } else {
    log_warning(made.error().message());
  }
}

// --- The cluster ---

RadosCluster::RadosCluster(RadosAddress address)
    : state_(std::make_shared<RadosClusterState>(std::move(address))) {
  // Signals are for the threads that expect them: neither this one, nor those that librados makes.
  sigset_t all;
  sigset_t previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  thread_ = std::thread([state = state_] { state->thread_main(); });
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
}

RadosCluster::~RadosCluster() {
  std::array<std::shared_ptr<RadosConnection>, 2> connections;
  {
    const std::lock_guard lock(state_->mutex);
    state_->is_stopping = true;
    connections.swap(state_->connections);
  }
  for (auto& connection : connections) connection.reset();  // a job each, if nobody has it
  std::unique_lock lock(state_->mutex);
  state_->not_empty.notify_one();
  const bool is_over = state_->stopped.wait_for(lock, limits::kRadosCloseTime,
                                                [this] { return state_->is_stopped; });
  lock.unlock();
  // With operations that are never answered it stays, and so does what they touch.
  is_over ? thread_.join() : thread_.detach();
}

void RadosClusterState::thread_main() {
  std::unique_lock lock(mutex);
  for (;;) {
    not_empty.wait(lock,
                   [this] { return !jobs.empty() || (is_stopping && connection_count == 0); });
    if (jobs.empty()) break;
    const std::function<void()> job = std::move(jobs.front());
    jobs.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
  is_stopped = true;
  stopped.notify_one();
}

std::shared_ptr<RadosCluster> RadosCluster::find(const RadosAddress& address) {
  const std::lock_guard lock(registry_mutex);
  const auto at = registry().find(address);
  return at == registry().end() ? nullptr : at->second.lock();
}

std::shared_ptr<RadosCluster> RadosCluster::find_or_make(const RadosAddress& address) {
  const std::lock_guard lock(registry_mutex);
  std::erase_if(registry(), [](const auto& each) { return each.second.expired(); });
  std::weak_ptr<RadosCluster>& place = registry()[address];
  std::shared_ptr<RadosCluster> cluster = place.lock();
  if (cluster == nullptr) {
    cluster = std::make_shared<RadosCluster>(address);
    place = cluster;
  }
  return cluster;
}

const RadosAddress& RadosCluster::address() const {
  return state_->address;
}

void RadosCluster::run(std::function<void(RadosClusterState&)> job) {
  const bool is_queued = state_->push([state = state_.get(), of = std::move(job)] { of(*state); });
  HOLDFAST_ASSERT(is_queued);
}

std::shared_ptr<RadosConnection> RadosCluster::connection(RadosLane lane) const {
  std::shared_ptr<RadosConnection> connection = state_->find(lane);
  HOLDFAST_ASSERT(connection != nullptr);
  return connection;
}

std::optional<RadosSpace> RadosCluster::known_space() {
  const auto now = std::chrono::steady_clock::now();
  {
    const std::lock_guard lock(state_->mutex);
    if (!state_->space.has_value()) return std::nullopt;
    const auto age = now - state_->space->at;
    if (age > limits::kRadosSpaceAgeMax) return std::nullopt;
    if (age < limits::kRadosSpaceTime || std::exchange(state_->is_asking_space, true)) {
      return state_->space->space;
    }
  }
  run([](RadosClusterState& state) {
    (void)ask_space(state);
    const std::lock_guard lock(state.mutex);
    state.is_asking_space = false;
  });
  const std::lock_guard lock(state_->mutex);
  return state_->space->space;
}

std::optional<RadosSpace> RadosCluster::last_space() const {
  const std::lock_guard lock(state_->mutex);
  if (!state_->space.has_value()) return std::nullopt;
  const auto now = std::chrono::steady_clock::now();
  auto& taken = state_->taken;
  while (!taken.empty() && now - taken.front().at > limits::kRadosSpaceLag) taken.pop_front();
  RadosSpace space = state_->space->space;
  for (const auto& each : taken) {
    space.available_bytes -= std::min(space.available_bytes, each.bytes);
  }
  return space;
}

void RadosCluster::note_taken(std::uint64_t bytes) {
  const std::lock_guard lock(state_->mutex);
  state_->taken.push_back({bytes, std::chrono::steady_clock::now()});
  if (state_->taken.size() > limits::kRadosTakenMax) {
    state_->taken[1].bytes += state_->taken.front().bytes;
    state_->taken.pop_front();
  }
}

// --- Jobs ---

Result<void> connect_cluster(RadosClusterState& state) {
  for (const RadosLane lane : {RadosLane::data, RadosLane::leases}) {
    if (state.find(lane) != nullptr) continue;
    auto made = TRY(state.make_connection(lane));
    const std::lock_guard lock(state.mutex);
    if (!state.is_stopping) state.connections[index_of(lane)] = std::move(made);
  }
  return {};
}

Result<RadosSpace> ask_space(RadosClusterState& state) {
  const std::shared_ptr<RadosConnection> connection = state.find(RadosLane::data);
  if (connection == nullptr) return Error(ErrorCode::busy, "the pool is being closed");
  const char* command = R"({"prefix": "df", "detail": "detail", "format": "json"})";
  char* output = nullptr;
  char* status = nullptr;
  std::size_t output_bytes = 0;
  std::size_t status_bytes = 0;
  const int error = rados_mon_command(connection->cluster, &command, 1, "", 0, &output,
                                      &output_bytes, &status, &status_bytes);
  const std::string text = output == nullptr ? std::string() : std::string(output, output_bytes);
  if (output != nullptr) rados_buffer_free(output);
  if (status != nullptr) rados_buffer_free(status);
  if (error < 0) return rados_error(state.address, "ask the Ceph monitors for free space", -error);
  const std::optional<RadosSpace> space = parse_space(text, state.address.pool);
  if (!space.has_value() || space->capacity_bytes == 0) {
    return Error(ErrorCode::path_failure,
                 "the Ceph cluster does not say how much space pool '" + state.address.pool +
                     "' has: is a manager (ceph-mgr) running? See ceph df");
  }
  const std::lock_guard lock(state.mutex);
  state.space = {*space, std::chrono::steady_clock::now()};
  return *space;
}

bool block_client(RadosClusterState& state, const std::string& client_address) {
  const std::shared_ptr<RadosConnection> connection = state.find(RadosLane::data);
  if (connection == nullptr) return false;
  std::string blocked = client_address;
  const int error = rados_blocklist_add(connection->cluster, blocked.data(), 0);
  if (error < 0) {
    log_info(
        "the client " + client_address +
        " of a former owner was not put on the Ceph cluster's blocklist: " + std::strerror(-error));
    return false;
  }
  log_info("the client " + client_address +
           " of a former owner is on the Ceph cluster's blocklist now");
  return true;
}

// What we send from then on tells the OSDs of the list, if they do not know it yet.
bool wait_for_latest_map(RadosClusterState& state) {
  bool is_done = true;
  for (const RadosLane lane : {RadosLane::data, RadosLane::leases}) {
    const std::shared_ptr<RadosConnection> connection = state.find(lane);
    is_done =
        connection != nullptr && rados_wait_for_latest_osdmap(connection->cluster) == 0 && is_done;
  }
  return is_done;
}

}  // namespace holdfast
