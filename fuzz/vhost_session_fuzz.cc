// SPDX-License-Identifier: Apache-2.0
//
// Whole vhost-user sessions with a hostile guest and a hostile virtual machine, in virtual time
// over a RAM disk. Whatever they send, write into the shared memories or take away: every device
// request keeps the contract (CheckedDevice), what the server sends is well-formed, nothing keeps
// it busy, another virtual machine is served afterwards, and the server can be closed.
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/assert.h"
#include "base/limits.h"
#include "fuzz/vhost_session_input.h"
#include "serve/vhost/testing_peer.h"

namespace holdfast {
namespace {

using vhost::BlkType;
using vhost::TestDaemon;
using vhost::TestDisk;
using vhost::TestFrontend;
using vhost::TestGuest;
using vhost::TestMemory;
using Input = VhostSessionInput;

class Session {
 public:
  explicit Session(std::span<const std::byte> input)
      : flags_(static_cast<std::uint8_t>(input[0])),
        shape_(static_cast<std::uint8_t>(input[1])),
        rest_(input.subspan(Input::kHeaderBytes)) {}

  void run() {
    make_daemon();
    connect();
    for (std::size_t i = 0; i < Input::kOperationsMax && !rest_.empty(); ++i) {
      perform(static_cast<Input::Operation>(byte() % static_cast<int>(Input::Operation::count_)));
      check_output();
      HOLDFAST_ASSERT(daemon_->server().request_count() <=
                      3 * std::size_t{limits::kVhostQueuesMax} * limits::kVhostQueueSizeMax);
    }
    // Whatever it was: when these are gone, the next is served.
    for (const auto& frontend : {frontend_.get(), second_.get()}) {
      if (frontend != nullptr) frontend->hang_up();
    }
    daemon_->device().release();
    daemon_->run_for(1ms);
    HOLDFAST_ASSERT(daemon_->server().session_count() == 0);
    HOLDFAST_ASSERT(daemon_->server().request_count() == 0);
    serve_another();
    daemon_->stop();
  }

 private:
  static constexpr std::size_t kDiskBytes = 64 * kKiB;

  bool has(Input::Flags flag) const { return (flags_ & flag) != 0; }
  std::uint8_t byte() {
    if (rest_.empty()) return 0;
    const auto value = static_cast<std::uint8_t>(rest_.front());
    rest_ = rest_.subspan(1);
    return value;
  }
  std::uint16_t u16() {
    const std::uint8_t low = byte();
    return static_cast<std::uint16_t>(low | byte() << 8);
  }
  std::uint32_t u32() {
    const std::uint32_t low = u16();
    return low | static_cast<std::uint32_t>(u16()) << 16;
  }
  Bytes bytes(std::size_t count) {
    Bytes out(count);
    for (std::byte& value : out) value = static_cast<std::byte>(byte());
    return out;
  }
  std::size_t queue() { return byte() % options_.queue_count; }

  void make_daemon() {
    daemon_ = std::make_unique<TestDaemon>(disk_, has(Input::kReadOnly));
    if (has(Input::kHeldDevice)) daemon_->device().hold();
  }
  void connect() {
    frontend_ = std::make_unique<TestFrontend>(*daemon_, guest_);
    if (has(Input::kPieces)) frontend_->peer().receive_bytes_max = 1;
  }
  void set_up() {
    if (!frontend_->negotiate()) return;
    if (has(Input::kInflight)) {
      if (inflight_ == nullptr) inflight_ = frontend_->get_inflight();
      if (inflight_ != nullptr) frontend_->set_inflight(*inflight_);
    }
    frontend_->share_memory();
    for (std::size_t i = 0; i < options_.queue_count; ++i) {
      frontend_->prepare_queue(i);
      frontend_->enable_queue(i);
    }
  }
  Descriptor file(unsigned kind) {
    switch (kind % 6) {
      case 0:
        return guest_.memory().descriptor();
      case 1:
        return vhost::make_event();
      case 2:
        return vhost::copy_of(frontend_->events(0).kick);
      case 3:
        if (inflight_ != nullptr) return inflight_->descriptor();
        return guest_.memory().descriptor();
      case 4: {
        int ends[2];
        HOLDFAST_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        Descriptor other(ends[1]);
        return Descriptor(ends[0]);
      }
      default:
        return TestMemory(4096).descriptor();
    }
  }
  void send_message() {
    const auto type = static_cast<vhost::MessageType>(byte() % 48);
    const std::uint32_t flags = byte() ^ vhost::kMessageVersion;
    const std::size_t payload_bytes = byte();
    const std::uint8_t kinds = byte();
    std::vector<Descriptor> files;
    for (unsigned i = 0; i < (kinds & 15u); ++i) files.push_back(file((kinds >> 4) + i / 4));
    frontend_->send(type, bytes(payload_bytes), std::move(files), flags);
  }
  void put_descriptor() {
    const std::size_t on = queue();
    const std::size_t index = byte() % options_.queue_size;
    const std::uint8_t place = byte();
    const std::uint64_t offset = u16();
    std::uint64_t address = TestGuest::guest_address(guest_.data_at()) + offset;
    switch (place % 8) {
      case 1:
        address = TestGuest::guest_address(guest_.frame_at(on, static_cast<std::uint16_t>(index)));
        break;
      case 2:
        address = TestGuest::guest_address(offset);
        break;
      case 3:
        address = TestGuest::guest_address(guest_.memory().size_bytes()) - offset;
        break;
      case 4:
        address = ~std::uint64_t{0} - offset;
        break;
      case 5:
        address = offset;
        break;
      default:
        break;
    }
    std::uint32_t length_bytes = u16();
    if ((place & 0x40) != 0) length_bytes *= 16;
    if ((place & 0x80) != 0) length_bytes = ~length_bytes;
    const std::uint16_t flags = byte();
    const std::uint16_t next = byte();
    if (!memory_gone_) guest_.set_descriptor(on, index, address, length_bytes, flags, next);
  }
  void submit() {
    const std::size_t on = queue();
    const auto type = static_cast<BlkType>(byte() % 16);
    const std::uint64_t sector = u16();
    std::vector<vhost::Piece> pieces(byte() % 5);
    for (vhost::Piece& piece : pieces) {
      piece.data_offset_bytes = u16() % (kDataBytes / 2);
      piece.length_bytes = static_cast<std::uint32_t>(byte()) * 64;
    }
    if (!memory_gone_) guest_.submit(on, type, sector, pieces);
  }
  void restart() {
    frontend_.reset();
    second_.reset();
    daemon_->stop(BlockStatus::shutting_down);
    make_daemon();
    connect();
    set_up();
  }
  void truncate() {
    const bool is_inflight = (byte() & 1) != 0;
    const std::size_t size_bytes = std::size_t{u16()} * 64;
    if (is_inflight) {
      // Made by a server, whose seals forbid it; what a virtual machine makes itself has none.
      inflight_ = std::make_unique<TestMemory>(64 * kKiB);
      frontend_->set_inflight(*inflight_);
      inflight_->truncate(0);
      inflight_gone_ = true;
    } else if (size_bytes < guest_.memory().size_bytes()) {
      guest_.memory().truncate(size_bytes);
      memory_gone_ = true;
    }
  }

  void log() {
    const std::uint8_t what = byte() % 4;
    const std::size_t size_bytes = std::size_t{u16()} * 64;
    if (what == 0 && size_bytes != 0) {
      log_ = std::make_unique<TestMemory>(size_bytes);
      frontend_->give_log(*log_);
    } else if (what == 1 || what == 2) {
      frontend_->set_logging(what == 1);
    } else if (log_ != nullptr && size_bytes < log_->size_bytes()) {
      log_->truncate(size_bytes);
    }
  }

  void perform(Input::Operation operation) {
    switch (operation) {
      case Input::Operation::set_up:
        return set_up();
      case Input::Operation::message:
        return send_message();
      case Input::Operation::raw_bytes:
        frontend_->peer().push(bytes(byte()));
        return daemon_->run();
      case Input::Operation::write_memory: {
        const std::size_t at = u32() % guest_.memory().size_bytes();
        const Bytes value = bytes(byte() % 64);
        if (memory_gone_ || at + value.size() > guest_.memory().size_bytes()) return;
        std::copy(value.begin(), value.end(), guest_.memory().data() + at);
        return;
      }
      case Input::Operation::descriptor:
        return put_descriptor();
      case Input::Operation::submit:
        return submit();
      case Input::Operation::available: {
        const std::size_t on = queue();
        const std::uint16_t head = u16();
        if (!memory_gone_) guest_.make_available(on, head);
        return;
      }
      case Input::Operation::publish: {
        const std::size_t on = queue();
        if (!memory_gone_) frontend_->publish(on);
        return;
      }
      case Input::Operation::kick:
        return frontend_->kick(queue());
      case Input::Operation::available_index: {
        const std::size_t on = queue();
        const std::uint16_t value = u16();
        if (!memory_gone_) guest_.set_available_index(on, value);
        return frontend_->kick(on);
      }
      case Input::Operation::used_event: {
        const std::size_t on = queue();
        const std::uint16_t value = u16();
        if (!memory_gone_) guest_.set_used_event(on, value);
        return;
      }
      case Input::Operation::complete: {
        const std::size_t which = byte();
        const std::uint8_t status = byte();
        const std::size_t count = daemon_->device().waiting_count();
        if (count == 0) return;
        daemon_->device().complete(which % count, status == 1   ? BlockStatus::medium_error
                                                  : status == 2 ? BlockStatus::shutting_down
                                                                : BlockStatus::ok);
        return daemon_->run();
      }
      case Input::Operation::hold:
        if ((byte() & 1) != 0) {
          daemon_->device().hold();
        } else {
          daemon_->device().release();
        }
        return daemon_->run();
      case Input::Operation::take_used: {
        const std::size_t on = queue();
        if (!memory_gone_) guest_.take_used(on);
        return;
      }
      case Input::Operation::restart:
        return restart();
      case Input::Operation::hang_up:
        frontend_->hang_up();
        return connect();
      case Input::Operation::second_session:
        if (second_ != nullptr) return;
        second_guest_ = std::make_unique<TestGuest>(vhost::GuestOptions{.data_bytes = 16 * kKiB});
        second_ = std::make_unique<TestFrontend>(*daemon_, *second_guest_);
        second_->start();
        return;
      case Input::Operation::stop_queue:
        frontend_->stop_queue(queue());
        return;
      case Input::Operation::enable_queue: {
        const std::size_t on = queue();
        frontend_->enable_queue(on, (byte() & 1) != 0);
        return;
      }
      case Input::Operation::advance:
        return daemon_->run_for(Duration(1000) * (1 << byte() % 12));
      case Input::Operation::write_inflight: {
        const std::size_t at = u16();
        const Bytes value = bytes(byte() % 64);
        if (inflight_ == nullptr || inflight_gone_) return;
        if (at + value.size() > inflight_->size_bytes()) return;
        std::copy(value.begin(), value.end(), inflight_->data() + at);
        return;
      }
      case Input::Operation::truncate:
        return truncate();
      case Input::Operation::resize:
        if (daemon_->device().waiting_count() != 0) return;
        daemon_->device().resize((std::size_t{byte()} + 1) * 512);
        daemon_->server().announce_size();
        return daemon_->run();
      case Input::Operation::log:
        return log();
      case Input::Operation::holding:
        daemon_->device().set_holding((byte() & 1) != 0);
        return daemon_->run();
      case Input::Operation::count_:
        return;
    }
  }

  void check_output() const {
    for (auto* const frontend : {frontend_.get(), second_.get()}) {
      if (frontend == nullptr) continue;
      while (const auto reply = frontend->take_reply()) {
        HOLDFAST_ASSERT(reply->flags == (vhost::kMessageVersion | vhost::kMessageReply));
        HOLDFAST_ASSERT(reply->payload.size() <= 12 + vhost::kConfigBytesMax);
      }
    }
  }
  void serve_another() {
    daemon_->device().resize(kDiskBytes);
    TestGuest guest({});
    TestFrontend frontend(*daemon_, guest);
    HOLDFAST_ASSERT(frontend.start());
    const auto used = frontend.perform(0, BlkType::in, 0, {{0, 4096}});
    HOLDFAST_ASSERT(used.has_value() && used->status == 0 && used->length_bytes == 4097);
    frontend.hang_up();
    HOLDFAST_ASSERT(daemon_->server().session_count() == 0);
  }

  static constexpr std::size_t kDataBytes = 64 * kKiB;

  const std::uint8_t flags_;
  const std::uint8_t shape_;
  std::span<const std::byte> rest_;
  const vhost::GuestOptions options_{
      .queue_count = static_cast<std::uint16_t>(1 + (shape_ >> 4) % 3),
      .queue_size = static_cast<std::uint16_t>(1 << shape_ % 8),
      .data_bytes = kDataBytes,
      .event_index = has(Input::kEventIndex),
      .indirect = has(Input::kIndirect)};
  TestDisk disk_{kDiskBytes};
  TestGuest guest_{options_};
  std::unique_ptr<TestGuest> second_guest_;
  std::unique_ptr<TestMemory> inflight_;
  std::unique_ptr<TestMemory> log_;
  bool memory_gone_ = false;
  bool inflight_gone_ = false;
  std::unique_ptr<TestDaemon> daemon_;
  std::unique_ptr<TestFrontend> frontend_;
  std::unique_ptr<TestFrontend> second_;
};

}  // namespace
}  // namespace holdfast

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  if (bytes < holdfast::VhostSessionInput::kHeaderBytes) return 0;
  holdfast::Session({reinterpret_cast<const std::byte*>(data), bytes}).run();
  return 0;
}
