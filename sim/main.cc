// SPDX-License-Identifier: Apache-2.0
//
// holdfast-sim: runs volumes on a faulty storage in virtual time, seed after seed, and says which
// invariant broke. docs/HACKING.md shows its use.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "sim/shared_run.h"
#include "sim/volume_run.h"
#include "sim/volume_subject.h"
#include "volume/canary.h"

namespace holdfast::sim {
namespace {

constexpr std::size_t kLinesKept = 120;
constexpr unsigned kSecondsPerRunMax = 120;  // of real time; a run takes milliseconds

constexpr const char* kHelp =
    R"(holdfast-sim: the volume under simulated faults and crashes, checked against a model

  holdfast-sim --seed N [--trace]          one seed, again and exactly
  holdfast-sim --seeds A..B                a range of seeds
  holdfast-sim --count N [--from A]        N seeds (from 1)
  holdfast-sim --seconds S [--from A]      for so long (from a seed that the time gives)
  holdfast-sim --exhaustive [--seeds A..B] crashes at every completion of a short run
      --crash-at K --crash process|power [--after] [--second K]   only this crash

  --shared               several hosts that own the volume in turn (with --seed, --seeds, --count,
                         --seconds)
  --verify-determinism   runs each seed twice and compares the hashes of all events
  --expect-violation     succeeds if a seed fails: for holdfast-sim-canary
  --canary N             turns on one deliberate bug (src/volume/canary.h); not in holdfast-sim
  --jobs N               processes to share the work (1)
  --trace                prints every event (with --seed)

Exit status: 0 all invariants held, 1 one broke (its seed and how to replay it are printed), 2 usage
)";

struct Options {
  std::uint64_t first = 1;
  std::uint64_t last = 0;  // 0: none given
  bool is_single = false;
  double seconds = 0;
  bool exhaustive = false;
  bool shared = false;
  bool determinism = false;
  bool expect_violation = false;
  bool trace = false;
  unsigned jobs = 1;
  std::optional<std::uint64_t> crash_at;
  CrashKind crash_kind = CrashKind::process;
  bool crash_after = false;
  std::optional<std::uint64_t> second;
};

struct Totals {
  std::uint64_t seeds = 0;
  std::uint64_t runs = 0;
  std::uint64_t failures = 0;
  std::uint64_t operations = 0;
  std::uint64_t process_deaths = 0;
  std::uint64_t power_losses = 0;
  std::uint64_t injected_errors = 0;
  std::uint64_t checked_sectors = 0;
  double virtual_seconds = 0;

  void add(const RunResult& result) {
    ++runs;
    operations += result.operations;
    process_deaths += result.process_deaths;
    power_losses += result.power_losses;
    injected_errors += result.injected_errors;
    checked_sectors += result.checked_sectors;
    virtual_seconds += std::chrono::duration<double>(result.virtual_time).count();
  }
  void add(const Totals& other) {
    seeds += other.seeds;
    runs += other.runs;
    failures += other.failures;
    operations += other.operations;
    process_deaths += other.process_deaths;
    power_losses += other.power_losses;
    injected_errors += other.injected_errors;
    checked_sectors += other.checked_sectors;
    virtual_seconds += other.virtual_seconds;
  }
};

// What runs now, for the handler of an assertion or a fault.
char current_run[256] = "";

void on_fatal_signal(int signal) {
  const auto say = [](const char* text) {
    if (::write(STDOUT_FILENO, text, std::strlen(text)) < 0) return;
  };
  say(signal == SIGALRM   ? "VIOLATION: the run spins without end\n"
      : signal == SIGABRT ? "VIOLATION: an assertion failed (its line is above)\n"
                          : "VIOLATION: the program crashed (a wild pointer)\n");
  say("replay: ");
  say(current_run);
  say("\n");
  std::_Exit(1);
}

std::string replay_command(const RunPlan& plan) {
  std::string command = "holdfast-sim --seed " + std::to_string(plan.seed);
  if (plan.is_small) command += " --exhaustive";
  if (plan.crash_at_completion.has_value()) {
    command += " --crash-at " + std::to_string(*plan.crash_at_completion) + " --crash " +
               (plan.crash_kind == CrashKind::power ? "power" : "process") +
               (plan.crash_after ? " --after" : "");
  }
  if (plan.second_crash_after.has_value()) {
    command += " --second " + std::to_string(*plan.second_crash_after);
  }
  return command + " --trace";
}

std::string replay_command(const SharedPlan& plan) {
  return "holdfast-sim --shared --seed " + std::to_string(plan.seed) + " --trace";
}

class Runner {
 public:
  explicit Runner(const Options& options) : options_(options) {}

  // False: an invariant broke.
  bool run_seed(std::uint64_t seed) {
    ++totals_.seeds;
    if (options_.shared) return run_plan(shared_plan(seed));
    return options_.exhaustive ? run_exhaustive(seed) : run_plan(swarm_plan(seed));
  }
  const Totals& totals() const { return totals_; }

 private:
  RunResult execute(const RunPlan& plan, VolumeRun::Trace trace) {
    VolumeFactory factory;
    return VolumeRun(plan, factory, std::move(trace)).run();
  }

  static RunResult execute(const SharedPlan& plan, VolumeRun::Trace trace) {
    return SharedRun(plan, std::move(trace)).run();
  }

  template <typename Plan>
  bool run_plan(const Plan& plan, std::uint64_t* completions = nullptr) {
    std::snprintf(current_run, sizeof current_run, "%s", replay_command(plan).c_str());
    ::alarm(kSecondsPerRunMax);
    VolumeRun::Trace trace;
    if (options_.trace) trace = [](const std::string& line) { std::puts(line.c_str()); };
    const RunResult result = execute(plan, trace);
    totals_.add(result);
    if (completions != nullptr) *completions = result.completions;
    bool good = !result.failed;
    if (result.failed && !options_.expect_violation) report(plan, result);
    if (good && options_.determinism) {
      const RunResult again = execute(plan, nullptr);
      if (again.hash != result.hash) {
        good = false;
        std::printf("VIOLATION of determinism: seed %llu gave two histories (%016llx, %016llx)\n",
                    static_cast<unsigned long long>(plan.seed),
                    static_cast<unsigned long long>(result.hash),
                    static_cast<unsigned long long>(again.hash));
      }
    }
    if (options_.trace) {
      std::printf("%s\nhash %016llx\n", plan.describe().c_str(),
                  static_cast<unsigned long long>(result.hash));
    }
    ::alarm(0);
    if (!good) ++totals_.failures;
    if (result.failed && options_.expect_violation) {
      std::printf("as expected, seed %llu broke \"%s\" (run %llu)\n",
                  static_cast<unsigned long long>(plan.seed), result.violation.invariant.c_str(),
                  static_cast<unsigned long long>(totals_.runs));
    }
    return good;
  }

  template <typename Plan>
  void report(const Plan& plan, const RunResult& result) {
    std::deque<std::string> lines;
    execute(plan, [&lines](const std::string& line) {
      lines.push_back(line.size() > 600 ? line.substr(0, 600) + "..." : line);
      if (lines.size() > kLinesKept) lines.pop_front();
    });
    std::printf("\nVIOLATION of \"%s\", seed %llu\n%s\n", result.violation.invariant.c_str(),
                static_cast<unsigned long long>(plan.seed), result.violation.details.c_str());
    std::printf("\nthe plan of this seed: %s\n", plan.describe().c_str());
    if (!options_.trace) {
      std::printf("\nthe last events:\n");
      for (const std::string& line : lines) std::puts(line.c_str());
    }
    std::printf("\nreplay: %s\n\n", replay_command(plan).c_str());
    std::fflush(stdout);
  }

  bool run_exhaustive(std::uint64_t seed) {
    RunPlan plan = small_plan(seed);
    if (options_.crash_at.has_value()) {
      plan.crash_at_completion = options_.crash_at;
      plan.crash_kind = options_.crash_kind;
      plan.crash_after = options_.crash_after;
      plan.second_crash_after = options_.second;
      return run_plan(plan);
    }
    std::uint64_t completions = 0;
    if (!run_plan(plan, &completions)) return false;
    if (options_.is_single && options_.trace) return true;
    for (std::uint64_t k = 1; k <= completions; ++k) {
      for (const CrashKind kind : {CrashKind::process, CrashKind::power}) {
        for (const bool after : {false, true}) {
          plan.crash_at_completion = k;
          plan.crash_kind = kind;
          plan.crash_after = after;
          plan.second_crash_after.reset();
          if (k % 3 == 0) plan.second_crash_after = 1 + (k / 3) % 40;
          if (!run_plan(plan)) return false;
        }
      }
    }
    return true;
  }

  const Options& options_;
  Totals totals_;
};

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One worker's share: every jobs-th seed.
Totals work(const Options& options, unsigned worker) {
  Runner runner(options);
  const double end = now_seconds() + options.seconds;
  for (std::uint64_t seed = options.first + worker;
       options.seconds != 0 ? now_seconds() < end : seed <= options.last; seed += options.jobs) {
    if (!runner.run_seed(seed)) break;
  }
  return runner.totals();
}

// The workers are processes, so that an assertion in one does not take the others' results along.
Totals work_in_processes(const Options& options) {
  if (options.jobs == 1 && options.is_single) return work(options, 0);
  struct Worker {
    pid_t pid;
    int pipe;
  };
  std::vector<Worker> workers;
  for (unsigned i = 0; i < options.jobs; ++i) {
    int ends[2];
    if (::pipe(ends) != 0) std::perror("pipe"), std::exit(1);
    std::fflush(stdout);
    const pid_t pid = ::fork();
    if (pid < 0) std::perror("fork"), std::exit(1);
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // whoever stops the parent stops the work
      ::close(ends[0]);
      const Totals totals = work(options, i);
      std::fflush(stdout);
      const bool sent = ::write(ends[1], &totals, sizeof totals) == sizeof totals;
      std::_Exit(sent ? 0 : 1);
    }
    ::close(ends[1]);
    workers.push_back({pid, ends[0]});
  }
  Totals totals;
  for (const Worker& worker : workers) {
    Totals part;
    if (::read(worker.pipe, &part, sizeof part) == sizeof part) totals.add(part);
    ::close(worker.pipe);
    int status = 0;
    ::waitpid(worker.pid, &status, 0);
    if (WIFSIGNALED(status)) {
      std::printf("a worker was killed by signal %d (%s)\n", WTERMSIG(status),
                  ::strsignal(WTERMSIG(status)));
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) ++totals.failures;
  }
  return totals;
}

std::uint64_t parse_number(std::string_view text) {
  std::size_t used = 0;
  std::uint64_t value = 0;
  for (; used < text.size() && text[used] >= '0' && text[used] <= '9'; ++used) {
    value = value * 10 + static_cast<std::uint64_t>(text[used] - '0');
  }
  if (text.empty() || used != text.size()) {
    std::fprintf(stderr, "holdfast-sim: \"%.*s\" is not a number; see --help\n",
                 static_cast<int>(text.size()), text.data());
    std::exit(2);
  }
  return value;
}

[[noreturn]] void refuse(const std::string& why) {
  std::fprintf(stderr, "holdfast-sim: %s; see --help\n", why.c_str());
  std::exit(2);
}

Options parse(int argc, char** argv) {
  Options options;
  std::uint64_t count = 0;
  bool has_first = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    const auto value = [&]() -> std::string_view {
      if (i + 1 >= argc) refuse(std::string(name) + " needs a value");
      return argv[++i];
    };
    if (name == "--help" || name == "-h") {
      std::fputs(kHelp, stdout);
      std::exit(0);
    } else if (name == "--seed") {
      options.first = options.last = parse_number(value());
      options.is_single = has_first = true;
    } else if (name == "--seeds") {
      const std::string_view range = value();
      const std::size_t dots = range.find("..");
      if (dots == std::string_view::npos) refuse("--seeds takes A..B");
      options.first = parse_number(range.substr(0, dots));
      options.last = parse_number(range.substr(dots + 2));
      has_first = true;
    } else if (name == "--count") {
      count = parse_number(value());
    } else if (name == "--from") {
      options.first = parse_number(value());
      has_first = true;
    } else if (name == "--seconds") {
      options.seconds = static_cast<double>(parse_number(value()));
    } else if (name == "--jobs") {
      options.jobs = static_cast<unsigned>(parse_number(value()));
      if (options.jobs == 0 || options.jobs > 256) refuse("--jobs takes 1 to 256");
    } else if (name == "--exhaustive") {
      options.exhaustive = true;
    } else if (name == "--shared") {
      options.shared = true;
    } else if (name == "--verify-determinism") {
      options.determinism = true;
    } else if (name == "--expect-violation") {
      options.expect_violation = true;
#ifdef HOLDFAST_CANARIES
    } else if (name == "--canary") {
      const std::uint64_t bug = parse_number(value());
      if (bug > canary::kServeUnsealed) refuse("there is no such canary");
      canary::chosen = static_cast<canary::Bug>(bug);
#endif
    } else if (name == "--trace") {
      options.trace = true;
    } else if (name == "--crash-at") {
      options.crash_at = parse_number(value());
    } else if (name == "--crash") {
      const std::string_view kind = value();
      if (kind != "process" && kind != "power") refuse("--crash takes process or power");
      options.crash_kind = kind == "power" ? CrashKind::power : CrashKind::process;
    } else if (name == "--after") {
      options.crash_after = true;
    } else if (name == "--second") {
      options.second = parse_number(value());
    } else {
      refuse("unknown option " + std::string(name));
    }
  }
  if (options.seconds != 0 && !has_first) {
    options.first =
        static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(
                                       std::chrono::system_clock::now().time_since_epoch())
                                       .count()) *
        1'000'000;
    std::printf("seeds from %llu on\n", static_cast<unsigned long long>(options.first));
  }
  if (count != 0) options.last = options.first + count - 1;
  if (options.last == 0 && options.seconds == 0) {
    if (!options.exhaustive) refuse("which seeds? Give --seed, --seeds, --count or --seconds");
    options.last = options.first + 3;
  }
  if (options.trace && !options.is_single) refuse("--trace goes with --seed");
  return options;
}

int run(int argc, char** argv) {
  const Options options = parse(argc, argv);
  // On a stack of its own: the fault may be that the other one is used up.
  static char handler_stack[64 * 1024];
  stack_t stack{};
  stack.ss_sp = handler_stack;
  stack.ss_size = sizeof handler_stack;
  ::sigaltstack(&stack, nullptr);
  struct sigaction action {};
  action.sa_handler = on_fatal_signal;
  action.sa_flags = SA_ONSTACK;
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM}) {
    ::sigaction(signal, &action, nullptr);
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 1 << 16);  // an abort loses no line of a trace
  const double start = now_seconds();
  const Totals totals = work_in_processes(options);
  std::printf(
      "%llu seeds, %llu runs, %llu operations, %llu process deaths, %llu power losses, "
      "%llu injected errors, %llu sectors checked, %.0f s of virtual time in %.1f s: %s\n",
      static_cast<unsigned long long>(totals.seeds), static_cast<unsigned long long>(totals.runs),
      static_cast<unsigned long long>(totals.operations),
      static_cast<unsigned long long>(totals.process_deaths),
      static_cast<unsigned long long>(totals.power_losses),
      static_cast<unsigned long long>(totals.injected_errors),
      static_cast<unsigned long long>(totals.checked_sectors), totals.virtual_seconds,
      now_seconds() - start, totals.failures == 0 ? "all invariants held" : "an invariant BROKE");
  if (options.expect_violation) return totals.failures != 0 ? 0 : 1;
  return totals.failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace holdfast::sim

int main(int argc, char** argv) {
  return holdfast::sim::run(argc, argv);
}
