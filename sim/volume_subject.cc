// SPDX-License-Identifier: Apache-2.0
#include "sim/volume_subject.h"

#include <algorithm>
#include <coroutine>
#include <optional>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "io/aligned_buffer.h"
#include "pool/open_pool.h"
#include "pool/preallocation.h"
#include "pool/testing_forwarding_pool.h"
#include "volume/volume.h"

namespace holdfast::sim {
namespace {

constexpr const char* kLocation = "dir:/pool";

PoolContext pool_context(SimHost& host, SimFileSystem& files) {
  return PoolContext{host, files, "process " + std::to_string(host.number())};
}

constexpr std::uint64_t kReadBytes = 512 * kKiB;

// One request of a device.
class RequestAwaiter {
 public:
  RequestAwaiter(BlockDevice& device, std::uint64_t offset_bytes, std::span<std::byte> into)
      : RequestAwaiter(device, BlockOperation::read, offset_bytes, into.size()) {
    vector_ = {into.data(), into.size()};
    request_.buffers = std::span<const iovec>(&vector_, 1);
  }
  RequestAwaiter(BlockDevice& device, BlockOperation operation, std::uint64_t offset_bytes,
                 std::uint64_t length_bytes)
      : device_(device) {
    request_.operation = operation;
    request_.offset_bytes = offset_bytes;
    request_.length_bytes = length_bytes;
    request_.context = this;
    request_.on_complete = [](BlockRequest& done, BlockStatus status) {
      auto* self = static_cast<RequestAwaiter*>(done.context);
      self->status_ = status;
      self->handle_.resume();
    };
  }
  void write(std::span<std::byte> from) {
    request_.operation = BlockOperation::write;
    vector_ = {from.data(), from.size()};
    request_.buffers = std::span<const iovec>(&vector_, 1);
  }
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    handle_ = waiting;
    device_.submit(request_);
  }
  BlockStatus await_resume() const noexcept { return status_; }

 private:
  BlockDevice& device_;
  iovec vector_{};
  BlockRequest request_;
  BlockStatus status_ = BlockStatus::ok;
  std::coroutine_handle<> handle_;
};

// What a volume sees that was left alone.
class LonelyPool final : public ForwardingPool {
 public:
  LonelyPool(Pool& below, VolumeId volume) : ForwardingPool(below), volume_(volume) {}
  Task<Result<std::unique_ptr<File>>> open_segment(SegmentId segment, bool writable) override {
    if (segment.volume != volume_) co_return Error(ErrorCode::not_found, "it is another volume's");
    co_return co_await below_.open_segment(segment, writable);
  }

 private:
  VolumeId volume_;
};

class VolumeSubject final : public Subject {
 public:
  VolumeSubject(SimHost& host, SimFileSystem& files, VolumeId id, const RunPlan& plan)
      : host_(host), files_(files), id_(id), plan_(plan) {}

  Task<Result<void>> open() override {
    CO_TRY_ASSIGN(pool_, co_await open_pool(pool_context(host_, files_), kLocation));
    CO_TRY_ASSIGN(volume_, co_await Volume::open(host_, *pool_, id_, options()));
    if (plan_.thick) tasks_.spawn(keep_preallocated());
    co_return Result<void>();
  }
  BlockDevice& device() override { return *volume_; }
  Task<Result<void>> close() override {
    is_closing_ = true;
    while (is_preallocating_) co_await sleep_for(host_, 1ms);
    co_return co_await volume_->close();
  }
  Task<Result<void>> resize(std::uint64_t size_bytes) override {
    // As the host: what a larger volume needs comes first.
    is_complete_ = false;
    const Result<void> resized = co_await volume_->resize(size_bytes);
    co_return resized;
  }
  Task<Result<void>> checkpoint() override {
    // As a host does while another volume of the pool waits for room.
    space_is_short_ = !space_is_short_;
    volume_->hint_space_is_short(space_is_short_);
    return volume_->checkpoint();
  }

  bool has_snapshots() const override { return true; }
  std::vector<std::string> snapshots() const override {
    std::vector<std::string> names;
    for (const SnapshotInfo& snapshot : volume_->snapshots()) names.push_back(snapshot.name);
    return names;
  }
  Task<Result<void>> create_snapshot(std::string name) override {
    is_complete_ = false;
    CO_TRY(co_await volume_->create_snapshot(std::move(name)));
    co_return Result<void>{};
  }
  Task<Result<void>> remove_snapshot(std::string name) override {
    return volume_->remove_snapshot(std::move(name));
  }
  Task<Result<void>> rollback(std::string name) override {
    return volume_->rollback(std::move(name));
  }
  Task<Result<std::vector<std::byte>>> read_snapshot(std::string name) override {
    CO_TRY_ASSIGN(const std::unique_ptr<Volume> view,
                  co_await Volume::open_snapshot(host_, *pool_, id_, std::move(name), options()));
    co_return co_await read_all(view.get());
  }
  Task<Result<void>> clone(std::string of, std::string snapshot, std::string name) override {
    VolumeCloneOptions wanted;
    wanted.parent = of.empty() ? id_ : clone_id(of);
    wanted.snapshot = std::move(snapshot);
    wanted.id = clone_id(name);
    wanted.name = std::move(name);
    return Volume::clone(host_, *pool_, std::move(wanted));
  }
  Task<Result<std::vector<std::byte>>> read_clone(std::string name, std::string snapshot,
                                                  bool alone) override {
    const VolumeId id = clone_id(name);
    LonelyPool lonely(*pool_, id);
    Pool& pool = alone ? static_cast<Pool&>(lonely) : *pool_;
    if (!snapshot.empty()) {
      CO_TRY_ASSIGN(const std::unique_ptr<Volume> view,
                    co_await Volume::open_snapshot(host_, pool, id, snapshot, options()));
      co_return co_await read_all(view.get());
    }
    CO_TRY_ASSIGN(const std::unique_ptr<Volume> clone,
                  co_await Volume::open(host_, pool, id, options()));
    co_return co_await read_all(clone.get());
  }
  Task<Result<bool>> work_on_clone(std::string name, std::vector<CloneAction> actions) override {
    CO_TRY_ASSIGN(const std::unique_ptr<Volume> clone,
                  co_await Volume::open(host_, *pool_, clone_id(name), options()));
    if (plan_.thick && (name.back() - '0') % 2 == 0) clone->set_thick(true);
    bool is_flat = false;
    Result<void> done;
    for (std::size_t i = 0; i < actions.size() && done.ok(); ++i) {
      done = co_await act_on_clone(clone.get(), &actions[i], &is_flat);
    }
    CO_TRY(co_await clone->close());
    if (!done.ok()) co_return done.take_error();
    co_return is_flat;
  }
  // As the host.
  Task<Result<void>> remove_clone(std::string name) override {
    const VolumeId id = clone_id(name);
    CO_TRY_ASSIGN(const std::optional<CloneMark> mark, co_await Volume::clone_mark(*pool_, id));
    CO_TRY(co_await pool_->remove_volume(id));
    if (!mark.has_value()) co_return Result<void>{};
    co_return co_await pool_->remove_clone_mark(*mark);
  }

  std::string broken_bound() const override {
    const VolumeStatistics statistics = volume_->statistics();
    // Retained records live in a ring of fixed size; the page cache may exceed its size by what one
    // checkpoint or one recovery pins.
    const std::uint64_t retained_max = std::max<std::uint64_t>(plan_.retained_bytes_max, 2 * kMiB);
    if (statistics.retained_bytes > retained_max) {
      return "retained records take " + std::to_string(statistics.retained_bytes) +
             " bytes, the bound is " + std::to_string(retained_max);
    }
    const std::uint64_t pages_max =
        2 * std::max(plan_.page_cache_bytes, limits::kPageCacheBytesMin);
    if (statistics.cached_page_bytes > pages_max) {
      return "cached pages take " + std::to_string(statistics.cached_page_bytes) +
             " bytes, the bound is " + std::to_string(pages_max);
    }
    // Where storage that is full is the only thing that goes wrong: whoever fills it. What
    // snapshots keep is not reckoned with.
    if (is_complete_ && volume_->snapshots().empty() && !plan_.has_faults_but_full() &&
        statistics.hold.reason == HoldReason::space && statistics.hold.since > complete_since_) {
      return "a thick volume that is preallocated is held: " + statistics.hold.detail;
    }
    return {};
  }

  // Nobody waits for silent storage without its being shown, and nothing is shown of storage that
  // has answered everything.
  std::string wrong_hold() const override {
    if (volume_ == nullptr) return {};
    const HoldState hold = volume_->statistics().hold;
    const std::optional<Duration> wait = files_.oldest_wait();
    const auto text = [](Duration time) { return std::to_string(time / 1ms) + " ms"; };
    // What preallocates is the host's; a view of a snapshot, or a clone, is a volume of its own.
    const bool is_alone = !plan_.thick && plan_.snapshot_weight == 0;
    if (is_alone && wait.has_value() && *wait > limits::kStallTime + limits::kStallCheckInterval &&
        hold.reason == HoldReason::none) {
      return "the storage has not answered for " + text(*wait) + ", and no hold is shown";
    }
    if (hold.reason != HoldReason::stall) return {};
    if (host_.now() - hold.since < limits::kStallTime) {
      return "a stall is shown after only " + text(host_.now() - hold.since);
    }
    if (!wait.has_value() && host_.now() - files_.idle_since() > limits::kStallCheckIntervalHeld) {
      return "a stall is shown, but the storage answered everything " +
             text(host_.now() - files_.idle_since()) + " ago";
    }
    return {};
  }

 private:
  VolumeOptions options() const {
    VolumeOptions options;
    options.page_cache_bytes = plan_.page_cache_bytes;
    options.checkpoint_log_bytes = plan_.checkpoint_log_bytes;
    options.checkpoint_idle = plan_.checkpoint_idle;
    options.retained_bytes_max = plan_.retained_bytes_max;
    options.cleaner_start_percent = plan_.cleaner_start_percent;
    options.cleaner_stop_percent = plan_.cleaner_stop_percent;
    return options;
  }
  VolumeId clone_id(const std::string& name) const {
    std::array<std::byte, 16> bytes{};
    std::transform(name.begin(), name.end(), bytes.begin(),
                   [](char c) { return static_cast<std::byte>(c); });
    return Uuid::from_random(bytes);
  }
  static Task<Result<void>> act_on_clone(Volume* clone, CloneAction* action, bool* is_flat) {
    using Kind = CloneAction::Kind;
    switch (action->kind) {
      case Kind::flatten_some:
      case Kind::flatten:
        do {
          CO_TRY_ASSIGN(const FlattenPart part, co_await clone->flatten(Duration(0)));
          *is_flat = part.is_done;
        } while (!*is_flat && action->kind == Kind::flatten);
        co_return Result<void>{};
      case Kind::take: {
        std::string name = action->name;
        CO_TRY(co_await clone->create_snapshot(std::move(name)));
        co_return Result<void>{};
      }
      case Kind::remove: {
        std::string name = action->name;
        co_return co_await clone->remove_snapshot(std::move(name));
      }
      case Kind::rollback: {
        std::string name = action->name;
        co_return co_await clone->rollback(std::move(name));
      }
      case Kind::write:
      case Kind::zero:
        break;
    }
    const std::uint64_t length_bytes = action->blocks * kBlockBytes;
    AlignedBuffer bytes(length_bytes);
    std::fill(bytes.span().begin(), bytes.span().end(), static_cast<std::byte>(action->value));
    RequestAwaiter request(*clone, BlockOperation::write_zeroes, action->block * kBlockBytes,
                           length_bytes);
    if (action->kind == Kind::write) request.write(bytes.span());
    const BlockStatus status = co_await request;
    if (status == BlockStatus::ok) co_return Result<void>{};
    co_return Error(ErrorCode::corrupt, "a write to " + clone->info().name + " failed");
  }
  // Closes the volume after it.
  static Task<Result<std::vector<std::byte>>> read_all(Volume* volume) {
    std::vector<std::byte> content(volume->info().size_bytes);
    BlockStatus worst = BlockStatus::ok;
    for (std::uint64_t at = 0; at < content.size(); at += kReadBytes) {
      const std::uint64_t count = std::min<std::uint64_t>(kReadBytes, content.size() - at);
      const BlockStatus status = co_await RequestAwaiter(*volume, at, {content.data() + at, count});
      if (status != BlockStatus::ok) worst = status;
    }
    CO_TRY(co_await volume->close());
    if (worst != BlockStatus::ok) {
      co_return Error(ErrorCode::corrupt, "a block of " + volume->info().name + " is damaged");
    }
    co_return content;
  }

  // What the host does for every thick volume, open or not.
  Task<void> keep_preallocated() {
    is_preallocating_ = true;
    while (!is_closing_) {
      const std::uint64_t size_bytes = volume_->info().size_bytes;
      const ThickLayout layout = thick_layout(size_bytes, pool_->info().segment_bytes);
      const Result<void> done =
          co_await preallocate(*pool_, id_, layout.segments, &progress_, &is_closing_);
      const bool was_complete = is_complete_;
      is_complete_ = done.ok() && progress_.is_complete() &&
                     volume_->info().size_bytes == size_bytes && volume_->snapshots().empty();
      if (is_complete_ && !was_complete) complete_since_ = host_.now();
      for (int i = 0; i < 50 && !is_closing_; ++i) co_await sleep_for(host_, 2ms);
    }
    is_preallocating_ = false;
  }

  SimHost& host_;
  SimFileSystem& files_;
  VolumeId id_;
  const RunPlan& plan_;
  bool space_is_short_ = false;
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<Volume> volume_;  // destroyed before its pool
  Preallocation progress_;
  bool is_preallocating_ = false;
  bool is_complete_ = false;
  MonotonicTime complete_since_{};
  bool is_closing_ = false;
  TaskScope tasks_;
};

}  // namespace

Task<Result<void>> VolumeFactory::create(SimHost& host, SimFileSystem& files, const RunPlan& plan) {
  std::array<std::byte, 16> random;
  store_little(random.data(), host.random());
  store_little(random.data() + 8, host.random());
  id_ = Uuid::from_random(random);
  PoolCreateOptions pool_options;
  pool_options.segment_bytes = plan.segment_bytes;
  CO_TRY_ASSIGN(std::unique_ptr<Pool> pool,
                co_await create_pool(pool_context(host, files), kLocation, pool_options));
  VolumeCreateOptions options;
  options.id = id_;
  options.name = "disk";
  options.size_bytes = plan.volume_bytes;
  options.thick = plan.thick;
  CO_TRY(co_await Volume::create(host, *pool, options));
  if (!plan.is_preallocated) co_return Result<void>{};
  Preallocation progress;
  const bool never = false;
  const ThickLayout layout = thick_layout(plan.volume_bytes, plan.segment_bytes);
  co_return co_await preallocate(*pool, id_, layout.segments, &progress, &never);
}

std::unique_ptr<Subject> VolumeFactory::make(SimHost& host, SimFileSystem& files,
                                             const RunPlan& plan) {
  return std::make_unique<VolumeSubject>(host, files, id_, plan);
}

}  // namespace holdfast::sim
