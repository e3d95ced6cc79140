// SPDX-License-Identifier: Apache-2.0
//
// How operations get at map leaves and what stands in them.
#pragma once

#include "volume/volume_impl.h"

namespace holdfast {

inline std::uint64_t leaf_of(std::uint64_t block) {
  return block / format::kMapEntriesPerPage;
}

inline std::byte* map_entry_bytes(std::byte* image, std::uint64_t block) {
  return format::map_entry_at(image,
                              static_cast<std::uint32_t>(block % format::kMapEntriesPerPage));
}

inline format::MapEntry map_entry_of(const Page& leaf, std::uint64_t block) {
  return format::load_map_entry(map_entry_bytes(leaf.image, block));
}

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
