// SPDX-License-Identifier: Apache-2.0
//
// One virtqueue: takes chains of descriptors from the available ring, turns each into a request to
// the device, and puts it into the used ring when it is done. Everything in the rings may change
// under our eyes: each value is copied once, then checked, then used.
//
//   stopped -> running -> stopping (takes no more, answers what is in flight or gives it up while
//   the device is held) -> stopped
//
// A request in flight keeps the guest's memory mapped that it uses. Descriptors are copied into
// the request; payloads are not: reads go from the device straight into the guest's memory, and a
// device copies what it is to write.
//
// Thread: the executor's. Owner: a session.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/list.h"
#include "io/event_watch.h"
#include "serve/vhost/device.h"
#include "serve/vhost/inflight.h"
#include "serve/vhost/request.h"

namespace holdfast::vhost {

class Queue {
 public:
  explicit Queue(Device& device) : device_(device) {}
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  ~Queue();  // nothing in flight

  // What a front-end says before it starts the queue; addresses of its own process.
  struct Setup {
    std::uint32_t size = 0;
    std::uint64_t descriptors_address = 0;
    std::uint64_t used_address = 0;
    std::uint64_t available_address = 0;
    std::optional<std::uint64_t> used_log_address;  // the guest's; nothing: it is not logged
    bool has_addresses = false;
    std::uint16_t base = 0;
    bool has_kick = false;
    bool enabled = false;
  };
  Setup& setup() { return setup_; }
  bool can_start() const {
    return setup_.size != 0 && setup_.has_addresses && setup_.has_kick && setup_.enabled;
  }

  // A signal for answers that went out before cannot be told from a lost one: one more is harmless.
  void set_call(Descriptor call) {
    call_ = std::move(call);
    if (state_ == State::running && call_.is_open()) signal_event(call_);
  }
  void set_error(Descriptor error) { error_ = std::move(error); }
  void set_kick(std::unique_ptr<EventWatch> kick) { kick_ = std::move(kick); }

  // Resumes what the in-flight memory knows. A refusal has been counted: the device is broken.
  void start(QueueInflight inflight);
  // Takes no more requests. With `puts_back`, the available ring then shows again what was taken
  // and not answered, for whoever starts the queue without the in-flight memory.
  void stop(bool puts_back = false);
  // Stopping: gives up what the device holds, where the in-flight memory keeps it until the queue
  // starts again.
  void give_up_held();
  bool is_stopped() const { return state_ == State::stopped; }
  std::uint16_t next_available() const { return next_available_; }
  // After the guest's memory has changed. Without its rings the device is broken.
  void find_rings_again();
  // Marks all of the used ring: what was written to it before it was known where to log.
  void log_used_ring();

  // Takes what is available; true if there was anything.
  bool take_requests();
  // Before sleeping: asks for a kick. True if something became available meanwhile.
  bool ask_for_kick();
  // While somebody looks anyway: takes the wish for a kick back. Until the next ask_for_kick().
  void stop_asking();
  // Answers what is done, with at most one interrupt; true if there was anything.
  bool publish();
  void signal_error() const {
    if (error_.is_open()) signal_event(error_);
  }

 private:
  enum class State : std::uint8_t { stopped, running, stopping };

  // queue.cc: the rings
  bool takes_requests() const {
    return state_ == State::running && setup_.enabled && !device_.is_broken;
  }
  bool find_rings();
  bool take(std::uint16_t head, bool is_resumed);
  void log_used(std::uint64_t offset_bytes, std::uint64_t size_bytes);
  void log_payload(const Request& request);
  void put_back_given_up();
  bool wants_interrupt(std::uint16_t before, std::uint16_t after);
  std::uint16_t available_index() const;
  void ask_from(std::uint16_t event, std::uint16_t flags);
  void note_idle();

  // chain.cc: from descriptors to vectors
  bool gather(Request& request);
  bool add_vectors(Request& request, std::uint64_t address, std::uint32_t length_bytes);
  void strip_frame(Request& request, std::size_t readable_count, std::uint64_t readable_bytes);

  // requests.cc: from vectors to the device and back
  void execute(Request& request);
  void read_or_write(Request& request, BlkType type);
  void answer_id(Request& request);
  void begin_segments(Request& request, BlkType type);
  void next_segment(Request& request);
  void submit(Request& request);
  void refuse(Request& request, VhostFault fault, BlkStatus status);
  void finish(Request& request, BlkStatus status);
  void release(Request& request);

  Device& device_;
  State state_ = State::stopped;
  Setup setup_;
  std::unique_ptr<EventWatch> kick_;
  Descriptor call_;
  Descriptor error_;

  // The rings, in our address space.
  std::byte* descriptors_ = nullptr;
  std::byte* available_ = nullptr;
  std::byte* used_ = nullptr;
  std::uint16_t size_ = 0;
  std::uint16_t next_available_ = 0;
  std::uint16_t used_index_ = 0;
  bool asked_for_kick_ = false;
  bool puts_back_ = false;
  QueueInflight inflight_;

  std::vector<Request> requests_;  // by head
  List<Request, &Request::link> done_;
  std::vector<std::uint16_t> published_;
  std::size_t in_flight_ = 0;  // taken and not yet released
};

}  // namespace holdfast::vhost
