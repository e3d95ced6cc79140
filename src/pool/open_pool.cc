// SPDX-License-Identifier: Apache-2.0
#include "pool/open_pool.h"

#include <string_view>

#include "base/assert.h"
#include "pool/dir_pool.h"
#include "pool/rados_pool.h"

namespace holdfast {
namespace {

constexpr std::string_view kDirPrefix = "dir:";
constexpr std::string_view kRadosPrefix = "rados:";

// The path of a "dir:" location.
Result<std::string> parse_location(std::string_view location) {
  const auto refuse = [&](ErrorCode code, std::string_view why) {
    return Error(code,
                 "cannot use the location '" + std::string(location) + "': " + std::string(why));
  };
  if (location.starts_with("lun:")) {
    return refuse(ErrorCode::unsupported,
                  "this version has pools in directories and on Ceph only; use dir:/absolute/path "
                  "or rados:POOL/NAMESPACE");
  }
  if (location.starts_with("/")) {
    return refuse(ErrorCode::invalid_argument,
                  "it does not say what kind of pool it is; write dir:" + std::string(location));
  }
  if (!location.starts_with(kDirPrefix)) {
    return refuse(ErrorCode::invalid_argument,
                  "write it as dir:/absolute/path, or rados:POOL/NAMESPACE for Ceph");
  }
  std::string_view path = location.substr(kDirPrefix.size());
  if (!path.starts_with("/")) {
    return refuse(ErrorCode::invalid_argument,
                  "the path must be absolute; write it as dir:/absolute/path");
  }
  if (path.find('\0') != std::string_view::npos || path.find('\n') != std::string_view::npos) {
    return refuse(ErrorCode::invalid_argument, "the path holds control characters");
  }
  while (path.ends_with("/")) path.remove_suffix(1);
  if (path.empty()) {
    return refuse(ErrorCode::invalid_argument,
                  "give the pool a directory of its own, such as dir:/srv/holdfast");
  }
  return std::string(path);
}

}  // namespace

Result<void> check_lease_times(std::uint32_t io_timeout_seconds, std::uint32_t watchdog_seconds) {
  if (io_timeout_seconds < limits::kLeaseIoTimeoutSecondsMin ||
      io_timeout_seconds > limits::kLeaseIoTimeoutSecondsMax) {
    return Error(ErrorCode::invalid_argument,
                 "an I/O timeout of " + std::to_string(io_timeout_seconds) +
                     " s is not possible: it must be from 1 to " +
                     std::to_string(limits::kLeaseIoTimeoutSecondsMax) + "; the default is " +
                     std::to_string(limits::kLeaseIoTimeoutSecondsDefault));
  }
  if (watchdog_seconds > limits::kLeaseWatchdogSecondsMax) {
    return Error(ErrorCode::invalid_argument, "a watchdog allowance of " +
                                                  std::to_string(watchdog_seconds) +
                                                  " s is not possible: it must be at most " +
                                                  std::to_string(limits::kLeaseWatchdogSecondsMax));
  }
  return {};
}

Task<Result<std::unique_ptr<Pool>>> create_pool(PoolContext context, std::string location,
                                                PoolCreateOptions options) {
  if (location.starts_with(kRadosPrefix)) {
    co_return co_await RadosPool::create(std::move(context), std::move(location), options);
  }
  CO_TRY_ASSIGN(std::string path, parse_location(location));
  co_return co_await DirPool::create(std::move(context), std::move(path), options);
}

Task<Result<std::unique_ptr<Pool>>> open_pool(PoolContext context, std::string location) {
  if (location.starts_with(kRadosPrefix)) {
    co_return co_await RadosPool::open(std::move(context), std::move(location));
  }
  CO_TRY_ASSIGN(std::string path, parse_location(location));
  co_return co_await DirPool::open(std::move(context), std::move(path));
}

std::unique_ptr<Pool> view_pool(PoolInfo info, PoolContext context) {
  if (info.location.starts_with(kRadosPrefix)) {
    return RadosPool::view(std::move(context), std::move(info));
  }
  HOLDFAST_ASSERT(info.location.starts_with(kDirPrefix));
  return DirPool::view(std::move(context), std::move(info));
}

}  // namespace holdfast
