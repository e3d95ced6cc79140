// SPDX-License-Identifier: Apache-2.0
//
// Roots, asked for under the name that they carry: what is accepted encodes to the same bytes.
#include "base/assert.h"
#include "format/root.h"
#include "fuzz/sealed_input.h"

using namespace holdfast;  // NOLINT: a program of one file

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const std::vector<std::byte> block = sealed_input(data, bytes, format::kRootMagic);
  constexpr std::size_t kIdOffset = 16;
  const std::span<const std::byte> view(block);
  ByteReader in(view.subspan(kIdOffset));
  RootId id;
  in.get_bytes(id.volume.bytes);
  id.epoch = {in.get<std::uint64_t>()};
  id.number = in.get<std::uint64_t>();
  const Result<format::Root> root = format::decode_root(block, id);
  if (root.ok()) {
    HOLDFAST_ASSERT(format::encode_root(root.value()) == block);
  } else {
    HOLDFAST_ASSERT(!root.error().message().empty());
  }
  return 0;
}
