// SPDX-License-Identifier: Apache-2.0
//
// The client's end of an NBD export (libnbd), for images in and out. One thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"

struct nbd_handle;

namespace holdfast {

class NbdDevice {
 public:
  static constexpr std::size_t kPieceBytes = 1 * kMiB;  // of one request
  static constexpr std::size_t kRequestsMax = 8;        // under way

  static Result<std::unique_ptr<NbdDevice>> connect(const std::string& socket,
                                                    const std::string& name);
  NbdDevice(const NbdDevice&) = delete;
  NbdDevice& operator=(const NbdDevice&) = delete;
  ~NbdDevice();

  // These return before it is done, in no order; a failure is told by a later call, the last of
  // them flush(). The bytes are copied.
  Result<void> write(std::uint64_t offset_bytes, std::span<const std::byte> bytes);
  Result<void> zero(std::uint64_t offset_bytes, std::uint64_t length_bytes);
  // Everything before this is done, and in the order of what comes after it.
  Result<void> drain();
  Result<void> flush();  // the same, and durable

  Result<void> read(std::uint64_t offset_bytes, std::span<std::byte> bytes);

 private:
  struct Request {
    NbdDevice* device = nullptr;
    std::vector<std::byte> buffer;
    bool is_under_way = false;
  };

  explicit NbdDevice(nbd_handle* handle);
  static int completed(void* context, int* error);
  Result<Request*> free_request();
  Result<void> wait();
  Result<void> outcome() const;

  nbd_handle* const handle_;
  std::array<Request, kRequestsMax> requests_;
  std::size_t under_way_ = 0;
  std::optional<Error> failure_;
};

}  // namespace holdfast
