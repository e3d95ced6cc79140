// SPDX-License-Identifier: Apache-2.0
#include "host/state.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/limits.h"
#include "base/log.h"
#include "host/names.h"
#include "io/aligned_buffer.h"
#include "io/file_io.h"

namespace holdfast {
namespace {

using Json = nlohmann::json;

constexpr int kStateVersion = 1;

Error damaged(std::string_view why) {
  return Error(ErrorCode::corrupt, "it is damaged (" + std::string(why) + ")");
}

// Reads a member of the right type, or remembers that something is wrong.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object), ok_(object.is_object()) {}
  std::string text(const char* key) {
    const Json* value = find(key);
    if (value == nullptr || !value->is_string()) {
      ok_ = false;
      return {};
    }
    return value->get<std::string>();
  }
  bool flag(const char* key) {
    const Json* value = find(key);
    if (value == nullptr || !value->is_boolean()) {
      ok_ = false;
      return false;
    }
    return value->get<bool>();
  }
  std::int64_t number(const char* key) {
    const Json* value = find(key);
    if (value == nullptr || !value->is_number_integer()) {
      ok_ = false;
      return 0;
    }
    return value->get<std::int64_t>();
  }
  const Json& array(const char* key) {
    static const Json kEmpty = Json::array();
    const Json* value = find(key);
    if (value == nullptr || !value->is_array()) {
      ok_ = false;
      return kEmpty;
    }
    return *value;
  }
  // Members that older versions did not write.
  bool has(const char* key) const { return find(key) != nullptr; }
  bool ok() const { return ok_; }

 private:
  const Json* find(const char* key) const {
    if (!object_.is_object()) return nullptr;
    const auto at = object_.find(key);
    return at == object_.end() ? nullptr : &*at;
  }
  const Json& object_;
  bool ok_;
};

constexpr const char* kTransferKinds[] = {"make", "change", "read"};

// Names that are not used are empty.
Result<SavedTransfer> decode_transfer(const Json& element) {
  Fields fields(element);
  SavedTransfer saved{fields.text("pool"), fields.text("volume"), {},
                      fields.text("name"), fields.text("since"),  fields.text("snapshot")};
  const auto kind =
      std::find(std::begin(kTransferKinds), std::end(kTransferKinds), fields.text("kind"));
  bool is_good = fields.ok() && kind != std::end(kTransferKinds) &&
                 check_name("pool", saved.pool).ok() && check_attachable_name(saved.volume).ok();
  for (const std::string* name : {&saved.name, &saved.since, &saved.snapshot}) {
    is_good = is_good && (name->empty() || check_name("volume", *name).ok());
  }
  if (!is_good) return damaged("an import's or export's entry");
  saved.kind = static_cast<SavedTransferKind>(kind - std::begin(kTransferKinds));
  return saved;
}

Result<HostState> decode_content(const Json& content) {
  Fields fields(content);
  HostState state;
  for (const Json& element : fields.array("pools")) {
    Fields pool(element);
    state.pools.push_back({pool.text("name"), pool.text("location")});
    if (!pool.ok() || !check_name("pool", state.pools.back().name).ok())
      return damaged("a pool's entry");
  }
  for (const Json& element : fields.array("attachments")) {
    Fields attachment(element);
    state.attachments.push_back({attachment.text("pool"), attachment.text("volume"),
                                 attachment.text("protocol"), attachment.flag("read_only"),
                                 WallTime{attachment.number("since_unix_seconds")}});
    SavedAttachment& saved = state.attachments.back();
    if (attachment.has("qmp")) saved.qmp_path = attachment.text("qmp");
    const auto mode = parse_attach_mode(attachment.has("mode") ? attachment.text("mode")
                                                               : attach_mode_name(saved.mode));
    saved.mode = mode.value_or(saved.mode);
    if (attachment.has("shared_since")) {
      saved.shared_since = static_cast<std::uint64_t>(attachment.number("shared_since"));
    }
    if (!attachment.ok() || !mode.has_value() || !check_name("pool", saved.pool).ok() ||
        !check_attachable_name(saved.volume).ok()) {
      return damaged("an attachment's entry");
    }
  }
  if (fields.has("volume_settings")) {
    for (const Json& element : fields.array("volume_settings")) {
      Fields settings(element);
      SavedVolumeSettings saved{settings.text("pool"), settings.text("volume"), {}};
      bool is_good = settings.ok() && check_name("pool", saved.pool).ok() &&
                     check_name("volume", saved.volume).ok();
      for (const char* key : {"hold.pause_after", "hold.fail_after"}) {
        if (!is_good || !settings.has(key)) continue;
        const std::string value = settings.text(key);
        is_good = settings.ok() && apply_hold_setting(saved.hold, key, value).ok();
      }
      if (!is_good) return damaged("a volume's settings");
      state.volume_settings.push_back(std::move(saved));
    }
  }
  if (fields.has("transfers")) {
    for (const Json& element : fields.array("transfers")) {
      state.transfers.push_back(TRY(decode_transfer(element)));
    }
  }
  if (fields.has("hosts")) {
    for (const Json& element : fields.array("hosts")) {
      Fields host(element);
      SavedHost saved{host.text("pool"), host.text("host_name"), host.text("boot_id"), {}};
      saved.identity.host_id = static_cast<std::uint64_t>(host.number("host_id"));
      saved.identity.generation = static_cast<std::uint64_t>(host.number("generation"));
      if (!host.ok() || !check_name("pool", saved.pool).ok()) return damaged("a host's entry");
      state.hosts.push_back(std::move(saved));
    }
  }
  if (fields.has("paused_machines")) {
    for (const Json& element : fields.array("paused_machines")) {
      if (!element.is_string()) return damaged("a paused machine");
      state.paused_machines.push_back(element.get<std::string>());
    }
  }
  state.generation = static_cast<std::uint64_t>(fields.number("generation"));
  if (!fields.ok()) return damaged("something is missing");
  if (state.pools.size() > limits::kPoolsMax) return damaged("too many pools");
  if (state.attachments.size() > limits::kAttachmentsMax) return damaged("too many attachments");
  if (state.volume_settings.size() > limits::kVolumeSettingsMax)
    return damaged("too many settings");
  if (state.transfers.size() > limits::kTransfersMax) return damaged("too many transfers");
  if (state.paused_machines.size() > limits::kAttachmentsMax) return damaged("too many machines");
  return state;
}

std::uint32_t checksum(const Json& content) {
  return crc32c(as_bytes(content.dump()));
}

}  // namespace

std::string encode_state(const HostState& state) {
  Json content;
  content["generation"] = state.generation;
  content["pools"] = Json::array();
  for (const PoolLocation& pool : state.pools) {
    content["pools"].push_back({{"name", pool.name}, {"location", pool.location}});
  }
  content["attachments"] = Json::array();
  for (const SavedAttachment& attachment : state.attachments) {
    content["attachments"].push_back({{"pool", attachment.pool},
                                      {"volume", attachment.volume},
                                      {"protocol", attachment.protocol},
                                      {"read_only", attachment.read_only},
                                      {"since_unix_seconds", attachment.since.unix_seconds}});
    if (!attachment.qmp_path.empty()) content["attachments"].back()["qmp"] = attachment.qmp_path;
    if (attachment.mode != AttachMode::exclusive) {
      content["attachments"].back()["mode"] = attach_mode_name(attachment.mode);
    }
    if (attachment.shared_since != 0) {
      content["attachments"].back()["shared_since"] = attachment.shared_since;
    }
  }
  content["volume_settings"] = Json::array();
  for (const SavedVolumeSettings& saved : state.volume_settings) {
    Json settings = {{"pool", saved.pool}, {"volume", saved.volume}};
    const HoldSettings& hold = saved.hold;
    if (hold.pause_after) settings["hold.pause_after"] = format_hold_time(*hold.pause_after);
    if (hold.fail_after) settings["hold.fail_after"] = format_hold_time(*hold.fail_after);
    content["volume_settings"].push_back(std::move(settings));
  }
  content["transfers"] = Json::array();
  for (const SavedTransfer& saved : state.transfers) {
    content["transfers"].push_back({{"pool", saved.pool},
                                    {"volume", saved.volume},
                                    {"kind", kTransferKinds[static_cast<std::size_t>(saved.kind)]},
                                    {"name", saved.name},
                                    {"since", saved.since},
                                    {"snapshot", saved.snapshot}});
  }
  content["hosts"] = Json::array();
  for (const SavedHost& saved : state.hosts) {
    content["hosts"].push_back({{"pool", saved.pool},
                                {"host_name", saved.host_name},
                                {"boot_id", saved.boot_id},
                                {"host_id", saved.identity.host_id},
                                {"generation", saved.identity.generation}});
  }
  content["paused_machines"] = state.paused_machines;
  Json document;
  document["holdfast_state_version"] = kStateVersion;
  document["crc32c"] = checksum(content);
  document["content"] = std::move(content);
  return document.dump(2) + "\n";
}

Result<HostState> decode_state(std::string_view text) {
  if (text.size() > limits::kStateFileBytes) return damaged("it is too large");
  const Json document = Json::parse(text, nullptr, false);
  if (document.is_discarded()) return damaged("it is not JSON");
  try {
    Fields fields(document);
    const std::int64_t version = fields.number("holdfast_state_version");
    if (!fields.ok()) return damaged("no version");
    if (version != kStateVersion) {
      return Error(ErrorCode::unsupported,
                   "version " + std::to_string(version) +
                       " was written by a newer holdfastd; this one knows version " +
                       std::to_string(kStateVersion));
    }
    const std::int64_t stored = fields.number("crc32c");
    if (!fields.ok() || !document.contains("content")) return damaged("no content");
    if (stored != static_cast<std::int64_t>(checksum(document["content"])))
      return damaged("its checksum");
    return decode_content(document["content"]);
  } catch (const Json::exception& error) {
    return damaged(error.what());
  }
}

namespace {

// Allocated but never written, or cut to nothing by a crash while it was made.
bool is_blank(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

Task<Result<HostState>> StateStore::load() {
  std::optional<HostState> best;
  std::optional<Error> problem;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    auto bytes = co_await file_system_.read_file(path(i));
    if (!bytes.ok()) {
      if (bytes.error().code() != ErrorCode::not_found) problem = bytes.take_error();
      continue;
    }
    if (is_blank(bytes.value())) continue;
    auto state = decode_state(as_text(bytes.value()));
    if (!state.ok()) {
      const std::string backup = path(i) + ".damaged";
      const auto kept = co_await file_system_.write_file(backup, std::move(bytes).value());
      problem =
          Error(state.error().code(), path(i) + " cannot be used: " + state.error().message() +
                                          (kept.ok() ? "; a copy is in " + backup : std::string()));
      continue;
    }
    if (best.has_value() && best->generation >= state->generation) continue;
    best = std::move(state).value();
    newest_ = i;
    generation_ = best->generation;
  }
  if (best.has_value()) {
    // A save that was cut off: what it would have recorded was never reported as done.
    if (problem.has_value()) log_warning(problem->message() + "; going on with the state before");
    co_return std::move(*best);
  }
  if (!problem.has_value()) co_return HostState{};
  co_return Error(problem->code(),
                  problem->message() +
                      "; restore it from a backup, or move it away to start with no pools "
                      "and attachments");
}

// A file that is not allocated in full (copied by somebody, perhaps) would need space to be
// written.
Task<Result<void>> StateStore::open_slot(std::size_t index) {
  const std::string name = path(index);
  FileOpenOptions options;
  options.writable = true;
  const auto allocated = co_await file_system_.allocated_bytes(name);
  if (!allocated.ok() || allocated.value() < limits::kStateFileBytes) {
    if (allocated.ok()) {
      CO_TRY(co_await file_system_.remove_file(name));
    }
    options.create_new = true;
    options.preallocate_bytes = limits::kStateFileBytes;
  }
  CO_TRY_ASSIGN(slots_[index].file, co_await file_system_.open(name, options));
  if (options.create_new) {
    CO_TRY(co_await file_system_.sync_directory(directory_));
  }
  co_return Result<void>{};
}

Task<Result<void>> StateStore::save(HostState state) {
  state.generation = generation_ + 1;
  const std::string text = encode_state(state);
  if (text.size() > limits::kStateFileBytes) {
    co_return Error(ErrorCode::internal, "the state is too large for its file");
  }
  const std::size_t target = 1 - newest_;
  const std::string name = path(target);
  if (slots_[target].file == nullptr) {
    CO_TRY(co_await open_slot(target));
  }
  // Blanks up to the end: no older text behind, and still JSON to any tool.
  const AlignedBuffer buffer(limits::kStateFileBytes);
  std::memset(buffer.data(), ' ', buffer.size());
  std::memcpy(buffer.data(), text.data(), text.size());
  File& file = *slots_[target].file;
  const std::span<std::byte> bytes = buffer.span();
  int error = co_await FileIo(file, FileOperation::write, 0, bytes);
  if (error == 0) {
    const std::span<std::byte> nothing;
    error = co_await FileIo(file, FileOperation::sync_data, 0, nothing);
  }
  if (error != 0) {
    slots_[target].file.reset();  // made anew the next time
    co_return Error(
        error == ENOSPC || error == EDQUOT ? ErrorCode::no_space : ErrorCode::path_failure,
        "cannot write " + name + ": " + std::strerror(error));
  }
  newest_ = target;
  generation_ = state.generation;
  // The other file is allocated while there may be space, not when it is needed. If there is none,
  // the next save says so.
  if (slots_[1 - target].file == nullptr) (void)co_await open_slot(1 - target);
  co_return Result<void>{};
}

}  // namespace holdfast
