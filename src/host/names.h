// SPDX-License-Identifier: Apache-2.0
//
// Names of pools and volumes: what is allowed, and what a person may have meant.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "pool/names.h"

namespace holdfast {

// What is attached: a volume's name, or "VOLUME@SNAPSHOT".
Result<void> check_attachable_name(std::string_view name);
// The volume's name and, of a snapshot, its name; else empty.
std::pair<std::string, std::string> split_snapshot(std::string_view name);

// What a host may be called in the leases of shared pools.
Result<void> check_host_name(std::string_view name);

// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment) that turn
// one into the other.
std::size_t edit_distance(std::string_view a, std::string_view b);

// "; did you mean 'disk1'?", or nothing when no known name is near.
std::string suggestion(std::string_view unknown, const std::vector<std::string>& known);

}  // namespace holdfast
