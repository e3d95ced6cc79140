// SPDX-License-Identifier: Apache-2.0
//
// Members of the daemon's answers as text for people. Everything tolerates members that are missing
// or of another type, as a newer daemon may speak.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

namespace holdfast {

using Json = nlohmann::ordered_json;

inline constexpr const char* kUnknown = "-";

const Json& member(const Json& object, const char* key);   // null: absent
std::string text_of(const Json& object, const char* key);  // empty: absent or null
double seconds_of(const Json& object, const char* key);    // 0: absent
bool flag_of(const Json& object, const char* key);

// The next ones give kUnknown where there is nothing.
std::string bytes_of(const Json& object, const char* key);
std::string count_of(const Json& object, const char* key);
std::string number_of(const Json& object, const char* key);
std::string time_of(const Json& object, const char* key);      // unix seconds
std::string duration_of(const Json& object, const char* key);  // seconds
std::string or_unknown(std::string text);

// Lines of "name:  value".
class Details {
 public:
  void add(const std::string& name, const std::string& value);
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

}  // namespace holdfast
