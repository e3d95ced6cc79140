// SPDX-License-Identifier: Apache-2.0
#include "cli/transfer.h"

#include "api/client.h"
#include "cli/output.h"

namespace holdfast {

Result<Transfer> Transfer::begin(const AskDaemon& ask, const std::string& pool,
                                 const std::string& volume, const char* what, const Json& body) {
  Transfer transfer(ask);
  const Json answer = TRY(
      ask("POST", "/v1/pools/" + escape_url(pool) + "/volumes/" + escape_url(volume) + "/" + what,
          body));
  transfer.pool_ = pool;
  transfer.name_ = text_of(answer, "transfer");
  transfer.socket_ = text_of(answer, "socket");
  transfer.uri_ = text_of(answer, "uri");
  transfer.snapshot_ = text_of(answer, "snapshot");
  transfer.size_bytes_ = answer.value("size_bytes", std::uint64_t{0});
  transfer.is_shared_ = answer.value("shared", false);
  const auto connected = transfer.connect();
  if (connected.ok()) return transfer;
  (void)transfer.end();
  return connected.error();
}

Result<void> Transfer::connect() {
  // The old connection goes after the new one is there: with none, the daemon would undo it all.
  std::unique_ptr<NbdDevice> fresh = TRY(NbdDevice::connect(socket_, name_));
  device_ = std::move(fresh);
  return {};
}

Result<void> Transfer::step(std::uint64_t size_bytes, const std::string& snapshot) {
  Json body = {{"size_bytes", size_bytes}};
  if (!snapshot.empty()) body["snapshot"] = snapshot;
  TRY((*ask_)("POST",
              "/v1/pools/" + escape_url(pool_) + "/transfers/" + escape_url(name_) + "/step",
              body));
  if (size_bytes == size_bytes_) return {};
  size_bytes_ = size_bytes;
  return connect();  // which sees the new size
}

Result<Json> Transfer::finish() {
  return (*ask_)("POST",
                 "/v1/pools/" + escape_url(pool_) + "/transfers/" + escape_url(name_) + "/finish",
                 Json::object());
}

Result<bool> Transfer::end() {
  if (is_shared_) return true;
  const auto ended = (*ask_)(
      "DELETE", "/v1/pools/" + escape_url(pool_) + "/transfers/" + escape_url(name_), nullptr);
  if (ended.ok()) return true;
  if (ended.error().code() == ErrorCode::not_found) return false;
  return ended.error();
}

}  // namespace holdfast
