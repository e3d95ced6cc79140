// SPDX-License-Identifier: Apache-2.0
//
// CheckedDevice: asserts the contract of block_device.h around any device, on both sides. Wrapped
// around devices in tests, in the simulator and in debug runs; the cost is one map entry per
// request.
//
// Of the frontend: a request is complete and not in flight already, its buffers are as long as it
// says, and nobody touches it before on_complete. Of the device: one completion per request, never
// from inside submit() or cancel(), `cancelled` only when asked for, ok only inside the device;
// extents as promised. Of both: the device outlives its requests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "block/block_device.h"

namespace holdfast {

class CheckedDevice final : public BlockDevice {
 public:
  explicit CheckedDevice(BlockDevice& device) : device_(device) {}
  ~CheckedDevice() override;

  const BlockDeviceInfo& info() const override { return device_.info(); }
  void submit(BlockRequest& request) override;
  bool is_holding() const override { return device_.is_holding(); }
  void cancel(BlockRequest& request) override;
  Task<Result<std::vector<BlockExtent>>> block_status(std::uint64_t offset_bytes,
                                                      std::uint64_t length_bytes,
                                                      std::size_t extents_max) override;

  std::size_t in_flight_count() const { return in_flight_.size(); }

 private:
  // What the frontend submitted; compared when the request completes.
  struct InFlight {
    BlockOperation operation;
    bool force_unit_access;
    bool keep_allocated;
    std::uint64_t offset_bytes;
    std::uint64_t length_bytes;
    const iovec* buffers;
    std::size_t buffer_count;
    BlockRequest::Callback on_complete;
    void* context;
    std::uint64_t size_bytes_at_submit;
    bool is_cancelled = false;
  };

  static void completed(BlockRequest& request, BlockStatus status);
  void check_completion(const BlockRequest& request, const InFlight& submitted,
                        BlockStatus status) const;

  BlockDevice& device_;
  std::unordered_map<BlockRequest*, InFlight> in_flight_;
  std::size_t status_calls_ = 0;
  bool calling_ = false;  // into submit() or cancel()
};

}  // namespace holdfast
