// SPDX-License-Identifier: Apache-2.0
#include "io/loop.h"

#include <liburing.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "base/limits.h"
#include "base/log.h"

namespace holdfast {
namespace {

constexpr unsigned kSubmissionEntries = 256;
constexpr unsigned kCompletionEntries = 2048;  // more are kept by the kernel until there is room
// A deferred function may arm others, which still run before the loop waits; after so many rounds
// the loop looks at the kernel in between, so that nobody starves it.
constexpr int kDeferredRoundsMax = 16;

Error ring_error(int error) {
  std::string why = std::string("cannot set up io_uring: ") + std::strerror(error);
  if (error == ENOSYS || error == EPERM || error == EACCES) {
    why +=
        "; the kernel or the container's seccomp profile forbids it: check "
        "/proc/sys/kernel/io_uring_disabled (must be 0) and allow the io_uring system calls";
  } else if (error == ENOMEM) {
    why += "; raise the limit of locked memory (LimitMEMLOCK= in the systemd unit, ulimit -l)";
  } else if (error == EMFILE || error == ENFILE) {
    why += "; raise the limit of open files (LimitNOFILE= in the systemd unit, ulimit -n)";
  }
  return Error(ErrorCode::internal, why);
}

}  // namespace

struct Loop::Ring {
  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() {
    if (initialized) io_uring_queue_exit(&uring);
    if (event_descriptor >= 0) close(event_descriptor);
  }

  // Newest first: an older kernel refuses flags it does not know with EINVAL.
  int initialize() {
    static constexpr std::array<unsigned, 3> kFlags = {
        IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
            IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
            IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_R_DISABLED,
    };
    int result = -EINVAL;
    for (const unsigned flags : kFlags) {
      io_uring_params parameters{};
      parameters.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
      parameters.cq_entries = kCompletionEntries;
      result = io_uring_queue_init_params(kSubmissionEntries, &uring, &parameters);
      if (result != -EINVAL) break;
    }
    initialized = result == 0;
    return -result;
  }

  io_uring uring{};
  bool initialized = false;
  bool enabled = false;
  int event_descriptor = -1;
  std::uint64_t event_count = 0;
  bool event_completed = true;

  struct EventRead : LoopOperation {
    Ring* ring = nullptr;
  } event_read;
};

RemoteSignal::~RemoteSignal() {
  const std::lock_guard lock(loop_.remote_mutex_);
  link_.unlink();
}

void RemoteSignal::signal() {
  {
    const std::lock_guard lock(loop_.remote_mutex_);
    if (link_.is_linked()) return;
    loop_.remote_signals_.push_back(*this);
    if (std::exchange(loop_.remote_woken_, true)) return;
  }
  loop_.wake();
}

Result<std::unique_ptr<Loop>> Loop::create() {
  auto ring = std::make_unique<Ring>();
  if (const int error = ring->initialize(); error != 0) return ring_error(error);
  if ((ring->uring.features & IORING_FEAT_EXT_ARG) == 0 ||
      (ring->uring.features & IORING_FEAT_NODROP) == 0) {
    return Error(ErrorCode::unsupported,
                 "the kernel's io_uring is too old; Linux 5.19 or newer is needed");
  }
  ring->event_descriptor = eventfd(0, EFD_CLOEXEC);
  if (ring->event_descriptor < 0) return ring_error(errno);
  return std::unique_ptr<Loop>(new Loop(std::move(ring)));  // NOLINT: the constructor is private
}

Loop::Loop(std::unique_ptr<Ring> ring) : ring_(std::move(ring)) {
  update_now();
  if (getrandom(random_state_, sizeof random_state_, 0) != sizeof random_state_) {
    // Only an interrupted early boot gets here: the clock and the address space must do.
    random_state_[0] = static_cast<std::uint64_t>(now_.time_since_epoch().count());
    random_state_[1] = reinterpret_cast<std::uintptr_t>(this);
    random_state_[2] = static_cast<std::uint64_t>(getpid());
    random_state_[3] = 0x9E3779B97F4A7C15ull;
  }
  ring_->event_read.ring = ring_.get();
  ring_->event_read.prepare = [](LoopOperation& operation, io_uring_sqe& entry) {
    Ring& owner = *static_cast<Ring::EventRead&>(operation).ring;
    io_uring_prep_read(&entry, owner.event_descriptor, &owner.event_count, sizeof owner.event_count,
                       0);
  };
  ring_->event_read.complete = [](LoopOperation& operation, int) {
    static_cast<Ring::EventRead&>(operation).ring->event_completed = true;
  };
}

Loop::~Loop() {
  // Closing the ring first: nothing that the orphans own is in the kernel's hands afterwards.
  waiting_operations_.clear();
  deferred_.clear();
  ring_.reset();
}

void Loop::run() {
  while (!stop_requested_.exchange(false)) run_turn(Duration::max());
}

void Loop::stop() {
  stop_requested_.store(true);
  {
    const std::lock_guard lock(remote_mutex_);
    if (std::exchange(remote_woken_, true)) return;
  }
  wake();
}

bool Loop::run_until(const std::function<bool()>& done, Duration limit) {
  update_now();
  const MonotonicTime deadline = now_ + limit;
  while (!done()) {
    if (now_ >= deadline) return false;
    run_turn(deadline - now_);
  }
  return true;
}

void Loop::run_turn(Duration wait_max) {
  ensure_enabled();
  if (std::exchange(ring_->event_completed, false)) start(ring_->event_read);
  fill_submission_queue();
  if (!polling_ || wants_kernel()) {
    submit_and_wait(polling_ || has_work_at_hand() ? Duration::zero() : wait_max);
  }
  update_now();
  handle_completions();
  if (ring_->event_completed) handle_remote();
  run_posted();
  run_timers();
  run_pollers();
  run_deferred();
}

WallTime Loop::wall_time() const {
  timespec time{};
  clock_gettime(CLOCK_REALTIME, &time);
  return WallTime{time.tv_sec};
}

// xoshiro256** (Blackman, Vigna): good for identities and jitter, not for secrets.
std::uint64_t Loop::random() {
  const std::uint64_t result = std::rotl(random_state_[1] * 5, 7) * 9;
  const std::uint64_t shifted = random_state_[1] << 17;
  random_state_[2] ^= random_state_[0];
  random_state_[3] ^= random_state_[1];
  random_state_[1] ^= random_state_[2];
  random_state_[0] ^= random_state_[3];
  random_state_[2] ^= shifted;
  random_state_[3] = std::rotl(random_state_[3], 45);
  return result;
}

void Loop::post_remote(std::function<void()> function) {
  {
    const std::lock_guard lock(remote_mutex_);
    remote_.push_back(std::move(function));
    if (std::exchange(remote_woken_, true)) return;
  }
  wake();
}

void Loop::start(LoopOperation& operation) {
  // Behind those that wait already, to keep the order.
  io_uring_sqe* entry = waiting_operations_.empty() ? io_uring_get_sqe(&ring_->uring) : nullptr;
  if (entry == nullptr) {
    waiting_operations_.push_back(operation);
    return;
  }
  operation.prepare(operation, *entry);
  io_uring_sqe_set_data(entry, &operation);
}

bool Loop::abandon(LoopOperation& operation) {
  if (operation.link.is_linked()) {
    operation.link.unlink();
    return true;
  }
  ensure_enabled();
  // What the kernel has not taken yet cannot be cancelled, but still be made harmless.
  io_uring_sq& queue = ring_->uring.sq;
  for (unsigned at = *queue.khead; at != queue.sqe_tail; ++at) {
    io_uring_sqe& entry = queue.sqes[at & *queue.kring_mask];
    if (entry.user_data != reinterpret_cast<std::uint64_t>(&operation)) continue;
    io_uring_prep_nop(&entry);
    io_uring_sqe_set_data(&entry, &operation);
    return false;
  }
  io_uring_sync_cancel_reg cancel{};
  cancel.addr = reinterpret_cast<std::uint64_t>(&operation);
  cancel.timeout.tv_sec = -1;
  cancel.timeout.tv_nsec = -1;
  int result;
  do {
    result = io_uring_register_sync_cancel(&ring_->uring, &cancel);
  } while (result == -EINTR);
  return false;
}

void Loop::release(LoopOrphan& orphan) {
  const auto found = std::find_if(orphans_.begin(), orphans_.end(),
                                  [&](const auto& kept) { return kept.get() == &orphan; });
  HOLDFAST_ASSERT(found != orphans_.end());
  std::swap(*found, orphans_.back());
  orphans_.pop_back();
}

void Loop::ensure_enabled() {
  if (std::exchange(ring_->enabled, true)) return;
  // From here on the ring belongs to this thread.
  // (liburing 2.3 declares io_uring_enable_rings() but does not export it.)
  const int result = io_uring_register(static_cast<unsigned>(ring_->uring.ring_fd),
                                       IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  HOLDFAST_ASSERT(result == 0);
  io_uring_register_ring_fd(&ring_->uring);  // saves a table look-up per call where it is supported
  // Calls that block, such as syncs, each take one of the ring's workers. By default there are four
  // for each processor, and one storage that hangs would soon have them all.
  unsigned workers_max[2] = {limits::kLoopWorkersMax, 0};  // 0: as it is
  (void)io_uring_register_iowq_max_workers(&ring_->uring, workers_max);
}

void Loop::update_now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  now_ = MonotonicTime(std::chrono::seconds(time.tv_sec) + Duration(time.tv_nsec));
}

BootTime Loop::boot_time() const {
  timespec time{};
  clock_gettime(CLOCK_BOOTTIME, &time);
  return BootTime(std::chrono::seconds(time.tv_sec) + Duration(time.tv_nsec));
}

void Loop::fill_submission_queue() {
  while (LoopOperation* operation = waiting_operations_.front()) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_->uring);
    if (entry == nullptr) return;
    operation->link.unlink();
    operation->prepare(*operation, *entry);
    io_uring_sqe_set_data(entry, operation);
  }
}

void Loop::submit_and_wait(Duration wait_max) {
  if (!timers_.empty()) {
    // The clock of this turn may be old by now; a timer must not fire late for that.
    if (wait_max > Duration::zero()) update_now();
    wait_max = std::min(wait_max, std::max(timers_.next_deadline() - now_, Duration::zero()));
  }
  int result;
  if (wait_max <= Duration::zero() || io_uring_cq_ready(&ring_->uring) != 0) {
    result = io_uring_submit_and_get_events(&ring_->uring);
  } else if (wait_max == Duration::max()) {
    result = io_uring_submit_and_wait(&ring_->uring, 1);
  } else {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(wait_max);
    __kernel_timespec timeout{};
    timeout.tv_sec = seconds.count();
    timeout.tv_nsec = (wait_max - seconds).count();
    io_uring_cqe* first = nullptr;
    result = io_uring_submit_and_wait_timeout(&ring_->uring, &first, 1, &timeout, nullptr);
  }
  if (result >= 0 || result == -ETIME || result == -EINTR) return;
  // EBUSY: completions must be taken first. EAGAIN: the kernel is short of memory for a moment.
  HOLDFAST_ASSERT(result == -EAGAIN || result == -EBUSY);
  if (io_uring_cq_ready(&ring_->uring) == 0) {
    const timespec moment{0, 1'000'000};
    nanosleep(&moment, nullptr);
  }
}

void Loop::handle_completions() {
  static constexpr unsigned kBatch = 64;
  std::array<io_uring_cqe*, kBatch> batch;
  // Those at hand now; what completes meanwhile is for the next turn.
  unsigned remaining = io_uring_cq_ready(&ring_->uring);
  while (remaining != 0) {
    const unsigned count =
        io_uring_peek_batch_cqe(&ring_->uring, batch.data(), std::min(remaining, kBatch));
    if (count == 0) return;
    remaining -= count;
    // Copied out first: a completion may start operations and run into a full queue.
    std::array<std::pair<LoopOperation*, int>, kBatch> completed;
    for (unsigned i = 0; i < count; ++i) {
      completed[i] = {static_cast<LoopOperation*>(io_uring_cqe_get_data(batch[i])), batch[i]->res};
    }
    io_uring_cq_advance(&ring_->uring, count);
    for (unsigned i = 0; i < count; ++i) {
      const auto [operation, result] = completed[i];
      operation->complete(*operation, result);
    }
  }
}

void Loop::handle_remote() {
  std::vector<std::function<void()>> functions;
  List<RemoteSignal, &RemoteSignal::link_> signals;
  std::unique_lock lock(remote_mutex_);
  remote_woken_ = false;
  functions.swap(remote_);
  while (RemoteSignal* signal = remote_signals_.pop_front()) signals.push_back(*signal);
  lock.unlock();
  for (auto& function : functions) posted_.push_back(std::move(function));
  for (;;) {
    lock.lock();  // a callback may destroy, and another thread may read the link of, any of them
    RemoteSignal* signal = signals.pop_front();
    lock.unlock();
    if (signal == nullptr) return;
    signal->callback_(signal->context_);
  }
}

void Loop::run_posted() {
  HOLDFAST_ASSERT(posted_now_.empty());
  posted_now_.swap(posted_);
  for (auto& function : posted_now_) function();
  posted_now_.clear();
}

void Loop::run_timers() {
  const std::uint64_t mark = timers_.order_mark();
  while (Timer* timer = timers_.pop_due(now_, mark)) TimerQueue::fire(*timer);
}

void Loop::run_pollers() {
  polling_ = false;
  for (Poller* poller = pollers_.front(); poller != nullptr; poller = pollers_.next(*poller)) {
    if (poller->look()) polling_ = true;
  }
}

void Loop::run_deferred() {
  for (int round = 0; round < kDeferredRoundsMax && !deferred_.empty(); ++round) {
    List<Deferred, &Deferred::link> now;
    while (Deferred* deferred = deferred_.pop_front()) now.push_back(*deferred);
    while (Deferred* deferred = now.pop_front()) deferred->run();
  }
  for (Poller* poller = pollers_.front(); poller != nullptr; poller = pollers_.next(*poller)) {
    if (poller->is_woken()) polling_ = true;
  }
}

bool Loop::has_work_at_hand() const {
  return !posted_.empty() || !deferred_.empty() || !waiting_operations_.empty();
}

// While polling: is there anything to hand to the kernel, or to let it do? Without the flags (an
// old kernel) the completions that are there already are seen, and the rest when polling ends.
bool Loop::wants_kernel() const {
  const unsigned flags = __atomic_load_n(ring_->uring.sq.kflags, __ATOMIC_RELAXED);
  return io_uring_sq_ready(&ring_->uring) != 0 || has_work_at_hand() ||
         (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

void Loop::wake() {
  const std::uint64_t one = 1;
  // Cannot fail: the counter would have to reach 2^64 - 2.
  [[maybe_unused]] const ssize_t written = write(ring_->event_descriptor, &one, sizeof one);
}

}  // namespace holdfast
