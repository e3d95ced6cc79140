// SPDX-License-Identifier: Apache-2.0
#include "format/pool_record.h"

#include <gtest/gtest.h>

#include <string>

#include "base/bytes.h"
#include "base/units.h"
#include "format/sealed_block.h"
#include "format/testing_golden.h"

namespace holdfast::format {
namespace {

Uuid uuid(const char* text) {
  return Uuid::parse(text).value();
}

PoolRecord pool_record() {
  PoolRecord record;
  record.id = uuid("00112233-4455-4677-8899-aabbccddeeff");
  record.segment_bytes = 32 * kMiB;
  record.created = WallTime{0x0102030405};
  record.compatible_features = 0x8000000000000001;
  return record;
}

PoolRecord shared_pool_record() {
  PoolRecord record = pool_record();
  record.shared = true;
  record.lease_times = {7, 60};
  return record;
}

StoredVolumeRecord volume_record() {
  StoredVolumeRecord record;
  record.id = uuid("fedcba98-7654-4210-8123-456789abcdef");
  record.name = "vm-1.disk_0";
  record.thick = true;
  record.created = WallTime{0x66554433};
  return record;
}

std::string hex(std::span<const std::byte> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte b : bytes) {
    text += kDigits[std::to_integer<unsigned>(b) >> 4];
    text += kDigits[std::to_integer<unsigned>(b) & 15];
  }
  return text;
}

void reseal(std::vector<std::byte>& bytes) {
  seal_block(bytes, load_little<std::uint32_t>(bytes.data()));
}

TEST(PoolRecordTest, ARecordSurvivesEncodingAndDecoding) {
  const auto decoded = decode_pool_record(encode_pool_record(pool_record()));
  ASSERT_TRUE(decoded.ok()) << decoded.error().message();
  EXPECT_EQ(decoded->id, pool_record().id);
  EXPECT_EQ(decoded->segment_bytes, 32 * kMiB);
  EXPECT_EQ(decoded->created.unix_seconds, 0x0102030405);
  EXPECT_EQ(decoded->compatible_features, 0x8000000000000001);
  EXPECT_FALSE(decoded->shared);
}

TEST(PoolRecordTest, ASharedPoolHasLeasesAndTheirTimes) {
  const auto bytes = encode_pool_record(shared_pool_record());
  const auto decoded = decode_pool_record(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.error().message();
  EXPECT_TRUE(decoded->shared);
  EXPECT_EQ(decoded->lease_times, (LeaseTimes{7, 60}));
  EXPECT_EQ(decoded->incompatible_features, kFeatureLeases);
  EXPECT_EQ(encode_pool_record(decoded.value()), bytes);
  EXPECT_EQ(first_difference(bytes, golden_block("pool_record_shared")), -1);
}

TEST(PoolRecordTest, LeasesAndSharingGoTogether) {
  auto without = encode_pool_record(shared_pool_record());
  without[64] = without[72] = without[74] = std::byte{0};
  reseal(without);
  auto local = encode_pool_record(shared_pool_record());
  local[12] = std::byte{0};
  reseal(local);
  for (const auto& bytes : {without, local}) {
    const auto decoded = decode_pool_record(bytes);
    ASSERT_FALSE(decoded.ok());
    EXPECT_EQ(decoded.error().code(), ErrorCode::corrupt);
    EXPECT_NE(decoded.error().message().find("leases"), std::string::npos);
  }
}

TEST(PoolRecordTest, TimesOfLeasesHaveBounds) {
  const auto is_taken = [](LeaseTimes times) {
    PoolRecord record = shared_pool_record();
    record.lease_times = times;
    return decode_pool_record(encode_pool_record(record)).ok();
  };
  EXPECT_TRUE(is_taken({1, 0}));
  EXPECT_TRUE(is_taken({120, 3600}));
  EXPECT_FALSE(is_taken({0, 0}));
  EXPECT_FALSE(is_taken({121, 0}));
  EXPECT_FALSE(is_taken({5, 3601}));
}

TEST(PoolRecordTest, TheBytesNeverChange) {
  const auto bytes = encode_pool_record(pool_record());
  ASSERT_EQ(bytes.size(), 4096u);
  EXPECT_EQ(hex(std::span(bytes).subspan(0, 4)), "4846504c") << "HFPL";
  EXPECT_EQ(hex(std::span(bytes).subspan(8, 64)),
            "0100000000000000"                  // version, flags
            "00112233445546778899aabbccddeeff"  // id
            "0000000200000000"                  // segment bytes
            "0504030201000000"                  // created
            "0100000000000080"                  // compatible
            "00000000000000000000000000000000");
  EXPECT_EQ(hex(std::span(bytes).subspan(4, 4)), "6c7968d2");
}

TEST(VolumeRecordTest, TheBytesNeverChange) {
  const auto bytes = encode_volume_record(volume_record());
  ASSERT_EQ(bytes.size(), 4096u);
  EXPECT_EQ(hex(std::span(bytes).subspan(0, 4)), "4846564c") << "HFVL";
  EXPECT_EQ(hex(std::span(bytes).subspan(8, 48)),
            "0100000001000000"                  // version, flags
            "fedcba98765442108123456789abcdef"  // id
            "3344556600000000"                  // created
            "766d2d312e6469736b5f3000"          // name
            "00000000");
  EXPECT_EQ(hex(std::span(bytes).subspan(4, 4)), "ae71605e");
}

TEST(PoolRecordTest, EveryFlippedBitIsNoticed) {
  const auto good = encode_pool_record(pool_record());
  for (std::size_t bit = 0; bit < good.size() * 8; bit += 7) {
    auto bytes = good;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    const auto decoded = decode_pool_record(bytes);
    ASSERT_FALSE(decoded.ok()) << bit;
    EXPECT_EQ(decoded.error().code(), ErrorCode::corrupt);
  }
}

TEST(PoolRecordTest, AnUnknownIncompatibleFeatureIsRefusedByName) {
  PoolRecord record = pool_record();
  record.incompatible_features = 2 | (std::uint64_t{1} << 40);
  const auto decoded = decode_pool_record(encode_pool_record(record));
  ASSERT_FALSE(decoded.ok());
  EXPECT_EQ(decoded.error().code(), ErrorCode::unsupported);
  EXPECT_NE(decoded.error().message().find("relocations, bit 40"), std::string::npos)
      << decoded.error().message();
}

TEST(PoolRecordTest, AnUnknownReadOnlyCompatibleFeatureIsRefused) {
  PoolRecord record = pool_record();
  record.read_only_compatible_features = 1 << 5;
  const auto decoded = decode_pool_record(encode_pool_record(record));
  ASSERT_FALSE(decoded.ok());
  EXPECT_EQ(decoded.error().code(), ErrorCode::unsupported);
  EXPECT_NE(decoded.error().message().find("bit 5"), std::string::npos);
}

TEST(PoolRecordTest, ANewerVersionIsRefusedEvenWithBytesUnknownHere) {
  auto bytes = encode_pool_record(pool_record());
  store_little<std::uint32_t>(bytes.data() + 8, 7);
  bytes[4000] = std::byte{1};
  reseal(bytes);
  const auto decoded = decode_pool_record(bytes);
  ASSERT_FALSE(decoded.ok());
  EXPECT_EQ(decoded.error().code(), ErrorCode::unsupported);
  EXPECT_NE(decoded.error().message().find("version 7"), std::string::npos);
}

TEST(PoolRecordTest, ValuesOutOfRangeAreCorruptAlsoWithAGoodChecksum) {
  for (const std::size_t offset : {12u, 36u, 100u, 4095u}) {  // flags, segment bytes, reserved
    auto bytes = encode_pool_record(pool_record());
    bytes[offset] ^= std::byte{0x80};
    reseal(bytes);
    const auto decoded = decode_pool_record(bytes);
    ASSERT_FALSE(decoded.ok()) << offset;
    EXPECT_EQ(decoded.error().code(), ErrorCode::corrupt);
  }
}

TEST(PoolRecordTest, OtherLengthsAreCorrupt) {
  const auto good = encode_pool_record(pool_record());
  for (const std::size_t length : {0u, 1u, 7u, 8u, 72u, 4095u}) {
    EXPECT_FALSE(decode_pool_record(std::span(good).first(length)).ok()) << length;
    EXPECT_FALSE(decode_volume_record(std::span(good).first(length)).ok()) << length;
  }
}

TEST(VolumeRecordTest, ARecordSurvivesEncodingAndDecoding) {
  const auto decoded = decode_volume_record(encode_volume_record(volume_record()));
  ASSERT_TRUE(decoded.ok()) << decoded.error().message();
  EXPECT_EQ(decoded->id, volume_record().id);
  EXPECT_EQ(decoded->name, "vm-1.disk_0");
  EXPECT_TRUE(decoded->thick);
  EXPECT_EQ(decoded->created.unix_seconds, 0x66554433);
}

TEST(VolumeRecordTest, DamageIsNoticed) {
  auto flipped = encode_volume_record(volume_record());
  flipped[45] ^= std::byte{1};
  EXPECT_FALSE(decode_volume_record(flipped).ok());
  auto no_name = encode_volume_record(volume_record());
  std::fill(no_name.begin() + 40, no_name.begin() + 104, std::byte{0});
  reseal(no_name);
  EXPECT_FALSE(decode_volume_record(no_name).ok());
  auto behind_name = encode_volume_record(volume_record());
  behind_name[60] = std::byte{'x'};  // after the terminating zero
  reseal(behind_name);
  EXPECT_FALSE(decode_volume_record(behind_name).ok());
  EXPECT_FALSE(decode_volume_record(encode_pool_record(pool_record())).ok());
}

}  // namespace
}  // namespace holdfast::format
