// SPDX-License-Identifier: Apache-2.0
#include "io/disk.h"

#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "base/units.h"
#include "io/file_calls.h"

namespace holdfast {
namespace {

constexpr std::uint32_t kVectorsPerCallMax = IOV_MAX;
// A storage that keeps saying "try again" is handed up as an error, for the pool to hold.
constexpr std::uint32_t kTransientRetriesMax = 64;

std::size_t total_bytes(const FileRequest& request) {
  std::size_t bytes = 0;
  for (std::uint32_t i = 0; i < request.vector_count; ++i) bytes += request.vectors[i].iov_len;
  return bytes;
}

void advance(FileRequest& request, std::size_t bytes) {
  request.offset_bytes += bytes;
  while (request.vector_count != 0 && bytes >= request.vectors->iov_len) {
    bytes -= request.vectors->iov_len;
    ++request.vectors;
    --request.vector_count;
  }
  if (bytes != 0) {
    request.vectors->iov_base = static_cast<std::byte*>(request.vectors->iov_base) + bytes;
    request.vectors->iov_len -= bytes;
  }
}

}  // namespace

class DiskFile final : public File {
 public:
  DiskFile(Disk& disk, int descriptor) : disk_(disk), descriptor_(descriptor) {}
  DiskFile(const DiskFile&) = delete;
  DiskFile& operator=(const DiskFile&) = delete;
  ~DiskFile() override {
    HOLDFAST_ASSERT(requests_in_flight == 0);
    // The last close of a removed file frees its blocks, which takes a while.
    disk_.close_descriptor(descriptor_);
  }

  std::uint32_t requests_in_flight = 0;

 private:
  void start(FileRequest& request) override;

  Disk& disk_;
  int descriptor_;
};

class DiskLock final : public FileLock {
 public:
  DiskLock(Disk& disk, int descriptor) : disk_(disk), descriptor_(descriptor) {}
  DiskLock(const DiskLock&) = delete;
  DiskLock& operator=(const DiskLock&) = delete;
  ~DiskLock() override { disk_.close_descriptor(descriptor_); }

 private:
  Disk& disk_;
  int descriptor_;
};

// One request in the kernel's hands. This is the only place that completes short transfers.
struct Disk::Operation : LoopOperation {
  Disk* disk = nullptr;
  DiskFile* file = nullptr;
  FileRequest* request = nullptr;
  int descriptor = -1;
  std::size_t remaining_bytes = 0;
  std::uint32_t transient_retries = 0;
  Operation* next_free = nullptr;

  void fill(io_uring_sqe& entry) {
    const FileRequest& r = *request;
    if (r.operation == FileOperation::sync_data) {
      io_uring_prep_fsync(&entry, descriptor, IORING_FSYNC_DATASYNC);
    } else if (remaining_bytes == 0) {
      io_uring_prep_nop(&entry);
    } else if (r.vector_count == 1) {
      // Longer than any caller's buffer, and the rest would be a short transfer like any other.
      const auto length =
          static_cast<unsigned>(std::min<std::size_t>(r.vectors->iov_len, 1u << 30));
      if (r.operation == FileOperation::read) {
        io_uring_prep_read(&entry, descriptor, r.vectors->iov_base, length, r.offset_bytes);
      } else {
        io_uring_prep_write(&entry, descriptor, r.vectors->iov_base, length, r.offset_bytes);
      }
    } else {
      const unsigned count = std::min(r.vector_count, kVectorsPerCallMax);
      if (r.operation == FileOperation::read) {
        io_uring_prep_readv(&entry, descriptor, r.vectors, count, r.offset_bytes);
      } else {
        io_uring_prep_writev(&entry, descriptor, r.vectors, count, r.offset_bytes);
      }
    }
  }

  // False: the rest (or the same again) was started.
  bool is_finished(int result) {
    if (result == -EINTR || result == -EAGAIN) {
      request->error = -result;
      return ++transient_retries > kTransientRetriesMax;
    }
    request->error = result < 0 ? -result : 0;
    if (result < 0 || request->operation == FileOperation::sync_data) return true;
    const auto transferred = static_cast<std::size_t>(result);
    if (transferred >= remaining_bytes) return true;
    // Direct I/O goes on at a sector only. Less than one: a read met the end of the file; a write
    // that cannot move has no errno of its own.
    const std::size_t progress = round_down(transferred, kSectorBytes);
    if (progress == 0) {
      request->error = request->operation == FileOperation::read ? ENODATA : EIO;
      return true;
    }
    advance(*request, progress);
    remaining_bytes -= progress;
    transient_retries = 0;
    return false;
  }

  static void on_complete(LoopOperation& operation, int result) {
    auto& self = static_cast<Operation&>(operation);
    if (!self.is_finished(result)) {
      self.disk->loop_.start(self);
      return;
    }
    FileRequest& request = *self.request;
    Disk& disk = *self.disk;
    --self.file->requests_in_flight;
    if (request.operation == FileOperation::sync_data) disk.sync_ended();
    disk.give_back(self);
    request.complete();
  }
};

void DiskFile::start(FileRequest& request) {
  Disk::Operation& operation = disk_.take_operation();
  operation.file = this;
  operation.request = &request;
  operation.descriptor = descriptor_;
  operation.remaining_bytes =
      request.operation == FileOperation::sync_data ? 0 : total_bytes(request);
  operation.transient_retries = 0;
  request.error = 0;
  ++requests_in_flight;
  if (request.operation == FileOperation::sync_data) {
    disk_.start_sync(operation);
  } else {
    disk_.loop_.start(operation);
  }
}

Disk::Disk(Loop& loop) : loop_(loop), worker_(loop) {}

Disk::~Disk() {
  waiting_syncs_.clear();
}

// A sync keeps one of the loop's workers for as long as the storage takes, and the loop has other
// storages to serve.
void Disk::start_sync(Operation& operation) {
  if (syncs_in_flight_ == limits::kDiskSyncsInFlightMax) {
    waiting_syncs_.push_back(operation);
    return;
  }
  ++syncs_in_flight_;
  loop_.start(operation);
}

void Disk::sync_ended() {
  --syncs_in_flight_;
  auto* const next = static_cast<Operation*>(waiting_syncs_.pop_front());
  if (next != nullptr) start_sync(*next);
}

Disk::Operation& Disk::take_operation() {
  if (free_operations_ == nullptr) {
    operations_.push_back(std::make_unique<Operation>());
    Operation& made = *operations_.back();
    made.disk = this;
    made.prepare = [](LoopOperation& operation, io_uring_sqe& entry) {
      static_cast<Operation&>(operation).fill(entry);
    };
    made.complete = &Operation::on_complete;
    return made;
  }
  Operation& operation = *free_operations_;
  free_operations_ = operation.next_free;
  return operation;
}

void Disk::give_back(Operation& operation) {
  operation.next_free = free_operations_;
  free_operations_ = &operation;
}

void Disk::close_descriptor(int descriptor) {
  auto work = [file = Descriptor(descriptor)]() mutable {
    file = Descriptor();
    return true;
  };
  worker_.add(std::make_unique<FunctionJob<decltype(work)>>(std::move(work)));
}

// Every call below copies what it needs: the coroutine may die before the worker comes to it.

Task<Result<std::unique_ptr<File>>> Disk::open(std::string path, FileOpenOptions options) {
  auto work = [path = std::move(path), options] { return file_calls::open(path, options); };
  CO_TRY_ASSIGN(Descriptor file, co_await BlockingCall(worker_, std::move(work)));
  co_return std::unique_ptr<File>(std::make_unique<DiskFile>(*this, file.release()));
}

Task<Result<void>> Disk::make_directory(std::string path) {
  auto work = [path = std::move(path)] { return file_calls::make_directory(path); };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<void>> Disk::remove_file(std::string path) {
  auto work = [path = std::move(path)] { return file_calls::remove_file(path); };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<void>> Disk::remove_directory(std::string path) {
  auto work = [path = std::move(path)] { return file_calls::remove_directory(path); };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<void>> Disk::rename(std::string from, std::string to) {
  auto work = [from = std::move(from), to = std::move(to)] { return file_calls::rename(from, to); };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<void>> Disk::link(std::string from, std::string to) {
  auto work = [from = std::move(from), to = std::move(to)] { return file_calls::link(from, to); };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<FileStatus>> Disk::status(std::string path) {
  auto work = [path = std::move(path)] { return file_calls::status(path); };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<void>> Disk::sync_directory(std::string path) {
  auto work = [path = std::move(path)] { return file_calls::sync_directory(path); };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<std::vector<std::string>>> Disk::list(std::string path) {
  auto work = [path = std::move(path)] { return file_calls::list(path); };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<void>> Disk::truncate(std::string path, std::uint64_t size_bytes) {
  auto work = [path = std::move(path), size_bytes] {
    return file_calls::truncate(path, size_bytes);
  };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<std::uint64_t>> Disk::allocated_bytes(std::string path) {
  auto work = [path = std::move(path)] { return file_calls::allocated_bytes(path); };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<void>> Disk::allocate(std::string path, std::uint64_t size_bytes) {
  auto work = [path = std::move(path), size_bytes] {
    return file_calls::allocate(path, size_bytes);
  };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<FileSystemSpace>> Disk::space(std::string path) {
  auto work = [path = std::move(path)] { return file_calls::space(path); };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<std::vector<std::byte>>> Disk::read_file(std::string path) {
  auto work = [path = std::move(path)] { return file_calls::read_file(path); };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<void>> Disk::write_file(std::string path, std::vector<std::byte> bytes) {
  auto work = [path = std::move(path), bytes = std::move(bytes)] {
    return file_calls::write_file(path, bytes);
  };
  co_return co_await BlockingCall(worker_, std::move(work));
}

Task<Result<std::unique_ptr<FileLock>>> Disk::lock(std::string path, std::string holder) {
  auto work = [path = std::move(path), holder = std::move(holder)] {
    return file_calls::lock(path, holder);
  };
  CO_TRY_ASSIGN(Descriptor file, co_await BlockingCall(worker_, std::move(work)));
  co_return std::unique_ptr<FileLock>(std::make_unique<DiskLock>(*this, file.release()));
}

}  // namespace holdfast
