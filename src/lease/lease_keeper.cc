// SPDX-License-Identifier: Apache-2.0
//
// The host lease: claiming, renewing, watching the others.
#include "lease/lease_keeper.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/limits.h"
#include "base/log.h"
#include "io/file_io.h"
#include "lease/held.h"

namespace holdfast {

using format::LeaseKind;
using format::LeaseLeader;

namespace {

Error storage_error(int error, const std::string& what) {
  return Error(ErrorCode::path_failure, "cannot " + what + ": " + std::strerror(error));
}

std::string seconds_text(Duration duration) {
  return std::to_string(std::chrono::ceil<std::chrono::seconds>(duration).count()) + " s";
}

}  // namespace

LeaseTimes lease_times(const PoolInfo& pool) {
  return {std::chrono::seconds(pool.io_timeout_seconds),
          std::chrono::seconds(pool.watchdog_seconds)};
}

LeaseKeeper::LeaseKeeper(Executor& executor, Pool& pool, LeaseOptions options)
    : executor_(executor),
      pool_(pool),
      options_(std::move(options)),
      times_(lease_times(pool.info())),
      space_name_(pool.info().id.to_string()),
      hosts_buffer_(geometry_.align_bytes),
      own_sector_(geometry_.sector_bytes),
      watches_(geometry_.hosts_max()),
      seen_bits_(geometry_.hosts_max()),
      changed_(executor) {
  HOLDFAST_ASSERT(!options_.host_name.empty() &&
                  options_.host_name.size() <= format::kLeaseNameBytes);
}

LeaseKeeper::~LeaseKeeper() = default;

std::uint64_t LeaseKeeper::seconds() const {
  return format::lease_timestamp(executor_.boot_time());
}

BootTime LeaseKeeper::deadline() const {
  return renewed_ + times_.failing() - limits::kLeaseMargin;
}

const HostWatch* LeaseKeeper::watch(std::uint64_t host_id) const {
  if (host_id == 0 || host_id > watches_.size()) return nullptr;
  return &watches_[host_id - 1];
}

// --- Joining ---

Task<Result<HostIdentity>> LeaseKeeper::join() {
  CO_TRY(co_await open_hosts());
  CO_TRY_ASSIGN(const HostIdentity claimed, co_await claim());
  if (!running_) {
    running_ = true;
    tasks_.spawn(run());
  }
  co_return claimed;
}

Task<Result<void>> LeaseKeeper::open_hosts() {
  if (hosts_file_ != nullptr) co_return Result<void>{};
  CO_TRY_ASSIGN(hosts_file_, co_await pool_.open_host_leases());
  co_return Result<void>{};
}

Task<Result<HostIdentity>> LeaseKeeper::claim() {
  CO_TRY(co_await look(geometry_.hosts_max()));
  if (options_.before.has_value()) {
    CO_TRY_ASSIGN(const bool resumed, co_await resume(*options_.before));
    if (resumed) co_return *self_;
  }
  for (std::uint32_t tries = 0; tries < limits::kLeaseClaimTries; ++tries) {
    const std::optional<std::uint64_t> slot = choose_slot();
    if (!slot.has_value()) {
      co_return Error(ErrorCode::busy, "all " + std::to_string(watches_.size()) +
                                           " host ids of the pool are taken; wait until hosts "
                                           "that are not used any more have left");
    }
    const LeaseLeader& there = watches_[*slot - 1].lease();
    // Under our name, but not known to be ours: a daemon whose state was lost, or another machine.
    const bool is_known = options_.before.has_value() && options_.before->host_id == *slot &&
                          options_.before->generation == there.owner_generation;
    if (there.timestamp != 0 && !is_known) {
      CO_TRY(co_await wait_until_unused(*slot));
    }
    auto claimed = co_await claim_slot(*slot);
    if (claimed.ok() || claimed.error().code() != ErrorCode::busy) co_return claimed;
    CO_TRY(co_await look(geometry_.hosts_max()));
  }
  co_return Error(ErrorCode::busy,
                  "other hosts were faster each time a host id was claimed; try again");
}

// That of our name, else the first that nobody ever had, else one whose host has left.
std::optional<std::uint64_t> LeaseKeeper::choose_slot() {
  std::optional<std::uint64_t> unused;
  std::optional<std::uint64_t> left;
  for (std::uint64_t id = 1; id <= watches_.size(); ++id) {
    const HostWatch& watch = watches_[id - 1];
    if (!watch.is_seen()) continue;  // not readable
    const LeaseLeader& lease = watch.lease();
    if (lease.owner_id == id && lease.resource_name == options_.host_name) return id;
    if (lease.owner_id == 0 && !unused.has_value()) unused = id;
    if (lease.owner_id != 0 && lease.timestamp == 0 && !left.has_value()) left = id;
  }
  return unused.has_value() ? unused : left;
}

// Goes on in the life of the daemon before, whose volumes are then still ours. Only while nobody
// can have concluded that it is dead.
Task<Result<bool>> LeaseKeeper::resume(HostIdentity before) {
  const HostWatch* const own = watch(before.host_id);
  if (own == nullptr || !own->is_seen()) co_return false;
  const LeaseLeader& there = own->lease();
  const BootTime old_deadline =
      BootTime(std::chrono::seconds(there.timestamp)) + times_.failing() - limits::kLeaseMargin;
  const BootTime begin = executor_.boot_time();
  if (there.owner_id != before.host_id || there.owner_generation != before.generation ||
      there.resource_name != options_.host_name || there.timestamp == 0 ||
      there.io_timeout != pool_.info().io_timeout_seconds || begin >= old_deadline) {
    co_return false;
  }
  written_ = there;
  written_.timestamp = seconds();
  CO_TRY(co_await write_host_lease(false));
  if (executor_.boot_time() >= old_deadline) co_return false;
  renewed_ = attempted_ = begin;
  ++term_;
  self_ = before;
  problem_.clear();
  log_info("pool " + pool_.info().location + ": goes on as host " + std::to_string(before.host_id) +
           ", generation " + std::to_string(before.generation));
  co_return true;
}

Task<Result<void>> LeaseKeeper::wait_until_unused(std::uint64_t host_id) {
  const LeaseLeader before = watches_[host_id - 1].lease();
  problem_ = "waits until it is certain that no other host uses the name " + options_.host_name;
  while (!stopping_ && watches_[host_id - 1].state(times_.watchdog) != HostLiveness::dead) {
    co_await sleep_for(executor_, limits::kLeaseLookTime);
    CO_TRY(co_await look(geometry_.hosts_max()));
    const LeaseLeader& now = watches_[host_id - 1].lease();
    if (now.timestamp == 0) break;  // released
    if (now.timestamp != before.timestamp || now.owner_generation != before.owner_generation) {
      co_return Error(ErrorCode::busy,
                      "another host uses the name " + options_.host_name +
                          " in this pool (host id " + std::to_string(host_id) +
                          "); if two machines have the same machine-id, make a new one on one of "
                          "them, or set host_name in holdfastd's configuration");
    }
  }
  if (stopping_) co_return Error(ErrorCode::busy, "the pool is being closed");
  co_return Result<void>{};
}

// As sanlock: write, wait, and see whether it is still there.
Task<Result<HostIdentity>> LeaseKeeper::claim_slot(std::uint64_t host_id) {
  const BootTime looked = executor_.boot_time();
  CO_TRY(co_await look(geometry_.hosts_max()));
  const LeaseLeader there = watches_[host_id - 1].lease();
  const bool is_ours_by_name = there.resource_name == options_.host_name;
  if (there.owner_id != 0 && there.timestamp != 0 && !is_ours_by_name) {
    co_return Error(ErrorCode::busy, "host id " + std::to_string(host_id) + " was just taken");
  }
  written_ = format::make_host_lease(geometry_, space_name_, pool_.info().io_timeout_seconds);
  written_.owner_id = host_id;
  written_.owner_generation = there.owner_generation + 1;
  written_.resource_name = options_.host_name;
  written_.timestamp = seconds();
  const BootTime begin = executor_.boot_time();
  CO_TRY(co_await write_host_lease(false));
  // What we saw must not be older than what another one waits for.
  if (executor_.boot_time() - looked >= times_.io_timeout) {
    co_return Error(ErrorCode::busy, "the storage was too slow to claim a host id");
  }
  problem_ = "claims host id " + std::to_string(host_id) + ", which takes " +
             seconds_text(times_.renewal());
  co_await sleep_for(executor_, times_.renewal());
  CO_TRY(co_await look(geometry_.hosts_max()));
  const LeaseLeader& now = watches_[host_id - 1].lease();
  if (now.resource_name != options_.host_name || now.timestamp != written_.timestamp ||
      now.owner_generation != written_.owner_generation || now.owner_id != host_id) {
    co_return Error(ErrorCode::busy, "host id " + std::to_string(host_id) + " was just taken");
  }
  renewed_ = attempted_ = begin;
  ++term_;
  self_ = HostIdentity{host_id, written_.owner_generation};
  problem_.clear();
  log_info("pool " + pool_.info().location + ": joined as host " + std::to_string(host_id) + " (" +
           options_.host_name + "), generation " + std::to_string(self_->generation));
  co_return *self_;
}

Task<void> LeaseKeeper::leave(bool release) {
  stopping_ = true;
  changed_.notify_all();
  while (running_ || !tasks_.empty()) co_await sleep_for(executor_, 1ms);
  if (release && self_.has_value()) {
    while (!held_.empty()) {
      const VolumeId volume = held_.begin()->first;
      const auto released = co_await this->release(volume);
      if (!released.ok()) {
        log_warning(released.error().message());
        held_.erase(volume);
      }
    }
    const auto written = co_await write_host_lease(true);
    if (!written.ok()) log_warning(written.error().message());
  }
  for (auto& [volume, held] : held_) held->fence->lose();
  held_.clear();
  self_.reset();
}

// --- I/O ---

// Reads the leases of the first `hosts`, and what they say of their hosts.
Task<Result<void>> LeaseKeeper::look(std::uint64_t hosts) {
  const std::size_t sector_bytes = geometry_.sector_bytes;
  // Others may look at the same time, because they need what is there after they have begun.
  const bool is_first = !is_looking_;
  const AlignedBuffer own(is_first ? 0 : geometry_.align_bytes);
  const AlignedBuffer& buffer = is_first ? hosts_buffer_ : own;
  is_looking_ = true;
  const BootTime before = executor_.boot_time();
  const int error =
      co_await FileIo(*hosts_file_, FileOperation::read, 0, buffer.span(0, hosts * sector_bytes));
  if (is_first) is_looking_ = false;
  if (error != 0) co_return storage_error(error, "read the host leases");
  const BootTime after = executor_.boot_time();
  for (std::uint64_t id = 1; id <= hosts; ++id) {
    const auto sector = buffer.span((id - 1) * sector_bytes, sector_bytes);
    const auto lease = format::decode_leader(sector, LeaseKind::host);
    if (!lease.ok() || lease->space_name != space_name_) continue;
    watches_[id - 1].see(lease.value(), before, after);
    seen_bits_[id - 1] = format::decode_lease_host_bits(sector);
  }
  co_return Result<void>{};
}

Task<Result<void>> LeaseKeeper::write_host_lease(bool release) {
  LeaseLeader lease = written_;
  if (release) lease.timestamp = 0;
  const std::span<std::byte> sector = own_sector_.span(0, geometry_.sector_bytes);
  format::encode_leader(lease, sector);
  if (!release) format::encode_lease_host_bits(own_bits_, sector);
  const std::uint64_t at = format::host_lease_offset(geometry_, lease.owner_id);
  int error = co_await FileIo(*hosts_file_, FileOperation::write, at, sector);
  if (error == 0) {
    error = co_await FileIo(*hosts_file_, FileOperation::sync_data, 0, std::span<std::byte>{});
  }
  if (error != 0) co_return storage_error(error, "write the host lease");
  co_return Result<void>{};
}

// --- Renewing ---

Task<void> LeaseKeeper::run() {
  while (!stopping_) {
    if (self_.has_value()) {
      co_await tick();
    } else {
      const auto claimed = co_await claim();
      if (!claimed.ok()) problem_ = claimed.error().message();
    }
    Timer timer([](void* context) { static_cast<Condition*>(context)->notify_all(); }, &changed_);
    const MonotonicTime until = executor_.now() + limits::kLeaseLookTime;
    executor_.arm(timer, until);
    while (!stopping_ && !bits_changed_ && executor_.now() < until) co_await changed_.wait();
  }
  running_ = false;
}

Task<void> LeaseKeeper::tick() {
  // All of them now and then, else as far as there were any.
  const BootTime begin = executor_.boot_time();
  const bool is_due = begin - attempted_ >= times_.renewal() || !problem_.empty() || bits_changed_;
  std::uint64_t hosts = geometry_.hosts_max();
  if (!is_due) {
    while (hosts > 1 && watches_[hosts - 1].lease().owner_id == 0) --hosts;
    hosts = std::min<std::uint64_t>(hosts + 8, geometry_.hosts_max());
  }
  const auto looked = co_await look(hosts);
  const Duration read_time = executor_.boot_time() - begin;
  if (!looked.ok()) {
    if (problem_.empty()) log_warning(pool_.info().location + ": " + looked.error().message());
    problem_ = looked.error().message();
    attempted_ = begin;
    ++renewal_failures_;
    renewals_.push_back(Renewal{begin, read_time, {}, false});
  } else if (!is_own_record_intact()) {
    lose_all("another host has taken host id " + std::to_string(self_->host_id));
    co_return;
  } else if (is_due) {
    co_await renew(read_time);
  }
  while (renewals_.size() > limits::kLeaseRenewalsKept) renewals_.pop_front();
  if (looked.ok()) note_requests();
}

// An older renewal of ours that landed late is ours all the same.
bool LeaseKeeper::is_own_record_intact() const {
  const LeaseLeader& there = watches_[self_->host_id - 1].lease();
  return there.owner_id == self_->host_id && there.owner_generation == self_->generation &&
         there.resource_name == options_.host_name && there.timestamp != 0;
}

Task<void> LeaseKeeper::renew(Duration read_time) {
  bits_changed_ = false;
  written_.timestamp = seconds();
  const BootTime begin = executor_.boot_time();
  attempted_ = begin;
  const auto written = co_await write_host_lease(false);
  const BootTime end = executor_.boot_time();
  renewals_.push_back(Renewal{begin, read_time, end - begin, written.ok()});
  if (!written.ok()) {
    ++renewal_failures_;
    if (problem_.empty()) log_warning(pool_.info().location + ": " + written.error().message());
    problem_ = written.error().message();
    co_return;
  }
  ++renewal_count_;
  problem_.clear();
  // In time, it was there before anybody could conclude that we are dead.
  if (end >= deadline()) {
    ++term_;
    log_warning("pool " + pool_.info().location + ": the host lease was not renewed for " +
                seconds_text(end - renewed_) +
                "; its volumes wait until they are certain to be ours");
    for (auto& [volume, held] : held_) held->is_lapsed = true;
  }
  renewed_ = begin;
  for (auto& [volume, held] : held_) {
    if (!held->is_lapsed) {
      held->fence->extend(deadline());
    } else if (!held->busy) {
      tasks_.spawn(take_again(volume));
    }
  }
}

void LeaseKeeper::lose_all(const std::string& why) {
  log_error("pool " + pool_.info().location + ": " + why + "; the " + std::to_string(held_.size()) +
            " volumes that were open here are fenced");
  for (auto& [volume, held] : held_) {
    held->fence->lose();
    held->is_gone = true;
  }
  std::erase_if(held_, [](const auto& each) { return !each.second->busy; });
  problem_ = why;
  self_.reset();
  ++term_;
}

// --- Requests of other hosts ---

Task<Result<void>> LeaseKeeper::request(VolumeId volume, bool now) {
  CO_TRY_ASSIGN(const std::unique_ptr<Area> area, co_await open_area(volume));
  CO_TRY_ASSIGN(const LeaseLeader leader, co_await read_leader(*area));
  const bool is_free = leader.owner_id == 0 || (now && leader.timestamp == 0);
  if (is_free || leader.owner_id > own_bits_.size()) co_return Result<void>{};
  format::LeaseRequest request;
  request.lver = leader.lver + (now ? 1 : 0);
  request.force_mode = format::LeaseRequest::kForceGraceful;
  format::encode_lease_request(request, area->sector.span(0, geometry_.sector_bytes));
  CO_TRY(co_await write_sector(*area, format::request_offset(geometry_)));
  const std::size_t bit = leader.owner_id - 1;
  if (!own_bits_[bit]) {
    own_bits_[bit] = true;
    bits_changed_ = true;
    changed_.notify_all();
  }
  co_return Result<void>{};
}

void LeaseKeeper::note_requests() {
  if (!self_.has_value() || held_.empty()) return;
  bool is_asked = false;
  for (std::uint64_t id = 1; id <= watches_.size() && !is_asked; ++id) {
    if (id == self_->host_id || watches_[id - 1].lease().timestamp == 0) continue;
    is_asked = seen_bits_[id - 1][self_->host_id - 1];
  }
  if (is_asked) tasks_.spawn(look_at_requests(true));
}

Task<void> LeaseKeeper::look_at_requests(bool all) {
  std::vector<VolumeId> volumes;
  for (const auto& [volume, held] : held_) {
    if (!held->busy && (all || held->is_announced)) volumes.push_back(volume);
  }
  bool is_new = false;
  for (const VolumeId& volume : volumes) {
    const auto at = held_.find(volume);
    if (at == held_.end() || at->second->busy) continue;
    Held& held = *at->second;
    held.busy = true;
    const std::span<std::byte> sector = held.area->sector.span(0, geometry_.sector_bytes);
    const int error = co_await FileIo(*held.area->file, FileOperation::read,
                                      format::request_offset(geometry_), sector);
    held.busy = false;
    changed_.notify_all();
    const auto request = format::decode_lease_request(sector);
    if (error != 0 || !request.ok() || held.is_gone) continue;
    const bool is_graceful = request->force_mode == format::LeaseRequest::kForceGraceful;
    const bool wanted = is_graceful && request->lver == held.leader.lver + 1;
    const bool announced = wanted || (is_graceful && request->lver == held.leader.lver);
    is_new |= announced && !held.is_announced;
    if (announced && !held.is_announced) options_.on_request(volume, false);
    if (wanted && !held.is_wanted) options_.on_request(volume, true);
    held.is_announced = announced;
    held.is_wanted = wanted;
  }
  if (is_new && all) tasks_.spawn(watch_requests());
}

// Often, while somebody has said that they will ask.
Task<void> LeaseKeeper::watch_requests() {
  const auto is_any = [this] {
    return std::any_of(held_.begin(), held_.end(),
                       [](const auto& each) { return each.second->is_announced; });
  };
  while (!stopping_ && is_any()) {
    co_await look_at_requests(false);
    co_await sleep_for(executor_, limits::kLeaseRequestTime);
  }
}

// --- Reports ---

KeeperReport LeaseKeeper::report() const {
  KeeperReport report;
  report.self = self_;
  report.problem = problem_;
  report.renewals = renewals_;
  report.renewal_count = renewal_count_;
  report.renewal_failures = renewal_failures_;
  const BootTime now = executor_.boot_time();
  report.now = now;
  if (self_.has_value()) {
    report.last_renewal_age = now - renewed_;
    report.is_expired = now >= deadline();
  }
  for (std::uint64_t id = 1; id <= watches_.size(); ++id) {
    const HostWatch& watch = watches_[id - 1];
    if (!watch.is_seen() || watch.lease().owner_id == 0) continue;
    KeeperReport::Host host;
    host.identity = {id, watch.lease().owner_generation};
    host.name = watch.lease().resource_name;
    host.state = watch.state(times_.watchdog);
    host.unchanged = watch.unchanged();
    host.io_timeout_seconds = watch.lease().io_timeout;
    host.is_this = self_.has_value() && self_->host_id == id;
    if (host.state != HostLiveness::free && !host.is_this) {
      host.dead_in = watch.until_dead(times_.watchdog);
    }
    report.hosts.push_back(std::move(host));
  }
  return report;
}

}  // namespace holdfast
