// SPDX-License-Identifier: Apache-2.0
//
// What serves one volume to clients in one protocol.
//
// Thread: the executor's, which is that of the device. Lifetime: close() must have finished before
// it is destroyed; the executor and the device outlive it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "block/block_device.h"
#include "host/commands.h"
#include "io/stream.h"
#include "io/task.h"
#include "serve/vhost/server.h"

namespace holdfast {

class Frontend {
 public:
  Frontend() = default;
  Frontend(const Frontend&) = delete;
  Frontend& operator=(const Frontend&) = delete;
  virtual ~Frontend() = default;

  virtual void accept(std::unique_ptr<Stream> stream) = 0;
  // Takes no more clients, cuts those there are, and waits until every request in the device has
  // completed.
  virtual Task<void> close() = 0;
  virtual ClientReport report() const = 0;
  // The device has another size: tells the clients, where the protocol has a word for it.
  virtual void size_changed() {}
};

struct FrontendSettings {
  VolumeName name;
  std::string protocol;  // one that check_protocol() accepts
  bool read_only = false;
};

// Names in messages what can be used instead.
Result<void> check_protocol(const std::string& protocol);
std::unique_ptr<Frontend> make_frontend(const VhostEnvironment& environment, BlockDevice& device,
                                        const FrontendSettings& settings);

}  // namespace holdfast
