// SPDX-License-Identifier: Apache-2.0
//
// DeferredDevice: stands between frontends and a device that is not there yet, or not any more. It
// is what a volume's socket serves while its ownership is on the way from one host to another: what
// clients ask for waits, in order, and they see nothing of it.
//
//   waiting <-> connected; either -> closed
//
// Waiting: requests are kept. The first one tells the owner, once for each time of waiting, so that
// it can see about a device. Connected: everything is the device's, at the cost of one call.
// Closed: what waits and what comes is answered with `shutting_down`.
//
// How an owner takes the device away: disconnect(); from then on nothing new reaches it. What it
// has in flight it answers as before (and is_holding() and cancel() still are about that). Once all
// that frontends have in flight waits here (waiting_count()) and status_call_count() is 0, it may
// be closed, then forget().
//
// Thread: the executor's. Lifetime: a device outlives its connection, up to forget(), connect() of
// another one, or the end of the requests and calls that reached it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "block/block_device.h"
#include "io/executor.h"

namespace holdfast {

class DeferredDevice final : public BlockDevice {
 public:
  // `info` is what frontends are told until a device is connected, which says what holds from then
  // on. `wanted` is called from the executor, never from inside submit().
  DeferredDevice(Executor& executor, BlockDeviceInfo info, Deferred::Callback wanted,
                 void* context);
  ~DeferredDevice() override;  // nothing waits

  // Submits what waits. The size may be another than before: frontends want to be told.
  void connect(BlockDevice& device);
  void disconnect();
  void forget();
  void close();

  bool is_connected() const { return state_ == State::connected; }
  // Requests that have not reached a device, and those of them that are being answered.
  std::size_t waiting_count() const { return waiting_count_; }
  // Of block_status(), in the device.
  std::size_t status_call_count() const { return status_calls_; }

  const BlockDeviceInfo& info() const override;
  void submit(BlockRequest& request) override;
  bool is_holding() const override;
  void cancel(BlockRequest& request) override;
  // Without a device: that there may be data everywhere, which is never wrong.
  Task<Result<std::vector<BlockExtent>>> block_status(std::uint64_t offset_bytes,
                                                      std::uint64_t length_bytes,
                                                      std::size_t extents_max) override;

 private:
  enum class State : std::uint8_t { waiting, connected, closed };

  void answer();

  Executor& executor_;
  BlockDeviceInfo info_;
  State state_ = State::waiting;
  // Connected to, or still busy with what it had in flight. Null: there is none.
  BlockDevice* device_ = nullptr;
  std::size_t status_calls_ = 0;
  bool has_told_ = false;

  std::size_t waiting_count_ = 0;
  List<BlockRequest, &BlockRequest::device_link> waiting_;
  List<BlockRequest, &BlockRequest::device_link> cancelled_;  // to be answered so
  Deferred wanted_;
  Deferred answer_{[](void* self) { static_cast<DeferredDevice*>(self)->answer(); }, this};
};

}  // namespace holdfast
