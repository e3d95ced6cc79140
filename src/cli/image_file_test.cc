// SPDX-License-Identifier: Apache-2.0
#include "cli/image_file.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/bytes.h"
#include "base/units.h"
#include "cli/image_writer.h"
#include "cli/progress.h"

namespace holdfast {
namespace {

using Bytes = std::vector<std::byte>;

Bytes block(std::string_view beginning) {
  Bytes out(kImageBeginningBytes);
  const auto bytes = as_bytes(beginning);
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return out;
}
template <typename T>
Bytes with(Bytes bytes, std::size_t offset, T value) {
  store_big(bytes.data() + offset, value);
  return bytes;
}
std::string why(const Result<void>& result) {
  return result.ok() ? "fine" : result.error().message();
}

TEST(ImageFile, FormatsAreKnownByTheirNamesAndBeginnings) {
  for (const char* name : {"raw", "qcow2", "vhd", "vmdk", "rbd-diff", "rbd"}) {
    ASSERT_TRUE(parse_image_format(name).ok());
    EXPECT_STREQ(image_format_name(parse_image_format(name).value()), name);
  }
  EXPECT_EQ(parse_image_format("vpc").value(), ImageFormat::vhd);
  EXPECT_EQ(parse_image_format("rbd-export").value(), ImageFormat::rbd);
  EXPECT_EQ(parse_image_format("qcow3").error().code(), ErrorCode::invalid_argument);
  EXPECT_EQ(recognize_image(block("QFI\xfb")), ImageFormat::qcow2);
  EXPECT_EQ(recognize_image(block("KDMV")), ImageFormat::vmdk);
  EXPECT_EQ(recognize_image(block("conectix")), ImageFormat::vhd);
  EXPECT_EQ(recognize_image(block("rbd diff v1\n")), ImageFormat::rbd_diff);
  EXPECT_EQ(recognize_image(block("rbd image v2\n")), ImageFormat::rbd);
  EXPECT_EQ(recognize_image({}), ImageFormat::raw);
  EXPECT_EQ(recognize_image(block("")), ImageFormat::raw);
}

TEST(ImageFile, WhatIsNotWholeByItselfIsRefused) {
  const Bytes qcow2 = with<std::uint32_t>(block("QFI\xfb"), 4, 3);
  const auto check = [](ImageFormat format, const Bytes& begin, const Bytes& end,
                        std::uint64_t bytes) {
    return why(check_image_ends(format, begin, end, bytes));
  };
  EXPECT_EQ(check(ImageFormat::qcow2, qcow2, {}, 1 << 20), "fine");
  EXPECT_NE(check(ImageFormat::qcow2, with<std::uint64_t>(qcow2, 8, 512), {}, 1 << 20)
                .find("backing file"),
            std::string::npos);
  EXPECT_NE(
      check(ImageFormat::qcow2, with<std::uint64_t>(qcow2, 72, 4), {}, 1 << 20).find("data file"),
      std::string::npos);
  EXPECT_NE(
      check(ImageFormat::qcow2, with<std::uint32_t>(qcow2, 32, 2), {}, 1 << 20).find("encrypted"),
      std::string::npos);
  EXPECT_NE(check(ImageFormat::qcow2, Bytes(qcow2.begin(), qcow2.begin() + 50), {}, 50)
                .find("no qcow2 image"),
            std::string::npos);
  EXPECT_NE(check(ImageFormat::vmdk, block("# Disk DescriptorFile\n"), {}, 500).find("extents"),
            std::string::npos);
  EXPECT_NE(check(ImageFormat::vmdk, block("VMDK"), {}, 500).find("no VMDK image"),
            std::string::npos);
  const Bytes fixed = with<std::uint32_t>(with<std::uint64_t>(block("conectix"), 48, 4096), 60, 2);
  EXPECT_EQ(check(ImageFormat::vhd, {}, fixed, 4096 + 512), "fine");
  EXPECT_NE(check(ImageFormat::vhd, {}, fixed, 2048 + 512).find("cut off"), std::string::npos);
  EXPECT_NE(check(ImageFormat::vhd, fixed, {}, 4096).find("cut off"), std::string::npos);
  EXPECT_EQ(check(ImageFormat::vhd, {}, with<std::uint32_t>(fixed, 60, 3), 9999), "fine");
  EXPECT_NE(check(ImageFormat::vhd, {}, with<std::uint32_t>(fixed, 60, 4), 9999).find("parent"),
            std::string::npos);
}

TEST(ImageFile, ProgressSaysHowFarAndHowFast) {
  EXPECT_EQ(progress_text(512 * kMiB, kGiB, 4), "50.0 %, 128 MiB/s");
  EXPECT_EQ(progress_text(512 * kMiB, 0, 4), "512 MiB, 128 MiB/s");
  EXPECT_EQ(progress_text(0, kGiB, 0), "0.0 %");
}

TEST(ImageFile, AByteAnywhereIsNoZero) {
  Bytes bytes(10000);
  EXPECT_TRUE(is_all_zero(bytes));
  EXPECT_TRUE(is_all_zero({}));
  for (const std::size_t at :
       {std::size_t{0}, std::size_t{4095}, std::size_t{4096}, std::size_t{9999}}) {
    bytes[at] = std::byte{1};
    EXPECT_FALSE(is_all_zero(bytes)) << at;
    bytes[at] = std::byte{0};
  }
}

}  // namespace
}  // namespace holdfast
