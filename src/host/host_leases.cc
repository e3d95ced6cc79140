// SPDX-License-Identifier: Apache-2.0
//
// Leases of volumes: who has them, and handing them over. Only shared pools have any; a local one
// is guarded as a whole, by a file lock.
#include "host/host.h"
#include "host/host_entries.h"
#include "host/leases.h"
#include "host/names.h"

namespace holdfast {
namespace {

Error no_leases(const std::string& pool) {
  return Error(ErrorCode::unsupported,
               "pool '" + pool +
                   "' is local: this daemon alone uses it, guarded by a file lock, and its volumes "
                   "have no leases");
}

}  // namespace

Result<Host::PoolEntry*> Host::find_shared_pool(const std::string& name) const {
  PoolEntry* entry = TRY(find_open_pool(name));
  if (!entry->pool->info().shared) return no_leases(name);
  return entry;
}

Result<void> Host::check_lease_times(const CreatePoolRequest& request) const {
  if (request.io_timeout_seconds < 1 ||
      request.io_timeout_seconds > limits::kPoolIoTimeoutSecondsMax) {
    return Error(ErrorCode::invalid_argument,
                 "an I/O timeout of " + std::to_string(request.io_timeout_seconds) +
                     " s is not possible: it must be from 1 to " +
                     std::to_string(limits::kPoolIoTimeoutSecondsMax) + "; the default is " +
                     std::to_string(limits::kPoolIoTimeoutSecondsDefault));
  }
  if (request.watchdog_seconds > limits::kPoolWatchdogSecondsMax) {
    return Error(ErrorCode::invalid_argument, "a watchdog allowance of " +
                                                  std::to_string(request.watchdog_seconds) +
                                                  " s is not possible: it must be at most " +
                                                  std::to_string(limits::kPoolWatchdogSecondsMax));
  }
  return {};
}

Result<void> Host::check_attach_mode(const VolumeName& name, AttachMode mode) const {
  if (mode == AttachMode::exclusive) return {};
  const PoolEntry* entry = TRY(find_open_pool(name.pool));
  if (entry->pool->info().shared) return {};
  const std::string option = mode == AttachMode::incoming ? "--incoming"
                             : mode == AttachMode::shared_writable
                                 ? "--shared-writable"
                                 : "--shared (--read-only is enough)";
  return Error(ErrorCode::unsupported,
               "pool '" + name.pool + "' is local: no other host has its volumes, and '" +
                   name.to_string() + "' is this daemon's alone; leave out " + option);
}

std::optional<PoolReport::Leases> Host::leases_report(const PoolEntry& entry) const {
  (void)entry;
  return std::nullopt;
}

void Host::add_ownership(const Attachment& attachment, AttachmentReport& report) const {
  const auto at = pools_.find(attachment.name.pool);
  if (at == pools_.end() || at->second->pool == nullptr) return;
  if (!at->second->pool->info().shared) return;
  const bool is_snapshot = !split_snapshot(attachment.name.volume).second.empty();
  report.mode = attach_mode_name(is_snapshot ? AttachMode::shared_read_only : attachment.mode);
}

Task<Result<std::vector<LeaseReport>>> Host::list_leases(std::string pool) {
  CO_TRY(check_running());
  if (!pool.empty()) {
    CO_TRY(find_shared_pool(pool));
  }
  co_return std::vector<LeaseReport>{};
}

Task<Result<LeaseReport>> Host::show_lease(VolumeName name) {
  CO_TRY(find_shared_pool(name.pool));
  co_return no_leases(name.pool);
}

Task<Result<LeaseReport>> Host::break_lease(VolumeName name) {
  CO_TRY(find_shared_pool(name.pool));
  co_return no_leases(name.pool);
}

Task<Result<std::vector<PoolHostReport>>> Host::list_hosts(std::string pool) {
  CO_TRY(find_shared_pool(pool));
  co_return no_leases(pool);
}

Task<Result<HandOverAnswer>> Host::hand_over(VolumeName name) {
  CO_TRY(find_shared_pool(name.pool));
  co_return no_leases(name.pool);
}

}  // namespace holdfast
