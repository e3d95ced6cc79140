// SPDX-License-Identifier: Apache-2.0
#include "cli/lease_output.h"

#include <cstdio>

#include "cli/table.h"

namespace holdfast {
namespace {

constexpr const char* kThisHost = " (this)";

std::string volume_of(const Json& object) {
  return text_of(object, "pool") + "/" + text_of(object, "volume");
}

// "12 ms": for what is good when it is short.
std::string milliseconds_of(const Json& object, const char* key) {
  if (!member(object, key).is_number()) return kUnknown;
  char text[48];
  const double milliseconds = seconds_of(object, key) * 1000;
  std::snprintf(text, sizeof text, milliseconds < 9.95 ? "%.1f ms" : "%.0f ms", milliseconds);
  return text;
}

std::string ago(const Json& object, const char* key) {
  return member(object, key).is_number() ? duration_of(object, key) + " ago" : kUnknown;
}

// "now", "in 23 s"
std::string when_due(const Json& seconds) {
  if (!seconds.is_number()) return kUnknown;
  return seconds.get<double>() > 0 ? "in " + format_seconds(seconds.get<double>()) : "now";
}

std::string host_of(const Json& lease) {
  const std::string host = text_of(lease, "host");
  if (host.empty()) {
    const std::string id = number_of(lease, "host_id");
    return id == kUnknown ? id : "id " + id;
  }
  return host;
}

// Of a shared one: "a, b".
std::string sharers_of(const Json& lease) {
  std::string text;
  const Json& sharers = member(lease, "sharers");
  if (!sharers.is_array()) return text;
  for (const Json& sharer : sharers) {
    if (!sharer.is_string()) continue;
    text += (text.empty() ? "" : ", ") + sharer.get<std::string>();
  }
  return text;
}

const Json& ownership_of(const Json& volume) {
  return member(member(volume, "attachment"), "lease");
}

}  // namespace

std::string take_over_text(const Json& take_over_in_seconds) {
  if (!take_over_in_seconds.is_number()) return "is not taken over while that host lives";
  return "may be taken over " + when_due(take_over_in_seconds);
}

std::string lease_table(const Json& leases) {
  Table table({{"VOLUME"},
               {"MODE"},
               {"HOST"},
               {"STATE"},
               {"EPOCH", Table::Align::right},
               {"RENEWED", Table::Align::right},
               {"TAKE-OVER", Table::Align::right}});
  for (const Json& lease : leases) {
    const bool is_held = flag_of(lease, "held");
    const std::string host = host_of(lease);
    table.add({volume_of(lease), or_unknown(text_of(lease, "mode")),
               !is_held                     ? kUnknown
               : !sharers_of(lease).empty() ? sharers_of(lease)
               : flag_of(lease, "ours")     ? host + kThisHost
                                            : host,
               is_held ? or_unknown(text_of(lease, "holder_state")) : kUnknown,
               number_of(lease, "epoch"),
               is_held ? ago(lease, "last_renewal_seconds_ago") : kUnknown,
               !is_held                 ? "now"
               : flag_of(lease, "ours") ? kUnknown
                                        : when_due(member(lease, "take_over_in_seconds"))});
  }
  if (table.empty()) {
    return "There are no leases: only volumes of shared pools have them (pool create --shared)\n";
  }
  return table.text();
}

std::string lease_details(const Json& lease) {
  Details details;
  details.add("volume", volume_of(lease));
  const bool is_held = flag_of(lease, "held");
  details.add("lease", is_held ? "held, " + or_unknown(text_of(lease, "mode"))
                               : std::string("free: whoever attaches the volume has it"));
  const std::string host = host_of(lease);
  const std::string sharers = sharers_of(lease);
  if (!sharers.empty()) {
    details.add("read by", sharers);
  } else if (host != kUnknown) {
    details.add(is_held ? "holder" : "last holder",
                host + (flag_of(lease, "ours") ? kThisHost : "") + ", id " +
                    number_of(lease, "host_id") + ", generation " + number_of(lease, "generation"));
  }
  details.add("epoch", number_of(lease, "epoch"));
  if (!is_held) return details.take();
  if (member(lease, "since_unix_seconds").is_number()) {
    details.add("since", time_of(lease, "since_unix_seconds"));
  }
  details.add("state", or_unknown(text_of(lease, "holder_state")) + ", renewed " +
                           ago(lease, "last_renewal_seconds_ago"));
  if (!flag_of(lease, "ours")) {
    const Json& take_over = member(lease, "take_over_in_seconds");
    details.add("take-over", take_over.is_number()
                                 ? when_due(take_over) + ": by attaching it here"
                                 : std::string("not while that host lives: detach it, or hand it "
                                               "over, there"));
  }
  return details.take();
}

std::string broken_text(const Json& answer) {
  const Json& was = member(answer, "was");
  return "The lease of " + volume_of(answer) + " is free; host " + host_of(was) +
         ", which is dead, had it in epoch " + number_of(was, "epoch") + "\n";
}

std::string host_table(const Json& hosts) {
  Table table({{"HOST"},
               {"ID", Table::Align::right},
               {"STATE"},
               {"GENERATION", Table::Align::right},
               {"RENEWED", Table::Align::right},
               {"DEAD IN", Table::Align::right},
               {"N", Table::Align::right},
               {"READ", Table::Align::right},
               {"WRITE", Table::Align::right},
               {"WRITE MAX", Table::Align::right},
               {"FAILURES", Table::Align::right}});
  for (const Json& host : hosts) {
    const Json& renewals = member(host, "renewals");
    const std::string n = number_of(host, "io_timeout_seconds");
    table.add(
        {host_of(host) + (flag_of(host, "this") ? kThisHost : ""), number_of(host, "host_id"),
         or_unknown(text_of(host, "state")), number_of(host, "generation"),
         renewals.is_object() ? ago(renewals, "last_seconds_ago") : ago(host, "unchanged_seconds"),
         text_of(host, "state") == "live" ? kUnknown : duration_of(host, "dead_in_seconds"),
         n == kUnknown ? n : n + " s", milliseconds_of(renewals, "last_read_seconds"),
         milliseconds_of(renewals, "last_write_seconds"),
         milliseconds_of(renewals, "write_seconds_max"), number_of(renewals, "failures")});
  }
  if (table.empty()) return "No host has ever had this pool open.\n";
  return table.text();
}

std::string hand_over_text(const Json& answer) {
  return "Volume " + volume_of(answer) + " is free for the host that attaches it next (" +
         milliseconds_of(answer, "seconds") + ")\n";
}

std::string lease_state(const Json& volume) {
  const std::string state = text_of(ownership_of(volume), "state");
  if (state == "waiting") return "waits for its lease";
  if (state == "expired") return "held: lease expired";
  if (state == "fenced") return "fenced";
  if (state == "handed-over") return "handed over";
  return "";
}

std::string lease_note(const Json& volume) {
  const Json& lease = ownership_of(volume);
  const std::string state = text_of(lease, "state");
  const std::string holder = text_of(lease, "holder");
  const std::string other = holder.empty() ? "another host" : "host " + holder;
  if (state == "waiting") {
    return "waits for " + other + ": it " + take_over_text(member(lease, "take_over_in_seconds"));
  }
  if (state == "expired") {
    return "has a lease that this host could not renew in time: its requests wait until it can, "
           "and "
           "for good if another host takes the volume over meanwhile";
  }
  if (state == "fenced") {
    return "was taken over by " + other +
           ": its requests are not answered here any more; stop its virtual machine, then detach "
           "it";
  }
  if (state == "handed-over") return "was handed over to " + other + "; detach it here";
  return "";
}

std::string host_lease_note(const Json& pool) {
  const Json& leases = member(pool, "leases");
  if (!leases.is_object()) return "";
  const std::string state = text_of(leases, "state");
  if (state.empty() || state == "live") return "";
  const Json& renewals = member(leases, "renewals");
  if (!renewals.is_object()) return "this host has no lease in it yet";
  return "this host last renewed its lease in it " + ago(renewals, "last_seconds_ago") + " (" +
         state + ")";
}

void add_ownership(Details& details, const Json& volume) {
  const Json& attachment = member(volume, "attachment");
  const std::string mode = text_of(attachment, "mode");
  if (!mode.empty()) details.add("mode", mode);
  const Json& lease = member(attachment, "lease");
  if (!lease.is_object()) return;
  const std::string note = lease_note(volume);
  details.add("lease", or_unknown(text_of(lease, "state")) + ", epoch " +
                           number_of(lease, "epoch") + (note.empty() ? "" : ": it " + note));
}

void add_pool_leases(Details& details, const Json& pool) {
  const Json& leases = member(pool, "leases");
  if (!leases.is_object()) return;
  const Json& watchdog = member(leases, "watchdog_seconds");
  details.add("leases", "I/O timeout " + duration_of(leases, "io_timeout_seconds") +
                            (watchdog.is_number() && watchdog.get<double>() > 0
                                 ? ", watchdog " + duration_of(leases, "watchdog_seconds")
                                 : ""));
  const std::string host = text_of(leases, "host");
  const Json& renewals = member(leases, "renewals");
  details.add("this host", or_unknown(host) + ", id " + number_of(leases, "host_id") +
                               ", generation " + number_of(leases, "generation") + ", " +
                               or_unknown(text_of(leases, "state")));
  if (!renewals.is_object()) return;
  details.add("renewed", ago(renewals, "last_seconds_ago") + ": read " +
                             milliseconds_of(renewals, "last_read_seconds") + ", write " +
                             milliseconds_of(renewals, "last_write_seconds") + " (max " +
                             milliseconds_of(renewals, "write_seconds_max") + "); " +
                             number_of(renewals, "failures") + " of " +
                             number_of(renewals, "count") + " failed");
}

}  // namespace holdfast
