// SPDX-License-Identifier: Apache-2.0
#include "format/lease_block.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "format/testing_golden.h"

namespace holdfast::format {
namespace {

constexpr LeaseGeometry kSmall{512, 1 * kMiB};
constexpr LeaseGeometry kLarge{4096, 8 * kMiB};
constexpr const char* kSpace = "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f0";

// A golden file has 4 KiB; a sector of it may be less.
Bytes golden_sector(const std::string& name, std::size_t sector_bytes) {
  Bytes bytes = golden_block(name);
  bytes.resize(sector_bytes);
  return bytes;
}

LeaseLeader golden_host() {
  LeaseLeader leader;
  leader.kind = LeaseKind::host;
  leader.hosts_max = 1;
  leader.owner_id = 1999;
  leader.owner_generation = 0x0102030405;
  leader.space_name = kSpace;
  leader.resource_name = "host-c.00c0ffee00c0ffee" + std::string(25, 'x');
  leader.timestamp = 0x0A0B0C0D;
  leader.io_timeout = 5;
  leader.write_id = 0x21;
  leader.write_generation = 0x22;
  leader.write_timestamp = 0x23;
  return leader;
}

LeaseLeader golden_volume_leader() {
  LeaseLeader leader;
  leader.kind = LeaseKind::volume;
  leader.geometry = kLarge;
  leader.short_hold = true;
  leader.hosts = 1000;
  leader.hosts_max = 2000;
  leader.owner_id = 3;
  leader.owner_generation = 0x0102030405;
  leader.lver = 0x1112131415;
  leader.space_name = kSpace;
  leader.resource_name = golden_volume().to_string();
  leader.timestamp = 0x0A0B0C0D;
  leader.write_id = 4;
  leader.write_generation = 0x22;
  leader.write_timestamp = 0x23;
  return leader;
}

LeaseBlock golden_lease_block() {
  LeaseBlock block;
  block.mbal = 0x0FA3;
  block.bal = 0x07D3;
  block.inp = 3;
  block.inp2 = 0x0102030405;
  block.inp3 = 0x0A0B0C0D;
  block.lver = 0x1112131415;
  block.released = true;
  block.shared_mode = true;
  block.shared_generation = 0x2122232425;
  return block;
}

Bytes encoded(const LeaseLeader& leader) {
  Bytes sector(leader.geometry.sector_bytes, std::byte{0xEE});
  encode_leader(leader, sector);
  return sector;
}

std::uint32_t checksum_of(const LeaseLeader& leader) {
  return load_little<std::uint32_t>(&encoded(leader)[168]);
}

// With a field changed and the checksum made right again.
template <typename T>
Bytes resummed(Bytes sector, std::size_t offset, T value, std::size_t summed = 168) {
  store_little<T>(&sector[offset], value);
  store_little(&sector[summed], lease_checksum(std::span(sector).first(summed)));
  return sector;
}

template <typename T>
std::string refusal(const Result<T>& result, ErrorCode code) {
  if (result.ok()) return "accepted";
  return result.error().code() == code ? result.error().message() : "another code";
}
std::string refusal(const Bytes& sector, LeaseKind kind, ErrorCode code = ErrorCode::corrupt) {
  return refusal(decode_leader(sector, kind), code);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(LeaseChecksumTest, GivesTheVectorsReadOffSanlock) {
  EXPECT_EQ(lease_checksum(as_bytes("123456789")), 0xE8C7BB34u);
  EXPECT_EQ(lease_checksum({}), 0xFFFFFFFEu);
}

TEST(LeaseLeaderTest, HasTheChecksumsOfRecordsThatSanlockWrote) {
  LeaseLeader host;
  host.kind = LeaseKind::host;
  host.hosts_max = 1;
  host.space_name = "LS0";
  EXPECT_EQ(checksum_of(host), 0x1AFF9EAFu);
  host.geometry = kLarge;
  EXPECT_EQ(checksum_of(host), 0x6F1B642Cu);

  LeaseLeader volume;
  volume.kind = LeaseKind::volume;
  volume.hosts = volume.hosts_max = 2000;
  volume.space_name = "LS0";
  volume.resource_name = "RES1";
  EXPECT_EQ(checksum_of(volume), 0x4A2F9523u);
  volume.geometry = kLarge;
  EXPECT_EQ(checksum_of(volume), 0x3FCB6FA0u);

  host.geometry = kSmall;
  host.owner_id = 3;
  host.owner_generation = 1;
  host.resource_name = "hostC";
  host.timestamp = 865;
  EXPECT_EQ(checksum_of(host), 0x55E9C63Au);
}

TEST(LeaseLeaderTest, EncodesAndDecodesTheGoldenBytes) {
  Bytes host = encoded(golden_host());
  LeaseHostBits bits;
  bits[0] = bits[9] = bits[1999] = true;
  encode_lease_host_bits(bits, host);
  const Bytes golden = golden_sector("lease_host", 512);
  EXPECT_EQ(first_difference(host, golden), -1);
  const auto decoded = decode_leader(golden, LeaseKind::host);
  ASSERT_TRUE(decoded.ok()) << decoded.error().message();
  EXPECT_EQ(decoded.value(), golden_host());
  EXPECT_EQ(decode_lease_host_bits(golden), bits);

  const Bytes golden_large = golden_sector("lease_volume", 4096);
  EXPECT_EQ(first_difference(encoded(golden_volume_leader()), golden_large), -1);
  const auto volume = decode_leader(golden_large, LeaseKind::volume);
  ASSERT_TRUE(volume.ok()) << volume.error().message();
  EXPECT_EQ(volume.value(), golden_volume_leader());
}

TEST(LeaseLeaderTest, RefusesEveryFlippedBitBelowItsChecksum) {
  const Bytes good = encoded(golden_host());
  for (std::size_t bit = 0; bit < std::size_t{172} * 8; ++bit) {
    Bytes bytes = good;
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    ASSERT_FALSE(decode_leader(bytes, LeaseKind::host).ok()) << "byte " << bit / 8;
  }
}

TEST(LeaseLeaderTest, DoesNotJudgeWhatReadersOfSanlockIgnore) {
  const Bytes good = encoded(golden_host());
  Bytes behind = good;
  std::fill(behind.begin() + 172, behind.end(), std::byte{0xFF});
  const auto leader = decode_leader(behind, LeaseKind::host);
  ASSERT_TRUE(leader.ok());
  EXPECT_EQ(leader->io_timeout, 0xFFFF);
  EXPECT_EQ(leader->owner_generation, golden_host().owner_generation);
  // An older minor version; unused; a flag of the future; bytes behind the end of a name.
  EXPECT_TRUE(decode_leader(resummed(good, 4, 0x00030001u), LeaseKind::host).ok());
  EXPECT_TRUE(decode_leader(resummed(good, 160, ~std::uint64_t{0}), LeaseKind::host).ok());
  EXPECT_TRUE(decode_leader(resummed(good, 8, 0x0410u), LeaseKind::host).ok());
  const auto named = decode_leader(resummed(good, 56 + 40, std::uint8_t{'x'}), LeaseKind::host);
  ASSERT_TRUE(named.ok());
  EXPECT_EQ(named->space_name, kSpace);
}

TEST(LeaseLeaderTest, SaysWhatIsWrong) {
  const Bytes host = encoded(golden_host());
  const Bytes volume = encoded(golden_volume_leader());
  EXPECT_TRUE(contains(refusal(Bytes(512), LeaseKind::host), "not initialized"));
  EXPECT_TRUE(contains(refusal(host, LeaseKind::volume), "its magic number is 0x12212010"));
  EXPECT_TRUE(contains(refusal(volume, LeaseKind::host), "its magic number is 0x06152010"));
  EXPECT_TRUE(contains(refusal(resummed(host, 0, 0x11282016u), LeaseKind::host), "magic"));
  EXPECT_TRUE(contains(refusal(resummed(host, 8, 0x20u), LeaseKind::host), "0x00000020"));
  EXPECT_TRUE(contains(refusal(resummed(host, 8, 0x30u), LeaseKind::host), "0x00000030"));
  EXPECT_TRUE(contains(refusal(resummed(host, 12, 1024u), LeaseKind::host), "1024"));
  EXPECT_TRUE(contains(refusal(resummed(host, 12, 4096u), LeaseKind::host), "these have 512"));
  EXPECT_TRUE(contains(refusal(resummed(host, 32, std::uint64_t{2001}), LeaseKind::host), "2001"));
  EXPECT_TRUE(
      contains(refusal(resummed(volume, 24, std::uint64_t{0}), LeaseKind::volume), "hosts"));
  EXPECT_TRUE(
      contains(refusal(resummed(volume, 24, std::uint64_t{1} << 40), LeaseKind::volume), "hosts"));
  EXPECT_TRUE(
      contains(refusal(resummed(host, 4, 0x00040000u), LeaseKind::host, ErrorCode::unsupported),
               "version 0x00040000"));
  EXPECT_TRUE(
      contains(refusal(resummed(volume, 4, 0x00050004u), LeaseKind::volume, ErrorCode::unsupported),
               "version 0x00050004"));
}

TEST(LeaseLeaderTest, KnowsAClearedLease) {
  LeaseLeader leader = golden_volume_leader();
  leader.is_cleared = true;
  const auto decoded = decode_leader(encoded(leader), LeaseKind::volume);
  ASSERT_TRUE(decoded.ok()) << decoded.error().message();
  EXPECT_EQ(decoded.value(), leader);
}

TEST(LeaseGeometryTest, HasTheFiveRowsOfSanlock) {
  struct Row {
    std::uint32_t sector_bytes;
    std::uint64_t align_mib;
    std::uint32_t hosts_max;
    std::uint32_t flag;
  };
  for (const Row& row : {Row{512, 1, 2000, 0x10}, Row{4096, 1, 250, 0x10}, Row{4096, 2, 500, 0x20},
                         Row{4096, 4, 1000, 0x40}, Row{4096, 8, 2000, 0x80}}) {
    const LeaseGeometry geometry{row.sector_bytes, row.align_mib * kMiB};
    EXPECT_TRUE(geometry.is_valid());
    EXPECT_EQ(geometry.hosts_max(), row.hosts_max);
    EXPECT_EQ(geometry.leader_flag(), row.flag);
    const auto parsed = LeaseGeometry::from_flags(row.flag | 1, row.sector_bytes);
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(parsed.value(), geometry);
    // The last host's places are still within the area.
    EXPECT_LE(host_lease_offset(geometry, row.hosts_max) + row.sector_bytes, geometry.align_bytes);
    EXPECT_LE(block_offset(geometry, row.hosts_max) + row.sector_bytes, geometry.align_bytes);
  }
  EXPECT_FALSE((LeaseGeometry{512, 8 * kMiB}).is_valid());
  EXPECT_EQ(LeaseGeometry::from_flags(0, 512).value(), kSmall);
  EXPECT_EQ(LeaseGeometry::from_flags(0, 4096).value(), kLarge);
  EXPECT_FALSE(LeaseGeometry::from_flags(0x80, 512).ok());
  EXPECT_FALSE(LeaseGeometry::from_flags(0, 2048).ok());
}

TEST(LeaseGeometryTest, PutsEachHostWhereSanlockDoes) {
  EXPECT_EQ(host_lease_offset(kSmall, 1), 0u);
  EXPECT_EQ(host_lease_offset(kSmall, 2000), 1'023'488u);  // as sanlock(8) says
  EXPECT_EQ(request_offset(kSmall), 512u);
  EXPECT_EQ(block_offset(kSmall, 1), 1024u);
  EXPECT_EQ(block_offset(kLarge, 3), 16384u);
}

TEST(LeaseBlockTest, HasTheChecksumsOfBlocksThatSanlockWrote) {
  LeaseBlock block;
  block.mbal = block.bal = block.inp = 3;
  block.inp2 = block.lver = 1;
  block.inp3 = 867;
  Bytes sector(512);
  encode_lease_block(block, sector);
  EXPECT_EQ(load_little<std::uint32_t>(&sector[48]), 0xF6AAEC44u);
  block.mbal = block.bal = block.inp = 1;
  block.inp3 = 1329;
  encode_lease_block(block, sector);
  EXPECT_EQ(load_little<std::uint32_t>(&sector[48]), 0xF059B4C4u);
}

TEST(LeaseBlockTest, EncodesAndDecodesTheGoldenBytes) {
  const Bytes golden = golden_sector("lease_block", 512);
  Bytes sector(512, std::byte{0xEE});
  encode_lease_block(golden_lease_block(), sector);
  EXPECT_EQ(first_difference(sector, golden), -1);
  const auto decoded = decode_lease_block(golden);
  ASSERT_TRUE(decoded.ok()) << decoded.error().message();
  EXPECT_EQ(decoded.value(), golden_lease_block());
}

TEST(LeaseBlockTest, TakesZerosForABlockThatSaysNothing) {
  const auto blank = decode_lease_block(Bytes(512));
  ASSERT_TRUE(blank.ok());
  EXPECT_EQ(blank.value(), LeaseBlock{});
  Bytes sector(512, std::byte{0xEE});
  encode_lease_block({}, sector);
  EXPECT_EQ(sector, Bytes(512));
  // Only those five fields have to be zero.
  Bytes odd(512);
  store_little<std::uint64_t>(&odd[24], 7);
  EXPECT_TRUE(decode_lease_block(odd).ok());
  for (const std::size_t offset : {0, 8, 16, 40, 48}) {
    Bytes bad(512);
    store_little<std::uint32_t>(&bad[offset], 1);
    EXPECT_TRUE(contains(refusal(decode_lease_block(bad), ErrorCode::corrupt), "checksum"));
  }
}

TEST(LeaseBlockTest, RefusesWhatIsDamagedOrNamesNoHost) {
  const Bytes good = golden_sector("lease_block", 512);
  for (std::size_t bit = 0; bit < std::size_t{52} * 8; ++bit) {
    Bytes bytes = good;
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    ASSERT_FALSE(decode_lease_block(bytes).ok()) << "byte " << bit / 8;
  }
  const Bytes stranger = resummed(good, 16, std::uint64_t{2001}, 48);
  EXPECT_TRUE(contains(refusal(decode_lease_block(stranger), ErrorCode::corrupt), "host 2001"));
  // Flags and mode have no checksum.
  Bytes released = good;
  store_little<std::uint32_t>(&released[52], 0);
  store_little<std::uint32_t>(&released[128], 0);
  const auto decoded = decode_lease_block(released);
  ASSERT_TRUE(decoded.ok());
  EXPECT_FALSE(decoded->released);
  EXPECT_FALSE(decoded->shared_mode);
}

TEST(LeaseRequestTest, EncodesAndDecodesTheGoldenBytes) {
  const LeaseRequest request{0x1112131416, LeaseRequest::kForceGraceful};
  const Bytes golden = golden_sector("lease_request", 512);
  Bytes sector(512, std::byte{0xEE});
  encode_lease_request(request, sector);
  EXPECT_EQ(first_difference(sector, golden), -1);
  EXPECT_EQ(decode_lease_request(golden).value(), request);
  EXPECT_EQ(decode_lease_request(Bytes(512)).value(), LeaseRequest{});
}

TEST(LeaseRequestTest, RefusesWhatIsNoRequest) {
  Bytes other = golden_sector("lease_request", 512);
  store_little<std::uint32_t>(&other[0], 0x12345678);
  EXPECT_TRUE(contains(refusal(decode_lease_request(other), ErrorCode::corrupt), "0x12345678"));
  store_little<std::uint32_t>(&other[0], 0);
  EXPECT_FALSE(decode_lease_request(other).ok());
  Bytes newer = golden_sector("lease_request", 512);
  store_little<std::uint32_t>(&newer[4], 0x00020001);
  EXPECT_TRUE(contains(refusal(decode_lease_request(newer), ErrorCode::unsupported), "0x00020001"));
}

TEST(LeaseAreaTest, OfHostsHasAFreeLeaseForEachAndThenZeros) {
  for (const LeaseGeometry& geometry : {kSmall, LeaseGeometry{4096, 1 * kMiB}}) {
    const Bytes area = make_host_lease_area(geometry, kSpace, 5);
    ASSERT_EQ(area.size(), geometry.align_bytes);
    const std::span<const std::byte> all(area);
    for (std::uint64_t host = 1; host <= geometry.hosts_max(); ++host) {
      const auto leader = decode_leader(
          all.subspan(host_lease_offset(geometry, host), geometry.sector_bytes), LeaseKind::host);
      ASSERT_TRUE(leader.ok()) << leader.error().message();
      EXPECT_EQ(leader->space_name, kSpace);
      EXPECT_EQ(leader->io_timeout, 5);
      EXPECT_EQ(leader->timestamp, 0u);
      EXPECT_EQ(leader->owner_id, 0u);
    }
    const auto rest = all.subspan(std::uint64_t{geometry.hosts_max()} * geometry.sector_bytes);
    EXPECT_TRUE(std::ranges::all_of(rest, [](std::byte value) { return value == std::byte{0}; }));
  }
}

TEST(LeaseAreaTest, OfAVolumeIsFreeAndAsksForNothing) {
  const Bytes area = make_volume_lease_area(kSmall, kSpace, "a-volume");
  ASSERT_EQ(area.size(), kSmall.align_bytes);
  const std::span<const std::byte> all(area);
  const auto leader = decode_leader(all.first(512), LeaseKind::volume);
  ASSERT_TRUE(leader.ok()) << leader.error().message();
  EXPECT_EQ(leader->space_name, kSpace);
  EXPECT_EQ(leader->resource_name, "a-volume");
  EXPECT_EQ(leader->hosts, 2000u);
  EXPECT_EQ(leader->timestamp, 0u);
  EXPECT_EQ(leader->lver, 0u);
  EXPECT_EQ(decode_lease_request(all.subspan(512, 512)).value(), LeaseRequest{});
  EXPECT_TRUE(std::ranges::all_of(all.subspan(1024),
                                  [](std::byte value) { return value == std::byte{0}; }));
  const Bytes few = make_volume_lease_area(kSmall, kSpace, "a-volume", 16);
  EXPECT_EQ(decode_leader(std::span(few).first(512), LeaseKind::volume)->hosts, 16u);
}

}  // namespace
}  // namespace holdfast::format
