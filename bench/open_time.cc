// SPDX-License-Identifier: Apache-2.0
//
// How long a volume takes to open after its daemon was killed, with its map fully populated by
// scattered 4 KiB writes: the time that a VM stands still.
//
//   open_time DIRECTORY [--size 100G] [--tail 128M]
//
// A child process fills the volume through the ordinary code, except that the payload of log
// records is not written (the segments stay sparse), takes a checkpoint, writes the tail for real,
// and dies without closing. The parent then opens the volume with the daemon's defaults and reports
// the time.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/units.h"
#include "format/record.h"
#include "io/disk.h"
#include "io/loop.h"
#include "io/run_task.h"
#include "pool/open_pool.h"
#include "volume/volume.h"

namespace holdfast {
namespace {

struct Arguments {
  std::string directory;
  std::uint64_t size_bytes = 100 * kGiB;
  std::uint64_t tail_bytes = 128 * kMiB;
};

// Passes everything to the disk but the log's records, while `dropping`.
class SparseFile final : public File {
 public:
  SparseFile(Executor& executor, const bool& dropping, std::unique_ptr<File> below)
      : executor_(executor), dropping_(dropping), below_(std::move(below)) {}

 private:
  void start(FileRequest& request) override {
    const bool is_record =
        request.operation == FileOperation::write &&
        load_little<std::uint32_t>(static_cast<const std::byte*>(request.vectors[0].iov_base)) ==
            format::kRecordMagic;
    if (dropping_ && (is_record || request.operation == FileOperation::sync_data)) {
      request.error = 0;
      executor_.post([&request] { request.complete(); });
    } else {
      below_->submit(request);
    }
  }

  Executor& executor_;
  const bool& dropping_;
  std::unique_ptr<File> below_;
};

class SparseFileSystem final : public FileSystem {
 public:
  SparseFileSystem(Executor& executor, FileSystem& below) : executor_(executor), below_(below) {}
  bool dropping = true;

  Task<Result<std::unique_ptr<File>>> open(std::string path, FileOpenOptions options) override {
    const std::uint64_t size_bytes = dropping ? options.preallocate_bytes : 0;
    if (dropping) options.preallocate_bytes = 0;
    CO_TRY_ASSIGN(std::unique_ptr<File> file, co_await below_.open(path, options));
    if (size_bytes != 0) {
      CO_TRY(co_await below_.truncate(path, size_bytes));
    }
    co_return std::unique_ptr<File>(
        std::make_unique<SparseFile>(executor_, dropping, std::move(file)));
  }
  Task<Result<void>> make_directory(std::string path) override {
    return below_.make_directory(std::move(path));
  }
  Task<Result<void>> remove_file(std::string path) override {
    return below_.remove_file(std::move(path));
  }
  Task<Result<void>> remove_directory(std::string path) override {
    return below_.remove_directory(std::move(path));
  }
  Task<Result<void>> rename(std::string from, std::string to) override {
    return below_.rename(std::move(from), std::move(to));
  }
  Task<Result<void>> link(std::string from, std::string to) override {
    return below_.link(std::move(from), std::move(to));
  }
  Task<Result<FileStatus>> status(std::string path) override {
    return below_.status(std::move(path));
  }
  Task<Result<void>> sync_directory(std::string path) override {
    if (dropping) co_return Result<void>{};
    co_return co_await below_.sync_directory(std::move(path));
  }
  Task<Result<std::vector<std::string>>> list(std::string path) override {
    return below_.list(std::move(path));
  }
  Task<Result<void>> truncate(std::string path, std::uint64_t size_bytes) override {
    return below_.truncate(std::move(path), size_bytes);
  }
  Task<Result<std::uint64_t>> allocated_bytes(std::string path) override {
    return below_.allocated_bytes(std::move(path));
  }
  Task<Result<void>> allocate(std::string path, std::uint64_t size_bytes) override {
    return below_.allocate(std::move(path), size_bytes);
  }
  Task<Result<FileSystemSpace>> space(std::string path) override {
    return below_.space(std::move(path));
  }
  Task<Result<std::vector<std::byte>>> read_file(std::string path) override {
    return below_.read_file(std::move(path));
  }
  Task<Result<void>> write_file(std::string path, std::vector<std::byte> bytes) override {
    return below_.write_file(std::move(path), std::move(bytes));
  }
  Task<Result<std::unique_ptr<FileLock>>> lock(std::string path, std::string holder) override {
    return below_.lock(std::move(path), std::move(holder));
  }

 private:
  Executor& executor_;
  FileSystem& below_;
};

VolumeId bench_volume() {
  VolumeId id;
  id.bytes.fill(std::byte{0x42});
  return id;
}

template <typename T>
T wait_for(Loop& loop, Task<T> task) {
  return run_task<T>([&loop](const auto& done) { loop.run_until(done, 1h); }, std::move(task));
}

template <typename T>
T or_exit(Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "open_time: %s\n", result.error().message().c_str());
    std::_Exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(result).value();
}

// Keeps `depth` 4 KiB writes in flight over blocks first, first+1, ... of a scattered permutation.
class Writer {
 public:
  Writer(Loop& loop, Volume& volume) : loop_(loop), volume_(volume), payload_(kBlockBytes) {
    blocks_ = volume.info().size_bytes / kBlockBytes;
    // The golden ratio's multiple, made coprime to the count: a permutation without locality.
    step_ = static_cast<std::uint64_t>(static_cast<double>(blocks_) * 0.6180339887) | 1;
    while (std::gcd(step_, blocks_) != 1) step_ += 2;
    buffer_ = {payload_.data(), payload_.size()};
  }
  void run(std::uint64_t count) {
    left_ = count;
    for (BlockRequest& request : requests_) start(request);
    loop_.run_until([this] { return in_flight_ == 0; }, 24h);
  }

 private:
  void start(BlockRequest& request) {
    if (left_ == 0) return;
    --left_;
    ++in_flight_;
    position_ = (position_ + step_) % blocks_;
    request = BlockRequest{};
    request.operation = BlockOperation::write;
    request.offset_bytes = position_ * kBlockBytes;
    request.length_bytes = kBlockBytes;
    request.buffers = std::span<const iovec>(&buffer_, 1);
    request.context = this;
    request.on_complete = [](BlockRequest& done, BlockStatus) {
      auto* self = static_cast<Writer*>(done.context);
      --self->in_flight_;
      self->start(done);
    };
    volume_.submit(request);
  }
  Loop& loop_;
  Volume& volume_;
  std::vector<std::byte> payload_;
  iovec buffer_{};
  std::uint64_t blocks_ = 0;
  std::uint64_t step_ = 0;
  std::uint64_t position_ = 0;
  std::uint64_t left_ = 0;
  std::uint64_t in_flight_ = 0;
  std::array<BlockRequest, 256> requests_;
};

[[noreturn]] void populate_and_die(const Arguments& arguments) {
  std::unique_ptr<Loop> loop = or_exit(Loop::create());
  Disk disk(*loop);
  SparseFileSystem sparse(*loop, disk);
  const PoolContext context{*loop, sparse, "open_time"};
  auto pool = or_exit(
      wait_for(*loop, create_pool(context, "dir:" + arguments.directory, PoolCreateOptions{})));
  VolumeCreateOptions create;
  create.id = bench_volume();
  create.name = "bench";
  create.size_bytes = arguments.size_bytes;
  or_exit(wait_for(*loop, Volume::create(*loop, *pool, create)));
  VolumeOptions options;
  options.page_cache_bytes = 2 * kGiB;  // one checkpoint for all: populating is not measured
  options.checkpoint_log_bytes = 8 * arguments.size_bytes;
  options.checkpoint_idle = 24h;
  auto volume = or_exit(wait_for(*loop, Volume::open(*loop, *pool, create.id, options)));
  Writer writer(*loop, *volume);
  writer.run(arguments.size_bytes / kBlockBytes);
  or_exit(wait_for(*loop, volume->checkpoint()));
  sparse.dropping = false;
  // Tail records are full ones: 127 payload blocks behind each header.
  writer.run(arguments.tail_bytes / kBlockBytes);
  std::printf("populated: %s of scattered blocks, then a log tail of %s\n",
              format_bytes(arguments.size_bytes).c_str(),
              format_bytes(arguments.tail_bytes).c_str());
  std::fflush(stdout);
  std::_Exit(0);
}

void open_and_report(const Arguments& arguments) {
  std::unique_ptr<Loop> loop = or_exit(Loop::create());
  Disk disk(*loop);
  const PoolContext context{*loop, disk, "open_time"};
  auto pool = or_exit(wait_for(*loop, open_pool(context, "dir:" + arguments.directory)));
  auto volume =
      or_exit(wait_for(*loop, Volume::open(*loop, *pool, bench_volume(), VolumeOptions{})));
  const VolumeStatistics statistics = volume->statistics();
  std::printf("opened in %.0f ms: %llu records replayed, %s of live data in %llu segments\n",
              static_cast<double>(statistics.open_time.count()) / 1e6,
              static_cast<unsigned long long>(statistics.replayed_records),
              format_bytes(statistics.live_bytes).c_str(),
              static_cast<unsigned long long>(statistics.segment_count));
  or_exit(wait_for(*loop, volume->close()));
  volume.reset();
  pool.reset();
}

int run(int count, char** values) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string_view argument = values[i];
    if (argument == "--size" && i + 1 < count) {
      arguments.size_bytes = or_exit(parse_bytes(values[++i]));
    } else if (argument == "--tail" && i + 1 < count) {
      arguments.tail_bytes = or_exit(parse_bytes(values[++i]));
    } else if (arguments.directory.empty() && !argument.starts_with('-')) {
      arguments.directory = std::filesystem::absolute(argument).string();
    } else {
      std::fprintf(stderr, "usage: open_time DIRECTORY [--size 100G] [--tail 128M]\n");
      return 2;
    }
  }
  if (arguments.directory.empty() || std::filesystem::exists(arguments.directory)) {
    std::fprintf(stderr, "open_time: name a directory that does not exist yet\n");
    return 2;
  }
  const pid_t child = fork();
  if (child == 0) populate_and_die(arguments);
  int status = 0;
  waitpid(child, &status, 0);
  if (status == 0) open_and_report(arguments);
  std::error_code ignored;
  std::filesystem::remove_all(arguments.directory, ignored);
  return status == 0 ? 0 : 1;
}

}  // namespace
}  // namespace holdfast

int main(int argc, char** argv) {
  return holdfast::run(argc, argv);
}
