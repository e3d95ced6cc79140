// SPDX-License-Identifier: Apache-2.0
//
// What each vhost-user message means (QEMU's docs/interop/vhost-user.rst).
#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "serve/vhost/config_space.h"
#include "serve/vhost/session.h"

namespace holdfast::vhost {
namespace {

constexpr std::uint64_t kProtocolFeatures =
    bit(kProtocolMq) | bit(kProtocolLogMemory) | bit(kProtocolReplyAck) |
    bit(kProtocolBackendRequest) | bit(kProtocolConfig) | bit(kProtocolInflightMemory) |
    bit(kProtocolResetDevice) | bit(kProtocolConfigureMemSlots);

constexpr std::size_t kInflightBytes = 24;
constexpr std::size_t kConfigHeaderBytes = 12;  // offset, bytes, flags

std::vector<std::byte> encode_u64(std::uint64_t value) {
  std::vector<std::byte> bytes(sizeof value);
  store_little(bytes.data(), value);
  return bytes;
}

RegionPlace get_region(ByteReader& in) {
  RegionPlace place;
  place.guest_address = in.get<std::uint64_t>();
  place.size_bytes = in.get<std::uint64_t>();
  place.user_address = in.get<std::uint64_t>();
  place.file_offset_bytes = in.get<std::uint64_t>();
  return place;
}

}  // namespace

std::uint64_t Session::offered_features() const {
  std::uint64_t features =
      bit(kBlkFeatureSizeMax) | bit(kBlkFeatureSegMax) | bit(kBlkFeatureBlockSize) |
      bit(kBlkFeatureFlush) | bit(kBlkFeatureTopology) | bit(kBlkFeatureConfigWce) |
      bit(kBlkFeatureMq) | bit(kFeatureLogAll) | bit(kRingFeatureIndirect) |
      bit(kRingFeatureEventIndex) | bit(kFeatureProtocolFeatures) | bit(kFeatureVersion1);
  if (device_.read_only) return features | bit(kBlkFeatureReadOnly);
  return features | bit(kBlkFeatureDiscard) | bit(kBlkFeatureWriteZeroes);
}

// Nothing: the protocol is broken, and with it the session.
Task<std::optional<Session::Answer>> Session::handle(Message& message) {
  ByteReader in(message.payload);
  const auto reply_u64 = [](std::uint64_t value) {
    return Answer{.is_reply = true, .payload = encode_u64(value)};
  };
  Answer answer;
  switch (message.header.type) {
    case MessageType::get_features:
      answer = reply_u64(offered_features());
      break;
    case MessageType::set_features: {
      const auto features = in.get<std::uint64_t>();
      if (must_log_without_log(features)) {
        refuse("to log what is written to memory, without a log");
        co_return std::nullopt;
      }
      answer = set_features(features);
      break;
    }
    case MessageType::get_protocol_features:
      answer = reply_u64(kProtocolFeatures);
      break;
    case MessageType::set_protocol_features:
      answer = set_protocol_features(in.get<std::uint64_t>());
      break;
    case MessageType::get_queue_num:
      answer = reply_u64(limits::kVhostQueuesMax);
      break;
    case MessageType::get_max_mem_slots:
      answer = reply_u64(limits::kVhostMemoryRegionsMax);
      break;
    case MessageType::set_owner:
      break;
    case MessageType::reset_owner:
    case MessageType::reset_device:
      stop_queues();
      for (const auto& queue : queues_) {
        co_await wait_for_queue(*queue);
        queue->setup() = {};
      }
      break;
    case MessageType::set_mem_table:
      answer = set_memory_table(message);
      break;
    case MessageType::add_mem_reg:
    case MessageType::rem_mem_reg:
      answer = change_region(message, message.header.type == MessageType::add_mem_reg);
      break;
    case MessageType::set_log_base:
      answer = set_log_base(in, message);
      break;
    case MessageType::set_log_fd:
      answer = set_log_event(message);
      break;
    case MessageType::set_vring_num:
    case MessageType::set_vring_base:
    case MessageType::set_vring_enable:
      answer = set_vring_number(in, message.header.type);
      break;
    case MessageType::set_vring_addr:
      answer = set_vring_addresses(in);
      break;
    case MessageType::set_vring_kick:
    case MessageType::set_vring_call:
    case MessageType::set_vring_err:
      answer = set_vring_event(message);
      break;
    case MessageType::get_vring_base: {
      const auto index = in.get<std::uint32_t>();
      if (index >= queues_.size() || !in.ok()) {
        device_.statistics.count(VhostFault::message_malformed);
        co_return std::nullopt;
      }
      answer = co_await get_vring_base(index);
      break;
    }
    case MessageType::get_config:
      answer = get_config(message.payload);
      break;
    case MessageType::set_config:
      answer = set_config(message.payload);
      break;
    case MessageType::get_inflight_fd:
      answer = get_inflight(in);
      break;
    case MessageType::set_inflight_fd:
      answer = set_inflight(in, message);
      break;
    case MessageType::set_backend_request_fd:
      if (message.descriptors.size() != 1 || is_sending_config_) {
        answer = refuse("a channel for messages needs one socket");
        break;
      }
      backend_channel_ = server_.environment_.make_stream(std::move(message.descriptors.front()));
      if (backend_channel_ == nullptr) answer = refuse("the channel is no unix socket");
      break;
    default:
      device_.statistics.count(VhostFault::message_unknown);
      answer.refused = true;
      break;
  }
  if (!in.ok()) {
    device_.statistics.count(VhostFault::message_malformed);
    co_return std::nullopt;
  }
  co_return answer;
}

Session::Answer Session::refuse(const std::string& why) {
  device_.statistics.count(VhostFault::message_refused);
  if (!std::exchange(has_logged_, true)) {
    log_warning("volume " + device_.block.info().name +
                ": a virtual machine's vhost-user message was refused: " + why);
  }
  return Answer{.refused = true};
}

Session::Answer Session::set_features(std::uint64_t features) {
  if ((features & ~offered_features()) != 0) return refuse("features that were not offered");
  features_ = features;
  device_.is_logging = is_log_wanted(features);
  if (!device_.is_logging) device_.log.drop();
  device_.event_index = (features & bit(kRingFeatureEventIndex)) != 0;
  device_.indirect = (features & bit(kRingFeatureIndirect)) != 0;
  choose_write_through();
  return {};
}

// QEMU calls abort() when logging is refused, but takes a back-end that goes away for what it is:
// it connects again, and says again how to log.
bool Session::must_log_without_log(std::uint64_t features) const {
  return is_log_wanted(features) && !device_.log.is_there() && is_any_queue_active();
}

// A front-end that takes every feature that is offered, but could never share a log, does not mean
// it.
bool Session::is_log_wanted(std::uint64_t features) const {
  return (features & bit(kFeatureLogAll)) != 0 &&
         (protocol_features_ & bit(kProtocolLogMemory)) != 0;
}

// A driver that knows neither flushes nor the switch expects every write to be durable (virtio 1.1,
// 5.2.5.2).
void Session::choose_write_through() {
  const bool can_flush = (features_ & (bit(kBlkFeatureFlush) | bit(kBlkFeatureConfigWce))) != 0;
  device_.write_through = cache_is_off_ || !can_flush;
}

Session::Answer Session::set_protocol_features(std::uint64_t features) {
  if ((features & ~kProtocolFeatures) != 0) return refuse("protocol features not offered");
  protocol_features_ = features;
  device_.is_logging = is_log_wanted(features_);
  return {};
}

// --- Memory ---

Session::Answer Session::set_memory_table(Message& message) {
  ByteReader in(message.payload);
  const auto count = in.get<std::uint32_t>();
  in.get<std::uint32_t>();
  if (count > kMemTableRegionsMax || count != message.descriptors.size() ||
      in.remaining() < count * kRegionBytes) {
    return refuse("a memory table of " + std::to_string(count) + " regions with " +
                  std::to_string(message.descriptors.size()) + " files");
  }
  device_.memory.remove_all();
  Answer answer;
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto added = device_.memory.add(get_region(in), message.descriptors[i]);
    if (!added.ok()) answer = refuse(added.error().message());
  }
  find_rings_again();
  return answer;
}

void Session::find_rings_again() {
  for (const auto& queue : queues_) queue->find_rings_again();
}

Session::Answer Session::change_region(Message& message, bool is_added) {
  ByteReader in(message.payload);
  in.get<std::uint64_t>();
  const RegionPlace place = get_region(in);
  if (!in.ok() || (is_added && message.descriptors.size() != 1)) {
    return refuse("a memory region without its one file");
  }
  const Result<void> changed = is_added ? device_.memory.add(place, message.descriptors.front())
                                        : device_.memory.remove(place);
  if (!is_added && changed.ok()) {
    device_.executor.arm_after(leave_timer_, limits::kVhostRegionLeaveTime);
  }
  find_rings_again();
  return changed.ok() ? Answer{} : refuse(changed.error().message());
}

void Session::forget_leaving_regions() {
  device_.memory.forget_leaving();
  find_rings_again();
}

// --- Rings ---

Session::Answer Session::set_vring_number(ByteReader& in, MessageType type) {
  const auto index = in.get<std::uint32_t>();
  const auto number = in.get<std::uint32_t>();
  if (!in.ok()) return {};
  if (index >= queues_.size()) return refuse("queue " + std::to_string(index));
  Queue& queue = *queues_[index];
  if (type == MessageType::set_vring_enable) {
    queue.setup().enabled = number != 0;
    wake();
    return {};
  }
  if (!queue.is_stopped()) return refuse("a queue that runs cannot be set up");
  if (type == MessageType::set_vring_num) {
    if (number == 0 || number > limits::kVhostQueueSizeMax) {
      return refuse("a queue of " + std::to_string(number) + " descriptors");
    }
    queue.setup().size = number;
  } else {
    queue.setup().base = static_cast<std::uint16_t>(number);
  }
  return {};
}

Session::Answer Session::set_vring_addresses(ByteReader& in) {
  const auto index = in.get<std::uint32_t>();
  const auto flags = in.get<std::uint32_t>();
  const auto descriptors = in.get<std::uint64_t>();
  const auto used = in.get<std::uint64_t>();
  const auto available = in.get<std::uint64_t>();
  const auto used_log_address = in.get<std::uint64_t>();
  if (!in.ok()) return {};
  if (index >= queues_.size()) return refuse("queue " + std::to_string(index));
  Queue::Setup& setup = queues_[index]->setup();
  setup.descriptors_address = descriptors;
  setup.used_address = used;
  setup.available_address = available;
  setup.has_addresses = true;
  setup.used_log_address.reset();
  if ((flags & kVringFlagLog) != 0) setup.used_log_address = used_log_address;
  find_rings_again();
  queues_[index]->log_used_ring();
  return {};
}

Session::Answer Session::set_vring_event(Message& message) {
  ByteReader in(message.payload);
  const auto value = in.get<std::uint64_t>();
  const std::uint64_t index = value & kVringIndexMask;
  if (!in.ok() || index >= queues_.size()) return refuse("queue " + std::to_string(index));
  Descriptor event;
  const bool has_event = (value & kVringNoDescriptor) == 0;
  if (has_event) {
    if (message.descriptors.size() != 1) return refuse("a queue's event without its descriptor");
    event = std::move(message.descriptors.front());
    if (!prepare_event(event)) return refuse("a queue's event that is no eventfd");
  }
  Queue& queue = *queues_[index];
  if (message.header.type == MessageType::set_vring_call) {
    queue.set_call(std::move(event));
  } else if (message.header.type == MessageType::set_vring_err) {
    queue.set_error(std::move(event));
  } else {
    if (!has_event) return refuse("queues that are only polled");
    queue.set_kick(server_.environment_.watch_event(
        std::move(event), [](void* self) { static_cast<Session*>(self)->on_kick(); }, this));
    queue.setup().has_kick = true;
    wake();  // whoever waited for the old one may have missed its last kick
    // Without protocol features there is no message to enable a queue.
    if ((features_ & bit(kFeatureProtocolFeatures)) == 0) queue.setup().enabled = true;
  }
  return {};
}

Task<Session::Answer> Session::get_vring_base(std::uint32_t index) {
  Queue& queue = *queues_[index];
  const bool was_active = !queue.is_stopped();
  queue.stop(true);  // also one that only waits for its turn
  if (was_active) {
    co_await wait_for_queue(queue);
    queue.setup().base = queue.next_available();
  }
  Answer answer{.is_reply = true, .payload = std::vector<std::byte>(8)};
  store_little(answer.payload.data(), index);
  store_little<std::uint32_t>(answer.payload.data() + 4, queue.setup().base);
  co_return answer;
}

// --- Configuration ---

Session::Answer Session::get_config(std::span<const std::byte> payload) const {
  Answer answer{.is_reply = true};
  ByteReader in(payload);
  const auto offset_bytes = in.get<std::uint32_t>();
  const auto length_bytes = in.get<std::uint32_t>();
  if (!in.ok() || offset_bytes > kConfigBytesMax || length_bytes > kConfigBytesMax - offset_bytes) {
    return answer;  // an empty reply is how this one is refused
  }
  std::array<std::byte, kConfigBytesMax> config{};
  const auto known = encode_config(device_.block.info(), cache_is_off_);
  std::copy(known.begin(), known.end(), config.begin());
  answer.payload.resize(kConfigHeaderBytes + length_bytes);
  ByteWriter out(answer.payload);
  out.put(offset_bytes);
  out.put(length_bytes);
  out.put<std::uint32_t>(0);
  out.put_bytes(std::span(config).subspan(offset_bytes, length_bytes));
  return answer;
}

Session::Answer Session::set_config(std::span<const std::byte> payload) {
  ByteReader in(payload);
  const auto offset_bytes = in.get<std::uint32_t>();
  const auto length_bytes = in.get<std::uint32_t>();
  in.get<std::uint32_t>();
  if (!in.ok() || offset_bytes != kConfigWceAt || length_bytes != 1 || in.remaining() < 1) {
    return refuse("only the write cache's switch can be set in the configuration space");
  }
  cache_is_off_ = in.get<std::uint8_t>() == 0;
  if (inflight_ != nullptr) inflight_->set_write_through(cache_is_off_);
  choose_write_through();
  return {};
}

// --- The log of written pages ---

Session::Answer Session::set_log_base(ByteReader& in, const Message& message) {
  DirtyLog::Place place;
  place.size_bytes = in.get<std::uint64_t>();
  place.offset_bytes = in.get<std::uint64_t>();
  if (!in.ok()) return {};
  if ((protocol_features_ & bit(kProtocolLogMemory)) == 0) {
    return refuse("a log of written pages that is not shared memory");
  }
  Answer answer;
  if (message.descriptors.size() != 1) {
    answer = refuse("a log of written pages without its one file");
  } else {
    const auto adopted =
        device_.log.adopt(message.descriptors.front(), place, device_.memory.guest_end());
    if (!adopted.ok()) answer = refuse(adopted.error().message());
  }
  // It has a reply of its own, which says what an acknowledgement does.
  return {.is_reply = true, .payload = encode_u64(answer.refused ? 1 : 0)};
}

Session::Answer Session::set_log_event(Message& message) {
  if (message.descriptors.size() != 1) return refuse("a log's event without its descriptor");
  Descriptor event = std::move(message.descriptors.front());
  if (!prepare_event(event)) return refuse("a log's event that is no eventfd");
  log_event_ = std::move(event);
  return {};
}

// --- In-flight memory ---

namespace {

InflightShape get_shape(ByteReader& in) {
  InflightShape shape;
  shape.memory_bytes = in.get<std::uint64_t>();
  shape.offset_bytes = in.get<std::uint64_t>();
  shape.queue_count = in.get<std::uint16_t>();
  shape.queue_size = in.get<std::uint16_t>();
  return shape;
}

}  // namespace

Session::Answer Session::get_inflight(ByteReader& in) {
  const InflightShape asked = get_shape(in);
  Answer answer{.is_reply = true, .payload = std::vector<std::byte>(kInflightBytes)};
  if (!in.ok()) return answer;
  auto created = InflightMemory::create(asked.queue_count, asked.queue_size);
  if (!created.ok()) {
    refuse(created.error().message());
    return answer;  // of no bytes: the front-end does without
  }
  // Not ours yet: the front-end hands it back before it starts queues.
  created->memory->set_write_through(cache_is_off_);
  const InflightShape& shape = created->memory->shape();
  ByteWriter out(answer.payload);
  out.put(shape.memory_bytes);
  out.put(shape.offset_bytes);
  out.put(shape.queue_count);
  out.put(shape.queue_size);
  answer.descriptor = std::move(created->descriptor);
  return answer;
}

Session::Answer Session::set_inflight(ByteReader& in, Message& message) {
  const InflightShape shape = get_shape(in);
  if (!in.ok()) return {};
  if (message.descriptors.size() != 1) return refuse("in-flight memory without its one file");
  if (is_any_queue_active()) return refuse("in-flight memory while queues run");
  auto adopted = InflightMemory::adopt(message.descriptors.front(), shape);
  if (!adopted.ok()) return refuse(adopted.error().message());
  inflight_ = std::move(adopted).value();
  // A virtual machine that reconnects does not repeat what its guest chose.
  if (inflight_->write_through()) cache_is_off_ = true;
  choose_write_through();
  return {};
}

}  // namespace holdfast::vhost
