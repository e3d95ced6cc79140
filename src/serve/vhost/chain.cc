// SPDX-License-Identifier: Apache-2.0
//
// From a chain of descriptors to vectors (virtio 1.1, 2.6.5 and 2.6.5.3). Any layout is accepted:
// the header is the first 16 readable bytes, the status the last writable byte.
#include <algorithm>

#include "base/bytes.h"
#include "base/limits.h"
#include "serve/vhost/queue.h"

namespace holdfast::vhost {
namespace {

struct ChainDescriptor {
  std::uint64_t address;
  std::uint32_t length_bytes;
  std::uint16_t flags;
  std::uint16_t next;
};

// Copied once: the guest may change its own at any time.
ChainDescriptor load_descriptor(const std::byte* table, std::size_t index) {
  std::byte copy[kDescriptorBytes];
  std::memcpy(copy, table + index * kDescriptorBytes, sizeof copy);
  // The compiler must not look at the table again.
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  return {load_little<std::uint64_t>(copy), load_little<std::uint32_t>(copy + 8),
          load_little<std::uint16_t>(copy + 12), load_little<std::uint16_t>(copy + 14)};
}

}  // namespace

// False: the device is broken.
bool Queue::gather(Request& request) {
  request.vector_count = 0;
  request.payload = {};
  const std::byte* table = descriptors_;
  std::size_t table_count = size_;
  std::size_t seen_count = 0;
  std::size_t index = request.head;
  std::size_t readable_count = 0;
  std::uint64_t readable_bytes = 0;
  std::uint64_t writable_bytes = 0;
  bool is_indirect = false;
  bool has_writable = false;
  for (;;) {
    if (index >= table_count) {
      device_.break_down(VhostFault::descriptor_out_of_range);
      return false;
    }
    if (++seen_count > table_count) {
      device_.break_down(VhostFault::descriptor_loop);
      return false;
    }
    const ChainDescriptor descriptor = load_descriptor(table, index);
    if ((descriptor.flags & kDescriptorIndirect) != 0) {
      const std::uint32_t bytes = descriptor.length_bytes;
      const auto inner = device_.memory.guest_bytes(descriptor.address, bytes);
      if (!device_.indirect || is_indirect || (descriptor.flags & kDescriptorNext) != 0 ||
          bytes == 0 || bytes % kDescriptorBytes != 0 ||
          bytes / kDescriptorBytes > limits::kVhostQueueSizeMax || inner.size() != bytes) {
        device_.break_down(VhostFault::descriptor_indirect);
        return false;
      }
      is_indirect = true;
      table = inner.data();
      table_count = bytes / kDescriptorBytes;
      seen_count = 0;
      index = 0;
      continue;
    }
    const bool is_writable = (descriptor.flags & kDescriptorWrite) != 0;
    if (has_writable && !is_writable) {
      device_.break_down(VhostFault::descriptor_order);
      return false;
    }
    if (!add_vectors(request, descriptor.address, descriptor.length_bytes)) return false;
    if (is_writable) {
      has_writable = true;
      writable_bytes += descriptor.length_bytes;
    } else {
      readable_count = request.vector_count;
      readable_bytes += descriptor.length_bytes;
    }
    if ((descriptor.flags & kDescriptorNext) == 0) break;
    index = descriptor.next;
  }
  if (readable_bytes < kRequestHeaderBytes || writable_bytes == 0) {
    device_.break_down(VhostFault::chain_too_short);
    return false;
  }
  request.writable_bytes = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(writable_bytes - 1, limits::kVhostRequestBytesMax));
  request.payload_bytes = writable_bytes - 1;
  strip_frame(request, readable_count, readable_bytes);
  return true;
}

bool Queue::add_vectors(Request& request, std::uint64_t address, std::uint32_t length_bytes) {
  while (length_bytes != 0) {
    const auto bytes = device_.memory.guest_bytes(address, length_bytes);
    if (bytes.empty() || address + length_bytes < address) {
      device_.break_down(VhostFault::descriptor_address);
      return false;
    }
    if (request.vector_count == Request::kShortVectors) request.make_long(device_.long_requests);
    if (request.vector_count == limits::kVhostVectorsPerRequestMax) {
      device_.break_down(VhostFault::chain_too_long);
      return false;
    }
    request.vectors()[request.vector_count++] = {bytes.data(), bytes.size()};
    address += bytes.size();
    length_bytes -= static_cast<std::uint32_t>(bytes.size());
  }
  return true;
}

// Takes header and status off the vectors; what is left on the side that has a payload is it.
void Queue::strip_frame(Request& request, std::size_t readable_count,
                        std::uint64_t readable_bytes) {
  iovec* const vectors = request.vectors();
  std::size_t first = 0;
  for (std::size_t copied = 0; copied < kRequestHeaderBytes;) {
    iovec& vector = vectors[first];
    const std::size_t count = std::min(vector.iov_len, kRequestHeaderBytes - copied);
    std::memcpy(request.header.data() + copied, vector.iov_base, count);
    copied += count;
    vector = {static_cast<std::byte*>(vector.iov_base) + count, vector.iov_len - count};
    if (vector.iov_len == 0) ++first;
  }
  iovec& last = vectors[request.vector_count - 1];
  --last.iov_len;
  request.status_at = static_cast<std::byte*>(last.iov_base) + last.iov_len;
  if (last.iov_len == 0) --request.vector_count;

  const auto type = static_cast<BlkType>(load_little<std::uint32_t>(request.header.data()));
  if (type == BlkType::in || type == BlkType::get_id) {
    request.payload = {vectors + readable_count, request.vector_count - readable_count};
  } else {
    request.payload = {vectors + first, readable_count - first};
    request.payload_bytes = readable_bytes - kRequestHeaderBytes;
    request.writable_bytes = 0;
  }
}

}  // namespace holdfast::vhost
