// SPDX-License-Identifier: Apache-2.0
//
// The cleaner's schedule: when it works, on which segment, and how fast, beside a guest that it
// must not be felt by. What it does to a segment is in cleaner.cc, the arithmetic of the pace in
// cleaner_pace.h.
//
//   - It works while garbage is beyond the start, until it is below the stop; a volume that is held
//     for want of space cleans whatever is worth it, without rests.
//   - Beside a busy guest each step is paid for by what the guest writes (await_credit). A guest
//     that does not write leaves time to pay; one that is idle leaves the disk to it.
//   - A guest that it cannot keep up with waits for it, a few milliseconds at a time, once garbage
//     is far beyond the start: so the space that a volume takes is bounded.
#include <algorithm>
#include <cmath>
#include <optional>

#include "base/log.h"
#include "volume/cleaning.h"
#include "volume/volume_impl.h"

namespace holdfast {

using format::SegmentEntry;
using format::SegmentState;
using format::SegmentStream;

namespace {

// A victim must be worth its checkpoint.
constexpr std::uint32_t kGarbagePercentMin = 5;
// Victims taken from one look at the segment table: few, so that they are still the best when their
// turn comes.
constexpr std::size_t kCandidatesMax = 8;
constexpr std::uint64_t kSegmentsPerCandidate = 64;
constexpr Duration kTick = 10ms;       // how often somebody who waits looks again
constexpr Duration kTurnWait = 200ms;  // there may be a thousand volumes that wait for a turn
constexpr Duration kUrgentTurnWait = 20ms;

}  // namespace

// --- When ---

// What has been read of victims and was garbage counts as freed: else the cleaner would hurry for
// the sake of what it has done.
CleanerPace::Share VolumeImpl::sealed_share() const {
  const std::uint64_t garbage = store_.sealed_blocks() - store_.sealed_live_blocks();
  const std::uint64_t done = std::min(cleaned_garbage_blocks_, garbage);
  return {store_.sealed_blocks() - done, store_.sealed_live_blocks()};
}

// No request for as long as a checkpoint waits for.
bool VolumeImpl::guest_rests() const {
  return requests_active_ == 0 && executor_.now() - last_request_ >= options_.checkpoint_idle;
}

// A guest that trims wants the space back, more than `percent` would give; to copy for it is worth
// it once for each such share of the volume that was trimmed, and while the guest does not mind.
bool VolumeImpl::wants_cleaning(std::uint32_t percent) const {
  const std::uint64_t idle_percent = options_.cleaner_idle_percent;
  const CleanerPace::Share share = sealed_share();
  if (space_is_short() || scarcity() > 0) {
    percent = std::min(percent, kGarbagePercentMin);
  } else if (guest_rests() && trimmed_blocks_ * 100 > share.blocks * idle_percent) {
    percent = std::min(percent, options_.cleaner_idle_percent);
  }
  return share.garbage_percent() > percent;
}

// Called whenever garbage may have grown.
void VolumeImpl::maybe_clean() {
  if (cleaning_ || has_ended_cleaning() || !serving_) return;
  if (options_.cleaner_start_percent > 100 && !store_.is_thick()) return;
  if (!wants_cleaning(options_.cleaner_start_percent)) return;
  // Nothing was worth it, and nothing has been added since.
  const bool may_want_more =
      space_is_short() || scarcity() > 0 || (trimmed_blocks_ != 0 && guest_rests());
  if (store_.next_number().value == fruitless_at_ && !may_want_more) return;
  cleaning_ = true;
  tasks_.spawn(clean());
}

Task<void> VolumeImpl::clean() {
  CleanerTurns::Turn turn;
  while (!has_ended_cleaning() && !turn.take(turns_, cleaning_is_urgent())) {
    co_await sleep_for(executor_, cleaning_is_urgent() ? kUrgentTurnWait : kTurnWait);
  }
  Cleaning cleaning(executor_);
  Backoff backoff;
  pace_.begin(executor_.now());
  cleaner_works_ = true;
  while (!has_ended_cleaning() && wants_cleaning(options_.cleaner_stop_percent)) {
    const SegmentNumber victim = co_await next_victim();
    if (victim.value == 0) {
      fruitless_at_ = store_.next_number().value;
      break;
    }
    co_await look_at_pool();
    victims_.insert(victim.value);
    const bool is_done = co_await clean_segment(cleaning, victim);
    cleaned_garbage_blocks_ = cleaning.garbage_blocks();
    if (!is_done) {
      cleaner_works_ = false;
      release_pressed_writes();
      co_await sleep_for(executor_, backoff.next());
      cleaner_works_ = true;
      continue;
    }
    backoff = Backoff();
    // Space comes back with a checkpoint; without need the next one that is due will do.
    const bool frees =
        space_is_short() || scarcity() > 0.5 || (guest_rests() && has_much_unfreed());
    if (frees) co_await settle_and_free(cleaning);
  }
  cleaning.is_last = true;
  co_await settle(cleaning);
  cleaned_garbage_blocks_ = 0;
  cleaner_works_ = cleaning_ = false;
  executor_.cancel(clean_timer_);
  release_pressed_writes();
  if (guest_rests() && !closing_) {
    trimmed_blocks_ = 0;                       // caught up
    if (!victims_.empty()) want_checkpoint();  // no guest's would come to free them
  } else if (trimmed_blocks_ != 0 && !closing_ && !idle_timer_.is_armed()) {
    executor_.arm(idle_timer_, executor_.now() + options_.checkpoint_idle);
  }
  drained_.notify_all();
}

// Of a thick volume: 0 while it has enough segments to write to, 1 with none to spare.
double VolumeImpl::scarcity() const {
  if (!store_.is_preallocated()) return 0;
  const auto free = static_cast<double>(store_.free_spares());
  constexpr auto kScarce = static_cast<double>(limits::kThickFreeSegments) / 2;
  const double plenty =
      kScarce + 1 + static_cast<double>(store_.segment_count() + store_.spare_count()) / 16;
  return std::clamp((plenty - free) / (plenty - kScarce), 0.0, 1.0);
}

// The log waits for a segment.
void VolumeImpl::on_scarcity() {
  if (!checkpoint_running_ && !store_.dead_candidates().empty()) want_checkpoint();
  credit_earned_.notify_all();
  maybe_clean();
}

// A volume that is being closed has requests to finish, which may need what is cleaned.
bool VolumeImpl::has_ended_cleaning() const {
  if (rolling_back_ || abandoned_) return true;
  return closing_ && (!store_.is_thick() || (requests_active_ == 0 && log_.everything_synced()));
}

// Guests wait for what is cleaned, or soon will.
bool VolumeImpl::cleaning_is_urgent() const {
  return space_is_short() || scarcity() > 0;
}

Task<void> VolumeImpl::settle_and_free(Cleaning& cleaning) {
  cleaning.is_last = true;
  co_await settle(cleaning);
  cleaning.is_last = false;
  co_await checkpoint_for_room();
}

// Garbage that waits for a checkpoint is bounded too.
bool VolumeImpl::has_much_unfreed() const {
  const std::uint64_t most =
      std::max(limits::kUnfreedBytesMax / root_.segment_bytes, limits::kUnfreedSegmentsMin);
  const std::uint64_t bound = std::clamp(store_.segment_count() / limits::kUnfreedShareDivisor,
                                         limits::kUnfreedSegmentsMin, most);
  return store_.dead_segments() > dead_after_checkpoint_ + bound;
}

// --- Which ---

// In blocks. A segment of a thick volume is never cut short.
std::uint64_t VolumeImpl::space_of(const SegmentEntry& entry) const {
  return store_.is_thick() ? segment_blocks_ : std::max(entry.used_blocks, entry.live_blocks);
}

bool VolumeImpl::is_worth_cleaning(SegmentNumber number, const SegmentEntry& entry) const {
  if (entry.state != SegmentState::sealed || entry.live_blocks == 0) return false;
  if (entry.live_blocks * 100ull > space_of(entry) * (100ull - kGarbagePercentMin)) return false;
  if (victims_.contains(number.value) || uncleanable_.contains(number.value)) return false;
  if (store_.is_pinned(number) || store_.is_foreign(number)) return false;
  // Records that are not applied yet look like garbage.
  const SegmentNumber log_begin = log_.position().segment;
  return entry.stream != SegmentStream::main || entry.epoch != epoch_ || log_begin.value == 0 ||
         number < log_begin;
}

// Zero: none is worth it. Rosenblum and Ousterhout, "The Design and Implementation of a
// Log-Structured File System" (1992): benefit over cost. The segment's number stands for its age,
// under a root: measured, that costs less under skewed loads than the age itself, and nothing under
// uniform ones.
Task<SegmentNumber> VolumeImpl::next_victim() {
  while (!candidates_.empty()) {
    const SegmentNumber number = candidates_.back();
    candidates_.pop_back();
    const SegmentEntry entry = store_.entry(number);
    if (is_worth_cleaning(number, entry)) co_return number;
  }
  struct Scored {
    double score;
    SegmentNumber number;
  };
  std::vector<Scored> best;  // best first
  const std::size_t count_max =
      std::clamp<std::size_t>(store_.segment_count() / kSegmentsPerCandidate, 1, kCandidatesMax);
  const bool is_greedy = scarcity() > 0;
  const auto visit = [&](SegmentNumber number, const SegmentEntry& entry) {
    if (!is_worth_cleaning(number, entry)) return;
    const double live =
        static_cast<double>(entry.live_blocks) / static_cast<double>(space_of(entry));
    const auto age = static_cast<double>(store_.next_number().value - number.value);
    // With little left, the emptiest gives most, whatever its age.
    const double score = is_greedy ? 1 - live : (1 - live) * std::sqrt(age) / (1 + live);
    if (best.size() == count_max && score <= best.back().score) return;
    const auto place = std::find_if(best.begin(), best.end(),
                                    [&](const Scored& other) { return other.score < score; });
    best.insert(place, Scored{score, number});
    if (best.size() > count_max) best.pop_back();
  };
  for (std::size_t first = 0;; first += limits::kCleanerPagesPerTurnMax) {
    if (!store_.for_some_entries(first, limits::kCleanerPagesPerTurnMax, visit)) break;
    co_await sleep_for(executor_, 0ns);
  }
  if (best.empty()) co_return SegmentNumber{};
  for (auto scored = best.rbegin(); scored != best.rend(); ++scored) {
    candidates_.push_back(scored->number);
  }
  const SegmentNumber chosen = candidates_.back();
  candidates_.pop_back();
  co_return chosen;
}

// --- How fast ---

// From twice its reserve downwards a pool makes its volumes' cleaners hurry.
Task<void> VolumeImpl::look_at_pool() {
  std::optional<HoldTracker::Call> call(std::in_place, hold_, "question for the pool's space");
  const Result<PoolSpace> space = co_await pool_.space();
  call.reset();
  if (!space.ok() || space->reserve_bytes == 0) co_return;
  const auto reserve = static_cast<double>(space->reserve_bytes);
  pool_tightness_ =
      std::clamp((2 * reserve - static_cast<double>(space->available_bytes)) / reserve, 0.0, 1.0);
}

bool VolumeImpl::guest_is_busy() const {
  return executor_.now() - last_request_ < limits::kCleanerIdleTime || requests_active_ != 0;
}

bool VolumeImpl::cleaner_has_haste() const {
  return cleaning_is_urgent() || pace_.is_behind() || !guest_is_busy();
}

std::uint32_t VolumeImpl::cleaner_step_blocks() const {
  return cleaner_has_haste() ? limits::kCleanerStepBlocksMax : limits::kCleanerStepBlocks;
}

// Before each request of the cleaner to the disk.
Task<void> VolumeImpl::await_credit(const Cleaning& cleaning, std::uint32_t blocks) {
  cleaned_garbage_blocks_ = cleaning.garbage_blocks();
  for (;;) {
    pace_.look(sealed_share(), cleaning.share, pool_tightness_);
    pace_.time_passed(executor_.now());
    if (pace_.may_work() || closing_ || abandoned_ || cleaning.is_last || cleaning_is_urgent() ||
        !guest_is_busy()) {
      break;
    }
    executor_.arm_after(clean_timer_, kTick);
    co_await credit_earned_.wait();
  }
  pace_.worked(blocks);
  if (!pace_.presses_guest()) release_pressed_writes();
}

void VolumeImpl::on_clean_timer(void* context) {
  static_cast<VolumeImpl*>(context)->credit_earned_.notify_all();
}

void VolumeImpl::guest_wrote_to_log(std::uint32_t blocks) {
  if (!cleaning_) return;
  pace_.guest_wrote(blocks);
  if (pace_.may_work()) credit_earned_.notify_all();
}

// --- A guest that is too fast ---

bool VolumeImpl::must_wait_for_cleaner(const WriteOp& op) const {
  return cleaner_works_ && op.request->operation == BlockOperation::write && !closing_ &&
         pace_.presses_guest();
}

void VolumeImpl::wait_for_cleaner(WriteOp& op) {
  ++statistics_.delayed_writes;
  pressed_writes_.push_back(op);
  if (!press_timer_.is_armed()) {
    executor_.arm_after(press_timer_, limits::kCleanerPressureTimeMax);
  }
}

void VolumeImpl::release_pressed_writes() {
  if (pressed_writes_.empty()) return;
  executor_.cancel(press_timer_);
  List<WriteOp, &WriteOp::wait_link> ready;
  while (WriteOp* op = pressed_writes_.pop_front()) ready.push_back(*op);
  while (WriteOp* op = ready.pop_front()) run_now(*op);
}

// Whatever keeps the cleaner: a guest waits for it only so long.
void VolumeImpl::on_press_timer(void* context) {
  static_cast<VolumeImpl*>(context)->release_pressed_writes();
}

}  // namespace holdfast
