// SPDX-License-Identifier: Apache-2.0
//
// VolumeService: everything of one attachment that lives on a service loop: socket, volume and
// frontend.
//
// Thread: the service loop's; the host reaches it by posting only (service_loop.h). Owner: its
// ServiceShard. Lifetime: close() must have finished before it is destroyed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "block/deferred_device.h"
#include "host/commands.h"
#include "host/frontend.h"
#include "host/hold_policy.h"
#include "io/executor.h"
#include "io/file_system.h"
#include "io/stream.h"
#include "io/task.h"
#include "pool/pool.h"
#include "volume/volume.h"

namespace holdfast {

// A service loop's way to the outside, so that tests can give their own. The functions are called
// on the executor's thread.
struct ServiceEnvironment {
  using OnAccept = std::function<void(std::unique_ptr<Stream>)>;

  Executor& executor;
  // One per pool: storage that hangs takes no other pool along.
  std::function<std::unique_ptr<FileSystem>()> make_file_system;
  std::function<Result<std::unique_ptr<Listener>>(const std::string& path, OnAccept on_accept)>
      listen;
  VhostEnvironment vhost;
};

struct ServiceSettings {
  FrontendSettings frontend;
  std::string socket_path;
  // A client wants a volume that is another host's: called on the executor, once for each time.
  std::function<void()> on_wanted = [] {};
};

// What is served of a volume.
struct ServedPart {
  std::string snapshot;    // this one, for reading
  bool is_shared = false;  // all of it, as it was closed, for reading: Volume::open_shared()
};

// Plain data, for the host to keep.
struct ServiceReport {
  bool is_open = true;  // false: it is being opened, and only its hold is known
  std::uint64_t size_bytes = 0;
  ClientReport clients;
  VolumeCounters counters;
  std::optional<HoldReport> hold;
};

class VolumeService {
 public:
  VolumeService(const ServiceEnvironment& environment, ServiceSettings settings);
  VolumeService(const VolumeService&) = delete;
  VolumeService& operator=(const VolumeService&) = delete;
  ~VolumeService();

  // From here on the socket is there, and clients wait in it. Does nothing when it listens already.
  Result<void> listen();
  // Opens the volume, then accepts. When it fails it may be called again; the socket stays.
  // The pool outlives the service.
  // `what`: the volume, a snapshot of it or, shared, the volume as it was closed.
  Task<Result<void>> open(Pool& pool, VolumeId id, ServedPart what, VolumeOptions options);
  // Accepts, though the volume is another host's now: what clients want waits until open().
  Task<Result<void>> await_volume(Pool& pool, VolumeId id);
  // Of a volume with a fence: closes it, so that another host can have it. Clients stay, and what
  // they want waits until open(), if ever. busy: its requests do not end; it is served as before.
  Task<Result<void>> hand_over();
  bool is_open() const { return frontend_ != nullptr && volume_ != nullptr; }
  Volume& volume() { return *volume_; }  // while it is open
  // Removes the socket, cuts the clients, closes the volume.
  Task<void> close();

  Task<Result<void>> resize(std::uint64_t size_bytes);
  void set_thick(bool thick);                   // when it is open
  std::optional<ServiceReport> report() const;  // nothing when it is neither open nor held
  void hint_space_is_short(bool is_short);
  // For how long requests have been held; nothing: they flow. Those that have waited for longer
  // than `fail_after` are failed. An attachment that is not open holds all that its clients want.
  std::optional<Duration> look_at_hold(Duration fail_after);

 private:
  Task<void> close_frontend(bool* closed);
  void make_deferred(BlockDeviceInfo info);

  const ServiceEnvironment& environment_;
  const ServiceSettings settings_;
  Condition changed_;
  MonotonicTime closed_since_;
  // In the order of their construction; torn down in reverse (but the socket goes first).
  const HoldState* opening_hold_ = nullptr;  // while the volume is being opened
  std::unique_ptr<Volume> volume_;
  std::unique_ptr<DeferredDevice> deferred_;  // of volumes that may go to other hosts
  std::unique_ptr<Frontend> frontend_;
  std::unique_ptr<Listener> listener_;
  TaskScope tasks_;
};

}  // namespace holdfast
