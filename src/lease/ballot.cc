// SPDX-License-Identifier: Apache-2.0
#include "lease/ballot.h"

#include <algorithm>

namespace holdfast {

using format::LeaseBlock;
using format::LeaseLeader;

Result<VolumeLeaseArea> VolumeLeaseArea::decode(const format::LeaseGeometry& geometry,
                                                std::span<const std::byte> bytes) {
  const auto sector = [&](std::uint64_t offset) {
    return bytes.subspan(offset, geometry.sector_bytes);
  };
  VolumeLeaseArea area;
  area.leader = TRY(format::decode_leader(sector(0), format::LeaseKind::volume));
  // A request that makes no sense asks for nothing.
  const auto request = format::decode_lease_request(sector(format::request_offset(geometry)));
  if (request.ok()) area.request = request.value();
  area.blocks.resize(geometry.hosts_max());
  for (std::uint64_t host = 1; host <= geometry.hosts_max(); ++host) {
    const std::uint64_t offset = format::block_offset(geometry, host);
    if (offset + geometry.sector_bytes > bytes.size()) break;
    auto block = format::decode_lease_block(sector(offset));
    if (block.ok()) area.blocks[host - 1] = block.value();
  }
  return area;
}

std::vector<HostIdentity> find_sharers(const VolumeLeaseArea& area,
                                       const std::function<const HostWatch*(std::uint64_t)>& watch,
                                       Duration watchdog) {
  std::vector<HostIdentity> sharers;
  for (std::uint64_t id = 1; id <= area.blocks.size(); ++id) {
    const auto& block = area.blocks[id - 1];
    if (!block.has_value() || !block->shared_mode) continue;
    const HostIdentity sharer{id, block->shared_generation};
    const HostWatch* const host = watch(id);
    const bool is_known = host != nullptr && host->is_seen();  // else it was not looked at yet
    if (is_known) {
      const LeaseLeader& lease = host->lease();
      const bool is_gone = lease.owner_generation > sharer.generation ||
                           (lease.owner_generation == sharer.generation && lease.timestamp == 0);
      if (is_gone || host->state(watchdog) == HostLiveness::dead) continue;
    }
    sharers.push_back(sharer);
  }
  return sharers;
}

LeaseClaim judge_holder(const VolumeLeaseArea& area, const HostIdentity& self,
                        const std::function<const HostWatch*(std::uint64_t)>& watch,
                        Duration watchdog) {
  const LeaseLeader& leader = area.leader;
  if (leader.timestamp == 0 || leader.owner_id == 0) return LeaseClaim::free;
  if (leader.owner_id == self.host_id && leader.owner_generation <= self.generation) {
    return LeaseClaim::own;
  }
  const HostWatch* const holder = watch(leader.owner_id);
  if (holder == nullptr || !holder->is_seen()) return LeaseClaim::held;  // not looked at yet
  const LeaseLeader& host = holder->lease();
  // A release of an earlier life may land late, on top of a later one: that says nothing.
  if ((host.timestamp == 0 && host.owner_generation >= leader.owner_generation) ||
      host.owner_generation > leader.owner_generation) {
    return LeaseClaim::host_gone;
  }
  if (holder->state(watchdog) == HostLiveness::dead) return LeaseClaim::host_dead;
  // Whoever wrote the outcome for the winner may be ahead of it; only the winner can let go.
  if (leader.write_id != leader.owner_id && leader.owner_id <= area.blocks.size()) {
    const auto& block = area.blocks[leader.owner_id - 1];
    if (block.has_value() && block->released && block->lver >= leader.lver) {
      return LeaseClaim::handed_over;
    }
  }
  return LeaseClaim::held;
}

Ballot::Ballot(const HostIdentity& self, std::uint64_t hosts_max, std::uint64_t lver)
    : self_(self), hosts_max_(hosts_max), lver_(lver) {}

std::uint64_t Ballot::next_lver(const VolumeLeaseArea& area) {
  std::uint64_t next = area.leader.lver + 1;
  for (const auto& block : area.blocks) {
    if (block.has_value()) next = std::max(next, block->lver);
  }
  return next;
}

// Each host's numbers are its own: they leave its id when divided by the number of hosts.
void Ballot::choose_number(const VolumeLeaseArea& area) {
  std::uint64_t highest = block_.mbal;
  for (const auto& block : area.blocks) {
    if (block.has_value()) highest = std::max(highest, block->mbal);
  }
  const auto& own = area.blocks[self_.host_id - 1];
  LeaseBlock fresh;
  if (own.has_value() && own->lver == lver_) {
    fresh.bal = own->bal;
    fresh.inp = own->inp;
    fresh.inp2 = own->inp2;
    fresh.inp3 = own->inp3;
  }
  block_ = fresh;
  block_.lver = lver_;
  block_.mbal =
      highest == 0 ? self_.host_id : highest / hosts_max_ * hosts_max_ + hosts_max_ + self_.host_id;
}

Ballot::Verdict Ballot::judge(const VolumeLeaseArea& area) const {
  const auto& own = area.blocks[self_.host_id - 1];
  if (!own.has_value() || *own != block_) return Verdict::disturbed;
  Verdict verdict = Verdict::go_on;
  for (const auto& block : area.blocks) {
    if (!block.has_value() || block->lver < lver_) continue;
    if (block->lver > lver_) return Verdict::overtaken;
    if (block->mbal > block_.mbal) verdict = Verdict::outbid;
  }
  return verdict;
}

void Ballot::accept(const VolumeLeaseArea& area, std::uint64_t timestamp) {
  const LeaseBlock* highest = nullptr;
  for (const auto& block : area.blocks) {
    if (!block.has_value() || block->lver != lver_ || block->bal == 0) continue;
    if (highest == nullptr || block->bal > highest->bal) highest = &*block;
  }
  if (highest != nullptr) {
    block_.inp = highest->inp;
    block_.inp2 = highest->inp2;
    block_.inp3 = highest->inp3;
    // Our own from an earlier round counts; one of an earlier life of ours does not.
    is_proposed_ = proposed_timestamp_ != 0 && block_.inp == self_.host_id &&
                   block_.inp2 == self_.generation && block_.inp3 == proposed_timestamp_;
  } else {
    block_.inp = self_.host_id;
    block_.inp2 = self_.generation;
    block_.inp3 = timestamp;
    is_proposed_ = true;
    proposed_timestamp_ = timestamp;
  }
  block_.bal = block_.mbal;
}

LeaseLeader Ballot::result(const LeaseLeader& before, std::uint64_t timestamp,
                           bool short_hold) const {
  LeaseLeader leader = before;
  leader.lver = lver_;
  leader.owner_id = block_.inp;
  leader.owner_generation = block_.inp2;
  leader.timestamp = block_.inp3;
  leader.short_hold = short_hold && is_proposed_;
  leader.write_id = self_.host_id;
  leader.write_generation = self_.generation;
  leader.write_timestamp = timestamp;
  return leader;
}

}  // namespace holdfast
