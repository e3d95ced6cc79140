// SPDX-License-Identifier: Apache-2.0
//
// The seam to the operating system's files (what LevelDB calls Env): everything a pool does to
// storage goes through FileSystem and File. Two implementations: the kernel's (disk.h) and the
// simulator's faulty one.
//
// Paths are absolute. File data I/O is request objects without allocation; everything else is
// coroutines. Errors of File are errno values, of FileSystem Results (ENOSPC and EDQUOT become
// no_space; ENOENT not_found; EEXIST already_exists; EIO, ETIMEDOUT, ESTALE, ENODEV, ENXIO and
// their kin path_failure).
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/list.h"
#include "base/result.h"
#include "base/time.h"
#include "io/task.h"

namespace holdfast {

enum class FileOperation : std::uint8_t { read, write, sync_data };

class File;

// One I/O. Owned by the caller, alive and untouched until on_complete. Short transfers are
// completed below (in io/): error == 0 means every byte was transferred. A read past the end of the
// file fails with ENODATA.
struct FileRequest {
  using Callback = void (*)(FileRequest& request);

  FileOperation operation = FileOperation::read;
  std::uint64_t offset_bytes = 0;
  iovec* vectors = nullptr;  // may be modified while in flight
  std::uint32_t vector_count = 0;
  Callback on_complete = nullptr;  // never called from inside submit()
  void* context = nullptr;
  int error = 0;  // result: 0 or a positive errno

  // For the implementation, and for who observes the file.
  iovec single_vector{};
  void* implementation = nullptr;
  FileRequest* next = nullptr;
  File* file = nullptr;
  MonotonicTime submitted{};
  ListLink in_flight_link;

  // The implementation's last act on a request.
  void complete() {
    in_flight_link.unlink();
    on_complete(*this);
  }

  // Points the request at one contiguous buffer.
  void set_buffer(void* data, std::size_t bytes) {
    single_vector = {data, bytes};
    vectors = &single_vector;
    vector_count = 1;
  }
};

// Sees every request of the files it is given to.
class FileObserver {
 public:
  virtual ~FileObserver() = default;
  // May link the request by its in_flight_link, which is unlinked before the request completes.
  virtual void submitted(FileRequest& request) = 0;
};

class File {
 public:
  File() = default;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  virtual ~File() = default;  // no request may be in flight
  // Direct I/O: offsets, lengths and memory are multiples of 512 bytes (4096 where we can).
  // A write that was completed survives the death of this process; it survives the host only after
  // a sync_data that was submitted later completed without error.
  void submit(FileRequest& request) {
    request.file = this;
    if (observer_ != nullptr) observer_->submitted(request);
    start(request);
  }
  // The observer outlives the file. `name`: what people call the file.
  void observe(FileObserver& observer, std::string name) {
    observer_ = &observer;
    name_ = std::move(name);
  }
  const std::string& name() const { return name_; }
  // Whether writing where nothing was written yet costs more than writing again, so that zeros
  // beforehand pay (docs/decisions/0005-zeroing-ahead.md).
  virtual bool is_faster_once_written() const { return true; }

 protected:
  virtual void start(FileRequest& request) = 0;

 private:
  FileObserver* observer_ = nullptr;
  std::string name_;
};

struct FileOpenOptions {
  bool writable = false;
  bool create_new = false;              // fails with already_exists
  std::uint64_t preallocate_bytes = 0;  // with create_new: allocate and set the size, or no_space
};

struct FileSystemSpace {
  std::uint64_t capacity_bytes = 0;
  std::uint64_t available_bytes = 0;  // to us, now
};

struct FileStatus {
  std::uint64_t size_bytes = 0;
  std::uint64_t allocated_bytes = 0;
  std::uint64_t link_count = 1;  // names that the file has
};

// Held while it lives (and while the process lives, in the kernel's case).
class FileLock {
 public:
  virtual ~FileLock() = default;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  virtual Task<Result<std::unique_ptr<File>>> open(std::string path, FileOpenOptions options) = 0;
  virtual Task<Result<void>> make_directory(std::string path) = 0;  // mode 0700
  virtual Task<Result<void>> remove_file(std::string path) = 0;
  virtual Task<Result<void>> remove_directory(std::string path) = 0;        // must be empty
  virtual Task<Result<void>> rename(std::string from, std::string to) = 0;  // replaces `to`
  // A second name for the file `from`. unsupported: the file system has none, or no more of them.
  virtual Task<Result<void>> link(std::string from, std::string to) = 0;
  virtual Task<Result<FileStatus>> status(std::string path) = 0;
  // Names made, renamed or removed in `path` before survive the host afterwards.
  virtual Task<Result<void>> sync_directory(std::string path) = 0;
  virtual Task<Result<std::vector<std::string>>> list(std::string path) = 0;  // no "." and ".."
  // Cuts or extends the file, giving back the space behind the end.
  virtual Task<Result<void>> truncate(std::string path, std::uint64_t size_bytes) = 0;
  virtual Task<Result<std::uint64_t>> allocated_bytes(std::string path) = 0;
  // Gives the file that size, with space for all of it; no_space leaves it as it was, or grown.
  // What it holds stays or becomes zeros. Afterwards no I/O of a process that has died is on its
  // way to the file.
  virtual Task<Result<void>> allocate(std::string path, std::uint64_t size_bytes) = 0;
  virtual Task<Result<FileSystemSpace>> space(std::string path) = 0;
  // Small whole files (at most 1 MiB): metadata. write_file creates or replaces the content and
  // syncs the file's data, not its directory. An existing file is overwritten where it is: one that
  // is as large already needs no space.
  virtual Task<Result<std::vector<std::byte>>> read_file(std::string path) = 0;
  virtual Task<Result<void>> write_file(std::string path, std::vector<std::byte> bytes) = 0;
  // Advisory whole-file lock for one process; `holder` (a line for people: pid, host, program) is
  // written into the file. When somebody has it: busy, with their line in the message.
  virtual Task<Result<std::unique_ptr<FileLock>>> lock(std::string path, std::string holder) = 0;
};

}  // namespace holdfast
