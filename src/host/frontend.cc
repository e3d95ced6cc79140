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

class VhostFrontend final : public Frontend {
 public:
  VhostFrontend(VhostEnvironment environment, BlockDevice& device, bool read_only)
      : server_(std::move(environment), device, read_only) {}

  void accept(std::unique_ptr<Stream> stream) override { server_.accept(std::move(stream)); }
  Task<void> close() override { return server_.close(); }
  std::size_t client_count() const override { return server_.session_count(); }
  void size_changed() override { server_.announce_size(); }

 private:
  VhostServer server_;
};

}  // namespace

Result<void> check_protocol(const std::string& protocol) {
  if (protocol == "nbd" || protocol == "vhost") return {};
  return Error(ErrorCode::invalid_argument,
               "'" + protocol.substr(0, 20) + "' is no protocol; use nbd or vhost");
}

std::unique_ptr<Frontend> make_frontend(const VhostEnvironment& environment, BlockDevice& device,
                                        const FrontendSettings& settings) {
  if (settings.protocol == "vhost") {
    return std::make_unique<VhostFrontend>(environment, device, settings.read_only);
  }
  HOLDFAST_ASSERT(settings.protocol == "nbd");
  NbdExport exported{settings.name.volume, "Holdfast volume " + settings.name.to_string(), device,
                     settings.read_only};
  return std::make_unique<NbdFrontend>(environment.executor, std::move(exported));
}

}  // namespace holdfast
