// SPDX-License-Identifier: Apache-2.0
//
// Snapshots, asked for under the name that they carry: what is accepted encodes to the same bytes.
#include <cstring>

#include "base/assert.h"
#include "format/snapshot.h"
#include "fuzz/sealed_input.h"

using namespace holdfast;  // NOLINT: a program of one file

namespace {

constexpr std::size_t kBlocksMax = 4;

// The snapshot's block, its root, and blocks of lineage; cut off or filled up to whole blocks.
std::vector<std::byte> blocks_of(const std::uint8_t* data, std::size_t bytes) {
  if (bytes == 0) return {};
  const std::size_t length = std::min(bytes - 1, kBlocksMax * kBlockBytes);
  std::vector<std::byte> blocks(round_up(length, kBlockBytes));
  if (length != 0) std::memcpy(blocks.data(), data + 1, length);
  if ((data[0] & kReseal) == 0) return blocks;
  for (std::size_t i = 0; i * kBlockBytes < blocks.size(); ++i) {
    const std::uint32_t magic = i == 0   ? format::kSnapshotMagic
                                : i == 1 ? format::kRootMagic
                                         : format::kLineageMagic;
    format::seal_block({blocks.data() + i * kBlockBytes, kBlockBytes}, magic);
  }
  return blocks;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const std::vector<std::byte> blocks = blocks_of(data, bytes);
  VolumeId volume;
  SnapshotNumber number;
  constexpr std::size_t kIdOffset = 16;
  if (blocks.size() > kIdOffset) {
    ByteReader in(std::span<const std::byte>(blocks).subspan(kIdOffset));
    in.get_bytes(volume.bytes);
    number = {in.get<std::uint64_t>()};
  }
  const Result<format::Snapshot> snapshot = format::decode_snapshot(blocks, volume, number);
  if (snapshot.ok()) {
    HOLDFAST_ASSERT(format::encode_snapshot(snapshot.value()) == blocks);
  } else {
    HOLDFAST_ASSERT(!snapshot.error().message().empty());
  }
  return 0;
}
