// SPDX-License-Identifier: Apache-2.0
#include "io/machine_identity.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <span>

#include "base/crc32c.h"

namespace holdfast {
namespace {

constexpr std::size_t kShortNameBytesMax = 31;

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string hex(const std::string& text) {
  char out[9];
  std::snprintf(out, sizeof(out), "%08x", crc32c(std::as_bytes(std::span(text))));
  return out;
}

std::string short_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0) return "host";
  std::string text(name);
  text = text.substr(0, std::min(text.find('.'), kShortNameBytesMax));
  return text.empty() ? "host" : text;
}

}  // namespace

MachineIdentity machine_identity(std::string_view instance) {
  MachineIdentity identity;
  std::string machine = first_line("/etc/machine-id");
  if (machine.empty()) machine = first_line("/var/lib/dbus/machine-id");
  const std::string all = machine + "\n" + std::string(instance);
  identity.name = short_name() + "." + hex(all) + hex("holdfast\n" + all);
  identity.boot_id = first_line("/proc/sys/kernel/random/boot_id");
  return identity;
}

}  // namespace holdfast
