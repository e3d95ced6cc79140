// SPDX-License-Identifier: Apache-2.0
//
// For tests: one simulated storage, and one process after the other on it.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "io/aligned_buffer.h"
#include "io/file_io.h"
#include "io/run_task.h"
#include "sim/scheduler.h"
#include "sim/sim_file_system.h"
#include "sim/sim_storage.h"

namespace holdfast::sim {

class World {
 public:
  explicit World(std::uint64_t seed = 1) : scheduler(seed), storage(scheduler, kGiB) { start(); }

  void start() {
    host = std::make_unique<SimHost>(scheduler);
    files = std::make_unique<SimFileSystem>(*host, storage, faults);
  }
  void kill(bool host_lost) {
    host->kill();
    drained_at = files->die(host_lost);
    if (host_lost) storage.power_loss();
    file.reset();
    lock.reset();
    files.reset();
    host.reset();
  }
  void run_until(const std::function<bool()>& done) {
    while (!done()) {
      ASSERT_TRUE(scheduler.step()) << "nothing is left that could make it so";
    }
  }
  template <typename T>
  T run(Task<T> task) {
    return run_task<T>([this](const std::function<bool()>& done) { run_until(done); },
                       std::move(task));
  }
  std::unique_ptr<File> open(const std::string& path, bool create, std::uint64_t bytes = kMiB) {
    FileOpenOptions options;
    options.writable = true;
    options.create_new = create;
    options.preallocate_bytes = create ? bytes : 0;
    auto opened = run(files->open(path, options));
    EXPECT_TRUE(opened.ok());
    return opened.ok() ? std::move(opened).value() : nullptr;
  }
  static Task<int> io(File* target, FileOperation operation, std::uint64_t offset_bytes,
                      std::span<std::byte> buffer) {
    co_return co_await FileIo(*target, operation, offset_bytes, buffer);
  }
  int write(std::uint64_t offset_bytes, unsigned char value, std::size_t bytes = 4096) {
    AlignedBuffer buffer(bytes);
    std::memset(buffer.data(), value, bytes);
    return run(io(file.get(), FileOperation::write, offset_bytes, buffer.span(0, bytes)));
  }
  int sync() { return run(io(file.get(), FileOperation::sync_data, 0, {})); }
  // The first byte of each sector.
  std::vector<int> sectors(std::uint64_t offset_bytes, std::size_t bytes = 4096) {
    AlignedBuffer buffer(bytes);
    EXPECT_EQ(run(io(file.get(), FileOperation::read, offset_bytes, buffer.span())), 0);
    std::vector<int> values;
    for (std::size_t at = 0; at < bytes; at += 512) {
      values.push_back(std::to_integer<int>(buffer.data()[at]));
    }
    return values;
  }

  Scheduler scheduler;
  SimStorage storage;
  Faults faults;
  std::unique_ptr<SimHost> host;
  std::unique_ptr<SimFileSystem> files;
  std::unique_ptr<File> file;
  std::unique_ptr<FileLock> lock;
  MonotonicTime drained_at{};
};

}  // namespace holdfast::sim
