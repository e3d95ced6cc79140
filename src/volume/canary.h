// SPDX-License-Identifier: Apache-2.0
//
// Deliberate bugs for the simulator to catch. They exist only where HOLDFAST_CANARIES is defined
// (holdfast-sim-canary, sim/CMakeLists.txt), which turns on the one that it is told to.
#pragma once

namespace holdfast::canary {

enum Bug {
  kNone,
  kAcknowledgeBeforeCompletion,
  kFlushWithoutSync,
  kPublishBeforePagesAreDurable,
  kIgnoreChecksums,
  kFreeBeforeCheckpoint,
  kMoveBeforeCopiesAreDurable,
  kMoveWithoutLooking,
  kUnwatchedFiles,
  kRecycleBeforeCheckpoint,
  kFreeWhatSnapshotsNeed,
  kForgetSnapshots,
  kAcknowledgePastDeadline,
  kRecycleOldEpochs,
  kServeUnsealed,
};

#ifdef HOLDFAST_CANARIES
inline Bug chosen = kNone;
#else
inline constexpr Bug chosen = kNone;
#endif

inline bool is_on(Bug bug) {
  return chosen == bug;
}

}  // namespace holdfast::canary
