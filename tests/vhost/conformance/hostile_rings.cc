// SPDX-License-Identifier: Apache-2.0
//
// A guest that breaks the rules of its rings.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "vhost/conformance/hostile.h"

namespace holdfast::vhost_frontend {
namespace {

constexpr std::uint16_t kNext = kDescriptorNext;
constexpr std::uint16_t kWrite = kDescriptorWrite;
constexpr std::uint16_t kIndirect = kDescriptorIndirect;
constexpr std::uint16_t kQueueSize = 128;

class HostileRings : public HostileTest {
 protected:
  void SetUp() override { reopen(); }

  void reopen() {
    open();
    if (HasFatalFailure()) return;
    head_ = header(VIRTIO_BLK_T_IN, 0).guest_address;
    data_ = client().filled(65536).guest_address;
    status_ = client().filled(1).guest_address;
  }
  // Each attack gets a session of its own, for the first may end it.
  void attack(std::initializer_list<Descriptor> descriptors, std::uint16_t head = 0) {
    reopen();
    if (!HasFatalFailure()) make_available(descriptors, head);
  }

  std::uint64_t head_ = 0;
  std::uint64_t data_ = 0;
  std::uint64_t status_ = 0;
};

TEST_F(HostileRings, LoopsEnd) {
  attack({{head_, 16, kNext, 0}});
  attack({{head_, 16, kNext, 1}, {data_, 512, kNext | kWrite, 0}});
  attack({{head_, 16, kNext, 1}, {data_, 512, kNext | kWrite, 1}});
  attack({{head_, 0, kNext, 1}, {head_, 0, kNext, 0}});
}

TEST_F(HostileRings, IndexesOutOfRangeAreRefused) {
  for (const std::uint16_t next : {kQueueSize, std::uint16_t{0x7fff}, std::uint16_t{0xffff}}) {
    attack({{head_, 16, kNext, next}});
    attack({{head_, 16, kNext, 1}, {status_, 1, kWrite, 0}}, next);
  }
}

TEST_F(HostileRings, WildAddressesAreRefused) {
  const MemoryRegion region = client().memory().regions()[0].description;
  const std::uint64_t end = region.guest_address + region.bytes;
  for (const std::uint64_t address :
       {std::uint64_t{0}, region.guest_address - 1, end - 1, end, region.user_address,
        std::uint64_t{1} << 63U, ~std::uint64_t{0}, ~std::uint64_t{0} - 8}) {
    attack({{address, 16, kNext, 1}, {status_, 1, kWrite, 0}});
    attack({{head_, 16, kNext, 1}, {address, 512, kNext | kWrite, 2}, {status_, 1, kWrite, 0}});
    attack({{head_, 16, kNext, 1}, {data_, 512, kNext | kWrite, 2}, {address, 2, kWrite, 0}});
    attack({{address, 64, kIndirect, 0}});
  }
}

TEST_F(HostileRings, WildLengthsAreRefused) {
  for (const std::uint32_t bytes : {0xffff'ffffU, 0x8000'0000U, 0x7fff'fe00U, 9U << 20U}) {
    attack({{head_, bytes, kNext, 1}, {status_, 1, kWrite, 0}});
    attack({{head_, 16, kNext, 1}, {data_, bytes, kNext | kWrite, 2}, {status_, 1, kWrite, 0}});
    attack({{head_, 16, kNext, 1}, {data_, 512, kNext | kWrite, 2}, {status_, bytes, kWrite, 0}});
  }
}

TEST_F(HostileRings, ChainsWithoutHeaderOrStatusAreRefused) {
  attack({{0, 0, 0, 0}});
  attack({{head_, 0, kNext, 1}, {status_, 1, kWrite, 0}});
  attack({{head_, 15, kNext, 1}, {status_, 1, kWrite, 0}});
  attack({{head_, 16, 0, 0}});
  attack({{head_, 16, kNext, 1}, {status_, 0, kWrite, 0}});
  attack({{head_, 16, kNext, 1}, {data_, 512, 0, 0}});
  attack({{status_, 1, kWrite, 0}});
  attack({{data_, 4096, kWrite, 0}});
  attack({{data_, 512, kNext | kWrite, 1}, {head_, 16, kNext, 2}, {status_, 1, kWrite, 0}});
  attack({{head_, 16, kNext, 1}, {status_, 1, kNext | kWrite, 2}, {data_, 512, 0, 0}});
}

TEST_F(HostileRings, AWriteWithDataOfTheWrongDirectionTouchesNothing) {
  ASSERT_EQ(run(VIRTIO_BLK_T_OUT, 0, {client().filled(4096, 0x21)}), VIRTIO_BLK_S_OK);
  const std::uint64_t write = header(VIRTIO_BLK_T_OUT, 0).guest_address;
  make_available({{write, 16, kNext, 1}, {data_, 512, kNext | kWrite, 2}, {status_, 1, kWrite, 0}});
  reopen();
  make_available({{head_, 16, kNext, 1}, {data_, 512, kNext, 2}, {status_, 1, kWrite, 0}});
  reopen();
  const Segment read = client().filled(4096);
  ASSERT_EQ(run(VIRTIO_BLK_T_IN, 0, {read}), VIRTIO_BLK_S_OK);
  for (const std::byte byte : client().bytes(read)) ASSERT_EQ(byte, std::byte{0x21});
}

TEST_F(HostileRings, IndirectTablesThatMakeNoSenseAreRefused) {
  const auto attack_with_table = [this](std::uint32_t bytes, std::uint16_t flags,
                                        std::vector<Descriptor> table) {
    reopen();
    if (HasFatalFailure()) return;
    const Segment memory = client().filled(65536 * 16 + 64);
    for (Descriptor& entry : table) {
      if (entry.guest_address == 1) entry.guest_address = memory.guest_address;  // itself
      if (entry.guest_address == 2) entry.guest_address = head_;
      if (entry.guest_address == 3) entry.guest_address = status_;
    }
    std::memcpy(client().bytes(memory).data(), table.data(), table.size() * sizeof(Descriptor));
    make_available({{memory.guest_address, bytes, flags, 1}, {status_, 1, kWrite, 0}});
  };
  attack_with_table(0, kIndirect, {});
  attack_with_table(8, kIndirect, {});
  attack_with_table(17, kIndirect, {{2, 16, kNext, 1}});
  attack_with_table(32, kIndirect, {{2, 16, kNext, 2}, {3, 1, kWrite, 0}});
  attack_with_table(32, kIndirect, {{2, 16, kNext, 1}, {1, 32, kIndirect, 0}});
  attack_with_table(16, kIndirect, {{1, 16, kIndirect, 0}});
  attack_with_table(32, kIndirect, {{2, 16, kNext, 0}});
  attack_with_table(32, kIndirect | kNext, {{2, 16, kNext, 1}, {3, 1, kWrite, 0}});
  attack_with_table(32, kIndirect | kWrite, {{2, 16, kNext, 1}, {3, 1, kWrite, 0}});
  std::vector<Descriptor> longest(65535);
  for (std::size_t index = 0; index < longest.size(); ++index) {
    longest[index] = {2, 16, kNext, static_cast<std::uint16_t>(index + 1)};
  }
  attack_with_table(65535 * 16, kIndirect, longest);
  attack_with_table(1025 * 16, kIndirect, longest);
}

TEST_F(HostileRings, IndirectDescriptorsThatWereNotNegotiatedAreRefused) {
  DeviceOptions options = Client::default_options();
  options.features &= ~bit(kFeatureIndirect);
  open(options);
  const Segment table = client().filled(64);
  const Descriptor entries[] = {{header(VIRTIO_BLK_T_IN, 0).guest_address, 16, kNext, 1},
                                {client().filled(1).guest_address, 1, kWrite, 0}};
  std::memcpy(client().bytes(table).data(), entries, sizeof entries);
  make_available({{table.guest_address, 32, kIndirect, 0}});
}

TEST_F(HostileRings, AnAvailableIndexThatJumpsIsRefused) {
  for (const int jump : {129, 1000, 30'000, 0xffff}) {
    reopen();
    queue().descriptors()[0] = {head_, 16, kNext, 1};
    queue().descriptors()[1] = {status_, 1, kWrite, 0};
    queue().set_available_index(static_cast<std::uint16_t>(queue().available_index() + jump));
    queue().kick();
    wait_until_seen();
  }
}

TEST_F(HostileRings, TheSameHeadTwiceInFlightIsRefused) {
  const Segment data = client().filled(1 << 20);
  for (const std::uint16_t count : {std::uint16_t{2}, std::uint16_t{64}, kQueueSize}) {
    reopen();
    queue().descriptors()[0] = {header(VIRTIO_BLK_T_IN, 0).guest_address, 16, kNext, 1};
    queue().descriptors()[1] = {data.guest_address, 1 << 20, kNext | kWrite, 2};
    queue().descriptors()[2] = {status_, 1, kWrite, 0};
    for (std::uint16_t index = 0; index < count; ++index) queue().set_available_entry(index, 0);
    queue().set_available_index(count);
    queue().kick();
    wait_until_seen();
  }
}

TEST_F(HostileRings, AllHeadsOfOneChainAreRefusedOrServed) {
  for (std::uint16_t index = 0; index < kQueueSize; ++index) {
    queue().descriptors()[index] = {head_, 16, kNext, static_cast<std::uint16_t>(index + 1)};
    queue().set_available_entry(index, index);
  }
  queue().descriptors()[kQueueSize - 1] = {status_, 1, kWrite, 0};
  queue().set_available_index(kQueueSize);
  queue().kick();
  wait_until_seen();
}

TEST_F(HostileRings, MemoryThatIsCutOffUnderBuffersHurtsNobodyElse) {
  for (const std::uint32_t type : {VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT}) {
    open(Client::default_options(), {8 << 20, 8 << 20});
    const Segment data = {client().memory().allocate_in(1, 1 << 20, 4096), 1 << 20};
    // The rings and headers went to the other region, which the queue found as empty.
    const Segment request = {client().memory().allocate_in(0, 16), 16};
    const Segment status = {client().memory().allocate_in(0, 1), 1};
    const virtio_blk_outhdr made = {type, 0, 0};
    std::memcpy(client().bytes(request).data(), &made, sizeof made);
    const std::uint16_t direction = type == VIRTIO_BLK_T_IN ? kWrite : 0;
    ASSERT_DONE(client().memory().truncate(
        1, data.guest_address - client().memory().regions()[1].description.guest_address));
    if (queue().descriptors_address() > client().memory().regions()[1].description.guest_address) {
      continue;  // the rings are gone as well; the next test does that
    }
    make_available({{request.guest_address, 16, kNext, 1},
                    {data.guest_address, 1 << 20, static_cast<std::uint16_t>(kNext | direction), 2},
                    {status.guest_address, 1, kWrite, 0}});
    expect_served();
    open();
  }
}

TEST_F(HostileRings, MemoryThatIsCutOffUnderRingsHurtsNobodyElse) {
  for (std::size_t region = 0; region < 3; ++region) {
    reopen();
    ASSERT_EQ(client().check_works(), "");
    // One region alone loses its memory; our own rings in it are not touched any more.
    ASSERT_DONE(client().memory().truncate(region, 0));
    queue().kick();
    wait_until_seen();
    queue().kick();
    wait_until_seen();
    expect_served();
    open();
  }
}

TEST_F(HostileRings, MemoryThatIsCutOffUnderLoadHurtsNobodyElse) {
  for (int round = 0; round < 10; ++round) {
    open(Client::default_options(), {32 << 20});
    const Segment data = client().filled(1 << 20);
    for (std::uint64_t index = 0; index < 20; ++index) {
      ASSERT_DONE(queue().submit({.type = index % 2 == 0 ? std::uint32_t{VIRTIO_BLK_T_IN}
                                                         : std::uint32_t{VIRTIO_BLK_T_OUT},
                                  .sector = index * 2048,
                                  .data = {&data, 1},
                                  .tag = index}));
    }
    queue().publish();
    std::this_thread::sleep_for(std::chrono::microseconds(round * 200));
    ASSERT_DONE(client().memory().truncate(0, 0));
    queue().kick();
    wait_until_seen();
  }
}

TEST_F(HostileRings, MemoryRewrittenDuringParsingHurtsNobodyElse) {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    reopen();
    if (HasFatalFailure()) return;
    std::atomic<bool> ended = false;
    std::thread writer([this, &ended, seed] {
      Random random(seed);
      Descriptor* descriptors = queue().descriptors();
      while (!ended.load(std::memory_order_relaxed)) {
        volatile Descriptor& target = descriptors[random.below(4)];
        switch (random.below(8)) {
          case 0:
            target.guest_address = random.next();
            break;
          case 1:
            target.guest_address = data_;
            break;
          case 2:
            target.guest_address = head_;
            break;
          case 3:
            target.bytes = static_cast<std::uint32_t>(random.next());
            break;
          case 4:
            target.bytes = static_cast<std::uint32_t>(random.below(4096));
            break;
          case 5:
            target.flags = static_cast<std::uint16_t>(random.below(8));
            break;
          case 6:
            target.next = static_cast<std::uint16_t>(random.below(5));
            break;
          default:
            target.next = static_cast<std::uint16_t>(random.next());
            break;
        }
      }
    });
    for (int kick = 0; kick < 300; ++kick) {
      queue().descriptors()[0] = {head_, 16, kNext, 1};
      queue().descriptors()[1] = {data_, 4096, kNext | kWrite, 2};
      queue().descriptors()[2] = {status_, 1, kWrite, 0};
      const std::uint16_t index = queue().available_index();
      queue().set_available_entry(index, 0);
      queue().set_available_index(static_cast<std::uint16_t>(index + 1));
      queue().kick();
      if (kick % 16 == 0 && !device().connection().call_number(kGetFeatures).ok()) break;
    }
    ended = true;
    writer.join();
  }
}

TEST_F(HostileRings, RandomRingsHurtNobodyElse) {
  Random random(7);
  for (int round = 0; round < 100; ++round) {
    reopen();
    if (HasFatalFailure()) return;
    for (std::uint16_t index = 0; index < kQueueSize; ++index) {
      const std::uint64_t places[] = {head_, data_, status_, random.next(), queue().used_address()};
      queue().descriptors()[index] = {
          places[random.below(5)],
          static_cast<std::uint32_t>(random.percent(80) ? random.below(1024) : random.next()),
          static_cast<std::uint16_t>(random.below(8)),
          static_cast<std::uint16_t>(random.below(kQueueSize + 1))};
      queue().set_available_entry(index, static_cast<std::uint16_t>(random.below(kQueueSize + 1)));
    }
    queue().set_available_index(static_cast<std::uint16_t>(random.below(kQueueSize + 1)));
    queue().kick();
    wait_until_seen();
  }
}

TEST_F(HostileRings, AStormOfKicksHurtsNobodyElse) {
  for (int kick = 0; kick < 20'000; ++kick) queue().kick();
  EXPECT_EQ(client().check_works(), "");
}

}  // namespace
}  // namespace holdfast::vhost_frontend
