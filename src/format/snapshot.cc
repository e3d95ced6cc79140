// SPDX-License-Identifier: Apache-2.0
#include "format/snapshot.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/limits.h"
#include "base/units.h"
#include "format/sealed_block.h"

namespace holdfast::format {
namespace {

Error corrupt_snapshot(const VolumeId& volume, SnapshotNumber number, std::string_view why) {
  return Error(ErrorCode::corrupt, "snapshot " + std::to_string(number.value) + " of volume " +
                                       volume.to_string() + " is damaged: " + std::string(why));
}

}  // namespace

std::vector<std::byte> encode_snapshot(const Snapshot& snapshot) {
  HOLDFAST_ASSERT(snapshot.name.size() <= limits::kNameBytesMax);
  std::vector<std::byte> bytes(kBlockBytes);
  ByteWriter out(bytes);
  out.put_zeros(kSealBytes);
  out.put<std::uint16_t>(kSnapshotVersion);
  out.put_zeros(6);
  out.put_bytes(snapshot.root.id.volume.bytes);
  out.put<std::uint64_t>(snapshot.number.value);
  out.put<std::uint64_t>(static_cast<std::uint64_t>(snapshot.created.unix_seconds));
  out.put_text(snapshot.name, kSnapshotNameFieldBytes);
  out.put<std::uint64_t>(snapshot.root.id.epoch.value);
  out.put<std::uint64_t>(snapshot.root.id.number);
  out.fill_rest_with_zeros();
  seal_block(bytes, kSnapshotMagic);
  const std::vector<std::byte> root = encode_root(snapshot.root);
  bytes.insert(bytes.end(), root.begin(), root.end());
  return bytes;
}

Result<Snapshot> decode_snapshot(std::span<const std::byte> bytes, const VolumeId& volume,
                                 SnapshotNumber number) {
  if (bytes.size() < 2 * kBlockBytes ||
      !check_sealed_block(bytes.first(kBlockBytes), kSnapshotMagic)) {
    return corrupt_snapshot(volume, number, "its checksum does not match");
  }
  ByteReader in(bytes.first(kBlockBytes).subspan(kSealBytes));
  const auto version = in.get<std::uint16_t>();
  if (version != kSnapshotVersion) {
    return Error(ErrorCode::unsupported,
                 "snapshot " + std::to_string(number.value) + " of volume " + volume.to_string() +
                     " has format version " + std::to_string(version) +
                     "; this program knows version " + std::to_string(kSnapshotVersion) +
                     ": use the program that wrote it, or a newer one");
  }
  in.expect_zeros(6);
  Snapshot snapshot;
  VolumeId named;
  in.get_bytes(named.bytes);
  snapshot.number = {in.get<std::uint64_t>()};
  snapshot.created.unix_seconds = static_cast<std::int64_t>(in.get<std::uint64_t>());
  snapshot.name = in.get_text(kSnapshotNameFieldBytes);
  RootId root;
  root.volume = volume;
  root.epoch = {in.get<std::uint64_t>()};
  root.number = in.get<std::uint64_t>();
  in.expect_zeros(in.remaining());
  if (!in.ok()) return corrupt_snapshot(volume, number, "reserved bytes are not zero");
  if (named != volume || snapshot.number != number) {
    return corrupt_snapshot(volume, number, "it names another volume or number");
  }
  if (number.value == 0 || snapshot.name.empty() || snapshot.name.size() > limits::kNameBytesMax) {
    return corrupt_snapshot(volume, number, "its fields are out of range");
  }
  snapshot.root = TRY(decode_root(bytes.subspan(kBlockBytes), root));
  if (snapshot.root.newest_snapshot < number) {
    return corrupt_snapshot(volume, number, "its root is older than it");
  }
  return snapshot;
}

}  // namespace holdfast::format
