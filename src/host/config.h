// SPDX-License-Identifier: Apache-2.0
//
// What an operator may set for the daemon: holdfast.toml, then the command line on top.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "base/log.h"
#include "base/result.h"
#include "host/hold_policy.h"
#include "pool/space.h"

namespace holdfast {

inline constexpr const char* kRuntimeDirectoryDefault = "/run/holdfast";
inline constexpr const char* kStateDirectoryDefault = "/var/lib/holdfast";

struct PoolLocation {
  std::string name;
  std::string location;  // "dir:/srv/vms"
};

struct HostConfig {
  std::string runtime_directory = kRuntimeDirectoryDefault;
  std::string state_directory = kStateDirectoryDefault;
  std::string log_file;  // empty: standard error, or a file in the runtime directory
  LogLevel log_level = LogLevel::info;
  std::uint64_t page_cache_bytes = limits::kPageCacheBytesDefault;
  std::uint64_t checkpoint_log_bytes = limits::kCheckpointLogBytes;
  std::uint32_t cleaner_start_percent = limits::kCleanerStartPercent;
  std::uint32_t cleaner_stop_percent = limits::kCleanerStopPercent;
  std::uint32_t cleaner_idle_percent = limits::kCleanerIdlePercent;
  SpaceThresholds space;
  std::map<std::string, SpaceThresholds> pool_spaces;  // by pool; what is not said is as `space`
  Duration checkpoint_idle = limits::kCheckpointIdle;
  Duration trash_defer = limits::kTrashDeferDefault;  // 0: removed volumes are gone
  std::string host_name;  // in the leases of shared pools; empty: made of what the machine is
  std::size_t loops = 0;  // that serve volumes; 0: one per core, at most kServiceLoopsDefaultMax
  HoldSettings hold;
  std::map<std::string, HoldSettings> pool_holds;  // by pool
  std::vector<PoolLocation> pools;
};

// Every problem names its line; unknown keys are refused, with the nearest known one.
Result<HostConfig> parse_config(std::string_view text, std::string_view file_name);

// "vms=dir:/srv/vms"
Result<PoolLocation> parse_pool_option(std::string_view text);

std::optional<LogLevel> parse_log_level(std::string_view text);

}  // namespace holdfast
