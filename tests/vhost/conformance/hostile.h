// SPDX-License-Identifier: Apache-2.0
//
// Tests that attack a server. Beside the attacker a well-behaved client of another disk stays
// connected to the same process from the first test to the last: it is served after each attack,
// and its connection would not outlive the process.
#pragma once

#include <memory>

#include "vhost/conformance/fixture.h"

namespace holdfast::vhost_frontend {

class HostileTest : public ConformanceTest {
 protected:
  static void SetUpTestSuite();
  static void TearDownTestSuite();
  void TearDown() override;

  // Both sockets serve as if nothing had happened. The attacker's client is gone then.
  void expect_served();

  // The header of a read or write in guest memory.
  Segment header(std::uint32_t type, std::uint64_t sector);
  // Descriptors as they are given, number 0 first, made available from `head` on and kicked.
  void make_available(std::initializer_list<Descriptor> descriptors, std::uint16_t head = 0);
  // The server has looked at what was kicked: it answers a message that came later.
  void wait_until_seen();

 private:
  static std::unique_ptr<Client> bystander_;
};

}  // namespace holdfast::vhost_frontend
