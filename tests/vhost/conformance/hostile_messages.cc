// SPDX-License-Identifier: Apache-2.0
//
// A peer that breaks the rules of the protocol: of each message, of the descriptors that come with
// it, and of the order.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <thread>

#include "vhost/conformance/hostile.h"

namespace holdfast::vhost_frontend {
namespace {

constexpr std::uint32_t kAllRequests = 48;

Fd memory_file(std::uint64_t bytes) {
  Fd fd(memfd_create("hostile", MFD_CLOEXEC));
  if (ftruncate(fd.number(), static_cast<off_t>(bytes)) != 0) fd.reset();
  return fd;
}

class HostileMessages : public HostileTest {
 protected:
  void SetUp() override { open(); }

  VhostConnection& link() { return device().connection(); }

  // Sends, then asks for something that a session which goes on will answer. Either is right: an
  // answer, or the end of the session; but not silence.
  void send(std::uint32_t request, std::span<const std::byte> payload = {},
            std::span<const int> fds = {}) {
    if (!link().send(request, payload, fds).ok()) return;
    expect_answer_or_end();
  }
  void send_state(std::uint32_t request, std::uint32_t index, std::uint32_t number) {
    const VringState state = {index, number};
    send(request, bytes_of(state));
  }
  void expect_answer_or_end() {
    if (!link().send(kGetFeatures).ok()) return;
    while (true) {
      const Result<Message> reply = link().receive();
      if (!reply.ok()) {
        EXPECT_NE(reply.error().code(), ErrorCode::busy) << "the server neither answers nor closes";
        return;
      }
      if (reply.value().request == kGetFeatures) return;
    }
  }

  // A connection that has not said anything yet.
  std::unique_ptr<VhostConnection> connect() {
    client_.reset();
    auto made = VhostConnection::connect(setting("VHOST_SOCKET"), Milliseconds(10'000));
    EXPECT_TRUE(made.ok()) << made.error().message();
    return std::make_unique<VhostConnection>(std::move(made).value());
  }
};

TEST_F(HostileMessages, LengthsThatLieEndTheSessionAtMost) {
  for (std::uint32_t request = 0; request < kAllRequests; ++request) {
    for (const std::uint32_t bytes : {0U, 1U, 7U, 9U, 39U, 41U, 4096U}) {
      const auto connection = connect();
      const std::vector<std::byte> payload(bytes, std::byte{0x41});
      (void)connection->send(request, payload);
      // A header that announces more than follows, and the end.
      const MessageHeader header = {request, kProtocolVersion, bytes + 8};
      (void)connection->send_bytes(bytes_of(header));
      (void)connection->send_bytes(payload);
    }
  }
}

TEST_F(HostileMessages, LogsOfWrittenPagesThatCannotBeUsed) {
  struct Log {
    std::uint64_t size_bytes;
    std::uint64_t offset_bytes;
  };
  const Fd memory = memory_file(4096);
  const Fd event(eventfd(0, EFD_CLOEXEC));
  const std::vector<std::vector<int>> file_lists = {
      {}, {memory.number()}, {event.number()}, {memory.number(), memory.number()}};
  for (const bool is_shared : {false, true}) {
    DeviceOptions options = Client::default_options();
    if (is_shared) options.protocol_features |= bit(kProtocolLogMemory);
    for (const Log log : {Log{0, 0}, Log{1, 0}, Log{4097, 0}, Log{4096, 1}, Log{4096, ~0ULL},
                          Log{~0ULL, 0}, Log{~0ULL, ~0ULL}, Log{1ULL << 40, 0}}) {
      for (const std::vector<int>& files : file_lists) {
        client_.reset();
        open(options);
        send(kSetLogBase, bytes_of(log), files);
        send(kSetLogFd, {}, files);
      }
    }
  }
}

TEST_F(HostileMessages, AHugeLengthIsNotWaitedFor) {
  for (const std::uint32_t bytes : {0xffff'ffffU, 0x8000'0000U, 0x10'0000U, 0x1'0000U}) {
    const auto connection = connect();
    const MessageHeader header = {kSetFeatures, kProtocolVersion, bytes};
    ASSERT_DONE(connection->send_bytes(bytes_of(header)));
    EXPECT_TRUE(connection->wait_closed(Milliseconds(10'000))) << bytes;
  }
}

TEST_F(HostileMessages, RandomBytesEndTheSessionAtMost) {
  Random random(11);
  for (int round = 0; round < 200; ++round) {
    const auto connection = connect();
    std::vector<std::byte> bytes(random.below(200));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next());
    if (round % 2 == 0 && bytes.size() >= sizeof(MessageHeader)) {
      const MessageHeader header = {static_cast<std::uint32_t>(random.below(kAllRequests)),
                                    kProtocolVersion,
                                    static_cast<std::uint32_t>(bytes.size() - sizeof header)};
      std::memcpy(bytes.data(), &header, sizeof header);
    }
    (void)connection->send_bytes(bytes);
  }
}

TEST_F(HostileMessages, APeerThatVanishesAtAnyMessageMakesRoomForTheNext) {
  for (const bool inside : {false, true}) {
    for (std::uint64_t messages = 0; messages < 40; ++messages) {
      client_.reset();
      DeviceOptions options = Client::default_options();
      options.vanish_after_messages = messages;
      options.vanish_inside_message = inside;
      options.timeout = Milliseconds(inside ? 20 : 10'000);  // half a message has no answer
      Client vanishing(options);
      if (vanishing.open().ok() && !inside) {
        ASSERT_GT(messages, 15U) << "the handshake is shorter than that";
        break;
      }
    }
  }
}

TEST_F(HostileMessages, EachMessageWithoutItsDescriptorIsRefused) {
  const std::uint64_t zero = 0;
  for (const std::uint32_t request : {kSetVringKick, kSetVringCall, kSetVringError, kSetInflightFd,
                                      kSetMemoryTable, kAddMemoryRegion, kSetBackendRequestFd}) {
    open();
    send(request, bytes_of(zero));
    open();
    const SingleRegion region = {0, client().memory().regions()[0].description};
    send(request, bytes_of(region));
    open();
    MemoryTable table = {};
    table.region_count = 1;
    table.regions[0] = client().memory().regions()[0].description;
    send(request, bytes_of(table).first(40));
  }
}

TEST_F(HostileMessages, DescriptorsThatNobodyAskedForAreNotKept) {
  const Fd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  for (int round = 0; round < 100; ++round) {
    open();
    const std::vector<int> many(static_cast<std::size_t>(round % 2 == 0 ? 64 : 9), file.number());
    const std::uint64_t zero = 0;
    send(kSetVringKick, bytes_of(zero), many);
    open();
    send(kGetFeatures, {}, many);
    open();
    send(kSetFeatures, bytes_of(zero), many);
  }
}

TEST_F(HostileMessages, DescriptorsOfTheWrongKindHurtNobodyElse) {
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const Fd fds[] = {Fd(pipe_ends[0]),
                    Fd(pipe_ends[1]),
                    Fd(pair[0]),
                    Fd(pair[1]),
                    Fd(::open("/dev/null", O_RDWR | O_CLOEXEC)),
                    Fd(::open("/dev/zero", O_RDWR | O_CLOEXEC)),
                    Fd(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)),
                    Fd(::open("/dev/null", O_PATH | O_CLOEXEC)),
                    memory_file(0),
                    memory_file(4096)};
  for (const Fd& wrong : fds) {
    const int fd = wrong.number();
    for (const std::uint32_t request : {kSetVringKick, kSetVringCall, kSetVringError}) {
      open();
      ASSERT_EQ(client().check_works(), "");
      const std::uint64_t zero = 0;
      send(request, bytes_of(zero), {&fd, 1});
      // With what it has now it may do anything to this client, but not stand still.
      (void)queue().submit({.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = 1});
      queue().publish();
      expect_answer_or_end();
    }
    open();
    send(kSetBackendRequestFd, {}, {&fd, 1});
    open();
    const SingleRegion region = {0, {1ULL << 40U, 1 << 20, 1ULL << 41U, 0}};
    send(kAddMemoryRegion, bytes_of(region), {&fd, 1});
    open();
    MemoryTable table = {};
    table.region_count = 1;
    table.regions[0] = region.region;
    send(kSetMemoryTable, bytes_of(table).first(40), {&fd, 1});
    open();
    const InflightDescription inflight = {4096, 0, 1, 128, 0};
    send(kSetInflightFd, bytes_of(inflight), {&fd, 1});
  }
}

TEST_F(HostileMessages, ACallDescriptorThatBlocksHoldsUpNobody) {
  const Fd full(eventfd(0, EFD_CLOEXEC));
  const std::uint64_t most = ~std::uint64_t{0} - 1;
  ASSERT_EQ(write(full.number(), &most, sizeof most), static_cast<ssize_t>(sizeof most));
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK), 0);
  const Fd reader(pipe_ends[0]);
  const Fd writer(pipe_ends[1]);
  const std::vector<char> junk(65536);
  while (write(writer.number(), junk.data(), junk.size()) > 0) {
  }
  fcntl(writer.number(), F_SETFL, 0);
  for (const Fd* blocking : {&full, &writer}) {
    open();
    const int fd = blocking->number();
    const std::uint64_t zero = 0;
    ASSERT_DONE(link().send(kSetVringCall, bytes_of(zero), {&fd, 1}));
    expect_answer_or_end();
    fcntl(fd, F_SETFL, 0);  // the server may have made it non-blocking, and that is shared
    for (std::uint64_t tag = 0; tag < 10; ++tag) {
      ASSERT_DONE(
          queue().submit({.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = tag}));
      queue().publish();
      expect_answer_or_end();
    }
  }
}

TEST_F(HostileMessages, AKickDescriptorThatSomebodyElseReadsHoldsUpNobody) {
  const Fd stolen(eventfd(0, EFD_CLOEXEC));  // blocking
  const int fd = stolen.number();
  const std::uint64_t zero = 0;
  ASSERT_DONE(link().send(kSetVringKick, bytes_of(zero), {&fd, 1}));
  for (int round = 0; round < 2000; ++round) {
    std::uint64_t count = 1;
    ASSERT_EQ(write(fd, &count, sizeof count), static_cast<ssize_t>(sizeof count));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    (void)!read(fd, &count, sizeof count);
    fcntl(fd, F_SETFL, 0);
  }
  expect_answer_or_end();
}

TEST_F(HostileMessages, QueueSettingsOutOfRangeHurtNobodyElse) {
  for (const std::uint32_t number : {0U, 1U, 3U, 127U, 32769U, 65536U, 0xffff'ffffU}) {
    open();
    send_state(kSetVringNum, 0, number);  // of a queue that runs
    queue().kick();
    wait_until_seen();
    open();
    ASSERT_DONE(device().stop_queue(0));
    send_state(kSetVringNum, 0, number);
    const std::uint64_t zero = 0;
    const int fd = queue().kick_fd();
    (void)link().send(kSetVringKick, bytes_of(zero), {&fd, 1});
    (void)device().enable_queue(0, true);
    (void)queue().submit({.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = 1});
    queue().publish();
    wait_until_seen();
  }
  for (const std::uint32_t number : {65536U, 0xffff'ffffU, 40000U}) {
    open();
    send_state(kSetVringBase, 0, number);
    (void)queue().submit({.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = 1});
    queue().publish();
    wait_until_seen();
  }
  for (const std::uint32_t index : {64U, 255U, 256U, 1U << 20U, 0xffff'ffffU}) {
    for (const std::uint32_t request :
         {kSetVringNum, kSetVringBase, kGetVringBase, kSetVringEnable}) {
      open();
      send_state(request, index, 1);
    }
    open();
    const std::uint64_t number = index;
    const int fd = queue().kick_fd();
    send(kSetVringKick, bytes_of(number), {&fd, 1});
    open();
    const VringAddress address = {index, 0, 0, 0, 0, 0};
    send(kSetVringAddress, bytes_of(address));
  }
}

TEST_F(HostileMessages, RingsThatAreNowhereOrMisalignedHurtNobodyElse) {
  const MemoryRegion region = client().memory().regions()[0].description;
  const std::uint64_t end = region.user_address + region.bytes;
  const std::uint64_t places[] = {0,           region.user_address - 64, end - 64,
                                  end,         region.guest_address,     ~std::uint64_t{0} - 15,
                                  1ULL << 63U, region.user_address + 1,  region.user_address + 6};
  for (const std::uint64_t place : places) {
    for (int which = 0; which < 4; ++which) {
      open();
      if (HasFatalFailure()) return;
      ASSERT_DONE(device().stop_queue(0));
      VringAddress address = {
          .index = 0,
          .flags = 0,
          .descriptors = client().memory().user_address(queue().descriptors_address()),
          .used = client().memory().user_address(queue().used_address()),
          .available = client().memory().user_address(queue().available_address()),
          .log = 0};
      if (which == 0 || which == 3) address.descriptors = place;
      if (which == 1 || which == 3) address.used = place;
      if (which == 2 || which == 3) address.available = place;
      if (!link().send(kSetVringAddress, bytes_of(address)).ok()) continue;
      const std::uint64_t zero = 0;
      const int fd = queue().kick_fd();
      if (!link().send(kSetVringKick, bytes_of(zero), {&fd, 1}).ok()) continue;
      (void)device().enable_queue(0, true);
      queue().kick();
      wait_until_seen();
    }
  }
}

TEST_F(HostileMessages, MemoryRegionsThatMakeNoSenseAreRefused) {
  const Fd small = memory_file(1 << 20);
  const int fd = small.number();
  const std::uint64_t far = 1ULL << 44U;
  const MemoryRegion wrong[] = {
      {far, 0, far, 0},
      {far, 2 << 20, far, 0},     // more than the file has
      {far, 1 << 20, far, 4096},  // the same, by the offset
      {far, 4096, far, 1},        // no page
      {far, 4096, far, ~std::uint64_t{0} - 4095},
      {far, ~std::uint64_t{0}, far, 0},
      {~std::uint64_t{0} - 4095, 1 << 20, far, 0},  // beyond the end of addresses
      {far, 1 << 20, ~std::uint64_t{0} - 4095, 0},
      {far, 1ULL << 62U, far, 0},
      {client().memory().regions()[0].description.guest_address, 4096, far, 0},  // overlaps
      {far, 4096, client().memory().regions()[0].description.user_address, 0},
  };
  for (const MemoryRegion& region : wrong) {
    open();
    const SingleRegion single = {0, region};
    send(kAddMemoryRegion, bytes_of(single), {&fd, 1});
    open();
    MemoryTable table = {};
    table.region_count = 1;
    table.regions[0] = region;
    send(kSetMemoryTable, bytes_of(table).first(40), {&fd, 1});
    queue().kick();
    wait_until_seen();
  }
  for (const std::uint32_t count : {0U, 2U, 9U, 1000U, 0xffff'ffffU}) {
    open();
    MemoryTable table = {};
    table.region_count = count;
    table.regions[0] = {far, 4096, far, 0};
    send(kSetMemoryTable, bytes_of(table).first(40), {&fd, 1});
    open();
    send(kSetMemoryTable, bytes_of(table), {&fd, 1});
  }
}

TEST_F(HostileMessages, MemoryTakenAwayUnderTheRingsHurtsNobodyElse) {
  ASSERT_EQ(client().check_works(), "");
  for (std::size_t region = 0; region < 3; ++region) {
    (void)device().remove_region(region);
    (void)queue().submit({.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = region});
    queue().publish();
    wait_until_seen();
  }
}

TEST_F(HostileMessages, TooManyMemoryRegionsAreRefused) {
  const Fd small = memory_file(1 << 20);
  const int fd = small.number();
  bool refused = false;
  for (std::uint64_t number = 0; number < 2000 && !refused; ++number) {
    const std::uint64_t address = (1ULL << 44U) + number * (1 << 21);
    const SingleRegion single = {0, {address, 4096, address, 0}};
    const Result<std::uint64_t> answer =
        link().acknowledged(kAddMemoryRegion, bytes_of(single), {&fd, 1});
    refused = !answer.ok() || answer.value() != 0;
  }
  EXPECT_TRUE(refused);
}

TEST_F(HostileMessages, InflightBuffersThatMakeNoSenseHurtNobodyElse) {
  Random random(5);
  for (int round = 0; round < 60; ++round) {
    open();
    if (HasFatalFailure()) return;
    ASSERT_EQ(client().check_works(), "");
    InflightDescription description = device().inflight();
    Fd buffer = memory_file(description.bytes + 65536);
    std::vector<std::uint64_t> words(description.bytes / 8);
    for (std::uint64_t& word : words) word = round % 3 == 0 ? ~std::uint64_t{0} : random.next();
    if (round % 3 == 2) {  // what passes the first look: version 1, the right size, all in flight
      for (std::uint64_t& word : words) word = random.percent(50) ? 1 : random.below(256) << 48U;
      words[0] = 0;
      words[1] = 1 | 128ULL << 16U | random.below(256) << 32U | random.below(65536) << 48U;
    }
    ASSERT_GT(pwrite(buffer.number(), words.data(), words.size() * 8,
                     static_cast<off_t>(description.file_offset)),
              0);
    switch (round / 3 % 6) {
      case 1:
        description.bytes = 1;
        break;
      case 2:
        description.bytes = ~std::uint64_t{0};
        break;
      case 3:
        description.queue_count = 0xffff;
        break;
      case 4:
        description.queue_size = 0xffff;
        break;
      case 5:
        description.file_offset = 4095;
        break;
      default:
        break;
    }
    if (round % 2 == 1) {
      if (ftruncate(buffer.number(), round % 4 == 1 ? 0 : 100) != 0) FAIL() << "ftruncate";
    }
    device().set_inflight(description, std::move(buffer));
    (void)device().reconnect(Milliseconds(0));
    if (device().is_connected()) expect_answer_or_end();
  }
}

TEST_F(HostileMessages, AnInflightBufferThatIsCutOffHurtsNobodyElse) {
  ASSERT_GE(device().inflight_fd(), 0);
  if (ftruncate(device().inflight_fd(), 0) != 0) return;  // sealed, which is as good
  for (std::uint64_t tag = 0; tag < 10; ++tag) {
    (void)queue().submit({.type = VIRTIO_BLK_T_FLUSH, .sector = 0, .data = {}, .tag = tag});
    queue().publish();
    wait_until_seen();
  }
}

TEST_F(HostileMessages, MessagesOutOfOrderHurtNobodyElse) {
  const VringState state = {0, 1};
  const std::uint64_t zero = 0;
  const std::uint64_t all = ~std::uint64_t{0};
  const Fd event(eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
  const int fd = event.number();
  const VringAddress address = {};
  const std::vector<std::function<void(VhostConnection&)>> steps = {
      [&](VhostConnection& to) {
        (void)to.send(kSetVringKick, bytes_of(zero), {&fd, 1});
      },
      [&](VhostConnection& to) {
        (void)to.send(kSetVringCall, bytes_of(zero), {&fd, 1});
      },
      [&](VhostConnection& to) { (void)to.send(kSetVringEnable, bytes_of(state)); },
      [&](VhostConnection& to) { (void)to.send(kGetVringBase, bytes_of(state)); },
      [&](VhostConnection& to) { (void)to.send(kSetVringAddress, bytes_of(address)); },
      [&](VhostConnection& to) { (void)to.send(kSetVringNum, bytes_of(state)); },
      [&](VhostConnection& to) { (void)to.send(kSetFeatures, bytes_of(all)); },
      [&](VhostConnection& to) { (void)to.send(kSetFeatures, bytes_of(zero)); },
      [&](VhostConnection& to) { (void)to.send(kSetProtocolFeatures, bytes_of(all)); },
      [&](VhostConnection& to) { (void)to.send(kResetDevice); },
      [&](VhostConnection& to) { (void)to.send(kResetOwner); },
      [&](VhostConnection& to) { (void)to.send(kSetOwner); },
      [&](VhostConnection& to) { (void)to.send(kGetConfig, bytes_of(zero)); },
      [&](VhostConnection& to) { (void)to.send(kGetInflightFd, bytes_of(InflightDescription{})); },
  };
  Random random(3);
  for (int round = 0; round < 200; ++round) {
    const auto connection = connect();
    for (int step = 0; step < 12; ++step) steps[random.below(steps.size())](*connection);
    (void)connection->send(kGetFeatures);
    while (connection->receive(Milliseconds(2)).ok()) {
    }
  }
}

TEST_F(HostileMessages, AnUnreadFloodOfRequestsForRepliesHurtsNobodyElse) {
  const auto connection = connect();
  const int flags = fcntl(connection->fd(), F_GETFL);
  fcntl(connection->fd(), F_SETFL, flags | O_NONBLOCK);
  for (int count = 0; count < 200'000; ++count) {
    if (!connection->send(kGetFeatures).ok()) break;  // it does not read on, or has closed
  }
}

}  // namespace
}  // namespace holdfast::vhost_frontend
