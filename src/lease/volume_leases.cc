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
Task<Result<std::optional<LeaseLeader>>> LeaseKeeper::stand(Area& area, std::uint64_t lver) {
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
    const LeaseLeader result = ballot.result(found.leader, seconds());
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
  const auto sharer = find_sharer(*found, *self_, watch_of, times_.watchdog);
  if (claim != LeaseClaim::held && sharer.has_value()) {
    co_return describe(*found, *sharer, LeaseClaim::held);
  }
  const HostIdentity owner{found->leader.owner_id, found->leader.owner_generation};
  co_return describe(*found, owner, claim);
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
    const bool was_ours =
        found.leader.owner_id == self.host_id && found.leader.owner_generation <= self.generation;
    if (answer.holder.claim == LeaseClaim::held) co_return answer;
    if (options.only_if_still_ours && !was_ours) co_return answer;
    const std::uint64_t lver = Ballot::next_lver(found);
    CO_TRY_ASSIGN(const std::optional<LeaseLeader> won, co_await stand(*area, lver));
    // A lapse in between may have let others decide against us; then once more.
    const bool is_certain =
        term == term_ && self_.has_value() && *self_ == self && executor_.boot_time() < deadline();
    if (!won.has_value() || !is_certain) {
      // Who has won meanwhile, or nobody, shows in the next look. Ours, not certain, is "own".
      options.only_if_still_ours = options.only_if_still_ours && was_ours;
      continue;
    }
    auto held = std::make_unique<Held>();
    held->leader = *won;
    // As the owner before us one may have begun to share it, after we had looked.
    CO_TRY_ASSIGN(const VolumeLeaseArea last, co_await read(*area));
    const auto watch_of = [this](std::uint64_t host) { return watch(host); };
    if (find_sharer(last, self, watch_of, times_.watchdog).has_value()) {
      held->area = std::move(area);
      CO_TRY(co_await let_go(*held));
      area = std::move(held->area);
      continue;
    }
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
  if (was_lost) co_return Result<void>{};
  co_return co_await let_go(*held);
}

Task<Result<void>> LeaseKeeper::let_go(Held& held) {
  Area& area = *held.area;
  const HostIdentity self{held.leader.owner_id, held.leader.owner_generation};
  CO_TRY_ASSIGN(VolumeLeaseArea found, co_await read(area));
  auto& own = found.blocks[self.host_id - 1];
  if (own.has_value()) {
    own->released = true;
    CO_TRY(co_await write_block(area, self, *own));
  }
  CO_TRY_ASSIGN(LeaseLeader leader, co_await read_leader(area));
  // Somebody has taken it, or wrote it for us; or we are not who we were.
  if (leader != held.leader || self_ != self) co_return Result<void>{};
  leader.timestamp = 0;
  leader.short_hold = false;
  leader.write_id = self.host_id;
  leader.write_generation = self.generation;
  leader.write_timestamp = seconds();
  co_return co_await write_leader(area, leader);
}

// The host lease has lapsed and is renewed: who else has decided to take the volume meanwhile does
// it in a ballot, so winning the one right after ours shows that nobody has, and that nobody can
// before we lapse again.
Task<void> LeaseKeeper::take_again(VolumeId volume) {
  Held& held = *held_.at(volume);
  held.busy = true;
  bool is_taken = false;
  for (std::uint32_t tries = 0; tries < limits::kLeaseAcquireTries && !held.is_gone; ++tries) {
    const std::uint64_t term = term_;
    const auto found = co_await read(*held.area);
    if (!found.ok() || held.is_gone || !self_.has_value()) break;  // the next renewal tries again
    const LeaseLeader& leader = found->leader;
    const std::uint64_t lver = Ballot::next_lver(found.value());
    // The ownership right after the one we know of is ours, too, if it says so: of a ballot whose
    // end we have not seen. Anything beyond it may hide somebody between.
    is_taken = leader.owner_id != held.leader.owner_id ||
               leader.owner_generation != held.leader.owner_generation ||
               leader.lver < held.leader.lver || leader.lver > held.leader.lver + 1 ||
               lver != leader.lver + 1;
    if (is_taken) {
      log_error("volume " + volume.to_string() +
                " was taken over by another host; it is fenced here");
      held.fence->lose();
      held.is_gone = true;
      break;
    }
    held.leader = leader;
    const auto won = co_await stand(*held.area, lver);
    if (!won.ok()) break;
    if (!won->has_value() || held.is_gone) continue;
    held.leader = won.value().value();
    if (term != term_) continue;
    held.is_lapsed = false;
    if (executor_.boot_time() < deadline()) held.fence->extend(deadline());
    log_info("volume " + volume.to_string() + " is still ours, and goes on");
    break;
  }
  held.busy = false;
  changed_.notify_all();
  if (is_taken) held_.erase(volume);
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
