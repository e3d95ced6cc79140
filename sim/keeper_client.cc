// SPDX-License-Identifier: Apache-2.0
#include "sim/keeper_client.h"

#include <utility>

namespace holdfast::sim {
namespace {

constexpr Duration kRetryTime = std::chrono::milliseconds(500);

LeaseOptions options_of(std::string host_name) {
  LeaseOptions options;
  options.host_name = std::move(host_name);
  return options;
}

}  // namespace

KeeperClient::KeeperClient(SimHost& host, Pool& pool, VolumeId volume, std::string host_name,
                           OwnerObserver observer)
    : host_(host),
      volume_(volume),
      observer_(std::move(observer)),
      keeper_(host, pool, options_of(std::move(host_name))) {}

Task<std::shared_ptr<const Fence>> KeeperClient::acquire() {
  while (!has_joined_) {
    const auto joined = co_await keeper_.join();
    has_joined_ = joined.ok();
    if (!has_joined_) co_await sleep_for(host_, kRetryTime);
  }
  for (;;) {
    const LeaseKeeper::AcquireOptions options;
    auto answer = co_await keeper_.acquire(volume_, options);
    if (answer.ok() && answer->fence != nullptr) {
      observer_(host_.number(), answer->fence->epoch().value);
      co_return answer->fence;
    }
    co_await sleep_for(host_, kRetryTime);
  }
}

Task<void> KeeperClient::release() {
  // From here on nobody here answers; whoever comes next is told of in its own time.
  const auto released = co_await keeper_.release(volume_);
  (void)released.ok();  // if not, others take it over once our host lease has run out
}

}  // namespace holdfast::sim
