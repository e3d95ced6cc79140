// SPDX-License-Identifier: Apache-2.0
#include "vhost/connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

namespace holdfast::vhost_frontend {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kFdsMax = 64;
constexpr std::size_t kReplyBytesMax = 4096;

Error system_error(const std::string& what) {
  return {ErrorCode::path_failure, what + ": " + std::strerror(errno)};
}

std::string name_of(std::uint32_t request) {
  return "request " + std::to_string(request);
}

// True when `events` (or a hang-up) came in time.
bool wait_for(int fd, short events, Milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  while (true) {
    const auto left = std::chrono::ceil<Milliseconds>(deadline - Clock::now());
    pollfd polled = {fd, events, 0};
    const int ready = poll(&polled, 1, left.count() > 0 ? static_cast<int>(left.count()) : 0);
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

void take_fds(msghdr& message, std::vector<Fd>& fds) {
  for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr;
       control = CMSG_NXTHDR(&message, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t index = 0; index < count; ++index) {
      int number;
      std::memcpy(&number, CMSG_DATA(control) + index * sizeof(int), sizeof number);
      fds.emplace_back(number);
    }
  }
}

}  // namespace

Result<void> Message::copy_payload(std::span<std::byte> to) const {
  if (payload.size() != to.size()) {
    return Error(ErrorCode::corrupt, "the reply to " + name_of(request) + " has " +
                                         std::to_string(payload.size()) + " bytes, expected " +
                                         std::to_string(to.size()));
  }
  std::memcpy(to.data(), payload.data(), to.size());
  return {};
}

Result<VhostConnection> VhostConnection::connect(const std::string& path, Milliseconds timeout) {
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return system_error("socket");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Error(ErrorCode::invalid_argument, "the socket's path is too long: " + path);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  if (::connect(socket.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address) !=
      0) {
    return system_error("cannot connect to " + path);
  }
  return VhostConnection(std::move(socket), timeout);
}

Result<void> VhostConnection::send(std::uint32_t request, std::span<const std::byte> payload,
                                   std::span<const int> fds, std::uint32_t flags) {
  const MessageHeader header = {request, kProtocolVersion | flags,
                                static_cast<std::uint32_t>(payload.size())};
  if (messages_left_ == 0) {
    socket_.reset();
    return Error(ErrorCode::path_failure, "gone before " + name_of(request));
  }
  std::vector<std::byte> bytes(sizeof header + payload.size());
  std::memcpy(bytes.data(), &header, sizeof header);
  if (!payload.empty()) std::memcpy(bytes.data() + sizeof header, payload.data(), payload.size());
  if (--messages_left_ == 0 && vanish_inside_) bytes.resize(bytes.size() / 2);
  return send_bytes(bytes, fds).context("send " + name_of(request));
}

Result<void> VhostConnection::send_bytes(std::span<const std::byte> bytes,
                                         std::span<const int> fds) {
  alignas(cmsghdr) std::byte control[CMSG_SPACE(kFdsMax * sizeof(int))] = {};
  bool fds_sent = fds.empty();
  while (!bytes.empty()) {
    iovec vector = {const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message = {};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    if (!fds_sent) {
      HOLDFAST_ASSERT(fds.size() <= kFdsMax);
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(fds.size_bytes());
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(fds.size_bytes());
      std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
    }
    const ssize_t sent = sendmsg(socket_.number(), &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return system_error("sendmsg");
    fds_sent = true;
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
  return {};
}

Result<Message> VhostConnection::receive(Milliseconds timeout) {
  Message message;
  MessageHeader header = {};
  TRY(receive_exactly({reinterpret_cast<std::byte*>(&header), sizeof header}, message.fds,
                      timeout));
  if (header.payload_bytes > kReplyBytesMax) {
    return Error(ErrorCode::corrupt, name_of(header.request) + " announces " +
                                         std::to_string(header.payload_bytes) + " bytes");
  }
  message.request = header.request;
  message.flags = header.flags;
  message.payload.resize(header.payload_bytes);
  TRY(receive_exactly(message.payload, message.fds, timeout));
  return message;
}

Result<void> VhostConnection::receive_exactly(std::span<std::byte> bytes, std::vector<Fd>& fds,
                                              Milliseconds timeout) {
  while (!bytes.empty()) {
    if (!wait_for(socket_.number(), POLLIN, timeout)) {
      return Error(ErrorCode::busy,
                   "no message came in " + std::to_string(timeout.count()) + " ms");
    }
    alignas(cmsghdr) std::byte control[CMSG_SPACE(kFdsMax * sizeof(int))];
    iovec vector = {bytes.data(), bytes.size()};
    msghdr message = {};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t count = recvmsg(socket_.number(), &message, MSG_CMSG_CLOEXEC);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error("recvmsg");
    take_fds(message, fds);
    if (count == 0) return Error(ErrorCode::path_failure, "the server closed the connection");
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

Result<Message> VhostConnection::call(std::uint32_t request, std::span<const std::byte> payload,
                                      std::span<const int> fds) {
  TRY(send(request, payload, fds));
  Message reply = TRY(receive().context("the reply to " + name_of(request)));
  if (reply.request != request || reply.flags != (kReplyFlag | kProtocolVersion)) {
    return Error(ErrorCode::corrupt, "the reply to " + name_of(request) + " is for " +
                                         name_of(reply.request) + " with flags " +
                                         std::to_string(reply.flags));
  }
  return reply;
}

Result<std::uint64_t> VhostConnection::call_number(std::uint32_t request) {
  const Message reply = TRY(call(request));
  return reply.as<std::uint64_t>();
}

Result<std::uint64_t> VhostConnection::acknowledged(std::uint32_t request,
                                                    std::span<const std::byte> payload,
                                                    std::span<const int> fds) {
  TRY(send(request, payload, fds, kNeedReplyFlag));
  const Message reply = TRY(receive().context("the acknowledgement of " + name_of(request)));
  if (reply.request != request || reply.flags != (kReplyFlag | kProtocolVersion)) {
    return Error(ErrorCode::corrupt, "the acknowledgement of " + name_of(request) + " is for " +
                                         name_of(reply.request) + " with flags " +
                                         std::to_string(reply.flags));
  }
  return reply.as<std::uint64_t>();
}

bool VhostConnection::wait_closed(Milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  while (true) {
    const auto left = std::chrono::ceil<Milliseconds>(deadline - Clock::now());
    if (left.count() <= 0 || !wait_for(socket_.number(), POLLIN, left)) return false;
    // A reply that nobody waited for may lie before the end.
    std::byte skipped[512];
    const ssize_t count = recv(socket_.number(), skipped, sizeof skipped, 0);
    if (count == 0 || (count < 0 && errno != EINTR)) return true;
  }
}

}  // namespace holdfast::vhost_frontend
