// SPDX-License-Identifier: Apache-2.0
//
// The leases of one shared pool, for one daemon: claims and renews its host lease, watches those of
// the other hosts, and takes and gives back the leases of volumes. Facts: sanlock's protocol (3.8),
// docs/format.md "Lease areas"; what it does beyond it, and why: docs/decisions/0021-leases.md.
//
// Promise: while a Fence of it holds, no other host owns that volume.
//
// Thread: the executor's, which should do nothing else that may be slow; so do its pool and that
// pool's file system. Lifetime: join(), use, leave(). To destroy it without is what a crash does.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "format/lease_block.h"
#include "io/aligned_buffer.h"
#include "io/executor.h"
#include "io/file_system.h"
#include "io/task.h"
#include "lease/ballot.h"
#include "lease/host_watch.h"
#include "pool/fence.h"
#include "pool/pool.h"

namespace holdfast {

// Of a shared pool.
LeaseTimes lease_times(const PoolInfo& pool);

struct LeaseOptions {
  std::string host_name;  // unique and stable, up to 48 bytes
  // Of a daemon of this name, on this machine since it was started, that has ended for certain.
  std::optional<HostIdentity> before;
  // On the executor: another host asks for a volume that is ours; `now`: it waits for it.
  std::function<void(VolumeId volume, bool now)> on_request = [](VolumeId, bool) {};
};

// Who has a volume, as one look found it.
struct LeaseHolder {
  LeaseClaim claim = LeaseClaim::free;
  HostIdentity host;  // the last owner; zeros: it never had one
  std::string host_name;
  std::uint64_t lver = 0;
  HostLiveness state = HostLiveness::free;  // of that host
  Duration unchanged{};                     // how long it has not been seen to renew
  std::optional<Duration> take_over_after;  // none: not while the host lives
  // It is shared for reading, by these hosts, of which `host` is one; nobody owns it meanwhile.
  std::vector<std::string> sharers;
};

struct AcquireAnswer {
  std::shared_ptr<const Fence> fence;  // null: somebody else has it
  LeaseHolder holder;                  // before us
  // For sharing only. Others share the volume already, so that nothing of it may be changed.
  bool is_shared = false;
  // It was changed since the ownership that was asked for: there is no fence.
  bool was_changed = false;
};

// One renewal of the own host lease, for people.
struct Renewal {
  BootTime at{};  // begun
  Duration read{};
  Duration write{};
  bool ok = false;
};

struct KeeperReport {
  struct Host {
    HostIdentity identity;
    std::string name;
    HostLiveness state = HostLiveness::free;
    Duration unchanged{};
    std::optional<Duration> dead_in;
    std::uint32_t io_timeout_seconds = 0;
    bool is_this = false;
  };
  std::optional<HostIdentity> self;  // none: not joined
  std::string problem;               // why not, or why it cannot renew
  BootTime now{};
  std::vector<Host> hosts;       // that have a name, by id
  std::deque<Renewal> renewals;  // the newest last
  std::uint64_t renewal_count = 0;
  std::uint64_t renewal_failures = 0;
  Duration last_renewal_age{};
  bool is_expired = false;
};

class LeaseKeeper {
 public:
  // `pool` is shared, on this executor, and outlives the keeper.
  LeaseKeeper(Executor& executor, Pool& pool, LeaseOptions options);
  ~LeaseKeeper();
  LeaseKeeper(const LeaseKeeper&) = delete;
  LeaseKeeper& operator=(const LeaseKeeper&) = delete;

  // Claims a host id and begins to renew. At once when a daemon before had one that has not run
  // out; else twice to ten times the I/O timeout. busy: another host uses our name.
  Task<Result<HostIdentity>> join();
  // Stops renewing. `release`: no volume is ours any more, and others need not wait for us.
  Task<void> leave(bool release);

  struct AcquireOptions {
    // The volume has been ours, and nobody's since: else nothing is taken (`holder` says who).
    bool only_if_still_ours = false;
    // To share() it at once, also beside others who do.
    bool for_sharing = false;
    // For sharing: nothing is taken if the volume was changed since that ownership. 0: whenever.
    Epoch shared_since{};
  };
  // Takes the volume if nobody has it, or whoever has it may be replaced now; never waits for
  // another host. Errors: what the storage says; busy before join() has succeeded.
  Task<Result<AcquireAnswer>> acquire(VolumeId volume, AcquireOptions options);
  // Of a volume that is ours, and closed: from here on other hosts may share it, too, and until
  // none does nobody can own it. Its fence holds as before, now for reading what is there.
  Task<Result<void>> share(VolumeId volume);
  // Gives it back; its fence is lost from here on. A volume that is not ours is fine.
  Task<Result<void>> release(VolumeId volume);
  Task<Result<LeaseHolder>> show(VolumeId volume);
  // Of a volume whose holder is dead or gone: makes it free. busy: with the reason.
  Task<Result<LeaseHolder>> break_lease(VolumeId volume);
  // Asks the holder of the volume to hand it over: `now`, or as soon as we say so.
  Task<Result<void>> request(VolumeId volume, bool now);

  KeeperReport report() const;
  LeaseTimes times() const { return times_; }

 private:
  struct Held;
  struct Area;

  // lease_keeper.cc: the host lease
  Task<Result<void>> open_hosts();
  Task<Result<HostIdentity>> claim();
  Task<Result<bool>> resume(HostIdentity before);
  Task<Result<HostIdentity>> claim_slot(std::uint64_t host_id);
  Task<Result<void>> wait_until_unused(std::uint64_t host_id);
  Task<Result<void>> look(std::uint64_t hosts);
  Task<Result<void>> write_host_lease(bool release);
  Task<void> run();
  Task<void> tick();
  Task<void> renew(Duration read_time);
  void lose_all(const std::string& why);
  bool is_own_record_intact() const;
  BootTime deadline() const;
  std::optional<std::uint64_t> choose_slot();
  void note_requests();
  Task<void> look_at_requests(bool all);
  Task<void> watch_requests();

  // volume_leases.cc
  Task<Result<std::unique_ptr<Area>>> open_area(VolumeId volume);
  Task<Result<VolumeLeaseArea>> read(Area& area);
  Task<Result<format::LeaseLeader>> read_leader(Area& area);
  Task<Result<void>> write_sector(Area& area, std::uint64_t offset_bytes);
  Task<Result<void>> write_leader(Area& area, format::LeaseLeader leader);
  Task<Result<void>> write_block(Area& area, HostIdentity self, format::LeaseBlock block);
  Task<Result<std::optional<format::LeaseLeader>>> stand(Area& area, std::uint64_t lver,
                                                         bool short_hold);
  Task<Result<LeaseHolder>> judge(Area& area, VolumeLeaseArea* found);
  LeaseHolder describe(const VolumeLeaseArea& area, HostIdentity identity, LeaseClaim claim) const;
  Task<Result<bool>> settle(Area& area, AcquireOptions options, AcquireAnswer* answer);
  Task<Result<void>> let_go(Area& area, HostIdentity self);
  Task<Result<void>> begin_sharing(Held& held);
  Task<Result<Epoch>> newest_change(VolumeId volume);
  bool has_other_sharers(const VolumeLeaseArea& area, Epoch since) const;
  Task<void> take_again(VolumeId volume);
  enum class Again { ours, lost, try_again, try_later };
  Task<Again> try_take_again(Held& held);
  Task<Again> try_share_again(Held& held);

  const HostWatch* watch(std::uint64_t host_id) const;
  std::uint64_t seconds() const;

  Executor& executor_;
  Pool& pool_;
  const LeaseOptions options_;
  const LeaseTimes times_;
  const std::string space_name_;
  const format::LeaseGeometry geometry_;
  std::unique_ptr<File> hosts_file_;
  AlignedBuffer hosts_buffer_;  // of the whole area
  bool is_looking_ = false;     // the buffer is in use
  AlignedBuffer own_sector_;
  std::vector<HostWatch> watches_;  // by host id - 1
  std::vector<format::LeaseHostBits> seen_bits_;

  std::optional<HostIdentity> self_;
  bool running_ = false;
  bool stopping_ = false;
  std::string problem_;
  format::LeaseLeader written_;  // our own record, as last written or tried to be
  BootTime renewed_{};           // the time of the renewal: sampled before its write
  std::uint64_t term_ = 0;       // grows whenever the host lease has lapsed
  BootTime attempted_{};
  format::LeaseHostBits own_bits_;  // hosts that we want to look at their volumes' requests
  bool bits_changed_ = false;
  std::map<VolumeId, std::unique_ptr<Held>> held_;
  std::deque<Renewal> renewals_;
  std::uint64_t renewal_count_ = 0;
  std::uint64_t renewal_failures_ = 0;
  Condition changed_;
  TaskScope tasks_;  // last: they use all of the above
};

}  // namespace holdfast
