// SPDX-License-Identifier: Apache-2.0
#include "sim/lease_model.h"

#include <utility>

namespace holdfast::sim {
namespace {

constexpr int kRenewalsPerLifetime = 4;
constexpr int kLooksPerLifetime = 20;

}  // namespace

LeaseClient::LeaseClient(SimHost& host, LeaseModel& model)
    : host_(host), model_(model), prng_(host.scheduler().prng().fork()) {}

// Something that takes its time, and during which the process may be paused.
Task<void> LeaseClient::step() {
  const Duration most =
      prng_.chance(model_.options_.slow_chance) ? model_.options_.lifetime / 2 : Duration(300us);
  co_await sleep_for(host_, prng_.between(Duration(10us), most));
}

BootTime LeaseClient::deadline(BootTime begin) const {
  const auto lifetime = static_cast<double>(model_.options_.lifetime.count());
  return begin + Duration(static_cast<std::int64_t>(lifetime * (1 - model_.options_.margin)));
}

Task<std::shared_ptr<const Fence>> LeaseClient::acquire() {
  std::uint64_t seen = ~std::uint64_t{0};
  BootTime seen_at{};
  for (;;) {
    const BootTime begin = host_.boot_time();
    co_await step();
    if (model_.renewals_ != seen) {
      seen = model_.renewals_;
      seen_at = host_.boot_time();
    }
    const bool is_free = model_.owner_ == 0;
    if (is_free || host_.boot_time() - seen_at >= model_.options_.lifetime) {
      model_.change(host_.number());
      fence_ = std::make_shared<Fence>(Epoch{model_.epoch_}, deadline(begin));
      std::shared_ptr<Fence> renewed = fence_;
      tasks_.spawn(renew(std::move(renewed)));
      co_await step();
      co_return fence_;
    }
    co_await sleep_for(host_, model_.options_.lifetime / kLooksPerLifetime);
  }
}

Task<void> LeaseClient::renew(std::shared_ptr<Fence> fence) {
  while (!fence->is_lost()) {
    co_await sleep_for(host_, model_.options_.lifetime / kRenewalsPerLifetime);
    const BootTime begin = host_.boot_time();
    co_await step();
    if (fence->is_lost()) break;
    if (prng_.chance(model_.options_.failure_chance)) continue;
    if (model_.owner_ != host_.number() || model_.epoch_ != fence->epoch().value) {
      fence->lose();
      break;
    }
    ++model_.renewals_;  // it stands there; whether we ever hear of it is another matter
    co_await step();
    if (model_.owner_ == host_.number() && model_.epoch_ == fence->epoch().value) {
      fence->extend(deadline(begin));
    }
  }
}

Task<void> LeaseClient::release() {
  fence_->lose();
  co_await step();
  if (model_.owner_ == host_.number() && model_.epoch_ == fence_->epoch().value) model_.change(0);
}

}  // namespace holdfast::sim
