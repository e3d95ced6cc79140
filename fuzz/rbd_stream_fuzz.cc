// SPDX-License-Identifier: Apache-2.0
//
// A stream of `rbd` may hold any bytes and come in any pieces: what it is read as does not depend
// on the pieces, and lies within the image. The first byte chooses the pieces' size.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/limits.h"
#include "base/rbd_stream.h"

using namespace holdfast;  // NOLINT: a program of one file

namespace {

// Everything that was read, but for how data was cut.
std::string read_all(std::span<const std::byte> input, std::size_t piece_bytes) {
  RbdStreamReader reader;
  std::string story;
  for (;;) {
    const auto event = reader.next();
    if (!event.ok()) return story + "refused: " + event.error().message();
    const std::uint64_t end_bytes = reader.offset_bytes() + reader.length_bytes();
    switch (event.value()) {
      case RbdStreamReader::Event::need_input: {
        if (input.empty()) {
          const auto finished = reader.finish();
          HOLDFAST_ASSERT(!finished.ok());
          return story + finished.error().message();
        }
        const std::size_t taken = std::min(piece_bytes, input.size());
        reader.feed(input.first(taken));
        input = input.subspan(taken);
        break;
      }
      case RbdStreamReader::Event::diff:
        HOLDFAST_ASSERT(reader.diff().from.size() <= limits::kRbdNameBytesMax);
        HOLDFAST_ASSERT(reader.diff().to.size() <= limits::kRbdNameBytesMax);
        HOLDFAST_ASSERT(reader.diff_index() < reader.diff_count());
        story += "diff " + reader.diff().from + " " + reader.diff().to + " " +
                 std::to_string(reader.diff().size_bytes) + "\n";
        break;
      case RbdStreamReader::Event::data:
        HOLDFAST_ASSERT(end_bytes <= reader.diff().size_bytes);
        HOLDFAST_ASSERT(reader.bytes().size() == reader.length_bytes());
        for (const std::byte byte : reader.bytes()) story += static_cast<char>(byte);
        break;
      case RbdStreamReader::Event::zero:
        HOLDFAST_ASSERT(end_bytes <= reader.diff().size_bytes);
        story += "zero " + std::to_string(reader.offset_bytes()) + "\n";
        break;
      case RbdStreamReader::Event::diff_end:
        story += "end of the diff\n";
        break;
      case RbdStreamReader::Event::end:
        if (!input.empty()) {
          const std::size_t taken = std::min(piece_bytes, input.size());
          reader.feed(input.first(taken));
          input = input.subspan(taken);
          break;
        }
        HOLDFAST_ASSERT(reader.finish().ok());
        return story + "end";
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  if (bytes < 2) return 0;
  const std::span<const std::byte> input(reinterpret_cast<const std::byte*>(data) + 1, bytes - 1);
  HOLDFAST_ASSERT(read_all(input, data[0] + std::size_t{1}) == read_all(input, input.size()));
  return 0;
}
