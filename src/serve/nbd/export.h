// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "block/block_device.h"

namespace holdfast {

// What an NBD server shows under one name. The empty (default) name leads to it, too.
struct NbdExport {
  std::string name;
  std::string description;  // may be empty
  BlockDevice& device;      // outlives the server
  bool read_only = false;   // besides what the device says
};

inline bool is_read_only(const NbdExport& exported) {
  return exported.read_only || exported.device.info().read_only;
}

}  // namespace holdfast
