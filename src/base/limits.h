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
inline constexpr std::size_t kSnapshotsPerVolumeMax = 4096;
inline constexpr std::size_t kSnapshotGroupMax = 64;  // volumes whose snapshots are one moment
inline constexpr Duration kSnapshotPauseTime = 5s;    // for their requests to come to an end
inline constexpr std::size_t kDiffExtentsMax = 8192;  // of one answer; the next continues
inline constexpr std::size_t kFlattenBatchSegments = 4096;  // found by one look at the table
inline constexpr Duration kFlattenStepTime = 500ms;     // other commands on the volume wait for it
inline constexpr std::size_t kFlattensMax = 16;         // at a time
inline constexpr std::size_t kFlattenReportsMax = 256;  // of flattenings that have ended
inline constexpr std::size_t kCloneDepthMax = 1000;  // ancestors whose segments a clone refers to

// Pools on Ceph. A segment is several objects, in turns of a stripe, of at most so many bytes.
inline constexpr std::uint64_t kRadosStripeBytes = 512 * kKiB;  // a full record
inline constexpr std::uint64_t kRadosObjectBytesMax = 8 * kMiB;
inline constexpr std::uint64_t kRadosObjectsPerSegmentMin = 4;
inline constexpr std::uint32_t kRadosMonitorTimeoutSeconds = 10;
inline constexpr std::uint64_t kRadosValuesPerRead = 1000;
inline constexpr std::size_t kRadosAttributeBytesMax = 4096;
inline constexpr std::size_t kRadosRecordBytesMax = 64 * kKiB;  // of the pool's own object
inline constexpr std::uint32_t kRadosTriesMax = 8;  // of a change that others came before
inline constexpr Duration kRadosSpaceTime = 2s;     // figures as old are asked for again
inline constexpr Duration kRadosSpaceAgeMax = 60s;  // older ones are not shown
inline constexpr Duration kRadosSpaceLag = 8s;      // until what was written shows in them
inline constexpr std::size_t kRadosTakenMax = 4096;
inline constexpr Duration kRadosCloseTime = 2s;  // then what is not answered stays behind

// Leases of shared pools. sanlock keeps N in eight bits.
inline constexpr std::uint16_t kLeaseIoTimeoutSecondsDefault = 5;  // N
inline constexpr std::uint16_t kLeaseIoTimeoutSecondsMin = 1;
inline constexpr std::uint16_t kLeaseIoTimeoutSecondsMax = 120;
inline constexpr std::uint16_t kLeaseWatchdogSecondsMax = 3600;  // W
inline constexpr Duration kHandOverTime = 10s;    // until requests that were begun have ended
inline constexpr Duration kHandOverQuiet = 20ms;  // without requests: the machine has stopped
inline constexpr Duration kHandOverPatience = 30s;
inline constexpr Duration kLeaseMargin = 1s;    // a holder stops before others may think it dead
inline constexpr Duration kLeaseLookTime = 1s;  // between looks at the host leases
inline constexpr Duration kLeaseRequestTime = 10ms;  // at requests, while one is announced
inline constexpr Duration kLeaseRequestRepeat = 300ms;
inline constexpr Duration kLeaseBallotJitter = 100ms;
inline constexpr std::uint32_t kLeaseBallotRounds = 16;
inline constexpr std::uint32_t kLeaseAcquireTries = 8;
inline constexpr Duration kLeaseShortHoldTime = 5s;  // one who only begins to share it has it
inline constexpr std::uint32_t kLeaseClaimTries = 8;
inline constexpr std::size_t kLeaseRenewalsKept = 180;

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

inline constexpr std::size_t kRemovalsPerCheckpointMax = 256;  // segments; the rest by the next one

// The cleaner: shares of garbage in sealed segments, in percent.
inline constexpr std::uint32_t kCleanerStartPercent = 30;
inline constexpr std::uint32_t kCleanerStopPercent = 28;
// Its haste beside a busy guest: 1 at the start, where it frees as much as the guest takes, and 1
// more for every so many points of garbage beyond, up to a bound.
inline constexpr double kCleanerHastePercent = 2;
inline constexpr double kCleanerHasteMax = 3;
// So much beyond the start, a guest that the cleaner cannot keep up with waits for it: each write
// at most so long.
inline constexpr double kCleanerPressurePercent = 5;
inline constexpr Duration kCleanerPressureTimeMax = 20ms;
inline constexpr double kCleanerCreditBlocksMax = 4096;  // of transfers: how far it may fall behind
inline constexpr double kCleanerIdleBlocksPerSecond = 640;  // beside a guest that does not write
inline constexpr double kCleanerVictimLiveMax = 0.95;       // of its blocks: more is not worth it
// One request of its own at a time to the disk, of at most so many blocks. When it is behind, or
// nobody else wants the disk, larger ones, and a read and a write at a time.
inline constexpr std::uint32_t kCleanerStepBlocks = 32;
inline constexpr std::uint32_t kCleanerStepBlocksMax = 128;
inline constexpr std::size_t kCleanerMovesPerTurnMax = 128;  // map entries
inline constexpr std::size_t kCleanerPagesPerTurnMax = 64;   // of the segment table, looked through
inline constexpr std::size_t kCleanersPerLoopMax = 8;        // volumes that clean at a time
inline constexpr std::size_t kUrgentCleanersPerLoopMax = 8;  // more, whose guests wait for space
// Garbage whose segments wait for a checkpoint: an eighth of all segments, within these bounds.
inline constexpr std::uint64_t kUnfreedSegmentsMin = 4;
inline constexpr std::uint64_t kUnfreedBytesMax = 512 * kMiB;
inline constexpr std::uint64_t kUnfreedShareDivisor = 8;
inline constexpr Duration kCleanerIdleTime = 100ms;  // without requests: no rests either
// After trims, once the guest is idle, it goes on until so little garbage is left.
inline constexpr std::uint32_t kCleanerIdlePercent = 3;

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

// Pages of the segment table of a volume that is not open which are looked through to tell its
// garbage: 64,512 segments, 2 TiB in those of 32 MiB.
inline constexpr std::size_t kStoredTablePagesMax = 512;

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

// Kernel threads of one loop for calls that block, such as syncs; and how many of those one storage
// may have, so that one that hangs leaves the others theirs.
inline constexpr unsigned kLoopWorkersMax = 1024;
inline constexpr std::uint32_t kDiskSyncsInFlightMax = 64;

// Holding.
inline constexpr Duration kRetryDelayMin = 50ms;
inline constexpr Duration kRetryDelayMax = 1s;
// An operation that takes longer shows its volume as held: the storage does not answer.
inline constexpr Duration kStallTime = 3s;
inline constexpr Duration kStallCheckInterval = 1s;         // while anything is in flight
inline constexpr Duration kStallCheckIntervalHeld = 200ms;  // while the storage does not answer
inline constexpr Duration kStallReminderDelay = 1min;  // then one more line, then twice as late
inline constexpr Duration kStallLogInterval = 30s;     // between stalls that are logged
inline constexpr Duration kFencePollTime = 10ms;  // a volume that waits for its lease looks at it
inline constexpr Duration kHeldLookTime = 100ms;  // what stops looks so often whether it is held

// What is done about requests that are held (host/hold_policy.h).
inline constexpr Duration kPauseAfterDefault = 25s;  // the timers of guests' disks are 30 s
inline constexpr Duration kHoldTimeMin = 1s;         // that may be configured
inline constexpr Duration kHoldTimeMax = 24h;
inline constexpr Duration kHoldWatchTime = 500ms;        // how often the host looks at what is held
inline constexpr std::size_t kVolumeSettingsMax = 1024;  // volumes with settings of their own

// Pausing virtual machines over QMP.
inline constexpr std::size_t kQmpMessageBytesMax = 64 * kKiB;
inline constexpr std::size_t kQmpReceiveBytes = 4096;
inline constexpr std::size_t kQmpEventsMax = 64;  // not yet looked at
inline constexpr std::size_t kQmpShownBytesMax = 200;
inline constexpr Duration kQmpTime = 5s;  // for a greeting, to take a command, to answer it
inline constexpr Duration kQmpRetryDelayMin = 1s;
inline constexpr Duration kQmpRetryDelayMax = 15s;
inline constexpr Duration kPauseSaveTime = 5s;  // for the state's disk; then it goes on without
// A machine that is resumed again within this time of the last resume has to wait for requests to
// flow steadily, each time twice as long.
inline constexpr Duration kResumeQuietTime = 600s;
inline constexpr Duration kResumeSteadyTimeMin = 2s;
inline constexpr Duration kResumeSteadyTimeMax = 60s;

// Space kept for metadata, deletes and the cleaner: max(1 GiB, 1 %), at most 1/8 of a tiny pool.
inline constexpr std::uint64_t kReserveBytesMin = 1 * kGiB;
inline constexpr std::uint64_t kReservePercent = 1;
inline constexpr std::uint64_t kReserveTinyPoolDivisor = 8;
// Of the reserve, what a guest's log may take while a discard waits in it: it frees more.
inline constexpr std::uint64_t kReserveForDiscardsDivisor = 2;

// Accounting. Percentages are of what is not the reserve: 100 is where guests' writes are held.
inline constexpr std::uint32_t kSpaceWarnPercent = 80;
inline constexpr std::uint32_t kSpaceCriticalPercent = 90;
inline constexpr std::uint32_t kSpaceLevelHysteresisPercent = 2;  // so far below to leave a level
inline constexpr Duration kSpaceLevelCalmTime = 10s;              // so long to say so in the log
inline constexpr Duration kSpaceWatchTime = 1s;  // between looks at a pool's free space
// What volumes take is counted when somebody asks, at most so often, and at most a tenth of the
// time: it means a look at every file.
inline constexpr Duration kSpaceCountTime = 1s;
inline constexpr std::int64_t kSpaceCountRestFactor = 10;
// While space is short, checkpoints that free dead segments come no closer than this.
inline constexpr Duration kSpaceCheckpointTime = 250ms;
// The trash (docs/decisions/0019-trash.md).
inline constexpr Duration kTrashDeferDefault = std::chrono::hours(72);  // over a weekend
inline constexpr Duration kTrashDeferMax = std::chrono::hours(24 * 3650);
inline constexpr std::size_t kTrashPerPoolMax = 10'000;  // volumes
inline constexpr Duration kTrashRetryTime = 60s;         // after a removal that failed
// Growth: a sample a minute for an hour, and one an hour for four days.
inline constexpr Duration kTrendMinute = 60s;
inline constexpr Duration kTrendHour = 3600s;
inline constexpr std::size_t kTrendMinutesMax = 60;
inline constexpr std::size_t kTrendHoursMax = 96;
inline constexpr std::size_t kTrendSamplesMin = 5;  // with fewer no trend is told
inline constexpr Duration kTimeToFullMax = std::chrono::hours(24 * 3650);  // further off: not told

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
inline constexpr std::uint64_t kVhostLogBytesMax = 256 * kMiB;  // of guest addresses up to 8 TiB
inline constexpr std::size_t kVhostSessionsMax = 4;  // of one volume; one of them runs its queues
inline constexpr Duration kVhostPollTimeMax = 32us;  // looks for new requests before it sleeps
inline constexpr Duration kVhostPollTimeMin = 4us;
inline constexpr std::size_t kSharedMappingsMax = 8192;  // of the whole daemon

// Images in and out.
inline constexpr std::size_t kRbdNameBytesMax = 4096;  // of a snapshot, in a stream of `rbd`
inline constexpr std::size_t kTransfersMax = 64;       // imports and exports at a time
// One whose program has gone (it has no connection any more) is undone after so long; one whose
// program never came, later.
inline constexpr Duration kTransferGoneTime = 1s;
inline constexpr Duration kTransferStartTime = 10s;
inline constexpr Duration kTransferWatchTime = 500ms;  // between looks
inline constexpr Duration kTransferRetryTime = 5s;     // after undoing one failed

// Control interface.
inline constexpr std::size_t kApiBodyBytesMax = 1 * kMiB;
inline constexpr std::size_t kApiThreads = 4;
inline constexpr std::size_t kApiConnectionsWaitingMax = 64;  // more wait in the kernel's backlog
inline constexpr Duration kApiSocketTime = 5s;                // for a client to send its request
inline constexpr Duration kApiAnswerTime = 60s;               // then the answer is "still at it"

// Shared pools: what an operator may ask for.
inline constexpr std::size_t kHostNameBytesMax = 48;  // sanlock's

// The host.
inline constexpr std::size_t kAttachmentsMax = 1024;
inline constexpr std::size_t kServiceLoopsDefaultMax = 4;  // threads for volumes: one per core
inline constexpr std::size_t kServiceLoopsMax = 64;
inline constexpr std::size_t kOpensPerPoolAndLoopMax = 8;  // volumes that recover at a time
inline constexpr Duration kRestoreTime = 15s;  // a start waits this long for pools that hang
inline constexpr Duration kReopenDelayMin = 500ms;
inline constexpr Duration kReopenDelayMax = 15s;
inline constexpr Duration kStatusTime = 1s;  // `status` waits this long for pools and loops
inline constexpr std::size_t kLookUpsPerPoolMax = 4;  // that wait for storage which does not answer
inline constexpr Duration kDetachTime = 5s;           // then a detach goes on in the background
inline constexpr Duration kHeldDetachTime = 1s;       // the same while the volume is held
inline constexpr Duration kHeldStopTime = 2s;         // a stop while all that is left is held
inline constexpr Duration kStopTime = 20s;  // a clean stop; then as a crash: nothing is lost
inline constexpr std::size_t kStateFileBytes = 1 * kMiB;  // each of two, allocated beforehand

// Logs.
inline constexpr std::uint64_t kLogFileBytesMax = 4 * kMiB;
inline constexpr std::size_t kLogFilesMax = 4;
inline constexpr std::size_t kLogQueueMessagesMax = 1024;
inline constexpr std::size_t kLogMessageBytesMax = 2048;
inline constexpr std::size_t kLogRecentMessagesMax = 32;  // whose repetitions are only counted
inline constexpr Duration kLogRepeatTime = 10s;
inline constexpr std::uint64_t kLogLinesPerSecondMax = 200;

}  // namespace holdfast::limits
