// SPDX-License-Identifier: Apache-2.0
#include "cli/lease_output.h"

#include <gtest/gtest.h>

#include "cli/output.h"

namespace holdfast {
namespace {

bool has(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

Json example_leases() {
  return Json::parse(R"([
    {"pool": "vms", "volume": "web", "held": true, "mode": "exclusive", "ours": true, "host_id": 1,
     "host": "kvm1", "generation": 3, "epoch": 7, "holder_state": "live",
     "since_unix_seconds": 1700000000, "last_renewal_seconds_ago": 3.2,
     "take_over_in_seconds": 0},
    {"pool": "vms", "volume": "db", "held": true, "mode": "exclusive", "ours": false, "host_id": 2,
     "host": "kvm2", "generation": 1, "epoch": 2, "holder_state": "failing",
     "since_unix_seconds": null, "last_renewal_seconds_ago": 17.4, "take_over_in_seconds": 22.6},
    {"pool": "vms", "volume": "old", "held": false, "mode": "free", "ours": false, "host_id": 9,
     "host": null, "generation": 1, "epoch": 4, "holder_state": "free", "since_unix_seconds": null,
     "last_renewal_seconds_ago": null, "take_over_in_seconds": 0.0}])");
}

TEST(LeaseOutputTest, TheTableSaysWhoHasWhatAndWhenItMayBeTakenOver) {
  EXPECT_EQ(lease_table(example_leases()),
            "VOLUME   MODE       HOST         STATE    EPOCH    RENEWED  TAKE-OVER\n"
            "vms/web  exclusive  kvm1 (this)  live         7  3.2 s ago          -\n"
            "vms/db   exclusive  kvm2         failing      2   17 s ago    in 23 s\n"
            "vms/old  free       -            -            4          -        now\n");
  EXPECT_TRUE(has(lease_table(Json::array()), "only volumes of shared pools"));
}

TEST(LeaseOutputTest, DetailsSayWhatToDo) {
  const Json leases = example_leases();
  const std::string ours = lease_details(leases[0]);
  EXPECT_TRUE(has(ours, "kvm1 (this), id 1, generation 3")) << ours;
  EXPECT_TRUE(has(ours, "since:")) << ours;
  EXPECT_FALSE(has(ours, "take-over")) << ours;
  const std::string failing = lease_details(leases[1]);
  EXPECT_TRUE(has(failing, "in 23 s: by attaching it here")) << failing;
  Json live = leases[1];
  live["take_over_in_seconds"] = nullptr;
  EXPECT_TRUE(has(lease_details(live), "not while that host lives"));
  const std::string free = lease_details(leases[2]);
  EXPECT_TRUE(has(free, "whoever attaches the volume")) << free;
  EXPECT_TRUE(has(free, "last holder:  id 9")) << free;
}

TEST(LeaseOutputTest, HostsShowTheirStateAndOurRenewals) {
  const Json hosts = Json::parse(R"([
    {"host_id": 1, "host": "kvm1", "generation": 3, "state": "live", "unchanged_seconds": 0.4,
     "dead_in_seconds": 39.6, "io_timeout_seconds": 5, "this": true,
     "renewals": {"last_seconds_ago": 4.2, "last_read_seconds": 0.0012,
                  "last_write_seconds": 0.0341, "write_seconds_max": 0.251, "count": 100,
                  "failures": 2, "history": []}},
    {"host_id": 2, "host": "kvm2", "generation": 1, "state": "failing", "unchanged_seconds": 17.4,
     "dead_in_seconds": 22.6, "io_timeout_seconds": 5, "this": false, "renewals": null}])");
  EXPECT_EQ(
      host_table(hosts),
      "HOST         ID  STATE    GENERATION    RENEWED  DEAD IN    N    READ  WRITE  WRITE MAX  "
      "FAILURES\n"
      "kvm1 (this)   1  live              3  4.2 s ago        -  5 s  1.2 ms  34 ms     251 ms     "
      " "
      "   2\n"
      "kvm2          2  failing           1   17 s ago     23 s  5 s       -      -          -     "
      " "
      "   -\n");
}

TEST(LeaseOutputTest, AnswersAreSentences) {
  EXPECT_EQ(hand_over_text(Json::parse(R"({"pool": "vms", "volume": "web", "seconds": 0.0421})")),
            "Volume vms/web is free for the host that attaches it next (42 ms)\n");
  EXPECT_EQ(broken_text(Json{{"pool", "vms"}, {"volume", "db"}, {"was", example_leases()[1]}}),
            "The lease of vms/db is free; host kvm2, which is dead, had it in epoch 2\n");
}

Json with_lease(Json lease) {
  Json volume = {{"pool", "vms"}, {"name", "web"}, {"state", "serving"}};
  volume["attachment"] = {{"protocol", "nbd"}, {"mode", "exclusive"}, {"lease", std::move(lease)}};
  return volume;
}

TEST(LeaseOutputTest, ALeaseThatIsHeldIsNotWorthAWord) {
  const Json volume = with_lease({{"state", "held"}, {"epoch", 7}});
  EXPECT_EQ(lease_state(volume), "");
  EXPECT_EQ(lease_note(volume), "");
  EXPECT_EQ(lease_state(Json::object()), "");
  EXPECT_TRUE(has(volume_details(volume), "lease:        held, epoch 7\n"));
  EXPECT_TRUE(has(volume_details(volume), "mode:         exclusive\n"));
}

TEST(LeaseOutputTest, StatusShowsLeasesThatAreNotHeld) {
  const auto shown = [](Json lease) {
    const Json status = {{"daemon", {{"state_saved", true}}},
                         {"volumes", Json::array({with_lease(std::move(lease))})}};
    return status_text(status);
  };
  const std::string waiting =
      shown({{"state", "waiting"}, {"holder", "kvm2 (failing)"}, {"take_over_in_seconds", 22.6}});
  EXPECT_TRUE(has(waiting, "waits for its lease")) << waiting;
  EXPECT_TRUE(
      has(waiting, "Volume vms/web waits for host kvm2 (failing): it may be taken over in 23 s"))
      << waiting;
  const std::string expired = shown({{"state", "expired"}});
  EXPECT_TRUE(has(expired, "held: lease expired")) << expired;
  EXPECT_TRUE(has(expired, "could not renew in time")) << expired;
  const std::string fenced = shown({{"state", "fenced"}, {"holder", "kvm2"}});
  EXPECT_TRUE(has(fenced, "was taken over by host kvm2")) << fenced;
  const std::string over = shown({{"state", "handed-over"}, {"holder", "kvm2"}});
  EXPECT_TRUE(has(over, "was handed over to host kvm2; detach it here")) << over;
}

TEST(LeaseOutputTest, APoolSaysHowThisHostIsInIt) {
  Json pool = {{"name", "vms"}, {"leases", Json::parse(R"({
    "io_timeout_seconds": 5, "watchdog_seconds": 60, "host_id": 1, "host": "kvm1", "generation": 3,
    "state": "live", "renewals": {"last_seconds_ago": 4.2, "last_read_seconds": 0.0012,
    "last_write_seconds": 0.0341, "write_seconds_max": 0.251, "count": 100, "failures": 2,
    "history": []}})")}};
  const std::string text = pool_details(pool);
  EXPECT_TRUE(has(text, "I/O timeout 5.0 s, watchdog 1 min 0 s")) << text;
  EXPECT_TRUE(has(text, "kvm1, id 1, generation 3, live")) << text;
  EXPECT_TRUE(has(text, "4.2 s ago: read 1.2 ms, write 34 ms (max 251 ms); 2 of 100 failed"))
      << text;
  EXPECT_EQ(host_lease_note(pool), "");
  pool["leases"]["state"] = "failing";
  EXPECT_EQ(host_lease_note(pool), "this host last renewed its lease in it 4.2 s ago (failing)");
  EXPECT_EQ(host_lease_note(Json{{"name", "local"}, {"leases", nullptr}}), "");
}

TEST(LeaseOutputTest, MissingMembersAreShownAsUnknown) {
  for (const char* text : {"{}", "null", "[]", "[{}]", R"([{"held": true}])"}) {
    const Json answer = Json::parse(text);
    EXPECT_FALSE(lease_table(answer).empty()) << text;
    EXPECT_FALSE(host_table(answer).empty()) << text;
    EXPECT_FALSE(lease_details(answer).empty()) << text;
    EXPECT_FALSE(hand_over_text(answer).empty()) << text;
    EXPECT_FALSE(broken_text(answer).empty()) << text;
  }
}

}  // namespace
}  // namespace holdfast
