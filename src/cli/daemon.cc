// SPDX-License-Identifier: Apache-2.0
#include "cli/daemon.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace holdfast {
namespace {

constexpr const char* kReady = "ready";

void write_all(int descriptor, const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = ::write(descriptor, text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    done += static_cast<std::size_t>(count);
  }
}

std::string read_all(int descriptor) {
  std::string text;
  char buffer[512];
  for (;;) {
    const ssize_t count = ::read(descriptor, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return text;
    text.append(buffer, static_cast<std::size_t>(count));
  }
}

[[noreturn]] void wait_for_child(int pipe_end, pid_t child) {
  const std::string report = read_all(pipe_end);
  if (report == kReady) ::_exit(0);
  if (report.empty()) {
    int status = 0;
    ::waitpid(child, &status, 0);
    std::fprintf(stderr, "holdfastd: the daemon died while it started (%s %d)\n",
                 WIFSIGNALED(status) ? "signal" : "status",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  } else {
    std::fprintf(stderr, "holdfastd: %s\n", report.c_str());
  }
  std::fflush(stderr);
  ::_exit(1);
}

}  // namespace

void StartReport::ready() {
  notify_service_manager("READY=1");
  if (pipe_end_ < 0) {
    std::fprintf(stderr, "holdfastd: ready\n");
    return;
  }
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null >= 0) {
    for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null, standard);
    ::close(null);
  }
  write_all(pipe_end_, kReady);
  ::close(pipe_end_);
  pipe_end_ = -1;
}

void StartReport::failed(const std::string& message) {
  if (pipe_end_ < 0) {
    std::fprintf(stderr, "holdfastd: %s\n", message.c_str());
    return;
  }
  write_all(pipe_end_, message);
  ::close(pipe_end_);
  pipe_end_ = -1;
}

int go_to_background() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    std::fprintf(stderr, "holdfastd: cannot make a pipe: %s\n", std::strerror(errno));
    std::exit(1);
  }
  const pid_t child = ::fork();
  if (child < 0) {
    std::fprintf(stderr, "holdfastd: cannot fork: %s\n", std::strerror(errno));
    std::exit(1);
  }
  if (child > 0) {
    ::close(ends[1]);
    wait_for_child(ends[0], child);
  }
  ::close(ends[0]);
  ::setsid();
  static_cast<void>(::chdir("/") == 0);  // keep no file system busy
  return ends[1];
}

void notify_service_manager(const char* state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr || (path[0] != '/' && path[0] != '@')) return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::size_t length = std::strlen(path);
  if (length >= sizeof address.sun_path) return;
  std::memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';  // an abstract socket
  const int descriptor = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return;
  ::sendto(descriptor, state, std::strlen(state), MSG_NOSIGNAL,
           reinterpret_cast<const sockaddr*>(&address),
           static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length));
  ::close(descriptor);
}

void raise_open_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0) return "unknown";
  return name;
}

std::string holder_line() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char since[32];
  std::strftime(since, sizeof since, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return "holdfastd pid " + std::to_string(::getpid()) + " on host " + host_name() + " since " +
         since;
}

}  // namespace holdfast
