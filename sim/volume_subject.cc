// SPDX-License-Identifier: Apache-2.0
#include "sim/volume_subject.h"

#include <string>
#include <utility>

#include "base/bytes.h"
#include "pool/open_pool.h"
#include "pool/preallocation.h"
#include "volume/volume.h"

namespace holdfast::sim {
namespace {

constexpr const char* kLocation = "dir:/pool";

PoolContext pool_context(SimHost& host, SimFileSystem& files) {
  return PoolContext{host, files, "process " + std::to_string(host.number())};
}

class VolumeSubject final : public Subject {
 public:
  VolumeSubject(SimHost& host, SimFileSystem& files, VolumeId id, const RunPlan& plan)
      : host_(host), files_(files), id_(id), plan_(plan) {}

  Task<Result<void>> open() override {
    CO_TRY_ASSIGN(pool_, co_await open_pool(pool_context(host_, files_), kLocation));
    VolumeOptions options;
    options.page_cache_bytes = plan_.page_cache_bytes;
    options.checkpoint_log_bytes = plan_.checkpoint_log_bytes;
    options.checkpoint_idle = plan_.checkpoint_idle;
    options.retained_bytes_max = plan_.retained_bytes_max;
    options.cleaner_start_percent = plan_.cleaner_start_percent;
    options.cleaner_stop_percent = plan_.cleaner_stop_percent;
    CO_TRY_ASSIGN(volume_, co_await Volume::open(host_, *pool_, id_, options));
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
  Task<Result<void>> checkpoint() override { return volume_->checkpoint(); }

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
    // Where storage that is full is the only thing that goes wrong: whoever fills it.
    if (is_complete_ && !plan_.has_faults_but_full() &&
        statistics.hold.reason == HoldReason::space && statistics.hold.since > complete_since_) {
      return "a thick volume that is preallocated is held: " + statistics.hold.detail;
    }
    return {};
  }

 private:
  // What the host does for every thick volume, open or not.
  Task<void> keep_preallocated() {
    is_preallocating_ = true;
    while (!is_closing_) {
      const std::uint64_t size_bytes = volume_->info().size_bytes;
      const ThickLayout layout = thick_layout(size_bytes, pool_->info().segment_bytes);
      const Result<void> done =
          co_await preallocate(*pool_, id_, layout.segments, &progress_, &is_closing_);
      const bool was_complete = is_complete_;
      is_complete_ =
          done.ok() && progress_.is_complete() && volume_->info().size_bytes == size_bytes;
      if (is_complete_ && !was_complete) complete_since_ = host_.now();
      for (int i = 0; i < 50 && !is_closing_; ++i) co_await sleep_for(host_, 2ms);
    }
    is_preallocating_ = false;
  }

  SimHost& host_;
  SimFileSystem& files_;
  VolumeId id_;
  const RunPlan& plan_;
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
