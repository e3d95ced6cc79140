// SPDX-License-Identifier: Apache-2.0
//
// lease_areas: the encoders and decoders of src/format/lease_block.h for tests/test_sanlock.py,
// which holds them against the real sanlock.
//
//   lease_areas make_hosts FILE SECTOR_BYTES ALIGN_MIB SPACE IO_TIMEOUT
//   lease_areas make_volume FILE SECTOR_BYTES ALIGN_MIB SPACE RESOURCE
//   lease_areas show hosts|volume FILE       every record that says something, as JSON
//   lease_areas again hosts|volume FROM TO   decodes all of an area, and encodes it to another file
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "format/lease_block.h"

using namespace holdfast;  // NOLINT: a program of one file
using format::LeaseGeometry;
using format::LeaseKind;
using format::LeaseLeader;

namespace {

[[noreturn]] void fail(const std::string& why) {
  std::fprintf(stderr, "lease_areas: %s\n", why.c_str());
  std::exit(1);
}

template <typename T>
T checked(Result<T> result) {
  if (!result.ok()) fail(result.error().message());
  return std::move(result).value();
}

std::vector<std::byte> read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file || text.empty()) fail("cannot read " + path);
  const auto bytes = as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

void write_all(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream file(path, std::ios::binary);
  file << as_text(bytes);
  if (!file.flush()) fail("cannot write " + path);
}

struct Area {
  Area(LeaseKind of, const std::string& path) : kind(of), bytes(read_all(path)) {
    if (bytes.size() < 4096) fail(path + " is too short");
    const auto sector_bytes = load_little<std::uint32_t>(&bytes[12]);
    if (sector_bytes != 512 && sector_bytes != 4096) fail(path + " begins with no leader");
    geometry = checked(format::decode_leader(all().first(sector_bytes), kind)).geometry;
    if (bytes.size() < geometry.align_bytes) fail(path + " is too short");
  }
  std::span<const std::byte> all() const { return bytes; }
  std::span<const std::byte> sector(std::uint64_t offset) const {
    return all().subspan(offset, geometry.sector_bytes);
  }
  LeaseLeader host(std::uint64_t id) const {
    return checked(format::decode_leader(sector(format::host_lease_offset(geometry, id)), kind));
  }
  format::LeaseBlock block(std::uint64_t id) const {
    return checked(format::decode_lease_block(sector(format::block_offset(geometry, id))));
  }

  LeaseKind kind;
  std::vector<std::byte> bytes;
  LeaseGeometry geometry;
};

std::string field(const char* name, std::uint64_t value) {
  return std::string(", \"") + name + "\": " + std::to_string(value);
}
std::string text_field(const char* name, const std::string& value) {
  return std::string(", \"") + name + "\": \"" + value + "\"";  // the tests' names need no escapes
}

// The names that `sanlock direct read_leader` gives them.
std::string leader_fields(const LeaseLeader& leader) {
  return field("sector_size", leader.geometry.sector_bytes) + field("num_hosts", leader.hosts) +
         field("max_hosts", leader.hosts_max) + field("owner_id", leader.owner_id) +
         field("owner_generation", leader.owner_generation) + field("lver", leader.lver) +
         text_field("space_name", leader.space_name) +
         text_field("resource_name", leader.resource_name) + field("timestamp", leader.timestamp) +
         field("io_timeout", leader.io_timeout) + field("write_id", leader.write_id) +
         field("write_generation", leader.write_generation) +
         field("write_timestamp", leader.write_timestamp) +
         field("short_hold", leader.short_hold ? 1 : 0);
}

void show_hosts(const Area& area) {
  const char* separator = "";
  std::printf("{");
  for (std::uint64_t id = 1; id <= area.geometry.hosts_max(); ++id) {
    const LeaseLeader leader = area.host(id);
    if (leader.owner_id == 0) continue;
    const auto bits =
        format::decode_lease_host_bits(area.sector(format::host_lease_offset(area.geometry, id)));
    std::string asked;
    for (std::size_t bit = 0; bit < bits.size(); ++bit) {
      if (bits[bit]) asked += (asked.empty() ? "" : ", ") + std::to_string(bit + 1);
    }
    std::printf("%s\"%llu\": {%s, \"host_bits\": [%s]}", separator,
                static_cast<unsigned long long>(id), leader_fields(leader).c_str() + 2,
                asked.c_str());
    separator = ", ";
  }
  std::printf("}\n");
}

void show_volume(const Area& area) {
  const auto leader = checked(format::decode_leader(area.sector(0), area.kind));
  const auto request =
      checked(format::decode_lease_request(area.sector(format::request_offset(area.geometry))));
  std::printf("{\"leader\": {%s}, \"request\": {%s}, \"blocks\": {",
              leader_fields(leader).c_str() + 2,
              (field("lver", request.lver) + field("force_mode", request.force_mode)).c_str() + 2);
  const char* separator = "";
  for (std::uint64_t id = 1; id <= area.geometry.hosts_max(); ++id) {
    const format::LeaseBlock block = area.block(id);
    if (block == format::LeaseBlock{}) continue;
    const std::string fields =
        field("mbal", block.mbal) + field("bal", block.bal) + field("inp", block.inp) +
        field("inp2", block.inp2) + field("inp3", block.inp3) + field("lver", block.lver) +
        field("released", block.released ? 1 : 0) + field("shared", block.shared_mode ? 1 : 0) +
        field("shared_generation", block.shared_generation);
    std::printf("%s\"%llu\": {%s}", separator, static_cast<unsigned long long>(id),
                fields.c_str() + 2);
    separator = ", ";
  }
  std::printf("}}\n");
}

// Of all sectors that have a meaning; what lies behind them is zero.
std::vector<std::byte> encoded_again(const Area& area) {
  std::vector<std::byte> bytes(area.geometry.align_bytes);
  const auto to = [&](std::uint64_t offset) {
    return std::span(bytes).subspan(offset, area.geometry.sector_bytes);
  };
  for (std::uint64_t id = 1; id <= area.geometry.hosts_max(); ++id) {
    if (area.kind == LeaseKind::host) {
      const std::uint64_t offset = format::host_lease_offset(area.geometry, id);
      format::encode_leader(area.host(id), to(offset));
      format::encode_lease_host_bits(format::decode_lease_host_bits(area.sector(offset)),
                                     to(offset));
    } else {
      format::encode_lease_block(area.block(id), to(format::block_offset(area.geometry, id)));
    }
  }
  if (area.kind == LeaseKind::volume) {
    const std::uint64_t request = format::request_offset(area.geometry);
    format::encode_leader(checked(format::decode_leader(area.sector(0), area.kind)), to(0));
    format::encode_lease_request(checked(format::decode_lease_request(area.sector(request))),
                                 to(request));
  }
  return bytes;
}

LeaseGeometry parse_geometry(const std::string& sector_bytes, const std::string& align_mib) {
  const LeaseGeometry geometry{static_cast<std::uint32_t>(std::stoul(sector_bytes)),
                               std::stoull(align_mib) << 20};
  if (!geometry.is_valid()) fail("no such geometry");
  return geometry;
}

LeaseKind parse_kind(const std::string& text) {
  if (text != "hosts" && text != "volume") fail("say hosts or volume, not " + text);
  return text == "hosts" ? LeaseKind::host : LeaseKind::volume;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  const std::string command = words.empty() ? "" : words[0];
  if (command == "make_hosts" && words.size() == 6) {
    write_all(words[1],
              format::make_host_lease_area(parse_geometry(words[2], words[3]), words[4],
                                           static_cast<std::uint16_t>(std::stoul(words[5]))));
  } else if (command == "make_volume" && words.size() == 6) {
    write_all(words[1], format::make_volume_lease_area(parse_geometry(words[2], words[3]), words[4],
                                                       words[5]));
  } else if (command == "show" && words.size() == 3) {
    const Area area(parse_kind(words[1]), words[2]);
    area.kind == LeaseKind::host ? show_hosts(area) : show_volume(area);
  } else if (command == "again" && words.size() == 4) {
    write_all(words[3], encoded_again(Area(parse_kind(words[1]), words[2])));
  } else {
    fail("usage: make_hosts|make_volume|show|again ..., as its source says");
  }
  return 0;
}
