// SPDX-License-Identifier: Apache-2.0
#include "cli/output.h"

#include <gtest/gtest.h>

namespace holdfast {
namespace {

Json example_status() {
  return Json::parse(R"({
    "daemon": {"version": "0.1.0", "pid": 42, "host": "kvm1", "uptime_seconds": 200.0,
               "runtime_dir": "/run/holdfast", "state_saved": true, "state_error": null},
    "pools": [{"name": "vms", "location": "dir:/srv/vms", "state": "open", "reason": null,
               "capacity_bytes": 107374182400, "used_bytes": 85899345920, "volume_count": 2,
               "available_bytes": 21474836480, "reserve_bytes": 1073741824, "used_percent": 80.8,
               "level": "warn", "seconds_to_full": 7200.0, "growth_bytes_per_hour": 10737418240,
               "growth_bytes_per_day": -1073741824},
              {"name": "web", "location": "dir:/srv/web", "state": "failed",
               "reason": "nobody home", "capacity_bytes": null, "used_bytes": null,
               "volume_count": null}],
    "volumes": [{"pool": "vms", "name": "disk1", "size_bytes": 21474836480, "state": "serving",
                 "reason": null, "attached": true,
                 "attachment": {"protocol": "nbd", "read_only": true, "clients": 1, "loop": 0},
                 "hold": {"reason": "pool full", "detail": "No space left on device",
                          "seconds": 12.0, "waiting": 3, "retries": 7},
                 "statistics": {"reads": 12345, "read_bytes": 4096, "writes": 7,
                                "written_bytes": 512, "flushes": 1, "errors": 0}}]})");
}

TEST(OutputTest, StatusShowsWhatNeedsAttention) {
  const std::string text = status_text(example_status());
  EXPECT_NE(text.find("holdfastd 0.1.0, pid 42 on kvm1, up 3 min 20 s"), std::string::npos) << text;
  EXPECT_NE(text.find("80 GiB (81 %)"), std::string::npos) << text;
  EXPECT_NE(text.find("Pool web: nobody home"), std::string::npos) << text;
  EXPECT_NE(text.find("held: pool full"), std::string::npos) << text;
  EXPECT_NE(
      text.find(
          "Volume vms/disk1 is held: pool full for 12 s (No space left on device), 3 operations"),
      std::string::npos)
      << text;
  EXPECT_NE(text.find("12.3k"), std::string::npos) << text;
  EXPECT_NE(text.find("read-only"), std::string::npos) << text;
}

TEST(OutputTest, APoolThatFillsSaysHowSoonAndWhatToDo) {
  const std::string status = status_text(example_status());
  EXPECT_NE(status.find("Pool vms is at level warn (81 %): 19 GiB are left for guests; add space"),
            std::string::npos)
      << status;
  EXPECT_NE(status.find("2 h 0 min"), std::string::npos) << status;
  Json pool = example_status()["pools"][0];
  std::string text = pool_details(pool);
  EXPECT_NE(text.find("10 GiB an hour, as of the last hour; -1 GiB a day"), std::string::npos)
      << text;
  EXPECT_NE(text.find("19 GiB for guests, 1 GiB in reserve"), std::string::npos) << text;
  pool["level"] = "full";
  EXPECT_NE(pool_details(pool).find("writes that need space are held"), std::string::npos);
}

TEST(OutputTest, AVolumeThatIsHeldWhileItIsOpenedSaysSo) {
  Json status = example_status();
  status["volumes"][0]["state"] = "opening";
  EXPECT_NE(status_text(status).find("opening, held: pool full"), std::string::npos);
}

TEST(OutputTest, AStateThatIsNotSavedIsSaid) {
  Json status = example_status();
  status["daemon"]["state_saved"] = false;
  status["daemon"]["state_error"] = "disk full";
  EXPECT_NE(status_text(status).find("The state cannot be saved: disk full"), std::string::npos);
}

TEST(OutputTest, MissingMembersAreShownAsUnknown) {
  for (const char* text :
       {"{}", "null", "[]", "{\"pools\": [{}], \"volumes\": [{}]}", "{\"pools\": 5}"}) {
    const Json answer = Json::parse(text);
    EXPECT_FALSE(status_text(answer).empty()) << text;
    EXPECT_FALSE(pool_details(answer).empty()) << text;
    EXPECT_FALSE(volume_details(answer).empty()) << text;
  }
}

TEST(OutputTest, EmptyTablesSayWhatToDo) {
  EXPECT_NE(pool_table(Json::array()).find("holdfast pool create"), std::string::npos);
  EXPECT_NE(volume_table(Json::array()).find("holdfast volume create"), std::string::npos);
}

TEST(OutputTest, FlatteningShowsHowFarItIs) {
  Json flatten = {{"pool", "vms"},      {"volume", "web"},     {"state", "running"},
                  {"segments_done", 0}, {"segments_total", 0}, {"bytes_done", 0},
                  {"bytes_total", 0},   {"reason", nullptr}};
  EXPECT_EQ(flatten_progress(flatten), "vms/web: begins");
  flatten["segments_done"] = 3;
  flatten["segments_total"] = 12;
  flatten["bytes_done"] = 96 << 20;
  flatten["bytes_total"] = 384 << 20;
  EXPECT_NE(flatten_progress(flatten).find("3 of 12 segments"), std::string::npos);
  EXPECT_EQ(flatten_progress(flatten).find('\n'), std::string::npos);
  flatten["state"] = "cancelled";
  EXPECT_NE(flatten_text(flatten).find("'holdfast flatten vms/web' goes on"), std::string::npos);
  flatten["state"] = "done";
  EXPECT_NE(flatten_text(flatten).find("reads from no other volume"), std::string::npos);
}

}  // namespace
}  // namespace holdfast
