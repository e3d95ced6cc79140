// SPDX-License-Identifier: Apache-2.0
#include "cli/vhost_snippets.h"

#include <algorithm>
#include <string_view>

#include "base/limits.h"

namespace holdfast {
namespace {

constexpr std::string_view kExampleMemory = "4G";
// Without a number QEMU asks for a queue for each processor, and refuses to start where there are
// more processors than the server has queues.
constexpr unsigned kQueues = 4;
static_assert(kQueues <= limits::kVhostQueuesMax);

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("-._/=,:+@%").find(c) != std::string_view::npos;
}

// One word for a POSIX shell.
std::string shell_word(const std::string& text) {
  if (!text.empty() && std::all_of(text.begin(), text.end(), is_plain)) return text;
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out.push_back(c);
    }
  }
  return out + "'";
}

// In QEMU's lists of options a comma ends the value unless it is doubled.
std::string qemu_value(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out.push_back(c);
    if (c == ',') out.push_back(c);
  }
  return out;
}

std::string xml_attribute(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&apos;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out.push_back(c);
    }
  }
  return out;
}

}  // namespace

std::string qemu_snippet(const std::string& socket_path, const std::string& volume_name) {
  // QEMU's ids begin with a letter; a volume's name may begin with a digit.
  const std::string id = "disk-" + volume_name;
  const std::string memory(kExampleMemory);
  return "-m " + memory + " -object memory-backend-memfd,id=memory,size=" + memory +
         ",share=on \\\n"
         "-machine memory-backend=memory \\\n"
         "-chardev " +
         shell_word("socket,id=" + id + ",path=" + qemu_value(socket_path) + ",reconnect=1") +
         " \\\n"
         "-device vhost-user-blk-pci,id=" +
         id + ",chardev=" + id + ",num-queues=" + std::to_string(kQueues) + "\n";
}

std::string libvirt_snippet(const std::string& socket_path) {
  return "<memoryBacking>\n"
         "  <source type='memfd'/>\n"
         "  <access mode='shared'/>\n"
         "</memoryBacking>\n"
         "<devices>\n"
         "  <disk type='vhostuser' device='disk'>\n"
         "    <driver name='qemu' type='raw' queues='" +
         std::to_string(kQueues) +
         "'/>\n"
         "    <source type='unix' path='" +
         xml_attribute(socket_path) +
         "'>\n"
         "      <reconnect enabled='yes' timeout='1'/>\n"
         "    </source>\n"
         "    <target dev='vda' bus='virtio'/>\n"
         "  </disk>\n"
         "</devices>\n";
}

std::string vhost_attach_text(const std::string& socket_path, const std::string& volume_name) {
  const std::string memory(kExampleMemory);
  return socket_path + "\n\n" + "QEMU (" + memory +
         " is the size of the machine's memory, which has to be shared):\n\n" +
         qemu_snippet(socket_path, volume_name) +
         "\nlibvirt (in <domain>; take the next free name for vda):\n\n" +
         libvirt_snippet(socket_path);
}

}  // namespace holdfast
