// SPDX-License-Identifier: Apache-2.0
//
// Fixtures for tests of volumes on the kernel's file system.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
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

// Volumes of 4 MiB whose content is known, their snapshots and clones.
class ContentFixture : public VolumeFixture {
 protected:
  static constexpr std::uint64_t kVolumeBytes = 4 * kMiB;
  static constexpr std::uint64_t kBlocks = kVolumeBytes / kBlockBytes;
  using Content = std::map<std::uint64_t, std::uint8_t>;  // blocks that are not zeros
  // The pool that volumes are opened in.
  virtual Pool& pool() { return *pool_; }

  std::unique_ptr<Volume> open(unsigned number) {
    auto opened = run(Volume::open(*loop_, pool(), id_of(number), options_));
    EXPECT_TRUE(opened.ok()) << (opened.ok() ? "" : opened.error().message());
    return std::move(opened).value();
  }
  void close(std::unique_ptr<Volume>& volume) {
    ASSERT_TRUE(run(volume->close()).ok());
    volume.reset();
  }
  void write(Volume& volume, Content& content, std::uint64_t block, std::uint8_t value) {
    std::vector<std::byte> bytes(kBlockBytes, static_cast<std::byte>(value));
    ASSERT_EQ(submit(volume, BlockOperation::write, block, bytes.data()), BlockStatus::ok);
    content[block] = value;
  }
  void fill(Volume& volume, Content& content, std::uint64_t blocks = kBlocks) {
    for (std::uint64_t block = 0; block < blocks; ++block) {
      write(volume, content, block, static_cast<std::uint8_t>(1 + random_() % 255));
    }
  }
  void expect_content(Volume& volume, const Content& content) {
    std::vector<std::byte> bytes(kBlockBytes);
    for (std::uint64_t block = 0; block < volume.info().size_bytes / kBlockBytes; ++block) {
      ASSERT_EQ(submit(volume, BlockOperation::read, block, bytes.data()), BlockStatus::ok);
      const auto at = content.find(block);
      const auto value = static_cast<std::byte>(at == content.end() ? 0 : at->second);
      const std::vector<std::byte> expected(kBlockBytes, value);
      ASSERT_EQ(std::memcmp(bytes.data(), expected.data(), kBlockBytes), 0) << "block " << block;
    }
  }
  void take(Volume& volume, const std::string& name) {
    const auto taken = run(volume.create_snapshot(name));
    ASSERT_TRUE(taken.ok()) << taken.error().message();
  }
  void expect_snapshot(unsigned volume, const std::string& name, const Content& content) {
    auto view = run(Volume::open_snapshot(*loop_, pool(), id_of(volume), name, options_));
    ASSERT_TRUE(view.ok()) << view.error().message();
    expect_content(**view, content);
    std::vector<std::byte> bytes(kBlockBytes);
    EXPECT_EQ(submit(**view, BlockOperation::write, 0, bytes.data()), BlockStatus::read_only);
    close(*view);
  }
  void clone(unsigned from, const std::string& snapshot, unsigned to) {
    VolumeCloneOptions options;
    options.parent = id_of(from);
    options.snapshot = snapshot;
    options.id = id_of(to);
    options.name = "clone" + std::to_string(to);
    const auto cloned = run(Volume::clone(*loop_, pool(), options));
    ASSERT_TRUE(cloned.ok()) << cloned.error().message();
  }
  std::filesystem::path directory_of(unsigned number) {
    return std::filesystem::path(pool_path()) / "volumes" / id_of(number).to_string();
  }
  std::set<std::string> file_names(unsigned volume, const std::string& prefix) {
    std::set<std::string> names;
    for (const auto& file : std::filesystem::directory_iterator(directory_of(volume))) {
      const std::string name = file.path().filename().string();
      if (name.starts_with(prefix)) names.insert(name);
    }
    return names;
  }
  std::size_t files(unsigned volume, const std::string& prefix) {
    return file_names(volume, prefix).size();
  }

  VolumeOptions options_{.checkpoint_log_bytes = 4 * kMiB,
                         .checkpoint_idle = 20ms,
                         .cleaner_start_percent = 10,
                         .cleaner_stop_percent = 5};
  std::mt19937_64 random_{1};
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
