// SPDX-License-Identifier: Apache-2.0
#include "sim/sim_file_system.h"

#include <algorithm>
#include <cerrno>
#include <coroutine>
#include <cstring>

#include "base/bytes.h"
#include "base/crc32c.h"

namespace holdfast::sim {
namespace {

constexpr unsigned kBadPlacesInARowMax = 5;
constexpr std::uint64_t kSmallFileBytesMax = kMiB;

const char* operation_name(FileOperation operation) {
  switch (operation) {
    case FileOperation::read:
      return "read";
    case FileOperation::write:
      return "write";
    case FileOperation::sync_data:
      return "sync";
  }
  return "?";
}

std::uint64_t total_bytes(const FileRequest& request) {
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < request.vector_count; ++i) bytes += request.vectors[i].iov_len;
  return bytes;
}

std::vector<std::byte> gather(const FileRequest& request) {
  std::vector<std::byte> bytes;
  bytes.reserve(total_bytes(request));
  for (std::uint32_t i = 0; i < request.vector_count; ++i) {
    const auto* from = static_cast<const std::byte*>(request.vectors[i].iov_base);
    bytes.insert(bytes.end(), from, from + request.vectors[i].iov_len);
  }
  return bytes;
}

std::uint32_t checksum_of(const FileRequest& request) {
  std::uint32_t checksum = 0;
  for (std::uint32_t i = 0; i < request.vector_count; ++i) {
    const auto* from = static_cast<const std::byte*>(request.vectors[i].iov_base);
    checksum = crc32c({from, request.vectors[i].iov_len}, checksum);
  }
  return checksum;
}

}  // namespace

class SimFile final : public File {
 public:
  SimFile(SimFileSystem& file_system, InodePointer inode, bool is_writable, std::string path)
      : file_system_(file_system),
        inode_(std::move(inode)),
        is_writable_(is_writable),
        path_(std::move(path)) {
    ++inode_->open_count;
  }
  ~SimFile() override {
    if (file_system_.alive_ && in_flight_ != 0) {
      file_system_.scheduler_.fail(
          "file lifetime",
          path_ + " is closed with " + std::to_string(in_flight_) + " requests in flight");
      file_system_.abandon(*this);
    }
    --inode_->open_count;
    file_system_.storage_.update_accounting(*inode_);
  }

 private:
  void start(FileRequest& request) override { file_system_.submit(*this, request); }

  friend class SimFileSystem;
  SimFileSystem& file_system_;
  InodePointer inode_;
  bool is_writable_;
  std::string path_;
  std::uint32_t in_flight_ = 0;
  bool is_stale_ = false;
};

class SimFileLock final : public FileLock {
 public:
  SimFileLock(SimFileSystem& file_system, InodePointer inode)
      : file_system_(file_system), inode_(std::move(inode)) {}
  ~SimFileLock() override {
    if (file_system_.alive_) inode_->locked_by = 0;
  }

 private:
  SimFileSystem& file_system_;
  InodePointer inode_;
};

// Suspends until the storage answers, at a time drawn when it is awaited.
class SimFileSystem::Answer {
 public:
  explicit Answer(SimFileSystem& file_system) : file_system_(file_system) {}
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;
  ~Answer() {
    if (!is_pending_ || !file_system_.alive_) return;
    file_system_.scheduler_.cancel(key_);
    ended();
  }
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiting) {
    if (!file_system_.alive_) return;
    is_pending_ = true;
    id_ = file_system_.next_id_++;
    file_system_.answers_.emplace(id_, file_system_.scheduler_.now());
    key_ = file_system_.scheduler_.schedule(file_system_.pick_time(), &file_system_.host_,
                                            EventKind::completion, [this, waiting] {
                                              ended();
                                              waiting.resume();
                                            });
  }
  void await_resume() const noexcept {}

 private:
  void ended() {
    is_pending_ = false;
    file_system_.answers_.erase(id_);
    file_system_.note_if_idle();
  }

  SimFileSystem& file_system_;
  bool is_pending_ = false;
  std::uint64_t id_ = 0;
  EventKey key_;
};

SimFileSystem::SimFileSystem(SimHost& host, SimStorage& storage, Faults& faults)
    : host_(host),
      scheduler_(host.scheduler()),
      storage_(storage),
      faults_(faults),
      prng_(host.scheduler().prng().fork()) {}

SimFileSystem::~SimFileSystem() {
  if (alive_) die(false);
}

MonotonicTime SimFileSystem::die(bool host_lost) {
  if (!alive_) return scheduler_.now();
  alive_ = false;
  MonotonicTime drained_at = scheduler_.now();
  for (auto& [id, pending] : pending_) {
    if (pending.request->operation == FileOperation::sync_data) {
      // It may have reached the medium without anybody hearing of it.
      if (prng_.chance(0.5)) {
        storage_.sync_done(*pending.inode, pending.sync_mark, true);
      } else {
        --pending.inode->syncs_in_flight;
      }
    } else if (pending.request->operation == FileOperation::write) {
      std::vector<std::byte> bytes = gather(*pending.request);
      storage_.end_write(*pending.inode, pending.request->offset_bytes, pending.length_bytes);
      if (host_lost) {
        storage_.write_some(*pending.inode, pending.request->offset_bytes, bytes);
      } else {
        const Duration delay =
            prng_.between(Duration(0), prng_.chance(0.2) ? Duration(20s) : Duration(2ms));
        const MonotonicTime time = scheduler_.now() + delay;
        drained_at = std::max(drained_at, time);
        storage_.land_late(pending.inode, pending.request->offset_bytes, std::move(bytes), time);
      }
    }
  }
  pending_.clear();
  if (host_lost) {
    storage_.unlock_all_of(host_.number());
  } else {
    // After the last late write: equal times run in the order they were scheduled.
    scheduler_.schedule(
        drained_at, nullptr, EventKind::world,
        [storage = &storage_, owner = host_.number()] { storage->unlock_all_of(owner); });
  }
  return drained_at;
}

void SimFileSystem::abandon(SimFile& file) {
  for (auto at = pending_.begin(); at != pending_.end();) {
    if (at->second.file != &file) {
      ++at;
      continue;
    }
    if (at->second.request->operation == FileOperation::sync_data)
      --at->second.inode->syncs_in_flight;
    at = pending_.erase(at);
  }
}

void SimFileSystem::note_if_idle() {
  if (pending_.empty() && answers_.empty()) idle_since_ = scheduler_.now();
}

std::optional<Duration> SimFileSystem::oldest_wait() const {
  std::optional<MonotonicTime> oldest;
  if (!pending_.empty()) oldest = pending_.begin()->second.submitted;
  if (!answers_.empty()) {
    const MonotonicTime call = answers_.begin()->second;
    oldest = oldest.has_value() ? std::min(*oldest, call) : call;
  }
  if (!oldest.has_value()) return std::nullopt;
  return scheduler_.now() - *oldest;
}

void SimFileSystem::trace(const std::string& line) {
  scheduler_.trace("p" + std::to_string(host_.number()) + " " + line);
}

int SimFileSystem::pick_error(double chance) {
  const bool outage = scheduler_.now() < faults_.outage_until && !faults_.outage_hangs;
  const bool hung = scheduler_.now() < faults_.outage_until && faults_.outage_hangs;
  if (!faults_.enabled) return 0;
  if (outage || (hung && prng_.chance(0.5)) || prng_.chance(chance)) {
    ++faults_.injected_errors;
    return prng_.pick({EIO, ETIMEDOUT, ESTALE, ENODEV});
  }
  return 0;
}

MonotonicTime SimFileSystem::rounded(Duration delay) const {
  const std::int64_t quantum = std::max<std::int64_t>(faults_.options.quantum.count(), 1);
  const std::int64_t time = (scheduler_.now() + delay).time_since_epoch().count();
  return MonotonicTime(Duration((time + quantum - 1) / quantum * quantum));
}

MonotonicTime SimFileSystem::pick_time() {
  const FaultOptions& options = faults_.options;
  Duration delay = prng_.between(options.delay_min, options.delay_max);
  if (faults_.enabled) {
    if (prng_.chance(options.slow_chance)) delay += prng_.between(Duration(0), options.slow_max);
    if (prng_.chance(options.hang_chance)) delay += prng_.between(Duration(0), options.hang_max);
    if (scheduler_.now() < faults_.outage_until && faults_.outage_hangs) {
      delay += faults_.outage_until - scheduler_.now();
    }
    if (scheduler_.now() < faults_.silent_until) delay += faults_.silent_until - scheduler_.now();
  }
  return rounded(delay);
}

void SimFileSystem::pick_bad_place(Inode& inode) {
  if (!faults_.enabled || faults_.options.bad_place_chance == 0 || inode.preallocated_bytes == 0 ||
      !prng_.chance(faults_.options.bad_place_chance)) {
    bad_places_in_a_row_ = 0;
    return;
  }
  // Where nearly every segment is bad, a log that waits longer each time finds a good one only
  // after hours: right, and no progress for the checker.
  if (++bad_places_in_a_row_ > kBadPlacesInARowMax) {
    bad_places_in_a_row_ = 0;
    return;
  }
  // Mostly near the start, which is the part that is certainly used.
  const std::uint64_t blocks = inode.preallocated_bytes / kBlockBytes;
  const std::uint64_t first =
      prng_.below(prng_.chance(0.7) ? std::min<std::uint64_t>(blocks, 16) : blocks);
  inode.bad_begin_bytes = first * kBlockBytes;
  inode.bad_end_bytes = (first + prng_.between(1, 8)) * kBlockBytes;
}

Error SimFileSystem::transport_error(const std::string& path, int error) const {
  return Error(ErrorCode::path_failure,
               path + ": " + strerrorname_np(error) + " (simulated path failure)");
}

void SimFileSystem::check_request(const SimFile& file, const FileRequest& request,
                                  std::uint64_t length_bytes) {
  const std::string what = std::string(operation_name(request.operation)) + " of " +
                           std::to_string(length_bytes) + " bytes at " +
                           std::to_string(request.offset_bytes) + " of " + file.path_;
  const auto breach = [&](const char* why) { scheduler_.fail("direct I/O", what + ": " + why); };
  if (request.on_complete == nullptr) breach("no completion callback");
  if (request.operation == FileOperation::sync_data) return;
  if (request.offset_bytes % kSectorBytes != 0) breach("the offset is not aligned to 512 bytes");
  for (std::uint32_t i = 0; i < request.vector_count; ++i) {
    const auto address = reinterpret_cast<std::uintptr_t>(request.vectors[i].iov_base);
    if (address % kSectorBytes != 0) breach("memory is not aligned to 512 bytes");
    if (request.vectors[i].iov_len % kSectorBytes != 0) breach("a length is not a multiple of 512");
  }
  if (request.operation != FileOperation::write) return;
  const std::uint64_t end_bytes = request.offset_bytes + length_bytes;
  if (!file.is_writable_) breach("the file is open for reading only");
  if (!faults_.options.is_shared && file.inode_->preallocated_bytes != 0 &&
      end_bytes > file.inode_->preallocated_bytes) {
    breach("it reaches beyond the preallocated space");
  }
  for (const auto& [id, other] : pending_) {
    if (other.inode != file.inode_ || other.request->operation != FileOperation::write) continue;
    if (request.offset_bytes < other.request->offset_bytes + other.length_bytes &&
        other.request->offset_bytes < end_bytes) {
      breach("another write to this range is in flight");
    }
  }
}

void SimFileSystem::submit(SimFile& file, FileRequest& request) {
  if (!alive_) return;
  const std::uint64_t length_bytes = total_bytes(request);
  check_request(file, request, length_bytes);
  Pending pending{scheduler_.now(), &request, &file, file.inode_, length_bytes, 0, 0, 0};
  switch (request.operation) {
    case FileOperation::read:
      pending.error = pick_error(faults_.options.read_error_chance);
      break;
    case FileOperation::write:
      pending.checksum = checksum_of(request);
      pending.error = pick_error(faults_.options.write_error_chance);
      if (pending.error == 0 && faults_.enabled &&
          request.offset_bytes < file.inode_->bad_end_bytes &&
          request.offset_bytes + length_bytes > file.inode_->bad_begin_bytes) {
        pending.error = EIO;
        ++faults_.injected_errors;
      }
      if (pending.error == 0 && faults_.enabled &&
          (faults_.thin_full || prng_.chance(faults_.options.write_no_space_chance))) {
        pending.error = ENOSPC;
        ++faults_.injected_errors;
      }
      if (faults_.enabled && prng_.chance(faults_.options.lands_early_chance)) {
        storage_.write_some(*file.inode_, request.offset_bytes, gather(request));
      }
      break;
    case FileOperation::sync_data:
      pending.error = pick_error(faults_.options.sync_error_chance);
      pending.sync_mark = storage_.sync_begin(*file.inode_);
      break;
  }
  if (faults_.enabled && faults_.options.stale_chance != 0 &&
      prng_.chance(faults_.options.stale_chance)) {
    file.is_stale_ = true;
  }
  if (file.is_stale_) {
    pending.error = ESTALE;
    ++faults_.injected_errors;
  }
  ++file.in_flight_;
  scheduler_.mix((file.inode_->number << 8) | static_cast<std::uint64_t>(request.operation));
  scheduler_.mix(mix64(request.offset_bytes, length_bytes) ^ pending.checksum);
  const std::uint64_t id = next_id_++;
  pending_.emplace(id, pending);
  const MonotonicTime time = pick_time();
  if (scheduler_.tracing()) {
    trace("#" + std::to_string(id) + " " + operation_name(request.operation) + " " + file.path_ +
          " at " + std::to_string(request.offset_bytes) + "+" + std::to_string(length_bytes));
  }
  scheduler_.schedule(time, &host_, EventKind::completion, [this, id] { finish(id); });
}

void SimFileSystem::finish(std::uint64_t id) {
  const auto found = pending_.find(id);
  if (found == pending_.end()) return;  // its file was closed meanwhile: a violation, reported
  Pending pending = std::move(found->second);
  pending_.erase(found);
  note_if_idle();
  FileRequest& request = *pending.request;
  Inode& inode = *pending.inode;
  switch (request.operation) {
    case FileOperation::read: {
      if (pending.error == 0 && request.offset_bytes + pending.length_bytes > inode.size_bytes) {
        pending.error = ENODATA;
      }
      std::uint64_t at = request.offset_bytes;
      for (std::uint32_t i = 0; i < request.vector_count; ++i) {
        auto* to = static_cast<std::byte*>(request.vectors[i].iov_base);
        const std::size_t count = request.vectors[i].iov_len;
        if (pending.error == 0) {
          storage_.read(inode, at, {to, count});
        } else {
          std::memset(to, 0xEB, count);  // nobody may look at what a failed read left
        }
        at += count;
      }
      break;
    }
    case FileOperation::write: {
      if (checksum_of(request) != pending.checksum) {
        scheduler_.fail("direct I/O", "the buffer of a write to " + pending.file->path_ +
                                          " changed while the write was in flight");
      }
      const std::vector<std::byte> bytes = gather(request);
      if (pending.error == 0) {
        storage_.write(inode, request.offset_bytes, bytes, nullptr, true);
      } else {
        storage_.write_some(inode, request.offset_bytes, bytes);
        storage_.end_write(inode, request.offset_bytes, pending.length_bytes);
      }
      break;
    }
    case FileOperation::sync_data:
      storage_.sync_done(inode, pending.sync_mark, pending.error == 0);
      break;
  }
  --pending.file->in_flight_;
  scheduler_.mix(id ^ (static_cast<std::uint64_t>(pending.error) << 48));
  if (scheduler_.tracing()) {
    trace("#" + std::to_string(id) + " " + operation_name(request.operation) + " answers " +
          (pending.error == 0 ? "ok" : strerrorname_np(pending.error)));
  }
  request.error = pending.error;
  request.complete();
}

Task<Result<void>> SimFileSystem::reach(const char* operation, const std::string& path) {
  co_await Answer(*this);
  const int error = pick_error(faults_.options.name_error_chance);
  scheduler_.mix(crc32c(as_bytes(path)) ^ (static_cast<std::uint64_t>(error) << 48));
  if (scheduler_.tracing()) {
    trace(std::string(operation) + " " + path + (error == 0 ? "" : " fails: ") +
          (error == 0 ? "" : strerrorname_np(error)));
  }
  if (error != 0) co_return transport_error(path, error);
  co_return Result<void>();
}

Task<Result<void>> SimFileSystem::answer(const std::string& path) {
  co_await Answer(*this);
  if (faults_.enabled && prng_.chance(faults_.options.error_after_chance)) {
    ++faults_.injected_errors;
    if (scheduler_.tracing()) trace(path + ": the answer is lost");
    co_return transport_error(path, ETIMEDOUT);
  }
  co_return Result<void>();
}

Task<Result<std::unique_ptr<File>>> SimFileSystem::open(std::string path, FileOpenOptions options) {
  CO_TRY(co_await reach(options.create_new ? "create" : "open", path));
  InodePointer inode;
  if (options.create_new) {
    CO_TRY_ASSIGN(inode, storage_.create_file(path, options.preallocate_bytes));
    pick_bad_place(*inode);
  } else {
    inode = storage_.find(path);
    if (inode == nullptr) {
      co_return Error(ErrorCode::not_found, path + ": no such file or directory");
    }
    if (inode->is_directory) {
      co_return Error(ErrorCode::invalid_argument, path + ": is a directory");
    }
  }
  std::unique_ptr<File> file =
      std::make_unique<SimFile>(*this, std::move(inode), options.writable, path);
  CO_TRY(co_await answer(path));
  co_return std::move(file);
}

Task<Result<void>> SimFileSystem::make_directory(std::string path) {
  CO_TRY(co_await reach("make directory", path));
  CO_TRY(storage_.make_directory(path));
  co_return co_await answer(path);
}

Task<Result<void>> SimFileSystem::remove_file(std::string path) {
  CO_TRY(co_await reach("remove", path));
  CO_TRY(storage_.remove_file(path));
  co_return co_await answer(path);
}

Task<Result<void>> SimFileSystem::remove_directory(std::string path) {
  CO_TRY(co_await reach("remove directory", path));
  CO_TRY(storage_.remove_directory(path));
  co_return co_await answer(path);
}

Task<Result<void>> SimFileSystem::rename(std::string from, std::string to) {
  CO_TRY(co_await reach("rename", from));
  CO_TRY(storage_.rename(from, to));
  co_return co_await answer(to);
}

Task<Result<void>> SimFileSystem::link(std::string from, std::string to) {
  CO_TRY(co_await reach("link", to));
  if (!faults_.options.has_links) {
    co_return Error(ErrorCode::unsupported, to + ": no links here (simulated)");
  }
  CO_TRY(storage_.link(from, to));
  co_return co_await answer(to);
}

Task<Result<FileStatus>> SimFileSystem::status(std::string path) {
  CO_TRY(co_await reach("stat", path));
  const InodePointer inode = storage_.find(path);
  if (inode == nullptr) co_return Error(ErrorCode::not_found, path + ": no such file or directory");
  FileStatus status;
  status.size_bytes = inode->size_bytes;
  status.allocated_bytes = inode->allocated_bytes;
  status.link_count = inode->link_count;
  co_return status;
}

Task<Result<void>> SimFileSystem::sync_directory(std::string path) {
  CO_TRY(co_await reach("sync directory", path));
  CO_TRY(storage_.sync_directory(path));
  co_return co_await answer(path);
}

Task<Result<std::vector<std::string>>> SimFileSystem::list(std::string path) {
  CO_TRY(co_await reach("list", path));
  CO_TRY_ASSIGN(std::vector<std::string> names, storage_.list(path));
  // A directory has no order; callers may not count on one.
  for (std::size_t i = names.size(); i > 1; --i) std::swap(names[i - 1], names[prng_.below(i)]);
  co_return names;
}

Task<Result<void>> SimFileSystem::truncate(std::string path, std::uint64_t size_bytes) {
  CO_TRY(co_await reach("truncate", path));
  CO_TRY(storage_.truncate(path, size_bytes));
  co_return co_await answer(path);
}

Task<Result<std::uint64_t>> SimFileSystem::allocated_bytes(std::string path) {
  CO_TRY(co_await reach("stat", path));
  const InodePointer inode = storage_.find(path);
  if (inode == nullptr) co_return Error(ErrorCode::not_found, path + ": no such file or directory");
  co_return inode->allocated_bytes;
}

Task<Result<void>> SimFileSystem::allocate(std::string path, std::uint64_t size_bytes) {
  CO_TRY(co_await reach("allocate", path));
  CO_TRY(storage_.allocate(path, size_bytes));
  co_return co_await answer(path);
}

Task<Result<FileSystemSpace>> SimFileSystem::space(std::string path) {
  CO_TRY(co_await reach("space", path));
  if (storage_.find(path) == nullptr) {
    co_return Error(ErrorCode::not_found, path + ": no such file or directory");
  }
  co_return FileSystemSpace{storage_.capacity_bytes(), storage_.available_bytes()};
}

Task<Result<std::vector<std::byte>>> SimFileSystem::read_file(std::string path) {
  CO_TRY(co_await reach("read file", path));
  const InodePointer inode = storage_.find(path);
  if (inode == nullptr) co_return Error(ErrorCode::not_found, path + ": no such file or directory");
  if (inode->is_directory) {
    co_return Error(ErrorCode::invalid_argument, path + ": is a directory");
  }
  if (inode->size_bytes > kSmallFileBytesMax) {
    co_return Error(ErrorCode::invalid_argument, path + ": too large to be read whole");
  }
  std::vector<std::byte> bytes(inode->size_bytes);
  storage_.read(*inode, 0, bytes);
  co_return bytes;
}

// Three steps, and a crash may come between any two: the empty file, its bytes, their sync.
Task<Result<void>> SimFileSystem::write_file(std::string path, std::vector<std::byte> bytes) {
  CO_TRY(co_await reach("write file", path));
  InodePointer inode = storage_.find(path);
  if (inode != nullptr && inode->is_directory) {
    co_return Error(ErrorCode::invalid_argument, path + ": is a directory");
  }
  if (inode == nullptr) {
    CO_TRY_ASSIGN(inode, storage_.create_file(path, 0));
  }
  const std::uint64_t needed_bytes = round_up(bytes.size(), kBlockBytes);
  if (needed_bytes > inode->allocated_bytes &&
      needed_bytes - inode->allocated_bytes > storage_.available_bytes()) {
    co_return Error(ErrorCode::no_space, path + ": no space left (simulated)");
  }
  CO_TRY(co_await reach("write the bytes of", path));
  storage_.write(*inode, 0, bytes, nullptr, true);
  if (inode->size_bytes > bytes.size()) storage_.truncate(*inode, bytes.size());
  const std::uint64_t mark = storage_.sync_begin(*inode);
  auto synced = co_await reach("sync", path);
  storage_.sync_done(*inode, mark, synced.ok());
  if (!synced.ok()) co_return synced.take_error();
  co_return co_await answer(path);
}

Task<Result<std::unique_ptr<FileLock>>> SimFileSystem::lock(std::string path, std::string holder) {
  CO_TRY(co_await reach("lock", path));
  InodePointer inode = storage_.find(path);
  if (inode == nullptr) {
    CO_TRY_ASSIGN(inode, storage_.create_file(path, 0));
  }
  if (inode->locked_by != 0) {
    std::vector<std::byte> line(inode->size_bytes);
    storage_.read(*inode, 0, line);
    co_return Error(ErrorCode::busy, path + " is locked by " + std::string(as_text(line)));
  }
  inode->locked_by = host_.number();
  storage_.truncate(*inode, 0);
  storage_.write(*inode, 0, as_bytes(holder), nullptr, true);
  std::unique_ptr<FileLock> lock = std::make_unique<SimFileLock>(*this, std::move(inode));
  CO_TRY(co_await answer(path));
  co_return std::move(lock);
}

}  // namespace holdfast::sim
