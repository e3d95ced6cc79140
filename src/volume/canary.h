// SPDX-License-Identifier: Apache-2.0
//
// Deliberate bugs, off in every build but the simulator's canaries: the build definition
// HOLDFAST_CANARY=<number> turns one on, and the simulator must catch it (sim/CMakeLists.txt).
#pragma once

#ifndef HOLDFAST_CANARY
#define HOLDFAST_CANARY 0
#endif

namespace holdfast::canary {

inline constexpr bool kAcknowledgeBeforeCompletion = HOLDFAST_CANARY == 1;
inline constexpr bool kFlushWithoutSync = HOLDFAST_CANARY == 2;
inline constexpr bool kPublishBeforePagesAreDurable = HOLDFAST_CANARY == 3;
inline constexpr bool kIgnoreChecksums = HOLDFAST_CANARY == 4;
inline constexpr bool kFreeBeforeCheckpoint = HOLDFAST_CANARY == 5;
inline constexpr bool kMoveBeforeCopiesAreDurable = HOLDFAST_CANARY == 6;
inline constexpr bool kMoveWithoutLooking = HOLDFAST_CANARY == 7;
inline constexpr bool kUnwatchedFiles = HOLDFAST_CANARY == 8;
inline constexpr bool kRecycleBeforeCheckpoint = HOLDFAST_CANARY == 9;
inline constexpr bool kFreeWhatSnapshotsNeed = HOLDFAST_CANARY == 10;

}  // namespace holdfast::canary
