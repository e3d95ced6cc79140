// SPDX-License-Identifier: Apache-2.0
#include "cli/json_text.h"

#include <ctime>

#include "base/units.h"
#include "cli/table.h"

namespace holdfast {

const Json& member(const Json& object, const char* key) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto at = object.find(key);
  return at == object.end() ? kNull : *at;
}

std::string bytes_of(const Json& object, const char* key) {
  const Json& value = member(object, key);
  return value.is_number() ? format_bytes(value.get<std::uint64_t>()) : kUnknown;
}

std::string count_of(const Json& object, const char* key) {
  const Json& value = member(object, key);
  return value.is_number() ? format_count(value.get<std::uint64_t>()) : kUnknown;
}

std::string number_of(const Json& object, const char* key) {
  const Json& value = member(object, key);
  return value.is_number_integer() ? std::to_string(value.get<std::uint64_t>()) : kUnknown;
}

double seconds_of(const Json& object, const char* key) {
  const Json& value = member(object, key);
  return value.is_number() ? value.get<double>() : 0;
}

bool flag_of(const Json& object, const char* key) {
  const Json& value = member(object, key);
  return value.is_boolean() && value.get<bool>();
}

std::string or_unknown(std::string text) {
  return text.empty() ? kUnknown : text;
}

std::string time_of(const Json& object, const char* key) {
  const Json& value = member(object, key);
  if (!value.is_number_integer()) return kUnknown;
  const std::time_t time = value.get<std::int64_t>();
  std::tm parts{};
  char text[32];
  if (::localtime_r(&time, &parts) == nullptr ||
      std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts) == 0) {
    return kUnknown;
  }
  return text;
}

std::string text_of(const Json& object, const char* key) {
  const Json& value = member(object, key);
  return value.is_string() ? value.get<std::string>() : std::string();
}

std::string duration_of(const Json& object, const char* key) {
  return member(object, key).is_number() ? format_seconds(seconds_of(object, key)) : kUnknown;
}

void Details::add(const std::string& name, const std::string& value) {
  text_ += name + ":" + std::string(name.size() < 12 ? 13 - name.size() : 1, ' ') + value + "\n";
}

}  // namespace holdfast
