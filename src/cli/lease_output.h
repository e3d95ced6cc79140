// SPDX-License-Identifier: Apache-2.0
//
// What has to do with leases, as text for people (see output.h).
#pragma once

#include <string>

#include "cli/json_text.h"

namespace holdfast {

std::string lease_table(const Json& leases);
std::string lease_details(const Json& lease);
std::string broken_text(const Json& answer);
std::string host_table(const Json& hosts);
std::string hand_over_text(const Json& answer);

// "may be taken over in 23 s"; of null: that it is not.
std::string take_over_text(const Json& take_over_in_seconds);

// Of a volume: what its lease makes of its state, and a sentence without the volume's name. Empty:
// there is nothing to say about it.
std::string lease_state(const Json& volume);
std::string lease_note(const Json& volume);
// Of a pool: what is wrong with this host's lease in it.
std::string host_lease_note(const Json& pool);

void add_ownership(Details& details, const Json& volume);
void add_pool_leases(Details& details, const Json& pool);

}  // namespace holdfast
