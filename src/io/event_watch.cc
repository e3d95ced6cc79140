// SPDX-License-Identifier: Apache-2.0
#include "io/event_watch.h"

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace holdfast {
namespace {

// What the kernel needs of a watch; outlives it if a poll is under way.
class Poll final : public LoopOrphan {
 public:
  Poll(Loop& loop, Descriptor event, EventWatch::Callback callback, void* context)
      : loop_(loop), event_(std::move(event)), callback_(callback), context_(context) {
    polling_.poll = this;
    polling_.prepare = [](LoopOperation& operation, io_uring_sqe& entry) {
      io_uring_prep_poll_add(&entry, static_cast<Operation&>(operation).poll->event_.get(), POLLIN);
    };
    polling_.complete = [](LoopOperation& operation, int) {
      static_cast<Operation&>(operation).poll->complete();
    };
  }

  void start() {
    in_flight_ = true;
    loop_.start(polling_);
  }

  // The watch dies. True: somebody must keep *this until the kernel is done.
  bool orphan() {
    orphaned_ = true;
    if (in_flight_ && loop_.abandon(polling_)) in_flight_ = false;
    return in_flight_;
  }

 private:
  struct Operation : LoopOperation {
    Poll* poll = nullptr;
  };

  void complete() {
    in_flight_ = false;
    if (orphaned_) return loop_.release(*this);
    const bool signalled = take_event(event_);
    start();
    if (signalled) callback_(context_);
  }

  Loop& loop_;
  Descriptor event_;
  EventWatch::Callback callback_;
  void* context_;
  Operation polling_;
  bool in_flight_ = false;
  bool orphaned_ = false;
};

class LoopEventWatch final : public EventWatch {
 public:
  LoopEventWatch(Loop& loop, std::unique_ptr<Poll> poll) : loop_(loop), poll_(std::move(poll)) {}
  LoopEventWatch(const LoopEventWatch&) = delete;
  LoopEventWatch& operator=(const LoopEventWatch&) = delete;
  ~LoopEventWatch() override {
    if (poll_->orphan()) loop_.keep(std::move(poll_));
  }

 private:
  Loop& loop_;
  std::unique_ptr<Poll> poll_;
};

}  // namespace

bool prepare_event(const Descriptor& descriptor) {
  char target[64];
  const std::string link = "/proc/self/fd/" + std::to_string(descriptor.get());
  const ssize_t length = readlink(link.c_str(), target, sizeof target);
  if (length <= 0) return false;
  if (std::string_view(target, static_cast<std::size_t>(length)) != "anon_inode:[eventfd]") {
    return false;
  }
  const int flags = fcntl(descriptor.get(), F_GETFL);
  return flags >= 0 &&
         ((flags & O_NONBLOCK) != 0 || fcntl(descriptor.get(), F_SETFL, flags | O_NONBLOCK) == 0);
}

std::unique_ptr<EventWatch> watch_event(Loop& loop, Descriptor event, EventWatch::Callback callback,
                                        void* context) {
  auto poll = std::make_unique<Poll>(loop, std::move(event), callback, context);
  poll->start();
  return std::make_unique<LoopEventWatch>(loop, std::move(poll));
}

void signal_event(const Descriptor& event) {
  // A full counter is a signal already. A peer that has made it blocking again would stop us here;
  // writes know no RWF_NOWAIT on eventfds.
  pollfd polled = {event.get(), POLLOUT, 0};
  if (poll(&polled, 1, 0) <= 0 || (polled.revents & POLLOUT) == 0) return;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(event.get(), &one, sizeof one);
}

bool take_event(const Descriptor& event) {
  // The peer shares O_NONBLOCK and may have taken it back, and read the event before us.
  std::uint64_t count = 0;
  const iovec vector = {&count, sizeof count};
  return preadv2(event.get(), &vector, 1, -1, RWF_NOWAIT) == sizeof count;
}

}  // namespace holdfast
