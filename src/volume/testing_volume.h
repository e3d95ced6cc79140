// SPDX-License-Identifier: Apache-2.0
//
// Fixtures for tests of volumes on the kernel's file system.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/units.h"
#include "io/disk.h"
#include "io/run_task.h"
#include "io/temporary_directory.h"
#include "pool/open_pool.h"
#include "volume/volume.h"

namespace holdfast {

using Bytes = std::vector<std::byte>;

inline Bytes pattern(std::size_t bytes, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Bytes made(bytes);
  for (std::byte& b : made) b = static_cast<std::byte>(random());
  return made;
}

// A pool of small segments, and whole blocks of its volumes.
class VolumeFixture : public testing::Test {
 protected:
  // Called again and again while a request is waited for.
  virtual void look() {}

  VolumeFixture() : loop_(Loop::create().value()), disk_(std::make_unique<Disk>(*loop_)) {
    PoolCreateOptions options;
    options.segment_bytes = limits::kSegmentBytesMin;
    pool_ = run(create_pool(PoolContext{*loop_, *disk_, "a test"}, "dir:" + pool_path(), options))
                .value();
  }
  std::string pool_path() const { return directory_.path() + "/pool"; }

  template <typename T>
  T run(Task<T> task) {
    return run_task<T>([this](const auto& done) { wait_for(done); }, std::move(task));
  }
  void wait_for(const std::function<bool()>& done) {
    ASSERT_TRUE(loop_->run_until(done, 60s)) << "it did not come within a minute";
  }
  static VolumeId id_of(unsigned number) {
    VolumeId id;
    id.bytes[0] = static_cast<std::byte>(number);
    id.bytes[1] = static_cast<std::byte>(number >> 8);
    return id;
  }
  void create_volume(unsigned number, std::uint64_t size_bytes, bool thick = false) {
    VolumeCreateOptions options;
    options.id = id_of(number);
    options.name = "disk" + std::to_string(number);
    options.size_bytes = size_bytes;
    options.thick = thick;
    EXPECT_TRUE(run(Volume::create(*loop_, *pool_, options)).ok());
  }
  BlockStatus submit(Volume& volume, BlockOperation operation, std::uint64_t block,
                     std::byte* data) {
    BlockRequest request;
    const iovec buffer{data, kBlockBytes};
    std::optional<BlockStatus> status;
    request.operation = operation;
    request.offset_bytes = block * kBlockBytes;
    request.length_bytes = kBlockBytes;
    request.buffers = std::span<const iovec>(&buffer, 1);
    request.context = &status;
    request.on_complete = [](BlockRequest& done, BlockStatus result) {
      static_cast<std::optional<BlockStatus>*>(done.context)->emplace(result);
    };
    volume.submit(request);
    wait_for([&] {
      look();
      return status.has_value();
    });
    return *status;
  }
  // Until the cleaner has nothing to move, and what it emptied is free.
  void wait_until_clean(Volume& volume) {
    std::uint64_t moved = ~std::uint64_t{0};
    while (volume.statistics().moved_blocks != moved) {
      moved = volume.statistics().moved_blocks;
      loop_->run_until([] { return false; }, 500ms);
    }
    EXPECT_TRUE(run(volume.checkpoint()).ok());
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Disk> disk_;
  std::unique_ptr<Pool> pool_;
};

// One volume of 8 MiB, each block of which is known by its last version.
class StampedVolumeFixture : public VolumeFixture {
 protected:
  static constexpr std::uint64_t kVolumeBytes = 8 * kMiB;
  static constexpr std::uint64_t kBlocks = kVolumeBytes / kBlockBytes;
  // The pool that the volume is opened in.
  virtual Pool& pool() { return *pool_; }

  void open() { volume_ = run(Volume::open(*loop_, pool(), id_, options_)).value(); }
  void close() {
    ASSERT_TRUE(run(volume_->close()).ok());
    volume_.reset();
  }
  using VolumeFixture::submit;
  BlockStatus submit(BlockOperation operation, std::uint64_t block, std::byte* data) {
    return submit(*volume_, operation, block, data);
  }
  std::byte stamp(std::uint64_t block) const {
    return model_[block] == 0 ? std::byte{0} : static_cast<std::byte>(model_[block] * 31 + block);
  }
  void write(std::uint64_t block) {
    model_[block] = ++version_;
    std::vector<std::byte> bytes(kBlockBytes, stamp(block));
    ASSERT_EQ(submit(BlockOperation::write, block, bytes.data()), BlockStatus::ok);
  }
  void write_everything() {
    for (std::uint64_t block = 0; block < kBlocks; ++block) write(block);
  }
  void overwrite_at_random(std::uint64_t writes, std::uint64_t blocks = kBlocks) {
    for (std::uint64_t i = 0; i < writes; ++i) write(random_() % blocks);
  }
  // Every block is its newest version; returns how many could not be read.
  std::uint64_t verify() {
    std::uint64_t unreadable = 0;
    std::vector<std::byte> bytes(kBlockBytes);
    for (std::uint64_t block = 0; block < kBlocks; ++block) {
      if (submit(BlockOperation::read, block, bytes.data()) != BlockStatus::ok) {
        ++unreadable;
        continue;
      }
      EXPECT_EQ(bytes, std::vector<std::byte>(kBlockBytes, stamp(block))) << "block " << block;
    }
    return unreadable;
  }

  static constexpr unsigned kNumber = 7;
  VolumeId id_ = id_of(kNumber);
  VolumeOptions options_{.checkpoint_log_bytes = 4 * kMiB, .checkpoint_idle = 20ms};
  std::unique_ptr<Volume> volume_;
  std::vector<std::uint64_t> model_ = std::vector<std::uint64_t>(kBlocks);
  std::uint64_t version_ = 0;
  std::mt19937_64 random_{1};
};

}  // namespace holdfast
