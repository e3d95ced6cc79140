// SPDX-License-Identifier: Apache-2.0
//
// For tests and fuzz targets of VhostServer, all in one process and in virtual time: a daemon that
// can die (TestDaemon), and the front-end of a virtual machine (TestFrontend).
#pragma once

#include <sys/eventfd.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "block/checked_device.h"
#include "io/test_executor.h"
#include "io/test_stream.h"
#include "serve/vhost/protocol.h"
#include "serve/vhost/server.h"
#include "serve/vhost/testing_guest.h"

namespace holdfast::vhost {

// What outlives a daemon: the bytes of a volume, and what was ever done to it.
struct TestDisk {
  struct Operation {
    BlockOperation operation;
    std::uint64_t offset_bytes;
    std::uint64_t length_bytes;
    bool force_unit_access;
    bool keep_allocated;
  };
  explicit TestDisk(std::size_t size_bytes) : bytes(size_bytes) {}
  Bytes bytes;
  std::vector<Operation> submitted;
};

// Completes requests at the end of the turn, or, held, those that the test picks.
class TestDevice final : public BlockDevice {
 public:
  TestDevice(Executor& executor, TestDisk& disk, bool read_only)
      : executor_(executor), disk_(disk) {
    info_.name = "disk";
    info_.id = Uuid::parse("01234567-89ab-4cde-8f01-23456789abcd").value();
    info_.size_bytes = disk.bytes.size();
    info_.read_only = read_only;
  }
  const BlockDeviceInfo& info() const override { return info_; }
  void submit(BlockRequest& request) override {
    disk_.submitted.push_back({request.operation, request.offset_bytes, request.length_bytes,
                               request.force_unit_access, request.keep_allocated});
    waiting_.push_back(&request);
    if (!is_held_) executor_.defer(deferred_);
  }
  bool is_holding() const override { return is_holding_; }
  void cancel(BlockRequest& request) override {
    if (&request == kept_ || std::erase(waiting_, &request) == 0) return;
    cancelled_.push_back(&request);
    executor_.defer(deferred_cancels_);
  }
  Task<Result<std::vector<BlockExtent>>> block_status(std::uint64_t, std::uint64_t,
                                                      std::size_t) override {
    co_return Error(ErrorCode::unsupported, "not for this test");
  }

  void resize(std::size_t size_bytes) {
    disk_.bytes.resize(size_bytes);
    info_.size_bytes = size_bytes;
  }
  void hold() { is_held_ = true; }
  void release() {
    is_held_ = false;
    executor_.defer(deferred_);
  }
  // From now on it says so itself, and gives requests back when they are cancelled.
  void set_holding(bool is_holding) { is_holding_ = is_holding; }
  // Of those that wait now: not given back, as one that the kernel reads into memory.
  void keep(std::size_t index) { kept_ = waiting_[index]; }
  std::size_t waiting_count() const { return waiting_.size(); }
  // Of those that wait now, any.
  void complete(std::size_t index, BlockStatus status = BlockStatus::ok) {
    BlockRequest* const request = waiting_[index];
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(index));
    request->on_complete(*request, status == BlockStatus::ok ? perform(*request) : status);
  }
  void complete_all(BlockStatus status) {
    for (std::size_t count = waiting_.size(); count != 0; --count) complete(0, status);
  }
  void fail_all(BlockStatus status) { fail_status_ = status; }

 private:
  BlockStatus perform(BlockRequest& request) {
    if (request.operation == BlockOperation::flush) return fail_status_;
    if (request.offset_bytes > info_.size_bytes ||
        request.length_bytes > info_.size_bytes - request.offset_bytes) {
      return BlockStatus::out_of_range;
    }
    if (info_.read_only && request.operation != BlockOperation::read) return BlockStatus::read_only;
    if (fail_status_ != BlockStatus::ok) return fail_status_;
    std::byte* at = disk_.bytes.data() + request.offset_bytes;
    if (request.operation == BlockOperation::discard ||
        request.operation == BlockOperation::write_zeroes) {
      std::fill_n(at, request.length_bytes, std::byte{0});
      return BlockStatus::ok;
    }
    for (const iovec& vector : request.buffers) {
      if (vector.iov_len == 0) continue;
      if (request.operation == BlockOperation::read) {
        std::memcpy(vector.iov_base, at, vector.iov_len);
      } else {
        std::memcpy(at, vector.iov_base, vector.iov_len);
      }
      at += vector.iov_len;
    }
    return BlockStatus::ok;
  }

  Executor& executor_;
  TestDisk& disk_;
  BlockDeviceInfo info_;
  void complete_cancelled() {
    for (BlockRequest* request : std::exchange(cancelled_, {})) {
      request->on_complete(*request, BlockStatus::cancelled);
    }
  }

  std::vector<BlockRequest*> waiting_;
  std::vector<BlockRequest*> cancelled_;
  BlockRequest* kept_ = nullptr;
  bool is_holding_ = false;
  bool is_held_ = false;
  BlockStatus fail_status_ = BlockStatus::ok;
  Deferred deferred_{[](void* context) {
                       auto* self = static_cast<TestDevice*>(context);
                       if (!self->is_held_) self->complete_all(BlockStatus::ok);
                     },
                     this};
  Deferred deferred_cancels_{
      [](void* context) { static_cast<TestDevice*>(context)->complete_cancelled(); }, this};
};

// Watches of eventfds that look when the test says so.
class TestWatches {
 public:
  explicit TestWatches(Executor& executor) : executor_(executor) {}
  WatchEvent factory() {
    return [this](Descriptor event, EventWatch::Callback callback, void* context) {
      return std::make_unique<Watch>(*this, std::move(event), callback, context);
    };
  }
  // True if any was signalled.
  bool deliver() const {
    bool any = false;
    for (std::size_t i = 0; i < watches_.size(); ++i) {
      if (!take_event(watches_[i]->event)) continue;
      // From inside a turn, as a loop does it.
      executor_.post([watch = watches_[i], alive = std::weak_ptr<int>(watches_[i]->alive)] {
        if (!alive.expired()) watch->callback(watch->context);
      });
      any = true;
    }
    return any;
  }
  std::size_t count() const { return watches_.size(); }

 private:
  struct Watch final : EventWatch {
    Watch(TestWatches& owner_value, Descriptor event_value, Callback callback_value,
          void* context_value)
        : owner(owner_value),
          event(std::move(event_value)),
          callback(callback_value),
          context(context_value) {
      owner.watches_.push_back(this);
    }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    ~Watch() override { std::erase(owner.watches_, this); }
    TestWatches& owner;
    Descriptor event;
    Callback callback;
    void* context;
    std::shared_ptr<int> alive = std::make_shared<int>(0);
  };
  Executor& executor_;
  std::vector<Watch*> watches_;
};

// What the server sent over the channel that it was given.
struct TestChannel {
  Bytes output;
  bool reading = true;
};

class TestChannelStream final : public Stream {
 public:
  TestChannelStream(Executor& executor, TestChannel& channel)
      : executor_(executor), channel_(channel) {}
  void receive(StreamRequest&, std::span<std::byte>) override {}
  void receive_message(StreamRequest&, std::span<std::byte>, std::vector<Descriptor>&) override {}
  void send(StreamRequest& request, std::span<iovec> vectors) override {
    for (const iovec& vector : vectors) {
      const auto* from = static_cast<const std::byte*>(vector.iov_base);
      channel_.output.insert(channel_.output.end(), from, from + vector.iov_len);
    }
    if (!channel_.reading) return;
    executor_.post([alive = std::weak_ptr<int>(alive_), &request] {
      if (!alive.expired()) request.on_complete(request);
    });
  }
  void send_message(StreamRequest& request, std::span<iovec> vectors, const Descriptor&) override {
    send(request, vectors);
  }
  void shutdown() override {}

 private:
  Executor& executor_;
  TestChannel& channel_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

// A process that serves a disk. Nothing that another one does reaches it.
class TestDaemon {
 public:
  explicit TestDaemon(TestDisk& disk, bool read_only = false)
      : device_(executor_, disk, read_only), checked_(device_) {
    VhostEnvironment environment{executor_, watches_.factory(), [this](Descriptor descriptor) {
                                   return make_channel(descriptor);
                                 }};
    server_ = std::make_unique<VhostServer>(std::move(environment), checked_, read_only);
  }
  TestDaemon(const TestDaemon&) = delete;
  TestDaemon& operator=(const TestDaemon&) = delete;
  ~TestDaemon() { stop(); }

  TestExecutor& executor() { return executor_; }
  TestDevice& device() { return device_; }
  VhostServer& server() { return *server_; }
  TestChannel& channel() { return channel_; }
  const VhostStatistics& statistics() const { return server_->statistics(); }
  std::size_t watch_count() const { return watches_.count(); }

  // Until nothing is left to do. The time stands still.
  void run() {
    do {
      HOLDFAST_ASSERT(executor_.run_until_idle());
    } while (watches_.deliver());
  }
  void run_for(Duration duration) {
    run();
    executor_.advance(duration);
    run();
  }
  // Everything is answered and closed. With `shutting_down` nothing is answered.
  void stop(BlockStatus status = BlockStatus::ok) {
    if (server_ == nullptr) return;
    TaskScope scope;
    scope.spawn(server_->close());
    device_.hold();
    for (int round = 0; round < 1000 && !scope.empty(); ++round) {
      executor_.run_until_idle();
      device_.complete_all(status);
    }
    HOLDFAST_ASSERT(scope.empty() && server_->session_count() == 0);
    HOLDFAST_ASSERT(server_->request_count() == 0 && watches_.count() == 0);
    HOLDFAST_ASSERT(checked_.in_flight_count() == 0);
    server_.reset();
  }

 private:
  std::unique_ptr<Stream> make_channel(const Descriptor& descriptor) {
    struct stat status {};
    if (fstat(descriptor.get(), &status) != 0 || !S_ISSOCK(status.st_mode)) return nullptr;
    return std::make_unique<TestChannelStream>(executor_, channel_);
  }

  TestExecutor executor_;
  TestDevice device_;
  CheckedDevice checked_;
  TestWatches watches_{executor_};
  TestChannel channel_;
  std::unique_ptr<VhostServer> server_;
};

struct TestReply {
  std::uint32_t type = 0;
  std::uint32_t flags = 0;
  Bytes payload;
  std::uint64_t u64() const {
    return payload.size() == 8 ? load_little<std::uint64_t>(payload.data()) : ~std::uint64_t{0};
  }
};

// Builds payloads.
class Payload {
 public:
  template <typename T>
  Payload& put(T value) {
    bytes_.resize(bytes_.size() + sizeof value);
    store_little(bytes_.data() + bytes_.size() - sizeof value, value);
    return *this;
  }
  Payload& put(const RegionPlace& place) {
    put(place.guest_address).put(place.size_bytes);
    return put(place.user_address).put(place.file_offset_bytes);
  }
  operator Bytes() const { return bytes_; }  // NOLINT: that is what it is for

 private:
  Bytes bytes_;
};

inline Descriptor make_event() {
  return Descriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}
inline Descriptor copy_of(const Descriptor& descriptor) {
  return Descriptor(dup(descriptor.get()));
}

// One connection of a virtual machine, with the eventfds of its queues.
class TestFrontend {
 public:
  static constexpr std::uint64_t kFeatures =
      bit(kBlkFeatureSizeMax) | bit(kBlkFeatureSegMax) | bit(kBlkFeatureBlockSize) |
      bit(kBlkFeatureFlush) | bit(kBlkFeatureConfigWce) | bit(kBlkFeatureMq) |
      bit(kBlkFeatureDiscard) | bit(kBlkFeatureWriteZeroes) | bit(kRingFeatureIndirect) |
      bit(kFeatureProtocolFeatures) | bit(kFeatureVersion1);
  static constexpr std::uint64_t kProtocolFeatures =
      bit(kProtocolMq) | bit(kProtocolLogMemory) | bit(kProtocolReplyAck) |
      bit(kProtocolBackendRequest) | bit(kProtocolConfig) | bit(kProtocolInflightMemory) |
      bit(kProtocolResetDevice) | bit(kProtocolConfigureMemSlots);

  TestFrontend(TestDaemon& daemon, TestGuest& guest)
      : daemon_(daemon), guest_(guest), peer_(std::make_shared<TestPeer>()) {
    daemon_.server().accept(std::make_unique<TestStream>(daemon_.executor(), peer_));
    for (std::size_t i = 0; i < guest.options().queue_count; ++i) {
      events_.push_back({make_event(), make_event(), make_event()});
    }
  }
  TestFrontend(const TestFrontend&) = delete;
  TestFrontend& operator=(const TestFrontend&) = delete;

  TestPeer& peer() { return *peer_; }
  TestDaemon& daemon() { return daemon_; }
  bool is_closed() const { return peer_->is_shut_down && peer_->is_destroyed; }
  // The front-end goes away.
  void hang_up() {
    peer_->end_input();
    daemon_.run();
  }

  // --- Messages ---
  static Bytes message_bytes(std::uint32_t type, const Bytes& payload,
                             std::uint32_t flags = kMessageVersion) {
    Bytes bytes(kMessageHeaderBytes);
    ByteWriter out(bytes);
    out.put(type);
    out.put(flags);
    out.put(static_cast<std::uint32_t>(payload.size()));
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    return bytes;
  }
  void send(MessageType type, const Bytes& payload, std::vector<Descriptor> files = {},
            std::uint32_t flags = kMessageVersion) {
    for (Descriptor& file : files) peer_->pass(std::move(file));
    peer_->push(message_bytes(static_cast<std::uint32_t>(type), payload, flags));
    daemon_.run();
  }
  std::optional<TestReply> take_reply() {
    const Bytes more = peer_->take_output();
    output_.insert(output_.end(), more.begin(), more.end());
    if (output_.size() < kMessageHeaderBytes) return std::nullopt;
    TestReply reply;
    ByteReader in(output_);
    reply.type = in.get<std::uint32_t>();
    reply.flags = in.get<std::uint32_t>();
    const auto bytes = in.get<std::uint32_t>();
    if (in.remaining() < bytes) return std::nullopt;
    reply.payload.resize(bytes);
    in.get_bytes(reply.payload);
    output_.erase(output_.begin(), output_.begin() + static_cast<std::ptrdiff_t>(in.position()));
    return reply;
  }
  // For messages with a reply of their own. Nothing: there was none, or a wrong one.
  std::optional<TestReply> ask(MessageType type, const Bytes& payload = {},
                               std::vector<Descriptor> files = {}) {
    send(type, payload, std::move(files));
    auto reply = take_reply();
    if (reply.has_value() && (reply->type != static_cast<std::uint32_t>(type) ||
                              reply->flags != (kMessageVersion | kMessageReply))) {
      return std::nullopt;
    }
    return reply;
  }
  // For the others; needs REPLY_ACK. True: the server says that it was done.
  bool tell(MessageType type, const Bytes& payload, std::vector<Descriptor> files = {}) {
    send(type, payload, std::move(files), kMessageVersion | kMessageNeedReply);
    const auto reply = take_reply();
    return reply.has_value() && reply->type == static_cast<std::uint32_t>(type) &&
           reply->flags == (kMessageVersion | kMessageReply) && reply->u64() == 0;
  }
  bool tell_u64(MessageType type, std::uint64_t value, std::vector<Descriptor> files = {}) {
    return tell(type, Payload().put(value), std::move(files));
  }
  bool tell_queue(MessageType type, std::size_t queue, std::uint32_t value) {
    return tell(type, Payload().put(static_cast<std::uint32_t>(queue)).put(value));
  }

  // --- As QEMU does it ---
  bool negotiate() {
    const auto offered = ask(MessageType::get_features);
    if (!offered.has_value()) return false;
    send(MessageType::set_protocol_features, Payload().put(kProtocolFeatures));
    return tell(MessageType::set_owner, {}) &&
           tell_u64(MessageType::set_features, features() & offered->u64());
  }
  std::uint64_t features() const {
    return kFeatures | (guest_.options().event_index ? bit(kRingFeatureEventIndex) : 0) |
           (is_logging_ ? bit(kFeatureLogAll) : 0);
  }
  bool share_memory() { return share_memory({guest_.region()}); }
  bool share_memory(const std::vector<RegionPlace>& regions) {
    std::vector<Descriptor> files;
    Payload payload;
    payload.put(static_cast<std::uint32_t>(regions.size())).put(std::uint32_t{0});
    for (const RegionPlace& region : regions) {
      payload.put(region);
      files.push_back(guest_.memory().descriptor());
    }
    return tell(MessageType::set_mem_table, payload, std::move(files));
  }
  // Asks for in-flight memory; the test keeps it.
  std::unique_ptr<TestMemory> get_inflight() {
    const auto reply =
        ask(MessageType::get_inflight_fd,
            inflight_payload(0, guest_.options().queue_count, guest_.options().queue_size));
    if (!reply.has_value() || reply->payload.size() != 24 || peer_->sent_descriptors.size() != 1) {
      return nullptr;
    }
    Descriptor file = std::move(peer_->sent_descriptors.front());
    peer_->sent_descriptors.clear();
    return std::make_unique<TestMemory>(std::move(file),
                                        load_little<std::uint64_t>(reply->payload.data()));
  }
  static Bytes inflight_payload(std::uint64_t memory_bytes, std::uint16_t queue_count,
                                std::uint16_t queue_size) {
    return Payload()
        .put(memory_bytes)
        .put(std::uint64_t{0})
        .put(queue_count)
        .put(queue_size)
        .put(std::uint32_t{0});
  }
  bool set_inflight(const TestMemory& memory) {
    std::vector<Descriptor> files;
    files.push_back(memory.descriptor());
    return tell(MessageType::set_inflight_fd,
                inflight_payload(memory.size_bytes(), guest_.options().queue_count,
                                 guest_.options().queue_size),
                std::move(files));
  }
  bool set_event(MessageType type, std::size_t queue, const Descriptor& event) {
    std::vector<Descriptor> files;
    files.push_back(copy_of(event));
    return tell_u64(type, queue, std::move(files));
  }
  bool set_addresses(std::size_t queue) {
    return tell(MessageType::set_vring_addr,
                Payload()
                    .put(static_cast<std::uint32_t>(queue))
                    .put(is_logging_ ? kVringFlagLog : 0)
                    .put(TestGuest::user_address(guest_.descriptors_at(queue)))
                    .put(TestGuest::user_address(guest_.used_at(queue)))
                    .put(TestGuest::user_address(guest_.available_at(queue)))
                    .put(used_log_address(queue)));
  }

  // --- The log of a migration ---
  // Where the used rings are logged: not where they are, so that it can be told apart.
  static std::uint64_t used_log_address(std::size_t queue) {
    return TestGuest::kGuestBase + 16 * kMiB + 64 * kKiB * queue;
  }
  static Bytes log_payload(std::uint64_t size_bytes, std::uint64_t offset_bytes = 0) {
    return Payload().put(size_bytes).put(offset_bytes);
  }
  // What the server said of it; nothing: not what it should.
  std::optional<std::uint64_t> give_log(const TestMemory& log) {
    std::vector<Descriptor> files;
    files.push_back(log.descriptor());
    const auto reply =
        ask(MessageType::set_log_base, log_payload(log.size_bytes()), std::move(files));
    return reply.has_value() ? std::optional(reply->u64()) : std::nullopt;
  }
  // From now on in what the front-end says by itself.
  void want_logging(bool value) { is_logging_ = value; }
  // As QEMU does it while the queues run.
  bool set_logging(bool value) {
    want_logging(value);
    bool ok = tell_u64(MessageType::set_features, features());
    for (std::size_t i = 0; i < guest_.options().queue_count; ++i) ok = ok && set_addresses(i);
    return ok;
  }
  // All but that it runs.
  bool prepare_queue(std::size_t queue, std::uint16_t base = 0) {
    return tell_queue(MessageType::set_vring_num, queue, guest_.options().queue_size) &&
           tell_queue(MessageType::set_vring_base, queue, base) && set_addresses(queue) &&
           set_event(MessageType::set_vring_kick, queue, events_[queue].kick) &&
           set_event(MessageType::set_vring_call, queue, events_[queue].call) &&
           set_event(MessageType::set_vring_err, queue, events_[queue].error);
  }
  bool enable_queue(std::size_t queue, bool value = true) {
    return tell_queue(MessageType::set_vring_enable, queue, value ? 1 : 0);
  }
  // Everything up to running queues. `inflight`: what another daemon left, or null for none.
  bool start(const TestMemory* inflight = nullptr, std::uint16_t base = 0) {
    if (!negotiate() || (inflight != nullptr && !set_inflight(*inflight)) || !share_memory()) {
      return false;
    }
    bool ok = true;
    for (std::size_t i = 0; i < guest_.options().queue_count; ++i) {
      ok = ok && prepare_queue(i, base) && enable_queue(i);
    }
    return ok;
  }
  // GET_VRING_BASE; nothing: it was not answered yet, or wrongly.
  std::optional<std::uint16_t> stop_queue(std::size_t queue) {
    const auto reply = ask(MessageType::get_vring_base,
                           Payload().put(static_cast<std::uint32_t>(queue)).put(std::uint32_t{0}));
    return base_of(reply, queue);
  }
  static std::optional<std::uint16_t> base_of(const std::optional<TestReply>& reply,
                                              std::size_t queue) {
    if (!reply.has_value() || reply->payload.size() != 8 ||
        load_little<std::uint32_t>(reply->payload.data()) != queue) {
      return std::nullopt;
    }
    return static_cast<std::uint16_t>(load_little<std::uint32_t>(reply->payload.data() + 4));
  }

  // --- Events ---
  void kick(std::size_t queue) {
    signal_event(events_[queue].kick);
    daemon_.run();
  }
  // Shows the device what was submitted, and kicks if it asked for that. True: it did.
  bool publish(std::size_t queue) {
    const bool wanted = guest_.publish(queue);
    if (wanted) signal_event(events_[queue].kick);
    daemon_.run();
    return wanted;
  }
  bool take_call(std::size_t queue) { return take_event(events_[queue].call); }
  bool take_error(std::size_t queue) { return take_event(events_[queue].error); }
  // One request, alone, from submission to answer.
  std::optional<UsedEntry> perform(std::size_t queue, BlkType type, std::uint64_t sector,
                                   const std::vector<Piece>& pieces) {
    if (guest_.submit(queue, type, sector, pieces) == TestGuest::kNone) return std::nullopt;
    publish(queue);
    const auto used = guest_.take_used(queue);
    if (used.size() != 1) return std::nullopt;
    return used.front();
  }

  struct Events {
    Descriptor kick;
    Descriptor call;
    Descriptor error;
  };
  Events& events(std::size_t queue) { return events_[queue]; }

 private:
  TestDaemon& daemon_;
  TestGuest& guest_;
  std::shared_ptr<TestPeer> peer_;
  std::vector<Events> events_;
  Bytes output_;
  bool is_logging_ = false;
};

}  // namespace holdfast::vhost
