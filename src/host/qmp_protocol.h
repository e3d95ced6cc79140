// SPDX-License-Identifier: Apache-2.0
//
// QMP, the protocol of QEMU's monitor (QEMU's docs/interop/qmp-spec.txt), as far as pausing a
// virtual machine needs it. The peer is not trusted: whatever it sends is one of the messages
// below, or ignored, or the end of the connection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace holdfast {

// Cuts a stream into JSON objects. QEMU sends one a line; its "pretty" mode uses several.
class QmpFramer {
 public:
  using OnMessage = std::function<void(std::string_view)>;
  // False: it is no stream of objects, or one is longer than limits::kQmpMessageBytesMax. Then it
  // is to be given up.
  bool feed(std::string_view bytes, const OnMessage& on_message);

 private:
  std::string message_;
  std::size_t depth_ = 0;
  bool in_string_ = false;
  bool is_escaped_ = false;
};

struct QmpMessage {
  enum class Kind : std::uint8_t { unknown, greeting, event, success, failure };
  Kind kind = Kind::unknown;
  std::uint64_t id = 0;  // of the command that is answered; 0: none
  std::string text;      // the event's name; what a failure says; printable, short
  std::string status;    // of a success: its member "status", if there is one
};

// Any bytes are fine.
QmpMessage parse_qmp_message(std::string_view text);

// A command without arguments, with the end of its line.
std::string encode_qmp_command(std::string_view name, std::uint64_t id);

}  // namespace holdfast
