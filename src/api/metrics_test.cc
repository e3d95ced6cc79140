// SPDX-License-Identifier: Apache-2.0
#include "api/metrics.h"

#include <gtest/gtest.h>

#include <fstream>
#include <regex>
#include <set>
#include <sstream>

namespace holdfast {
namespace {

StatusReport example() {
  StatusReport status;
  status.uptime = 90s;
  PoolReport pool;
  pool.name = "vms";
  pool.state = ServiceState::open;
  pool.volume_count = 1;
  PoolReport::Space space;
  space.capacity_bytes = 1'000'000'000'000;
  space.used_percent = 81.25;
  space.level = "warn";
  pool.space = space;
  PoolReport::Volumes volumes;
  volumes.overcommit_ratio = 1.5;
  pool.volumes = volumes;
  PoolReport::Leases leases;
  leases.renewals = Renewals{};
  leases.renewals->last_age = 4500ms;
  leases.renewals->last_write = 12ms;
  leases.renewals->failures = 3;
  pool.leases = leases;
  status.pools = {pool};
  VolumeReport volume;
  volume.name = {"vms", "disk1"};
  volume.state = ServiceState::open;
  volume.counters = VolumeCounters{};
  volume.counters->reads = 42;
  HoldReport hold;
  hold.duration = 1500ms;
  volume.hold = hold;
  volume.attachment = AttachmentReport{};
  volume.attachment->lease = OwnershipReport{};
  volume.attachment->lease->state = "expired";
  status.volumes = {volume};
  return status;
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> all;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) all.push_back(line);
  return all;
}

bool has_line(const std::string& text, const std::string& wanted) {
  for (const std::string& line : lines(text)) {
    if (line == wanted) return true;
  }
  return false;
}

TEST(MetricsTest, SayWhatTheStatusSays) {
  const std::string text = metrics_text(example(), "1.2.3", 7);
  for (const char* line :
       {"holdfast_info{version=\"1.2.3\"} 1", "holdfast_uptime_seconds 90",
        "holdfast_log_dropped_lines_total 7",
        "holdfast_pool_capacity_bytes{pool=\"vms\"} 1000000000000",
        "holdfast_pool_used_ratio{pool=\"vms\"} 0.8125", "holdfast_pool_level{pool=\"vms\"} 1",
        "holdfast_pool_overcommit_ratio{pool=\"vms\"} 1.5",
        "holdfast_pool_lease_renewal_age_seconds{pool=\"vms\"} 4.5",
        "holdfast_pool_lease_write_seconds{pool=\"vms\"} 0.012",
        "holdfast_pool_lease_failures_total{pool=\"vms\"} 3",
        "holdfast_volume_lease_held{pool=\"vms\",volume=\"disk1\"} 0",
        "holdfast_volume_reads_total{pool=\"vms\",volume=\"disk1\"} 42",
        "holdfast_volume_held_seconds{pool=\"vms\",volume=\"disk1\"} 1.5"}) {
    EXPECT_TRUE(has_line(text, line)) << line << " is not in\n" << text;
  }
  EXPECT_EQ(text.find("time_to_full"), std::string::npos) << "not known, so not told";
}

TEST(MetricsTest, HaveTheFormatOfPrometheus) {
  const std::string text = metrics_text(example(), "1.2.3", 0);
  const std::regex comment(R"(# (HELP [a-z_]+ \S.*\.|TYPE [a-z_]+ (gauge|counter)))");
  const std::regex sample(
      R"re(([a-z_]+)(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? -?[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?)re");
  std::set<std::string> typed;
  for (const std::string& line : lines(text)) {
    if (line.starts_with("#")) {
      EXPECT_TRUE(std::regex_match(line, comment)) << line;
      const std::string name = line.substr(7, line.find(' ', 7) - 7);
      if (line.starts_with("# TYPE")) {
        EXPECT_TRUE(typed.insert(name).second) << "twice: " << name;
      }
      continue;
    }
    std::smatch parts;
    ASSERT_TRUE(std::regex_match(line, parts, sample)) << line;
    EXPECT_TRUE(typed.contains(parts[1].str())) << line;
  }
  EXPECT_TRUE(text.ends_with("\n"));
}

TEST(MetricsTest, FollowTheConventionsOfNames) {
  std::set<std::string_view> names;
  for (const MetricDescription& metric : describe_metrics()) {
    EXPECT_TRUE(names.insert(metric.name).second) << metric.name;
    EXPECT_TRUE(metric.name.starts_with("holdfast_")) << metric.name;
    EXPECT_EQ(metric.type == "counter", metric.name.ends_with("_total")) << metric.name;
    EXPECT_FALSE(metric.help.empty());
  }
}

TEST(MetricsTest, LabelsAreEscaped) {
  StatusReport status = example();
  status.pools[0].name = "a\"b\\c\nd";
  EXPECT_TRUE(
      has_line(metrics_text(status, "1", 0), "holdfast_pool_volumes{pool=\"a\\\"b\\\\c\\nd\"} 1"));
}

TEST(MetricsTest, AreAllInTheirDocument) {
  std::ifstream stream(HOLDFAST_SOURCE_DIR "/docs/metrics.md");
  ASSERT_TRUE(stream.good());
  std::ostringstream text;
  text << stream.rdbuf();
  std::set<std::string> documented;
  const std::string document = text.str();
  const std::regex row(R"(\| `(holdfast_[a-z_]+)` \|)");
  for (std::sregex_iterator at(document.begin(), document.end(), row), end; at != end; ++at) {
    documented.insert((*at)[1].str());
  }
  std::set<std::string> served;
  for (const MetricDescription& metric : describe_metrics()) served.emplace(metric.name);
  EXPECT_EQ(documented, served);
}

}  // namespace
}  // namespace holdfast
