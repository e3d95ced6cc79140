// SPDX-License-Identifier: Apache-2.0
#include "api/json.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "host/leases.h"

namespace holdfast {
namespace {

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

Json rounded_or_null(const std::optional<double>& value) {
  return value.has_value() ? Json(std::llround(*value)) : Json(nullptr);
}

double seconds(Duration duration) {
  return static_cast<double>(duration.count()) / 1e9;
}

Json seconds_or_null(const std::optional<Duration>& duration) {
  return duration.has_value() ? Json(seconds(*duration)) : Json(nullptr);
}

const char* state_name(ServiceState state, const char* open_name) {
  switch (state) {
    case ServiceState::detached:
      return "detached";
    case ServiceState::opening:
      return "opening";
    case ServiceState::open:
      return open_name;
    case ServiceState::failed:
      return "failed";
    case ServiceState::detaching:
      return "detaching";
  }
  return "failed";
}

Json to_json(const HoldReport& hold) {
  return {{"reason", hold.reason},
          {"detail", hold.detail},
          {"seconds", seconds(hold.duration)},
          {"waiting", hold.waiting},
          {"retries", hold.retries}};
}

Json to_json(const VolumeCounters& counters) {
  return {{"reads", counters.reads},
          {"writes", counters.writes},
          {"discards", counters.discards},
          {"flushes", counters.flushes},
          {"read_bytes", counters.read_bytes},
          {"written_bytes", counters.written_bytes},
          {"errors", counters.errors},
          {"corrupt_blocks", counters.corrupt_blocks},
          {"live_bytes", counters.live_bytes},
          {"segment_bytes", counters.segment_bytes},
          {"segment_count", counters.segment_count},
          {"unwritten_bytes", counters.unwritten_bytes},
          {"spare_count", counters.spare_count},
          {"waits_for_cleaner", counters.waits_for_cleaner},
          {"epoch", counters.epoch},
          {"log_sequence", counters.log_sequence},
          {"records_written", counters.records_written},
          {"log_bytes_written", counters.log_bytes_written},
          {"checkpoints", counters.checkpoints},
          {"replayed_records", counters.replayed_records},
          {"page_bytes_written", counters.page_bytes_written},
          {"cleaned_segments", counters.cleaned_segments},
          {"moved_bytes", counters.moved_bytes},
          {"cleaner_bytes_written", counters.cleaner_bytes_written},
          {"cleaner_bytes_read", counters.cleaner_bytes_read},
          {"sealed_bytes", counters.sealed_bytes},
          {"sealed_live_bytes", counters.sealed_live_bytes},
          {"unfreed_bytes", counters.unfreed_bytes},
          {"delayed_writes", counters.delayed_writes},
          {"open_time_seconds", seconds(counters.open_time)},
          {"cached_page_bytes", counters.cached_page_bytes},
          {"retained_bytes", counters.retained_bytes},
          {"requests_in_flight", counters.requests_in_flight}};
}

Json to_json(const Renewals& renewals) {
  Json history = Json::array();
  for (const Renewals::Attempt& attempt : renewals.history) {
    history.push_back({{"seconds_ago", seconds(attempt.age)},
                       {"read_seconds", seconds(attempt.read)},
                       {"write_seconds", seconds(attempt.write)},
                       {"ok", attempt.is_ok}});
  }
  return {{"last_seconds_ago", seconds(renewals.last_age)},
          {"last_read_seconds", seconds(renewals.last_read)},
          {"last_write_seconds", seconds(renewals.last_write)},
          {"write_seconds_max", seconds(renewals.write_max)},
          {"count", renewals.count},
          {"failures", renewals.failures},
          {"history", history}};
}

Json or_null(const std::optional<Renewals>& renewals) {
  return renewals.has_value() ? to_json(*renewals) : Json(nullptr);
}

Json to_json(const PoolReport::Leases& leases) {
  const bool has_joined = leases.host_id != 0;
  return {{"io_timeout_seconds", leases.io_timeout_seconds},
          {"watchdog_seconds", leases.watchdog_seconds},
          {"host_id", has_joined ? Json(leases.host_id) : Json(nullptr)},
          {"host", text_or_null(leases.host_name)},
          {"generation", has_joined ? Json(leases.generation) : Json(nullptr)},
          {"state", host_liveness_text(leases.state)},
          {"renewals", or_null(leases.renewals)}};
}

Json to_json(const OwnershipReport& report) {
  return {{"state", report.state},
          {"epoch", report.epoch},
          {"holder", text_or_null(report.holder)},
          {"take_over_in_seconds", seconds_or_null(report.take_over_in)}};
}

Error bad_member(const char* key, std::string_view what) {
  return Error(ErrorCode::invalid_argument,
               "the request's '" + std::string(key) + "' " + std::string(what));
}

}  // namespace

Json text_or_null(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

Json to_json(const PoolReport& report) {
  Json json = {{"name", report.name},
               {"location", report.location},
               {"id", nullptr},
               {"state", state_name(report.state, "open")},
               {"reason", text_or_null(report.reason)},
               {"shared", nullptr},
               {"segment_bytes", nullptr},
               {"format_version", nullptr},
               {"created_unix_seconds", nullptr},
               {"capacity_bytes", nullptr},
               {"available_bytes", nullptr},
               {"used_bytes", nullptr},
               {"reserve_bytes", nullptr},
               {"used_percent", nullptr},
               {"level", nullptr},
               {"warn_percent", nullptr},
               {"critical_percent", nullptr},
               {"growth_bytes_per_hour", nullptr},
               {"growth_bytes_per_day", nullptr},
               {"seconds_to_full", nullptr},
               {"volume_count", or_null(report.volume_count)},
               {"trash_count", nullptr},
               {"trash_bytes", nullptr},
               {"allocated_bytes", nullptr},
               {"used_by_others_bytes", nullptr},
               {"provisioned_bytes", nullptr},
               {"overcommit_ratio", nullptr},
               {"live_bytes", nullptr},
               {"garbage_bytes", nullptr},
               {"unwritten_bytes", nullptr},
               {"counted_seconds_ago", nullptr},
               {"leases", nullptr}};
  if (report.open.has_value()) {
    json["id"] = report.open->id.to_string();
    json["shared"] = report.open->shared;
    json["segment_bytes"] = report.open->segment_bytes;
    json["format_version"] = report.open->format_version;
    json["created_unix_seconds"] = report.open->created.unix_seconds;
  }
  if (report.space.has_value()) {
    const PoolReport::Space& space = *report.space;
    json["capacity_bytes"] = space.capacity_bytes;
    json["available_bytes"] = space.available_bytes;
    json["used_bytes"] = space.used_bytes;
    json["reserve_bytes"] = space.reserve_bytes;
    json["used_percent"] = std::round(space.used_percent * 10) / 10;
    json["level"] = space.level;
    json["warn_percent"] = space.warn_percent;
    json["critical_percent"] = space.critical_percent;
    json["growth_bytes_per_hour"] = rounded_or_null(space.trend.bytes_per_hour);
    json["growth_bytes_per_day"] = rounded_or_null(space.trend.bytes_per_day);
    if (space.time_to_full.has_value()) {
      json["seconds_to_full"] = std::round(seconds(*space.time_to_full));
    }
  }
  if (report.trash.has_value()) {
    json["trash_count"] = report.trash->count;
    json["trash_bytes"] = report.trash->allocated_bytes;
  }
  if (report.volumes.has_value()) {
    const PoolReport::Volumes& volumes = *report.volumes;
    json["allocated_bytes"] = volumes.allocated_bytes;
    json["used_by_others_bytes"] = volumes.others_bytes;
    json["provisioned_bytes"] = volumes.provisioned_bytes;
    if (volumes.overcommit_ratio.has_value()) {
      json["overcommit_ratio"] = std::round(*volumes.overcommit_ratio * 1000) / 1000;
    }
    json["live_bytes"] = volumes.live_bytes;
    json["garbage_bytes"] = volumes.garbage_bytes;
    json["unwritten_bytes"] = volumes.unwritten_bytes;
    json["counted_seconds_ago"] = seconds(volumes.age);
  }
  if (report.leases.has_value()) json["leases"] = to_json(*report.leases);
  return json;
}

Json to_json(const MachineReport& report) {
  return {{"state", report.state},
          {"detail", text_or_null(report.detail)},
          {"pauses", report.pause_count}};
}

Json to_json(const AttachmentReport& report) {
  Json clients = nullptr;
  Json faults = Json::object();
  Json resumed = nullptr;
  Json broken = nullptr;
  if (report.clients.has_value()) {
    clients = report.clients->count;
    resumed = report.clients->resumed_requests;
    broken = report.clients->broken_devices;
    for (const auto& [name, count] : report.clients->faults) faults[name] = count;
  }
  return {{"protocol", report.protocol},
          {"read_only", report.read_only},
          {"socket", report.socket_path},
          {"uri", text_or_null(report.uri)},
          {"clients", clients},
          {"resumed_requests", resumed},
          {"broken_devices", broken},
          {"client_faults", faults},
          {"since_unix_seconds", report.since.unix_seconds},
          {"loop", report.loop},
          {"qmp", text_or_null(report.qmp_path)},
          {"machine", report.machine.has_value() ? to_json(*report.machine) : Json()},
          {"mode", text_or_null(report.mode)},
          {"lease", report.lease.has_value() ? to_json(*report.lease) : Json()}};
}

Json to_json(const SnapshotReport& report) {
  return {{"pool", report.name.volume.pool},
          {"volume", report.name.volume.volume},
          {"name", report.name.snapshot},
          {"number", report.number},
          {"created_unix_seconds", report.created.unix_seconds},
          {"size_bytes", report.size_bytes},
          {"damaged", report.is_damaged},
          {"attached", report.attached},
          {"clones", report.clones},
          {"clones_in_trash", report.clones_in_trash}};
}

Json to_json(const std::vector<SnapshotReport>& reports) {
  Json snapshots = Json::array();
  for (const SnapshotReport& report : reports) snapshots.push_back(to_json(report));
  return {{"snapshots", snapshots}};
}

Json to_json(const TrashReport& report) {
  return {{"pool", report.name.pool},
          {"name", report.name.volume},
          {"id", report.id.to_string()},
          {"size_bytes", or_null(report.size_bytes)},
          {"allocated_bytes", or_null(report.allocated_bytes)},
          {"thick", report.thick},
          {"snapshot_count", report.snapshot_count},
          {"removed_unix_seconds", report.since.unix_seconds},
          {"until_unix_seconds", report.until.unix_seconds},
          {"expired", report.is_expired}};
}

Json to_json(const std::vector<TrashReport>& reports) {
  Json trash = Json::array();
  for (const TrashReport& report : reports) trash.push_back(to_json(report));
  return {{"trash", trash}};
}

Json to_json(const RemoveAnswer& answer) {
  return {{"pool", answer.name.pool},
          {"name", answer.name.volume},
          {"id", answer.id.to_string()},
          {"removed", true},
          {"trashed", answer.trashed.has_value() ? to_json(*answer.trashed) : Json()},
          {"warning", text_or_null(answer.warning)}};
}

Json to_json(const EmptyTrashAnswer& answer) {
  Json removed = Json::array();
  for (const TrashReport& report : answer.removed) removed.push_back(to_json(report));
  return {{"removed", removed}, {"warning", text_or_null(answer.warning)}};
}

Json to_json(const VolumeReport& report) {
  Json json = {{"pool", report.name.pool},
               {"name", report.name.volume},
               {"id", nullptr},
               {"size_bytes", or_null(report.size_bytes)},
               {"thick", or_null(report.thick)},
               {"created_unix_seconds", nullptr},
               {"allocated_bytes", or_null(report.allocated_bytes)},
               {"live_bytes", nullptr},
               {"garbage_bytes", or_null(report.garbage_bytes)},
               {"unwritten_bytes", nullptr},
               {"growth_bytes_per_hour", rounded_or_null(report.trend.bytes_per_hour)},
               {"growth_bytes_per_day", rounded_or_null(report.trend.bytes_per_day)},
               {"preallocation", nullptr},
               {"parent", nullptr},
               {"snapshot_count", nullptr},
               {"newest_snapshot", nullptr},
               {"clones", nullptr},
               {"clones_in_trash", nullptr},
               {"state", state_name(report.state, "serving")},
               {"reason", text_or_null(report.reason)},
               {"attached", report.attachment.has_value()},
               {"attachment", nullptr},
               {"hold", nullptr},
               {"settings",
                {{"hold.pause_after", report.hold_pause_after},
                 {"hold.fail_after", report.hold_fail_after}}},
               {"statistics", nullptr}};
  if (report.id.has_value()) json["id"] = report.id->to_string();
  if (report.created.has_value()) json["created_unix_seconds"] = report.created->unix_seconds;
  if (report.attachment.has_value()) json["attachment"] = to_json(*report.attachment);
  if (report.hold.has_value()) json["hold"] = to_json(*report.hold);
  if (report.preallocation.has_value()) {
    const PreallocationReport& preallocation = *report.preallocation;
    json["preallocation"] = {{"state", preallocation.state},
                             {"done_bytes", preallocation.done_bytes},
                             {"total_bytes", preallocation.total_bytes},
                             {"reason", text_or_null(preallocation.reason)}};
  }
  if (report.relations.has_value()) {
    const RelationsReport& relations = *report.relations;
    if (relations.parent.has_value()) {
      json["parent"] = {{"volume", text_or_null(relations.parent->volume)},
                        {"snapshot", text_or_null(relations.parent->snapshot)},
                        {"in_trash", relations.parent->is_in_trash}};
    }
    json["snapshot_count"] = relations.snapshot_count;
    json["newest_snapshot"] = text_or_null(relations.newest_snapshot);
    json["clones"] = relations.clones;
    json["clones_in_trash"] = relations.clones_in_trash;
  }
  if (report.stored_live_bytes.has_value()) {
    json["live_bytes"] = *report.stored_live_bytes;
    json["unwritten_bytes"] = 0;
  }
  if (report.counters.has_value()) {
    json["live_bytes"] = report.counters->live_bytes;
    json["unwritten_bytes"] = report.counters->unwritten_bytes;
  }
  if (report.counters.has_value()) json["statistics"] = to_json(*report.counters);
  return json;
}

Json to_json(const AttachAnswer& answer) {
  return {{"pool", answer.name.pool},
          {"volume", answer.name.volume},
          {"protocol", answer.attachment.protocol},
          {"read_only", answer.attachment.read_only},
          {"socket", answer.attachment.socket_path},
          {"uri", text_or_null(answer.attachment.uri)},
          {"warning", text_or_null(answer.warning)}};
}

Json to_json(const DiffReport& report) {
  Json extents = Json::array();
  for (const DiffReport::Extent& extent : report.extents) {
    extents.push_back({{"offset_bytes", extent.offset_bytes},
                       {"length_bytes", extent.length_bytes},
                       {"type", extent.is_zero ? "zero" : "data"}});
  }
  return {{"size_bytes", report.size_bytes},
          {"extents", extents},
          {"next_bytes", or_null(report.next_bytes)}};
}

Json to_json(const TransferAnswer& answer) {
  return {{"pool", answer.transfer.pool},
          {"transfer", answer.transfer.volume},
          {"snapshot", text_or_null(answer.snapshot)},
          {"shared", answer.is_shared},
          {"size_bytes", answer.size_bytes},
          {"socket", answer.socket_path},
          {"uri", answer.uri}};
}

Json to_json(const FlattenReport& report) {
  return {{"pool", report.name.pool},
          {"volume", report.name.volume},
          {"state", report.state},
          {"segments_done", report.segments_done},
          {"segments_total", report.segments_total},
          {"bytes_done", report.bytes_done},
          {"bytes_total", report.bytes_total},
          {"reason", text_or_null(report.reason)}};
}

Json to_json(const LeaseReport& report) {
  const bool had_owner = report.host_id != 0;
  return {{"pool", report.volume.pool},
          {"volume", report.volume.volume},
          {"held", report.is_held},
          {"mode", report.mode},
          {"ours", report.is_ours},
          {"sharers", report.sharers},
          {"host_id", had_owner ? Json(report.host_id) : Json(nullptr)},
          {"host", text_or_null(report.host)},
          {"generation", had_owner ? Json(report.generation) : Json(nullptr)},
          {"epoch", report.lver},
          {"holder_state", host_liveness_text(report.holder_state)},
          {"since_unix_seconds",
           report.since.has_value() ? Json(report.since->unix_seconds) : Json(nullptr)},
          {"last_renewal_seconds_ago", seconds_or_null(report.last_renewal_age)},
          {"take_over_in_seconds", seconds_or_null(report.take_over_in)}};
}

Json to_json(const std::vector<LeaseReport>& reports) {
  Json leases = Json::array();
  for (const LeaseReport& report : reports) leases.push_back(to_json(report));
  return {{"leases", leases}};
}

Json to_json(const PoolHostReport& report) {
  return {{"host_id", report.host_id},
          {"host", text_or_null(report.name)},
          {"generation", report.generation},
          {"state", host_liveness_text(report.state)},
          {"unchanged_seconds", seconds_or_null(report.unchanged)},
          {"dead_in_seconds", seconds_or_null(report.dead_in)},
          {"io_timeout_seconds", report.io_timeout_seconds},
          {"this", report.is_this},
          {"renewals", or_null(report.renewals)}};
}

Json to_json(const std::vector<PoolHostReport>& reports) {
  Json hosts = Json::array();
  for (const PoolHostReport& report : reports) hosts.push_back(to_json(report));
  return {{"hosts", hosts}};
}

Json to_json(const HandOverAnswer& answer) {
  return {{"pool", answer.volume.pool},
          {"volume", answer.volume.volume},
          {"seconds", seconds(answer.duration)}};
}

Json holder_to_json(const LeaseReport& report) {
  return {{"host", text_or_null(report.host)},
          {"host_id", report.host_id},
          {"state", host_liveness_text(report.holder_state)},
          {"last_renewal_seconds_ago", seconds_or_null(report.last_renewal_age)},
          {"take_over_in_seconds", seconds_or_null(report.take_over_in)}};
}

Json limits_to_json() {
  return {{"pools", limits::kPoolsMax},
          {"volumes_per_pool", limits::kVolumesPerPoolMax},
          {"attachments", limits::kAttachmentsMax},
          {"snapshots_per_volume", limits::kSnapshotsPerVolumeMax},
          {"clone_depth", limits::kCloneDepthMax},
          {"name_bytes", limits::kNameBytesMax},
          {"volume_bytes_min", limits::kVolumeBytesMin},
          {"volume_bytes_max", limits::kVolumeBytesMax},
          {"requests_per_volume", limits::kVolumeRequestsMax},
          {"retained_bytes_per_volume", limits::kRetainedBytesMax},
          {"open_segments_per_volume", limits::kOpenSegmentsMax},
          {"nbd_connections_per_export", limits::kNbdConnectionsPerExportMax},
          {"nbd_request_bytes", limits::kNbdRequestBytesMax},
          {"nbd_requests_per_connection", limits::kNbdRequestsPerConnectionMax},
          {"nbd_buffer_bytes_per_connection", limits::kNbdBufferBytesPerConnectionMax},
          {"api_body_bytes", limits::kApiBodyBytesMax},
          {"api_threads", limits::kApiThreads},
          {"log_bytes", limits::kLogFileBytesMax * limits::kLogFilesMax}};
}

std::string dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<BodyReader> BodyReader::parse(std::string_view text,
                                     std::initializer_list<const char*> known) {
  if (text.empty()) return BodyReader(Json::object());
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded())
    return Error(ErrorCode::invalid_argument, "the request's body is not JSON");
  if (!json.is_object()) {
    return Error(ErrorCode::invalid_argument, "the request's body must be a JSON object");
  }
  for (const auto& [key, value] : json.items()) {
    const bool is_known = std::any_of(known.begin(), known.end(),
                                      [&key = key](const char* name) { return key == name; });
    if (!is_known) {
      return Error(ErrorCode::invalid_argument, "the request has an unknown member '" +
                                                    key.substr(0, limits::kNameBytesMax) + "'");
    }
  }
  return BodyReader(std::move(json));
}

Result<std::string> BodyReader::text(const char* key) const {
  const auto at = object_.find(key);
  if (at == object_.end()) return bad_member(key, "is missing");
  if (!at->is_string()) return bad_member(key, "must be a string");
  return at->get<std::string>();
}

Result<std::uint64_t> BodyReader::number(const char* key) const {
  const auto at = object_.find(key);
  if (at == object_.end()) return bad_member(key, "is missing");
  if (!at->is_number_unsigned()) return bad_member(key, "must be a whole number, not negative");
  return at->get<std::uint64_t>();
}

Result<std::string> BodyReader::text_or(const char* key, std::string fallback) const {
  if (!object_.contains(key)) return fallback;
  return text(key);
}

Result<std::uint64_t> BodyReader::number_or(const char* key, std::uint64_t fallback) const {
  if (!object_.contains(key)) return fallback;
  return number(key);
}

Result<std::vector<std::vector<std::string>>> BodyReader::texts(
    const char* key, std::initializer_list<const char*> members) const {
  const auto at = object_.find(key);
  if (at == object_.end()) return bad_member(key, "is missing");
  if (!at->is_array()) return bad_member(key, "must be an array");
  std::vector<std::vector<std::string>> all;
  for (const Json& element : *at) {
    std::vector<std::string> texts;
    for (const char* member : members) {
      if (!element.is_object() || element.size() != members.size() || !element.contains(member) ||
          !element[member].is_string()) {
        return bad_member(key, std::string("must hold objects with the string '") + member + "'");
      }
      texts.push_back(element[member].get<std::string>());
    }
    all.push_back(std::move(texts));
  }
  return all;
}

Result<bool> BodyReader::flag(const char* key) const {
  if (!object_.contains(key)) return bad_member(key, "is missing");
  return flag_or(key, false);
}

Result<bool> BodyReader::flag_or(const char* key, bool fallback) const {
  const auto at = object_.find(key);
  if (at == object_.end()) return fallback;
  if (!at->is_boolean()) return bad_member(key, "must be true or false");
  return at->get<bool>();
}

}  // namespace holdfast
