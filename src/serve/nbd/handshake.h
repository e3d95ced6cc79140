// SPDX-License-Identifier: Apache-2.0
//
// The NBD handshake as a pure state machine: bytes in, bytes out, no I/O. Fixed newstyle with GO,
// INFO, LIST, EXPORT_NAME, ABORT, STRUCTURED_REPLY and the two META_CONTEXT options; every other
// option is answered "unsupported". Its output is bounded by the number of options it answers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "serve/nbd/export.h"
#include "serve/nbd/protocol.h"
#include "serve/nbd/statistics.h"

namespace holdfast::nbd {

// What the two sides agreed on; valid once the handshake has finished.
struct Negotiated {
  bool structured_replies = false;
  bool allocation_context = false;
};

class Handshake {
 public:
  enum class State {
    more,          // needs more input
    transmission,  // done; what was not consumed belongs to the transmission phase
    closing,       // the client said goodbye: send the output, then close
    failed,        // close; the reason is counted
  };

  // Both are borrowed. The greeting is in the output at once.
  Handshake(const NbdExport& exported, NbdStatistics& statistics);

  // Consumes from the front of `input`, gives the count of bytes consumed. While the state is
  // `more`, everything that is left over must come again in front of what arrives later.
  std::size_t feed(std::span<const std::byte> input);

  State state() const { return state_; }
  const Negotiated& negotiated() const { return negotiated_; }
  bool has_output() const { return !output_.empty(); }
  std::vector<std::byte> take_output() { return std::exchange(output_, {}); }

 private:
  std::size_t step(std::span<const std::byte> input);
  void handle_client_flags(std::span<const std::byte> input);
  void handle_option(std::uint32_t option, std::span<const std::byte> data);
  void handle_export_name(std::span<const std::byte> data);
  void handle_list(std::span<const std::byte> data);
  void handle_info(Option option, std::span<const std::byte> data);
  void handle_structured_reply(std::span<const std::byte> data);
  void handle_meta_context(Option option, std::span<const std::byte> data);
  void enter_transmission(std::string_view export_name);

  bool is_export(std::string_view name) const;
  std::uint16_t transmission_flags() const;
  void fail(NbdFault fault);
  void refuse(std::uint32_t option, OptionReply error, NbdFault fault, std::string_view message);
  void reply(std::uint32_t option, OptionReply type, std::span<const std::byte> data);
  void reply_info(std::uint32_t option, Info info, std::string_view text);
  template <typename T>
  void put(T value);
  void put_bytes(std::span<const std::byte> bytes);

  const NbdExport& export_;
  NbdStatistics& statistics_;
  State state_ = State::more;
  bool flags_received_ = false;
  bool fixed_newstyle_ = false;
  bool no_zeroes_ = false;
  std::size_t option_count_ = 0;
  std::uint64_t skip_bytes_ = 0;     // data of an option that was too big
  std::string context_export_name_;  // the name the metadata context was selected for
  Negotiated negotiated_;
  std::vector<std::byte> output_;
};

}  // namespace holdfast::nbd
