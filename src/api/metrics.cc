// SPDX-License-Identifier: Apache-2.0
#include "api/metrics.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <optional>

namespace holdfast {
namespace {

using Value = std::optional<double>;

template <typename Subject>
struct Metric {
  MetricDescription description;
  Value (*value)(const Subject& subject);
};

double number(std::uint64_t value) {
  return static_cast<double>(value);
}

double seconds(Duration duration) {
  return static_cast<double>(duration.count()) / 1e9;
}

// Figures of a part of a report that may not be there.
template <auto Part, auto Member>
Value of_pool(const PoolReport& pool) {
  const auto& part = pool.*Part;
  if (!part.has_value()) return std::nullopt;
  return static_cast<double>((*part).*Member);
}

template <auto Member>
Value of_counters(const VolumeReport& volume) {
  if (!volume.counters.has_value()) return std::nullopt;
  return static_cast<double>((*volume.counters).*Member);
}

template <typename Figure>
Value of_renewals(const PoolReport& pool, Figure figure) {
  if (!pool.leases.has_value() || !pool.leases->renewals.has_value()) return std::nullopt;
  return figure(*pool.leases->renewals);
}

using Space = PoolReport::Space;
using Volumes = PoolReport::Volumes;
using Counters = VolumeCounters;

constexpr std::array kPoolMetrics = {
    Metric<PoolReport>{
        {"holdfast_pool_up", "gauge", "1 when the pool is open and its storage answers."},
        [](const PoolReport& pool) -> Value {
          return pool.state == ServiceState::open && pool.reason.empty() ? 1 : 0;
        }},
    Metric<PoolReport>{
        {"holdfast_pool_capacity_bytes", "gauge", "Size of the pool's storage, as it says itself."},
        of_pool<&PoolReport::space, &Space::capacity_bytes>},
    Metric<PoolReport>{{"holdfast_pool_available_bytes", "gauge",
                        "Free on the pool's storage, the reserve included."},
                       of_pool<&PoolReport::space, &Space::available_bytes>},
    Metric<PoolReport>{
        {"holdfast_pool_reserve_bytes", "gauge", "Kept from guests, for deletes and housekeeping."},
        of_pool<&PoolReport::space, &Space::reserve_bytes>},
    Metric<PoolReport>{
        {"holdfast_pool_used_bytes", "gauge", "In use on the pool's storage, by anybody."},
        of_pool<&PoolReport::space, &Space::used_bytes>},
    Metric<PoolReport>{{"holdfast_pool_used_ratio", "gauge",
                        "Used, of the capacity less the reserve; at 1 guests' writes are held."},
                       [](const PoolReport& pool) -> Value {
                         if (!pool.space.has_value()) return std::nullopt;
                         return pool.space->used_percent / 100;
                       }},
    Metric<PoolReport>{
        {"holdfast_pool_level", "gauge",
         "0 ok, 1 warn, 2 critical, 3 full: guests' writes are held."},
        [](const PoolReport& pool) -> Value {
          if (!pool.space.has_value()) return std::nullopt;
          const std::string& level = pool.space->level;
          return level == "full" ? 3 : level == "critical" ? 2 : level == "warn" ? 1 : 0;
        }},
    Metric<PoolReport>{{"holdfast_pool_growth_bytes_per_hour", "gauge",
                        "How fast the used space grew over the last hour."},
                       [](const PoolReport& pool) -> Value {
                         if (!pool.space.has_value()) return std::nullopt;
                         return pool.space->trend.bytes_per_hour;
                       }},
    Metric<PoolReport>{{"holdfast_pool_growth_bytes_per_day", "gauge",
                        "How fast the used space grew over the last days."},
                       [](const PoolReport& pool) -> Value {
                         if (!pool.space.has_value()) return std::nullopt;
                         return pool.space->trend.bytes_per_day;
                       }},
    Metric<PoolReport>{
        {"holdfast_pool_time_to_full_seconds", "gauge",
         "Until the reserve is reached at the present pace; absent when nothing grows."},
        [](const PoolReport& pool) -> Value {
          if (!pool.space.has_value() || !pool.space->time_to_full.has_value()) return std::nullopt;
          return seconds(*pool.space->time_to_full);
        }},
    Metric<PoolReport>{{"holdfast_pool_volumes", "gauge", "Volumes in the pool."},
                       [](const PoolReport& pool) -> Value {
                         if (!pool.volume_count.has_value()) return std::nullopt;
                         return number(*pool.volume_count);
                       }},
    Metric<PoolReport>{
        {"holdfast_pool_trash_volumes", "gauge", "Removed volumes that can still be restored."},
        of_pool<&PoolReport::trash, &PoolReport::Trash::count>},
    Metric<PoolReport>{{"holdfast_pool_trash_bytes", "gauge",
                        "Taken by them, and free again once the trash is emptied."},
                       of_pool<&PoolReport::trash, &PoolReport::Trash::allocated_bytes>},
    Metric<PoolReport>{{"holdfast_pool_allocated_bytes", "gauge", "Taken by the pool's volumes."},
                       of_pool<&PoolReport::volumes, &Volumes::allocated_bytes>},
    Metric<PoolReport>{{"holdfast_pool_used_by_others_bytes", "gauge",
                        "Used on the same storage, but not by volumes."},
                       of_pool<&PoolReport::volumes, &Volumes::others_bytes>},
    Metric<PoolReport>{
        {"holdfast_pool_provisioned_bytes", "gauge", "Sum of the sizes of the pool's volumes."},
        of_pool<&PoolReport::volumes, &Volumes::provisioned_bytes>},
    Metric<PoolReport>{{"holdfast_pool_overcommit_ratio", "gauge",
                        "Provisioned, of the capacity less the reserve and what others use."},
                       [](const PoolReport& pool) -> Value {
                         if (!pool.volumes.has_value()) return std::nullopt;
                         return pool.volumes->overcommit_ratio;
                       }},
    Metric<PoolReport>{
        {"holdfast_pool_live_bytes", "gauge", "Data and maps in use, of attached volumes."},
        of_pool<&PoolReport::volumes, &Volumes::live_bytes>},
    Metric<PoolReport>{{"holdfast_pool_garbage_bytes", "gauge",
                        "Allocated but dead, of attached volumes; the cleaner gives it back."},
                       of_pool<&PoolReport::volumes, &Volumes::garbage_bytes>},
    Metric<PoolReport>{{"holdfast_pool_unwritten_bytes", "gauge",
                        "Allocated beforehand and not written yet, of attached volumes."},
                       of_pool<&PoolReport::volumes, &Volumes::unwritten_bytes>},
    Metric<PoolReport>{{"holdfast_pool_lease_renewal_age_seconds", "gauge",
                        "Since this host last renewed its lease in a shared pool."},
                       [](const PoolReport& pool) {
                         return of_renewals(
                             pool, [](const Renewals& all) { return seconds(all.last_age); });
                       }},
    Metric<PoolReport>{
        {"holdfast_pool_lease_read_seconds", "gauge", "What reading took in the last renewal."},
        [](const PoolReport& pool) {
          return of_renewals(pool, [](const Renewals& all) { return seconds(all.last_read); });
        }},
    Metric<PoolReport>{
        {"holdfast_pool_lease_write_seconds", "gauge", "What writing took in the last renewal."},
        [](const PoolReport& pool) {
          return of_renewals(pool, [](const Renewals& all) { return seconds(all.last_write); });
        }},
    Metric<PoolReport>{
        {"holdfast_pool_lease_renewals_total", "counter", "Renewals that were done."},
        [](const PoolReport& pool) {
          return of_renewals(pool, [](const Renewals& all) { return number(all.count); });
        }},
    Metric<PoolReport>{{"holdfast_pool_lease_failures_total", "counter", "Renewals that failed."},
                       [](const PoolReport& pool) {
                         return of_renewals(
                             pool, [](const Renewals& all) { return number(all.failures); });
                       }},
};

constexpr std::array kVolumeMetrics = {
    Metric<VolumeReport>{{"holdfast_volume_up", "gauge", "1 when the attached volume is served."},
                         [](const VolumeReport& volume) -> Value {
                           return volume.state == ServiceState::open ? 1 : 0;
                         }},
    Metric<VolumeReport>{{"holdfast_volume_size_bytes", "gauge", "As the guest sees it."},
                         [](const VolumeReport& volume) -> Value {
                           if (!volume.size_bytes.has_value()) return std::nullopt;
                           return number(*volume.size_bytes);
                         }},
    Metric<VolumeReport>{{"holdfast_volume_allocated_bytes", "gauge", "Taken on the storage."},
                         [](const VolumeReport& volume) -> Value {
                           if (!volume.allocated_bytes.has_value()) return std::nullopt;
                           return number(*volume.allocated_bytes);
                         }},
    Metric<VolumeReport>{{"holdfast_volume_live_bytes", "gauge", "Data and map in use."},
                         of_counters<&Counters::live_bytes>},
    Metric<VolumeReport>{{"holdfast_volume_garbage_bytes", "gauge",
                          "Allocated but dead; the cleaner gives it back."},
                         [](const VolumeReport& volume) -> Value {
                           if (!volume.garbage_bytes.has_value()) return std::nullopt;
                           return number(*volume.garbage_bytes);
                         }},
    Metric<VolumeReport>{
        {"holdfast_volume_unwritten_bytes", "gauge", "Allocated beforehand and not written yet."},
        of_counters<&Counters::unwritten_bytes>},
    Metric<VolumeReport>{{"holdfast_volume_growth_bytes_per_hour", "gauge",
                          "How fast its allocation grew over the last hour."},
                         [](const VolumeReport& volume) { return volume.trend.bytes_per_hour; }},
    Metric<VolumeReport>{{"holdfast_volume_growth_bytes_per_day", "gauge",
                          "How fast its allocation grew over the last days."},
                         [](const VolumeReport& volume) { return volume.trend.bytes_per_day; }},
    Metric<VolumeReport>{
        {"holdfast_volume_held", "gauge", "1 while requests are held, for want of space or path."},
        [](const VolumeReport& volume) -> Value { return volume.hold.has_value() ? 1 : 0; }},
    Metric<VolumeReport>{
        {"holdfast_volume_held_seconds", "gauge", "For how long requests are held now; 0: none."},
        [](const VolumeReport& volume) -> Value {
          return volume.hold.has_value() ? seconds(volume.hold->duration) : 0;
        }},
    Metric<VolumeReport>{{"holdfast_volume_lease_held", "gauge",
                          "1 while the volume of a shared pool is this host's; 0: its requests "
                          "wait, or it is lost."},
                         [](const VolumeReport& volume) -> Value {
                           if (!volume.attachment.has_value() ||
                               !volume.attachment->lease.has_value()) {
                             return std::nullopt;
                           }
                           return volume.attachment->lease->state == "held" ? 1 : 0;
                         }},
    Metric<VolumeReport>{{"holdfast_volume_clients", "gauge", "Connected clients."},
                         [](const VolumeReport& volume) -> Value {
                           const auto& attachment = volume.attachment;
                           if (!attachment.has_value() || !attachment->clients.has_value()) {
                             return std::nullopt;
                           }
                           return number(attachment->clients->count);
                         }},
    Metric<VolumeReport>{
        {"holdfast_volume_requests_in_flight", "gauge", "Requests inside of the volume."},
        of_counters<&Counters::requests_in_flight>},
    Metric<VolumeReport>{{"holdfast_volume_reads_total", "counter", "Reads since it was opened."},
                         of_counters<&Counters::reads>},
    Metric<VolumeReport>{{"holdfast_volume_writes_total", "counter", "Writes since it was opened."},
                         of_counters<&Counters::writes>},
    Metric<VolumeReport>{{"holdfast_volume_discards_total", "counter",
                          "Discards and writes of zeros since it was opened."},
                         of_counters<&Counters::discards>},
    Metric<VolumeReport>{
        {"holdfast_volume_flushes_total", "counter", "Flushes since it was opened."},
        of_counters<&Counters::flushes>},
    Metric<VolumeReport>{{"holdfast_volume_read_bytes_total", "counter", "Read by guests."},
                         of_counters<&Counters::read_bytes>},
    Metric<VolumeReport>{{"holdfast_volume_written_bytes_total", "counter", "Written by guests."},
                         of_counters<&Counters::written_bytes>},
    Metric<VolumeReport>{
        {"holdfast_volume_log_written_bytes_total", "counter", "Appended to the volume's log."},
        of_counters<&Counters::log_bytes_written>},
    Metric<VolumeReport>{
        {"holdfast_volume_cleaner_written_bytes_total", "counter", "Copied by the cleaner."},
        of_counters<&Counters::cleaner_bytes_written>},
    Metric<VolumeReport>{
        {"holdfast_volume_errors_total", "counter", "Requests that were answered with an error."},
        of_counters<&Counters::errors>},
    Metric<VolumeReport>{{"holdfast_volume_corrupt_blocks_total", "counter",
                          "Stored blocks met that failed their check."},
                         of_counters<&Counters::corrupt_blocks>},
};

constexpr MetricDescription kInfo = {"holdfast_info", "gauge", "Always 1; the labels tell more."};
constexpr MetricDescription kUptime = {"holdfast_uptime_seconds", "gauge",
                                       "Since the daemon's start."};
constexpr MetricDescription kStateSaved = {
    "holdfast_state_saved", "gauge", "1 when a restart would know all pools and attachments."};
constexpr MetricDescription kDroppedLines = {"holdfast_log_dropped_lines_total", "counter",
                                             "Log lines beyond the bounds of the log."};

// Names hold no quotes or line ends, but what is printed here must not depend on that.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '"' || c == '\\') out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

std::string label(const char* name, std::string_view value) {
  return std::string(name) + "=\"" + escaped(value) + "\"";
}

void add_header(std::string& out, const MetricDescription& metric) {
  out += "# HELP " + std::string(metric.name) + " " + std::string(metric.help) + "\n# TYPE " +
         std::string(metric.name) + " " + std::string(metric.type) + "\n";
}

void add_value(std::string& out, const MetricDescription& metric, const std::string& labels,
               double value) {
  char text[40];
  const bool is_whole = std::abs(value) < 9e15 && value == std::floor(value);
  std::snprintf(text, sizeof text, is_whole ? "%.0f" : "%.6g", value);
  out += metric.name;
  if (!labels.empty()) out += "{" + labels + "}";
  out += std::string(" ") + text + "\n";
}

void add_single(std::string& out, const MetricDescription& metric, const std::string& labels,
                double value) {
  add_header(out, metric);
  add_value(out, metric, labels, value);
}

std::string labels_of(const PoolReport& pool) {
  return label("pool", pool.name);
}

std::string labels_of(const VolumeReport& volume) {
  return label("pool", volume.name.pool) + "," + label("volume", volume.name.volume);
}

template <typename Metrics, typename Subjects>
void add_all(std::string& out, const Metrics& metrics, const Subjects& subjects) {
  for (const auto& metric : metrics) {
    bool has_header = false;
    for (const auto& subject : subjects) {
      const Value value = metric.value(subject);
      if (!value.has_value()) continue;
      if (!has_header) add_header(out, metric.description);
      has_header = true;
      add_value(out, metric.description, labels_of(subject), *value);
    }
  }
}

}  // namespace

std::string metrics_text(const StatusReport& status, std::string_view version,
                         std::uint64_t dropped_log_lines) {
  std::string out;
  add_single(out, kInfo, label("version", version), 1);
  add_single(out, kUptime, "", seconds(status.uptime));
  add_single(out, kStateSaved, "", status.state_error.empty() ? 1 : 0);
  add_single(out, kDroppedLines, "", number(dropped_log_lines));
  add_all(out, kPoolMetrics, status.pools);
  add_all(out, kVolumeMetrics, status.volumes);
  return out;
}

std::vector<MetricDescription> describe_metrics() {
  std::vector<MetricDescription> all = {kInfo, kUptime, kStateSaved, kDroppedLines};
  for (const auto& metric : kPoolMetrics) all.push_back(metric.description);
  for (const auto& metric : kVolumeMetrics) all.push_back(metric.description);
  return all;
}

}  // namespace holdfast
