// SPDX-License-Identifier: Apache-2.0
//
// Text for people: aligned columns, durations.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace holdfast {

class Table {
 public:
  enum class Align { left, right };
  struct Column {
    std::string title;
    Align align = Align::left;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // As many cells as there are columns.
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }
  // Lines without trailing blanks, each with its end of line.
  std::string text() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// "0.4 s", "12 s", "3 min 20 s", "5 h 2 min", "3 d 4 h"
std::string format_seconds(double seconds);

// "0", "999", "12.3k", "4.56M": at most three digits
std::string format_count(std::uint64_t count);

}  // namespace holdfast
