// SPDX-License-Identifier: Apache-2.0
//
// What a person pastes to give a virtual machine a disk that is served over vhost-user-blk.
#pragma once

#include <string>

namespace holdfast {

// Words of QEMU's command line, as lines for a shell. The server maps the machine's memory, so that
// has to be shared; its size is an example.
std::string qemu_snippet(const std::string& socket_path, const std::string& volume_name);

// Elements of libvirt's domain XML (libvirt 7.1 and later).
std::string libvirt_snippet(const std::string& socket_path);

// The answer to `holdfast attach --vhost`: the socket's path on the first line, then both snippets.
std::string vhost_attach_text(const std::string& socket_path, const std::string& volume_name);

}  // namespace holdfast
