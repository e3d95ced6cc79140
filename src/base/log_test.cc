// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "base/limits.h"

namespace holdfast {
namespace {

class LogTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "holdfast-log-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    file_ = directory_ + "/test.log";
  }
  void TearDown() override {
    stop_logging();
    std::filesystem::remove_all(directory_);
  }
  void start() {
    LogOptions options;
    options.to_stderr = false;
    options.file = file_;
    start_logging(options);
  }
  std::string content() const {
    std::ifstream stream(file_);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
  }

  std::string directory_;
  std::string file_;
};

std::size_t count_of(const std::string& text, const std::string& word) {
  std::size_t count = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    ++count;
  }
  return count;
}

TEST_F(LogTest, WritesMessagesAboveItsLevel) {
  start();
  log(LogLevel::debug, "too fine");
  log_warning("pool vms is full");
  stop_logging();
  EXPECT_NE(content().find("warning: pool vms is full\n"), std::string::npos) << content();
  EXPECT_EQ(content().find("too fine"), std::string::npos);
}

TEST_F(LogTest, CountsARepeatedMessageInsteadOfWritingIt) {
  start();
  for (int i = 0; i < 500; ++i) {
    log_error("the path is down");
    log_error("and another");
  }
  stop_logging();
  EXPECT_EQ(count_of(content(), "the path is down"), 2u) << content();
  EXPECT_NE(content().find("the path is down (499 more times)"), std::string::npos) << content();
}

TEST_F(LogTest, AStormOfDifferentMessagesIsBoundedAndCounted) {
  start();
  constexpr int kMessages = 100'000;
  for (int i = 0; i < kMessages; ++i) log_info("event number " + std::to_string(i));
  const auto dropped = dropped_log_messages();
  stop_logging();
  EXPECT_GT(dropped, 0u);
  const std::size_t lines = count_of(content(), "\n");
  EXPECT_LT(lines, 10 * limits::kLogLinesPerSecondMax);
  EXPECT_GT(lines, 10u);
}

TEST_F(LogTest, AMessageStaysOneLineOfBoundedLength) {
  start();
  log_info("first\nsecond" + std::string(100'000, 'x'));
  stop_logging();
  EXPECT_EQ(count_of(content(), "\n"), 1u);
  EXPECT_NE(content().find("first?second"), std::string::npos);
  EXPECT_LT(content().size(), limits::kLogMessageBytesMax + 100);
}

TEST_F(LogTest, TheFilesTogetherHaveAHardBound) {
  // Rotation is by size: a directory of old, full logs stays within the bound too.
  for (int round = 0; round < 8; ++round) {
    std::ofstream(file_, std::ios::app) << std::string(limits::kLogFileBytesMax - 10, 'x') << '\n';
    start();
    log_info("round " + std::to_string(round));
    stop_logging();
  }
  std::uintmax_t total = 0;
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    total += entry.file_size();
    ++files;
  }
  EXPECT_LE(files, limits::kLogFilesMax);
  EXPECT_LE(total, limits::kLogFilesMax * limits::kLogFileBytesMax + 4096);
}

TEST_F(LogTest, ALogThatCannotBeWrittenLosesMessagesAndNothingElse) {
  LogOptions options;
  options.to_stderr = false;
  options.file = "/dev/full";
  start_logging(options);
  for (int i = 0; i < 100; ++i) log_error("message " + std::to_string(i));
  stop_logging();
  start();
  log_info("alive");
  stop_logging();
  EXPECT_NE(content().find("alive"), std::string::npos);
}

TEST_F(LogTest, AReaderThatNeverReadsBlocksNobody) {
  ASSERT_NE(std::signal(SIGPIPE, SIG_IGN), SIG_ERR);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const int saved = dup(STDERR_FILENO);
  ASSERT_EQ(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
  LogOptions options;
  options.to_stderr = true;
  start_logging(options);
  const std::string filling(limits::kLogMessageBytesMax, 'y');
  for (int i = 0; i < 5000; ++i) log_info(std::to_string(i) + filling);
  const auto dropped = dropped_log_messages();
  stop_logging();  // returns though the writer is stuck
  ASSERT_EQ(dup2(saved, STDERR_FILENO), STDERR_FILENO);
  close(saved);
  close(ends[1]);
  close(ends[0]);
  EXPECT_GT(dropped, 0u);
}

}  // namespace
}  // namespace holdfast
