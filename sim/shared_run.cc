// SPDX-License-Identifier: Apache-2.0
#include "sim/shared_run.h"

#include <algorithm>
#include <utility>

#include "pool/open_pool.h"
#include "pool/preallocation.h"
#include "sim/keeper_client.h"

namespace holdfast::sim {
namespace {

constexpr std::uint64_t kStorageBytes = 4 * kGiB;
constexpr const char* kLocation = "dir:/pool";
constexpr Duration kPatience = std::chrono::minutes(30);
constexpr std::uint64_t kReadBytes = 256 * kKiB;
constexpr std::uint64_t kServedAtTheEnd = 2;  // the last one sees what the one before left

Task<void> store(Task<Result<void>> task, std::optional<Result<void>>* result) {
  result->emplace(co_await task);
}

PoolContext pool_context(SimHost& host, SimFileSystem& files) {
  const std::string name = "process " + std::to_string(host.number());
  return PoolContext{.executor = host, .file_system = files, .holder = name, .host_name = name};
}

bool is_outcome(BlockStatus status) {
  return status != BlockStatus::shutting_down && status != BlockStatus::cancelled;
}

}  // namespace

// Resumes its waiter from inside the answer.
class SharedRun::Request {
 public:
  Request(Volume& volume, BlockOperation operation, std::uint64_t offset_bytes,
          std::uint64_t length_bytes)
      : volume_(volume) {
    request_.operation = operation;
    request_.offset_bytes = offset_bytes;
    request_.length_bytes = length_bytes;
    request_.context = this;
    request_.on_complete = [](BlockRequest& done, BlockStatus status) {
      auto* self = static_cast<Request*>(done.context);
      self->status_ = status;
      self->handle_.resume();
    };
  }
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;
  ~Request() { request_.device_link.unlink(); }  // its process may have died
  void set_memory(std::span<std::byte> memory) {
    vector_ = {memory.data(), memory.size()};
    request_.buffers = std::span<const iovec>(&vector_, 1);
  }
  BlockRequest& block_request() { return request_; }
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    handle_ = waiting;
    volume_.submit(request_);
  }
  BlockStatus await_resume() const noexcept { return status_; }

 private:
  Volume& volume_;
  iovec vector_{};
  BlockRequest request_;
  BlockStatus status_ = BlockStatus::ok;
  std::coroutine_handle<> handle_;
};

SharedRun::SharedRun(SharedPlan plan, VolumeRun::Trace trace_sink)
    : plan_(std::move(plan)),
      scheduler_(plan_.seed),
      prng_(scheduler_.prng().fork()),
      storage_(scheduler_, kStorageBytes),
      model_(scheduler_, plan_.volume_bytes, plan_.seed),
      leases_(
          plan_.lease, 1,
          [this](std::uint64_t process, std::uint64_t epoch) { owner_changed(process, epoch); }),
      troubles_left_(plan_.troubles) {
  scheduler_.set_trace(std::move(trace_sink));
  faults_.options = plan_.faults;
  faults_.options.is_shared = true;
}

SharedRun::~SharedRun() {
  for (std::size_t i = 0; i < processes_.size(); ++i) kill(i);
}

void SharedRun::trace(const std::string& line) {
  if (scheduler_.tracing()) scheduler_.trace("---- " + line);
}

RunResult SharedRun::run() {
  create();
  faults_.enabled = true;
  processes_.resize(plan_.hosts);
  for (std::size_t i = 0; i < processes_.size() && !scheduler_.failed(); ++i) start(i);
  schedule_trouble();
  const bool is_good =
      !scheduler_.failed() && run_until([&] { return troubles_left_ == 0; }, "the troubles");
  if (is_good) {
    trace("nothing goes wrong any more");
    faults_.enabled = false;
    faults_.outage_until = MonotonicTime{};
    is_healed_ = true;
    run_until([&] { return served_since_ >= kServedAtTheEnd; }, "being served in the end");
  }
  for (std::size_t i = 0; i < processes_.size(); ++i) kill(i);
  result_.failed = scheduler_.failed();
  result_.violation = scheduler_.violation();
  result_.hash = scheduler_.hash();
  result_.completions = scheduler_.completions();
  result_.injected_errors = faults_.injected_errors;
  result_.checked_sectors = model_.checked_sectors();
  result_.virtual_time = scheduler_.now().time_since_epoch();
  return result_;
}

bool SharedRun::run_until(const std::function<bool()>& done, const char* what) {
  const MonotonicTime limit = scheduler_.now() + kPatience;
  while (!done()) {
    if (scheduler_.failed()) return false;
    if (scheduler_.idle() || scheduler_.now() > limit) {
      scheduler_.fail("progress", std::string(what) + " does not come");
      return false;
    }
    scheduler_.step();
  }
  return !scheduler_.failed();
}

void SharedRun::create() {
  struct Making {
    static Task<Result<void>> make(SimHost* host, SimFileSystem* files, const SharedPlan* plan,
                                   VolumeId* id) {
      PoolCreateOptions pool_options;
      pool_options.segment_bytes = limits::kSegmentBytesMin;
      pool_options.shared = true;
      pool_options.io_timeout_seconds = 1;
      CO_TRY_ASSIGN(const std::unique_ptr<Pool> pool,
                    co_await create_pool(pool_context(*host, *files), kLocation, pool_options));
      id->bytes[0] = std::byte{7};
      VolumeCreateOptions options;
      options.id = *id;
      options.name = "disk";
      options.size_bytes = plan->volume_bytes;
      options.thick = plan->thick;
      CO_TRY(co_await Volume::create(*host, *pool, options));
      if (!plan->thick) co_return Result<void>{};
      Preallocation progress;
      const bool never = false;
      const ThickLayout layout = thick_layout(plan->volume_bytes, pool_options.segment_bytes);
      co_return co_await preallocate(*pool, *id, layout.segments, &progress, &never);
    }
  };
  SimHost host(scheduler_);
  SimFileSystem files(host, storage_, faults_);
  TaskScope tasks;
  std::optional<Result<void>> made;
  tasks.spawn(store(Making::make(&host, &files, &plan_, &volume_), &made));
  run_until([&] { return made.has_value(); }, "creating");
  if (made.has_value() && !made->ok()) scheduler_.fail("create", made->error().message());
  host.kill();
  files.die(false);
}

// --- Processes ---

void SharedRun::start(std::size_t number) {
  processes_[number] = std::make_unique<Process>(scheduler_, storage_, faults_);
  Process& process = *processes_[number];
  const double drift = plan_.clock_drift * (static_cast<double>(prng_.below(2001)) / 1000 - 1);
  process.clock_rate = 1 + drift;
  process.host.set_boot_clock(prng_.between(Duration(0), Duration(1h)), process.clock_rate);
  process.tasks.spawn(live(&process));
}

void SharedRun::kill(std::size_t number) {
  Process* const process = processes_[number].get();
  if (process == nullptr) return;
  // The model refers to requests, which go now.
  if (owns(*process)) model_.crash(CrashKind::process);
  process->host.kill();
  process->files.die(false);
  processes_[number].reset();
}

// What was asked of the owner before, and not answered, it may have done or not.
void SharedRun::owner_changed(std::uint64_t process, std::uint64_t epoch) {
  owner_ = process;
  epoch_ = epoch;
  if (process != 0) model_.crash(CrashKind::process);
}

bool SharedRun::owns(const Process& process) const {
  return owner_ == process.host.number() && epoch_ == process.epoch;
}

void SharedRun::schedule_trouble() {
  const Duration lifetime = plan_.lease.lifetime;
  const Duration most = prng_.chance(0.5) ? lifetime / 10 : 2 * lifetime;
  scheduler_.schedule(scheduler_.now() + prng_.between(Duration(1ms), most), nullptr,
                      EventKind::world, [this] { make_trouble(); });
}

// Mostly for whoever has the volume.
std::size_t SharedRun::owner_or_any() {
  if (prng_.chance(0.75)) {
    for (std::size_t i = 0; i < processes_.size(); ++i) {
      if (processes_[i] != nullptr && owns(*processes_[i])) return i;
    }
  }
  return prng_.below(processes_.size());
}

// Past the deadline, and often for only a moment: what is answered then is wrong, though nobody has
// taken the volume over yet.
Duration SharedRun::pause_length(const Process& process) {
  const Duration lifetime = plan_.lease.lifetime;
  if (process.fence != nullptr && !process.fence->is_lost() && prng_.chance(0.4)) {
    const Duration left = process.fence->deadline() - process.host.boot_time();
    const auto true_left =
        static_cast<std::int64_t>(static_cast<double>(left.count()) / process.clock_rate);
    if (true_left > 0) return Duration(true_left) + prng_.between(Duration(0), Duration(8ms));
  }
  return prng_.between(Duration(1ms), (prng_.chance(0.8) ? 5 : 1) * lifetime);
}

void SharedRun::make_trouble() {
  if (troubles_left_ == 0 || scheduler_.failed()) return;
  --troubles_left_;
  const Duration lifetime = plan_.lease.lifetime;
  const std::size_t number = owner_or_any();
  Process* const process = processes_[number].get();
  if (prng_.chance(0.15)) {
    const Duration length = prng_.between(Duration(1ms), lifetime);
    trace("OUTAGE of the storage");
    faults_.outage_until = scheduler_.now() + length;
    faults_.outage_hangs = prng_.chance(0.5);
  } else if (process != nullptr && prng_.chance(0.75)) {
    const Duration length = pause_length(*process);
    trace("process " + std::to_string(process->host.number()) + " is PAUSED for " +
          std::to_string(length / 1ms) + " ms");
    process->host.pause(scheduler_.now() + length);
  } else if (process != nullptr) {
    trace("process " + std::to_string(process->host.number()) + " is KILLED");
    ++result_.process_deaths;
    kill(number);
    scheduler_.schedule(scheduler_.now() + prng_.between(Duration(1ms), lifetime), nullptr,
                        EventKind::world, [this, number] {
                          if (processes_[number] == nullptr) start(number);
                        });
  }
  schedule_trouble();
}

// --- A process ---

Task<void> SharedRun::live(Process* process) {
  Prng prng(process->host.random());
  while (process->pool == nullptr) {
    auto opened = co_await open_pool(pool_context(process->host, process->files), kLocation);
    if (opened.ok()) {
      process->pool = std::move(opened).value();
    } else {
      check_error("opening the pool", opened.error());
      co_await sleep_for(process->host, 20ms);
    }
  }
  if (plan_.has_real_leases) {
    process->lease = std::make_unique<KeeperClient>(
        process->host, *process->pool, volume_, "p" + std::to_string(process->host.number()),
        [this](std::uint64_t owner, std::uint64_t epoch) { owner_changed(owner, epoch); });
  } else {
    process->lease = std::make_unique<LeaseClient>(process->host, leases_);
  }
  for (;;) {
    process->fence = co_await process->lease->acquire();
    process->epoch = process->fence->epoch().value;
    trace("process " + std::to_string(process->host.number()) + " has epoch " +
          std::to_string(process->epoch));
    co_await own(process);
    co_await process->lease->release();
    process->fence.reset();
    co_await sleep_for(process->host, prng.between(Duration(1ms), plan_.lease.lifetime / 4));
  }
}

Task<void> SharedRun::own(Process* process) {
  VolumeOptions options = plan_.volume;
  options.fence = process->fence;
  auto opened = co_await Volume::open(process->host, *process->pool, volume_, options);
  if (!opened.ok()) {
    check_error("opening", opened.error());
    co_return;
  }
  process->volume = std::move(opened).value();
  process->is_serving = true;
  process->is_closing = false;
  process->tasks.spawn(serve(process));
  Duration patience = plan_.lease.lifetime;  // with a lease that was not renewed
  while (process->is_serving && !process->fence->is_lost()) {
    co_await sleep_for(process->host, 5ms);
    const bool holds = process->fence->holds(process->host.boot_time());
    patience = holds ? plan_.lease.lifetime : patience - 5ms;
    if (patience < Duration(0)) break;
  }
  process->is_closing = true;
  const Result<void> closed = co_await process->volume->close();
  if (!closed.ok()) check_error("closing", closed.error());
  // Whoever asked for something has been answered.
  while (process->is_serving) co_await sleep_for(process->host, 1ms);
  process->volume.reset();
}

Task<void> SharedRun::serve(Process* process) {
  bool goes_on = co_await verify(process);
  if (goes_on) goes_on = co_await check_snapshots(process);
  if (goes_on) goes_on = co_await change_snapshots(process);
  Prng prng(process->host.random());
  if (goes_on) {
    process->operations_left = static_cast<std::uint32_t>(prng.between(1, plan_.operations));
    for (std::uint32_t i = 0; i < plan_.queue_depth; ++i) {
      ++process->workers;
      process->tasks.spawn(work(process));
    }
    while (process->workers != 0) co_await sleep_for(process->host, 1ms);
    if (prng.chance(0.3) && !process->is_closing) {
      co_await sleep_for(process->host, prng.between(Duration(1ms), Duration(3s)));
    }
    if (is_healed_ && process->operations_left == 0 && owns(*process)) ++served_since_;
  }
  process->is_serving = false;
}

bool SharedRun::check_answer(Process& process, BlockStatus status) {
  scheduler_.mix(process.host.number() ^ (static_cast<std::uint64_t>(status) << 56));
  if (status == BlockStatus::shutting_down && process.is_closing) return false;
  const std::string who = "process " + std::to_string(process.host.number()) + " in epoch " +
                          std::to_string(process.epoch);
  if (is_outcome(status) && !owns(process)) {
    scheduler_.fail("one writer", who + " answered a request, but epoch " + std::to_string(epoch_) +
                                      " had begun");
  } else if (is_outcome(status) && !process.fence->holds(process.host.boot_time())) {
    scheduler_.fail("deadline", who + " answered a request after its deadline");
  } else if (status != BlockStatus::ok) {
    scheduler_.fail("errors", who + " answered a request with an error (" +
                                  std::to_string(static_cast<int>(status)) + ")");
  }
  return status == BlockStatus::ok && !scheduler_.failed();
}

// Of a control operation: storage, or the lease.
void SharedRun::check_error(const char* what, const Error& error) {
  trace(std::string(what) + " failed: " + error.message());
  const ErrorCode code = error.code();
  if (code == ErrorCode::busy || code == ErrorCode::path_failure) return;
  scheduler_.fail("errors", std::string(what) + " failed for good (" +
                                std::string(error_code_name(code)) + "): " + error.message());
}

Task<Result<std::vector<std::byte>>> SharedRun::read_all(Process* process, Volume* volume) {
  std::vector<std::byte> content(volume->info().size_bytes);
  const bool is_view = volume != process->volume.get();
  for (std::uint64_t at = 0; at < content.size(); at += kReadBytes) {
    const std::uint64_t count = std::min<std::uint64_t>(kReadBytes, content.size() - at);
    Request request(*volume, BlockOperation::read, at, count);
    request.set_memory({content.data() + at, count});
    const BlockStatus status = co_await request;
    const bool is_good = is_view ? status == BlockStatus::ok : check_answer(*process, status);
    if (!is_good) co_return Error(ErrorCode::busy, "it was not read to its end");
  }
  co_return content;
}

// False: the volume is being closed.
Task<bool> SharedRun::verify(Process* process) {
  auto content = co_await read_all(process, process->volume.get());
  if (!content.ok()) co_return false;
  content_ = std::move(content).value();
  if (!model_.is_settled()) model_.recovered(content_, {});
  co_return !scheduler_.failed();
}

// Who owns the volume knows which snapshots there are, for good.
Task<bool> SharedRun::check_snapshots(Process* process) {
  if (!owns(*process)) co_return false;
  std::vector<std::string> names;
  for (const SnapshotInfo& info : process->volume->snapshots()) names.push_back(info.name);
  for (const std::string& name : names) {
    if (snapshots_.contains(name)) continue;
    scheduler_.fail("snapshots", "snapshot " + name +
                                     " was removed, or never came to be, and is "
                                     "there in epoch " +
                                     std::to_string(process->epoch));
    co_return false;
  }
  for (auto at = snapshots_.begin(); at != snapshots_.end();) {
    const bool is_there = std::find(names.begin(), names.end(), at->first) != names.end();
    if (!is_there && !at->second.may_be_missing) {
      scheduler_.fail("snapshots", "snapshot " + at->first + " is gone in epoch " +
                                       std::to_string(process->epoch));
      co_return false;
    }
    at->second.may_be_missing = false;
    at = is_there ? std::next(at) : snapshots_.erase(at);
  }
  Prng prng(process->host.random());
  if (names.empty() || !prng.chance(plan_.snapshot_chance)) co_return true;
  const std::string name = names[prng.below(names.size())];
  const std::vector<std::byte> expected = snapshots_.at(name).content;
  auto view =
      co_await Volume::open_snapshot(process->host, *process->pool, volume_, name, plan_.volume);
  if (!view.ok()) {
    // A later owner may remove it while we read.
    if (owns(*process)) check_error("opening a snapshot", view.error());
    co_return !process->is_closing;
  }
  const auto content = co_await read_all(process, view->get());
  const bool is_wrong = !content.ok() || content.value() != expected;
  if (is_wrong && owns(*process)) {
    scheduler_.fail("snapshots", "snapshot " + name +
                                     (content.ok() ? " shows something else" : " cannot be read"));
  }
  const Result<void> closed = co_await (*view)->close();
  if (!closed.ok()) check_error("closing a snapshot", closed.error());
  co_return !process->is_closing && !scheduler_.failed();
}

// The content is known, since nobody has written yet.
Task<bool> SharedRun::change_snapshots(Process* process) {
  Prng prng(process->host.random());
  if (!snapshots_.empty() && prng.chance(plan_.snapshot_chance) && owns(*process)) {
    const auto at =
        std::next(snapshots_.begin(), static_cast<std::ptrdiff_t>(prng.below(snapshots_.size())));
    const std::string name = at->first;
    at->second.may_be_missing = true;
    const Result<void> removed = co_await process->volume->remove_snapshot(name);
    if (!removed.ok()) {
      check_error("removing a snapshot", removed.error());
    } else if (!owns(*process)) {
      scheduler_.fail("one writer", "a removal is done, but another epoch has begun");
    } else {
      snapshots_.erase(name);
    }
  }
  if (prng.chance(plan_.snapshot_chance) && owns(*process) && !process->is_closing) {
    const std::string name = "s" + std::to_string(next_snapshot_++);
    snapshots_[name] = KeptSnapshot{content_, true};
    const auto taken = co_await process->volume->create_snapshot(name);
    if (!taken.ok()) {
      check_error("taking a snapshot", taken.error());
    } else if (!owns(*process)) {
      scheduler_.fail("one writer", "a snapshot is taken, but another epoch has begun");
    } else {
      snapshots_[name].may_be_missing = false;
    }
  }
  co_return !process->is_closing && !scheduler_.failed();
}

// --- The guest ---

Task<void> SharedRun::work(Process* process) {
  Prng prng(process->host.random());
  AlignedBuffer memory(plan_.length_bytes_max);
  while (process->operations_left != 0 && !process->is_closing && !scheduler_.failed()) {
    --process->operations_left;
    ++result_.operations;
    if (prng.chance(0.3)) {
      co_await sleep_for(process->host, prng.between(Duration(1us), Duration(3ms)));
      if (process->is_closing) break;
    }
    const std::uint64_t unit = plan_.alignment_bytes;
    const std::uint64_t length =
        std::min(prng.between(1, plan_.length_bytes_max / unit) * unit, plan_.volume_bytes);
    const std::uint64_t offset = prng.below((plan_.volume_bytes - length) / unit + 1) * unit;
    const std::uint64_t choice = prng.below(100);
    // A guest goes on for as long as its host knows of nothing; only what it does in the epoch that
    // counts is the model's.
    const bool counts = owns(*process);
    const std::span<std::byte> bytes = memory.span(0, length);
    if (choice < plan_.write_percent) {
      // Until the next owner has sealed the log, what is written now may get into it, unanswered,
      // and the model would have to know of it.
      if (!counts && !model_.is_settled()) continue;
      const WriteKind kind = prng.chance(0.85)  ? WriteKind::data
                             : prng.chance(0.5) ? WriteKind::zeros
                                                : WriteKind::discard;
      const BlockOperation operation = kind == WriteKind::data    ? BlockOperation::write
                                       : kind == WriteKind::zeros ? BlockOperation::write_zeroes
                                                                  : BlockOperation::discard;
      Request request(*process->volume, operation, offset, length);
      std::fill(bytes.begin(), bytes.end(), std::byte{0xBD});
      if (kind == WriteKind::data) request.set_memory(bytes);
      request.block_request().force_unit_access = prng.chance(0.1);
      const std::uint32_t write = counts ? model_.begin_write(kind, request.block_request()) : 0;
      if (counts && kind == WriteKind::data) model_.fill(write, bytes);
      const BlockStatus status = co_await request;
      const bool is_good = check_answer(*process, status);
      if (counts && owns(*process)) model_.end_write(write, is_good);
      if (!is_good) break;
    } else if (choice < plan_.write_percent + plan_.flush_percent) {
      const std::uint64_t covers = model_.begin_flush();
      Request request(*process->volume, BlockOperation::flush, 0, 0);
      const BlockStatus status = co_await request;
      if (!check_answer(*process, status)) break;
      model_.end_flush(covers);
    } else {
      const VolumeModel::Token token = counts ? model_.begin_read() : 0;
      Request request(*process->volume, BlockOperation::read, offset, length);
      request.set_memory(bytes);
      const BlockStatus status = co_await request;
      const bool is_good = check_answer(*process, status);
      if (counts && is_good) model_.check_read(token, offset, bytes);
      if (counts) model_.end_read(token);
      if (!is_good) break;
    }
  }
  --process->workers;
}

// --- Plans ---

SharedPlan shared_plan(std::uint64_t seed) {
  Prng prng(seed ^ 0x5348415245ull);
  SharedPlan plan;
  plan.seed = seed;
  plan.hosts = static_cast<std::uint32_t>(prng.between(2, 5));
  plan.volume_bytes = prng.between(1, 3) * kMiB;
  plan.thick = prng.chance(0.4);
  plan.volume.page_cache_bytes = kMiB;
  plan.volume.checkpoint_log_bytes = prng.pick({64 * kKiB, 512 * kKiB, 4 * kMiB});
  plan.volume.checkpoint_idle = prng.pick({Duration(2ms), Duration(100ms), Duration(2s)});
  plan.volume.retained_bytes_max = 2 * kMiB;
  plan.volume.cleaner_start_percent = prng.pick({10u, 30u, 101u});
  plan.volume.cleaner_stop_percent = 5;
  plan.queue_depth = static_cast<std::uint32_t>(prng.between(1, 12));
  plan.operations = prng.pick({30u, 200u, 800u});
  plan.write_percent = prng.pick({30u, 60u, 90u});
  plan.flush_percent = prng.pick({0u, 5u, 10u});
  plan.length_bytes_max = prng.pick({8 * kKiB, 64 * kKiB});
  plan.alignment_bytes = prng.pick({512u, 4096u, 4096u});
  plan.troubles = static_cast<std::uint32_t>(prng.between(3, 14));
  plan.snapshot_chance = prng.pick({0.0, 0.3, 0.7});
  plan.clock_drift = prng.pick({0.0, 0.01});
  plan.lease.lifetime = prng.pick({Duration(200ms), Duration(2s), Duration(40s)});
  plan.has_real_leases = prng.chance(0.25);
  if (plan.has_real_leases) plan.lease.lifetime = 8s;  // 8 * the pool's I/O timeout
  plan.lease.failure_chance = prng.pick({0.0, 0.1, 0.5});
  plan.lease.slow_chance = prng.pick({0.0, 0.1});
  FaultOptions& faults = plan.faults;
  if (prng.chance(0.5)) {
    faults.slow_chance = prng.pick({0.0, 0.02});
    faults.slow_max = prng.pick({Duration(30ms), Duration(1s)});
    faults.read_error_chance = prng.pick({0.0, 0.01});
    faults.write_error_chance = prng.pick({0.0, 0.01});
    faults.sync_error_chance = prng.pick({0.0, 0.01});
    faults.name_error_chance = prng.pick({0.0, 0.01});
    faults.error_after_chance = prng.pick({0.0, 0.01});
  }
  faults.lands_early_chance = prng.pick({0.0, 0.2});
  faults.has_links = prng.chance(0.8);
  return plan;
}

std::string SharedPlan::describe() const {
  return std::to_string(hosts) + " hosts, " + (has_real_leases ? "real leases, " : "") +
         (thick ? "thick, " : "") + std::to_string(volume_bytes / kMiB) + " MiB, lease " +
         std::to_string(lease.lifetime / 1ms) + " ms, " + std::to_string(troubles) +
         " troubles, depth " + std::to_string(queue_depth) + ", " + std::to_string(operations) +
         " operations, snapshots " + std::to_string(snapshot_chance) + ", cleaner from " +
         std::to_string(volume.cleaner_start_percent) + " %";
}

}  // namespace holdfast::sim
