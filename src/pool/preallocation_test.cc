// SPDX-License-Identifier: Apache-2.0
#include "pool/preallocation.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "base/units.h"

namespace holdfast {
namespace {

TEST(ThickLayoutTest, AllItsBlocksFitWithTheShareOfGarbageThatIsAllowed) {
  for (const std::uint64_t segment_bytes : {kMiB, 4 * kMiB, 32 * kMiB, kGiB}) {
    for (const std::uint64_t size_bytes : {kMiB, 100 * kMiB + 512, 20 * kGiB, 32 * kTiB}) {
      const ThickLayout layout = thick_layout(size_bytes, segment_bytes);
      const std::uint64_t others = limits::kThickOpenSegments + limits::kThickFreeSegments;
      ASSERT_GT(layout.segments, others);
      const std::uint64_t filled_bytes = (layout.segments - others) * segment_bytes;
      EXPECT_GE(filled_bytes / 100 * (100 - limits::kThickGarbagePercent), size_bytes / 100 * 100);
      // All that the log may not take, and what is open, and still some to write to.
      EXPECT_GE(layout.segments, layout.metadata_spares + others - limits::kThickOpenSegments);
    }
  }
}

TEST(ThickLayoutTest, ALargeVolumeCostsLittleMoreThanItsShareOfGarbage) {
  const ThickLayout layout = thick_layout(kTiB, 32 * kMiB);
  const double times = static_cast<double>(layout.segments * 32 * kMiB) / static_cast<double>(kTiB);
  EXPECT_GT(times, 1.42);
  EXPECT_LT(times, 1.45);
}

TEST(ThickLayoutTest, ATinyVolumeCostsAFewSegments) {
  EXPECT_EQ(thick_layout(kMiB, 32 * kMiB).segments, 14u);
}

TEST(ThickLayoutTest, ALargerVolumeNeverNeedsLess) {
  std::uint64_t before = 0;
  for (std::uint64_t size_bytes = kMiB; size_bytes < 300 * kMiB; size_bytes += 4 * kMiB / 3) {
    const ThickLayout layout = thick_layout(size_bytes / 512 * 512, kMiB);
    EXPECT_GE(layout.segments, before);
    before = layout.segments;
  }
}

}  // namespace
}  // namespace holdfast
