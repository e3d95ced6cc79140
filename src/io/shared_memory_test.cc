// SPDX-License-Identifier: Apache-2.0
#include "io/shared_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <vector>

#include "base/units.h"

namespace holdfast {
namespace {

Descriptor make_file(std::uint64_t bytes) {
  Descriptor file(memfd_create("holdfast-test", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(bytes)), 0);
  return file;
}

TEST(SharedMemory, TwoMappingsOfAFileShareTheirBytes) {
  const Descriptor file = make_file(64 * kKiB);
  const auto whole = SharedMemory::map(file, 0, 64 * kKiB).value();
  const auto part = SharedMemory::map(file, 5000, 100).value();
  EXPECT_EQ(part->size_bytes(), 100u);
  whole->data()[5007] = std::byte{42};
  EXPECT_EQ(part->data()[7], std::byte{42});
  EXPECT_FALSE(whole->is_lost());
}

TEST(SharedMemory, RangesThatAreNotInTheFileAreRefused) {
  const Descriptor file = make_file(64 * kKiB);
  EXPECT_FALSE(SharedMemory::map(file, 0, 0).ok());
  EXPECT_FALSE(SharedMemory::map(file, 0, 64 * kKiB + 1).ok());
  EXPECT_FALSE(SharedMemory::map(file, 64 * kKiB, 1).ok());
  EXPECT_FALSE(SharedMemory::map(file, ~std::uint64_t{0}, 2).ok());
  EXPECT_FALSE(SharedMemory::map(file, 2, ~std::uint64_t{0}).ok());
  EXPECT_TRUE(SharedMemory::map(file, 64 * kKiB - 1, 1).ok());
}

TEST(SharedMemory, WhatIsNoMemoryIsRefused) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Descriptor reading(ends[0]);
  const Descriptor writing(ends[1]);
  EXPECT_FALSE(SharedMemory::map(reading, 0, 4096).ok());
  EXPECT_FALSE(SharedMemory::map(Descriptor(), 0, 4096).ok());
  EXPECT_FALSE(SharedMemory::map(Descriptor(open("/tmp", O_RDONLY | O_CLOEXEC)), 0, 4096).ok());
  EXPECT_FALSE(
      SharedMemory::map(Descriptor(open("/proc/self/exe", O_RDONLY | O_CLOEXEC)), 0, 4096).ok())
      << "cannot be written";
}

TEST(SharedMemory, MemoryThatIsCutOffBecomesZerosAndSaysSo) {
  const Descriptor file = make_file(64 * kKiB);
  const Descriptor other_file = make_file(64 * kKiB);
  const auto memory = SharedMemory::map(file, 4096, 60 * kKiB).value();
  const auto other = SharedMemory::map(other_file, 0, 64 * kKiB).value();
  std::fill_n(memory->data(), memory->size_bytes(), std::byte{7});
  std::fill_n(other->data(), other->size_bytes(), std::byte{8});
  ASSERT_EQ(ftruncate(file.get(), 8192), 0);
  EXPECT_FALSE(memory->is_lost()) << "nobody has touched what is gone";
  EXPECT_EQ(memory->data()[0], std::byte{7});
  EXPECT_EQ(memory->data()[50'000], std::byte{0});
  EXPECT_TRUE(memory->is_lost());
  memory->data()[50'000] = std::byte{1};
  EXPECT_EQ(memory->data()[50'000], std::byte{1});
  EXPECT_FALSE(other->is_lost());
  EXPECT_EQ(other->data()[50'000], std::byte{8});
  // A new mapping in the place of one that was lost is not.
  const auto again = SharedMemory::map(other_file, 0, 64 * kKiB).value();
  EXPECT_FALSE(again->is_lost());
}

TEST(SharedMemory, AStoreToMemoryThatIsCutOffIsSurvivedToo) {
  const Descriptor file = make_file(64 * kKiB);
  const auto memory = SharedMemory::map(file, 0, 64 * kKiB).value();
  ASSERT_EQ(ftruncate(file.get(), 0), 0);
  memory->data()[3 * 4096] = std::byte{9};
  EXPECT_TRUE(memory->is_lost());
  EXPECT_EQ(memory->data()[3 * 4096], std::byte{9});
}

TEST(SharedMemory, MemoryOfOurOwnIsZeroAndCannotBeShrunkOrGrown) {
  auto created = SharedMemory::create("test", 10'000).value();
  EXPECT_TRUE(std::all_of(created.memory->data(), created.memory->data() + 10'000,
                          [](std::byte value) { return value == std::byte{0}; }));
  EXPECT_NE(ftruncate(created.descriptor.get(), 0), 0);
  EXPECT_NE(ftruncate(created.descriptor.get(), 20'000), 0);
  const auto mapped = SharedMemory::map(created.descriptor, 0, 10'000).value();
  mapped->data()[9999] = std::byte{5};
  EXPECT_EQ(created.memory->data()[9999], std::byte{5});
}

TEST(SharedMemory, ManyMappingsComeAndGoInAnyOrder) {
  const Descriptor file = make_file(64 * kKiB);
  std::vector<std::unique_ptr<SharedMemory>> mappings;
  for (std::size_t i = 0; i < 1000; ++i) {
    auto mapped = SharedMemory::map(file, 0, 64 * kKiB);
    ASSERT_TRUE(mapped.ok()) << mapped.error().message();
    mappings.push_back(std::move(mapped).value());
    if (i % 3 == 0) mappings.erase(mappings.begin() + static_cast<std::ptrdiff_t>(i / 3));
  }
  ASSERT_EQ(ftruncate(file.get(), 0), 0);
  for (std::size_t i = 0; i < mappings.size(); i += 7) {
    EXPECT_EQ(mappings[i]->data()[100], std::byte{0});
  }
  for (std::size_t i = 0; i < mappings.size(); ++i) {
    EXPECT_EQ(mappings[i]->is_lost(), i % 7 == 0) << i;
  }
}

using SharedMemoryDeathTest = testing::Test;
TEST(SharedMemoryDeathTest, ABusErrorSomewhereElseStillEndsTheProcess) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const Descriptor guarded = make_file(4096);
  const auto memory = SharedMemory::map(guarded, 0, 4096).value();
  EXPECT_EXIT(
      {
        const Descriptor file = make_file(4096);
        auto* const at =
            static_cast<volatile char*>(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file.get(), 0));
        if (ftruncate(file.get(), 0) == 0) static_cast<void>(at[0]);
      },
      testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace holdfast
