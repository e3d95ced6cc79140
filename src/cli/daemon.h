// SPDX-License-Identifier: Apache-2.0
//
// Being a good daemon: going to the background once ready, telling systemd, taking the file handles
// we may have.
#pragma once

#include <string>

namespace holdfast {

// Tells whoever started us how the start went.
class StartReport {
 public:
  StartReport() = default;
  explicit StartReport(int pipe_end) : pipe_end_(pipe_end) {}
  StartReport(const StartReport&) = delete;
  StartReport& operator=(const StartReport&) = delete;

  // In the background: lets go of the terminal and lets the parent end with 0.
  void ready();
  // Standard error, or the parent's; the parent ends with 1.
  void failed(const std::string& message);

 private:
  int pipe_end_ = -1;  // -1: in the foreground
};

// Forks. The parent waits for the report and never returns. In the child: the report's pipe end.
int go_to_background();

// systemd's notification protocol: a datagram to $NOTIFY_SOCKET. Nothing without it.
void notify_service_manager(const char* state);

void raise_open_file_limit();
std::string host_name();
// "holdfastd pid 123 on host x since 2026-01-31T12:00:00Z"
std::string holder_line();

}  // namespace holdfast
