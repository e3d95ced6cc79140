// SPDX-License-Identifier: Apache-2.0
//
// HTTP on the control socket. Its own few threads, with bounds (limits.h): a request that is too
// large, too slow or not HTTP costs only itself.
#pragma once

#include <memory>
#include <string>

#include "api/routes.h"
#include "base/result.h"

namespace holdfast {

class ApiServer {
 public:
  // Replaces a socket file left behind: the caller holds the runtime directory's lock.
  static Result<std::unique_ptr<ApiServer>> start(ApiContext context, std::string socket_path);
  virtual ~ApiServer() = default;  // waits for requests under way, removes the socket
};

}  // namespace holdfast
