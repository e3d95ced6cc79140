// SPDX-License-Identifier: Apache-2.0
//
// What the cleaner of a volume has at hand: from the first victim until garbage is few enough, or
// nothing is worth it. Its memory: three buffers of half a MiB, and 24 bytes for each block of a
// cold segment.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "io/aligned_buffer.h"
#include "volume/volume_impl.h"

namespace holdfast {

struct VolumeImpl::Cleaning {
  struct Move {
    std::uint64_t block;
    format::BlockLocation from;
    format::BlockLocation to;
  };
  struct Live {           // of one record, as the map shows it
    std::uint32_t index;  // in the victim
    std::uint64_t block;
    format::MapEntry entry;
  };

  static constexpr std::size_t kRecordBytes =
      (1 + limits::kRecordPayloadBlocksMax) * std::size_t{kBlockBytes};

  explicit Cleaning(Executor& executor)
      : window(std::size_t{limits::kCleanerStepBlocksMax} * kBlockBytes),
        copies(kRecordBytes),
        copies_written(kRecordBytes),
        builder(copies.span(0, kBlockBytes)),
        write_done(executor) {}

  bool window_has(std::uint32_t index) const {
    return index >= window_first && index < window_first + window_blocks;
  }
  std::span<std::byte> window_block(std::uint32_t index) {
    return window.span((index - window_first) * kBlockBytes, kBlockBytes);
  }
  // Of victims: read, and not live any more once the round is settled.
  std::uint64_t garbage_blocks() const {
    const std::uint64_t passed = passed_blocks + finished_blocks;
    return passed - std::min<std::uint64_t>(passed, written.size() + gathered.size());
  }
  // Nothing of the round counts: the copies are not used.
  void give_up() {
    gathered.clear();
    written.clear();
    finished.clear();
    passed_blocks = finished_blocks = 0;
    builder = format::RecordBuilder(copies.span(0, kBlockBytes));
    failed = false;
  }

  // The victim.
  SegmentNumber victim;
  Segment* segment = nullptr;
  CleanerPace::Share share;
  bool victim_failed = false;
  AlignedBuffer window;  // what was read of it last
  std::uint32_t window_first = 0;
  std::uint32_t window_blocks = 0;
  std::uint64_t passed_blocks = 0;
  std::vector<Live> live;

  // The round: victims whose copies go to one cold segment, which is then synced once.
  AlignedBuffer copies;          // the record being filled
  AlignedBuffer copies_written;  // the one before it
  format::RecordBuilder builder;
  bool writing = false;  // copies_written is on its way
  Condition write_done;
  std::vector<Move> gathered;  // in that record
  std::vector<Move> written;   // in records before it, not yet moved
  struct Finished {
    SegmentNumber victim;
    std::uint64_t blocks;
  };
  std::vector<Finished> finished;     // victims read to their end, not settled
  std::uint64_t finished_blocks = 0;  // of them
  bool is_last = false;               // nothing will follow: no waiting for credit
  bool failed = false;                // the copies cannot be trusted
};

}  // namespace holdfast
