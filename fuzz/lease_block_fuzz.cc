// SPDX-License-Identifier: Apache-2.0
//
// sanlock's records: a byte of flags, then the sector. What is accepted says the same once it was
// encoded again; not the same bytes, because readers of that format ignore some of them.
#include <algorithm>
#include <array>

#include "base/assert.h"
#include "base/bytes.h"
#include "format/lease_block.h"

using namespace holdfast;  // NOLINT: a program of one file

namespace {

// Of the flags: bit 0 makes the checksum right first, bits 1 and 2 say what the sector is.
enum class Kind { request = 0, host = 1, volume = 2, block = 3 };

void reseal(std::span<std::byte> sector, Kind kind) {
  const std::size_t summed = kind == Kind::block ? 48 : 168;
  if (kind == Kind::request) return;
  store_little(&sector[summed], format::lease_checksum(sector.first(summed)));
}

template <typename T>
void check_again(const Result<T>& first, std::span<std::byte> sector,
                 void (*encode)(const T&, std::span<std::byte>), const auto& decode) {
  if (!first.ok()) {
    HOLDFAST_ASSERT(!first.error().message().empty());
    return;
  }
  encode(first.value(), sector);
  const Result<T> again = decode(sector);
  HOLDFAST_ASSERT(again.ok() && again.value() == first.value());
}

void check_leader(std::span<std::byte> sector, format::LeaseKind kind) {
  const auto decode = [kind](std::span<const std::byte> from) {
    return format::decode_leader(from, kind);
  };
  const format::LeaseHostBits bits = format::decode_lease_host_bits(sector);
  check_again<format::LeaseLeader>(decode(sector), sector, format::encode_leader, decode);
  format::encode_lease_host_bits(bits, sector);
  HOLDFAST_ASSERT(format::decode_lease_host_bits(sector) == bits);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  if (bytes == 0) return 0;
  std::array<std::byte, 4096> memory{};
  const std::size_t length = std::min(bytes - 1, memory.size());
  std::transform(data + 1, data + 1 + length, memory.begin(),
                 [](std::uint8_t value) { return static_cast<std::byte>(value); });
  // A leader is for sectors of a size; the other records are the same in any.
  const bool is_large = load_little<std::uint32_t>(&memory[12]) == memory.size();
  const std::span<std::byte> sector = std::span(memory).first(is_large ? memory.size() : 512);
  const Kind kind{(data[0] >> 1) & 3};
  if ((data[0] & 1) != 0) reseal(sector, kind);
  switch (kind) {
    case Kind::host:
      check_leader(sector, format::LeaseKind::host);
      break;
    case Kind::volume:
      check_leader(sector, format::LeaseKind::volume);
      break;
    case Kind::block:
      check_again<format::LeaseBlock>(format::decode_lease_block(sector), sector,
                                      format::encode_lease_block, format::decode_lease_block);
      break;
    case Kind::request:
      check_again<format::LeaseRequest>(format::decode_lease_request(sector), sector,
                                        format::encode_lease_request, format::decode_lease_request);
      break;
  }
  return 0;
}
