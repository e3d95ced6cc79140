// SPDX-License-Identifier: Apache-2.0
#include "api/client.h"

#include <httplib.h>
#include <sys/socket.h>

#include "base/limits.h"

namespace holdfast {

Result<ApiReply> call_api(const std::string& socket_path, const std::string& method,
                          const std::string& target, const std::string& body) {
  try {
    httplib::Client client(socket_path, 1);
    client.set_address_family(AF_UNIX);
    client.set_connection_timeout(limits::kApiSocketTime);
    client.set_read_timeout(limits::kApiAnswerTime + limits::kApiSocketTime);
    httplib::Request request;
    request.method = method;
    request.path = target;
    request.headers = {{"Host", "localhost"}, {"Connection", "close"}};
    if (!body.empty()) {
      request.body = body;
      request.headers.emplace("Content-Type", "application/json");
    }
    const httplib::Result result = client.send(request);
    if (!result) {
      if (result.error() == httplib::Error::Connection ||
          result.error() == httplib::Error::ConnectionTimeout) {
        return Error(ErrorCode::not_found, "nobody listens on " + socket_path);
      }
      return Error(ErrorCode::path_failure, "the connection to holdfastd broke (" +
                                                httplib::to_string(result.error()) + ")");
    }
    return ApiReply{result->status, result->body};
  } catch (const std::exception& error) {
    return Error(ErrorCode::path_failure, std::string("talking to holdfastd: ") + error.what());
  }
}

std::string escape_url(std::string_view text) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || std::string_view("-._~").find(c) != std::string_view::npos) {
      out.push_back(c);
    } else {
      out.push_back('%');
      out.push_back(kHex[byte >> 4]);
      out.push_back(kHex[byte & 15]);
    }
  }
  return out;
}

}  // namespace holdfast
