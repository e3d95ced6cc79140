// SPDX-License-Identifier: Apache-2.0
#include "io/unix_socket.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>

#include "base/log.h"
#include "io/descriptor.h"
#include "io/errors.h"

namespace holdfast {
namespace {

constexpr int kSocketBufferBytes = 1 << 20;
constexpr std::size_t kVectorsPerMessageMax = IOV_MAX;
constexpr Duration kAcceptRetryDelay = 100ms;
constexpr int kSendRetriesMax = 64;

void enlarge_buffers(int descriptor) {
  // The first form passes the system's limit where we may; neither is needed for correctness.
  const int bytes = kSocketBufferBytes;
  if (setsockopt(descriptor, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0) {
    setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  }
  if (setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0) {
    setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  }
}

// What the kernel needs of a connection. Belongs to its UnixStream, then, if operations are still
// under way, to the loop until the last of them has come back.
class Connection final : public LoopOrphan {
 public:
  Connection(Loop& loop, int descriptor) : loop_(loop), socket_(descriptor) {
    receiving_.connection = sending_.connection = this;
    receiving_.prepare = [](LoopOperation& operation, io_uring_sqe& entry) {
      static_cast<Half&>(operation).connection->prepare_receive(entry);
    };
    sending_.prepare = [](LoopOperation& operation, io_uring_sqe& entry) {
      static_cast<Half&>(operation).connection->prepare_send(entry);
    };
    receiving_.complete = [](LoopOperation& operation, int result) {
      static_cast<Half&>(operation).connection->finish_receive(result);
    };
    sending_.complete = [](LoopOperation& operation, int result) {
      static_cast<Half&>(operation).connection->finish_send(result);
    };
  }

  // `descriptors`: null, or where to put those that come along.
  void receive(StreamRequest& request, std::span<std::byte> buffer,
               std::vector<Descriptor>* descriptors) {
    HOLDFAST_ASSERT(!receiving_.in_flight && !buffer.empty());
    receive_buffer_ = buffer;
    received_descriptors_ = descriptors;
    if (descriptors != nullptr && receive_message_ == nullptr) {
      receive_message_ = std::make_unique<ReceiveMessage>();
    }
    begin(receiving_, request);
  }

  // `descriptor`: -1, or one to pass along.
  void send(StreamRequest& request, std::span<iovec> vectors, int descriptor) {
    HOLDFAST_ASSERT(!sending_.in_flight);
    vectors_ = vectors;
    sent_descriptor_ = descriptor;
    send_retries_ = 0;
    skip_sent(0);
    begin(sending_, request);
  }

  void shut_down() { shutdown(socket_.get(), SHUT_RDWR); }

  // Its stream dies. True: somebody must keep *this until the kernel is done.
  bool orphan() {
    orphaned_ = true;
    shut_down();
    for (Half* half : {&receiving_, &sending_}) {
      half->request = nullptr;
      if (half->in_flight && loop_.abandon(*half)) half->in_flight = false;
    }
    return receiving_.in_flight || sending_.in_flight;
  }

 private:
  struct Half : LoopOperation {
    Connection* connection = nullptr;
    StreamRequest* request = nullptr;
    bool in_flight = false;
  };

  void begin(Half& half, StreamRequest& request) {
    request.error = 0;
    request.transferred = 0;
    half.request = &request;
    half.in_flight = true;
    loop_.start(half);
  }

  // More than any message may carry; the kernel closes what does not fit.
  static constexpr std::size_t kDescriptorsPerReceiveMax = 32;

  struct ReceiveMessage {
    iovec vector{};
    msghdr header{};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int) * kDescriptorsPerReceiveMax)];
  };

  void prepare_receive(io_uring_sqe& entry) {
    if (received_descriptors_ == nullptr) {
      io_uring_prep_recv(&entry, socket_.get(), receive_buffer_.data(), receive_buffer_.size(), 0);
      return;
    }
    ReceiveMessage& message = *receive_message_;
    message.vector = {receive_buffer_.data(), receive_buffer_.size()};
    message.header = {};
    message.header.msg_iov = &message.vector;
    message.header.msg_iovlen = 1;
    message.header.msg_control = message.control;
    message.header.msg_controllen = sizeof message.control;
    io_uring_prep_recvmsg(&entry, socket_.get(), &message.header, MSG_CMSG_CLOEXEC);
  }

  // Also for an orphan: what came must be closed.
  void take_received_descriptors() {
    msghdr& header = receive_message_->header;
    for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr;
         part = CMSG_NXTHDR(&header, part)) {
      if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
      const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int number;
        std::memcpy(&number, CMSG_DATA(part) + i * sizeof(int), sizeof number);
        Descriptor descriptor(number);
        if (!orphaned_) received_descriptors_->push_back(std::move(descriptor));
      }
    }
  }

  void prepare_send(io_uring_sqe& entry) {
    if (vectors_.empty()) {
      io_uring_prep_nop(&entry);
      return;
    }
    message_ = {};
    message_.msg_iov = vectors_.data();
    message_.msg_iovlen = std::min(vectors_.size(), kVectorsPerMessageMax);
    if (sent_descriptor_ >= 0) {
      message_.msg_control = send_control_;
      message_.msg_controllen = sizeof send_control_;
      cmsghdr* const part = CMSG_FIRSTHDR(&message_);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(part), &sent_descriptor_, sizeof(int));
    }
    // WAITALL: the kernel goes on by itself when the socket has room again.
    io_uring_prep_sendmsg(&entry, socket_.get(), &message_, MSG_NOSIGNAL | MSG_WAITALL);
  }

  void finish_receive(int result) {
    if (result == -EINTR || result == -EAGAIN) {
      if (!orphaned_) return loop_.start(receiving_);
    }
    if (result > 0 && received_descriptors_ != nullptr) take_received_descriptors();
    if (result > 0 && receiving_.request != nullptr) {
      receiving_.request->transferred = static_cast<std::size_t>(result);
    }
    finish(receiving_, result < 0 ? -result : 0);
  }

  void finish_send(int result) {
    if (!orphaned_) {
      // A socket that the peer has made non-blocking is not waited for by the kernel: a few tries,
      // then it counts as one that cannot be written.
      if (result == -EINTR || (result == -EAGAIN && ++send_retries_ < kSendRetriesMax)) {
        return loop_.start(sending_);
      }
      if (result > 0) {
        sending_.request->transferred += static_cast<std::size_t>(result);
        sent_descriptor_ = -1;
        send_retries_ = 0;
        skip_sent(static_cast<std::size_t>(result));
        if (!vectors_.empty()) return loop_.start(sending_);
      }
    }
    finish(sending_, result < 0 ? -result : 0);
  }

  void skip_sent(std::size_t bytes) {
    while (!vectors_.empty() && bytes >= vectors_.front().iov_len) {
      bytes -= vectors_.front().iov_len;
      vectors_ = vectors_.subspan(1);
    }
    if (bytes != 0) {
      iovec& first = vectors_.front();
      first.iov_base = static_cast<std::byte*>(first.iov_base) + bytes;
      first.iov_len -= bytes;
    }
  }

  // The last thing done with *this: the callback may destroy the stream.
  void finish(Half& half, int error) {
    half.in_flight = false;
    if (orphaned_) {
      if (!receiving_.in_flight && !sending_.in_flight) loop_.release(*this);
      return;
    }
    StreamRequest& request = *std::exchange(half.request, nullptr);
    request.error = error;
    request.on_complete(request);
  }

  Loop& loop_;
  Descriptor socket_;
  Half receiving_;
  Half sending_;
  std::span<std::byte> receive_buffer_;
  std::vector<Descriptor>* received_descriptors_ = nullptr;
  std::unique_ptr<ReceiveMessage> receive_message_;  // once descriptors were asked for
  std::span<iovec> vectors_;
  msghdr message_{};
  int sent_descriptor_ = -1;
  int send_retries_ = 0;
  alignas(cmsghdr) std::byte send_control_[CMSG_SPACE(sizeof(int))] = {};
  bool orphaned_ = false;
};

class UnixStream final : public Stream {
 public:
  UnixStream(Loop& loop, int descriptor)
      : loop_(loop), connection_(std::make_unique<Connection>(loop, descriptor)) {}
  UnixStream(const UnixStream&) = delete;
  UnixStream& operator=(const UnixStream&) = delete;
  ~UnixStream() override {
    if (connection_->orphan()) loop_.keep(std::move(connection_));
  }

  void receive(StreamRequest& request, std::span<std::byte> buffer) override {
    connection_->receive(request, buffer, nullptr);
  }
  void receive_message(StreamRequest& request, std::span<std::byte> buffer,
                       std::vector<Descriptor>& descriptors) override {
    connection_->receive(request, buffer, &descriptors);
  }
  void send(StreamRequest& request, std::span<iovec> vectors) override {
    connection_->send(request, vectors, -1);
  }
  void send_message(StreamRequest& request, std::span<iovec> vectors,
                    const Descriptor& descriptor) override {
    connection_->send(request, vectors, descriptor.get());
  }
  void shutdown() override { connection_->shut_down(); }

 private:
  Loop& loop_;
  std::unique_ptr<Connection> connection_;
};

// The same division for a listener.
class Acceptor final : public LoopOrphan {
 public:
  Acceptor(Loop& loop, Descriptor socket, AcceptCallback on_accept)
      : loop_(loop), socket_(std::move(socket)), on_accept_(std::move(on_accept)) {
    accepting_.acceptor = this;
    accepting_.prepare = [](LoopOperation& operation, io_uring_sqe& entry) {
      const Acceptor& self = *static_cast<Accept&>(operation).acceptor;
      io_uring_prep_accept(&entry, self.socket_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    };
    accepting_.complete = [](LoopOperation& operation, int result) {
      static_cast<Accept&>(operation).acceptor->accepted(result);
    };
  }

  void start() {
    busy_ = true;
    loop_.start(accepting_);
  }

  bool orphan() {
    orphaned_ = true;
    loop_.cancel(retry_);
    shutdown(socket_.get(), SHUT_RDWR);
    if (busy_ && !in_callback_ && loop_.abandon(accepting_)) busy_ = false;
    return busy_;
  }

 private:
  struct Accept : LoopOperation {
    Acceptor* acceptor = nullptr;
  };

  void accepted(int result) {
    if (orphaned_) {
      if (result >= 0) close(result);
      return loop_.release(*this);
    }
    if (result >= 0) {
      was_refused_ = false;
      in_callback_ = true;
      on_accept_(make_stream(loop_, result));
      in_callback_ = false;
      if (orphaned_) return loop_.release(*this);
    } else if (result != -EINTR && result != -EAGAIN && result != -ECONNABORTED) {
      // Out of descriptors, most likely. Clients wait in the backlog meanwhile.
      if (!std::exchange(was_refused_, true)) {
        log_warning(
            file_error("accept a connection on", "a control or export socket", -result).message());
      }
      busy_ = false;
      loop_.arm_after(retry_, kAcceptRetryDelay);
      return;
    }
    start();
  }

  Loop& loop_;
  Descriptor socket_;
  AcceptCallback on_accept_;
  Accept accepting_;
  Timer retry_{[](void* context) { static_cast<Acceptor*>(context)->start(); }, this};
  bool busy_ = false;  // in the kernel's hands, or in the callback
  bool in_callback_ = false;
  bool orphaned_ = false;
  bool was_refused_ = false;
};

class UnixListener final : public Listener {
 public:
  UnixListener(Loop& loop, std::string path, const struct stat& identity,
               std::unique_ptr<Acceptor> acceptor)
      : loop_(loop), path_(std::move(path)), identity_(identity), acceptor_(std::move(acceptor)) {}
  UnixListener(const UnixListener&) = delete;
  UnixListener& operator=(const UnixListener&) = delete;
  ~UnixListener() override {
    // Not somebody else's, who took the name meanwhile.
    struct stat now {};
    if (lstat(path_.c_str(), &now) == 0 && now.st_dev == identity_.st_dev &&
        now.st_ino == identity_.st_ino) {
      unlink(path_.c_str());
    }
    if (acceptor_->orphan()) loop_.keep(std::move(acceptor_));
  }

  void start_accepting() override { acceptor_->start(); }

 private:
  Loop& loop_;
  std::string path_;
  struct stat identity_;
  std::unique_ptr<Acceptor> acceptor_;
};

Result<sockaddr_un> unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Error(ErrorCode::invalid_argument,
                 "the socket path " + path + " has " + std::to_string(path.size()) +
                     " bytes, and a unix socket's path must have 1 to " +
                     std::to_string(sizeof address.sun_path - 1) +
                     "; use a shorter runtime directory or shorter names");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

int connect_to(int descriptor, const sockaddr_un& address) {
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  int result;
  do {
    result = connect(descriptor, generic, sizeof address);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

Result<void> check_replaceable(const std::string& path, LivingListener living) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    return file_error("look at", path, errno);
  }
  if (!S_ISSOCK(status.st_mode)) {
    return Error(ErrorCode::already_exists, "cannot listen at " + path +
                                                ": something that is not a socket has that name; "
                                                "move it away");
  }
  if (living == LivingListener::replace) return {};
  const sockaddr_un address = TRY(unix_address(path));
  const Descriptor probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (probe.get() < 0) return file_error("make a socket for", path, errno);
  if (connect_to(probe.get(), address) != ECONNREFUSED) {
    return Error(ErrorCode::busy,
                 "cannot listen at " + path + ": another process listens there; stop it first");
  }
  return {};
}

// Made beside the final path and renamed onto it when it listens: a client finds the old socket or
// the new one, and never the new one before it listens. As long as the path, so that it fits.
std::string path_while_made(std::string path) {
  path.back() = '~';
  return path;
}

}  // namespace

std::unique_ptr<Stream> make_stream(Loop& loop, int descriptor) {
  enlarge_buffers(descriptor);
  return std::make_unique<UnixStream>(loop, descriptor);
}

std::unique_ptr<Stream> adopt_stream(Loop& loop, Descriptor descriptor) {
  int domain = 0;
  int type = 0;
  socklen_t bytes = sizeof(int);
  if (getsockopt(descriptor.get(), SOL_SOCKET, SO_DOMAIN, &domain, &bytes) != 0 ||
      getsockopt(descriptor.get(), SOL_SOCKET, SO_TYPE, &type, &bytes) != 0 || domain != AF_UNIX ||
      type != SOCK_STREAM) {
    return nullptr;
  }
  return std::make_unique<UnixStream>(loop, descriptor.release());
}

Result<std::unique_ptr<Stream>> connect_unix(Loop& loop, const std::string& path) {
  const sockaddr_un address = TRY(unix_address(path));
  // A unix socket connects at once or, when it does not block, not at all (EAGAIN: full backlog).
  Descriptor descriptor(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (descriptor.get() < 0) return file_error("make a socket for", path, errno);
  if (const int error = connect_to(descriptor.get(), address)) {
    return file_error("connect to", path, error);
  }
  fcntl(descriptor.get(), F_SETFL, 0);  // with a blocking socket the ring waits for us
  return make_stream(loop, descriptor.release());
}

Result<std::unique_ptr<Listener>> listen_unix(Loop& loop, std::string path, mode_t mode,
                                              AcceptCallback on_accept, LivingListener living) {
  TRY(unix_address(path));
  TRY(check_replaceable(path, living));
  Descriptor descriptor(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (descriptor.get() < 0) return file_error("make a socket for", path, errno);
  // The mode of the unbound socket becomes that of the file: there is no moment at which others may
  // connect. The second call only widens what the umask took.
  fchmod(descriptor.get(), mode);
  const std::string made = path_while_made(path);
  const sockaddr_un address = TRY(unix_address(made));
  unlink(made.c_str());  // of a process that died just here
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  if (bind(descriptor.get(), generic, sizeof address) != 0) {
    return file_error("make the socket", made, errno);
  }
  struct stat identity {};
  if (chmod(made.c_str(), mode) != 0 || listen(descriptor.get(), SOMAXCONN) != 0 ||
      lstat(made.c_str(), &identity) != 0 || rename(made.c_str(), path.c_str()) != 0) {
    const int error = errno;
    unlink(made.c_str());
    return file_error("listen at", path, error);
  }
  auto acceptor = std::make_unique<Acceptor>(loop, std::move(descriptor), std::move(on_accept));
  return std::unique_ptr<Listener>(
      std::make_unique<UnixListener>(loop, std::move(path), identity, std::move(acceptor)));
}

}  // namespace holdfast
