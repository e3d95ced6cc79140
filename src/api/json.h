// SPDX-License-Identifier: Apache-2.0
//
// The host's plain structs as JSON, and JSON from outside as checked values. docs/openapi.json
// describes the shapes. For api/*.cc only (it pulls in a heavy header).
#pragma once

#include <nlohmann/json.hpp>

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "host/commands.h"

namespace holdfast {

// Keeps the order in which members were added: the output is for people, too.
using Json = nlohmann::ordered_json;

Json to_json(const PoolReport& report);
Json to_json(const VolumeReport& report);
Json to_json(const AttachmentReport& report);
Json to_json(const SnapshotReport& report);
Json to_json(const std::vector<SnapshotReport>& reports);
Json to_json(const TrashReport& report);
Json to_json(const std::vector<TrashReport>& reports);
Json to_json(const RemoveAnswer& answer);
Json to_json(const EmptyTrashAnswer& answer);
Json to_json(const AttachAnswer& answer);
Json to_json(const DiffReport& report);
Json to_json(const TransferAnswer& answer);
Json to_json(const FlattenReport& report);
Json to_json(const LeaseReport& report);
Json to_json(const std::vector<LeaseReport>& reports);
Json to_json(const PoolHostReport& report);
Json to_json(const std::vector<PoolHostReport>& reports);
Json to_json(const HandOverAnswer& answer);
// Of an error lease-held: who has it.
Json holder_to_json(const LeaseReport& report);
Json limits_to_json();
Json text_or_null(const std::string& text);

// Whatever bytes the strings hold: what is not UTF-8 is replaced.
std::string dump(const Json& json);

// The members of a request's body. Every problem names its member; unknown members are refused.
class BodyReader {
 public:
  // Refuses what is not an object. An empty body is an empty object.
  static Result<BodyReader> parse(std::string_view text, std::initializer_list<const char*> known);

  Result<std::string> text(const char* key) const;
  Result<std::uint64_t> number(const char* key) const;
  Result<std::string> text_or(const char* key, std::string fallback) const;
  Result<std::uint64_t> number_or(const char* key, std::uint64_t fallback) const;
  // An array of objects, each with exactly these members, all strings; in their order.
  Result<std::vector<std::vector<std::string>>> texts(
      const char* key, std::initializer_list<const char*> members) const;
  Result<bool> flag(const char* key) const;
  Result<bool> flag_or(const char* key, bool fallback) const;

 private:
  explicit BodyReader(Json object) : object_(std::move(object)) {}
  Json object_;
};

}  // namespace holdfast
