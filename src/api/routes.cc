// SPDX-License-Identifier: Apache-2.0
#include "api/routes.h"

#include <algorithm>
#include <array>
#include <map>

#include "api/json.h"
#include "api/metrics.h"
#include "base/limits.h"
#include "base/log.h"
#include "host/names.h"

namespace holdfast {
namespace {

// What a handler gets: the named parts of the path, and the rest of the request.
struct Call {
  ApiContext& context;
  const ApiRequest& request;
  std::map<std::string, std::string, std::less<>> parts;

  HostThread& host() const { return context.host; }
  VolumeName volume_name() const { return {parts.at("pool"), parts.at("volume")}; }
};

Json with_warning(Json json, const std::string& warning) {
  json["warning"] = text_or_null(warning);
  return json;
}

Result<Json> get_status(const Call& call) {
  const auto status = TRY(call.host().call<StatusReport>([](Host& host) { return host.status(); }));
  Json pools = Json::array();
  for (const PoolReport& pool : status.pools) pools.push_back(to_json(pool));
  Json volumes = Json::array();
  for (const VolumeReport& volume : status.volumes) volumes.push_back(to_json(volume));
  Json daemon = {{"version", call.context.version},
                 {"pid", call.context.process_id},
                 {"host", call.context.host_name},
                 {"started_unix_seconds", status.started.unix_seconds},
                 {"uptime_seconds", static_cast<double>(status.uptime.count()) / 1e9},
                 {"runtime_dir", status.runtime_directory},
                 {"state_dir", status.state_directory},
                 {"state_saved", status.state_error.empty()},
                 {"state_error", text_or_null(status.state_error)},
                 {"log_dropped", dropped_log_messages()}};
  return Json{
      {"daemon", daemon}, {"limits", limits_to_json()}, {"pools", pools}, {"volumes", volumes}};
}

// Text, not JSON: see answer_or_throw().
Result<Json> get_metrics(const Call& call) {
  const auto status = TRY(call.host().call<StatusReport>([](Host& host) { return host.status(); }));
  return Json(metrics_text(status, call.context.version, dropped_log_messages()));
}

Result<Json> get_pools(const Call& call) {
  const auto reports =
      TRY(call.host().call<std::vector<PoolReport>>([](Host& host) { return host.list_pools(); }));
  Json pools = Json::array();
  for (const PoolReport& report : reports) pools.push_back(to_json(report));
  return Json{{"pools", pools}};
}

// Makes a pool or opens one that exists.
Result<Json> post_pools(const Call& call) {
  const BodyReader body = TRY(
      BodyReader::parse(call.request.body, {"name", "location", "create", "shared", "segment_bytes",
                                            "io_timeout_seconds", "watchdog_seconds"}));
  CreatePoolRequest request;
  request.name = TRY(body.text("name"));
  request.location = TRY(body.text("location"));
  // On Ceph every pool is a shared one.
  request.shared = TRY(body.flag_or("shared", false)) || request.location.starts_with("rados:");
  request.segment_bytes = TRY(body.number_or("segment_bytes", request.segment_bytes));
  for (const auto& [key, into] : {std::pair("io_timeout_seconds", &request.io_timeout_seconds),
                                  std::pair("watchdog_seconds", &request.watchdog_seconds)}) {
    const std::uint64_t unset = ~std::uint64_t{0};
    const std::uint64_t seconds = TRY(body.number_or(key, unset));
    if (seconds == unset) continue;
    if (!request.shared) {
      return Error(ErrorCode::invalid_argument, "the request's '" + std::string(key) +
                                                    "' is about leases, which only a shared "
                                                    "pool has: it needs 'shared', too");
    }
    *into = static_cast<std::uint32_t>(std::min<std::uint64_t>(seconds, UINT32_MAX));
  }
  const bool create = TRY(body.flag_or("create", false));
  const auto change = TRY(call.host().call<PoolChange>([request, create](Host& host) {
    if (create) return host.create_pool(request);
    return host.open_pool(PoolLocation{request.name, request.location});
  }));
  return with_warning(to_json(change.pool), change.warning);
}

Result<Json> get_pool(const Call& call) {
  const std::string name = call.parts.at("pool");
  return to_json(
      TRY(call.host().call<PoolReport>([name](Host& host) { return host.show_pool(name); })));
}

Result<Json> delete_pool(const Call& call) {
  const std::string name = call.parts.at("pool");
  const auto done =
      TRY(call.host().call<DoneAnswer>([name](Host& host) { return host.close_pool(name); }));
  return with_warning({{"name", name}, {"closed", true}}, done.warning);
}

Result<Json> get_volumes(const Call& call) {
  const std::string pool = call.request.pool_query;
  const auto reports = TRY(call.host().call<std::vector<VolumeReport>>(
      [pool](Host& host) { return host.list_volumes(pool); }));
  Json volumes = Json::array();
  for (const VolumeReport& report : reports) volumes.push_back(to_json(report));
  return Json{{"volumes", volumes}};
}

Result<Json> post_volumes(const Call& call) {
  const BodyReader body =
      TRY(BodyReader::parse(call.request.body, {"name", "size_bytes", "thick"}));
  CreateVolumeRequest request;
  request.name = VolumeName{call.parts.at("pool"), TRY(body.text("name"))};
  request.size_bytes = TRY(body.number("size_bytes"));
  request.thick = TRY(body.flag_or("thick", false));
  return to_json(TRY(call.host().call<VolumeReport>(
      [request](Host& host) { return host.create_volume(request); })));
}

Result<Json> get_volume(const Call& call) {
  const VolumeName name = call.volume_name();
  return to_json(
      TRY(call.host().call<VolumeReport>([name](Host& host) { return host.show_volume(name); })));
}

// As configured; POST .../remove says more.
Result<Json> delete_volume(const Call& call) {
  RemoveVolumeRequest request;
  request.name = call.volume_name();
  return to_json(TRY(call.host().call<RemoveAnswer>(
      [request](Host& host) { return host.remove_volume(request); })));
}

Result<Json> remove_volume(const Call& call) {
  const BodyReader body =
      TRY(BodyReader::parse(call.request.body, {"now", "defer_seconds", "with_snapshots"}));
  RemoveVolumeRequest request;
  request.name = call.volume_name();
  request.now = TRY(body.flag_or("now", false));
  request.with_snapshots = TRY(body.flag_or("with_snapshots", false));
  const std::uint64_t unset = ~std::uint64_t{0};
  const std::uint64_t defer_seconds = TRY(body.number_or("defer_seconds", unset));
  if (defer_seconds != unset) {
    const auto most = static_cast<std::uint64_t>(limits::kTrashDeferMax / 1s);
    request.defer = 1s * static_cast<std::int64_t>(std::min(defer_seconds, most + 1));
  }
  return to_json(TRY(call.host().call<RemoveAnswer>(
      [request](Host& host) { return host.remove_volume(request); })));
}

Result<Json> get_trash(const Call& call) {
  const std::string pool = call.request.pool_query;
  return to_json(TRY(call.host().call<std::vector<TrashReport>>(
      [pool](Host& host) { return host.list_trash(pool); })));
}

Result<Json> restore_volume(const Call& call) {
  const BodyReader body = TRY(BodyReader::parse(call.request.body, {"name"}));
  RestoreRequest request;
  request.item = call.volume_name();
  request.new_name = TRY(body.text_or("name", ""));
  return to_json(TRY(call.host().call<VolumeReport>(
      [request](Host& host) { return host.restore_volume(request); })));
}

Result<Json> empty_trash(const Call& call) {
  const BodyReader body = TRY(BodyReader::parse(call.request.body, {"pool", "volume", "expired"}));
  EmptyTrashRequest request;
  request.pool = TRY(body.text_or("pool", ""));
  request.item = TRY(body.text_or("volume", ""));
  request.only_expired = TRY(body.flag_or("expired", false));
  if (request.pool.empty() && !request.item.empty()) {
    return Error(ErrorCode::invalid_argument, "the request names a volume without its pool");
  }
  return to_json(TRY(call.host().call<EmptyTrashAnswer>(
      [request](Host& host) { return host.empty_trash(request); })));
}

Result<Json> resize_volume(const Call& call) {
  const BodyReader body = TRY(BodyReader::parse(call.request.body, {"size_bytes", "force"}));
  ResizeVolumeRequest request;
  request.name = call.volume_name();
  request.size_bytes = TRY(body.number("size_bytes"));
  request.force = TRY(body.flag_or("force", false));
  return to_json(TRY(call.host().call<VolumeReport>(
      [request](Host& host) { return host.resize_volume(request); })));
}

Result<Json> convert_volume(const Call& call) {
  const BodyReader body = TRY(BodyReader::parse(call.request.body, {"thick"}));
  ConvertVolumeRequest request;
  request.name = call.volume_name();
  request.thick = TRY(body.flag("thick"));
  return to_json(TRY(call.host().call<VolumeReport>(
      [request](Host& host) { return host.convert_volume(request); })));
}

Result<Json> rename_volume(const Call& call) {
  const BodyReader body = TRY(BodyReader::parse(call.request.body, {"name"}));
  const std::string new_name = TRY(body.text("name"));
  const VolumeName name = call.volume_name();
  return to_json(TRY(call.host().call<VolumeReport>(
      [name, new_name](Host& host) { return host.rename_volume(name, new_name); })));
}

Result<Json> set_volume(const Call& call) {
  const BodyReader body =
      TRY(BodyReader::parse(call.request.body, {"hold.pause_after", "hold.fail_after"}));
  SetVolumeRequest request;
  request.name = call.volume_name();
  for (const char* name : {"hold.pause_after", "hold.fail_after"}) {
    const std::string value = TRY(body.text_or(name, ""));
    if (!value.empty()) request.settings.emplace_back(name, value);
  }
  return to_json(TRY(
      call.host().call<VolumeReport>([request](Host& host) { return host.set_volume(request); })));
}

Result<Json> attach_volume(const Call& call) {
  const BodyReader body =
      TRY(BodyReader::parse(call.request.body, {"protocol", "read_only", "qmp", "incoming",
                                                "shared_writable", "shared_read_only"}));
  AttachRequest request;
  request.name = call.volume_name();
  request.protocol = TRY(body.text_or("protocol", "nbd"));
  request.read_only = TRY(body.flag_or("read_only", false));
  request.qmp_path = TRY(body.text_or("qmp", ""));
  request.incoming = TRY(body.flag_or("incoming", false));
  request.shared_writable = TRY(body.flag_or("shared_writable", false));
  request.shared_read_only = TRY(body.flag_or("shared_read_only", false));
  return to_json(
      TRY(call.host().call<AttachAnswer>([request](Host& host) { return host.attach(request); })));
}

Result<Json> detach_volume(const Call& call) {
  const VolumeName name = call.volume_name();
  const auto done =
      TRY(call.host().call<DoneAnswer>([name](Host& host) { return host.detach(name); }));
  return with_warning({{"pool", name.pool}, {"volume", name.volume}, {"detached", true}},
                      done.warning);
}

SnapshotName snapshot_name(const Call& call) {
  return {call.volume_name(), call.parts.at("snapshot")};
}

Result<Json> get_snapshots(const Call& call) {
  const VolumeName name = call.volume_name();
  return to_json(TRY(call.host().call<std::vector<SnapshotReport>>(
      [name](Host& host) { return host.list_snapshots(name); })));
}

Result<Json> post_snapshots(const Call& call) {
  const BodyReader body = TRY(BodyReader::parse(call.request.body, {"snapshots"}));
  std::vector<SnapshotName> names;
  for (const auto& texts : TRY(body.texts("snapshots", {"volume", "name"}))) {
    names.push_back({{call.parts.at("pool"), texts[0]}, texts[1]});
  }
  return to_json(TRY(call.host().call<std::vector<SnapshotReport>>(
      [names](Host& host) { return host.create_snapshots(names); })));
}

Result<Json> delete_snapshot(const Call& call) {
  const SnapshotName name = snapshot_name(call);
  TRY(call.host().call<DoneAnswer>([name](Host& host) { return host.remove_snapshot(name); }));
  return Json{{"pool", name.volume.pool},
              {"volume", name.volume.volume},
              {"name", name.snapshot},
              {"removed", true}};
}

Result<Json> rollback_snapshot(const Call& call) {
  const SnapshotName name = snapshot_name(call);
  return to_json(
      TRY(call.host().call<VolumeReport>([name](Host& host) { return host.rollback(name); })));
}

Result<Json> clone_snapshot(const Call& call) {
  const BodyReader body = TRY(BodyReader::parse(call.request.body, {"name"}));
  CloneRequest request;
  request.from = snapshot_name(call);
  request.name = TRY(body.text("name"));
  return to_json(TRY(call.host().call<VolumeReport>(
      [request](Host& host) { return host.clone_volume(request); })));
}

Result<Json> diff_volume(const Call& call) {
  const BodyReader body =
      TRY(BodyReader::parse(call.request.body, {"snapshot", "since", "offset_bytes"}));
  DiffQuery query;
  query.volume = call.volume_name();
  query.snapshot = TRY(body.text_or("snapshot", ""));
  query.since = TRY(body.text_or("since", ""));
  query.offset_bytes = TRY(body.number_or("offset_bytes", 0));
  return to_json(
      TRY(call.host().call<DiffReport>([query](Host& host) { return host.diff_volume(query); })));
}

VolumeName transfer_name(const Call& call) {
  return {call.parts.at("pool"), call.parts.at("transfer")};
}

Result<Json> import_volume(const Call& call) {
  const BodyReader body =
      TRY(BodyReader::parse(call.request.body, {"size_bytes", "since", "snapshot"}));
  ImportRequest request;
  request.name = call.volume_name();
  request.size_bytes = TRY(body.number("size_bytes"));
  request.since = TRY(body.text_or("since", ""));
  request.snapshot = TRY(body.text_or("snapshot", ""));
  return to_json(TRY(call.host().call<TransferAnswer>(
      [request](Host& host) { return host.begin_import(request); })));
}

Result<Json> export_volume(const Call& call) {
  const BodyReader body = TRY(BodyReader::parse(call.request.body, {"snapshot"}));
  ExportRequest request;
  request.volume = call.volume_name();
  request.snapshot = TRY(body.text_or("snapshot", ""));
  return to_json(TRY(call.host().call<TransferAnswer>(
      [request](Host& host) { return host.begin_export(request); })));
}

Result<Json> step_transfer(const Call& call) {
  const BodyReader body = TRY(BodyReader::parse(call.request.body, {"size_bytes", "snapshot"}));
  ImportStepRequest request;
  request.transfer = transfer_name(call);
  request.size_bytes = TRY(body.number("size_bytes"));
  request.snapshot = TRY(body.text_or("snapshot", ""));
  return to_json(TRY(call.host().call<TransferAnswer>(
      [request](Host& host) { return host.step_import(request); })));
}

Result<Json> finish_transfer(const Call& call) {
  const VolumeName name = transfer_name(call);
  return to_json(
      TRY(call.host().call<VolumeReport>([name](Host& host) { return host.finish_import(name); })));
}

Result<Json> delete_transfer(const Call& call) {
  const VolumeName name = transfer_name(call);
  TRY(call.host().call<DoneAnswer>([name](Host& host) { return host.end_transfer(name); }));
  return Json{{"pool", name.pool}, {"transfer", name.volume}, {"ended", true}};
}

Result<Json> post_flatten(const Call& call) {
  const VolumeName name = call.volume_name();
  return to_json(TRY(
      call.host().call<FlattenReport>([name](Host& host) { return host.flatten_volume(name); })));
}

Result<Json> get_flatten(const Call& call) {
  const VolumeName name = call.volume_name();
  return to_json(
      TRY(call.host().call<FlattenReport>([name](Host& host) { return host.show_flatten(name); })));
}

Result<Json> delete_flatten(const Call& call) {
  const VolumeName name = call.volume_name();
  return to_json(TRY(
      call.host().call<FlattenReport>([name](Host& host) { return host.cancel_flatten(name); })));
}

Result<Json> get_leases(const Call& call) {
  const std::string pool = call.request.pool_query;
  return to_json(TRY(call.host().call<std::vector<LeaseReport>>(
      [pool](Host& host) { return host.list_leases(pool); })));
}

Result<Json> get_lease(const Call& call) {
  const VolumeName name = call.volume_name();
  return to_json(
      TRY(call.host().call<LeaseReport>([name](Host& host) { return host.show_lease(name); })));
}

Result<Json> break_lease(const Call& call) {
  const VolumeName name = call.volume_name();
  const auto was =
      TRY(call.host().call<LeaseReport>([name](Host& host) { return host.break_lease(name); }));
  return Json{
      {"pool", name.pool}, {"volume", name.volume}, {"broken", true}, {"was", to_json(was)}};
}

Result<Json> get_hosts(const Call& call) {
  const std::string pool = call.parts.at("pool");
  return to_json(TRY(call.host().call<std::vector<PoolHostReport>>(
      [pool](Host& host) { return host.list_hosts(pool); })));
}

Result<Json> hand_over_volume(const Call& call) {
  const VolumeName name = call.volume_name();
  return to_json(
      TRY(call.host().call<HandOverAnswer>([name](Host& host) { return host.hand_over(name); })));
}

struct Route {
  RouteDescription description;
  Result<Json> (*handler)(const Call& call);
};

constexpr std::array<Route, 39> kRoutes = {{
    {{"GET", "/v1/status", "The daemon, its pools and what it serves", 200}, get_status},
    {{"GET", "/v1/pools", "The open pools", 200}, get_pools},
    {{"POST", "/v1/pools", "Open a pool, or create one", 200}, post_pools},
    {{"GET", "/v1/pools/{pool}", "One pool, with the space of its volumes", 200}, get_pool},
    {{"DELETE", "/v1/pools/{pool}", "Close a pool; its data stays", 200}, delete_pool},
    {{"GET", "/v1/volumes", "The volumes of one pool or of all", 200}, get_volumes},
    {{"POST", "/v1/pools/{pool}/volumes", "Create a volume", 201}, post_volumes},
    {{"GET", "/v1/pools/{pool}/volumes/{volume}", "One volume", 200}, get_volume},
    {{"DELETE", "/v1/pools/{pool}/volumes/{volume}", "Move a volume to the trash", 200},
     delete_volume},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/remove",
      "Move a volume to the trash, or remove it for good", 200},
     remove_volume},
    {{"GET", "/v1/trash", "The trash of one pool or of all", 200}, get_trash},
    {{"POST", "/v1/trash/empty", "Remove what is in the trash for good", 200}, empty_trash},
    {{"POST", "/v1/pools/{pool}/trash/{volume}/restore", "Take a volume out of the trash", 200},
     restore_volume},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/resize", "Change a volume's size", 200},
     resize_volume},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/convert", "Make a volume thick or thin", 200},
     convert_volume},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/rename", "Give a volume another name", 200},
     rename_volume},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/settings", "Change a volume's settings", 200},
     set_volume},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/attach", "Serve a volume on a socket", 200},
     attach_volume},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/detach", "Stop serving a volume", 200},
     detach_volume},
    {{"GET", "/metrics", "Figures for Prometheus and its kin", 200}, get_metrics},
    {{"POST", "/v1/pools/{pool}/snapshots", "Take snapshots, of several volumes at one moment",
      201},
     post_snapshots},
    {{"GET", "/v1/pools/{pool}/volumes/{volume}/snapshots", "The snapshots of a volume", 200},
     get_snapshots},
    {{"DELETE", "/v1/pools/{pool}/volumes/{volume}/snapshots/{snapshot}", "Remove a snapshot", 200},
     delete_snapshot},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/snapshots/{snapshot}/rollback",
      "Give a detached volume the content of a snapshot", 200},
     rollback_snapshot},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/snapshots/{snapshot}/clone",
      "Make a volume that begins as a snapshot", 201},
     clone_snapshot},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/diff", "Where content differs, part by part", 200},
     diff_volume},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/import",
      "Begin an import: a volume to be written over NBD", 201},
     import_volume},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/export",
      "Begin an export: a snapshot to be read over NBD", 201},
     export_volume},
    {{"POST", "/v1/pools/{pool}/transfers/{transfer}/step",
      "Within an import: take a snapshot, change the size", 200},
     step_transfer},
    {{"POST", "/v1/pools/{pool}/transfers/{transfer}/finish", "End an import well", 200},
     finish_transfer},
    {{"DELETE", "/v1/pools/{pool}/transfers/{transfer}", "End an export, or undo an import", 200},
     delete_transfer},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/flatten",
      "Begin to make a clone independent of its parent", 200},
     post_flatten},
    {{"GET", "/v1/pools/{pool}/volumes/{volume}/flatten", "How far flattening is", 200},
     get_flatten},
    {{"DELETE", "/v1/pools/{pool}/volumes/{volume}/flatten", "Stop flattening", 200},
     delete_flatten},
    {{"GET", "/v1/leases", "The leases of one shared pool or of all", 200}, get_leases},
    {{"GET", "/v1/pools/{pool}/volumes/{volume}/lease", "Who has a volume of a shared pool", 200},
     get_lease},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/lease/break", "Free the lease of a dead host",
      200},
     break_lease},
    {{"GET", "/v1/pools/{pool}/hosts", "The hosts of a shared pool", 200}, get_hosts},
    {{"POST", "/v1/pools/{pool}/volumes/{volume}/handover",
      "Let another host have an attached volume", 200},
     hand_over_volume},
}};

std::string_view next_part(std::string_view& path) {
  const std::size_t slash = path.find('/');
  const std::string_view part = path.substr(0, slash);
  path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
  return part;
}

bool matches(std::string_view pattern, std::string_view path,
             std::map<std::string, std::string, std::less<>>& parts) {
  if (path.empty() || path.front() != '/' || path.back() == '/') return false;
  pattern.remove_prefix(1);
  path.remove_prefix(1);
  parts.clear();
  while (!pattern.empty() && !path.empty()) {
    const std::string_view expected = next_part(pattern);
    const std::string_view actual = next_part(path);
    if (expected.front() == '{') {
      if (actual.empty()) return false;
      parts.emplace(expected.substr(1, expected.size() - 2), actual);
    } else if (expected != actual) {
      return false;
    }
  }
  return pattern.empty() && path.empty();
}

int http_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return 400;
    case ErrorCode::read_only:
      return 403;
    case ErrorCode::not_found:
      return 404;
    case ErrorCode::already_exists:
      return 409;
    case ErrorCode::busy:
      return 409;
    case ErrorCode::lease_held:
      return 409;
    case ErrorCode::unsupported:
      return 501;
    case ErrorCode::path_failure:
      return 503;
    case ErrorCode::no_space:
      return 507;
    case ErrorCode::corrupt:
      return 500;
    case ErrorCode::internal:
      return 500;
  }
  return 500;
}

ApiAnswer error_with_details(const Error& error, const Json& details) {
  Json json = {
      {"error",
       {{"code", std::string(error_code_name(error.code()))}, {"message", error.message()}}}};
  if (!details.is_null()) json["error"]["details"] = details;
  return {http_status(error.code()), dump(json), "application/json"};
}

// An error is a code and a line; who keeps the volume from the caller is looked up for it.
ApiAnswer refusal(const Call& call, const Error& error) {
  if (error.code() != ErrorCode::lease_held || !call.parts.contains("volume")) {
    return error_answer(error);
  }
  VolumeName name = call.volume_name();
  name.volume = split_snapshot(name.volume).first;
  const auto lease =
      call.host().call<LeaseReport>([name](Host& host) { return host.show_lease(name); });
  return lease.ok() ? lease_held_answer(error, lease.value()) : error_answer(error);
}

ApiAnswer answer_or_throw(ApiContext& context, const ApiRequest& request) {
  Call call{context, request, {}};
  bool path_known = false;
  for (const Route& route : kRoutes) {
    if (!matches(route.description.pattern, request.path, call.parts)) continue;
    path_known = true;
    if (route.description.method != request.method) continue;
    auto result = route.handler(call);
    if (!result.ok()) return refusal(call, result.error());
    const int status = route.description.success_status;
    if (result->is_string()) return {status, result->get<std::string>(), kMetricsContentType};
    return {status, dump(result.value()), "application/json"};
  }
  const std::string shown = request.path.substr(0, 2 * limits::kNameBytesMax);
  if (!path_known)
    return error_answer(Error(ErrorCode::not_found, "there is nothing at '" + shown + "'"));
  ApiAnswer refused =
      error_answer(Error(ErrorCode::invalid_argument,
                         request.method.substr(0, 16) + " is not possible at '" + shown + "'"));
  refused.status = 405;
  return refused;
}

}  // namespace

std::vector<RouteDescription> describe_routes() {
  std::vector<RouteDescription> descriptions;
  for (const Route& route : kRoutes) descriptions.push_back(route.description);
  return descriptions;
}

ApiAnswer answer(ApiContext& context, const ApiRequest& request) {
  try {
    return answer_or_throw(context, request);
  } catch (const std::exception& error) {  // nlohmann's: ours throws nothing
    return error_answer(Error(ErrorCode::internal, std::string("unexpected: ") + error.what()));
  }
}

ApiAnswer error_answer(const Error& error) {
  return error_with_details(error, nullptr);
}

ApiAnswer lease_held_answer(const Error& error, const LeaseReport& lease) {
  return error_with_details(error, holder_to_json(lease));
}

}  // namespace holdfast
