// SPDX-License-Identifier: Apache-2.0
#include "host/frontend.h"

#include "base/assert.h"
#include "serve/nbd/server.h"

namespace holdfast {
namespace {

void add_fault(ClientReport& report, std::string_view name, std::uint64_t count) {
  if (count != 0) report.faults.emplace_back(name, count);
}

class NbdFrontend final : public Frontend {
 public:
  NbdFrontend(Executor& executor, NbdExport exported) : server_(executor, std::move(exported)) {}

  void accept(std::unique_ptr<Stream> stream) override { server_.accept(std::move(stream)); }
  Task<void> close() override { return server_.close(); }
  ClientReport report() const override {
    ClientReport report;
    report.count = server_.client_count();
    const NbdStatistics& statistics = server_.statistics();
    for (std::size_t i = 0; i < kNbdFaultCount; ++i) {
      const auto fault = static_cast<NbdFault>(i);
      add_fault(report, nbd_fault_name(fault), statistics.fault_count(fault));
    }
    return report;
  }

 private:
  NbdServer server_;
};

class VhostFrontend final : public Frontend {
 public:
  VhostFrontend(VhostEnvironment environment, BlockDevice& device, bool read_only)
      : server_(std::move(environment), device, read_only) {}

  void accept(std::unique_ptr<Stream> stream) override { server_.accept(std::move(stream)); }
  Task<void> close() override { return server_.close(); }
  ClientReport report() const override {
    ClientReport report;
    report.count = server_.session_count();
    const VhostStatistics& statistics = server_.statistics();
    report.resumed_requests = statistics.requests_resumed;
    report.broken_devices = statistics.devices_broken;
    for (std::size_t i = 0; i < kVhostFaultCount; ++i) {
      const auto fault = static_cast<VhostFault>(i);
      add_fault(report, vhost_fault_name(fault), statistics.fault_count(fault));
    }
    return report;
  }
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
