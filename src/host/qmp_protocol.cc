// SPDX-License-Identifier: Apache-2.0
#include "host/qmp_protocol.h"

#include <nlohmann/json.hpp>

#include "base/limits.h"

namespace holdfast {
namespace {

using Json = nlohmann::json;

// For status and logs: no control characters, not long.
std::string shown(const Json& value) {
  if (!value.is_string()) return {};
  std::string text = value.get_ref<const std::string&>().substr(0, limits::kQmpShownBytesMax);
  for (char& c : text) {
    if (c < 0x20 || c == 0x7F) c = ' ';
  }
  return text;
}

const Json& member(const Json& object, const char* key) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto at = object.find(key);
  return at == object.end() ? kNull : *at;
}

}  // namespace

bool QmpFramer::feed(std::string_view bytes, const OnMessage& on_message) {
  for (const char c : bytes) {
    if (depth_ == 0) {
      if (c == ' ' || c == '\t' || c == '\r' || c == '\n') continue;
      if (c != '{') return false;
    }
    if (message_.size() == limits::kQmpMessageBytesMax) return false;
    message_.push_back(c);
    if (in_string_) {
      if (is_escaped_) {
        is_escaped_ = false;
      } else if (c == '\\') {
        is_escaped_ = true;
      } else if (c == '"') {
        in_string_ = false;
      }
    } else if (c == '"') {
      in_string_ = true;
    } else if (c == '{') {
      ++depth_;
    } else if (c == '}' && --depth_ == 0) {
      on_message(message_);
      message_.clear();
    }
  }
  return true;
}

QmpMessage parse_qmp_message(std::string_view text) {
  QmpMessage message;
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object()) return message;
  if (json.contains("QMP")) {
    message.kind = QmpMessage::Kind::greeting;
  } else if (json.contains("event")) {
    message.kind = QmpMessage::Kind::event;
    message.text = shown(json["event"]);
  } else if (json.contains("return")) {
    message.kind = QmpMessage::Kind::success;
    message.status = shown(member(json["return"], "status"));
  } else if (json.contains("error")) {
    message.kind = QmpMessage::Kind::failure;
    message.text = shown(member(json["error"], "desc"));
  }
  const Json& id = member(json, "id");
  if (id.is_number_unsigned()) message.id = id.get<std::uint64_t>();
  return message;
}

std::string encode_qmp_command(std::string_view name, std::uint64_t id) {
  return R"({"execute": ")" + std::string(name) + R"(", "id": )" + std::to_string(id) + "}\r\n";
}

}  // namespace holdfast
