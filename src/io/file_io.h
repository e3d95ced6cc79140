// SPDX-License-Identifier: Apache-2.0
//
// Awaiting one FileRequest: `int error = co_await FileIo(file, FileOperation::read, offset,
// buffer);`
#pragma once

#include <coroutine>
#include <cstddef>
#include <span>

#include "io/file_system.h"

namespace holdfast {

class FileIo {
 public:
  FileIo(File& file, FileOperation operation, std::uint64_t offset_bytes,
         std::span<std::byte> buffer)
      : file_(file) {
    request_.operation = operation;
    request_.offset_bytes = offset_bytes;
    request_.set_buffer(buffer.data(), buffer.size());
    request_.on_complete = [](FileRequest& request) {
      static_cast<FileIo*>(request.context)->handle_.resume();
    };
  }
  FileIo(File& file, FileOperation operation, std::uint64_t offset_bytes,
         std::span<iovec> vectors)  // may be modified
      : FileIo(file, operation, offset_bytes, std::span<std::byte>{}) {
    request_.vectors = vectors.data();
    request_.vector_count = static_cast<std::uint32_t>(vectors.size());
  }
  // Whoever waited may be destroyed first, when a process is ended in the middle of it all.
  ~FileIo() { request_.in_flight_link.unlink(); }
  FileIo(const FileIo&) = delete;
  FileIo& operator=(const FileIo&) = delete;

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    handle_ = waiting;
    request_.context = this;
    file_.submit(request_);
  }
  int await_resume() noexcept { return request_.error; }  // 0 or a positive errno

 private:
  File& file_;
  FileRequest request_;
  std::coroutine_handle<> handle_;
};

}  // namespace holdfast
