// SPDX-License-Identifier: Apache-2.0
#include "cli/nbd_device.h"

#include <libnbd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace holdfast {
namespace {

// A request's length has 32 bits.
constexpr std::uint64_t kZeroBytesMax = 1 * kGiB;

Error last_error(const char* what) {
  const char* const why = nbd_get_error();
  return Error(ErrorCode::path_failure, std::string(what) + " holdfastd failed over NBD: " +
                                            (why == nullptr ? "unknown" : why));
}

}  // namespace

Result<std::unique_ptr<NbdDevice>> NbdDevice::connect(const std::string& socket,
                                                      const std::string& name) {
  nbd_handle* const handle = nbd_create();
  if (handle == nullptr) return last_error("talking to");
  std::unique_ptr<NbdDevice> device(new NbdDevice(handle));
  if (nbd_set_export_name(handle, name.c_str()) == -1 ||
      nbd_connect_unix(handle, socket.c_str()) == -1) {
    return last_error("connecting to");
  }
  return device;
}

NbdDevice::NbdDevice(nbd_handle* handle) : handle_(handle) {
  for (Request& request : requests_) request.device = this;
}

NbdDevice::~NbdDevice() {
  nbd_close(handle_);
}  // completes what is under way, with an error

int NbdDevice::completed(void* context, int* error) {
  Request& request = *static_cast<Request*>(context);
  NbdDevice& device = *request.device;
  request.is_under_way = false;
  --device.under_way_;
  if (*error != 0 && !device.failure_.has_value()) {
    device.failure_ = Error(ErrorCode::path_failure,
                            std::string("writing to holdfastd failed: ") + std::strerror(*error));
  }
  return 1;  // nobody asks for it again
}

Result<void> NbdDevice::outcome() const {
  if (failure_.has_value()) return *failure_;
  return {};
}

Result<void> NbdDevice::wait() {
  if (nbd_poll(handle_, -1) == -1) return last_error("writing to");
  return outcome();
}

Result<NbdDevice::Request*> NbdDevice::free_request() {
  TRY(outcome());
  while (under_way_ == kRequestsMax) TRY(wait());
  return &*std::find_if(requests_.begin(), requests_.end(),
                        [](const Request& request) { return !request.is_under_way; });
}

Result<void> NbdDevice::write(std::uint64_t offset_bytes, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::span<const std::byte> piece = bytes.first(std::min(bytes.size(), kPieceBytes));
    Request& request = *TRY(free_request());
    request.buffer.assign(piece.begin(), piece.end());
    request.is_under_way = true;
    ++under_way_;
    const nbd_completion_callback callback{completed, &request, nullptr};
    if (nbd_aio_pwrite(handle_, request.buffer.data(), piece.size(), offset_bytes, callback, 0) ==
        -1) {
      return last_error("writing to");
    }
    bytes = bytes.subspan(piece.size());
    offset_bytes += piece.size();
  }
  return {};
}

Result<void> NbdDevice::zero(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  while (length_bytes != 0) {
    const std::uint64_t piece_bytes = std::min(length_bytes, kZeroBytesMax);
    Request& request = *TRY(free_request());
    request.is_under_way = true;
    ++under_way_;
    const nbd_completion_callback callback{completed, &request, nullptr};
    if (nbd_aio_zero(handle_, piece_bytes, offset_bytes, callback, 0) == -1) {
      return last_error("writing to");
    }
    length_bytes -= piece_bytes;
    offset_bytes += piece_bytes;
  }
  return {};
}

Result<void> NbdDevice::drain() {
  while (under_way_ != 0) TRY(wait());
  return outcome();
}

Result<void> NbdDevice::flush() {
  TRY(drain());
  if (nbd_flush(handle_, 0) == -1) return last_error("writing to");
  return {};
}

Result<void> NbdDevice::read(std::uint64_t offset_bytes, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const std::span<std::byte> piece = bytes.first(std::min(bytes.size(), kPieceBytes));
    if (nbd_pread(handle_, piece.data(), piece.size(), offset_bytes, 0) == -1) {
      return last_error("reading from");
    }
    bytes = bytes.subspan(piece.size());
    offset_bytes += piece.size();
  }
  return {};
}

}  // namespace holdfast
