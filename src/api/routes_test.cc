// SPDX-License-Identifier: Apache-2.0
#include "api/routes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "api/json.h"

namespace holdfast {
namespace {

nlohmann::json read_document() {
  std::ifstream stream(HOLDFAST_SOURCE_DIR "/docs/openapi.json");
  EXPECT_TRUE(stream.good());
  return nlohmann::json::parse(stream, nullptr, false);
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

TEST(OpenApiTest, DescribesExactlyTheRoutesThereAre) {
  const auto document = read_document();
  ASSERT_TRUE(document.is_object());
  std::map<std::pair<std::string, std::string>, std::string> described;
  for (const auto& [path, operations] : document.at("paths").items()) {
    for (const auto& [method, operation] : operations.items()) {
      described[{method, path}] = operation.at("summary").get<std::string>();
    }
  }
  std::map<std::pair<std::string, std::string>, std::string> served;
  for (const RouteDescription& route : describe_routes()) {
    served[{lower(route.method), std::string(route.pattern)}] = std::string(route.summary);
  }
  EXPECT_EQ(described, served);
}

TEST(OpenApiTest, EveryOperationHasItsSuccessItsErrorsAndItsParameters) {
  const auto document = read_document();
  for (const RouteDescription& route : describe_routes()) {
    const auto& operation =
        document.at("paths").at(std::string(route.pattern)).at(lower(route.method));
    const auto& responses = operation.at("responses");
    EXPECT_TRUE(responses.contains(std::to_string(route.success_status))) << route.pattern;
    EXPECT_TRUE(responses.contains("default")) << route.pattern;
    std::set<std::string> parameters;
    for (const auto& parameter : operation.value("parameters", nlohmann::json::array())) {
      if (parameter.at("in") == "path") parameters.insert(parameter.at("name").get<std::string>());
    }
    std::set<std::string> expected;
    for (const char* name : {"pool", "volume", "snapshot", "transfer"}) {
      if (route.pattern.find("{" + std::string(name) + "}") != std::string_view::npos)
        expected.insert(name);
    }
    EXPECT_EQ(parameters, expected) << route.pattern;
  }
}

std::set<std::string> members(const nlohmann::json& schema) {
  std::set<std::string> names;
  for (const auto& [name, value] : schema.at("properties").items()) names.insert(name);
  return names;
}

std::set<std::string> members(const Json& object) {
  std::set<std::string> names;
  for (const auto& [name, value] : object.items()) names.insert(name);
  return names;
}

TEST(OpenApiTest, SchemasHaveTheMembersThatAreSent) {
  const auto document = read_document();
  const auto& schemas = document.at("components").at("schemas");
  EXPECT_EQ(members(schemas.at("Pool")), members(to_json(PoolReport{})));
  VolumeReport volume;
  volume.attachment = AttachmentReport{};
  volume.hold = HoldReport{};
  volume.counters = VolumeCounters{};
  const Json json = to_json(volume);
  EXPECT_EQ(members(schemas.at("Volume")), members(json));
  EXPECT_EQ(members(schemas.at("Attachment")), members(json.at("attachment")));
  EXPECT_EQ(members(schemas.at("Hold")), members(json.at("hold")));
  EXPECT_EQ(members(schemas.at("Statistics")), members(json.at("statistics")));
  EXPECT_EQ(members(schemas.at("Attached")), members(to_json(AttachAnswer{})));
  EXPECT_EQ(members(schemas.at("Transfer")), members(to_json(TransferAnswer{})));
  EXPECT_EQ(members(schemas.at("Snapshot")), members(to_json(SnapshotReport{})));
  EXPECT_EQ(members(schemas.at("Trashed")), members(to_json(TrashReport{})));
  EXPECT_EQ(members(schemas.at("VolumeRemoved")), members(to_json(RemoveAnswer{})));
  EXPECT_EQ(members(schemas.at("TrashEmptied")), members(to_json(EmptyTrashAnswer{})));
  EXPECT_EQ(members(schemas.at("Lease")), members(to_json(LeaseReport{})));
  EXPECT_EQ(members(schemas.at("HandedOver")), members(to_json(HandOverAnswer{})));
  PoolHostReport host;
  host.renewals = Renewals{};
  host.renewals->history.push_back({});
  const Json host_json = to_json(host);
  EXPECT_EQ(members(schemas.at("PoolHost")), members(host_json));
  const Json& renewals = host_json.at("renewals");
  EXPECT_EQ(members(schemas.at("Renewals")), members(renewals));
  EXPECT_EQ(members(schemas.at("Renewals").at("properties").at("history").at("items")),
            members(renewals.at("history")[0]));
  volume.attachment->lease = OwnershipReport{};
  EXPECT_EQ(members(schemas.at("Ownership")), members(to_json(volume)["attachment"]["lease"]));
  PoolReport pool;
  pool.leases = PoolReport::Leases{};
  EXPECT_EQ(members(schemas.at("PoolLeases")), members(to_json(pool).at("leases")));
}

TEST(OpenApiTest, EveryReferenceLeadsSomewhere) {
  const auto document = read_document();
  const std::string text = document.dump();
  const std::string prefix = "#/components/schemas/";
  std::size_t count = 0;
  for (std::size_t at = text.find(prefix); at != std::string::npos;
       at = text.find(prefix, at + 1)) {
    const std::size_t start = at + prefix.size();
    const std::string name = text.substr(start, text.find('"', start) - start);
    EXPECT_TRUE(document.at("components").at("schemas").contains(name)) << name;
    ++count;
  }
  EXPECT_GT(count, 20u);
}

TEST(ErrorAnswerTest, CarriesCodeMessageAndStatus) {
  const ApiAnswer answer = error_answer(Error(ErrorCode::not_found, "no volume 'vms/\xff\n'"));
  EXPECT_EQ(answer.status, 404);
  const auto json = nlohmann::json::parse(answer.body, nullptr, false);
  ASSERT_TRUE(json.is_object()) << answer.body;
  EXPECT_EQ(json["error"]["code"], "not-found");
  EXPECT_EQ(error_answer(Error(ErrorCode::busy, "")).status, 409);
  EXPECT_EQ(error_answer(Error(ErrorCode::no_space, "")).status, 507);
}

TEST(ErrorAnswerTest, OfALeaseThatIsHeldSaysWhoHasIt) {
  LeaseReport lease;
  lease.host = "kvm2";
  lease.host_id = 2;
  lease.holder_state = LeaseHolderState::failing;
  lease.last_renewal_age = 17s;
  lease.take_over_in = 22'500ms;
  const Error error(ErrorCode::lease_held, "it is another's");
  const ApiAnswer answer = lease_held_answer(error, lease);
  EXPECT_EQ(answer.status, 409);
  const auto json = nlohmann::json::parse(answer.body, nullptr, false);
  ASSERT_TRUE(json.is_object()) << answer.body;
  EXPECT_EQ(json["error"]["code"], "lease-held");
  EXPECT_EQ(json["error"]["message"], "it is another's");
  const auto expected = nlohmann::json::parse(
      R"({"host": "kvm2", "host_id": 2, "state": "failing",
          "last_renewal_seconds_ago": 17.0, "take_over_in_seconds": 22.5})");
  EXPECT_EQ(json["error"]["details"], expected);
  lease.take_over_in.reset();
  EXPECT_NE(lease_held_answer(error, lease).body.find("\"take_over_in_seconds\": null"),
            std::string::npos);
  EXPECT_EQ(error_answer(error).body.find("details"), std::string::npos);
  const auto document = read_document();
  const auto& schema = document["components"]["schemas"]["Error"]["properties"]["error"];
  EXPECT_EQ(members(schema.at("properties").at("details")),
            members(Json(json["error"]["details"])));
  const auto& codes = schema["properties"]["code"]["enum"];
  EXPECT_NE(std::find(codes.begin(), codes.end(), "lease-held"), codes.end());
}

TEST(JsonTest, OfALeaseThatNobodyEverHadNamesNoHost) {
  LeaseReport lease;
  lease.volume = {"vms", "web"};
  Json json = to_json(lease);
  EXPECT_TRUE(json["host_id"].is_null());
  EXPECT_TRUE(json["host"].is_null());
  EXPECT_EQ(json["mode"], "free");
  EXPECT_EQ(json["holder_state"], "free");
  lease.host_id = 3;
  lease.generation = 2;
  lease.since = WallTime{1'700'000'000};
  lease.last_renewal_age = 1500ms;
  json = to_json(lease);
  EXPECT_EQ(json["host_id"], 3);
  EXPECT_EQ(json["generation"], 2);
  EXPECT_EQ(json["since_unix_seconds"], 1'700'000'000);
  EXPECT_EQ(json["last_renewal_seconds_ago"], 1.5);
}

TEST(BodyReaderTest, RefusesWhatDoesNotFitWithItsMember) {
  const auto message = [](std::string_view text) {
    const auto body = BodyReader::parse(text, {"name", "size_bytes", "force"});
    if (!body.ok()) return body.error().message();
    const auto name = body->text("name");
    if (!name.ok()) return name.error().message();
    const auto size = body->number("size_bytes");
    if (!size.ok()) return size.error().message();
    const auto force = body->flag_or("force", false);
    return force.ok() ? std::string("fine") : force.error().message();
  };
  EXPECT_EQ(message(R"({"name": "a", "size_bytes": 5, "force": true})"), "fine");
  EXPECT_EQ(message(R"({"name": "a", "size_bytes": 5})"), "fine");
  EXPECT_NE(message("").find("'name' is missing"), std::string::npos);
  EXPECT_NE(message("[]").find("must be a JSON object"), std::string::npos);
  EXPECT_NE(message("{").find("is not JSON"), std::string::npos);
  EXPECT_NE(message(std::string(100'000, '[')).find("is not JSON"), std::string::npos);
  EXPECT_NE(message(R"({"nmae": "a"})").find("unknown member 'nmae'"), std::string::npos);
  EXPECT_NE(message(R"({"name": 5})").find("'name' must be a string"), std::string::npos);
  EXPECT_NE(message(R"({"name": "a", "size_bytes": -5})").find("'size_bytes' must be"),
            std::string::npos);
  EXPECT_NE(message(R"({"name": "a", "size_bytes": 1.5})").find("'size_bytes' must be"),
            std::string::npos);
  EXPECT_NE(message(R"({"name": "a", "size_bytes": 1e30})").find("'size_bytes' must be"),
            std::string::npos);
  EXPECT_NE(message(R"({"name": "a", "size_bytes": 1, "force": 1})").find("'force' must be"),
            std::string::npos);
}

}  // namespace
}  // namespace holdfast
