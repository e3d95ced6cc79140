// SPDX-License-Identifier: Apache-2.0
//
// The decisions of a Paxos lease (Disk Paxos, Gafni and Lamport 2003, as sanlock 3.8 lays it out
// and runs it): who may stand, with which ballot, what a round of reading means, what is written.
// Pure; lease_keeper.cc does the reading and writing. models/ holds the protocol against its
// promises.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "format/lease_block.h"
#include "lease/host_watch.h"

namespace holdfast {

// All of a volume's lease, as one read found it.
struct VolumeLeaseArea {
  format::LeaseLeader leader;
  format::LeaseRequest request;
  // Of host id 1 and on; none: it fails its check, which a ballot passes over.
  std::vector<std::optional<format::LeaseBlock>> blocks;

  static Result<VolumeLeaseArea> decode(const format::LeaseGeometry& geometry,
                                        std::span<const std::byte> bytes);
};

// Who holds a volume, and why it may be taken from them, or may not.
enum class LeaseClaim {
  free,         // nobody has it
  own,          // we have it, from now or before
  host_gone,    // the holder's host has left, or came back in a new life
  host_dead,    // it has not renewed for long enough
  handed_over,  // the holder has let go of it
  held,         // none of these
};

// The hosts, not dead and not gone, that share the volume: a mode of sanlock's, in which the leader
// is free, and each sharer says so in its own block. Nobody may own the volume beside them.
std::vector<HostIdentity> find_sharers(const VolumeLeaseArea& area,
                                       const std::function<const HostWatch*(std::uint64_t)>& watch,
                                       Duration watchdog);

// `watch` answers for a host id; null: no such host. Does not look for sharers.
LeaseClaim judge_holder(const VolumeLeaseArea& area, const HostIdentity& self,
                        const std::function<const HostWatch*(std::uint64_t)>& watch,
                        Duration watchdog);

// One attempt to become the owner in ownership `lver`.
class Ballot {
 public:
  enum class Verdict {
    go_on,      // nobody stands in the way
    outbid,     // somebody has a higher ballot: try again with a higher one, a little later
    overtaken,  // somebody decides a later ownership already: look at the leader again
    disturbed,  // our own block is not what we wrote: an old write landed late; write again
  };

  Ballot(const HostIdentity& self, std::uint64_t hosts_max, std::uint64_t lver);

  std::uint64_t lver() const { return lver_; }
  // Before the first phase, and again after outbid or disturbed: above all ballots in the area.
  // What our block has accepted for this ownership stays, as the paper has it (sanlock forgets it:
  // with a crash behind it, two values could win).
  void choose_number(const VolumeLeaseArea& area);
  // The ownership that a ballot must be about: after the leader's, and not before one that is being
  // decided, or that an old leader which landed late has hidden.
  static std::uint64_t next_lver(const VolumeLeaseArea& area);
  // Of our own sector, in the phase we are in.
  const format::LeaseBlock& block() const { return block_; }
  // Of the area, read after block() was written.
  Verdict judge(const VolumeLeaseArea& area) const;
  // Phase 2: what the highest ballot of others has accepted, else ourselves. `timestamp`: not 0.
  void accept(const VolumeLeaseArea& area, std::uint64_t timestamp);
  // The value was proposed by this very ballot: one that an earlier life of ours had proposed is
  // not ours to use.
  bool is_own_value() const { return is_proposed_; }
  // After the second go_on: the outcome, to be written whoever has won. `short_hold`: if it is us,
  // it will soon be free.
  format::LeaseLeader result(const format::LeaseLeader& before, std::uint64_t timestamp,
                             bool short_hold) const;

 private:
  const HostIdentity self_;
  const std::uint64_t hosts_max_;
  const std::uint64_t lver_;
  format::LeaseBlock block_;
  bool is_proposed_ = false;              // `block_` has our own value
  std::uint64_t proposed_timestamp_ = 0;  // of our own value, once there is one
};

}  // namespace holdfast
