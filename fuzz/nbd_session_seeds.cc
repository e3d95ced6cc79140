// SPDX-License-Identifier: Apache-2.0
//
// Writes the seeds of nbd_session_fuzz into a directory: small sessions that reach every command,
// option and refusal.
#include <cstdio>
#include <fstream>
#include <string>

#include "fuzz/nbd_session_input.h"
#include "serve/nbd/test_client.h"

namespace holdfast {
namespace {

using namespace nbd;  // NOLINT: a program of one file, about nothing else
using Input = NbdSessionInput;

class SeedWriter {
 public:
  explicit SeedWriter(std::string directory) : directory_(std::move(directory)) {}

  void write(const char* name, int flags, std::uint8_t piece_bytes_scale,
             const Bytes& client_bytes) {
    Bytes seed{static_cast<std::byte>(flags), static_cast<std::byte>(piece_bytes_scale),
               std::byte{0x12}, std::byte{0x34}};
    append(seed, client_bytes);
    std::ofstream file(directory_ + "/" + name, std::ios::binary);
    const std::string_view text = as_text(seed);
    file.write(text.data(), static_cast<std::streamsize>(text.size()));
    file.close();
    if (!file) ok_ = false;
  }
  bool ok() const { return ok_; }

 private:
  std::string directory_;
  bool ok_ = true;
};

Bytes every_option() {
  Bytes bytes = client_flags();
  append(bytes, option_bytes(Option::list));
  append(bytes, option_bytes(5u));
  append(bytes, option_bytes(77u, pattern(30, 1)));
  append(bytes, option_bytes(Option::structured_reply));
  append(bytes, context_bytes(Option::list_meta_context, "disk", {}));
  append(bytes, context_bytes(Option::list_meta_context, "disk", {"base:"}));
  append(bytes, context_bytes(Option::set_meta_context, "disk", {"x:y", "base:allocation"}));
  append(bytes, go_bytes("other"));
  append(bytes, go_bytes("disk", {Info::name, Info::description}, Option::info));
  append(bytes, go_bytes("disk", {Info::block_size}));
  append(bytes, request_bytes(Command::block_status, {.length_bytes = 4096}));
  append(bytes, request_bytes(Command::disconnect, {}));
  return bytes;
}

Bytes every_command() {
  Bytes bytes;
  append(bytes, request_bytes(Command::write,
                              {.flags = kCommandFua, .offset_bytes = 100, .length_bytes = 50},
                              pattern(50, 1)));
  append(bytes,
         request_bytes(Command::read,
                       {.flags = kCommandDontFragment, .offset_bytes = 90, .length_bytes = 80}));
  append(bytes, request_bytes(Command::flush, {}));
  append(bytes, request_bytes(Command::trim, {.length_bytes = 8192}));
  append(bytes,
         request_bytes(Command::write_zeroes, {.flags = kCommandNoHole, .length_bytes = 4097}));
  append(bytes, request_bytes(Command::block_status, {.length_bytes = 300'000}));
  append(bytes, request_bytes(Command::block_status,
                              {.flags = kCommandRequestOne, .length_bytes = 300'000}));
  append(bytes, request_bytes(Command::cache, {.length_bytes = 512}));
  append(bytes, request_bytes(std::uint16_t{99}, {.flags = 0xffff, .length_bytes = 512}));
  return bytes;
}

Bytes refused_writes() {
  Bytes bytes;
  append(bytes,
         request_bytes(Command::write, {.offset_bytes = Input::kDeviceBytes, .length_bytes = 20},
                       pattern(20, 1)));
  append(bytes,
         request_bytes(Command::write, {.flags = 0x30, .length_bytes = 9000}, pattern(9000, 2)));
  append(bytes, request_bytes(Command::flush, {}));
  append(bytes, request_bytes(Command::write, {.length_bytes = 0xffffffff}, pattern(100, 3)));
  return bytes;
}

Bytes many_writes() {
  Bytes bytes;
  for (std::uint32_t i = 0; i < 20; ++i) {
    append(bytes, request_bytes(Command::write,
                                {.cookie = i, .offset_bytes = i * 4096, .length_bytes = 1500},
                                pattern(1500, i)));
  }
  append(bytes, request_bytes(Command::write, {.length_bytes = 20'000}, pattern(20'000, 7)));
  append(bytes, request_bytes(Command::read, {.length_bytes = 300'000}));
  return bytes;
}

void write_all(SeedWriter& seeds) {
  Bytes export_name = client_flags(0);
  append(export_name, option_bytes(Option::export_name, as_bytes("disk")));
  append(export_name, request_bytes(Command::read, {.length_bytes = 512}));
  Bytes abort = client_flags();
  append(abort, option_bytes(Option::abort));
  Bytes too_big = client_flags();
  append(too_big, option_bytes(Option::go, Bytes(4097)));
  append(too_big, go_bytes(""));
  Bytes bad_magic = request_bytes(Command::flush, {});
  append(bad_magic, Bytes(28, std::byte{1}));

  constexpr int kGood = Input::kWithHandshake | Input::kStructured;
  seeds.write("options", 0, 19, every_option());
  seeds.write("options_by_byte", 0, 0, every_option());
  seeds.write("export_name", 0, 19, export_name);
  seeds.write("abort", 0, 2, abort);
  seeds.write("option_too_big", 0, 19, too_big);
  seeds.write("commands", kGood, 19, every_command());
  seeds.write("commands_simple", Input::kWithHandshake, 19, every_command());
  seeds.write("commands_by_pieces", kGood, 5, every_command());
  seeds.write("commands_slow", kGood | Input::kSlowDevice, 19, every_command());
  seeds.write("commands_read_only", kGood | Input::kReadOnly, 19, every_command());
  seeds.write("commands_unread", kGood | Input::kPeerNeverReads, 19, every_command());
  seeds.write("commands_held_reset", kGood | Input::kHeldDevice | Input::kEndWithError, 19,
              every_command());
  seeds.write("commands_held_closed", kGood | Input::kHeldDevice | Input::kCloseEarly, 19,
              every_command());
  seeds.write("refused_writes", kGood, 19, refused_writes());
  seeds.write("many_writes", kGood, 13, many_writes());
  seeds.write("many_writes_held", kGood | Input::kHeldDevice, 13, many_writes());
  seeds.write("bad_magic", kGood, 19, bad_magic);
}

}  // namespace
}  // namespace holdfast

int main(int count, char** values) {
  if (count != 2) {
    std::fprintf(stderr, "usage: nbd_session_seeds DIRECTORY\n");
    return 2;
  }
  holdfast::SeedWriter seeds(values[1]);
  holdfast::write_all(seeds);
  if (seeds.ok()) return 0;
  std::fprintf(stderr, "cannot write into %s\n", values[1]);
  return 1;
}
