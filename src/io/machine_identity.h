// SPDX-License-Identifier: Apache-2.0
//
// Who this machine is, for those that share storage with it.
#pragma once

#include <string>
#include <string_view>

namespace holdfast {

struct MachineIdentity {
  // "<short host name>.<16 hexadecimal digits>", at most 48 bytes: the digits come from the
  // machine's id (machine-id(5)) and `instance`, so that each daemon of a machine has a name of its
  // own, the same after every restart.
  std::string name;
  std::string boot_id;  // random(4); empty: not known
};

// `instance`: what tells daemons on one machine apart, such as the directory of their state.
MachineIdentity machine_identity(std::string_view instance);

}  // namespace holdfast
