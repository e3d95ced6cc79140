// SPDX-License-Identifier: Apache-2.0
//
// The daemon's answers as text for people. Every function takes the JSON of one answer
// (docs/openapi.json) and tolerates missing members, as a newer daemon may speak.
#pragma once

#include <string>

#include "cli/json_text.h"

namespace holdfast {

std::string pool_table(const Json& pools);
std::string volume_table(const Json& volumes);
std::string snapshot_table(const Json& snapshots);
std::string snapshot_name(const Json& snapshot);  // POOL/VOLUME@SNAPSHOT
std::string trash_table(const Json& trash);
std::string removed_text(const Json& answer);
std::string emptied_text(const Json& answer);
std::string diff_table(const Json& diff);
std::string flatten_progress(const Json& flatten);  // without an end of line
std::string flatten_text(const Json& flatten);
std::string pool_details(const Json& pool);
std::string volume_details(const Json& volume);
std::string status_text(const Json& status);

}  // namespace holdfast
