// SPDX-License-Identifier: Apache-2.0
//
// Disk: the kernel's file system. Data I/O goes through the loop's io_uring with O_DIRECT (through
// the page cache only where a file system refuses O_DIRECT, such as tmpfs); everything else runs on
// the disk's worker thread, one call after the other, so use one Disk per storage.
//
// Thread: the loop's. Outlives its files, locks and calls under way; the loop outlives it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/list.h"
#include "io/file_system.h"
#include "io/loop.h"
#include "io/worker.h"

namespace holdfast {

class Disk final : public FileSystem {
 public:
  explicit Disk(Loop& loop);
  ~Disk() override;
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;

  Task<Result<std::unique_ptr<File>>> open(std::string path, FileOpenOptions options) override;
  Task<Result<void>> make_directory(std::string path) override;
  Task<Result<void>> remove_file(std::string path) override;
  Task<Result<void>> remove_directory(std::string path) override;
  Task<Result<void>> rename(std::string from, std::string to) override;
  Task<Result<void>> link(std::string from, std::string to) override;
  Task<Result<FileStatus>> status(std::string path) override;
  Task<Result<void>> sync_directory(std::string path) override;
  Task<Result<std::vector<std::string>>> list(std::string path) override;
  Task<Result<void>> truncate(std::string path, std::uint64_t size_bytes) override;
  Task<Result<std::uint64_t>> allocated_bytes(std::string path) override;
  Task<Result<void>> allocate(std::string path, std::uint64_t size_bytes) override;
  Task<Result<FileSystemSpace>> space(std::string path) override;
  Task<Result<std::vector<std::byte>>> read_file(std::string path) override;
  Task<Result<void>> write_file(std::string path, std::vector<std::byte> bytes) override;
  Task<Result<std::unique_ptr<FileLock>>> lock(std::string path, std::string holder) override;

 private:
  friend class DiskFile;
  friend class DiskLock;
  struct Operation;

  Operation& take_operation();
  void give_back(Operation& operation);
  void start_sync(Operation& operation);
  void sync_ended();
  void close_descriptor(int descriptor);

  Loop& loop_;
  std::vector<std::unique_ptr<Operation>> operations_;  // as many as were ever in flight together
  Operation* free_operations_ = nullptr;
  std::uint32_t syncs_in_flight_ = 0;
  List<LoopOperation, &LoopOperation::link> waiting_syncs_;
  Worker worker_;
};

}  // namespace holdfast
