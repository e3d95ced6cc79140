// SPDX-License-Identifier: Apache-2.0
//
// One call to a daemon's control interface.
#pragma once

#include <string>

#include "base/result.h"

namespace holdfast {

struct ApiReply {
  int status = 0;
  std::string body;
};

// not_found: nobody listens there. path_failure: the connection broke.
Result<ApiReply> call_api(const std::string& socket_path, const std::string& method,
                          const std::string& target, const std::string& body);

// For a part of a path or a query.
std::string escape_url(std::string_view text);

}  // namespace holdfast
