// SPDX-License-Identifier: Apache-2.0
#include "vhost/conformance/hostile.h"

#include <cstring>
#include <thread>

namespace holdfast::vhost_frontend {

std::unique_ptr<Client> HostileTest::bystander_;

void HostileTest::SetUpTestSuite() {
  bystander_ = std::make_unique<Client>(Client::default_options("VHOST_OTHER_SOCKET"),
                                        std::vector<std::uint64_t>{128 << 20});
  ASSERT_DONE(bystander_->open());
}

void HostileTest::TearDownTestSuite() {
  bystander_.reset();
}

void HostileTest::TearDown() {
  expect_served();
}

void HostileTest::expect_served() {
  client_.reset();
  EXPECT_EQ(bystander_->check_works(), "") << "the other disk's client";
  open();
  if (HasFatalFailure()) return;
  EXPECT_EQ(client().check_works(), "") << "the next client of the attacked disk";
  client_.reset();
}

Segment HostileTest::header(std::uint32_t type, std::uint64_t sector) {
  const Segment segment = client().filled(16);
  const virtio_blk_outhdr made = {type, 0, sector};
  std::memcpy(client().bytes(segment).data(), &made, sizeof made);
  return segment;
}

void HostileTest::make_available(std::initializer_list<Descriptor> descriptors,
                                 std::uint16_t head) {
  std::copy(descriptors.begin(), descriptors.end(), queue().descriptors());
  const std::uint16_t index = queue().available_index();
  queue().set_available_entry(index, head);
  queue().set_available_index(static_cast<std::uint16_t>(index + 1));
  queue().kick();
  wait_until_seen();
}

void HostileTest::wait_until_seen() {
  // Kicks and messages come by different ways; the pause is for a kick that comes second.
  std::this_thread::sleep_for(Milliseconds(5));
  if (device().is_connected()) (void)device().connection().call_number(kGetFeatures);
}

}  // namespace holdfast::vhost_frontend
