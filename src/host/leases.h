// SPDX-License-Identifier: Apache-2.0
//
// Words for what has to do with leases: how a volume of a shared pool is attached, and how a host
// is that holds one.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "host/commands.h"
#include "lease/host_watch.h"

namespace holdfast {

enum class AttachMode {
  exclusive,
  incoming,          // taken over from the host that has it, when a client wants it
  shared_read_only,  // nobody writes, anywhere
  shared_writable,   // by clients that know of each other, all of them through this host
};

// "exclusive", "incoming", "shared", "shared-writable"
const char* attach_mode_name(AttachMode mode);
std::optional<AttachMode> parse_attach_mode(std::string_view name);

// What a request's flags mean together; refuses what contradicts itself. A snapshot never changes:
// it needs no mode.
Result<AttachMode> attach_mode(const AttachRequest& request, bool is_snapshot);

// A host that renews every 2N and has not for more than 3N is failing, though it may only be late:
// what it had is taken over unless it comes back. N and the whole time until then are the pool's.
void judge_overdue(LeaseReport& lease, const LeaseTimes& times);
void judge_overdue(PoolHostReport& host, const LeaseTimes& times);

// That another host has the volume: who, how it is, and what a person can do about it.
Error lease_held_error(const LeaseReport& lease, AttachMode wanted);

// Only a dead holder's lease is broken; says why not, and for how long.
Result<void> check_breakable(const LeaseReport& lease);

}  // namespace holdfast
