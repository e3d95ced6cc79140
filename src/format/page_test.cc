// SPDX-License-Identifier: Apache-2.0
#include "format/page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "format/testing_golden.h"

namespace holdfast::format {
namespace {

PageIdentity map_leaf_identity() {
  return {golden_volume(), Epoch{3}, SegmentNumber{4}, 5, ArrayKind::map, 0, 0x0102030405};
}
PageIdentity map_inner_identity() {
  return {golden_volume(), Epoch{8}, SegmentNumber{9}, 10, ArrayKind::map, 2, 11};
}
PageIdentity segment_leaf_identity() {
  return {golden_volume(), Epoch{12}, SegmentNumber{13}, 14, ArrayKind::segment_table, 0, 15};
}

constexpr std::uint64_t place(std::uint64_t segment, std::uint32_t block) {
  return BlockLocation::at(SegmentNumber{segment}, block).raw;
}

TEST(PageTest, AnIntactPageNamesItself) {
  const auto leaf = page_name(golden_block("page_map_leaf"));
  ASSERT_TRUE(leaf.has_value());
  EXPECT_EQ(leaf->array, ArrayKind::map);
  EXPECT_EQ(leaf->level, 0);
  EXPECT_EQ(leaf->index, 0x0102030405u);
  const auto table = page_name(golden_block("page_segment_leaf"));
  ASSERT_TRUE(table.has_value());
  EXPECT_EQ(table->array, ArrayKind::segment_table);
  auto damaged = golden_block("page_map_leaf");
  damaged[100] ^= std::byte{1};
  EXPECT_FALSE(page_name(damaged).has_value());
  EXPECT_FALSE(page_name(golden_block("record")).has_value());
}

TEST(PageTest, TheBytesOfAMapLeafNeverChange) {
  Bytes page(kBlockBytes);
  store_map_entry(map_entry_at(page.data(), 1), {BlockLocation::zero(), 0});
  store_map_entry(map_entry_at(page.data(), 2), {BlockLocation{place(7, 9)}, 0xdeadbeef});
  store_map_entry(map_entry_at(page.data(), 335),
                  {BlockLocation{place((std::uint64_t{1} << 40) - 1, (1u << 24) - 1)}, 1});
  seal_page(page, map_leaf_identity());
  const Bytes golden = golden_block("page_map_leaf");
  EXPECT_EQ(first_difference(page, golden), -1);
  EXPECT_TRUE(check_page(golden, map_leaf_identity()));
  const MapEntry entry = load_map_entry(golden.data() + kPageHeaderBytes + 2 * kMapEntryBytes);
  EXPECT_EQ(entry.location.raw, place(7, 9));
  EXPECT_EQ(entry.checksum, 0xdeadbeefu);
}

TEST(PageTest, TheBytesOfAnInnerPageNeverChange) {
  Bytes page(kBlockBytes);
  store_little(child_at(page.data(), 0), place(3, 4));
  store_little(child_at(page.data(), 503), place(5, 6));
  seal_page(page, map_inner_identity());
  const Bytes golden = golden_block("page_map_inner");
  EXPECT_EQ(first_difference(page, golden), -1);
  EXPECT_TRUE(check_page(golden, map_inner_identity()));
}

TEST(PageTest, TheBytesOfASegmentTableLeafNeverChange) {
  Bytes page(kBlockBytes);
  const SegmentEntry sealed{Epoch{1}, 10, 256, SegmentStream::main, SegmentState::sealed, {}};
  const SegmentEntry open{Epoch{0x0102030405060708}, 1u << 24, 0, SegmentStream::pages,
                          SegmentState::open, {}};
  const SegmentEntry last{Epoch{2}, 0, 1u << 24, SegmentStream::main, SegmentState::open, {}};
  store_segment_entry(segment_entry_at(page.data(), 1), sealed);
  store_segment_entry(segment_entry_at(page.data(), 2), open);
  store_segment_entry(segment_entry_at(page.data(), 125), last);
  seal_page(page, segment_leaf_identity());
  const Bytes golden = golden_block("page_segment_leaf");
  EXPECT_EQ(first_difference(page, golden), -1);
  EXPECT_TRUE(check_page(golden, segment_leaf_identity()));
  const SegmentEntry back = load_segment_entry(segment_entry_at(page.data(), 2));
  EXPECT_EQ(back.epoch, open.epoch);
  EXPECT_EQ(back.live_blocks, open.live_blocks);
  EXPECT_EQ(back.used_blocks, 0u);
  EXPECT_EQ(back.stream, SegmentStream::pages);
  EXPECT_EQ(back.state, SegmentState::open);
}

TEST(PageTest, EveryFlippedBitIsRefused) {
  expect_every_flip_refused(golden_block("page_map_leaf"), [](const Bytes& bytes) {
    return !check_page(bytes, map_leaf_identity());
  });
  expect_every_flip_refused(golden_block("page_map_inner"), [](const Bytes& bytes) {
    return !check_page(bytes, map_inner_identity());
  });
  expect_every_flip_refused(golden_block("page_segment_leaf"), [](const Bytes& bytes) {
    return !check_page(bytes, segment_leaf_identity());
  });
}

TEST(PageTest, APageIsTakenForNoOther) {
  const Bytes golden = golden_block("page_map_leaf");
  const auto refused = [&](auto change) {
    PageIdentity other = map_leaf_identity();
    change(other);
    return !check_page(golden, other);
  };
  EXPECT_TRUE(refused([](PageIdentity& it) { it.volume.bytes[15] ^= std::byte{1}; }));
  EXPECT_TRUE(refused([](PageIdentity& it) { ++it.epoch.value; }));
  EXPECT_TRUE(refused([](PageIdentity& it) { ++it.segment.value; }));
  EXPECT_TRUE(refused([](PageIdentity& it) { ++it.block_index; }));
  EXPECT_TRUE(refused([](PageIdentity& it) { it.array = ArrayKind::segment_table; }));
  EXPECT_TRUE(refused([](PageIdentity& it) { it.level = 1; }));
  EXPECT_TRUE(refused([](PageIdentity& it) { ++it.index; }));
}

TEST(PageTest, HeaderFieldsOutOfRangeAreRefusedAlsoWithAGoodChecksum) {
  const Bytes good = golden_block("page_map_leaf");
  const auto refused = [](const Bytes& bytes) { return !check_page(bytes, map_leaf_identity()); };
  EXPECT_TRUE(refused(with<std::uint16_t>(good, 8, 0))) << "version";
  EXPECT_TRUE(refused(with<std::uint16_t>(good, 8, 2))) << "version";
  for (const std::size_t reserved : {12u, 15u, 52u, 55u}) {
    EXPECT_TRUE(refused(with<std::uint8_t>(good, reserved, 1))) << reserved;
  }
}

TEST(PageTest, MapEntriesOutOfRangeAreRefusedAlsoWithAGoodChecksum) {
  const Bytes good = golden_block("page_map_leaf");
  const auto refused = [](const Bytes& bytes) { return !check_page(bytes, map_leaf_identity()); };
  for (const std::uint32_t slot : {0u, 100u, 335u}) {
    const std::size_t at = kPageHeaderBytes + slot * kMapEntryBytes;
    for (const std::uint64_t raw : {2u, 0xffffffu}) {
      EXPECT_TRUE(refused(with<std::uint64_t>(good, at, raw))) << slot << " " << raw;
    }
  }
  EXPECT_TRUE(refused(with<std::uint32_t>(good, kPageHeaderBytes + 8, 1)))
      << "a hole has no checksum";
  EXPECT_TRUE(refused(with<std::uint32_t>(good, kPageHeaderBytes + 12 + 8, 1)))
      << "a zero block has none either";
}

TEST(PageTest, ChildrenThatAreNoPlaceAreRefused) {
  const Bytes good = golden_block("page_map_inner");
  const auto refused = [](const Bytes& bytes) { return !check_page(bytes, map_inner_identity()); };
  for (const std::uint64_t raw : {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{0xffffff}}) {
    EXPECT_TRUE(refused(with<std::uint64_t>(good, kPageHeaderBytes + 8, raw))) << raw;
    EXPECT_TRUE(refused(with<std::uint64_t>(good, kBlockBytes - 8, raw))) << raw;
  }
  EXPECT_FALSE(refused(with<std::uint64_t>(good, kPageHeaderBytes + 8, place(1, 0))));
}

TEST(PageTest, SegmentEntriesOutOfRangeAreRefusedAlsoWithAGoodChecksum) {
  const Bytes good = golden_block("page_segment_leaf");
  const auto refused = [](const Bytes& bytes) {
    return !check_page(bytes, segment_leaf_identity());
  };
  const std::size_t absent = kPageHeaderBytes;
  const std::size_t present = kPageHeaderBytes + kSegmentEntryBytes;
  EXPECT_TRUE(refused(with<std::uint64_t>(good, present, 0))) << "an epoch";
  EXPECT_TRUE(refused(with<std::uint32_t>(good, present + 8, 1))) << "reserved";
  EXPECT_TRUE(refused(with<std::uint32_t>(good, present + 12, (1u << 24) + 1))) << "live";
  EXPECT_TRUE(refused(with<std::uint32_t>(good, present + 16, (1u << 24) + 1))) << "used";
  EXPECT_TRUE(refused(with<std::uint8_t>(good, present + 20, 0))) << "stream";
  EXPECT_TRUE(refused(with<std::uint8_t>(good, present + 20, 4))) << "stream";
  EXPECT_TRUE(refused(with<std::uint8_t>(good, present + 21, 3))) << "state";
  EXPECT_TRUE(refused(with<std::uint8_t>(good, present + 21, 0))) << "absent, with content";
  for (std::size_t reserved = 22; reserved < 24; ++reserved) {
    EXPECT_TRUE(refused(with<std::uint8_t>(good, present + reserved, 1))) << reserved;
  }
  EXPECT_TRUE(refused(with<std::uint64_t>(good, absent, 1)));
  EXPECT_TRUE(refused(with<std::uint32_t>(good, absent + 12, 1)));
  EXPECT_TRUE(refused(with<std::uint32_t>(good, absent + 16, 1)));
  EXPECT_TRUE(refused(with<std::uint8_t>(good, absent + 20, 2)));
  EXPECT_TRUE(refused(with<std::uint64_t>(good, absent + 24, 1))) << "absent, and kept";
  EXPECT_FALSE(refused(with<std::uint8_t>(good, absent + 20, 1)))
      << "the first programs wrote this into entries that had been in use";
}

TEST(PageTest, ASegmentSaysAfterWhichSnapshotItDied) {
  Bytes page(kBlockBytes);
  const SegmentEntry kept{Epoch{2},
                          0,
                          256,
                          SegmentStream::main,
                          SegmentState::sealed,
                          SnapshotNumber{0x0102030405060708}};
  store_segment_entry(segment_entry_at(page.data(), 3), kept);
  seal_page(page, segment_leaf_identity());
  EXPECT_EQ(first_difference(page, golden_block("page_segment_leaf_kept")), -1);
  ASSERT_TRUE(check_page(page, segment_leaf_identity()));
  EXPECT_EQ(load_segment_entry(segment_entry_at(page.data(), 3)).died_after, kept.died_after);
}

TEST(PageTest, APageWhoseSegmentsAreAllGoneIsEmpty) {
  Bytes page(kBlockBytes);
  EXPECT_TRUE(page_is_empty(page));
  const SegmentEntry entry{Epoch{1}, 10, 256, SegmentStream::pages, SegmentState::sealed, {}};
  store_segment_entry(segment_entry_at(page.data(), 7), entry);
  EXPECT_FALSE(page_is_empty(page));
  store_segment_entry(segment_entry_at(page.data(), 7), SegmentEntry{});
  EXPECT_TRUE(page_is_empty(page));
  seal_page(page, segment_leaf_identity());
  EXPECT_TRUE(page_is_empty(page)) << "the header does not count";
  EXPECT_TRUE(check_page(page, segment_leaf_identity()));
  page.back() = std::byte{1};
  EXPECT_FALSE(page_is_empty(page));
}

TEST(PageTest, OtherLengthsAreRefused) {
  Bytes bytes = golden_block("page_map_leaf");
  EXPECT_FALSE(check_page(std::span(bytes).first(kBlockBytes - 1), map_leaf_identity()));
  EXPECT_FALSE(check_page(std::span(bytes).first(0), map_leaf_identity()));
  bytes.resize(kBlockBytes + 1);
  EXPECT_FALSE(check_page(bytes, map_leaf_identity()));
}

TEST(PageTest, SlotsAreSideBySideAndFillThePage) {
  Bytes page(kBlockBytes);
  EXPECT_EQ(map_entry_at(page.data(), kMapEntriesPerPage), page.data() + kBlockBytes);
  EXPECT_EQ(child_at(page.data(), kChildrenPerPage), page.data() + kBlockBytes);
  EXPECT_EQ(segment_entry_at(page.data(), kSegmentEntriesPerPage), page.data() + kBlockBytes);
}

}  // namespace
}  // namespace holdfast::format
