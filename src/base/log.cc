// SPDX-License-Identifier: Apache-2.0
//
// A queue with a bound in front of one writer thread: log() only takes a short lock. The writer
// counts what repeats instead of writing it, limits the lines per second (standard error may lead
// to a file without a bound), and hands the rest to spdlog's sinks. What does not fit is dropped
// and counted, and the count is written as soon as there is room again.
#include "base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/limits.h"

namespace holdfast {
namespace {

using Clock = std::chrono::steady_clock;

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

// One line of text whatever a client or a disk put into the message.
std::string clean(std::string_view message) {
  std::string text(message.substr(0, limits::kLogMessageBytesMax));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (message.size() > limits::kLogMessageBytesMax) text += "...";
  return text;
}

struct Message {
  LogLevel level;
  std::string text;
  spdlog::log_clock::time_point wall;
};

// Shared by the callers and the writer thread; outlives a writer that is stuck in a write.
class Log {
 public:
  explicit Log(const LogOptions& options) : level_(options.level) {
    if (options.to_stderr) sinks_.push_back(std::make_shared<spdlog::sinks::stderr_sink_st>());
    if (!options.file.empty()) add_file(options.file);
    for (const auto& sink : sinks_) sink->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l: %v");
  }

  void add(LogLevel level, std::string_view text) {
    if (level < level_) return;
    Message message{level, clean(text), spdlog::log_clock::now()};
    {
      const std::lock_guard lock(mutex_);
      if (queue_.size() >= limits::kLogQueueMessagesMax) {
        dropped_.fetch_add(1);
        return;
      }
      queue_.push_back(std::move(message));
    }
    wake_.notify_one();
  }

  void write_until_stopped() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait_for(lock, std::chrono::seconds(1),
                     [this] { return stopping_ || !queue_.empty(); });
      std::deque<Message> batch = std::exchange(queue_, {});
      const bool last = stopping_;
      lock.unlock();
      for (const Message& message : batch) write_or_count(message);
      expire_recent(last);
      report_dropped();
      for (const auto& sink : sinks_) guarded([&] { sink->flush(); });
      lock.lock();
      if (last && queue_.empty()) break;
    }
    finished_ = true;
    wake_.notify_all();
  }

  // False: the writer is stuck; it keeps this object alive by itself.
  bool stop() {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
    const bool finished =
        wake_.wait_for(lock, std::chrono::seconds(2), [this] { return finished_; });
    if (!finished) abandoned_ = true;
    return finished;
  }

  std::uint64_t dropped() const { return dropped_.load(); }

 private:
  struct Recent {
    LogLevel level;
    std::string text;
    Clock::time_point since;
    std::uint64_t repeated = 0;
  };

  void add_file(const std::string& path) {
    guarded([&] {
      sinks_.push_back(std::make_shared<spdlog::sinks::rotating_file_sink_st>(
          path, limits::kLogFileBytesMax, limits::kLogFilesMax - 1));
    });
  }

  // spdlog throws when a file cannot be opened, rotated or written: that ends here.
  template <typename Function>
  void guarded(Function function) {
    try {
      function();
    } catch (const std::exception&) {
      dropped_.fetch_add(1);
    }
  }

  void write_or_count(const Message& message) {
    for (Recent& recent : recent_) {
      if (recent.level == message.level && recent.text == message.text) {
        ++recent.repeated;
        return;
      }
    }
    if (recent_.size() >= limits::kLogRecentMessagesMax) {
      report_repeated(recent_.front());
      recent_.pop_front();
    }
    recent_.push_back({message.level, message.text, Clock::now(), 0});
    write(message.level, message.text, message.wall);
  }

  void expire_recent(bool all) {
    const auto now = Clock::now();
    while (!recent_.empty() && (all || now - recent_.front().since >= limits::kLogRepeatTime)) {
      report_repeated(recent_.front());
      recent_.pop_front();
    }
  }

  void report_repeated(const Recent& recent) {
    if (recent.repeated == 0) return;
    write(recent.level, recent.text + " (" + std::to_string(recent.repeated) + " more times)",
          spdlog::log_clock::now());
  }

  void report_dropped() {
    const std::uint64_t dropped = dropped_.load();
    if (dropped == reported_dropped_ || !may_write_line()) return;
    write_line(LogLevel::warning,
               std::to_string(dropped - reported_dropped_) + " log messages were dropped",
               spdlog::log_clock::now());
    reported_dropped_ = dropped;
  }

  bool may_write_line() {
    const auto now = Clock::now();
    if (now - second_start_ >= std::chrono::seconds(1)) {
      second_start_ = now;
      lines_this_second_ = 0;
    }
    return lines_this_second_ < limits::kLogLinesPerSecondMax;
  }

  void write(LogLevel level, const std::string& text, spdlog::log_clock::time_point wall) {
    if (!may_write_line()) {
      dropped_.fetch_add(1);
      return;
    }
    write_line(level, text, wall);
  }

  void write_line(LogLevel level, const std::string& text, spdlog::log_clock::time_point wall) {
    if (abandoned_) return;
    ++lines_this_second_;
    const spdlog::details::log_msg line(wall, spdlog::source_loc{}, "", to_spdlog(level), text);
    for (const auto& sink : sinks_) guarded([&] { sink->log(line); });
  }

  const LogLevel level_;
  std::vector<std::shared_ptr<spdlog::sinks::sink>> sinks_;
  std::atomic<std::uint64_t> dropped_{0};
  std::atomic<bool> abandoned_{false};  // stop() gave up on a writer that is stuck

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Message> queue_;
  bool stopping_ = false;
  bool finished_ = false;

  // The writer's own.
  std::list<Recent> recent_;  // oldest first
  std::uint64_t reported_dropped_ = 0;
  Clock::time_point second_start_{};
  std::uint64_t lines_this_second_ = 0;
};

std::mutex g_mutex;
std::shared_ptr<Log> g_log;

std::shared_ptr<Log> current_log() {
  const std::lock_guard lock(g_mutex);
  return g_log;
}

}  // namespace

void start_logging(const LogOptions& options) {
  stop_logging();
  auto log = std::make_shared<Log>(options);
  std::thread([log] { log->write_until_stopped(); }).detach();
  const std::lock_guard lock(g_mutex);
  g_log = std::move(log);
}

void stop_logging() {
  std::shared_ptr<Log> log;
  {
    const std::lock_guard lock(g_mutex);
    log = std::move(g_log);
    g_log.reset();
  }
  if (log) log->stop();
}

std::uint64_t dropped_log_messages() {
  const auto log = current_log();
  return log ? log->dropped() : 0;
}

void log(LogLevel level, std::string_view message) {
  if (const auto target = current_log()) target->add(level, message);
}

}  // namespace holdfast
