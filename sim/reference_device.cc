// SPDX-License-Identifier: Apache-2.0
#include "sim/reference_device.h"

#include <algorithm>
#include <cstring>

namespace holdfast::sim {
namespace {

void apply_entry(std::vector<std::byte>& image, const ReferenceStore::Entry& entry) {
  if (entry.offset_bytes >= image.size()) return;
  const std::size_t count = std::min(entry.bytes.size(), image.size() - entry.offset_bytes);
  std::memcpy(image.data() + entry.offset_bytes, entry.bytes.data(), count);
}

class ReferenceDevice final : public Subject, public BlockDevice {
 public:
  ReferenceDevice(SimHost& host, ReferenceStore& store, ReferenceBug bug)
      : host_(host), store_(store), bug_(bug), prng_(host.random()) {}

  Task<Result<void>> open() override {
    co_await sleep_for(host_, 1ms);
    image_ = store_.durable;
    for (const auto& entry : store_.log) apply_entry(image_, entry);
    previous_ = image_;
    info_.size_bytes = store_.size_bytes;
    co_return Result<void>();
  }
  BlockDevice& device() override { return *this; }
  Task<Result<void>> close() override {
    while (in_flight_ != 0) co_await sleep_for(host_, 100us);
    make_durable(store_.log.size());
    co_return Result<void>();
  }
  Task<Result<void>> resize(std::uint64_t size_bytes) override {
    while (in_flight_ != 0) co_await sleep_for(host_, 100us);
    make_durable(store_.log.size());
    if (bug_ != ReferenceBug::shrink_keeps_data || size_bytes > image_.size()) {
      image_.resize(size_bytes);
      previous_.resize(size_bytes);
      store_.durable.resize(size_bytes);
    }
    store_.size_bytes = info_.size_bytes = size_bytes;
    co_return Result<void>();
  }
  Task<Result<void>> checkpoint() override { co_return Result<void>(); }
  std::string broken_bound() const override { return {}; }

  const BlockDeviceInfo& info() const override { return info_; }

  void submit(BlockRequest& request) override {
    ++in_flight_;
    if (request.length_bytes != 0 &&
        request.offset_bytes + request.length_bytes > info_.size_bytes) {
      later(request, [this, &request] { answer(request, BlockStatus::out_of_range); });
      return;
    }
    switch (request.operation) {
      case BlockOperation::read:
        later(request, [this, &request] { read(request); });
        break;
      case BlockOperation::flush:
        later(request, [this, &request, covers = store_.log.size()] {
          if (bug_ != ReferenceBug::flush_does_nothing) make_durable(covers);
          answer(request, BlockStatus::ok);
        });
        break;
      default:
        start_write(request);
    }
  }

  Task<Result<std::vector<BlockExtent>>> block_status(std::uint64_t offset_bytes,
                                                      std::uint64_t length_bytes,
                                                      std::size_t extents_max) override {
    co_await sleep_for(host_, 50us);
    std::vector<BlockExtent> extents;
    for (std::uint64_t at = offset_bytes; at < offset_bytes + length_bytes;) {
      const std::uint64_t end =
          std::min(round_down(at, kSectorBytes) + kSectorBytes, offset_bytes + length_bytes);
      bool zero = std::all_of(image_.begin() + static_cast<std::ptrdiff_t>(at),
                              image_.begin() + static_cast<std::ptrdiff_t>(end),
                              [](std::byte b) { return b == std::byte{0}; });
      if (bug_ == ReferenceBug::status_lies) zero = zero || rarely();
      if (extents.empty() || extents.back().zero != zero) {
        if (extents.size() == extents_max) break;
        extents.push_back({0, zero, zero});
      }
      extents.back().length_bytes += end - at;
      at = end;
    }
    co_return extents;
  }

 private:
  struct PendingWrite {
    BlockRequest* request;
    ReferenceStore::Entry entry;
    bool ready = false;
  };

  bool rarely() { return prng_.chance(0.05); }
  template <typename Function>
  void later(BlockRequest&, Function function) {
    const Duration delay = prng_.between(Duration(5us), Duration(300us));
    host_.scheduler().schedule(host_.now() + delay, &host_, EventKind::completion,
                               std::move(function));
  }
  void answer(BlockRequest& request, BlockStatus status) {
    if (bug_ == ReferenceBug::forget_request && rarely()) return;
    if (bug_ == ReferenceBug::answer_error && rarely()) status = BlockStatus::medium_error;
    --in_flight_;
    request.on_complete(request, status);
    if (bug_ == ReferenceBug::answer_twice && rarely()) request.on_complete(request, status);
  }
  void read(BlockRequest& request) {
    const bool stale = bug_ == ReferenceBug::stale_read && rarely();
    const std::vector<std::byte>& from = stale ? previous_ : image_;
    std::uint64_t at = request.offset_bytes;
    for (const iovec& vector : request.buffers) {
      std::memcpy(vector.iov_base, from.data() + at, vector.iov_len);
      at += vector.iov_len;
    }
    answer(request, BlockStatus::ok);
  }
  void start_write(BlockRequest& request) {
    if (request.length_bytes == 0) {
      later(request, [this, &request] { answer(request, BlockStatus::ok); });
      return;
    }
    ReferenceStore::Entry entry{request.offset_bytes, {}};
    entry.bytes.resize(request.length_bytes);
    std::size_t at = 0;
    for (const iovec& vector : request.buffers) {
      std::memcpy(entry.bytes.data() + at, vector.iov_base, vector.iov_len);
      at += vector.iov_len;
    }
    if (bug_ == ReferenceBug::torn_write && rarely() && entry.bytes.size() > kSectorBytes) {
      entry.bytes.resize(entry.bytes.size() - kSectorBytes);
    }
    if (bug_ == ReferenceBug::misplaced_write && rarely()) entry.offset_bytes += kBlockBytes;
    request.log_order = ++order_;
    if (bug_ == ReferenceBug::acknowledge_early) {
      pending_.push_back({nullptr, std::move(entry)});
      later(request, [this, &request] { answer(request, BlockStatus::ok); });
    } else {
      pending_.push_back({&request, std::move(entry)});
    }
    PendingWrite& write = pending_.back();
    later(request, [this, &write] {
      write.ready = true;
      if (bug_ == ReferenceBug::reorder_answers) {
        finish_any(write);
      } else {
        finish_in_order();
      }
    });
  }
  void finish(PendingWrite& write) {
    const bool forget = bug_ == ReferenceBug::zeroes_do_nothing && write.request != nullptr &&
                        write.request->operation == BlockOperation::write_zeroes;
    if (!forget) {
      if (bug_ == ReferenceBug::stale_read) apply_entry(previous_, last_);
      last_ = write.entry;
      apply_entry(image_, write.entry);
      store_.log.push_back(write.entry);
    }
    if (write.request == nullptr) return;
    BlockRequest& request = *write.request;
    if (request.force_unit_access) make_durable(store_.log.size());
    answer(request, BlockStatus::ok);
  }
  void finish_in_order() {
    while (!pending_.empty() && pending_.front().ready) {
      PendingWrite write = std::move(pending_.front());
      pending_.pop_front();
      finish(write);
    }
  }
  void finish_any(PendingWrite& write) {
    finish(write);
    write.request = nullptr;
    write.entry.bytes.clear();
    while (!pending_.empty() && pending_.front().ready && pending_.front().request == nullptr) {
      pending_.pop_front();
    }
  }
  void make_durable(std::size_t count) {
    // Flushes are counted from the log's front; another may have taken part of it meanwhile.
    count = std::min(count, store_.log.size());
    for (std::size_t i = 0; i < count; ++i) apply_entry(store_.durable, store_.log[i]);
    store_.log.erase(store_.log.begin(), store_.log.begin() + static_cast<std::ptrdiff_t>(count));
  }

  SimHost& host_;
  ReferenceStore& store_;
  ReferenceBug bug_;
  Prng prng_;
  BlockDeviceInfo info_;
  std::vector<std::byte> image_;
  std::vector<std::byte> previous_;  // without the last write
  ReferenceStore::Entry last_;
  std::deque<PendingWrite> pending_;
  std::uint64_t order_ = 0;
  std::uint64_t in_flight_ = 0;
};

}  // namespace

Task<Result<void>> ReferenceFactory::create(SimHost& host, SimFileSystem&, const RunPlan& plan) {
  prng_ = Prng(host.random());
  store_.size_bytes = plan.volume_bytes;
  store_.durable.assign(plan.volume_bytes, std::byte{0});
  co_return Result<void>();
}

std::unique_ptr<Subject> ReferenceFactory::make(SimHost& host, SimFileSystem&, const RunPlan&) {
  return std::make_unique<ReferenceDevice>(host, store_, bug_);
}

void ReferenceFactory::crashed(CrashKind kind) {
  if (bug_ == ReferenceBug::lose_acknowledged && !store_.log.empty()) store_.log.pop_back();
  if (kind != CrashKind::power) return;
  if (bug_ == ReferenceBug::lose_from_the_middle && store_.log.size() > 2) {
    store_.log.erase(store_.log.begin() +
                     static_cast<std::ptrdiff_t>(prng_.below(store_.log.size() - 1)));
  } else {
    store_.log.resize(prng_.below(store_.log.size() + 1));
  }
  for (const auto& entry : store_.log) apply_entry(store_.durable, entry);
  store_.log.clear();
}

}  // namespace holdfast::sim
