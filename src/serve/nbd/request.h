// SPDX-License-Identifier: Apache-2.0
//
// One NBD request from its header to the end of its reply, and the pool such objects come from.
//
//   taken -> [payload arriving] -> in the device -> answered (waits in a connection's list of done
//   requests) -> [being sent: its memory is in the send] -> released
//
// A refused request goes from taken (or, for a write, from the end of its payload) straight to
// answered.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/assert.h"
#include "base/list.h"
#include "block/block_device.h"
#include "io/aligned_buffer.h"
#include "serve/nbd/buffer_pool.h"
#include "serve/nbd/protocol.h"

namespace holdfast::nbd {

class Connection;

struct Request {
  BlockRequest block;
  Connection* connection = nullptr;
  ListLink link;  // free, in the device, done or being sent

  RequestHeader header;
  NbdErrno error = NbdErrno::none;
  std::string_view message;  // for a person, when error is set; static text

  iovec vectors[2] = {};          // the payload: in the chunk, then in the buffer
  ReceiveChunk* chunk = nullptr;  // keeps the received part of a write's payload
  AlignedBuffer buffer;           // a read's data, or the part of a payload that the chunk lacks
  std::size_t charged_bytes = 0;  // counted against the connection's budget
  std::vector<std::byte> status;  // encoded extents of a block status

  Command command() const { return static_cast<Command>(header.command); }
};

// Never shrinks while a request is in use; an export has few, all of one size.
class RequestPool {
 public:
  RequestPool() = default;
  RequestPool(const RequestPool&) = delete;
  RequestPool& operator=(const RequestPool&) = delete;
  ~RequestPool() { HOLDFAST_ASSERT(used_ == 0); }

  Request& get() {
    if (free_.empty()) grow();
    ++used_;
    return *free_.pop_front();
  }
  void put(Request& request) {
    --used_;
    free_.push_front(request);
  }
  void trim() {
    if (used_ != 0) return;
    free_.clear();
    slabs_.clear();
  }
  std::size_t used() const { return used_; }

 private:
  static constexpr std::size_t kSlabRequests = 32;

  void grow() {
    slabs_.push_back(std::make_unique<Request[]>(kSlabRequests));
    for (std::size_t i = 0; i < kSlabRequests; ++i) free_.push_back(slabs_.back()[i]);
  }

  std::vector<std::unique_ptr<Request[]>> slabs_;
  List<Request, &Request::link> free_;
  std::size_t used_ = 0;
};

}  // namespace holdfast::nbd
