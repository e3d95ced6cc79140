// SPDX-License-Identifier: Apache-2.0
#include "host/frontend.h"

#include "base/assert.h"
#include "serve/nbd/server.h"

namespace holdfast {
namespace {

class NbdFrontend final : public Frontend {
 public:
  NbdFrontend(Executor& executor, NbdExport exported) : server_(executor, std::move(exported)) {}

  void accept(std::unique_ptr<Stream> stream) override { server_.accept(std::move(stream)); }
  Task<void> close() override { return server_.close(); }
  std::size_t client_count() const override { return server_.connection_count(); }

 private:
  NbdServer server_;
};

}  // namespace

Result<void> check_protocol(const std::string& protocol) {
  if (protocol == "nbd") return {};
  if (protocol == "vhost") {
    return Error(ErrorCode::unsupported,
                 "this holdfastd cannot serve vhost-user-blk yet; attach with --nbd instead");
  }
  return Error(ErrorCode::invalid_argument,
               "'" + protocol.substr(0, 20) + "' is no protocol; use nbd");
}

std::unique_ptr<Frontend> make_frontend(Executor& executor, BlockDevice& device,
                                        const FrontendSettings& settings) {
  HOLDFAST_ASSERT(settings.protocol == "nbd");
  NbdExport exported{settings.name.volume, "Holdfast volume " + settings.name.to_string(), device,
                     settings.read_only};
  return std::make_unique<NbdFrontend>(executor, std::move(exported));
}

}  // namespace holdfast
