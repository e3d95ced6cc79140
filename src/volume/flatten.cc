// SPDX-License-Identifier: Apache-2.0
//
// Flattening: a clone comes to have every segment that it or one of its snapshots needs, and leaves
// its parent. docs/decisions/0018-flatten.md.
//
//   1. adopt what is foreign and needed, segment by segment (SegmentStore::adopt)
//   2. make that durable; a root is published that names no parent, if nothing foreign is needed in
//      the moment in which it is made (freeze); else again from 1
//   3. nobody reads from another directory any more; only then the mark beside the parent goes
//
// Until 3 the parent's snapshot keeps all that is being adopted. A crash leaves files that are
// found by the next listing: as adopted, if the segment table has an entry for them, else to be
// removed.
#include <algorithm>

#include "base/log.h"
#include "volume/volume_impl.h"

namespace holdfast {

Task<Result<FlattenPart>> VolumeImpl::flatten(Duration patience) {
  if (closing_ || flattening_) {
    co_return Error(ErrorCode::busy, closing_ ? "the volume is being closed"
                                              : "the volume is being flattened already");
  }
  if (is_view_) co_return Error(ErrorCode::invalid_argument, "a snapshot cannot be flattened");
  flattening_ = true;
  Result<FlattenPart> part = co_await flatten_some(patience);
  flattening_ = leaving_parent_ = false;
  drained_.notify_all();
  co_return part;
}

Task<Result<FlattenPart>> VolumeImpl::flatten_some(Duration patience) {
  const MonotonicTime deadline = executor_.now() + patience;
  FlattenPart part;
  while (!root_.parent.is_nil()) {
    const SegmentStore::Foreign foreign = store_.find_foreign(limits::kFlattenBatchSegments);
    part.left_segments = foreign.segments;
    part.left_bytes = foreign.bytes;
    for (const SegmentNumber number : foreign.first) {
      if (closing_) co_return Error(ErrorCode::busy, "the volume is being closed");
      const bool may_adopt = co_await await_fence();
      if (!may_adopt) co_return lost_error();
      CO_TRY(co_await adopt(number, &part));
      if (executor_.now() >= deadline) co_return part;
    }
    if (foreign.segments != 0) continue;
    CO_TRY(co_await store_.sync_adopted());
    leaving_parent_ = true;
    co_await checkpoint_now();
    leaving_parent_ = false;
    if (abandoned_) co_return lost_error();
  }
  if (!root_.lineage.empty()) {
    co_await store_.leave_other_places();
    const bool may_remove = co_await await_fence();
    if (!may_remove) co_return lost_error();
    CO_TRY(co_await remove_clone_marks());
    const bool is_certain = co_await await_fence();
    if (!is_certain) co_return lost_error();
  }
  part.is_done = true;
  co_return part;
}

Task<Result<void>> VolumeImpl::adopt(SegmentNumber number, FlattenPart* part) {
  const std::uint64_t bytes = std::uint64_t{store_.entry(number).used_blocks} * kBlockBytes;
  CO_TRY(co_await store_.adopt(number));
  ++part->adopted_segments;
  part->adopted_bytes += bytes;
  part->left_segments -= std::min<std::uint64_t>(part->left_segments, 1);
  part->left_bytes -= std::min(part->left_bytes, bytes);
  co_return Result<void>{};
}

// By what is there: the root that named the parent may have been replaced by a process that died
// before it came to this.
Task<Result<void>> VolumeImpl::remove_clone_marks() {
  const HoldTracker::Call call(hold_, "removal of a clone's mark");
  const VolumeId parent = root_.lineage.back().volume;
  Result<std::vector<CloneMark>> marks = co_await pool_.list_clone_marks(parent);
  if (!marks.ok() && marks.error().code() == ErrorCode::not_found) co_return Result<void>{};
  if (!marks.ok()) co_return marks.take_error();
  for (const CloneMark& mark : *marks) {
    if (mark.clone != id_) continue;
    CO_TRY(co_await pool_.remove_clone_mark(mark));
  }
  co_return Result<void>{};
}

}  // namespace holdfast
