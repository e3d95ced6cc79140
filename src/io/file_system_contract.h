// SPDX-License-Identifier: Apache-2.0
//
// What every FileSystem must do: the kernel's (disk_test.cc) and the simulator's run these tests.
// Include it in one test file and instantiate the suite with a factory:
//   INSTANTIATE_TEST_SUITE_P(Disk, FileSystemContract, testing::Values(&make_harness));
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/units.h"
#include "io/aligned_buffer.h"
#include "io/file_io.h"
#include "io/file_system.h"
#include "io/run_task.h"

namespace holdfast {

// One file system with an empty directory in it, and the executor that drives it.
class FileSystemHarness {
 public:
  virtual ~FileSystemHarness() = default;
  virtual Executor& executor() = 0;
  virtual FileSystem& file_system() = 0;
  virtual std::string base_path() = 0;  // exists and is empty
  // Drives the executor until the predicate holds; fails the test when it never does.
  virtual void run_until(const std::function<bool()>& done) = 0;
};

using FileSystemHarnessFactory = std::unique_ptr<FileSystemHarness> (*)();

class FileSystemContract : public testing::TestWithParam<FileSystemHarnessFactory> {
 protected:
  using Bytes = std::vector<std::byte>;

  FileSystem& files() { return harness_->file_system(); }
  std::string path(const std::string& name) { return harness_->base_path() + "/" + name; }
  template <typename T>
  T run(Task<T> task) {
    return run_task<T>([this](const std::function<bool()>& done) { harness_->run_until(done); },
                       std::move(task));
  }
  static Task<int> io(File* file, FileOperation operation, std::uint64_t offset_bytes,
                      std::span<std::byte> buffer) {
    co_return co_await FileIo(*file, operation, offset_bytes, buffer);
  }
  int write(File& file, std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    return run(io(&file, FileOperation::write, offset_bytes, buffer));
  }
  int read(File& file, std::uint64_t offset_bytes, std::span<std::byte> buffer) {
    return run(io(&file, FileOperation::read, offset_bytes, buffer));
  }
  int sync(File& file) { return run(io(&file, FileOperation::sync_data, 0, {})); }

  std::unique_ptr<File> create(const std::string& name, std::uint64_t bytes) {
    FileOpenOptions options;
    options.writable = true;
    options.create_new = true;
    options.preallocate_bytes = bytes;
    auto file = run(files().open(path(name), options));
    EXPECT_TRUE(file.ok()) << (file.ok() ? "" : file.error().message());
    return file.ok() ? std::move(file).value() : nullptr;
  }
  std::unique_ptr<File> reopen(const std::string& name) {
    auto file = run(files().open(path(name), FileOpenOptions{}));
    EXPECT_TRUE(file.ok()) << (file.ok() ? "" : file.error().message());
    return file.ok() ? std::move(file).value() : nullptr;
  }
  std::vector<std::string> names(const std::string& directory) {
    auto list = run(files().list(directory));
    EXPECT_TRUE(list.ok());
    std::vector<std::string> sorted = std::move(list).value();
    std::sort(sorted.begin(), sorted.end());
    return sorted;
  }
  static AlignedBuffer pattern(std::size_t bytes, unsigned seed) {
    AlignedBuffer buffer(bytes);
    for (std::size_t i = 0; i < bytes; ++i) {
      buffer.data()[i] = static_cast<std::byte>((i * 7 + i / 4096 * 13 + seed) & 0xff);
    }
    return buffer;
  }
  static bool equal(std::span<const std::byte> a, std::span<const std::byte> b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }
  static Bytes bytes_of(std::string_view text) {
    const auto view = as_bytes(text);
    return Bytes(view.begin(), view.end());
  }
  template <typename T>
  static ErrorCode code_of(const Result<T>& result) {
    EXPECT_FALSE(result.ok());
    return result.ok() ? ErrorCode::internal : result.error().code();
  }

  std::unique_ptr<FileSystemHarness> harness_ = GetParam()();
};

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(FileSystemContract);

TEST_P(FileSystemContract, WhatWasWrittenIsReadBack) {
  const auto file = create("data", kMiB);
  ASSERT_NE(file, nullptr);
  const AlignedBuffer written = pattern(64 * kKiB, 1);
  EXPECT_EQ(write(*file, 128 * kKiB, written.span()), 0);
  EXPECT_EQ(sync(*file), 0);
  const AlignedBuffer back(64 * kKiB);
  EXPECT_EQ(read(*file, 128 * kKiB, back.span()), 0);
  EXPECT_TRUE(equal(written.span(), back.span()));
  const auto other = reopen("data");
  ASSERT_NE(other, nullptr);
  const AlignedBuffer again(4096);
  EXPECT_EQ(read(*other, 128 * kKiB + 4096, again.span()), 0);
  EXPECT_TRUE(equal(written.span(4096, 4096), again.span()));
}

TEST_P(FileSystemContract, VectorsAreGatheredAndScattered) {
  const auto file = create("data", kMiB);
  ASSERT_NE(file, nullptr);
  const AlignedBuffer a = pattern(4096, 1);
  const AlignedBuffer b = pattern(12288, 2);
  iovec vectors[] = {{a.data(), a.size()}, {b.data(), b.size()}};
  bool done = false;
  FileRequest request;
  request.operation = FileOperation::write;
  request.offset_bytes = 8192;
  request.vectors = vectors;
  request.vector_count = 2;
  request.context = &done;
  request.on_complete = [](FileRequest& completed) {
    *static_cast<bool*>(completed.context) = true;
  };
  file->submit(request);
  EXPECT_FALSE(done) << "completed inside submit()";
  harness_->run_until([&] { return done; });
  EXPECT_EQ(request.error, 0);
  const AlignedBuffer back(16384);
  EXPECT_EQ(read(*file, 8192, back.span()), 0);
  EXPECT_TRUE(equal(a.span(), back.span(0, 4096)));
  EXPECT_TRUE(equal(b.span(), back.span(4096, 12288)));
}

TEST_P(FileSystemContract, ManyVectorsMakeOneRequest) {
  constexpr std::uint32_t kCount = 1500;  // more than one system call takes
  const auto file = create("data", kCount * 512);
  ASSERT_NE(file, nullptr);
  const AlignedBuffer written = pattern(kCount * 512, 3);
  std::vector<iovec> vectors;
  for (std::uint32_t i = 0; i < kCount; ++i) vectors.push_back({written.data() + i * 512, 512});
  bool done = false;
  FileRequest request;
  request.operation = FileOperation::write;
  request.vectors = vectors.data();
  request.vector_count = kCount;
  request.context = &done;
  request.on_complete = [](FileRequest& completed) {
    *static_cast<bool*>(completed.context) = true;
  };
  file->submit(request);
  harness_->run_until([&] { return done; });
  EXPECT_EQ(request.error, 0);
  const AlignedBuffer back(kCount * 512);
  EXPECT_EQ(read(*file, 0, back.span(0, kCount * 512)), 0);
  EXPECT_TRUE(equal(written.span(0, kCount * 512), back.span(0, kCount * 512)));
}

TEST_P(FileSystemContract, ManyRequestsAreInFlightTogether) {
  constexpr std::size_t kCount = 700;  // more than any submission queue
  const auto file = create("data", kCount * 4096);
  ASSERT_NE(file, nullptr);
  const AlignedBuffer written = pattern(kCount * 4096, 4);
  std::size_t completed = 0;
  std::vector<FileRequest> requests(kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    requests[i].operation = FileOperation::write;
    requests[i].offset_bytes = i * 4096;
    requests[i].set_buffer(written.data() + i * 4096, 4096);
    requests[i].context = &completed;
    requests[i].on_complete = [](FileRequest& request) {
      ++*static_cast<std::size_t*>(request.context);
    };
    file->submit(requests[i]);
  }
  EXPECT_EQ(completed, 0u);
  harness_->run_until([&] { return completed == kCount; });
  for (const FileRequest& request : requests) EXPECT_EQ(request.error, 0);
  const AlignedBuffer back(kCount * 4096);
  EXPECT_EQ(read(*file, 0, back.span()), 0);
  EXPECT_TRUE(equal(written.span(), back.span()));
}

TEST_P(FileSystemContract, AnEmptyTransferSucceeds) {
  const auto file = create("data", 4096);
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(read(*file, 0, {}), 0);
  EXPECT_EQ(write(*file, 0, {}), 0);
}

TEST_P(FileSystemContract, PreallocatedSpaceReadsAsZeros) {
  const auto file = create("data", 128 * kKiB);
  ASSERT_NE(file, nullptr);
  const AlignedBuffer back = pattern(128 * kKiB, 5);
  EXPECT_EQ(read(*file, 0, back.span()), 0);
  EXPECT_TRUE(std::all_of(back.span().begin(), back.span().end(),
                          [](std::byte b) { return b == std::byte{0}; }));
  const auto allocated = run(files().allocated_bytes(path("data")));
  ASSERT_TRUE(allocated.ok());
  EXPECT_GE(allocated.value(), 128 * kKiB);
}

TEST_P(FileSystemContract, AReadPastTheEndSaysSo) {
  const auto file = create("data", 8192);
  ASSERT_NE(file, nullptr);
  const AlignedBuffer buffer(8192);
  EXPECT_EQ(read(*file, 8192, buffer.span()), ENODATA);
  EXPECT_EQ(read(*file, 4096, buffer.span()), ENODATA) << "partly behind the end";
  EXPECT_EQ(read(*file, 0, buffer.span()), 0);
}

TEST_P(FileSystemContract, CreateNewRefusesAnExistingFile) {
  const auto file = create("data", 4096);
  ASSERT_NE(file, nullptr);
  FileOpenOptions options;
  options.writable = true;
  options.create_new = true;
  options.preallocate_bytes = 4096;
  EXPECT_EQ(code_of(run(files().open(path("data"), options))), ErrorCode::already_exists);
}

TEST_P(FileSystemContract, MissingNamesAreNotFound) {
  EXPECT_EQ(code_of(run(files().open(path("none"), FileOpenOptions{}))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(files().remove_file(path("none")))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(files().read_file(path("none")))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(files().list(path("none")))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(files().rename(path("none"), path("other")))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(files().remove_directory(path("none")))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(files().truncate(path("none"), 0))), ErrorCode::not_found);
}

TEST_P(FileSystemContract, ErrorsNameThePath) {
  const auto result = run(files().read_file(path("no-such-name")));
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message().find(path("no-such-name")), std::string::npos)
      << result.error().message();
}

TEST_P(FileSystemContract, DirectoriesAreMadeListedAndRemoved) {
  EXPECT_TRUE(run(files().make_directory(path("sub"))).ok());
  EXPECT_EQ(code_of(run(files().make_directory(path("sub")))), ErrorCode::already_exists);
  EXPECT_TRUE(run(files().write_file(path("sub/b"), bytes_of("b"))).ok());
  EXPECT_TRUE(run(files().write_file(path("sub/a"), bytes_of("a"))).ok());
  EXPECT_TRUE(run(files().sync_directory(path("sub"))).ok());
  EXPECT_EQ(names(path("sub")), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(names(harness_->base_path()), (std::vector<std::string>{"sub"}));
  EXPECT_EQ(code_of(run(files().remove_directory(path("sub")))), ErrorCode::already_exists);
  EXPECT_TRUE(run(files().remove_file(path("sub/a"))).ok());
  EXPECT_TRUE(run(files().remove_file(path("sub/b"))).ok());
  EXPECT_TRUE(run(files().remove_directory(path("sub"))).ok());
  EXPECT_TRUE(names(harness_->base_path()).empty());
}

TEST_P(FileSystemContract, RenameReplacesFilesAndMovesDirectories) {
  EXPECT_TRUE(run(files().write_file(path("old"), bytes_of("old content"))).ok());
  EXPECT_TRUE(run(files().write_file(path("new"), bytes_of("new content"))).ok());
  EXPECT_TRUE(run(files().rename(path("new"), path("old"))).ok());
  const auto content = run(files().read_file(path("old")));
  ASSERT_TRUE(content.ok());
  EXPECT_EQ(content.value(), bytes_of("new content"));
  EXPECT_EQ(names(harness_->base_path()), (std::vector<std::string>{"old"}));
  EXPECT_TRUE(run(files().make_directory(path("from"))).ok());
  EXPECT_TRUE(run(files().write_file(path("from/x"), bytes_of("x"))).ok());
  EXPECT_TRUE(run(files().rename(path("from"), path("to"))).ok());
  EXPECT_TRUE(run(files().read_file(path("to/x"))).ok());
}

TEST_P(FileSystemContract, ALinkIsASecondNameOfTheSameFile) {
  auto file = create("one", 64 * kKiB);
  ASSERT_NE(file, nullptr);
  const AlignedBuffer written = pattern(64 * kKiB, 9);
  EXPECT_EQ(write(*file, 0, written.span()), 0);
  EXPECT_EQ(run(files().status(path("one")))->link_count, 1u);
  EXPECT_EQ(run(files().status(path("one")))->size_bytes, 64 * kKiB);
  EXPECT_TRUE(run(files().make_directory(path("sub"))).ok());
  const auto linked = run(files().link(path("one"), path("sub/two")));
  ASSERT_TRUE(linked.ok()) << linked.error().message();
  EXPECT_EQ(code_of(run(files().link(path("one"), path("sub/two")))), ErrorCode::already_exists);
  EXPECT_EQ(code_of(run(files().link(path("none"), path("three")))), ErrorCode::not_found);
  EXPECT_EQ(code_of(run(files().status(path("none")))), ErrorCode::not_found);
  EXPECT_EQ(run(files().status(path("one")))->link_count, 2u);
  EXPECT_EQ(run(files().status(path("sub/two")))->link_count, 2u);
  EXPECT_GE(run(files().status(path("sub/two")))->allocated_bytes, 64 * kKiB);
  const AlignedBuffer later = pattern(4096, 10);
  EXPECT_EQ(write(*file, 0, later.span()), 0);
  file.reset();
  EXPECT_TRUE(run(files().remove_file(path("one"))).ok());
  EXPECT_EQ(run(files().status(path("sub/two")))->link_count, 1u);
  const auto other = reopen("sub/two");
  ASSERT_NE(other, nullptr);
  const AlignedBuffer back(64 * kKiB);
  EXPECT_EQ(read(*other, 0, back.span()), 0);
  EXPECT_TRUE(equal(back.span().first(4096), later.span()));
  EXPECT_TRUE(equal(back.span().subspan(4096), written.span().subspan(4096)));
}

TEST_P(FileSystemContract, SmallFilesAreReplacedWhole) {
  EXPECT_TRUE(run(files().write_file(path("small"), bytes_of("a long first content"))).ok());
  EXPECT_TRUE(run(files().write_file(path("small"), bytes_of("short"))).ok());
  const auto content = run(files().read_file(path("small")));
  ASSERT_TRUE(content.ok());
  EXPECT_EQ(content.value(), bytes_of("short"));
  EXPECT_TRUE(run(files().write_file(path("small"), Bytes{})).ok());
  const auto empty = run(files().read_file(path("small")));
  ASSERT_TRUE(empty.ok());
  EXPECT_TRUE(empty.value().empty());
  const Bytes big(100'000, std::byte{7});
  EXPECT_TRUE(run(files().write_file(path("big"), big)).ok());
  const auto back = run(files().read_file(path("big")));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back.value(), big);
}

TEST_P(FileSystemContract, TruncateGivesSpaceBack) {
  auto file = create("data", 4 * kMiB);
  ASSERT_NE(file, nullptr);
  const AlignedBuffer written = pattern(64 * kKiB, 6);
  EXPECT_EQ(write(*file, 0, written.span()), 0);
  EXPECT_EQ(sync(*file), 0);
  EXPECT_TRUE(run(files().truncate(path("data"), 64 * kKiB)).ok());
  const auto allocated = run(files().allocated_bytes(path("data")));
  ASSERT_TRUE(allocated.ok());
  EXPECT_LT(allocated.value(), 1 * kMiB);
  const AlignedBuffer back(64 * kKiB);
  EXPECT_EQ(read(*file, 0, back.span()), 0);
  EXPECT_TRUE(equal(written.span(), back.span()));
  EXPECT_EQ(read(*file, 64 * kKiB, back.span()), ENODATA);
}

TEST_P(FileSystemContract, AllocateGivesAFileAllItsSpaceAndKeepsWhatItHolds) {
  auto file = create("data", 4 * kMiB);
  ASSERT_NE(file, nullptr);
  const AlignedBuffer written = pattern(64 * kKiB, 6);
  EXPECT_EQ(write(*file, 0, written.span()), 0);
  EXPECT_EQ(sync(*file), 0);
  EXPECT_TRUE(run(files().allocate(path("data"), 4 * kMiB)).ok()) << "it has it already";
  EXPECT_TRUE(run(files().truncate(path("data"), 64 * kKiB)).ok());
  EXPECT_TRUE(run(files().allocate(path("data"), 4 * kMiB)).ok());
  const auto allocated = run(files().allocated_bytes(path("data")));
  ASSERT_TRUE(allocated.ok());
  EXPECT_GE(allocated.value(), 4 * kMiB);
  const AlignedBuffer back(64 * kKiB);
  EXPECT_EQ(read(*file, 0, back.span()), 0);
  EXPECT_TRUE(equal(written.span(), back.span()));
  EXPECT_EQ(read(*file, 4 * kMiB - back.size(), back.span()), 0);
  EXPECT_EQ(write(*file, 4 * kMiB - written.size(), written.span()), 0);
  EXPECT_EQ(code_of(run(files().allocate(path("none"), 4096))), ErrorCode::not_found);
  const auto space = run(files().space(harness_->base_path()));
  ASSERT_TRUE(space.ok());
  const std::uint64_t too_much = round_up(space.value().available_bytes, kGiB) + kTiB;
  EXPECT_EQ(code_of(run(files().allocate(path("data"), too_much))), ErrorCode::no_space);
}

TEST_P(FileSystemContract, AnOpenFileOutlivesItsName) {
  const auto file = create("data", 64 * kKiB);
  ASSERT_NE(file, nullptr);
  const AlignedBuffer written = pattern(4096, 7);
  EXPECT_EQ(write(*file, 0, written.span()), 0);
  EXPECT_TRUE(run(files().remove_file(path("data"))).ok());
  EXPECT_TRUE(names(harness_->base_path()).empty());
  const AlignedBuffer back(4096);
  EXPECT_EQ(read(*file, 0, back.span()), 0);
  EXPECT_TRUE(equal(written.span(), back.span()));
}

TEST_P(FileSystemContract, SpaceIsReported) {
  const auto space = run(files().space(harness_->base_path()));
  ASSERT_TRUE(space.ok());
  EXPECT_GT(space.value().capacity_bytes, 0u);
  EXPECT_LE(space.value().available_bytes, space.value().capacity_bytes);
}

TEST_P(FileSystemContract, WhatDoesNotFitIsRefusedAndLeavesNothing) {
  const auto space = run(files().space(harness_->base_path()));
  ASSERT_TRUE(space.ok());
  FileOpenOptions options;
  options.writable = true;
  options.create_new = true;
  options.preallocate_bytes = round_up(space.value().available_bytes, kGiB) + kTiB;
  const auto file = run(files().open(path("huge"), options));
  EXPECT_EQ(code_of(file), ErrorCode::no_space);
  EXPECT_TRUE(names(harness_->base_path()).empty());
}

TEST_P(FileSystemContract, ALockKeepsOthersOutAndNamesItsHolder) {
  auto first = run(files().lock(path("lock"), "program one, pid 42"));
  ASSERT_TRUE(first.ok()) << first.error().message();
  const auto second = run(files().lock(path("lock"), "program two"));
  EXPECT_EQ(code_of(second), ErrorCode::busy);
  EXPECT_NE(second.error().message().find("program one, pid 42"), std::string::npos)
      << second.error().message();
  std::move(first).value().reset();
  const auto third = run(files().lock(path("lock"), "3"));
  ASSERT_TRUE(third.ok());
  const auto content = run(files().read_file(path("lock")));
  ASSERT_TRUE(content.ok());
  EXPECT_EQ(as_text(content.value()).substr(0, 1), "3");
  EXPECT_EQ(as_text(content.value()).find("program"), std::string_view::npos);
}

}  // namespace holdfast
