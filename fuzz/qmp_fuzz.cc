// SPDX-License-Identifier: Apache-2.0
//
// What a monitor may send: any bytes, in any pieces. The first byte chooses the pieces' size.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/assert.h"
#include "base/limits.h"
#include "host/qmp_protocol.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  if (bytes < 2) return 0;
  const std::size_t piece_bytes = data[0] + std::size_t{1};
  std::string_view rest(reinterpret_cast<const char*>(data) + 1, bytes - 1);
  holdfast::QmpFramer framer;
  const auto check = [](std::string_view text) {
    HOLDFAST_ASSERT(text.size() <= holdfast::limits::kQmpMessageBytesMax);
    const holdfast::QmpMessage message = holdfast::parse_qmp_message(text);
    for (const std::string* shown : {&message.text, &message.status}) {
      HOLDFAST_ASSERT(shown->size() <= holdfast::limits::kQmpShownBytesMax);
      HOLDFAST_ASSERT(shown->find('\n') == std::string::npos);
    }
  };
  while (!rest.empty()) {
    if (!framer.feed(rest.substr(0, piece_bytes), check)) break;
    rest.remove_prefix(std::min(piece_bytes, rest.size()));
  }
  return 0;
}
