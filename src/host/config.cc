// SPDX-License-Identifier: Apache-2.0
#include "host/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <initializer_list>

#include "base/units.h"
#include "host/deferment.h"
#include "host/names.h"

namespace holdfast {
namespace {

class Reader {
 public:
  Reader(HostConfig& config, std::string_view file_name) : config_(config), file_name_(file_name) {}

  Result<void> read(const toml::table& root) {
    TRY(check_keys(root, {"runtime_dir", "state_dir", "host_name", "loops", "log", "space", "trash",
                          "volume", "hold", "pools"}));
    TRY(read_path(root, "runtime_dir", config_.runtime_directory));
    TRY(read_path(root, "state_dir", config_.state_directory));
    TRY(read_host_name(root));
    TRY(read_loops(root));
    if (const toml::node* node = root.get("log")) TRY(read_log(*node));
    if (const toml::node* node = root.get("space")) TRY(read_space(*node));
    if (const toml::node* node = root.get("trash")) TRY(read_trash(*node));
    if (const toml::node* node = root.get("volume")) TRY(read_volume(*node));
    if (const toml::node* node = root.get("hold")) TRY(read_hold(*node));
    if (const toml::node* node = root.get("pools")) TRY(read_pools(*node));
    return {};
  }

 private:
  Error problem(const toml::node& node, std::string_view what) const {
    return Error(ErrorCode::invalid_argument, std::string(file_name_) + ", line " +
                                                  std::to_string(node.source().begin.line) + ": " +
                                                  std::string(what));
  }

  Result<const toml::table*> as_table(const toml::node& node, std::string_view name) const {
    if (!node.is_table()) return problem(node, "[" + std::string(name) + "] must be a table");
    return node.as_table();
  }

  Result<void> check_keys(const toml::table& table,
                          std::initializer_list<const char*> known) const {
    const std::vector<std::string> names(known.begin(), known.end());
    for (const auto& [key, node] : table) {
      const std::string_view name = key.str();
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        return problem(node, "unknown key '" + std::string(name) + "'" + suggestion(name, names));
      }
    }
    return {};
  }

  Result<void> read_text(const toml::table& table, const char* key, std::string& out) const {
    const toml::node* node = table.get(key);
    if (node == nullptr) return {};
    const auto text = node->value_exact<std::string>();
    if (!text.has_value()) return problem(*node, std::string(key) + " must be text in quotes");
    out = *text;
    return {};
  }

  Result<void> read_path(const toml::table& table, const char* key, std::string& out) const {
    TRY(read_text(table, key, out));
    if (table.contains(key) && (out.empty() || out.front() != '/')) {
      return problem(*table.get(key), std::string(key) + " must be an absolute path");
    }
    return {};
  }

  Result<void> read_host_name(const toml::table& root) {
    if (!root.contains("host_name")) return {};
    TRY(read_text(root, "host_name", config_.host_name));
    auto named = check_host_name(config_.host_name);
    if (!named.ok())
      return problem(*root.get("host_name"), "host_name: " + named.error().message());
    return {};
  }

  Result<void> read_loops(const toml::table& root) {
    const toml::node* node = root.get("loops");
    if (node == nullptr) return {};
    const auto loops = node->value_exact<std::int64_t>();
    if (!loops.has_value() || *loops < 1 ||
        *loops > static_cast<std::int64_t>(limits::kServiceLoopsMax)) {
      return problem(
          *node, "loops must be a number from 1 to " + std::to_string(limits::kServiceLoopsMax));
    }
    config_.loops = static_cast<std::size_t>(*loops);
    return {};
  }

  Result<void> read_bytes(const toml::table& table, const char* key, std::uint64_t bytes_min,
                          std::uint64_t& out) const {
    const toml::node* node = table.get(key);
    if (node == nullptr) return {};
    std::uint64_t bytes = 0;
    if (const auto number = node->value_exact<std::int64_t>()) {
      if (*number < 0) return problem(*node, std::string(key) + " must not be negative");
      bytes = static_cast<std::uint64_t>(*number);
    } else if (const auto text = node->value_exact<std::string>()) {
      auto parsed = parse_bytes(*text);
      if (!parsed.ok()) return problem(*node, std::string(key) + ": " + parsed.error().message());
      bytes = parsed.value();
    } else {
      return problem(*node, std::string(key) + " must be a size, such as \"64M\"");
    }
    if (bytes < bytes_min) {
      return problem(*node, std::string(key) + " must be at least " + format_bytes(bytes_min));
    }
    out = bytes;
    return {};
  }

  Result<void> read_log(const toml::node& node) {
    const toml::table* table = TRY(as_table(node, "log"));
    TRY(check_keys(*table, {"file", "level"}));
    TRY(read_path(*table, "file", config_.log_file));
    std::string level;
    TRY(read_text(*table, "level", level));
    if (!level.empty()) {
      const auto parsed = parse_log_level(level);
      if (!parsed.has_value()) {
        return problem(*table->get("level"), "level must be debug, info, warning or error");
      }
      config_.log_level = *parsed;
    }
    return {};
  }

  Result<void> read_volume(const toml::node& node) {
    const toml::table* table = TRY(as_table(node, "volume"));
    TRY(check_keys(
        *table, {"page_cache", "checkpoint_log", "checkpoint_idle_seconds", "cleaner_start_percent",
                 "cleaner_stop_percent", "cleaner_idle_percent"}));
    TRY(read_bytes(*table, "page_cache", limits::kPageCacheBytesMin, config_.page_cache_bytes));
    TRY(read_bytes(*table, "checkpoint_log", kMiB, config_.checkpoint_log_bytes));
    if (const toml::node* idle = table->get("checkpoint_idle_seconds")) {
      const auto seconds = idle->value<double>();
      if (!seconds.has_value() || !(*seconds >= 0.1) || !(*seconds <= 3600)) {
        return problem(*idle, "checkpoint_idle_seconds must be a number from 0.1 to 3600");
      }
      config_.checkpoint_idle = Duration(static_cast<std::int64_t>(*seconds * 1e9));
    }
    TRY(read_percent(*table, "cleaner_start_percent", config_.cleaner_start_percent));
    TRY(read_percent(*table, "cleaner_stop_percent", config_.cleaner_stop_percent));
    TRY(read_percent(*table, "cleaner_idle_percent", config_.cleaner_idle_percent));
    if (config_.cleaner_stop_percent > config_.cleaner_start_percent) {
      return problem(node, "cleaner_stop_percent must not be above cleaner_start_percent");
    }
    return {};
  }

  Result<void> read_space(const toml::node& node) {
    const toml::table* table = TRY(as_table(node, "space"));
    TRY(check_keys(*table, {"warn_percent", "critical_percent", "pools"}));
    TRY(read_thresholds(*table, config_.space));
    const toml::node* pools = table->get("pools");
    if (pools == nullptr) return {};
    for (const auto& [key, value] : *TRY(as_table(*pools, "space.pools"))) {
      const std::string name(key.str());
      auto named = check_name("pool", name);
      if (!named.ok()) return problem(value, named.error().message());
      const toml::table* pool = TRY(as_table(value, "space.pools." + name));
      TRY(check_keys(*pool, {"warn_percent", "critical_percent"}));
      SpaceThresholds thresholds = config_.space;
      TRY(read_thresholds(*pool, thresholds));
      config_.pool_spaces.emplace(name, thresholds);
    }
    return {};
  }

  Result<void> read_thresholds(const toml::table& table, SpaceThresholds& into) const {
    TRY(read_percent(table, "warn_percent", into.warn_percent, 99));
    TRY(read_percent(table, "critical_percent", into.critical_percent, 99));
    if (into.warn_percent > into.critical_percent) {
      return problem(table, "warn_percent (" + std::to_string(into.warn_percent) +
                                ") must not be above critical_percent (" +
                                std::to_string(into.critical_percent) + ")");
    }
    return {};
  }

  Result<void> read_trash(const toml::node& node) {
    const toml::table* table = TRY(as_table(node, "trash"));
    TRY(check_keys(*table, {"defer"}));
    std::string text;
    TRY(read_text(*table, "defer", text));
    if (!table->contains("defer")) return {};
    auto defer = parse_deferment(text);
    if (!defer.ok()) return problem(*table->get("defer"), "defer: " + defer.error().message());
    config_.trash_defer = defer.value();
    return {};
  }

  Result<void> read_percent(const toml::table& table, const char* key, std::uint32_t& into,
                            std::int64_t percent_max = 95) const {
    const toml::node* node = table.get(key);
    if (node == nullptr) return {};
    const auto percent = node->value_exact<std::int64_t>();
    if (!percent.has_value() || *percent < 1 || *percent > percent_max) {
      return problem(*node, std::string(key) + " must be a whole number from 1 to " +
                                std::to_string(percent_max));
    }
    into = static_cast<std::uint32_t>(*percent);
    return {};
  }

  Result<void> read_hold(const toml::node& node) {
    const toml::table* table = TRY(as_table(node, "hold"));
    TRY(check_keys(*table, {"pause_after", "fail_after", "pools"}));
    TRY(read_hold_times(*table, config_.hold));
    const toml::node* pools = table->get("pools");
    if (pools == nullptr) return {};
    for (const auto& [key, value] : *TRY(as_table(*pools, "hold.pools"))) {
      const std::string name(key.str());
      auto named = check_name("pool", name);
      if (!named.ok()) return problem(value, named.error().message());
      const toml::table* pool = TRY(as_table(value, "hold.pools." + name));
      TRY(check_keys(*pool, {"pause_after", "fail_after"}));
      TRY(read_hold_times(*pool, config_.pool_holds[name]));
    }
    return {};
  }

  Result<void> read_hold_times(const toml::table& table, HoldSettings& into) const {
    for (const auto& [key, setting] :
         {std::pair("pause_after", &into.pause_after), std::pair("fail_after", &into.fail_after)}) {
      std::string text;
      TRY(read_text(table, key, text));
      if (!table.contains(key)) continue;
      auto time = parse_hold_time(text);
      if (!time.ok()) {
        return problem(*table.get(key), std::string(key) + ": " + time.error().message());
      }
      *setting = time.value();
    }
    return {};
  }

  Result<void> read_pools(const toml::node& node) {
    const toml::table* table = TRY(as_table(node, "pools"));
    for (const auto& [key, value] : *table) {
      PoolLocation pool{std::string(key.str()), ""};
      auto named = check_name("pool", pool.name);
      if (!named.ok()) return problem(value, named.error().message());
      const auto location = value.value_exact<std::string>();
      if (!location.has_value()) {
        return problem(value,
                       "pool '" + pool.name + "' needs its location, such as \"dir:/srv/vms\"");
      }
      pool.location = *location;
      config_.pools.push_back(std::move(pool));
    }
    return {};
  }

  HostConfig& config_;
  std::string_view file_name_;
};

}  // namespace

Result<HostConfig> parse_config(std::string_view text, std::string_view file_name) {
  try {
    const toml::table root = toml::parse(text, file_name);
    HostConfig config;
    TRY(Reader(config, file_name).read(root));
    return config;
  } catch (const toml::parse_error& error) {
    return Error(ErrorCode::invalid_argument, std::string(file_name) + ", line " +
                                                  std::to_string(error.source().begin.line) + ": " +
                                                  std::string(error.description()));
  }
}

Result<PoolLocation> parse_pool_option(std::string_view text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals + 1 == text.size()) {
    return Error(ErrorCode::invalid_argument,
                 "'" + std::string(text) +
                     "' does not name a pool and its place; write it as "
                     "NAME=dir:/PATH, such as vms=dir:/srv/vms");
  }
  PoolLocation pool{std::string(text.substr(0, equals)), std::string(text.substr(equals + 1))};
  TRY(check_name("pool", pool.name));
  return pool;
}

std::optional<LogLevel> parse_log_level(std::string_view text) {
  if (text == "debug") return LogLevel::debug;
  if (text == "info") return LogLevel::info;
  if (text == "warning") return LogLevel::warning;
  if (text == "error") return LogLevel::error;
  return std::nullopt;
}

}  // namespace holdfast
