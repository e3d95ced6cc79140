// SPDX-License-Identifier: Apache-2.0
//
// Every bound in the product, in one place. `holdfast status --json` and docs/ARCHITECTURE.md show
// those an operator may meet.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/time.h"
#include "base/units.h"

namespace holdfast::limits {

// Segments.
inline constexpr std::uint64_t kSegmentBytesDefault = 32 * kMiB;
inline constexpr std::uint64_t kSegmentBytesMin = 1 * kMiB;
inline constexpr std::uint64_t kSegmentBytesMax = 1 * kGiB;

// Volumes and pools.
inline constexpr std::uint64_t kVolumeBytesMin = kMiB;
inline constexpr std::uint64_t kVolumeBytesMax = 32 * kTiB;
inline constexpr std::size_t kNameBytesMax = 63;  // of a pool or a volume
inline constexpr std::size_t kVolumesPerPoolMax = 10'000;
inline constexpr std::size_t kPoolsMax = 64;

// Records: one header block, then payload.
inline constexpr std::uint32_t kRecordPayloadBlocksMax =
    127;  // with its header 512 KiB: records fill segments
inline constexpr std::uint32_t kAppendsInFlightMax = 8;  // of one volume's main log
// With this many in flight a record that is not full gathers more writes (group commit).
inline constexpr std::uint32_t kAppendsBeforeGathering = 1;
// While a guest flushes often, an append also zeroes this many blocks ahead, so that the syncs that
// follow find written extents and need no journal commit for each.
inline constexpr std::uint32_t kZeroAheadBlocks = 256;
inline constexpr std::uint32_t kPageAppendsInFlightMax = 4;  // of a checkpoint
// Acknowledged but not yet durable records kept in memory; reaching it starts a flush.
inline constexpr std::uint64_t kRetainedBytesMax = 32 * kMiB;

// Map page cache: resident pages of one volume, clean, dirty and frozen together. Soft by what one
// recovery or one checkpoint pins.
inline constexpr std::uint64_t kPageCacheBytesDefault = 64 * kMiB;
inline constexpr std::uint64_t kPageCacheBytesMin = 1 * kMiB;
// Pages that a volume may keep busy however crowded the cache is with those of other volumes.
inline constexpr std::uint64_t kPagesPerVolumeMin = 64;

// Checkpoints.
inline constexpr std::uint64_t kCheckpointLogBytes = 256 * kMiB;
inline constexpr Duration kCheckpointIdle = 2s;

// The cleaner: shares of garbage in sealed segments, in percent.
inline constexpr std::uint32_t kCleanerStartPercent = 30;
inline constexpr std::uint32_t kCleanerStopPercent = 28;
// Beside a busy guest it waits for so much more garbage, and is at its fastest with that much more.
inline constexpr std::uint32_t kCleanerBusyPercent = 20;
inline constexpr std::uint32_t kCleanerFullSpeedPercent = 50;
inline constexpr double kCleanerRestRatioMax = 6;  // rest per time of work
inline constexpr Duration kCleanerRestMax = 200ms;
inline constexpr Duration kCleanerIdleTime = 100ms;  // without requests: no rests either

// Thick volumes (docs/decisions/0015-thick-volumes.md): what is preallocated beyond the data. Of
// the space for data so much may be garbage before nothing is left to write to...
inline constexpr std::uint64_t kThickGarbagePercent = 30;
inline constexpr std::uint64_t kThickPageCopies = 3;    // ...of each page of map and table so many
inline constexpr std::uint64_t kThickOpenSegments = 6;  // being filled or next, of all streams
inline constexpr std::uint64_t kThickFreeSegments = 4;  // with fewer, the cleaner does not rest
inline constexpr std::uint64_t kThickColdSegments = 2;  // that the log leaves to the cleaner
inline constexpr Duration kThickPollTime = 5ms;  // a log that waits for a segment looks so often
inline constexpr Duration kThickPoolTime = 2s;   // then it asks the pool, each time...
inline constexpr Duration kThickHoldTime = 30s;  // ...and then it counts as held
inline constexpr Duration kPreallocationCheckTime = 15s;  // is a thick volume still complete?

// Requests inside one volume at a time; more wait in the submitter's own objects.
inline constexpr std::size_t kVolumeRequestsMax = 1024;
inline constexpr std::size_t kVolumeReadsInFlightMax = 512;  // disk reads
inline constexpr std::uint32_t kReadBlocksMax = 128;         // of one disk read
inline constexpr std::uint32_t kReadVectorsMax = 130;        // a page each, at any alignment
// Leaves that one record pins, and leaves that one request walks before others have a turn.
inline constexpr std::size_t kRecordLeavesMax = 128;
inline constexpr std::uint32_t kLeavesPerTurnMax = 512;

// Files.
inline constexpr std::size_t kOpenSegmentsMax = 1024;  // file handles kept per volume

// Holding.
inline constexpr Duration kRetryDelayMin = 50ms;
inline constexpr Duration kRetryDelayMax = 1s;

// Space kept for metadata, deletes and the cleaner: max(1 GiB, 1 %), at most 1/8 of a tiny pool.
inline constexpr std::uint64_t kReserveBytesMin = 1 * kGiB;
inline constexpr std::uint64_t kReservePercent = 1;
inline constexpr std::uint64_t kReserveTinyPoolDivisor = 8;

// NBD.
inline constexpr std::uint32_t kNbdRequestBytesMax = 32 * kMiB;
inline constexpr std::size_t kNbdConnectionsPerExportMax = 64;
inline constexpr std::size_t kNbdRequestsPerConnectionMax = 256;
inline constexpr std::uint64_t kNbdBufferBytesPerConnectionMax = 64 * kMiB;
// Shared out evenly among an export's connections. Whatever the others hold, each may always have
// the guaranteed bytes, or one request of any size.
inline constexpr std::uint64_t kNbdBufferBytesPerExportMax = 96 * kMiB;
inline constexpr std::uint64_t kNbdBufferBytesGuaranteed = 1 * kMiB;
inline constexpr std::uint64_t kNbdPooledBytesMax = 16 * kMiB;  // free buffers an export keeps
inline constexpr Duration kNbdPoolIdleTime = 1s;                // after which it keeps none
inline constexpr Duration kNbdDrainTime = 10s;  // for a peer to take its last replies
inline constexpr std::size_t kNbdOptionBytesMax = 4096;
inline constexpr std::size_t kNbdOptionsPerHandshakeMax = 64;
inline constexpr Duration kNbdHandshakeTime = 10s;
inline constexpr std::size_t kNbdBlockStatusExtentsMax = 1024;

// vhost-user-blk.
inline constexpr std::uint32_t kVhostQueuesMax = 64;
inline constexpr std::uint32_t kVhostQueueSizeMax = 1024;  // descriptors of one queue
// What a guest is told that one request may have; and what is accepted, header and status included.
inline constexpr std::uint32_t kVhostSegmentsPerRequest = 126;
inline constexpr std::size_t kVhostVectorsPerRequestMax = 256;
inline constexpr std::uint64_t kVhostRequestBytesMax = 32 * kMiB;
inline constexpr std::uint32_t kVhostDiscardSegmentsMax = 32;
inline constexpr std::uint64_t kVhostDiscardBytesMax = 1 * kGiB;  // of one segment
inline constexpr std::size_t kVhostLongRequestsMax = 1024;  // of one session, with many vectors
inline constexpr std::size_t kVhostMemoryRegionsMax = 64;
// A region that is taken away is still found for so long: it may come back with other bounds.
inline constexpr Duration kVhostRegionLeaveTime = 1s;
inline constexpr std::size_t kVhostMessageBytesMax = 4096;
inline constexpr std::size_t kVhostSessionsMax = 4;  // of one volume; one of them runs its queues
inline constexpr Duration kVhostPollTimeMax = 32us;  // looks for new requests before it sleeps
inline constexpr Duration kVhostPollTimeMin = 4us;
inline constexpr std::size_t kSharedMappingsMax = 8192;  // of the whole daemon

// Control interface.
inline constexpr std::size_t kApiBodyBytesMax = 1 * kMiB;
inline constexpr std::size_t kApiThreads = 4;
inline constexpr std::size_t kApiConnectionsWaitingMax = 64;  // more wait in the kernel's backlog
inline constexpr Duration kApiSocketTime = 5s;                // for a client to send its request
inline constexpr Duration kApiAnswerTime = 60s;               // then the answer is "still at it"

// The host.
inline constexpr std::size_t kAttachmentsMax = 1024;
inline constexpr std::size_t kServiceLoopsDefaultMax = 4;  // threads for volumes: one per core
inline constexpr std::size_t kServiceLoopsMax = 64;
inline constexpr std::size_t kOpensPerPoolAndLoopMax = 8;  // volumes that recover at a time
inline constexpr Duration kRestoreTime = 15s;  // a start waits this long for pools that hang
inline constexpr Duration kReopenDelayMin = 500ms;
inline constexpr Duration kReopenDelayMax = 15s;
inline constexpr Duration kStatusTime = 1s;  // `status` waits this long for pools and loops
inline constexpr Duration kDetachTime = 5s;  // then a detach goes on in the background
inline constexpr Duration kStopTime = 20s;   // a clean stop; then as a crash: nothing is lost
inline constexpr std::size_t kStateFileBytes = 512 * kKiB;  // each of two, allocated beforehand

// Logs.
inline constexpr std::uint64_t kLogFileBytesMax = 4 * kMiB;
inline constexpr std::size_t kLogFilesMax = 4;
inline constexpr std::size_t kLogQueueMessagesMax = 1024;
inline constexpr std::size_t kLogMessageBytesMax = 2048;
inline constexpr std::size_t kLogRecentMessagesMax = 32;  // whose repetitions are only counted
inline constexpr Duration kLogRepeatTime = 10s;
inline constexpr std::uint64_t kLogLinesPerSecondMax = 200;

}  // namespace holdfast::limits
