// SPDX-License-Identifier: Apache-2.0
#include "cli/output.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "base/units.h"
#include "cli/json_text.h"
#include "cli/lease_output.h"
#include "cli/table.h"

namespace holdfast {
namespace {

constexpr std::size_t kShownClonesMax = 10;

// Of what is not the reserve: at 100 % guests' writes are held.
std::string percent_used(const Json& pool) {
  const Json& percent_now = member(pool, "used_percent");
  if (percent_now.is_number()) {
    return " (" + std::to_string(static_cast<int>(percent_now.get<double>() + 0.5)) + " %)";
  }
  const Json& used = member(pool, "used_bytes");
  const Json& capacity = member(pool, "capacity_bytes");
  if (!used.is_number() || !capacity.is_number() || capacity.get<double>() <= 0) return "";
  const double percent = 100 * used.get<double>() / capacity.get<double>();
  return " (" + std::to_string(static_cast<int>(percent + 0.5)) + " %)";
}

// "1.2 GiB"; "-1.2 GiB" of what shrinks.
std::string signed_bytes(const Json& value) {
  const double bytes = value.get<double>();
  const auto magnitude = static_cast<std::uint64_t>(std::min(std::abs(bytes), 9e18));
  return (bytes < 0 ? "-" : "") + format_bytes(magnitude);
}

// Empty when it was not observed for long enough.
std::string growth_of(const Json& object) {
  std::string text;
  const Json& hour = member(object, "growth_bytes_per_hour");
  if (hour.is_number()) text = signed_bytes(hour) + " an hour, as of the last hour";
  const Json& day = member(object, "growth_bytes_per_day");
  if (day.is_number()) {
    text += (text.empty() ? "" : "; ") + signed_bytes(day) + " a day, as of the last days";
  }
  return text;
}

std::uint64_t bytes_for_guests(const Json& pool) {
  const Json& available = member(pool, "available_bytes");
  const Json& reserve = member(pool, "reserve_bytes");
  if (!available.is_number() || !reserve.is_number()) return 0;
  const auto bytes = available.get<std::uint64_t>();
  return bytes - std::min(bytes, reserve.get<std::uint64_t>());
}

// Empty while nothing is to be done.
std::string level_advice(const Json& pool) {
  const std::string level = text_of(pool, "level");
  if (level.empty() || level == "ok") return "";
  const std::string left = level == "full"
                               ? "guests' writes that need space are held until there is some"
                               : format_bytes(bytes_for_guests(pool)) + " are left for guests";
  const Json& in_trash = member(pool, "trash_bytes");
  const bool has_trash = in_trash.is_number() && in_trash.get<double>() > 0;
  return left +
         (has_trash ? "; the trash holds " + bytes_of(pool, "trash_bytes") +
                          ", which 'holdfast trash empty " + text_of(pool, "name") + "' frees"
                    : "") +
         "; add space, remove volumes for good (volume remove --now) or trim in the guests "
         "(fstrim)";
}

// "live, garbage, still to be written" of an object that has them.
std::string parts_of(const Json& object) {
  if (!member(object, "live_bytes").is_number()) return "";
  return bytes_of(object, "live_bytes") + " live, " + bytes_of(object, "garbage_bytes") +
         " garbage, " + bytes_of(object, "unwritten_bytes") + " still to be written";
}

std::string volume_name(const Json& volume) {
  return text_of(volume, "pool") + "/" + text_of(volume, "name");
}

// "serving", "held: pool full"
std::string volume_state(const Json& volume) {
  const std::string lease = lease_state(volume);
  if (!lease.empty()) return lease;
  const Json& hold = member(volume, "hold");
  const std::string state = text_of(volume, "state");
  if (hold.is_object()) {
    return (state == "opening" ? "opening, held: " : "held: ") + text_of(hold, "reason");
  }
  return or_unknown(state);
}

std::string access_of(const Json& volume) {
  const Json& attachment = member(volume, "attachment");
  if (!attachment.is_object()) return kUnknown;
  return flag_of(attachment, "read_only") ? "read-only" : "read-write";
}

void add_hold(Details& details, const Json& hold) {
  details.add("held",
              text_of(hold, "reason") + " for " + format_seconds(seconds_of(hold, "seconds")) +
                  ", " + number_of(hold, "waiting") + " operations wait; they go on by themselves");
  details.add("storage says", or_unknown(text_of(hold, "detail")));
}

void add_machine(Details& details, const Json& attachment) {
  const Json& machine = member(attachment, "machine");
  const std::string qmp = text_of(attachment, "qmp");
  if (qmp.empty()) return;
  const std::string detail = text_of(machine, "detail");
  details.add("machine", or_unknown(text_of(machine, "state")) +
                             (detail.empty() ? "" : ": " + detail) + ", paused " +
                             number_of(machine, "pauses") + " times, monitor " + qmp);
}

void add_relations(Details& details, const Json& volume) {
  const Json& parent = member(volume, "parent");
  if (parent.is_object()) {
    const std::string of = text_of(parent, "volume");
    const std::string snapshot = text_of(parent, "snapshot");
    details.add("clone of", of.empty() ? "a volume that is gone"
                                       : text_of(volume, "pool") + "/" + of +
                                             (snapshot.empty() ? ", from a snapshot that is gone"
                                                               : "@" + snapshot) +
                                             (flag_of(parent, "in_trash") ? ", in the trash" : ""));
  }
  const Json& count = member(volume, "snapshot_count");
  if (!count.is_number()) return;
  const std::string newest = text_of(volume, "newest_snapshot");
  details.add("snapshots", number_of(volume, "snapshot_count") +
                               (newest.empty() ? "" : ", the newest is " + newest));
  std::string clones;
  std::size_t shown = 0;
  const auto add = [&](const Json& names, const char* where) {
    if (!names.is_array()) return;
    for (const Json& clone : names) {
      if (++shown <= kShownClonesMax) {
        clones += (clones.empty() ? "" : ", ") + clone.get<std::string>() + where;
      }
    }
  };
  add(member(volume, "clones"), "");
  add(member(volume, "clones_in_trash"), " (in the trash)");
  if (shown > kShownClonesMax)
    clones += " and " + std::to_string(shown - kShownClonesMax) + " more";
  if (shown > 0) details.add("clones", clones);
}

// What needs a person's attention, below the tables.
std::string notes(const Json& status) {
  std::string out;
  const Json& daemon = member(status, "daemon");
  if (!flag_of(daemon, "state_saved")) {
    out += "The state cannot be saved: " + text_of(daemon, "state_error") +
           "; attachments made since would not survive a restart\n";
  }
  for (const Json& pool : member(status, "pools")) {
    const std::string reason = text_of(pool, "reason");
    if (!reason.empty()) out += "Pool " + text_of(pool, "name") + ": " + reason + "\n";
    const std::string advice = level_advice(pool);
    if (!advice.empty()) {
      out += "Pool " + text_of(pool, "name") + " is at level " + text_of(pool, "level") +
             percent_used(pool) + ": " + advice + "\n";
    }
    const std::string lease = host_lease_note(pool);
    if (!lease.empty()) out += "Pool " + text_of(pool, "name") + ": " + lease + "\n";
  }
  for (const Json& volume : member(status, "volumes")) {
    const std::string reason = text_of(volume, "reason");
    if (!reason.empty()) out += "Volume " + volume_name(volume) + ": " + reason + "\n";
    const Json& preallocation = member(volume, "preallocation");
    const std::string missing = text_of(preallocation, "state");
    if (preallocation.is_object() && missing != "complete") {
      const std::string why = text_of(preallocation, "reason");
      out += "Volume " + volume_name(volume) +
             " is not yet sure of its space: " + bytes_of(preallocation, "done_bytes") + " of " +
             bytes_of(preallocation, "total_bytes") + " are preallocated, " + missing +
             (why.empty() ? "" : ": " + why) + "\n";
    }
    const std::string lease = lease_note(volume);
    if (!lease.empty()) out += "Volume " + volume_name(volume) + " " + lease + "\n";
    const Json& hold = member(volume, "hold");
    if (hold.is_object()) {
      out += "Volume " + volume_name(volume) + " is held: " + text_of(hold, "reason") + " for " +
             format_seconds(seconds_of(hold, "seconds")) + " (" + text_of(hold, "detail") + "), " +
             number_of(hold, "waiting") + " operations wait\n";
    }
    const Json& machine = member(member(volume, "attachment"), "machine");
    const std::string machine_state = text_of(machine, "state");
    const std::string detail = text_of(machine, "detail");
    if (!detail.empty() || (!machine_state.empty() && machine_state != "running")) {
      out += "Volume " + volume_name(volume) + ", its virtual machine: " + machine_state +
             (detail.empty() ? "" : " (" + detail + ")") + "\n";
    }
  }
  return out;
}

}  // namespace

std::string pool_table(const Json& pools) {
  Table table({{"POOL"},
               {"STATE"},
               {"LEVEL"},
               {"USED", Table::Align::right},
               {"CAPACITY", Table::Align::right},
               {"VOLUMES", Table::Align::right},
               {"IN TRASH", Table::Align::right},
               {"PROMISED", Table::Align::right},
               {"FULL IN", Table::Align::right},
               {"LOCATION"}});
  for (const Json& pool : pools) {
    table.add({text_of(pool, "name"), or_unknown(text_of(pool, "state")),
               or_unknown(text_of(pool, "level")),
               bytes_of(pool, "used_bytes") + percent_used(pool), bytes_of(pool, "capacity_bytes"),
               number_of(pool, "volume_count"), bytes_of(pool, "trash_bytes"),
               bytes_of(pool, "provisioned_bytes"),
               member(pool, "seconds_to_full").is_number()
                   ? format_seconds(seconds_of(pool, "seconds_to_full"))
                   : kUnknown,
               or_unknown(text_of(pool, "location"))});
  }
  if (table.empty()) return "No pool is open. Make one: holdfast pool create NAME dir:/PATH\n";
  return table.text();
}

std::string volume_table(const Json& volumes) {
  Table table({{"VOLUME"},
               {"SIZE", Table::Align::right},
               {"ALLOCATED", Table::Align::right},
               {"STATE"},
               {"ACCESS"},
               {"CLIENTS", Table::Align::right}});
  for (const Json& volume : volumes) {
    table.add({volume_name(volume), bytes_of(volume, "size_bytes"),
               bytes_of(volume, "allocated_bytes"), volume_state(volume), access_of(volume),
               number_of(member(volume, "attachment"), "clients")});
  }
  if (table.empty())
    return "There are no volumes. Make one: holdfast volume create POOL/VOLUME --size 20G\n";
  return table.text();
}

std::string snapshot_name(const Json& snapshot) {
  return text_of(snapshot, "pool") + "/" + text_of(snapshot, "volume") + "@" +
         text_of(snapshot, "name");
}

std::string snapshot_table(const Json& snapshots) {
  Table table({{"SNAPSHOT"}, {"TAKEN"}, {"SIZE", Table::Align::right}, {"USED BY"}});
  for (const Json& snapshot : snapshots) {
    std::string users = flag_of(snapshot, "damaged") ? "damaged: can only be removed" : "";
    if (flag_of(snapshot, "attached")) users += "attached";
    for (const Json& clone : member(snapshot, "clones")) {
      users += (users.empty() ? "" : ", ") + std::string("clone ") + clone.get<std::string>();
    }
    for (const Json& clone : member(snapshot, "clones_in_trash")) {
      users += (users.empty() ? "" : ", ") + clone.get<std::string>() + " in the trash";
    }
    table.add({snapshot_name(snapshot), time_of(snapshot, "created_unix_seconds"),
               bytes_of(snapshot, "size_bytes"), users});
  }
  if (table.empty()) {
    return "There are no snapshots. Take one: holdfast snapshot create POOL/VOLUME@SNAPSHOT\n";
  }
  return table.text();
}

std::string trash_table(const Json& trash) {
  Table table({{"VOLUME"},
               {"ID"},
               {"SIZE", Table::Align::right},
               {"ALLOCATED", Table::Align::right},
               {"SNAPSHOTS", Table::Align::right},
               {"REMOVED"},
               {"KEPT UNTIL"}});
  for (const Json& volume : trash) {
    table.add({volume_name(volume), text_of(volume, "id").substr(0, 8),
               bytes_of(volume, "size_bytes"), bytes_of(volume, "allocated_bytes"),
               number_of(volume, "snapshot_count"), time_of(volume, "removed_unix_seconds"),
               flag_of(volume, "expired") ? "expired" : time_of(volume, "until_unix_seconds")});
  }
  if (table.empty()) return "The trash is empty.\n";
  return table.text();
}

std::string removed_text(const Json& answer) {
  const std::string name = volume_name(answer);
  const Json& trashed = member(answer, "trashed");
  if (!trashed.is_object()) return "Volume " + name + " is removed\n";
  const bool is_thick = flag_of(trashed, "thick");
  return "Volume " + name + " is in the trash until " + time_of(trashed, "until_unix_seconds") +
         "\nIt keeps its " + bytes_of(trashed, "allocated_bytes") +
         (is_thick ? ", all that a thick volume has" : "") + ". Back: holdfast trash restore " +
         name + ". Gone, its space free: holdfast trash empty " + name + "\n";
}

std::string emptied_text(const Json& answer) {
  std::string text;
  std::uint64_t bytes = 0;
  for (const Json& volume : member(answer, "removed")) {
    const Json& allocated = member(volume, "allocated_bytes");
    if (allocated.is_number()) bytes += allocated.get<std::uint64_t>();
    text += "Volume " + volume_name(volume) + " (" + text_of(volume, "id").substr(0, 8) + ", " +
            bytes_of(volume, "allocated_bytes") + ") is removed\n";
  }
  if (text.empty()) return "There was nothing to remove.\n";
  return text + format_bytes(bytes) + " are free again\n";
}

std::string flatten_progress(const Json& flatten) {
  const std::string name = text_of(flatten, "pool") + "/" + text_of(flatten, "volume");
  const Json& total = member(flatten, "segments_total");
  if (!total.is_number() || total.get<double>() == 0) return name + ": begins";
  return name + ": " + number_of(flatten, "segments_done") + " of " +
         number_of(flatten, "segments_total") + " segments, " + bytes_of(flatten, "bytes_done") +
         " of " + bytes_of(flatten, "bytes_total");
}

std::string flatten_text(const Json& flatten) {
  const std::string name = text_of(flatten, "pool") + "/" + text_of(flatten, "volume");
  const std::string state = text_of(flatten, "state");
  if (state == "cancelled") {
    return "The flattening of " + name + " is cancelled; 'holdfast flatten " + name +
           "' goes on with it\n";
  }
  if (state != "done") return flatten_progress(flatten) + "\n";
  return "Volume " + name + " reads from no other volume (" + number_of(flatten, "segments_done") +
         " segments were taken over)\n";
}

std::string diff_table(const Json& diff) {
  Table table({{"OFFSET", Table::Align::right}, {"LENGTH", Table::Align::right}, {"TYPE"}});
  std::uint64_t total_bytes = 0;
  for (const Json& extent : member(diff, "extents")) {
    table.add({number_of(extent, "offset_bytes"), number_of(extent, "length_bytes"),
               text_of(extent, "type")});
    const Json& length = member(extent, "length_bytes");
    if (length.is_number()) total_bytes += length.get<std::uint64_t>();
  }
  if (table.empty()) return "Nothing differs.\n";
  return table.text() + format_bytes(total_bytes) + " of " + bytes_of(diff, "size_bytes") + "\n";
}

std::string pool_details(const Json& pool) {
  Details details;
  details.add("pool", text_of(pool, "name"));
  details.add("location", or_unknown(text_of(pool, "location")));
  const std::string reason = text_of(pool, "reason");
  details.add("state", or_unknown(text_of(pool, "state")) + (reason.empty() ? "" : ": " + reason));
  details.add("id", or_unknown(text_of(pool, "id")));
  details.add("created", time_of(pool, "created_unix_seconds"));
  details.add("capacity", bytes_of(pool, "capacity_bytes"));
  details.add("used", bytes_of(pool, "used_bytes") + percent_used(pool) + ": " +
                          bytes_of(pool, "allocated_bytes") + " by volumes, " +
                          (member(pool, "trash_count").is_number()
                               ? bytes_of(pool, "trash_bytes") + " in the trash, "
                               : "") +
                          bytes_of(pool, "used_by_others_bytes") + " by others on that storage");
  details.add("available", bytes_of(pool, "available_bytes") + ": " +
                               format_bytes(bytes_for_guests(pool)) + " for guests, " +
                               bytes_of(pool, "reserve_bytes") +
                               " in reserve for deletes and housekeeping");
  const std::string advice = level_advice(pool);
  details.add("level",
              or_unknown(text_of(pool, "level")) +
                  (advice.empty() ? " (warn from " + number_of(pool, "warn_percent") +
                                        " %, critical from " + number_of(pool, "critical_percent") +
                                        " % on; at 100 % guests' writes are held)"
                                  : ": " + advice));
  std::string promised = number_of(pool, "volume_count") + ", together " +
                         bytes_of(pool, "provisioned_bytes") + " promised";
  const Json& overcommit = member(pool, "overcommit_ratio");
  if (overcommit.is_number()) {
    char times[48];
    std::snprintf(times, sizeof times, ", %.2f times what they can have", overcommit.get<double>());
    promised += times;
  }
  details.add("volumes", promised);
  const Json& trash_count = member(pool, "trash_count");
  if (trash_count.is_number() && trash_count.get<std::uint64_t>() > 0) {
    details.add("in trash", number_of(pool, "trash_count") + " volumes, " +
                                bytes_of(pool, "trash_bytes") + ": 'holdfast trash empty " +
                                text_of(pool, "name") + "' frees it");
  }
  const std::string parts = parts_of(pool);
  if (!parts.empty()) details.add("of attached", parts);
  const std::string growth = growth_of(pool);
  details.add("growth", growth.empty() ? "not known yet: it takes five minutes" : growth);
  if (member(pool, "seconds_to_full").is_number()) {
    details.add("full in", format_seconds(seconds_of(pool, "seconds_to_full")) + " at this pace");
  }
  details.add("segments", bytes_of(pool, "segment_bytes") + " each");
  add_pool_leases(details, pool);
  return details.take();
}

std::string volume_details(const Json& volume) {
  Details details;
  details.add("volume", volume_name(volume));
  details.add("id", or_unknown(text_of(volume, "id")));
  details.add("size",
              bytes_of(volume, "size_bytes") + (flag_of(volume, "thick") ? ", thick" : ", thin"));
  const std::string parts = parts_of(volume);
  details.add("allocated",
              bytes_of(volume, "allocated_bytes") + (parts.empty() ? "" : ": ") + parts);
  const std::string growth = growth_of(volume);
  if (!growth.empty()) details.add("growth", growth);
  const Json& preallocation = member(volume, "preallocation");
  if (preallocation.is_object()) {
    const std::string why = text_of(preallocation, "reason");
    details.add("preallocated", bytes_of(preallocation, "done_bytes") + " of " +
                                    bytes_of(preallocation, "total_bytes") + ", " +
                                    text_of(preallocation, "state") +
                                    (why.empty() ? "" : ": " + why));
  }
  details.add("created", time_of(volume, "created_unix_seconds"));
  add_relations(details, volume);
  const std::string reason = text_of(volume, "reason");
  details.add("state",
              or_unknown(text_of(volume, "state")) + (reason.empty() ? "" : ": " + reason));
  if (member(volume, "hold").is_object()) add_hold(details, member(volume, "hold"));
  const Json& settings = member(volume, "settings");
  if (settings.is_object()) {
    const auto when = [&settings](const char* what, const char* key) {
      const std::string after = text_of(settings, key);
      return what + (after == "never" ? std::string(" never") : " after " + after);
    };
    details.add("when held", when("the machine is paused", "hold.pause_after") + ", " +
                                 when("requests fail", "hold.fail_after"));
  }
  const Json& attachment = member(volume, "attachment");
  if (attachment.is_object()) {
    details.add("attached", access_of(volume) + " over " +
                                or_unknown(text_of(attachment, "protocol")) + " since " +
                                time_of(attachment, "since_unix_seconds") + ", " +
                                number_of(attachment, "clients") + " clients, on loop " +
                                number_of(attachment, "loop"));
    details.add("socket", or_unknown(text_of(attachment, "socket")));
    add_ownership(details, volume);
    add_machine(details, attachment);
    const std::string uri = text_of(attachment, "uri");
    if (!uri.empty()) details.add("uri", uri);  // NBD has one, vhost-user-blk has none
    std::string faults;
    for (const auto& [name, count] : member(attachment, "client_faults").items()) {
      faults += (faults.empty() ? "" : ", ") + name + " " + count.dump();
    }
    if (!faults.empty()) details.add("client faults", faults);
  }
  const Json& counters = member(volume, "statistics");
  if (counters.is_object()) {
    details.add("reads", count_of(counters, "reads") + ", " + bytes_of(counters, "read_bytes"));
    details.add("writes",
                count_of(counters, "writes") + ", " + bytes_of(counters, "written_bytes"));
    details.add("discards", count_of(counters, "discards"));
    details.add("flushes", count_of(counters, "flushes"));
    details.add("errors", count_of(counters, "errors") +
                              ", damaged blocks met: " + count_of(counters, "corrupt_blocks"));
    details.add("live data", bytes_of(counters, "live_bytes") + " in " +
                                 number_of(counters, "segment_count") + " segments of together " +
                                 bytes_of(counters, "segment_bytes"));
    details.add("cleaned", number_of(counters, "cleaned_segments") + " segments, " +
                               bytes_of(counters, "moved_bytes") + " moved");
    details.add("log", number_of(counters, "log_sequence") + " records in epoch " +
                           number_of(counters, "epoch") + ", " +
                           number_of(counters, "checkpoints") + " checkpoints since it was opened");
    details.add("opened in", format_seconds(seconds_of(counters, "open_time_seconds")) + ", " +
                                 number_of(counters, "replayed_records") + " records replayed");
    details.add("memory", bytes_of(counters, "cached_page_bytes") + " of map, " +
                              bytes_of(counters, "retained_bytes") + " not yet flushed");
  }
  return details.take();
}

std::string status_text(const Json& status) {
  const Json& daemon = member(status, "daemon");
  std::string out = "holdfastd " + text_of(daemon, "version") + ", pid " +
                    number_of(daemon, "pid") + " on " + text_of(daemon, "host") + ", up " +
                    format_seconds(seconds_of(daemon, "uptime_seconds")) + ", " +
                    text_of(daemon, "runtime_dir") + "\n\n";
  out += pool_table(member(status, "pools")) + "\n";
  const Json& volumes = member(status, "volumes");
  Table table({{"VOLUME"},
               {"SIZE", Table::Align::right},
               {"STATE"},
               {"ACCESS"},
               {"CLIENTS", Table::Align::right},
               {"READS", Table::Align::right},
               {"READ", Table::Align::right},
               {"WRITES", Table::Align::right},
               {"WRITTEN", Table::Align::right},
               {"FLUSHES", Table::Align::right},
               {"ERRORS", Table::Align::right}});
  for (const Json& volume : volumes) {
    const Json& counters = member(volume, "statistics");
    table.add({volume_name(volume), bytes_of(volume, "size_bytes"), volume_state(volume),
               access_of(volume), number_of(member(volume, "attachment"), "clients"),
               count_of(counters, "reads"), bytes_of(counters, "read_bytes"),
               count_of(counters, "writes"), bytes_of(counters, "written_bytes"),
               count_of(counters, "flushes"), count_of(counters, "errors")});
  }
  out += table.empty() ? "No volume is attached.\n" : table.text();
  const std::string attention = notes(status);
  if (!attention.empty()) out += "\n" + attention;
  return out;
}

}  // namespace holdfast
