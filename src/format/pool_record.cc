// SPDX-License-Identifier: Apache-2.0
#include "format/pool_record.h"

#include <array>
#include <bit>

#include "base/bytes.h"
#include "base/limits.h"
#include "base/units.h"
#include "format/sealed_block.h"

namespace holdfast::format {
namespace {

constexpr std::uint32_t kSharedFlag = 1;
constexpr std::uint32_t kThickFlag = 1;
constexpr std::uint64_t kKnownReadOnlyCompatibleFeatures = 0;
constexpr std::uint64_t kKnownIncompatibleFeatures = kFeatureLeases;

// By bit. Names only: what this program can do says the mask above.
constexpr std::array<std::string_view, 2> kIncompatibleFeatureNames = {
    "leases",       // shared pools
    "relocations",  // segments of a moving cleaner
};

Error corrupt(std::string_view what, std::string_view why) {
  return Error(ErrorCode::corrupt, std::string(what) + " is damaged: " + std::string(why) +
                                       "; restore it from a backup of the pool");
}

Error newer_version(std::string_view what, std::uint32_t version, std::uint32_t known) {
  return Error(ErrorCode::unsupported, std::string(what) + " has format version " +
                                           std::to_string(version) +
                                           ", and this program knows versions up to " +
                                           std::to_string(known) + "; use a newer holdfastd");
}

std::string names_of(std::uint64_t bits) {
  std::string names;
  for (; bits != 0; bits &= bits - 1) {
    if (!names.empty()) names += ", ";
    names += incompatible_feature_name(static_cast<unsigned>(std::countr_zero(bits)));
  }
  return names;
}

Result<void> check_features(const PoolRecord& record) {
  const std::string version = " (pool format version " + std::to_string(kPoolFormatVersion) + ")";
  if (const std::uint64_t unknown = record.incompatible_features & ~kKnownIncompatibleFeatures) {
    return Error(ErrorCode::unsupported, "the pool uses the incompatible feature " +
                                             names_of(unknown) + version +
                                             ", which this program does not know; use a newer "
                                             "holdfastd");
  }
  if (const std::uint64_t unknown =
          record.read_only_compatible_features & ~kKnownReadOnlyCompatibleFeatures) {
    const auto bit = static_cast<unsigned>(std::countr_zero(unknown));
    return Error(ErrorCode::unsupported, "the pool uses the feature bit " + std::to_string(bit) +
                                             version +
                                             ", with which this program must not write to it; use "
                                             "a newer holdfastd");
  }
  return {};
}

bool are_possible(const LeaseTimes& times) {
  return times.io_timeout_seconds >= limits::kLeaseIoTimeoutSecondsMin &&
         times.io_timeout_seconds <= limits::kLeaseIoTimeoutSecondsMax &&
         times.watchdog_seconds <= limits::kLeaseWatchdogSecondsMax;
}

}  // namespace

std::string incompatible_feature_name(unsigned bit) {
  if (bit < kIncompatibleFeatureNames.size()) return std::string(kIncompatibleFeatureNames[bit]);
  return "bit " + std::to_string(bit);
}

std::vector<std::byte> encode_pool_record(const PoolRecord& record) {
  std::vector<std::byte> bytes(kBlockBytes);
  ByteWriter out(bytes);
  out.put_zeros(kSealBytes);
  out.put<std::uint32_t>(kPoolFormatVersion);
  out.put<std::uint32_t>(record.shared ? kSharedFlag : 0);
  out.put_bytes(record.id.bytes);
  out.put<std::uint64_t>(record.segment_bytes);
  out.put<std::uint64_t>(static_cast<std::uint64_t>(record.created.unix_seconds));
  out.put<std::uint64_t>(record.compatible_features);
  out.put<std::uint64_t>(record.read_only_compatible_features);
  const std::uint64_t leases = record.shared ? kFeatureLeases : 0;
  out.put<std::uint64_t>((record.incompatible_features & ~kFeatureLeases) | leases);
  if (record.shared) {
    out.put<std::uint16_t>(record.lease_times.io_timeout_seconds);
    out.put<std::uint16_t>(record.lease_times.watchdog_seconds);
  }
  out.fill_rest_with_zeros();
  seal_block(bytes, kPoolRecordMagic);
  return bytes;
}

Result<PoolRecord> decode_pool_record(std::span<const std::byte> bytes) {
  static constexpr std::string_view kWhat = "the pool record";
  if (bytes.size() != kBlockBytes || !check_sealed_block(bytes, kPoolRecordMagic)) {
    return corrupt(kWhat, "its checksum does not match");
  }
  ByteReader in(bytes.subspan(kSealBytes));
  const auto version = in.get<std::uint32_t>();
  if (version > kPoolFormatVersion) return newer_version(kWhat, version, kPoolFormatVersion);
  const auto flags = in.get<std::uint32_t>();
  PoolRecord record;
  record.shared = (flags & kSharedFlag) != 0;
  in.get_bytes(record.id.bytes);
  record.segment_bytes = in.get<std::uint64_t>();
  record.created.unix_seconds = static_cast<std::int64_t>(in.get<std::uint64_t>());
  record.compatible_features = in.get<std::uint64_t>();
  record.read_only_compatible_features = in.get<std::uint64_t>();
  record.incompatible_features = in.get<std::uint64_t>();
  // Before all else: a feature may give meaning to bytes that are reserved here.
  TRY(check_features(record));
  const bool has_leases = (record.incompatible_features & kFeatureLeases) != 0;
  if (has_leases) {
    record.lease_times.io_timeout_seconds = in.get<std::uint16_t>();
    record.lease_times.watchdog_seconds = in.get<std::uint16_t>();
  }
  in.expect_zeros(in.remaining());
  if (!in.ok() || (flags & ~kSharedFlag) != 0) return corrupt(kWhat, "reserved bytes are not zero");
  if (version == 0 || record.id.is_nil() || record.segment_bytes < limits::kSegmentBytesMin ||
      record.segment_bytes > limits::kSegmentBytesMax || record.segment_bytes % kBlockBytes != 0) {
    return corrupt(kWhat, "its fields are out of range");
  }
  if (record.shared != has_leases) {
    return corrupt(kWhat, "it is shared without leases, or has leases without being shared");
  }
  if (has_leases && !are_possible(record.lease_times)) {
    return corrupt(kWhat, "the times of its leases are out of range");
  }
  return record;
}

std::vector<std::byte> encode_volume_record(const StoredVolumeRecord& record) {
  std::vector<std::byte> bytes(kBlockBytes);
  ByteWriter out(bytes);
  out.put_zeros(kSealBytes);
  out.put<std::uint32_t>(kVolumeRecordVersion);
  out.put<std::uint32_t>(record.thick ? kThickFlag : 0);
  out.put_bytes(record.id.bytes);
  out.put<std::uint64_t>(static_cast<std::uint64_t>(record.created.unix_seconds));
  out.put_text(record.name, kVolumeNameFieldBytes);
  out.fill_rest_with_zeros();
  seal_block(bytes, kVolumeRecordMagic);
  return bytes;
}

Result<StoredVolumeRecord> decode_volume_record(std::span<const std::byte> bytes) {
  static constexpr std::string_view kWhat = "the volume record";
  if (bytes.size() != kBlockBytes || !check_sealed_block(bytes, kVolumeRecordMagic)) {
    return corrupt(kWhat, "its checksum does not match");
  }
  ByteReader in(bytes.subspan(kSealBytes));
  const auto version = in.get<std::uint32_t>();
  if (version > kVolumeRecordVersion) return newer_version(kWhat, version, kVolumeRecordVersion);
  const auto flags = in.get<std::uint32_t>();
  StoredVolumeRecord record;
  record.thick = (flags & kThickFlag) != 0;
  in.get_bytes(record.id.bytes);
  record.created.unix_seconds = static_cast<std::int64_t>(in.get<std::uint64_t>());
  record.name = in.get_text(kVolumeNameFieldBytes);
  in.expect_zeros(in.remaining());
  if (!in.ok() || (flags & ~kThickFlag) != 0) return corrupt(kWhat, "reserved bytes are not zero");
  if (version == 0 || record.id.is_nil() || record.name.empty() ||
      record.name.size() > limits::kNameBytesMax) {
    return corrupt(kWhat, "its fields are out of range");
  }
  return record;
}

}  // namespace holdfast::format
