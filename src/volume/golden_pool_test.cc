// SPDX-License-Identifier: Apache-2.0
//
// Old pools open for ever: two pools that a program of format version 1 made, one closed cleanly,
// one left by a daemon that died with a log to replay, are unpacked, opened and read.
//
// A third, made by tools/golden_formats.py without any code of ours, is what a daemon leaves that
// died while it wrote records again after a failed sync.
//
// A fourth has a volume with two snapshots, a clone of the older one, and a volume in the trash.
//
// They are src/format/testdata/pool_v1_*.dump: every file of the pool's directory as lines of 16
// bytes; a line "*" repeats the line before it up to the next offset. To make dumps of a new format
// version (the old ones stay):
//   HOLDFAST_GOLDEN_OUTPUT=DIRECTORY volume_test --gtest_filter='GoldenPool*'
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "io/disk.h"
#include "io/run_task.h"
#include "io/temporary_directory.h"
#include "pool/open_pool.h"
#include "volume/volume.h"

namespace holdfast {
namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t kVolumeBlocks = 10'240;
constexpr std::size_t kLineBytes = 16;
constexpr WallTime kTrashedSince{1'795'000'000};
constexpr WallTime kTrashedUntil{1'795'259'200};

// --- Dumps ---

std::string dump_line(std::size_t offset, const char* bytes, std::size_t count) {
  std::array<char, 16> digits{};
  std::snprintf(digits.data(), digits.size(), "%08zx:", offset);
  std::string line = digits.data();
  for (std::size_t i = 0; i < count; ++i) {
    std::snprintf(digits.data(), digits.size(), "%02x", static_cast<unsigned char>(bytes[i]));
    line += (i == 0 ? " " : "") + std::string(digits.data());
  }
  return line + "\n";
}

std::string dump_file(const fs::path& path, const std::string& name) {
  std::ifstream file(path, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  std::string text = "file " + name + "\n";
  bool starred = false;
  for (std::size_t at = 0; at < content.size(); at += kLineBytes) {
    const std::size_t count = std::min(kLineBytes, content.size() - at);
    const bool repeats = at != 0 && count == kLineBytes &&
                         content.compare(at, count, content, at - kLineBytes, kLineBytes) == 0;
    if (!repeats) text += dump_line(at, content.data() + at, count);
    if (repeats && !starred) text += "*\n";
    starred = repeats;
  }
  return text + dump_line(content.size(), nullptr, 0);
}

std::string dump_pool(const fs::path& pool) {
  std::map<std::string, fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(pool)) {
    const std::string name = fs::relative(entry.path(), pool).string();
    if (entry.is_regular_file() && name != "lock") files.emplace(name, entry.path());
  }
  std::string text;
  for (const auto& [name, path] : files) text += dump_file(path, name);
  return text;
}

std::string unhex(const std::string& digits) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes += static_cast<char>(std::stoul(digits.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

void unpack(std::istream& dump, const fs::path& pool) {
  fs::create_directories(pool);
  std::ofstream file;
  std::string content;
  std::string last;
  for (std::string line; std::getline(dump, line);) {
    if (line.starts_with("file ")) {
      const fs::path path = pool / line.substr(5);
      fs::create_directories(path.parent_path());
      file = std::ofstream(path, std::ios::binary);
      content.clear();
    } else if (line != "*") {
      const std::size_t offset = std::stoul(line.substr(0, 8), nullptr, 16);
      while (content.size() < offset) content += last;
      ASSERT_EQ(content.size(), offset) << line;
      if (line.size() > 9) {
        last = unhex(line.substr(10));
        content += last;
        continue;
      }
      file.write(content.data(), static_cast<std::streamsize>(content.size()));
      file.close();
      ASSERT_TRUE(file.good()) << "cannot unpack " << pool;
    }
  }
}

// --- What is in the pools ---

Bytes block_of(std::uint64_t block, std::uint32_t version) {
  Bytes bytes(kBlockBytes);
  for (std::size_t at = 0; at < bytes.size(); at += kLineBytes) {
    std::memcpy(bytes.data() + at, "HOLD", 4);
    store_little(bytes.data() + at + 4, version);
    store_little(bytes.data() + at + 8, block);
  }
  return bytes;
}

// The content of a volume, and the requests that made it: first() is behind a checkpoint, second()
// only in the log.
class Script {
 public:
  struct Step {
    BlockOperation operation;
    std::uint64_t offset_bytes;
    Bytes bytes;  // of a write; else only their number counts
    bool keep_allocated = false;
  };
  std::vector<Step> first() {
    write_blocks(0, 40, 1);
    write(100 * kBlockBytes + 512, Bytes(1000, std::byte{0xab}));
    write_blocks(335, 3, 1);  // over the end of a map page
    write_blocks(5000, 1, 1);
    zero(BlockOperation::discard, 10, 3, false);
    zero(BlockOperation::write_zeroes, 20, 2, true);
    write_blocks(5, 1, 2);
    return take();
  }
  std::vector<Step> second() {
    write_blocks(6, 1, 3);
    write_blocks(9000, 2, 1);
    zero(BlockOperation::discard, 30, 2, false);
    write(100 * kBlockBytes + 1000, Bytes(100, std::byte{0xcd}));
    zero(BlockOperation::write_zeroes, 336, 1, false);
    write_blocks(kVolumeBlocks - 1, 1, 4);
    return take();
  }
  // Behind the second snapshot.
  std::vector<Step> third() {
    write_blocks(0, 20, 5);
    zero(BlockOperation::discard, 335, 3, false);
    write_blocks(9500, 1, 5);
    return take();
  }
  // Of a clone, on top of first().
  std::vector<Step> of_clone() {
    write_blocks(1, 2, 6);
    zero(BlockOperation::discard, 5000, 1, false);
    write_blocks(8888, 2, 6);
    return take();
  }
  const Bytes& content() const { return content_; }

 private:
  void write_blocks(std::uint64_t first, std::uint64_t count, std::uint32_t version) {
    Bytes bytes;
    for (std::uint64_t block = first; block < first + count; ++block) {
      const Bytes one = block_of(block, version);
      bytes.insert(bytes.end(), one.begin(), one.end());
    }
    write(first * kBlockBytes, bytes);
  }
  void write(std::uint64_t offset, const Bytes& bytes) {
    std::copy(bytes.begin(), bytes.end(), content_.begin() + static_cast<std::ptrdiff_t>(offset));
    steps_.push_back({BlockOperation::write, offset, bytes});
  }
  void zero(BlockOperation operation, std::uint64_t first, std::uint64_t count, bool keep) {
    const Bytes zeros(count * kBlockBytes);
    write(first * kBlockBytes, zeros);
    steps_.back().operation = operation;
    steps_.back().keep_allocated = keep;
  }
  std::vector<Step> take() { return std::exchange(steps_, {}); }

  Bytes content_ = Bytes(kVolumeBlocks * kBlockBytes);
  std::vector<Step> steps_;
};

class GoldenPoolTest : public testing::Test {
 protected:
  GoldenPoolTest() {
    loop_ = Loop::create().value();
    disk_ = std::make_unique<Disk>(*loop_);
    id_ = Uuid::parse("fedcba98-7654-4210-8123-456789abcdef").value();
    clone_id_ = Uuid::parse("c10ecba9-7654-4210-8123-456789abcdef").value();
    trashed_id_ = Uuid::parse("d1e2cba9-7654-4210-8123-456789abcdef").value();
  }
  ~GoldenPoolTest() override {
    drop();
    disk_.reset();
  }

  fs::path path() const { return fs::path(directory_.path()) / "pool"; }
  template <typename T>
  T run(Task<T> task) {
    return run_task<T>([this](const auto& done) { ASSERT_TRUE(loop_->run_until(done, 60s)); },
                       std::move(task));
  }
  void open_pool_only() {
    if (pool_ != nullptr) return;
    const PoolContext context{*loop_, *disk_, "a test"};
    auto pool = run(open_pool(context, "dir:" + path().string()));
    ASSERT_TRUE(pool.ok()) << pool.error().message();
    pool_ = std::move(pool).value();
  }
  void open() { open_as(id_); }
  void open_as(const VolumeId& id) {
    open_pool_only();
    ASSERT_NE(pool_, nullptr);
    auto volume = run(Volume::open(*loop_, *pool_, id, VolumeOptions{}));
    ASSERT_TRUE(volume.ok()) << volume.error().message();
    volume_ = std::move(volume).value();
  }
  // What SIGKILL leaves behind: nothing is in flight.
  void drop() {
    volume_.reset();
    pool_.reset();
  }
  void close() {
    const Result<void> closed = run(volume_->close());
    ASSERT_TRUE(closed.ok()) << closed.error().message();
    drop();
  }
  BlockStatus submit(BlockOperation operation, std::uint64_t offset, std::uint64_t length,
                     std::byte* data, bool keep) {
    BlockRequest request;
    const iovec buffer{data, length};
    std::optional<BlockStatus> status;
    request.operation = operation;
    request.offset_bytes = offset;
    request.length_bytes = length;
    request.keep_allocated = keep;
    if (data != nullptr) request.buffers = std::span<const iovec>(&buffer, 1);
    request.context = &status;
    request.on_complete = [](BlockRequest& done, BlockStatus result) {
      static_cast<std::optional<BlockStatus>*>(done.context)->emplace(result);
    };
    volume_->submit(request);
    EXPECT_TRUE(loop_->run_until([&] { return status.has_value(); }, 60s));
    return *status;
  }
  void run_steps(std::vector<Script::Step> steps) {
    for (Script::Step& step : steps) {
      std::byte* const data = step.operation == BlockOperation::write ? step.bytes.data() : nullptr;
      ASSERT_EQ(
          submit(step.operation, step.offset_bytes, step.bytes.size(), data, step.keep_allocated),
          BlockStatus::ok);
    }
  }
  void expect_content(const Bytes& expected) {
    Bytes bytes(expected.size());
    ASSERT_EQ(submit(BlockOperation::read, 0, bytes.size(), bytes.data(), false), BlockStatus::ok);
    // Bytes one by one take seconds in a build without optimisation.
    if (std::memcmp(bytes.data(), expected.data(), bytes.size()) == 0) return;
    const auto [is, should] = std::mismatch(bytes.begin(), bytes.end(), expected.begin());
    ADD_FAILURE() << "byte " << is - bytes.begin();
  }
  void expect_allocation() {
    const auto state_of = [&](std::uint64_t block) {
      const auto status = run(volume_->block_status(block * kBlockBytes, kBlockBytes, 1));
      EXPECT_TRUE(status.ok());
      return std::pair(status->front().hole, status->front().zero);
    };
    EXPECT_EQ(state_of(0), std::pair(false, false));
    EXPECT_EQ(state_of(11), std::pair(true, true)) << "discarded";
    EXPECT_EQ(state_of(20), std::pair(false, true)) << "zeroed, its space kept";
    EXPECT_EQ(state_of(31), std::pair(true, true)) << "discarded, only in the log";
    EXPECT_EQ(state_of(8000), std::pair(true, true)) << "never written";
  }

  // A pool made by this program.
  void make_empty_pool() {
    PoolCreateOptions options;
    options.segment_bytes = limits::kSegmentBytesMin;
    const PoolContext context{*loop_, *disk_, "a test"};
    auto pool = run(create_pool(context, "dir:" + path().string(), options));
    ASSERT_TRUE(pool.ok()) << pool.error().message();
    pool_ = std::move(pool).value();
  }
  void make_volume(const VolumeId& id, const std::string& name) {
    VolumeCreateOptions volume;
    volume.id = id;
    volume.name = name;
    volume.size_bytes = kVolumeBlocks * kBlockBytes;
    ASSERT_TRUE(run(Volume::create(*loop_, *pool_, volume)).ok());
  }
  void make_pool(bool closes) {
    make_empty_pool();
    make_volume(id_, "golden");
    open();
    Script script;
    run_steps(script.first());
    ASSERT_TRUE(run(volume_->checkpoint()).ok());
    run_steps(script.second());
    closes ? close() : drop();
  }
  void check_pool(bool was_closed) {
    Script script;
    script.first();
    script.second();
    open();
    ASSERT_NE(volume_, nullptr);
    EXPECT_EQ(volume_->info().name, "golden");
    EXPECT_EQ(volume_->info().size_bytes, kVolumeBlocks * kBlockBytes);
    EXPECT_EQ(volume_->statistics().replayed_records == 0, was_closed);
    expect_content(script.content());
    expect_allocation();
    // It is a volume like any other, before and after the next opening.
    Bytes more = block_of(7000, 9);
    ASSERT_EQ(submit(BlockOperation::write, 7000 * kBlockBytes, more.size(), more.data(), false),
              BlockStatus::ok);
    Bytes expected = script.content();
    std::copy(more.begin(), more.end(), expected.begin() + 7000 * kBlockBytes);
    expect_content(expected);
    close();
    open();
    expect_content(expected);
    EXPECT_EQ(volume_->statistics().corrupt_blocks, 0u);
    close();
  }
  // Closed; with two snapshots, a clone of the older one, and a volume in the trash.
  void make_family() {
    make_empty_pool();
    make_volume(id_, "golden");
    open();
    Script script;
    run_steps(script.first());
    ASSERT_TRUE(run(volume_->create_snapshot("first")).ok());
    run_steps(script.second());
    ASSERT_TRUE(run(volume_->create_snapshot("second")).ok());
    run_steps(script.third());
    ASSERT_TRUE(run(volume_->close()).ok());
    volume_.reset();
    VolumeCloneOptions clone;
    clone.parent = id_;
    clone.snapshot = "first";
    clone.id = clone_id_;
    clone.name = "branch";
    ASSERT_TRUE(run(Volume::clone(*loop_, *pool_, clone)).ok());
    open_as(clone_id_);
    run_steps(script.of_clone());
    ASSERT_TRUE(run(volume_->close()).ok());
    volume_.reset();
    make_volume(trashed_id_, "removed");
    open_as(trashed_id_);
    Script removed;
    run_steps(removed.of_clone());
    ASSERT_TRUE(run(volume_->close()).ok());
    ASSERT_TRUE(run(pool_->trash_volume(trashed_id_, kTrashedSince, kTrashedUntil)).ok());
    drop();
  }
  // What it shows, as a snapshot or a volume that is then closed again.
  void expect_view(const VolumeId& id, const std::string& snapshot, const Bytes& expected) {
    SCOPED_TRACE(id.to_string() + "@" + snapshot);
    auto view = snapshot.empty() ? run(Volume::open(*loop_, *pool_, id, VolumeOptions{}))
                                 : run(Volume::open_snapshot(*loop_, *pool_, id, snapshot, {}));
    ASSERT_TRUE(view.ok()) << view.error().message();
    volume_ = std::move(view).value();
    expect_content(expected);
    EXPECT_EQ(volume_->statistics().corrupt_blocks, 0u);
    ASSERT_TRUE(run(volume_->close()).ok());
    volume_.reset();
  }
  void check_family() {
    Script script;
    script.first();
    const Bytes first = script.content();
    script.second();
    const Bytes second = script.content();
    script.third();
    const Bytes head = script.content();
    Script branch;
    branch.first();
    branch.of_clone();
    Script removed;
    removed.of_clone();
    open_pool_only();
    ASSERT_NE(pool_, nullptr);
    const auto snapshots = run(Volume::stored_snapshots(*pool_, id_));
    ASSERT_TRUE(snapshots.ok()) << snapshots.error().message();
    ASSERT_EQ(snapshots->size(), 2u);
    EXPECT_EQ(snapshots->front().name, "first");
    EXPECT_EQ(snapshots->back().name, "second");
    auto mark = run(Volume::clone_mark(*pool_, clone_id_));
    ASSERT_TRUE(mark.ok() && mark->has_value());
    EXPECT_EQ(run(pool_->list_clone_marks(id_)).value(), (std::vector<CloneMark>{**mark}));
    const auto trash = run(pool_->list_trash());
    ASSERT_TRUE(trash.ok());
    ASSERT_EQ(trash->size(), 1u);
    EXPECT_EQ(trash->front().record.id, trashed_id_);
    EXPECT_EQ(trash->front().record.name, "removed");
    EXPECT_EQ(trash->front().since.unix_seconds, kTrashedSince.unix_seconds);
    EXPECT_EQ(trash->front().until.unix_seconds, kTrashedUntil.unix_seconds);
    const auto usage = run(Volume::stored_usage(*pool_, clone_id_));
    ASSERT_TRUE(usage.ok()) << usage.error().message();
    EXPECT_GE(usage->live_bytes, 40 * kBlockBytes);
    EXPECT_GE(usage->own_live_bytes, 4 * kBlockBytes);
    EXPECT_LT(usage->own_live_bytes, 20 * kBlockBytes);
    for (int round = 0; round < 2; ++round) {
      expect_view(id_, "first", first);
      expect_view(id_, "second", second);
      expect_view(id_, "", head);
      expect_view(clone_id_, "", branch.content());
    }
    ASSERT_TRUE(run(pool_->restore_volume(trashed_id_, "removed")).ok());
    expect_view(trashed_id_, "", removed.content());
    // Without its older snapshot the newer one stays whole, and the volume can go back to it.
    ASSERT_TRUE(run(pool_->remove_volume(clone_id_)).ok());
    ASSERT_TRUE(run(pool_->remove_clone_mark(**mark)).ok());
    open();
    ASSERT_TRUE(run(volume_->remove_snapshot("first")).ok());
    ASSERT_TRUE(run(volume_->checkpoint()).ok());
    close();
    open();
    ASSERT_TRUE(run(volume_->rollback("second")).ok());
    expect_content(second);
    close();
  }
  void unpack_golden(const std::string& name) {
    std::ifstream dump(std::string(HOLDFAST_SOURCE_DIR) + "/src/format/testdata/" + name);
    ASSERT_TRUE(dump.good()) << name;
    unpack(dump, path());
  }
  void check_golden(const std::string& name, bool was_closed) {
    unpack_golden(name);
    check_pool(was_closed);
  }
  void check_made_today(const std::string& name, bool closes) {
    make_pool(closes);
    const std::string dump = dump_pool(path());
    if (const char* output = std::getenv("HOLDFAST_GOLDEN_OUTPUT"); output != nullptr) {
      std::ofstream(fs::path(output) / name) << dump;
    }
    fs::remove_all(path());
    std::istringstream in(dump);
    unpack(in, path());
    EXPECT_TRUE(dump_pool(path()) == dump) << "dumping and unpacking lose something";
    check_pool(closes);
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Disk> disk_;
  std::unique_ptr<Pool> pool_;
  VolumeId id_;
  VolumeId clone_id_;
  VolumeId trashed_id_;
  std::unique_ptr<Volume> volume_;
};

TEST_F(GoldenPoolTest, APoolOfVersion1ThatWasClosedOpensWithItsContent) {
  check_golden("pool_v1_closed.dump", true);
}

TEST_F(GoldenPoolTest, APoolOfVersion1WhoseDaemonDiedOpensWithItsContent) {
  check_golden("pool_v1_killed.dump", false);
}

TEST_F(GoldenPoolTest, OfRecordsThatWereWrittenAgainTheLatestIntactCopiesAreReplayed) {
  unpack_golden("pool_v1_rewritten.dump");
  Bytes expected(kVolumeBlocks * kBlockBytes);
  const auto put = [&](std::uint64_t block, std::uint32_t version) {
    const Bytes bytes = block_of(block, version);
    std::copy(bytes.begin(), bytes.end(),
              expected.begin() + static_cast<std::ptrdiff_t>(block * kBlockBytes));
  };
  put(51, 2);
  for (const std::uint64_t block : {53u, 54u, 55u, 56u}) put(block, 1);
  open();
  ASSERT_NE(volume_, nullptr);
  EXPECT_EQ(volume_->statistics().replayed_records, 6u);
  expect_content(expected);
  drop();
  open();
  ASSERT_NE(volume_, nullptr);
  EXPECT_EQ(volume_->statistics().replayed_records, 0u) << "the first opening has taken them over";
  expect_content(expected);
  close();
}

TEST_F(GoldenPoolTest, APoolWithSnapshotsACloneAndATrashOpensWithAllTheirContent) {
  unpack_golden("pool_v1_family.dump");
  check_family();
}

TEST_F(GoldenPoolTest, APoolMadeTodayWithSnapshotsACloneAndATrashHoldsTheSame) {
  make_family();
  const std::string dump = dump_pool(path());
  if (const char* output = std::getenv("HOLDFAST_GOLDEN_OUTPUT"); output != nullptr) {
    std::ofstream(fs::path(output) / "pool_v1_family.dump") << dump;
  }
  check_family();
}

TEST_F(GoldenPoolTest, APoolMadeTodayAndClosedHoldsTheSame) {
  check_made_today("pool_v1_closed.dump", true);
}

TEST_F(GoldenPoolTest, APoolMadeTodayWhoseDaemonDiedHoldsTheSame) {
  check_made_today("pool_v1_killed.dump", false);
}

}  // namespace
}  // namespace holdfast
