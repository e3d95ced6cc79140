// SPDX-License-Identifier: Apache-2.0
//
// For the tests of this folder: golden bytes, which tools/golden_formats.py makes without any code
// of ours, and damage.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/units.h"
#include "format/sealed_block.h"

namespace holdfast::format {

using Bytes = std::vector<std::byte>;

inline Uuid golden_volume() {
  return Uuid::parse("fedcba98-7654-4210-8123-456789abcdef").value();
}

// Lines "offset: bytes", both hexadecimal; what no line names is zero.
inline Bytes golden_block(const std::string& name) {
  std::ifstream file(std::string(HOLDFAST_SOURCE_DIR) + "/src/format/testdata/" + name + ".hex");
  EXPECT_TRUE(file.good()) << name;
  Bytes block(kBlockBytes);
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    std::size_t at = std::stoul(line.substr(0, colon), nullptr, 16);
    for (std::size_t i = colon + 2; i + 1 < line.size(); i += 2, ++at) {
      block.at(at) = static_cast<std::byte>(std::stoul(line.substr(i, 2), nullptr, 16));
    }
  }
  return block;
}

// The first byte that differs, or -1.
inline std::ptrdiff_t first_difference(std::span<const std::byte> a, std::span<const std::byte> b) {
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    if (a[i] != b[i]) return static_cast<std::ptrdiff_t>(i);
  }
  return a.size() == b.size() ? -1 : static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
}

// The block with some bytes changed and the checksum made right again: what a bug or an enemy
// could have written.
inline Bytes resealed(Bytes block, const std::function<void(std::byte*)>& change) {
  change(block.data());
  seal_block(block, load_little<std::uint32_t>(block.data()));
  return block;
}
template <typename T>
Bytes with(const Bytes& block, std::size_t offset, T value) {
  return resealed(block, [&](std::byte* at) { store_little<T>(at + offset, value); });
}

// Fails unless `is_refused` holds for the block with any one bit turned over.
inline void expect_every_flip_refused(const Bytes& good,
                                      const std::function<bool(const Bytes&)>& is_refused) {
  Bytes bytes = good;
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const auto mask = static_cast<std::byte>(1u << (bit % 8));
    bytes[bit / 8] ^= mask;
    ASSERT_TRUE(is_refused(bytes)) << "bit " << bit % 8 << " of byte " << bit / 8;
    bytes[bit / 8] ^= mask;
  }
}

}  // namespace holdfast::format
