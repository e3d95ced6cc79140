// SPDX-License-Identifier: Apache-2.0
#include "cli/program.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace holdfast {
namespace {

constexpr std::size_t kKeptBytesMax = 64 * 1024;
constexpr int kNotFound = 127;

[[noreturn]] void become(const std::vector<std::string>& arguments, int output, int errors) {
  std::vector<char*> words;
  for (const std::string& argument : arguments)
    words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ::dup2(nothing, STDIN_FILENO);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(errors, STDERR_FILENO);
  ::execvp(words[0], words.data());
  ::_exit(errno == ENOENT ? kNotFound : kNotFound - 1);
}

}  // namespace

Result<ProgramEnd> run_program(const std::vector<std::string>& arguments,
                               const std::function<void(std::string_view)>& on_output) {
  std::array<int, 2> output;
  std::array<int, 2> errors;
  if (::pipe2(output.data(), O_CLOEXEC) != 0) {
    return Error(ErrorCode::internal, std::string("pipe: ") + std::strerror(errno));
  }
  if (::pipe2(errors.data(), O_CLOEXEC) != 0) {
    ::close(output[0]);
    ::close(output[1]);
    return Error(ErrorCode::internal, std::string("pipe: ") + std::strerror(errno));
  }
  const pid_t child = ::fork();
  if (child == 0) become(arguments, output[1], errors[1]);
  ::close(output[1]);
  ::close(errors[1]);
  ProgramEnd end;
  if (child < 0) {
    ::close(output[0]);
    ::close(errors[0]);
    return Error(ErrorCode::internal, std::string("fork: ") + std::strerror(errno));
  }
  std::array<pollfd, 2> watched = {{{output[0], POLLIN, 0}, {errors[0], POLLIN, 0}}};
  while (watched[0].fd >= 0 || watched[1].fd >= 0) {
    if (::poll(watched.data(), watched.size(), -1) < 0 && errno != EINTR) break;
    for (std::size_t i = 0; i < watched.size(); ++i) {
      if (watched[i].fd < 0 || watched[i].revents == 0) continue;
      std::array<char, 4096> piece;
      const ssize_t count = ::read(watched[i].fd, piece.data(), piece.size());
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        ::close(watched[i].fd);
        watched[i].fd = -1;
        continue;
      }
      const std::string_view text(piece.data(), static_cast<std::size_t>(count));
      if (i == 0) on_output(text);
      std::string& kept = i == 0 ? end.output : end.errors;
      kept.append(text.substr(0, kKeptBytesMax - std::min(kKeptBytesMax, kept.size())));
    }
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  end.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return end;
}

}  // namespace holdfast
