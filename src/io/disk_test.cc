// SPDX-License-Identifier: Apache-2.0
#include "io/disk.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "io/errors.h"
#include "io/file_system_contract.h"
#include "io/temporary_directory.h"

namespace holdfast {
namespace {

class DiskHarness final : public FileSystemHarness {
 public:
  DiskHarness() : loop_(Loop::create().value()), disk_(std::make_unique<Disk>(*loop_)) {}
  Executor& executor() override { return *loop_; }
  FileSystem& file_system() override { return *disk_; }
  std::string base_path() override { return directory_.path(); }
  void run_until(const std::function<bool()>& done) override {
    EXPECT_TRUE(loop_->run_until(done, 30s)) << "nothing happened for 30 s";
  }

 private:
  TemporaryDirectory directory_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Disk> disk_;
};

std::unique_ptr<FileSystemHarness> make_harness() {
  return std::make_unique<DiskHarness>();
}

INSTANTIATE_TEST_SUITE_P(Disk, FileSystemContract, testing::Values(&make_harness));

class DiskTest : public testing::Test {
 protected:
  template <typename T>
  T run(Task<T> task) {
    return run_task<T>(
        [this](const std::function<bool()>& done) { ASSERT_TRUE(loop_->run_until(done, 30s)); },
        std::move(task));
  }
  std::string path(const std::string& name) { return directory_.path() + "/" + name; }

  TemporaryDirectory directory_;
  std::unique_ptr<Loop> loop_ = Loop::create().value();
  std::unique_ptr<Disk> disk_ = std::make_unique<Disk>(*loop_);
};

Task<int> read_at(File* file, std::uint64_t offset_bytes, std::span<std::byte> buffer) {
  co_return co_await FileIo(*file, FileOperation::read, offset_bytes, buffer);
}

TEST_F(DiskTest, AFileThatEndsInsideASectorStillSaysWhereItEnds) {
  std::ofstream(path("odd")) << std::string(5000, 'x');
  auto file = run(disk_->open(path("odd"), FileOpenOptions{}));
  ASSERT_TRUE(file.ok());
  const AlignedBuffer buffer(8192);
  EXPECT_EQ(run(read_at(file->get(), 0, buffer.span())), ENODATA);
  EXPECT_EQ(run(read_at(file->get(), 0, buffer.span(0, 4096))), 0);
}

TEST_F(DiskTest, MadeFilesAreForTheOwnerOnly) {
  ASSERT_TRUE(run(disk_->write_file(path("file"), {})).ok());
  ASSERT_TRUE(run(disk_->make_directory(path("directory"))).ok());
  struct stat status {};
  ASSERT_EQ(stat(path("file").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  ASSERT_EQ(stat(path("directory").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0700u);
}

TEST_F(DiskTest, AFileTooLargeForMetadataIsNotReadIntoMemory) {
  std::ofstream(path("large")) << std::string(2 * kMiB, 'x');
  const auto result = run(disk_->read_file(path("large")));
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code(), ErrorCode::corrupt);
}

Task<void> write_then_note(Disk* disk, std::string path, bool* done) {
  std::vector<std::byte> bytes(100, std::byte{1});
  const auto result = co_await disk->write_file(path, std::move(bytes));
  *done = result.ok();
}

TEST_F(DiskTest, ACoroutineMayDieWhileItsCallIsUnderWay) {
  bool done = false;
  for (int i = 0; i < 50; ++i) {
    TaskScope scope;
    scope.spawn(write_then_note(disk_.get(), path("file"), &done));
    if (i % 2 == 0) loop_->run_turn(Duration::zero());
  }
  bool last = false;
  TaskScope scope;
  scope.spawn(write_then_note(disk_.get(), path("last"), &last));
  EXPECT_TRUE(loop_->run_until([&] { return last; }, 30s));
}

TEST_F(DiskTest, ADiskMayDieWithCallsQueued) {
  bool done = false;
  {
    TaskScope scope;
    for (int i = 0; i < 20; ++i) scope.spawn(write_then_note(disk_.get(), path("file"), &done));
  }
  disk_.reset();
  loop_->run_turn(Duration::zero());
  EXPECT_FALSE(done);
  EXPECT_EQ(access(path("file").c_str(), F_OK), 0) << "queued calls are finished first";
}

TEST(ErrorsTest, ErrnoValuesAreSortedByWhatACallerDoes) {
  EXPECT_EQ(error_code_of_errno(ENOSPC), ErrorCode::no_space);
  EXPECT_EQ(error_code_of_errno(EDQUOT), ErrorCode::no_space);
  EXPECT_EQ(error_code_of_errno(EIO), ErrorCode::path_failure);
  EXPECT_EQ(error_code_of_errno(ESTALE), ErrorCode::path_failure);
  EXPECT_EQ(error_code_of_errno(ENODEV), ErrorCode::path_failure);
  EXPECT_EQ(error_code_of_errno(EROFS), ErrorCode::read_only);
  EXPECT_EQ(error_code_of_errno(ENOENT), ErrorCode::not_found);
  EXPECT_EQ(error_code_of_errno(EINVAL), ErrorCode::invalid_argument);
}

TEST(ErrorsTest, AMessageSaysWhatWhyAndWhatToDo) {
  const Error error = file_error("create", "/srv/x", EMFILE);
  EXPECT_EQ(error.message(),
            "cannot create /srv/x: Too many open files; raise the limit of open files "
            "(LimitNOFILE= in the systemd unit, ulimit -n)");
}

}  // namespace
}  // namespace holdfast
