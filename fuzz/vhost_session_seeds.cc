// SPDX-License-Identifier: Apache-2.0
//
// Writes the seeds of vhost_session_fuzz into a directory: small sessions that reach every
// operation.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/vhost_session_input.h"
#include "serve/vhost/protocol.h"
#include "serve/vhost/virtio.h"

namespace holdfast {
namespace {

using Input = VhostSessionInput;
using Operation = Input::Operation;
using vhost::BlkType;
using vhost::MessageType;

class Seed {
 public:
  Seed(int flags, int queue_size_scale, int more_queues) {
    put(flags);
    put(queue_size_scale | more_queues << 4);
  }
  Seed& operation(Operation operation, std::initializer_list<int> arguments = {}) {
    put(static_cast<int>(operation));
    for (const int argument : arguments) put(argument);
    return *this;
  }
  Seed& submit(int queue, BlkType type, int sector, std::initializer_list<int> lengths) {
    operation(Operation::submit, {queue, static_cast<int>(type), sector & 255, sector >> 8,
                                  static_cast<int>(lengths.size())});
    int offset = 0;
    for (const int length : lengths) {
      put(offset & 255);
      put(offset >> 8);
      put(length);
      offset += length * 64;
    }
    return *this;
  }
  Seed& publish(int queue) { return operation(Operation::publish, {queue}); }
  Seed& message(MessageType type, std::initializer_list<int> payload, int kinds = 0) {
    operation(Operation::message, {static_cast<int>(type), vhost::kMessageNeedReply,
                                   static_cast<int>(payload.size()), kinds});
    for (const int value : payload) put(value);
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void put(int value) { bytes_.push_back(static_cast<char>(value)); }
  std::string bytes_;
};

Seed requests(int flags) {
  Seed seed(flags, 6, 1);
  seed.operation(Operation::set_up);
  for (const BlkType type : {BlkType::out, BlkType::in, BlkType::flush, BlkType::get_id,
                             BlkType::discard, BlkType::write_zeroes}) {
    seed.submit(0, type, 8, {16, 48}).submit(1, type, 1, {8});
    seed.publish(0).publish(1);
    seed.operation(Operation::take_used, {0});
  }
  seed.submit(0, BlkType::out, 0xFFFF, {8}).publish(0);
  seed.operation(Operation::advance, {11});
  seed.submit(0, BlkType::in, 0, {8}).publish(0);
  seed.operation(Operation::stop_queue, {0});
  seed.operation(Operation::enable_queue, {1, 0}).submit(1, BlkType::in, 0, {8}).publish(1);
  seed.operation(Operation::enable_queue, {1, 1});
  return seed;
}

Seed deaths(int flags) {
  Seed seed(flags | Input::kInflight | Input::kHeldDevice, 5, 0);
  seed.operation(Operation::set_up);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 5; ++i) seed.submit(0, i % 2 == 0 ? BlkType::out : BlkType::in, i, {8});
    seed.publish(0);
    seed.operation(Operation::complete, {3, 0}).operation(Operation::complete, {0, 0});
    seed.operation(Operation::take_used, {0});
    seed.operation(Operation::restart);
  }
  seed.operation(Operation::hold, {0}).operation(Operation::take_used, {0});
  return seed;
}

Seed hostile_chains() {
  Seed seed(Input::kEventIndex, 3, 0);
  seed.operation(Operation::set_up);
  // A loop; then, after a reset, one outside of the memory; then an indirect one.
  seed.operation(Operation::descriptor, {0, 0, 1, 0, 0, 16, 0, 1, 0});
  seed.operation(Operation::available, {0, 0, 0}).publish(0);
  seed.operation(Operation::stop_queue, {0}).operation(Operation::set_up);
  seed.operation(Operation::descriptor, {0, 1, 4, 9, 0, 16, 0, 0, 0});
  seed.operation(Operation::available_index, {0, 1, 0});
  seed.operation(Operation::stop_queue, {0}).operation(Operation::set_up);
  seed.operation(Operation::descriptor, {0, 2, 0, 0, 0, 32, 0, 4, 0});
  seed.operation(Operation::available, {0, 2, 0}).operation(Operation::kick, {0});
  seed.operation(Operation::hang_up).operation(Operation::set_up);
  seed.operation(Operation::available, {0, 200, 200}).operation(Operation::used_event, {0, 5, 0});
  seed.operation(Operation::available_index, {0, 255, 255});
  return seed;
}

Seed every_message() {
  Seed seed(Input::kEventIndex, 4, 0);
  for (int type = 0; type < 42; ++type) {
    const auto message = static_cast<MessageType>(type);
    seed.message(message, {0, 0, 0, 0, 1, 0, 0, 0});
    seed.message(message, {}).message(message, {1, 2, 3}, 0x11);
  }
  seed.operation(Operation::hang_up).operation(Operation::raw_bytes, {3, 1, 2, 3});
  seed.operation(Operation::hang_up)
      .operation(Operation::raw_bytes, {12, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0});
  return seed;
}

Seed lost_memory(bool is_inflight) {
  Seed seed(Input::kEventIndex | Input::kHeldDevice, 4, 0);
  if (is_inflight) seed.operation(Operation::truncate, {1, 0, 0});
  seed.operation(Operation::set_up).submit(0, BlkType::in, 0, {64}).publish(0);
  if (!is_inflight) seed.operation(Operation::truncate, {0, 8, 0});
  seed.operation(Operation::hold, {0}).operation(Operation::kick, {0});
  seed.operation(Operation::hang_up);
  return seed;
}

// A migration: reads that are marked, some of them given up; a restart of queues, another log, one
// that is too small, one that is lost.
Seed migration() {
  Seed seed(Input::kEventIndex | Input::kInflight, 4, 0);
  seed.operation(Operation::set_up).submit(0, BlkType::in, 0, {8, 64}).publish(0);
  seed.operation(Operation::log, {0, 64, 0}).operation(Operation::log, {1, 0, 0});
  seed.submit(0, BlkType::in, 0, {8, 64}).publish(0).operation(Operation::take_used, {0});
  seed.operation(Operation::hold, {1}).operation(Operation::holding, {1});
  seed.submit(0, BlkType::in, 2, {8}).submit(0, BlkType::out, 4, {8}).publish(0);
  seed.operation(Operation::complete, {1, 0}).operation(Operation::stop_queue, {0});
  seed.operation(Operation::holding, {0}).operation(Operation::hold, {0});
  seed.operation(Operation::hang_up).operation(Operation::log, {1, 0, 0});
  seed.operation(Operation::set_up).operation(Operation::log, {0, 64, 0});
  seed.operation(Operation::log, {0, 4, 0}).submit(0, BlkType::in, 0, {8}).publish(0);
  seed.operation(Operation::log, {3, 0, 0}).submit(0, BlkType::in, 0, {8}).publish(0);
  seed.operation(Operation::stop_queue, {0}).operation(Operation::log, {0, 64, 0});
  seed.operation(Operation::set_up).operation(Operation::log, {2, 0, 0});
  return seed;
}

Seed two_sessions() {
  Seed seed(Input::kHeldDevice | Input::kInflight, 4, 2);
  seed.operation(Operation::set_up).submit(2, BlkType::out, 1, {8}).publish(2);
  seed.operation(Operation::second_session);
  seed.message(MessageType::set_backend_request_fd, {}, 0x41);
  seed.operation(Operation::write_inflight, {12, 0, 2, 1, 0});
  seed.operation(Operation::write_memory, {0, 0, 0, 0, 4, 1, 2, 3, 4});
  seed.operation(Operation::complete, {0, 0}).operation(Operation::resize, {100});
  seed.message(MessageType::reset_device, {}).operation(Operation::hang_up);
  return seed;
}

}  // namespace
}  // namespace holdfast

int main(int count, char** values) {
  using holdfast::Input;
  if (count != 2) {
    std::fprintf(stderr, "usage: vhost_session_seeds DIRECTORY\n");
    return 2;
  }
  const std::vector<std::pair<const char*, holdfast::Seed>> seeds = {
      {"requests", holdfast::requests(0)},
      {"requests_event_index", holdfast::requests(Input::kEventIndex | Input::kPieces)},
      {"requests_indirect", holdfast::requests(Input::kEventIndex | Input::kIndirect)},
      {"requests_read_only", holdfast::requests(Input::kReadOnly)},
      {"requests_tracked", holdfast::requests(Input::kInflight)},
      {"requests_held", holdfast::requests(Input::kHeldDevice)},
      {"deaths", holdfast::deaths(0)},
      {"deaths_event_index", holdfast::deaths(Input::kEventIndex | Input::kIndirect)},
      {"hostile_chains", holdfast::hostile_chains()},
      {"every_message", holdfast::every_message()},
      {"memory_lost", holdfast::lost_memory(false)},
      {"inflight_lost", holdfast::lost_memory(true)},
      {"migration", holdfast::migration()},
      {"two_sessions", holdfast::two_sessions()},
  };
  for (const auto& [name, seed] : seeds) {
    std::ofstream file(std::string(values[1]) + "/" + name, std::ios::binary);
    file << seed.bytes();
    file.close();
    if (!file) {
      std::fprintf(stderr, "cannot write into %s\n", values[1]);
      return 1;
    }
  }
  return 0;
}
