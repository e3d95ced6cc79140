// SPDX-License-Identifier: Apache-2.0
#include "format/lease_block.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>

#include "base/bytes.h"
#include "base/crc32c.h"

namespace holdfast::format {
namespace {

constexpr std::uint32_t kHostMagic = 0x12212010;
constexpr std::uint32_t kVolumeMagic = 0x06152010;
constexpr std::uint32_t kClearedMagic = 0x11282016;
constexpr std::uint32_t kRequestMagic = 0x08292011;
// Readers match the upper half.
constexpr std::uint32_t kHostVersion = 0x00030004;
constexpr std::uint32_t kVolumeVersion = 0x00060004;
constexpr std::uint32_t kRequestVersion = 0x00010001;
constexpr std::uint32_t kMajorMask = 0xFFFF0000;

constexpr std::uint32_t kShortHoldFlag = 0x1;
constexpr std::uint32_t kGeometryFlags = 0xF0;
constexpr std::uint32_t kReleasedFlag = 0x1;
constexpr std::uint32_t kSharedModeFlag = 0x1;

constexpr std::size_t kSectorBytesMin = 512;
constexpr std::size_t kLeaderSummedBytes = 168;
constexpr std::size_t kBlockSummedBytes = 48;
constexpr std::size_t kModeOffset = 128;
constexpr std::size_t kHostBitsOffset = 256;

struct GeometryRow {
  LeaseGeometry geometry;
  std::uint32_t hosts_max;
  std::uint32_t flag;
};
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::array<GeometryRow, 5> kGeometries = {{
    {{512, 1 * kMiB}, 2000, 0x10},
    {{4096, 1 * kMiB}, 250, 0x10},
    {{4096, 2 * kMiB}, 500, 0x20},
    {{4096, 4 * kMiB}, 1000, 0x40},
    {{4096, 8 * kMiB}, 2000, 0x80},
}};
static_assert(LeaseHostBits().size() / 8 == kSectorBytesMin - kHostBitsOffset);

const GeometryRow* row_of(const LeaseGeometry& geometry) {
  for (const GeometryRow& row : kGeometries) {
    if (row.geometry == geometry) return &row;
  }
  return nullptr;
}

std::string hex(std::uint32_t value) {
  std::array<char, 16> text;
  std::snprintf(text.data(), text.size(), "0x%08X", static_cast<unsigned>(value));
  return text.data();
}

std::string name_of(LeaseKind kind) {
  return kind == LeaseKind::host ? "the host lease" : "the volume's lease";
}

Error corrupt(const std::string& what, const std::string& why) {
  return Error(ErrorCode::corrupt, what + " is damaged: " + why);
}

Error other_version(const std::string& what, std::uint32_t version, std::uint32_t known) {
  return Error(ErrorCode::unsupported, what + " has version " + hex(version) +
                                           " of sanlock's format, and this program " + "knows " +
                                           hex(known) + "; use a holdfastd that knows it");
}

// Unlike the texts of our own formats: what stands behind the first zero is nobody's concern.
std::string get_name(ByteReader& in) {
  std::array<std::byte, kLeaseNameBytes> field;
  in.get_bytes(field);
  const std::string_view text = as_text(field);
  return std::string(text.substr(0, std::min(text.find('\0'), text.size())));
}

void check_sector(std::span<const std::byte> sector) {
  HOLDFAST_ASSERT(sector.size() >= kSectorBytesMin);
}

Result<void> check_magic(std::uint32_t magic, LeaseKind expected) {
  const bool is_cleared = expected == LeaseKind::volume && magic == kClearedMagic;
  if (magic == (expected == LeaseKind::host ? kHostMagic : kVolumeMagic) || is_cleared) return {};
  if (magic == 0) return corrupt(name_of(expected), "there is none (its area is not initialized)");
  return corrupt(name_of(expected), "its magic number is " + hex(magic));
}

Result<void> check_numbers(const LeaseLeader& leader) {
  const std::uint32_t hosts_max = leader.geometry.hosts_max();
  if (leader.owner_id > hosts_max) {
    return corrupt(name_of(leader.kind), "it names host " + std::to_string(leader.owner_id) +
                                             " of at most " + std::to_string(hosts_max));
  }
  // Ballots count in steps of it.
  if (leader.hosts_max == 0 || leader.hosts_max > kLeaseHostsMax) {
    return corrupt(name_of(leader.kind),
                   "it is for " + std::to_string(leader.hosts_max) + " hosts");
  }
  return {};
}

}  // namespace

Result<LeaseGeometry> LeaseGeometry::from_flags(std::uint32_t flags, std::uint32_t sector_bytes) {
  const std::uint32_t flag = flags & kGeometryFlags;
  if (flag == 0 && sector_bytes == 512) return LeaseGeometry{512, 1 * kMiB};
  if (flag == 0 && sector_bytes == 4096) return LeaseGeometry{4096, 8 * kMiB};
  for (const GeometryRow& row : kGeometries) {
    if (row.flag == flag && row.geometry.sector_bytes == sector_bytes) return row.geometry;
  }
  return Error(ErrorCode::corrupt, "no lease area has sectors of " + std::to_string(sector_bytes) +
                                       " bytes and the flags " + hex(flags));
}

bool LeaseGeometry::is_valid() const {
  return row_of(*this) != nullptr;
}

std::uint32_t LeaseGeometry::hosts_max() const {
  HOLDFAST_ASSERT(is_valid());
  return row_of(*this)->hosts_max;
}

std::uint32_t LeaseGeometry::leader_flag() const {
  HOLDFAST_ASSERT(is_valid());
  return row_of(*this)->flag;
}

std::uint32_t lease_checksum(std::span<const std::byte> bytes) {
  // crc32c() inverts what it is given and what it returns.
  return ~crc32c(bytes, ~std::uint32_t{0xFFFFFFFE});
}

void encode_leader(const LeaseLeader& leader, std::span<std::byte> sector) {
  HOLDFAST_ASSERT(sector.size() == leader.geometry.sector_bytes);
  const bool is_host = leader.kind == LeaseKind::host;
  HOLDFAST_ASSERT(!is_host || !leader.is_cleared);
  ByteWriter out(sector);
  out.put<std::uint32_t>(is_host ? kHostMagic : leader.is_cleared ? kClearedMagic : kVolumeMagic);
  out.put<std::uint32_t>(is_host ? kHostVersion : kVolumeVersion);
  out.put<std::uint32_t>(leader.geometry.leader_flag() | (leader.short_hold ? kShortHoldFlag : 0));
  out.put<std::uint32_t>(leader.geometry.sector_bytes);
  out.put<std::uint64_t>(leader.hosts);
  out.put<std::uint64_t>(leader.hosts_max);
  out.put<std::uint64_t>(leader.owner_id);
  out.put<std::uint64_t>(leader.owner_generation);
  out.put<std::uint64_t>(leader.lver);
  out.put_text(leader.space_name, kLeaseNameBytes);
  out.put_text(leader.resource_name, kLeaseNameBytes);
  out.put<std::uint64_t>(leader.timestamp);
  out.put_zeros(8);
  out.put<std::uint32_t>(lease_checksum(sector.first(kLeaderSummedBytes)));
  out.put_zeros(2);
  out.put<std::uint16_t>(leader.io_timeout);
  out.put<std::uint64_t>(leader.write_id);
  out.put<std::uint64_t>(leader.write_generation);
  out.put<std::uint64_t>(leader.write_timestamp);
  out.fill_rest_with_zeros();
}

Result<LeaseLeader> decode_leader(std::span<const std::byte> sector, LeaseKind expected) {
  check_sector(sector);
  ByteReader in(sector);
  const auto magic = in.get<std::uint32_t>();
  TRY(check_magic(magic, expected));
  const auto version = in.get<std::uint32_t>();
  const std::uint32_t known = expected == LeaseKind::host ? kHostVersion : kVolumeVersion;
  if ((version & kMajorMask) != (known & kMajorMask)) {
    return other_version(name_of(expected), version, known);
  }
  if (load_little<std::uint32_t>(&sector[kLeaderSummedBytes]) !=
      lease_checksum(sector.first(kLeaderSummedBytes))) {
    return corrupt(name_of(expected), "its checksum does not match");
  }
  LeaseLeader leader;
  leader.kind = expected;
  leader.is_cleared = magic == kClearedMagic;
  const auto flags = in.get<std::uint32_t>();
  const auto sector_bytes = in.get<std::uint32_t>();
  auto geometry = LeaseGeometry::from_flags(flags, sector_bytes);
  if (!geometry.ok()) return corrupt(name_of(expected), geometry.error().message());
  leader.geometry = geometry.value();
  if (sector_bytes != sector.size()) {
    return corrupt(name_of(expected), "it is for sectors of " + std::to_string(sector_bytes) +
                                          " bytes, these have " + std::to_string(sector.size()));
  }
  leader.short_hold = (flags & kShortHoldFlag) != 0;
  leader.hosts = in.get<std::uint64_t>();
  leader.hosts_max = in.get<std::uint64_t>();
  leader.owner_id = in.get<std::uint64_t>();
  leader.owner_generation = in.get<std::uint64_t>();
  leader.lver = in.get<std::uint64_t>();
  leader.space_name = get_name(in);
  leader.resource_name = get_name(in);
  leader.timestamp = in.get<std::uint64_t>();
  in.get<std::uint64_t>();  // unused
  in.get<std::uint32_t>();  // the checksum
  in.get<std::uint16_t>();  // unused
  leader.io_timeout = in.get<std::uint16_t>();
  leader.write_id = in.get<std::uint64_t>();
  leader.write_generation = in.get<std::uint64_t>();
  leader.write_timestamp = in.get<std::uint64_t>();
  if (!leader.is_cleared) TRY(check_numbers(leader));
  return leader;
}

void encode_lease_block(const LeaseBlock& block, std::span<std::byte> sector) {
  check_sector(sector);
  ByteWriter out(sector);
  out.put<std::uint64_t>(block.mbal);
  out.put<std::uint64_t>(block.bal);
  out.put<std::uint64_t>(block.inp);
  out.put<std::uint64_t>(block.inp2);
  out.put<std::uint64_t>(block.inp3);
  out.put<std::uint64_t>(block.lver);
  // A block that says nothing is all zeros, as in a fresh area and in one that was erased.
  const bool is_blank = std::ranges::all_of(sector.first(kBlockSummedBytes),
                                            [](std::byte value) { return value == std::byte{0}; });
  out.put<std::uint32_t>(is_blank ? 0 : lease_checksum(sector.first(kBlockSummedBytes)));
  out.put<std::uint32_t>(block.released ? kReleasedFlag : 0);
  out.put_zeros(kModeOffset - out.position());
  out.put<std::uint32_t>(block.shared_mode ? kSharedModeFlag : 0);
  out.put_zeros(4);
  out.put<std::uint64_t>(block.shared_generation);
  out.fill_rest_with_zeros();
}

Result<LeaseBlock> decode_lease_block(std::span<const std::byte> sector) {
  static const std::string kWhat = "a host's block of the volume's lease";
  check_sector(sector);
  ByteReader in(sector);
  LeaseBlock block;
  block.mbal = in.get<std::uint64_t>();
  block.bal = in.get<std::uint64_t>();
  block.inp = in.get<std::uint64_t>();
  block.inp2 = in.get<std::uint64_t>();
  block.inp3 = in.get<std::uint64_t>();
  block.lver = in.get<std::uint64_t>();
  const auto checksum = in.get<std::uint32_t>();
  const bool is_blank =
      checksum == 0 && block.mbal == 0 && block.bal == 0 && block.inp == 0 && block.lver == 0;
  if (!is_blank && checksum != lease_checksum(sector.first(kBlockSummedBytes))) {
    return corrupt(kWhat, "its checksum does not match");
  }
  if (block.inp > kLeaseHostsMax) {
    return corrupt(kWhat, "it proposes host " + std::to_string(block.inp));
  }
  block.released = (in.get<std::uint32_t>() & kReleasedFlag) != 0;
  ByteReader mode(sector.subspan(kModeOffset));
  block.shared_mode = (mode.get<std::uint32_t>() & kSharedModeFlag) != 0;
  mode.get<std::uint32_t>();  // padding
  block.shared_generation = mode.get<std::uint64_t>();
  return block;
}

void encode_lease_request(const LeaseRequest& request, std::span<std::byte> sector) {
  check_sector(sector);
  ByteWriter out(sector);
  out.put<std::uint32_t>(kRequestMagic);
  out.put<std::uint32_t>(kRequestVersion);
  out.put<std::uint64_t>(request.lver);
  out.put<std::uint32_t>(request.force_mode);
  out.fill_rest_with_zeros();
}

Result<LeaseRequest> decode_lease_request(std::span<const std::byte> sector) {
  static const std::string kWhat = "the request in the volume's lease";
  check_sector(sector);
  ByteReader in(sector);
  const auto magic = in.get<std::uint32_t>();
  const auto version = in.get<std::uint32_t>();
  LeaseRequest request;
  request.lver = in.get<std::uint64_t>();
  request.force_mode = in.get<std::uint32_t>();
  if (magic == 0 && version == 0 && request == LeaseRequest{}) return request;
  if (magic != kRequestMagic) return corrupt(kWhat, "its magic number is " + hex(magic));
  if ((version & kMajorMask) != (kRequestVersion & kMajorMask)) {
    return other_version(kWhat, version, kRequestVersion);
  }
  return request;
}

void encode_lease_host_bits(const LeaseHostBits& bits, std::span<std::byte> sector) {
  check_sector(sector);
  for (std::size_t i = 0; i < bits.size() / 8; ++i) {
    unsigned value = 0;
    for (std::size_t bit = 0; bit < 8; ++bit) value |= unsigned{bits[i * 8 + bit]} << bit;
    sector[kHostBitsOffset + i] = static_cast<std::byte>(value);
  }
}

LeaseHostBits decode_lease_host_bits(std::span<const std::byte> sector) {
  check_sector(sector);
  // Of thousands of hosts at a time, few of which ask for anything.
  LeaseHostBits bits;
  for (std::size_t i = 0; i < bits.size(); i += 64) {
    auto word = load_little<std::uint64_t>(&sector[kHostBitsOffset + i / 8]);
    for (; word != 0; word &= word - 1) {
      bits.set(i + static_cast<std::size_t>(std::countr_zero(word)));
    }
  }
  return bits;
}

std::uint64_t host_lease_offset(const LeaseGeometry& geometry, std::uint64_t host_id) {
  HOLDFAST_ASSERT(host_id >= 1 && host_id <= geometry.hosts_max());
  return (host_id - 1) * geometry.sector_bytes;
}

std::uint64_t request_offset(const LeaseGeometry& geometry) {
  return geometry.sector_bytes;
}

std::uint64_t block_offset(const LeaseGeometry& geometry, std::uint64_t host_id) {
  HOLDFAST_ASSERT(host_id >= 1 && host_id <= geometry.hosts_max());
  return (host_id + 1) * geometry.sector_bytes;
}

LeaseLeader make_host_lease(const LeaseGeometry& geometry, std::string_view space_name,
                            std::uint16_t io_timeout) {
  LeaseLeader leader;
  leader.kind = LeaseKind::host;
  leader.geometry = geometry;
  leader.hosts_max = 1;
  leader.space_name = space_name;
  leader.io_timeout = io_timeout;
  return leader;
}

std::uint64_t lease_timestamp(BootTime now) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(now.time_since_epoch()).count();
  return static_cast<std::uint64_t>(std::max<std::int64_t>(1, seconds));
}

std::vector<std::byte> make_host_lease_area(const LeaseGeometry& geometry,
                                            std::string_view space_name, std::uint16_t io_timeout) {
  const LeaseLeader leader = make_host_lease(geometry, space_name, io_timeout);
  std::vector<std::byte> area(geometry.align_bytes);
  for (std::uint64_t host = 1; host <= geometry.hosts_max(); ++host) {
    encode_leader(
        leader, std::span(area).subspan(host_lease_offset(geometry, host), geometry.sector_bytes));
  }
  return area;
}

std::vector<std::byte> make_volume_lease_area(const LeaseGeometry& geometry,
                                              std::string_view space_name,
                                              std::string_view resource_name, std::uint64_t hosts) {
  HOLDFAST_ASSERT(hosts <= geometry.hosts_max());
  LeaseLeader leader;
  leader.kind = LeaseKind::volume;
  leader.geometry = geometry;
  leader.hosts_max = geometry.hosts_max();
  leader.hosts = hosts == 0 ? leader.hosts_max : hosts;
  leader.space_name = space_name;
  leader.resource_name = resource_name;
  std::vector<std::byte> area(geometry.align_bytes);
  encode_leader(leader, std::span(area).first(geometry.sector_bytes));
  encode_lease_request({},
                       std::span(area).subspan(request_offset(geometry), geometry.sector_bytes));
  return area;
}

}  // namespace holdfast::format
