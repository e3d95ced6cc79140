// SPDX-License-Identifier: Apache-2.0
//
// The leases of volumes: reading, standing for election, giving back. No write is sent to an area
// while an earlier one of ours is in flight, however long that takes: it could land on top.
#include <algorithm>
#include <cstring>

#include "base/limits.h"
#include "base/log.h"
#include "io/file_io.h"
#include "lease/held.h"
#include "lease/lease_keeper.h"

namespace holdfast {

using format::LeaseBlock;
using format::LeaseLeader;

namespace {

Error area_error(const std::string& what, const VolumeId& volume, int error) {
  return Error(ErrorCode::path_failure, "cannot " + what + " the lease of volume " +
                                            volume.to_string() + ": " + std::strerror(error));
}

// Of a lease that its owner lets go of.
LeaseLeader freed(LeaseLeader leader, HostIdentity owner, std::uint64_t timestamp) {
  leader.timestamp = 0;
  leader.short_hold = false;
  leader.write_id = owner.host_id;
  leader.write_generation = owner.generation;
  leader.write_timestamp = timestamp;
  return leader;
}

std::string text_of(const LeaseHolder& holder) {
  return holder.host_name.empty() ? "host id " + std::to_string(holder.host.host_id)
                                  : "host " + holder.host_name;
}

}  // namespace

// --- One area ---

Task<Result<std::unique_ptr<LeaseKeeper::Area>>> LeaseKeeper::open_area(VolumeId volume) {
  CO_TRY_ASSIGN(std::unique_ptr<File> file, co_await pool_.open_volume_lease(volume));
  co_return std::make_unique<Area>(volume, std::move(file), geometry_);
}

Task<Result<VolumeLeaseArea>> LeaseKeeper::read(Area& area) {
  const int error = co_await FileIo(*area.file, FileOperation::read, 0, area.buffer.span());
  if (error != 0) co_return area_error("read", area.volume, error);
  auto found = VolumeLeaseArea::decode(geometry_, area.buffer.span());
  if (found.ok() && (found->leader.space_name != space_name_ ||
                     found->leader.resource_name != area.volume.to_string())) {
    co_return Error(ErrorCode::corrupt, "the lease of volume " + area.volume.to_string() +
                                            " is another volume's; restore the file from a backup "
                                            "of this pool");
  }
  co_return found;
}

Task<Result<LeaseLeader>> LeaseKeeper::read_leader(Area& area) {
  const std::span<std::byte> sector = area.sector.span(0, geometry_.sector_bytes);
  const int error = co_await FileIo(*area.file, FileOperation::read, 0, sector);
  if (error != 0) co_return area_error("read", area.volume, error);
  co_return format::decode_leader(sector, format::LeaseKind::volume);
}

Task<Result<void>> LeaseKeeper::write_sector(Area& area, std::uint64_t offset_bytes) {
  const std::span<std::byte> sector = area.sector.span(0, geometry_.sector_bytes);
  int error = co_await FileIo(*area.file, FileOperation::write, offset_bytes, sector);
  if (error == 0) {
    error = co_await FileIo(*area.file, FileOperation::sync_data, 0, std::span<std::byte>{});
  }
  if (error == 0) co_return Result<void>{};
  co_return area_error("write", area.volume, error);
}

Task<Result<void>> LeaseKeeper::write_leader(Area& area, LeaseLeader leader) {
  format::encode_leader(leader, area.sector.span(0, geometry_.sector_bytes));
  co_return co_await write_sector(area, 0);
}

// Into the sector of that identity, as long as it is ours.
Task<Result<void>> LeaseKeeper::write_block(Area& area, HostIdentity self, LeaseBlock block) {
  if (self_ != self) {
    co_return Error(ErrorCode::busy, "this host has lost its host id in the pool: " + problem_);
  }
  format::encode_lease_block(block, area.sector.span(0, geometry_.sector_bytes));
  co_return co_await write_sector(area, format::block_offset(geometry_, self.host_id));
}

// --- Elections ---

// The outcome when it is our own proposal, and everything says so; nothing: it is another one's, or
// not certain, so look again.
Task<Result<std::optional<LeaseLeader>>> LeaseKeeper::stand(Area& area, std::uint64_t lver,
                                                            bool short_hold) {
  const std::optional<LeaseLeader> nothing;
  if (!self_.has_value()) co_return nothing;
  const HostIdentity self = *self_;
  Ballot ballot(self, geometry_.hosts_max(), lver);
  CO_TRY_ASSIGN(VolumeLeaseArea found, co_await read(area));
  for (std::uint32_t round = 0; round < limits::kLeaseBallotRounds; ++round) {
    if (self_ != self) co_return nothing;
    if (found.leader.lver >= lver) co_return nothing;
    ballot.choose_number(found);
    Ballot::Verdict verdict = Ballot::Verdict::go_on;
    for (const int phase : {1, 2}) {
      if (phase == 2) ballot.accept(found, seconds());
      CO_TRY(co_await write_block(area, self, ballot.block()));
      CO_TRY_ASSIGN(found, co_await read(area));
      verdict = ballot.judge(found);
      if (verdict != Ballot::Verdict::go_on) break;
    }
    if (verdict == Ballot::Verdict::overtaken || found.leader.lver >= lver) co_return nothing;
    if (verdict != Ballot::Verdict::go_on) {
      const auto jitter = Duration(executor_.random() % limits::kLeaseBallotJitter.count());
      co_await sleep_for(executor_, jitter);
      CO_TRY_ASSIGN(found, co_await read(area));
      continue;
    }
    if (self_ != self) co_return nothing;
    const LeaseLeader result = ballot.result(found.leader, seconds(), short_hold);
    CO_TRY(co_await write_leader(area, result));
    // An old write of anybody's may land at any time: the outcome counts when all of it is there.
    CO_TRY_ASSIGN(found, co_await read(area));
    if (found.leader != result || ballot.judge(found) != Ballot::Verdict::go_on ||
        !ballot.is_own_value()) {
      co_return nothing;
    }
    co_return std::optional<LeaseLeader>(result);
  }
  co_return nothing;
}

// Looks at the lease first, and then at the hosts: what is known of a host from before may be
// older than what it has done to the lease.
Task<Result<LeaseHolder>> LeaseKeeper::judge(Area& area, VolumeLeaseArea* found) {
  CO_TRY_ASSIGN(*found, co_await read(area));
  CO_TRY(co_await look(geometry_.hosts_max()));
  if (!self_.has_value()) {
    co_return Error(ErrorCode::busy, "this host has no host id in the pool now: " + problem_);
  }
  const auto watch_of = [this](std::uint64_t host) { return watch(host); };
  const LeaseClaim claim = judge_holder(*found, *self_, watch_of, times_.watchdog);
  const HostIdentity owner{found->leader.owner_id, found->leader.owner_generation};
  const auto sharers = find_sharers(*found, watch_of, times_.watchdog);
  if (sharers.empty() || claim == LeaseClaim::held) co_return describe(*found, owner, claim);
  const auto other = std::find_if(sharers.begin(), sharers.end(), [this](const HostIdentity& each) {
    return each.host_id != self_->host_id;
  });
  LeaseHolder holder = other == sharers.end() ? describe(*found, *self_, LeaseClaim::own)
                                              : describe(*found, *other, LeaseClaim::held);
  for (const HostIdentity& each : sharers) {
    const std::string name = describe(*found, each, LeaseClaim::held).host_name;
    holder.sharers.push_back(name.empty() ? "id " + std::to_string(each.host_id) : name);
  }
  co_return holder;
}

// Who says that it shares since an earlier ownership than `since` has lapsed, and does not know
// yet.
bool LeaseKeeper::has_other_sharers(const VolumeLeaseArea& area, Epoch since) const {
  const auto watch_of = [this](std::uint64_t host) { return watch(host); };
  const auto sharers = find_sharers(area, watch_of, times_.watchdog);
  return std::any_of(sharers.begin(), sharers.end(), [&](const HostIdentity& each) {
    const bool is_other = !self_.has_value() || each.host_id != self_->host_id;
    return is_other && area.blocks[each.host_id - 1]->lver >= since.value;
  });
}

LeaseHolder LeaseKeeper::describe(const VolumeLeaseArea& area, HostIdentity identity,
                                  LeaseClaim claim) const {
  LeaseHolder holder;
  holder.claim = claim;
  holder.host = identity;
  holder.lver = area.leader.lver;
  const HostWatch* const host = watch(identity.host_id);
  if (host == nullptr || !host->is_seen()) return holder;
  holder.host_name = host->lease().resource_name;
  holder.state = host->state(times_.watchdog);
  holder.unchanged = host->unchanged();
  if (claim != LeaseClaim::held) {
    holder.take_over_after = Duration::zero();
  } else if (holder.state != HostLiveness::live) {
    holder.take_over_after = host->until_dead(times_.watchdog);
  }
  return holder;
}

Task<Result<AcquireAnswer>> LeaseKeeper::acquire(VolumeId volume, AcquireOptions options) {
  if (const auto lost = held_.find(volume);
      lost != held_.end() && lost->second->is_gone && !lost->second->busy) {
    held_.erase(lost);
  }
  if (held_.contains(volume)) {
    co_return Error(ErrorCode::busy, "this daemon has volume " + volume.to_string() + " already");
  }
  CO_TRY_ASSIGN(std::unique_ptr<Area> area, co_await open_area(volume));
  const MonotonicTime begin = executor_.now();
  for (std::uint32_t tries = 0; tries < limits::kLeaseAcquireTries; ++tries) {
    if (!self_.has_value() || executor_.boot_time() >= deadline()) {
      co_return Error(self_.has_value() ? ErrorCode::path_failure : ErrorCode::busy,
                      "this host cannot take volumes of the pool now: " +
                          (problem_.empty() ? "its host lease has run out" : problem_));
    }
    const std::uint64_t term = term_;
    const HostIdentity self = *self_;
    AcquireAnswer answer;
    VolumeLeaseArea found;
    CO_TRY_ASSIGN(answer.holder, co_await judge(*area, &found));
    const bool is_beside_others = options.for_sharing && !answer.holder.sharers.empty();
    if (answer.holder.claim == LeaseClaim::held && !is_beside_others) {
      const bool is_soon_free = options.for_sharing && found.leader.short_hold &&
                                executor_.now() < begin + limits::kLeaseShortHoldTime;
      if (!is_soon_free) co_return answer;
      co_await sleep_for(executor_, limits::kLeaseBallotJitter);
      --tries;
      continue;
    }
    const bool was_ours =
        found.leader.owner_id == self.host_id && found.leader.owner_generation <= self.generation;
    if (options.only_if_still_ours && !was_ours) co_return answer;
    const std::uint64_t lver = Ballot::next_lver(found);
    CO_TRY_ASSIGN(const std::optional<LeaseLeader> won,
                  co_await stand(*area, lver, options.for_sharing));
    // A lapse in between may have let others decide against us; then once more.
    const bool is_certain =
        term == term_ && self_.has_value() && *self_ == self && executor_.boot_time() < deadline();
    if (!won.has_value() || !is_certain) {
      // Who has won meanwhile, or nobody, shows in the next look. Ours, not certain, is "own".
      continue;
    }
    auto settled = co_await settle(*area, options, &answer);
    if (!settled.ok() || !settled.value()) {
      const auto left = co_await let_go(*area, self);
      if (!settled.ok()) co_return settled.take_error();
      if (!left.ok()) co_return left.error();
      if (answer.was_changed) co_return answer;
      continue;
    }
    auto held = std::make_unique<Held>();
    held->leader = *won;
    if (found.request != format::LeaseRequest{}) {
      // It was for the owner before us; if it stays, it is ignored all the same, or heard in vain.
      format::encode_lease_request({}, area->sector.span(0, geometry_.sector_bytes));
      (void)co_await write_sector(*area, format::request_offset(geometry_));
    }
    // From here on nothing is awaited.
    if (self_ != self) continue;
    held->fence = std::make_shared<Fence>(Epoch{won->lver}, deadline());
    held->is_lapsed = term != term_;  // renew() takes it again
    if (held->is_lapsed) held->fence->extend(BootTime{});
    answer.fence = held->fence;
    const std::uint64_t before = found.leader.owner_id;
    if (before != 0 && before <= own_bits_.size() && own_bits_[before - 1]) {
      own_bits_[before - 1] = false;
      bits_changed_ = true;
    }
    held->area = std::move(area);
    held_[volume] = std::move(held);
    co_return answer;
  }
  co_return Error(ErrorCode::busy, "other hosts try to take volume " + volume.to_string() +
                                       " at the same time; try again");
}

// Of a volume just won. False: it cannot be had all the same.
Task<Result<bool>> LeaseKeeper::settle(Area& area, AcquireOptions options, AcquireAnswer* answer) {
  // As the owner before us one may have begun to share it, after we had looked.
  CO_TRY_ASSIGN(const VolumeLeaseArea last, co_await read(area));
  if (!options.for_sharing) co_return !has_other_sharers(last, Epoch{});
  CO_TRY_ASSIGN(const Epoch newest, co_await newest_change(area.volume));
  answer->is_shared = has_other_sharers(last, newest);
  answer->was_changed = options.shared_since != Epoch{} && newest > options.shared_since;
  co_return !answer->was_changed;
}

Task<Result<void>> LeaseKeeper::release(VolumeId volume) {
  auto at = held_.find(volume);
  if (at == held_.end()) co_return Result<void>{};
  const bool was_lost = at->second->is_gone;
  at->second->fence->lose();
  at->second->is_gone = true;
  while (at != held_.end() && at->second->busy) {
    co_await changed_.wait();
    at = held_.find(volume);
  }
  if (at == held_.end()) co_return Result<void>{};
  const std::unique_ptr<Held> held = std::move(at->second);
  held_.erase(at);
  // What our block says of sharing would keep others away as long as this host lives.
  if (was_lost && !held->shared_since.has_value()) co_return Result<void>{};
  const HostIdentity self{held->leader.owner_id, held->leader.owner_generation};
  co_return co_await let_go(*held->area, self);
}

// Whatever that life of ours has of the volume, certain or not, owned or shared.
Task<Result<void>> LeaseKeeper::let_go(Area& area, HostIdentity self) {
  if (self_ != self) co_return Result<void>{};  // it ended with that life
  CO_TRY_ASSIGN(VolumeLeaseArea found, co_await read(area));
  auto& own = found.blocks[self.host_id - 1];
  if (own.has_value()) {
    own->released = true;
    own->shared_mode = false;
    own->shared_generation = 0;
    CO_TRY(co_await write_block(area, self, *own));
  }
  CO_TRY_ASSIGN(LeaseLeader leader, co_await read_leader(area));
  const bool is_ours =
      leader.owner_id == self.host_id && leader.owner_generation == self.generation;
  if (!is_ours || leader.timestamp == 0 || self_ != self) co_return Result<void>{};
  const LeaseLeader free = freed(leader, self, seconds());
  co_return co_await write_leader(area, free);
}

// --- Sharing ---

// As sanlock: the block says that we share it, then the leader is free.
Task<Result<void>> LeaseKeeper::share(VolumeId volume) {
  auto at = held_.find(volume);
  while (at != held_.end() && at->second->busy) {
    co_await changed_.wait();
    at = held_.find(volume);
  }
  if (at == held_.end() || at->second->is_gone) {
    co_return Error(ErrorCode::busy,
                    "the lease of volume " + volume.to_string() + " is lost; try again");
  }
  Held& held = *at->second;
  held.busy = true;
  auto begun = co_await begin_sharing(held);
  if (begun.ok()) held.shared_since = Epoch{held.leader.lver};
  held.busy = false;
  changed_.notify_all();
  co_return begun;
}

Task<Result<void>> LeaseKeeper::begin_sharing(Held& held) {
  Area& area = *held.area;
  const HostIdentity self{held.leader.owner_id, held.leader.owner_generation};
  CO_TRY_ASSIGN(VolumeLeaseArea found, co_await read(area));
  auto& own = found.blocks[self.host_id - 1];
  if (found.leader != held.leader || !own.has_value()) {
    co_return Error(ErrorCode::busy, "another host has taken volume " + area.volume.to_string());
  }
  own->shared_mode = true;
  own->shared_generation = self.generation;
  own->released = true;
  CO_TRY(co_await write_block(area, self, *own));
  const LeaseLeader free = freed(held.leader, self, seconds());
  CO_TRY(co_await write_leader(area, free));
  held.leader = free;
  co_return Result<void>{};
}

// The ownership that changed the volume last: whoever owns one to change it publishes a root of
// that epoch first. One that is gone has changed as much as can be.
Task<Result<Epoch>> LeaseKeeper::newest_change(VolumeId volume) {
  auto roots = co_await pool_.list_roots(volume);
  if (!roots.ok() && roots.error().code() != ErrorCode::not_found) co_return roots.take_error();
  if (!roots.ok() || roots->empty()) co_return Epoch{~std::uint64_t{0}};
  Epoch newest;
  for (const RootId& root : *roots) newest = std::max(newest, root.epoch);
  co_return newest;
}

// --- After a lapse ---

// The host lease has lapsed and is renewed.
Task<void> LeaseKeeper::take_again(VolumeId volume) {
  Held& held = *held_.at(volume);
  held.busy = true;
  Again again = Again::try_again;
  for (std::uint32_t tries = 0;
       tries < limits::kLeaseAcquireTries && !held.is_gone && again == Again::try_again; ++tries) {
    const std::uint64_t term = term_;
    if (held.shared_since.has_value()) {
      again = co_await try_share_again(held);
    } else {
      again = co_await try_take_again(held);
    }
    if (held.is_gone || again != Again::ours) continue;
    if (term != term_) {
      again = Again::try_again;
      continue;
    }
    held.is_lapsed = false;
    if (executor_.boot_time() < deadline()) held.fence->extend(deadline());
    log_info("volume " + volume.to_string() + " is still ours, and goes on");
  }
  if (again == Again::lost) {
    log_error("volume " + volume.to_string() +
              " was taken over by another host; it is fenced here");
    held.fence->lose();
    held.is_gone = true;
  }
  bool is_over = again == Again::lost;
  if (is_over && held.shared_since.has_value()) {
    const HostIdentity self{held.leader.owner_id, held.leader.owner_generation};
    const auto left = co_await let_go(*held.area, self);
    is_over = left.ok();
    held.is_lapsed = false;
    if (!left.ok()) log_warning(left.error().message() + "; it is tried again when it is detached");
  }
  held.busy = false;
  changed_.notify_all();
  if (is_over) held_.erase(volume);
}

// Who else has decided to take the volume meanwhile does it in a ballot, so winning the one right
// after ours shows that nobody has, and that nobody can before we lapse again.
Task<LeaseKeeper::Again> LeaseKeeper::try_take_again(Held& held) {
  const auto found = co_await read(*held.area);
  if (!found.ok() || held.is_gone || !self_.has_value()) co_return Again::try_later;
  const LeaseLeader& leader = found->leader;
  const std::uint64_t lver = Ballot::next_lver(found.value());
  // The ownership right after the one we know of is ours, too, if it says so: of a ballot whose
  // end we have not seen. Anything beyond it may hide somebody between.
  const bool is_taken = leader.owner_id != held.leader.owner_id ||
                        leader.owner_generation != held.leader.owner_generation ||
                        leader.lver < held.leader.lver || leader.lver > held.leader.lver + 1 ||
                        lver != leader.lver + 1;
  if (is_taken) co_return Again::lost;
  held.leader = leader;
  const auto won = co_await stand(*held.area, lver, false);
  if (!won.ok()) co_return Again::try_later;
  if (!won->has_value()) co_return Again::try_again;
  held.leader = won.value().value();
  co_return Again::ours;
}

// Others may have owned it, to share it as we do, or to change it, which shows in its roots.
Task<LeaseKeeper::Again> LeaseKeeper::try_share_again(Held& held) {
  VolumeLeaseArea found;
  const auto holder = co_await judge(*held.area, &found);
  if (!holder.ok() || held.is_gone || !self_.has_value()) co_return Again::try_later;
  const bool is_owned = holder->claim == LeaseClaim::held && holder->sharers.empty();
  if (!is_owned) {
    const auto won = co_await stand(*held.area, Ballot::next_lver(found), true);
    if (!won.ok()) co_return Again::try_later;
    if (!won->has_value()) co_return Again::try_again;
    held.leader = won.value().value();
  }
  // Before we say that we share it again: that says that all is as it was.
  const auto newest = co_await newest_change(held.area->volume);
  if (newest.ok() && newest.value() > *held.shared_since) co_return Again::lost;
  if (is_owned) {
    if (!newest.ok() || !found.leader.short_hold) co_return Again::try_later;
    co_await sleep_for(executor_, limits::kLeaseBallotJitter);
    co_return Again::try_again;
  }
  if (!newest.ok()) co_return Again::try_later;
  const auto shared = co_await begin_sharing(held);
  co_return shared.ok() ? Again::ours : Again::try_later;
}

Task<Result<LeaseHolder>> LeaseKeeper::show(VolumeId volume) {
  CO_TRY_ASSIGN(const std::unique_ptr<Area> area, co_await open_area(volume));
  VolumeLeaseArea found;
  co_return co_await judge(*area, &found);
}

Task<Result<LeaseHolder>> LeaseKeeper::break_lease(VolumeId volume) {
  CO_TRY_ASSIGN(const LeaseHolder holder, co_await show(volume));
  if (holder.claim == LeaseClaim::held) {
    std::string why = "its host is " + std::string(host_liveness_text(holder.state));
    if (holder.take_over_after.has_value()) {
      why +=
          "; in " +
          std::to_string(std::chrono::ceil<std::chrono::seconds>(*holder.take_over_after).count()) +
          " s it may be taken over, if it is not renewed until then";
    } else {
      why += "; detach the volume there";
    }
    co_return Error(ErrorCode::busy, "the lease is held by " + text_of(holder) + ", and " + why);
  }
  if (held_.contains(volume)) {
    co_return Error(ErrorCode::busy, "this daemon has the volume; detach it");
  }
  if (holder.claim == LeaseClaim::free) co_return holder;
  CO_TRY_ASSIGN(const AcquireAnswer taken, co_await acquire(volume, AcquireOptions()));
  if (taken.fence == nullptr) {
    co_return Error(ErrorCode::busy, text_of(taken.holder) + " has just taken it");
  }
  CO_TRY(co_await release(volume));
  co_return holder;
}

}  // namespace holdfast
