// SPDX-License-Identifier: Apache-2.0
//
// The control interface: one table of routes, under /v1 but for /metrics. docs/openapi.json
// describes them, and a test holds the two together.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "host/host_thread.h"

namespace holdfast {

// What the answers say about the process.
struct ApiContext {
  HostThread& host;
  std::string version;
  std::string host_name;
  std::int64_t process_id = 0;
};

struct ApiRequest {
  std::string method;
  std::string path;        // decoded
  std::string pool_query;  // ?pool=
  std::string body;
};

struct ApiAnswer {
  int status = 500;
  std::string body;
  std::string content_type = "application/json";
};

struct RouteDescription {
  std::string_view method;
  std::string_view pattern;  // "/v1/pools/{pool}"
  std::string_view summary;
  int success_status;
};

std::vector<RouteDescription> describe_routes();

// Any request gets an answer; waits for the host. From any thread but the host's.
ApiAnswer answer(ApiContext& context, const ApiRequest& request);

// {"error": {"code": ..., "message": ...}} with the status that fits.
ApiAnswer error_answer(const Error& error);
// The same of an error lease-held, with "details": who has it, and for how long.
ApiAnswer lease_held_answer(const Error& error, const LeaseReport& lease);

}  // namespace holdfast
