// SPDX-License-Identifier: Apache-2.0
//
// Memory shared with another process that is not trusted: everything in it may change at any time,
// and the file behind it may be truncated. Touching a page that is gone would end the process with
// SIGBUS; instead the whole mapping then becomes private zeros and is_lost() says so.
//
// Threading: made and destroyed on any thread, used on one at a time; is_lost() from any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "io/descriptor.h"

namespace holdfast {

class SharedMemory {
 public:
  // Maps [offset_bytes, offset_bytes + length_bytes) of somebody's file for reading and writing.
  // Refused: a range beyond the file's end, and files of file systems whose server may keep us
  // waiting for a page (FUSE, network).
  static Result<std::unique_ptr<SharedMemory>> map(const Descriptor& file,
                                                   std::uint64_t offset_bytes,
                                                   std::uint64_t length_bytes);
  // New zeroed memory that nobody can shrink or grow, and the descriptor to pass on.
  struct Created;
  static Result<Created> create(const std::string& name, std::uint64_t length_bytes);

  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory();

  std::byte* data() const { return data_; }
  std::uint64_t size_bytes() const { return size_bytes_; }
  bool is_lost() const;

 private:
  SharedMemory() = default;
  static Result<std::unique_ptr<SharedMemory>> map_file(int file, std::uint64_t offset_bytes,
                                                        std::uint64_t length_bytes);

  void* mapping_ = nullptr;  // from the file's start on: huge pages want aligned offsets
  std::uint64_t mapping_bytes_ = 0;
  std::byte* data_ = nullptr;
  std::uint64_t size_bytes_ = 0;
  std::size_t guard_ = 0;
};

struct SharedMemory::Created {
  std::unique_ptr<SharedMemory> memory;
  Descriptor descriptor;
};

}  // namespace holdfast
