// SPDX-License-Identifier: Apache-2.0
//
// A file in RADOS objects: a segment, which takes turns of a stripe on several of them, or a lease
// area in one. What RADOS has acknowledged is durable, so a sync has nothing to do.
//
// The objects are made before anything is written; a write never makes one, so that it cannot
// bring back what was removed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/executor.h"
#include "io/file_system.h"
#include "io/rados_client.h"

namespace holdfast {

struct RadosFileLayout {
  std::vector<std::string> objects;
  std::uint64_t stripe_bytes = 0;
  std::uint64_t length_bytes = 0;
  // What was not written, and an object that is not there, reads as zeros; else as behind the end.
  bool has_gaps = false;
  RadosLane lane = RadosLane::data;
};

class RadosFile final : public File {
 public:
  RadosFile(Executor& executor, RadosClient& client, RadosFileLayout layout)
      : executor_(executor), client_(client), layout_(std::move(layout)) {}
  ~RadosFile() override;

  bool is_faster_once_written() const override { return false; }

 private:
  struct Operation;
  struct Piece;

  void start(FileRequest& request) override;
  void complete_soon(FileRequest& request, int error);
  void split(FileRequest& request, Operation& operation);
  static void piece_done(RadosTransfer& transfer);

  Executor& executor_;
  RadosClient& client_;
  const RadosFileLayout layout_;
  std::uint32_t in_flight_ = 0;
};

}  // namespace holdfast
