// SPDX-License-Identifier: Apache-2.0
#include "vhost/device.h"

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

namespace holdfast::vhost_frontend {
namespace {

using Clock = std::chrono::steady_clock;

// What a Linux guest's driver and QEMU's device know of.
constexpr std::uint64_t kFeaturesKnown =
    bit(VIRTIO_BLK_F_SIZE_MAX) | bit(VIRTIO_BLK_F_SEG_MAX) | bit(VIRTIO_BLK_F_GEOMETRY) |
    bit(VIRTIO_BLK_F_RO) | bit(VIRTIO_BLK_F_BLK_SIZE) | bit(VIRTIO_BLK_F_FLUSH) |
    bit(VIRTIO_BLK_F_TOPOLOGY) | bit(VIRTIO_BLK_F_CONFIG_WCE) | bit(VIRTIO_BLK_F_MQ) |
    bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES) | bit(kFeatureIndirect) |
    bit(kFeatureEventIndex) | bit(kFeatureProtocolFeatures) | bit(kFeatureVersion1);

}  // namespace

VhostDevice::VhostDevice(GuestMemory& memory, const DeviceOptions& options)
    : memory_(&memory), options_(options), bases_(options.queue_count, 0) {
  for (std::uint16_t index = 0; index < options.queue_count; ++index) {
    queues_.emplace_back(memory, options.queue);
  }
}

Result<void> VhostDevice::connect() {
  disconnect();
  connection_.emplace(TRY(VhostConnection::connect(options_.socket, options_.timeout)));
  VhostConnection& link = *connection_;
  link.vanish_after(options_.vanish_after_messages, options_.vanish_inside_message);
  offered_features_ = TRY(link.call_number(kGetFeatures));
  if ((offered_features_ & bit(kFeatureProtocolFeatures)) != 0) TRY(negotiate_protocol());
  TRY(link.send(kSetOwner));
  const std::uint64_t offered_again = TRY(link.call_number(kGetFeatures));
  if (offered_again != offered_features_) {
    return Error(ErrorCode::corrupt, "the features changed between two GET_FEATURES");
  }
  const std::uint64_t wanted = offered_features_ & options_.features & kFeaturesKnown;
  if (was_started_ && (features_ & ~wanted) != 0) {
    return Error(ErrorCode::corrupt, "after the reconnection the server offers fewer features");
  }
  if (!was_started_) features_ = wanted;
  for (std::uint16_t index = 0; index < queues_.size(); ++index) {
    TRY(queues_[index].make_event_fds());
    TRY(send_event_fd(kSetVringError, index, queues_[index].error_fd()));
    TRY(send_event_fd(kSetVringCall, index, queues_[index].call_fd()));
  }
  if (has_protocol_feature(kProtocolConfig)) TRY(read_config());
  return {};
}

Result<void> VhostDevice::negotiate_protocol() {
  VhostConnection& link = *connection_;
  offered_protocol_features_ = TRY(link.call_number(kGetProtocolFeatures));
  protocol_features_ = offered_protocol_features_ & options_.protocol_features;
  TRY(send_number(kSetProtocolFeatures, protocol_features_));
  if (has_protocol_feature(kProtocolMq)) {
    server_queue_count_ = TRY(link.call_number(kGetQueueNum));
    if (server_queue_count_ < queues_.size()) {
      return Error(
          ErrorCode::invalid_argument,
          "the server has only " + std::to_string(server_queue_count_) + " queues, use fewer");
    }
  }
  if (has_protocol_feature(kProtocolMemorySlots)) {
    memory_slots_max_ = TRY(link.call_number(kGetMaxMemorySlots));
  }
  if (!has_protocol_feature(kProtocolBackendRequest)) return {};
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    return Error(ErrorCode::internal, std::string("socketpair: ") + std::strerror(errno));
  }
  backend_channel_.emplace(Fd(pair[0]), options_.timeout);
  const Fd theirs(pair[1]);
  const int fd = theirs.number();
  return send_and_confirm(kSetBackendRequestFd, {}, {&fd, 1});
}

Result<void> VhostDevice::start() {
  for (SplitQueue& queue : queues_) {
    if (!was_started_) {
      queue.set_features(has_feature(kFeatureIndirect), has_feature(kFeatureEventIndex));
    }
  }
  TRY(set_features());
  TRY(share_inflight_buffer());
  TRY(set_features());  // QEMU sends it before and after the in-flight buffer
  TRY(share_memory());
  for (std::uint16_t index = 0; index < queues_.size(); ++index) {
    // Fresh ones were made by connect(); a start after a stop needs new ones.
    if (!queues_[index].has_event_fds()) TRY(queues_[index].make_event_fds());
    TRY(start_queue(index, bases_[index]));
  }
  for (std::uint16_t index = 0; index < queues_.size(); ++index) TRY(enable_queue(index, true));
  if (has_protocol_feature(kProtocolStatus)) {
    TRY(add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                   VIRTIO_CONFIG_S_DRIVER_OK));
  }
  for (std::uint16_t index = 0; index < queues_.size(); ++index) {
    TRY(send_event_fd(kSetVringCall, index, queues_[index].call_fd()));
  }
  was_started_ = true;
  if (!options_.queue.blocking_call) return {};
  // qemu-storage-daemon makes descriptors non-blocking as they arrive, and that is shared. Once it
  // answers, all have arrived.
  TRY(connection_->call_number(kGetFeatures));
  for (const SplitQueue& queue : queues_) {
    if (fcntl(queue.call_fd(), F_SETFL, 0) != 0) {
      return Error(ErrorCode::internal, std::string("fcntl: ") + std::strerror(errno));
    }
  }
  return {};
}

Result<void> VhostDevice::stop() {
  if (has_protocol_feature(kProtocolStatus)) TRY(send_number(kSetStatus, 0));
  for (std::uint16_t index = 0; index < queues_.size(); ++index) TRY(enable_queue(index, false));
  for (std::uint16_t index = 0; index < queues_.size(); ++index) {
    bases_[index] = TRY(stop_queue(index));
    queues_[index].close_event_fds();
  }
  return {};
}

void VhostDevice::disconnect() {
  connection_.reset();
  backend_channel_.reset();
  memory_shared_ = false;
}

Result<void> VhostDevice::reconnect(Milliseconds timeout) {
  disconnect();
  // The server cannot be asked where it stopped. It completes in any order, so the available ring
  // says nothing; the used ring does, and the in-flight buffer has the rest.
  for (std::size_t index = 0; index < queues_.size(); ++index) {
    bases_[index] = queues_[index].used_index();
  }
  const auto deadline = Clock::now() + timeout;
  while (true) {
    Result<void> done = connect();
    if (done.ok()) done = start();
    if (done.ok()) return done;
    disconnect();
    // Only a server that is not there, or died meanwhile, may be there later.
    if (done.error().code() != ErrorCode::path_failure || Clock::now() > deadline) {
      return std::move(done).context("reconnect");
    }
    std::this_thread::sleep_for(options_.reconnect_interval);
  }
}

Result<void> VhostDevice::start_queue(std::uint16_t index, std::uint16_t base) {
  SplitQueue& queue = queues_[index];
  TRY(send_state(kSetVringNum, index, queue.options().size));
  TRY(send_state(kSetVringBase, index, base));
  const VringAddress addresses = {.index = index,
                                  .flags = 0,
                                  .descriptors = memory_->user_address(queue.descriptors_address()),
                                  .used = memory_->user_address(queue.used_address()),
                                  .available = memory_->user_address(queue.available_address()),
                                  .log = queue.used_address()};
  TRY(connection_->send(kSetVringAddress, bytes_of(addresses)));
  return send_event_fd(kSetVringKick, index, queue.kick_fd());
}

Result<void> VhostDevice::enable_queue(std::uint16_t index, bool enabled) {
  if ((offered_features_ & bit(kFeatureProtocolFeatures)) == 0) return {};
  return send_state(kSetVringEnable, index, enabled ? 1 : 0);
}

Result<std::uint16_t> VhostDevice::stop_queue(std::uint16_t index) {
  const VringState asked = {index, 0};
  const Message reply = TRY(connection_->call(kGetVringBase, bytes_of(asked)));
  const VringState state = TRY(reply.as<VringState>());
  if (state.index != index || state.number > UINT16_MAX) {
    return Error(ErrorCode::corrupt, "GET_VRING_BASE of queue " + std::to_string(index) +
                                         " answers queue " + std::to_string(state.index) +
                                         ", base " + std::to_string(state.number));
  }
  return static_cast<std::uint16_t>(state.number);
}

Result<void> VhostDevice::read_config() {
  std::byte request[sizeof(ConfigHeader) + kConfigBytes] = {};
  const ConfigHeader header = {0, kConfigBytes, 0};
  std::memcpy(request, &header, sizeof header);
  const Message reply = TRY(connection_->call(kGetConfig, request));
  if (reply.payload.size() != sizeof request) {
    return Error(ErrorCode::corrupt, "GET_CONFIG answers " + std::to_string(reply.payload.size()) +
                                         " bytes, expected " + std::to_string(sizeof request));
  }
  std::memcpy(&config_, reply.payload.data() + sizeof header, kConfigBytes);
  return {};
}

Result<void> VhostDevice::write_config(std::uint32_t offset, std::span<const std::byte> bytes) {
  std::vector<std::byte> request(sizeof(ConfigHeader) + bytes.size());
  const ConfigHeader header = {offset, static_cast<std::uint32_t>(bytes.size()), 0};
  std::memcpy(request.data(), &header, sizeof header);
  std::memcpy(request.data() + sizeof header, bytes.data(), bytes.size());
  return send_and_confirm(kSetConfig, request, {});
}

Result<std::optional<Message>> VhostDevice::next_backend_message(Milliseconds timeout) {
  if (!backend_channel_) return std::optional<Message>{};
  Result<Message> message = backend_channel_->receive(timeout);
  if (!message.ok() && message.error().code() == ErrorCode::busy) return std::optional<Message>{};
  Message received = TRY(std::move(message));
  if ((received.flags & kNeedReplyFlag) != 0) {
    const std::uint64_t done = 0;
    TRY(backend_channel_->send(received.request, bytes_of(done), {}, kReplyFlag));
  }
  return std::optional<Message>(std::move(received));
}

Result<void> VhostDevice::add_region(std::size_t index) {
  const GuestMemory::Region& region = memory_->regions().at(index);
  const SingleRegion payload = {0, region.description};
  const int fd = region.fd.number();
  return send_and_confirm(kAddMemoryRegion, bytes_of(payload), {&fd, 1});
}

Result<void> VhostDevice::remove_region(std::size_t index) {
  const SingleRegion payload = {0, memory_->regions().at(index).description};
  return send_and_confirm(kRemoveMemoryRegion, bytes_of(payload), {});
}

Result<void> VhostDevice::send_number(std::uint32_t request, std::uint64_t number) {
  return connection_->send(request, bytes_of(number));
}

Result<void> VhostDevice::send_state(std::uint32_t request, std::uint32_t index,
                                     std::uint32_t number) {
  const VringState state = {index, number};
  return connection_->send(request, bytes_of(state));
}

Result<void> VhostDevice::send_event_fd(std::uint32_t request, std::uint16_t index, int fd) {
  const std::uint64_t number = index;
  return connection_->send(request, bytes_of(number), {&fd, 1});
}

Result<void> VhostDevice::send_and_confirm(std::uint32_t request,
                                           std::span<const std::byte> payload,
                                           std::span<const int> fds) {
  if (!has_protocol_feature(kProtocolReplyAck)) return connection_->send(request, payload, fds);
  const std::uint64_t answer = TRY(connection_->acknowledged(request, payload, fds));
  if (answer == 0) return {};
  return Error(
      ErrorCode::invalid_argument,
      "the server refused request " + std::to_string(request) + " with " + std::to_string(answer));
}

Result<void> VhostDevice::set_features() {
  TRY(send_number(kSetFeatures, features_));
  if (!has_protocol_feature(kProtocolStatus)) return {};
  return add_status(VIRTIO_CONFIG_S_FEATURES_OK);
}

Result<void> VhostDevice::add_status(std::uint64_t bits) {
  const std::uint64_t before = TRY(connection_->call_number(kGetStatus));
  if ((before & bits) == bits) return {};
  return send_number(kSetStatus, before | bits);
}

Result<void> VhostDevice::share_inflight_buffer() {
  if (!has_protocol_feature(kProtocolInflight)) return {};
  if (!inflight_fd_.is_open()) {
    const InflightDescription asked = {.bytes = 0,
                                       .file_offset = 0,
                                       .queue_count = static_cast<std::uint16_t>(queues_.size()),
                                       .queue_size = options_.queue.size,
                                       .padding = 0};
    Message reply = TRY(connection_->call(kGetInflightFd, bytes_of(asked)));
    inflight_ = TRY(reply.as<InflightDescription>());
    if (reply.fds.size() != 1 || inflight_.bytes == 0) {
      return Error(ErrorCode::corrupt, "GET_INFLIGHT_FD answers " +
                                           std::to_string(reply.fds.size()) + " descriptors and " +
                                           std::to_string(inflight_.bytes) + " bytes");
    }
    inflight_fd_ = std::move(reply.fds.front());
    inflight_.queue_count = asked.queue_count;
    inflight_.queue_size = asked.queue_size;
  }
  const int fd = inflight_fd_.number();
  return connection_->send(kSetInflightFd, bytes_of(inflight_), {&fd, 1});
}

Result<void> VhostDevice::share_memory() {
  if (memory_shared_) return {};
  const std::vector<GuestMemory::Region>& regions = memory_->regions();
  memory_shared_ = true;
  if (has_protocol_feature(kProtocolMemorySlots)) {
    for (std::size_t index = 0; index < regions.size(); ++index) TRY(add_region(index));
    return {};
  }
  HOLDFAST_ASSERT(regions.size() <= kMemoryTableRegionsMax);
  MemoryTable table = {};
  int fds[kMemoryTableRegionsMax];
  table.region_count = static_cast<std::uint32_t>(regions.size());
  for (std::size_t index = 0; index < regions.size(); ++index) {
    table.regions[index] = regions[index].description;
    fds[index] = regions[index].fd.number();
  }
  const std::size_t bytes = 8 + regions.size() * sizeof(MemoryRegion);
  return send_and_confirm(kSetMemoryTable, bytes_of(table).first(bytes), {fds, regions.size()});
}

}  // namespace holdfast::vhost_frontend
