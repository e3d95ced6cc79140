// SPDX-License-Identifier: Apache-2.0
//
// Pausing and resuming, against a monitor in this process, in virtual time.
#include "host/machine_pause.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/bytes.h"
#include "io/test_executor.h"
#include "io/test_stream.h"

namespace holdfast {
namespace {

// QEMU as far as this needs it: a machine that outlives its monitor's clients.
class FakeQemu {
 public:
  explicit FakeQemu(TestExecutor& executor) : executor_(executor) {}

  Result<std::unique_ptr<Stream>> connect() {
    ++connections;
    if (is_away) return Error(ErrorCode::path_failure, "nobody listens");
    peer = std::make_shared<TestPeer>();
    greeting_left = greeting;
    return std::unique_ptr<Stream>(std::make_unique<TestStream>(executor_, peer));
  }
  void send(const std::string& text) const { peer->push(as_bytes(text)); }

  // Takes what came, answers. Says whether there was anything.
  bool work() {
    if (peer == nullptr || peer->is_destroyed) return false;
    if (!greeting_left.empty()) {
      send(std::exchange(greeting_left, ""));
      return true;
    }
    const auto bytes = peer->take_output();
    input_ += as_text(bytes);
    bool worked = false;
    for (std::size_t end; (end = input_.find('\n')) != std::string::npos; worked = true) {
      const std::string line = input_.substr(0, end);
      input_.erase(0, end + 1);
      const std::size_t at = line.find(": \"") + 3;
      const std::string command = line.substr(at, line.find('"', at) - at);
      const std::string id =
          line.substr(line.rfind(' ') + 1, line.rfind('}') - line.rfind(' ') - 1);
      commands.push_back(command);
      execute(command, id);
    }
    return worked;
  }
  // Somebody else's will.
  void stop() { set_status("paused", "STOP"); }
  void resume() { set_status("running", "RESUME"); }
  std::size_t count(const std::string& command) const {
    return static_cast<std::size_t>(std::count(commands.begin(), commands.end(), command));
  }
  void finish_draining() {
    is_draining = false;
    for (const std::string& id : std::exchange(drained_ids_, {})) answer(id, "{}");
  }

  std::shared_ptr<TestPeer> peer;
  std::string status = "running";
  std::vector<std::string> commands;
  int connections = 0;
  bool is_away = false;
  bool is_silent = false;    // reads, and answers nothing
  bool is_draining = false;  // answers to `stop`, and what comes behind it, once requests flow
  std::string refuses;       // this command
  std::string greeting = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";
  std::string greeting_left;

 private:
  void execute(const std::string& command, const std::string& id) {
    if (is_silent) return;
    if (command == refuses) {
      return send("{\"id\": " + id + ", \"error\": {\"class\": \"E\", \"desc\": \"not now\"}}\r\n");
    }
    if (command == "query-status") return answer(id, "{\"status\": \"" + status + "\"}");
    if (command == "stop") {
      if (status == "running") stop();
      if (is_draining) return drained_ids_.push_back(id);
    }
    if (command == "cont" && status == "paused") resume();
    answer(id, "{}");
  }
  void answer(const std::string& id, const std::string& value) const {
    send("{\"return\": " + value + ", \"id\": " + id + "}\r\n");
  }
  void set_status(const std::string& value, const std::string& event) {
    if (status == value) return;
    status = value;
    if (peer != nullptr && !peer->is_destroyed) {
      send("{\"timestamp\": {\"seconds\": 1}, \"event\": \"" + event + "\"}\r\n");
    }
  }

  TestExecutor& executor_;
  std::string input_;
  std::vector<std::string> drained_ids_;
};

class MachinePauseTest : public testing::Test {
 protected:
  ~MachinePauseTest() override { end(); }

  void make(bool is_ours = false) {
    MachinePauseEnvironment environment{executor_,
                                        [this](const std::string&) { return qemu_.connect(); },
                                        [this] { return save(); }};
    machine_ = std::make_unique<MachinePause>(std::move(environment), "/run/vm.qmp", is_ours);
    update(true, false);
  }
  void update(bool is_held, bool wants_pause) {
    is_held_ = is_held;
    wants_pause_ = wants_pause;
    run_for(0s);
  }
  // The host tells it what the disks do twice a second.
  void run_for(Duration duration) {
    for (Duration done{0};; done += 500ms) {
      machine_->update(is_held_, wants_pause_);
      do {
        executor_.run_until_idle();
      } while (qemu_.work());
      if (done >= duration) break;
      executor_.advance(500ms);
    }
  }
  void end() {
    if (machine_ == nullptr) return;
    TaskScope scope;
    scope.spawn(machine_->end());
    for (int i = 0; i < 200 && !scope.empty(); ++i) {
      executor_.run_until_idle();
      qemu_.work();
      executor_.advance(100ms);
    }
    EXPECT_TRUE(scope.empty());
    machine_.reset();
  }
  Task<void> save() {
    saved_.push_back(machine_ != nullptr && machine_->is_ours());
    if (is_saving_slow_) co_await sleep_for(executor_, 1h);
  }
  std::string state() const { return machine_->report().state; }

  TestExecutor executor_;
  FakeQemu qemu_{executor_};
  std::unique_ptr<MachinePause> machine_;
  std::vector<bool> saved_;
  bool is_saving_slow_ = false;
  bool is_held_ = true;
  bool wants_pause_ = false;
};

TEST_F(MachinePauseTest, PausesOnceAndResumesOnceWhenRequestsFlow) {
  make();
  run_for(60s);
  EXPECT_EQ(qemu_.connections, 0) << "nobody is asked before it is time";
  update(true, true);
  run_for(1s);
  EXPECT_EQ(qemu_.status, "paused");
  EXPECT_EQ(state(), "paused");
  EXPECT_EQ(saved_, std::vector<bool>{true}) << "recorded before it was paused";
  run_for(90s);
  update(false, false);
  run_for(1s);
  EXPECT_EQ(qemu_.status, "running");
  run_for(60s);
  EXPECT_EQ(qemu_.count("stop"), 1u);
  EXPECT_EQ(qemu_.count("cont"), 1u);
  EXPECT_EQ(qemu_.connections, 1);
  EXPECT_TRUE(qemu_.peer->is_destroyed) << "the monitor is there for others again";
  EXPECT_EQ(state(), "running");
  EXPECT_EQ(machine_->report().pause_count, 1u);
  EXPECT_EQ(saved_, (std::vector<bool>{true, false}));
}

TEST_F(MachinePauseTest, AMachineThatWasNotRunningIsLeftAlone) {
  qemu_.status = "paused";
  make();
  update(true, true);
  run_for(60s);
  EXPECT_FALSE(machine_->report().detail.empty());
  update(false, false);
  run_for(60s);
  EXPECT_EQ(qemu_.count("stop") + qemu_.count("cont"), 0u);
  EXPECT_EQ(qemu_.status, "paused");
}

TEST_F(MachinePauseTest, WhoeverResumesItMeanwhileHasTheLastWord) {
  make();
  update(true, true);
  run_for(5s);
  qemu_.resume();
  run_for(60s);
  EXPECT_EQ(state(), "left alone");
  EXPECT_FALSE(machine_->is_ours());
  qemu_.stop();  // theirs too
  update(false, false);
  run_for(60s);
  EXPECT_EQ(qemu_.count("stop"), 1u);
  EXPECT_EQ(qemu_.count("cont"), 0u);
  EXPECT_EQ(qemu_.status, "paused");
  // The next hold is another matter.
  qemu_.resume();
  update(true, true);
  run_for(5s);
  EXPECT_EQ(state(), "paused");
  update(false, false);
  run_for(60s);
  EXPECT_EQ(qemu_.status, "running");
}

TEST_F(MachinePauseTest, AMachineThatIsResumedByOthersDuringTheHoldIsPausedThen) {
  qemu_.status = "paused";
  make();
  update(true, true);
  run_for(10s);
  qemu_.resume();
  run_for(5s);
  EXPECT_EQ(state(), "paused");
  update(false, false);
  run_for(5s);
  EXPECT_EQ(qemu_.status, "running");
}

// Disks over NBD: QEMU waits for their requests before it answers.
TEST_F(MachinePauseTest, AStopThatIsAnsweredOnlyWhenRequestsFlowIsAPause) {
  qemu_.is_draining = true;
  make();
  update(true, true);
  run_for(90s);
  EXPECT_EQ(qemu_.status, "paused");
  EXPECT_EQ(qemu_.connections, 1) << "a monitor that drains is not given up";
  EXPECT_TRUE(machine_->is_ours());
  update(false, false);
  EXPECT_EQ(qemu_.count("cont"), 0u);
  qemu_.finish_draining();
  run_for(2s);
  EXPECT_EQ(qemu_.status, "running");
  EXPECT_EQ(qemu_.count("cont"), 1u);
}

TEST_F(MachinePauseTest, TheDaemonAfterTheOneThatPausedItResumesIt) {
  make();
  update(true, true);
  run_for(5s);
  ASSERT_TRUE(machine_->is_ours());
  end();  // as it is
  EXPECT_EQ(qemu_.status, "paused");
  make(true);
  run_for(30s);
  EXPECT_EQ(qemu_.status, "paused") << "still held";
  update(false, false);
  run_for(5s);
  EXPECT_EQ(qemu_.status, "running");
  EXPECT_EQ(qemu_.count("stop"), 1u);
  EXPECT_EQ(qemu_.count("cont"), 1u);
}

TEST_F(MachinePauseTest, WhatWasResumedWhileNoDaemonWasThereStaysAsItIs) {
  make(true);
  run_for(5s);
  EXPECT_FALSE(machine_->is_ours()) << "it runs";
  EXPECT_EQ(saved_.back(), false);
  qemu_.stop();
  update(false, false);
  run_for(60s);
  EXPECT_EQ(qemu_.status, "paused");
  EXPECT_EQ(qemu_.count("cont"), 0u);
}

TEST_F(MachinePauseTest, AMonitorThatIsLostWhileItIsPausedIsFoundAgain) {
  make();
  update(true, true);
  run_for(5s);
  qemu_.is_away = true;
  qemu_.peer->end_input();
  run_for(60s);
  EXPECT_FALSE(machine_->report().detail.empty());
  EXPECT_LT(qemu_.connections, 12) << "with growing pauses";
  qemu_.is_away = false;
  update(false, false);
  run_for(30s);
  EXPECT_EQ(qemu_.status, "running");
  EXPECT_EQ(qemu_.count("cont"), 1u);
}

TEST_F(MachinePauseTest, HoldsThatComeAndGoPauseItLessAndLessOften) {
  make();
  Duration paused{0};
  for (int i = 0; i < 6; ++i) {
    update(true, true);
    run_for(2s);
    update(false, false);
    for (paused = 0s; qemu_.status == "paused"; paused += 500ms) run_for(500ms);
  }
  EXPECT_GE(paused, 16s) << "requests must flow steadily for longer and longer";
  EXPECT_LE(paused, limits::kResumeSteadyTimeMax);
  // A hold that begins again meanwhile is no reason to resume in between.
  update(true, true);
  run_for(2s);
  update(false, false);
  run_for(1s);
  update(true, false);
  run_for(60s);
  EXPECT_EQ(qemu_.status, "paused");
  EXPECT_EQ(qemu_.count("cont"), 6u);
  update(false, false);
  run_for(limits::kResumeSteadyTimeMax);
  EXPECT_EQ(qemu_.status, "running");
  // Long afterwards it is as at first.
  run_for(limits::kResumeQuietTime + 1s);
  update(true, true);
  run_for(2s);
  update(false, false);
  run_for(1s);
  EXPECT_EQ(qemu_.status, "running");
}

TEST_F(MachinePauseTest, ARefusalIsShownAndNotRepeatedForThisHold) {
  qemu_.refuses = "stop";
  make();
  update(true, true);
  run_for(60s);
  EXPECT_NE(machine_->report().detail.find("not now"), std::string::npos);
  EXPECT_EQ(qemu_.count("stop"), 1u);
  EXPECT_FALSE(machine_->is_ours());
}

TEST_F(MachinePauseTest, AContThatIsRefusedIsTriedAgain) {
  make();
  update(true, true);
  run_for(5s);
  qemu_.refuses = "cont";
  update(false, false);
  run_for(20s);
  EXPECT_TRUE(machine_->is_ours());
  EXPECT_GE(qemu_.count("cont"), 2u);
  qemu_.refuses.clear();
  run_for(20s);
  EXPECT_EQ(qemu_.status, "running");
}

TEST_F(MachinePauseTest, AStateThatCannotBeSavedDelaysThePauseOnlyALittle) {
  is_saving_slow_ = true;
  make();
  update(true, true);
  run_for(limits::kPauseSaveTime + 1s);
  EXPECT_EQ(qemu_.status, "paused");
  executor_.advance(1h);  // for the saves to end
  update(false, false);
  run_for(limits::kPauseSaveTime + 2s);
  EXPECT_EQ(qemu_.status, "running");
  executor_.advance(2h);
  is_saving_slow_ = false;
}

struct Rudeness {
  const char* name;
  std::string greeting;
  bool is_silent = false;
};
class MachinePauseRudeTest : public MachinePauseTest,
                             public testing::WithParamInterface<Rudeness> {};

TEST_P(MachinePauseRudeTest, AMonitorThatMisbehavesIsShownAndNeverWaitedForLong) {
  qemu_.greeting = GetParam().greeting;
  qemu_.is_silent = GetParam().is_silent;
  make();
  update(true, true);
  run_for(60s);
  EXPECT_FALSE(machine_->report().detail.empty());
  EXPECT_GE(qemu_.connections, 2);
  EXPECT_LE(qemu_.connections, 12);
  update(false, false);
  run_for(20s);
  EXPECT_TRUE(qemu_.peer->is_destroyed);
  // It comes to its senses.
  qemu_.greeting = "{\"QMP\": {}}\r\n";
  qemu_.is_silent = false;
  update(true, true);
  run_for(20s);
  EXPECT_EQ(qemu_.status, "paused");
}

INSTANTIATE_TEST_SUITE_P(Host, MachinePauseRudeTest,
                         testing::Values(Rudeness{"says_nothing", ""},
                                         Rudeness{"answers_nothing", "{\"QMP\": {}}", true},
                                         Rudeness{"no_json", "SSH-2.0\r\n"},
                                         Rudeness{"endless", "{" + std::string(100'000, ' ')},
                                         Rudeness{"floods_with_events",
                                                  [] {
                                                    std::string events = "{\"QMP\": {}}";
                                                    for (int i = 0; i < 1000; ++i)
                                                      events += "{\"event\": \"STOP\"}";
                                                    return events;
                                                  }()}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace holdfast
