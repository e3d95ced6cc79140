// SPDX-License-Identifier: Apache-2.0
//
// Behind rados_client.h, for io/ only: the connection of this process to one pool and namespace,
// and one thread for what of librados blocks.
//
// Threading: any thread; jobs run on that one.
#pragma once

#include <rados/librados.h>

#include <array>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/result.h"
#include "io/rados_client.h"

namespace holdfast {

struct RadosClusterState;

// One client of the cluster. Closed on the cluster's thread once nobody has it any more; so it is
// never closed under an operation.
struct RadosConnection {
  RadosConnection() = default;
  RadosConnection(const RadosConnection&) = delete;
  RadosConnection& operator=(const RadosConnection&) = delete;
  ~RadosConnection();

  // The cluster answers this client no more: have another one made.
  void was_blocked();
  std::string client_address() const;

  rados_t cluster = nullptr;
  rados_ioctx_t io = nullptr;
  RadosLane lane = RadosLane::data;
  std::weak_ptr<RadosClusterState> owner;
};

class RadosCluster {
 public:
  static std::shared_ptr<RadosCluster> find_or_make(const RadosAddress& address);
  static std::shared_ptr<RadosCluster> find(const RadosAddress& address);  // null: there is none

  explicit RadosCluster(RadosAddress address);
  ~RadosCluster();  // waits a little until all is closed
  RadosCluster(const RadosCluster&) = delete;
  RadosCluster& operator=(const RadosCluster&) = delete;

  const RadosAddress& address() const;
  // On the thread for what blocks, in order; perhaps after this is gone.
  void run(std::function<void(RadosClusterState&)> job);
  // Of a cluster that is connected.
  std::shared_ptr<RadosConnection> connection(RadosLane lane) const;
  // Nothing: ask. What is not quite new is asked for again meanwhile.
  std::optional<RadosSpace> known_space();
  std::optional<RadosSpace> last_space() const;
  void note_taken(std::uint64_t bytes);

 private:
  const std::shared_ptr<RadosClusterState> state_;
  std::thread thread_;
};

// For jobs.
Result<void> connect_cluster(RadosClusterState& state);
Result<RadosSpace> ask_space(RadosClusterState& state);
bool block_client(RadosClusterState& state, const std::string& client_address);
bool wait_for_latest_map(RadosClusterState& state);

}  // namespace holdfast
