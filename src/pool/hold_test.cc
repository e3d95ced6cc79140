// SPDX-License-Identifier: Apache-2.0
//
// Holds in virtual time: what is shown of a storage that fails or does not answer, and what is
// said.
#include "pool/hold.h"

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "io/file_io.h"
#include "io/task.h"
#include "io/temporary_directory.h"
#include "io/test_executor.h"

namespace holdfast {
namespace {

// Answers when the test says so.
class SilentFile final : public File {
 public:
  void answer(FileRequest& request, int error = 0) {
    request.error = error;
    request.complete();
  }

 private:
  void start(FileRequest&) override {}
};

class HoldTest : public testing::Test {
 protected:
  void SetUp() override {
    tracker_->set_name("disk");
    file_.observe(tracker_->file_observer(), "segment 7");
    LogOptions options;
    options.to_stderr = false;
    options.file = log_path();
    start_logging(options);
  }
  void TearDown() override { stop_logging(); }

  std::string log_path() const { return directory_.path() + "/log"; }

  FileRequest& submit(FileOperation operation, std::uint64_t offset_bytes = 0) {
    requests_.push_back(std::make_unique<FileRequest>());
    FileRequest& request = *requests_.back();
    request.operation = operation;
    request.offset_bytes = offset_bytes;
    request.on_complete = [](FileRequest&) {};
    file_.submit(request);
    return request;
  }
  const HoldState& state() const { return tracker_->state(); }

  // What was logged, without times; ends the logging.
  std::vector<std::string> logged() {
    stop_logging();
    std::vector<std::string> lines;
    std::ifstream file(log_path());
    for (std::string line; std::getline(file, line);) {
      lines.push_back(line.substr(line.find(' ') + 1));
    }
    return lines;
  }

  TemporaryDirectory directory_;
  TestExecutor executor_;
  SilentFile file_;
  std::vector<std::unique_ptr<FileRequest>> requests_;
  std::unique_ptr<HoldTracker> tracker_ = std::make_unique<HoldTracker>(executor_);
};

TEST_F(HoldTest, StorageThatAnswersInTimeIsNeverShownAsStalled) {
  // Always something in flight, for an hour, each a little shorter than the limit.
  FileRequest* before = &submit(FileOperation::write);
  for (int i = 0; i < 1300; ++i) {
    executor_.advance(limits::kStallTime - limits::kStallCheckIntervalHeld);
    EXPECT_EQ(state().reason, HoldReason::none);
    FileRequest& next = submit(FileOperation::read);
    file_.answer(*before);
    before = &next;
  }
  file_.answer(*before);
  executor_.advance(1h);
  EXPECT_EQ(state().stalls, 0u);
  EXPECT_TRUE(logged().empty());
}

TEST_F(HoldTest, AnIdleVolumeHasNoTimer) {
  EXPECT_EQ(executor_.armed_timer_count(), 0u);
  file_.answer(submit(FileOperation::write));
  EXPECT_EQ(executor_.armed_timer_count(), 1u);
  executor_.advance(limits::kStallCheckInterval);
  EXPECT_EQ(executor_.armed_timer_count(), 0u);
}

TEST_F(HoldTest, AStallIsShownSinceItsOldestRequestAndSaidOnceAtEachEnd) {
  executor_.advance(10s);
  const MonotonicTime began = executor_.now();
  FileRequest& first = submit(FileOperation::write, 4096);
  executor_.advance(1s);
  FileRequest& second = submit(FileOperation::sync_data);
  executor_.advance(limits::kStallTime + limits::kStallCheckInterval);
  EXPECT_EQ(state().reason, HoldReason::stall);
  EXPECT_EQ(hold_reason_text(state().reason), "storage does not answer");
  EXPECT_EQ(state().since, began);
  EXPECT_EQ(state().waiting, 2u);
  EXPECT_NE(state().detail.find("write to segment 7 at 4096; 2 operations wait"), std::string::npos)
      << state().detail;
  executor_.advance(20s);
  file_.answer(first);
  executor_.advance(limits::kStallCheckIntervalHeld);
  EXPECT_EQ(state().reason, HoldReason::stall);  // the other one is as old
  EXPECT_EQ(state().since, began);
  EXPECT_EQ(state().waiting, 1u);
  EXPECT_NE(state().detail.find("sync of segment 7"), std::string::npos) << state().detail;
  file_.answer(second);
  executor_.advance(limits::kStallCheckIntervalHeld);
  EXPECT_EQ(state().reason, HoldReason::none);
  EXPECT_EQ(state().waiting, 0u);
  EXPECT_TRUE(state().detail.empty());
  const std::vector<std::string> lines = logged();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0],
            "warning: volume disk is held: storage does not answer: no answer for 3 s to the write "
            "to segment 7 at 4096; 1 operation waits");
  EXPECT_EQ(lines[1],
            "info: volume disk goes on: the storage answers again after 25 s; up to 2 operations "
            "waited");
}

TEST_F(HoldTest, ACallThatDoesNotReturnIsShownLikeARequest) {
  std::optional<HoldTracker::Call> call(std::in_place, *tracker_, "creation of segment 8");
  executor_.advance(limits::kStallTime + limits::kStallCheckInterval);
  EXPECT_EQ(state().reason, HoldReason::stall);
  EXPECT_EQ(state().waiting, 1u);
  EXPECT_NE(state().detail.find("creation of segment 8"), std::string::npos) << state().detail;
  call.reset();
  executor_.advance(limits::kStallCheckInterval);
  EXPECT_EQ(state().reason, HoldReason::none);
  EXPECT_EQ(executor_.armed_timer_count(), 0u);
}

TEST_F(HoldTest, ALongStallIsSaidAgainAtGrowingIntervals) {
  FileRequest& request = submit(FileOperation::read);
  executor_.advance(10min);
  EXPECT_EQ(state().reason, HoldReason::stall);
  file_.answer(request);
  executor_.advance(1s);
  // After 1, 2, 4 and 8 minutes, between the first line and the last.
  EXPECT_EQ(logged().size(), 6u);
}

TEST_F(HoldTest, ShortStallsInARowAreCountedAndNotSaidOneByOne) {
  for (int i = 0; i < 100; ++i) {
    FileRequest& request = submit(FileOperation::write);
    executor_.advance(5s);
    EXPECT_EQ(state().reason, HoldReason::stall);
    file_.answer(request);
    executor_.advance(1s);
    EXPECT_EQ(state().reason, HoldReason::none);
  }
  EXPECT_EQ(state().stalls, 100u);
  const std::vector<std::string> lines = logged();
  // Fewer where the log counts lines that repeat.
  ASSERT_GE(lines.size(), 4u);
  EXPECT_LE(lines.size(), 2u * 600 / 30);
  EXPECT_NE(lines[2].find("(4 short times since the last message)"), std::string::npos) << lines[2];
}

TEST_F(HoldTest, AnErrorAfterAStallIsTheSameHold) {
  const MonotonicTime began = executor_.now();
  FileRequest& request = submit(FileOperation::write);
  executor_.advance(10s);
  EXPECT_EQ(state().reason, HoldReason::stall);
  file_.answer(request, EIO);
  HoldTracker::Operation operation(*tracker_);
  EXPECT_EQ(operation.failed(sort_errno(EIO), "append: Input/output error"),
            limits::kRetryDelayMin);
  EXPECT_EQ(state().reason, HoldReason::path);
  executor_.advance(limits::kRetryDelayMin);
  FileRequest& again = submit(FileOperation::write);
  executor_.advance(10s);
  EXPECT_EQ(state().reason, HoldReason::path);  // an error says more than silence
  EXPECT_EQ(state().since, began);
  EXPECT_EQ(state().detail, "append: Input/output error");
  EXPECT_EQ(state().waiting, 2u);
  file_.answer(again);
  operation.succeeded();
  executor_.advance(1s);
  EXPECT_EQ(state().reason, HoldReason::none);
  EXPECT_EQ(state().waiting, 0u);
}

TEST_F(HoldTest, AStallThatOutlastsAnErrorGoesOnAsTheSameHold) {
  HoldTracker::Operation operation(*tracker_);
  const MonotonicTime began = executor_.now();
  (void)operation.failed(sort_errno(ENOSPC), "no space");
  EXPECT_EQ(state().reason, HoldReason::space);
  FileRequest& request = submit(FileOperation::read);
  executor_.advance(10s);
  operation.succeeded();
  EXPECT_EQ(state().reason, HoldReason::stall);
  EXPECT_EQ(state().since, began);
  executor_.advance(1s);
  EXPECT_NE(state().detail.find("read of segment 7"), std::string::npos) << state().detail;
  file_.answer(request);
  executor_.advance(1s);
  EXPECT_EQ(state().reason, HoldReason::none);
}

TEST_F(HoldTest, AStallThatBeganBeforeAnErrorIsAsOldAsItsOldestRequest) {
  executor_.advance(10s);
  const MonotonicTime began = executor_.now();
  FileRequest& silent = submit(FileOperation::sync_data);
  executor_.advance(limits::kStallTime - 500ms);
  {
    HoldTracker::Operation failing(*tracker_);
    (void)failing.failed(HoldReason::path, "EIO");
    EXPECT_EQ(state().since, executor_.now());
    executor_.advance(limits::kStallCheckInterval);
  }
  EXPECT_EQ(state().reason, HoldReason::stall);
  EXPECT_EQ(state().since, began);
  file_.answer(silent);
}

// As when a process is ended while it opens a volume: the frames go first, from the inside out.
TEST_F(HoldTest, WhoeverWaitsForAFileMayBeDestroyedBeforeTheVolume) {
  const auto read = [](File* file) -> Task<void> {
    (void)co_await FileIo(*file, FileOperation::read, 0, std::span<std::byte>{});
  };
  {
    TaskScope scope;
    scope.spawn(read(&file_));
    executor_.advance(limits::kStallTime + 2 * limits::kStallCheckInterval);
    EXPECT_EQ(state().reason, HoldReason::stall);
  }
  executor_.advance(limits::kStallCheckInterval);
  EXPECT_EQ(state().reason, HoldReason::none) << "it is not there any more";
}

TEST_F(HoldTest, WhatIsInFlightWhenTheVolumeDiesIsLeftAlone) {
  FileRequest& request = submit(FileOperation::write);
  HoldTracker::Call call(*tracker_, "removal of segment 3");
  tracker_.reset();
  EXPECT_FALSE(request.in_flight_link.is_linked());
  EXPECT_FALSE(call.link.is_linked());
  executor_.advance(1h);
}

}  // namespace
}  // namespace holdfast
