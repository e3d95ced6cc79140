// SPDX-License-Identifier: Apache-2.0
//
// How operations get at map leaves: shared by reads and writes.
#pragma once

#include "volume/volume_impl.h"

namespace holdfast {

template <typename Op>
void VolumeImpl::on_leaf(PageWaiter& waiter, PageOutcome outcome, Page*) {
  auto& op = *static_cast<Op*>(waiter.context);
  op.leaf.outcome = outcome;
  op.leaf.answered = outcome != PageOutcome::ready;  // a ready leaf is found again
  if (!op.leaf.loading) op.volume->walk(op);
}

template <typename Op>
Page* VolumeImpl::find_or_load_leaf(Op& op, std::uint64_t leaf, bool create) {
  if (op.leaf.answered) return nullptr;
  if (Page* page = map_.find_leaf(leaf); page != nullptr) return page;
  op.leaf.loading = true;
  map_.load_leaf(leaf, create, op.leaf.waiter);
  op.leaf.loading = false;
  return op.leaf.answered ? nullptr : map_.find_leaf(leaf);
}

}  // namespace holdfast
