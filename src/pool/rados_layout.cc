// SPDX-License-Identifier: Apache-2.0
#include "pool/rados_layout.h"

#include <algorithm>
#include <cstdio>

#include "base/bytes.h"
#include "base/limits.h"
#include "format/pool_record.h"
#include "pool/dir_layout.h"
#include "pool/new_pool.h"

namespace holdfast::rados_layout {
namespace {

constexpr std::string_view kLocationPrefix = "rados:";
constexpr std::size_t kSegmentEntryBytes = 16;
constexpr std::size_t kTimesBytes = 16;

std::string hexadecimal(std::uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value));
  return text;
}

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= 128 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
}

bool is_path(std::string_view text) {
  return text.starts_with("/") && std::none_of(text.begin(), text.end(), [](char c) {
           return static_cast<unsigned char>(c) < 0x20 || c == '&' || c == '?';
         });
}

std::string take_part(std::string_view& text, char separator) {
  const std::size_t end = text.find(separator);
  std::string part(text.substr(0, end));
  text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  return part;
}

}  // namespace

Result<RadosAddress> parse_location(std::string_view location) {
  const auto refuse = [&](const std::string& why) {
    return Error(ErrorCode::invalid_argument,
                 "cannot use the location '" + std::string(location) + "': " + why +
                     "; write it as rados:POOL or rados:POOL/NAMESPACE");
  };
  if (!location.starts_with(kLocationPrefix)) return refuse("it is no pool on Ceph");
  std::string_view options = location.substr(kLocationPrefix.size());
  const std::string place = take_part(options, '?');
  std::string_view rest = place;
  RadosAddress address;
  address.pool = take_part(rest, '/');
  if (!is_name(address.pool)) {
    return refuse("'" + address.pool + "' is no name of a pool of Ceph");
  }
  if (place.find('/') != std::string::npos) {
    address.name_space = std::string(rest);
    if (!is_name(address.name_space)) {
      return refuse("'" + address.name_space + "' is no name of a namespace");
    }
  }
  while (!options.empty()) {
    std::string_view option = options;
    const std::string whole = take_part(options, '&');
    option = whole;
    const std::string name = take_part(option, '=');
    const std::string value(option);
    if (name == "id") {
      if (!is_name(value))
        return refuse("'" + value + "' is no name of a client; leave out client.");
      address.client_id = value.starts_with("client.") ? value.substr(7) : value;
    } else if (name == "conf" || name == "keyring") {
      if (!is_path(value)) return refuse("the path of --" + name + " must be absolute");
      (name == "conf" ? address.configuration_file : address.keyring_file) = value;
    } else {
      return refuse("'" + name + "' is none of conf, id, keyring");
    }
  }
  return address;
}

std::string location_of(const RadosAddress& address) {
  std::string location = std::string(kLocationPrefix) + address.pool;
  if (!address.name_space.empty()) location += "/" + address.name_space;
  char separator = '?';
  const auto add = [&](std::string_view name, const std::string& value) {
    if (value.empty()) return;
    location += separator;
    location.append(name).append("=").append(value);
    separator = '&';
  };
  add("conf", address.configuration_file);
  add("id", address.client_id);
  add("keyring", address.keyring_file);
  return location;
}

Striping striping_of(std::uint64_t segment_bytes) {
  const std::uint64_t wanted =
      std::max(limits::kRadosObjectsPerSegmentMin,
               (segment_bytes + limits::kRadosObjectBytesMax - 1) / limits::kRadosObjectBytesMax);
  return {limits::kRadosStripeBytes, std::min(wanted, segment_bytes / limits::kRadosStripeBytes)};
}

std::string layout_text(const Striping& striping) {
  return "stripe_bytes=" + std::to_string(striping.stripe_bytes) +
         " objects_per_segment=" + std::to_string(striping.objects_per_segment);
}

std::string volume_object(const VolumeId& volume) {
  return "holdfast.volume." + volume.to_string();
}
std::string lease_object(const VolumeId& volume) {
  return "holdfast.lease." + volume.to_string();
}

std::vector<std::byte> encode_segment_entry(const SegmentEntry& entry) {
  std::vector<std::byte> bytes(kSegmentEntryBytes);
  ByteWriter writer(bytes);
  writer.put(entry.length_bytes);
  writer.put(entry.copy);
  return bytes;
}

Result<SegmentEntry> decode_segment_entry(std::span<const std::byte> bytes) {
  SegmentEntry entry;
  if (bytes.size() == kSegmentEntryBytes) {
    entry.length_bytes = load_little<std::uint64_t>(bytes.data());
    entry.copy = load_little<std::uint64_t>(bytes.data() + 8);
  }
  if (bytes.size() != kSegmentEntryBytes || entry.length_bytes > limits::kSegmentBytesMax) {
    return Error(ErrorCode::corrupt, "the entry of a segment is damaged");
  }
  return entry;
}

std::vector<std::string> segment_objects(const SegmentId& segment, const SegmentEntry& entry,
                                         const Striping& striping) {
  std::string base =
      "holdfast.data." + segment.volume.to_string() + "." + dir_layout::segment_name(segment);
  if (entry.copy != 0) base += ".copy-" + hexadecimal(entry.copy);
  std::vector<std::string> objects;
  for (std::uint64_t i = 0; i < striping.objects_per_segment; ++i) {
    objects.push_back(base + "." + std::to_string(i));
  }
  return objects;
}

std::string new_copy_key(const SegmentId& segment, std::uint64_t copy) {
  return std::string(kNewCopyPrefix) + dir_layout::segment_name(segment) + "-" + hexadecimal(copy);
}

std::optional<SegmentId> parse_new_copy_key(const VolumeId& volume, std::string_view key) {
  constexpr std::size_t kCopyBytes = 17;
  if (!key.starts_with(kNewCopyPrefix) || key.size() < kNewCopyPrefix.size() + kCopyBytes) {
    return std::nullopt;
  }
  key.remove_prefix(kNewCopyPrefix.size());
  key.remove_suffix(kCopyBytes);
  const auto numbers = dir_layout::parse_numbered_name(dir_layout::kSegmentPrefix, key);
  if (!numbers.has_value()) return std::nullopt;
  return SegmentId{volume, Epoch{numbers->epoch}, SegmentNumber{numbers->number}};
}

std::string epoch_text(Epoch epoch) {
  return hexadecimal(epoch.value);
}

std::vector<std::byte> encode_record(const VolumeRecord& record) {
  format::StoredVolumeRecord stored;
  stored.id = record.id;
  stored.name = record.name;
  stored.thick = record.thick;
  stored.created = record.created;
  std::vector<std::byte> bytes = format::encode_volume_record(stored);
  while (!bytes.empty() && bytes.back() == std::byte{0}) bytes.pop_back();
  return bytes;
}

Result<VolumeRecord> decode_record(const VolumeId& volume, std::span<const std::byte> bytes) {
  std::vector<std::byte> whole(bytes.begin(), bytes.end());
  whole.resize(std::max<std::size_t>(whole.size(), kBlockBytes));
  const auto stored = TRY(format::decode_volume_record(whole));
  if (stored.id != volume) {
    return Error(ErrorCode::corrupt, "the record of volume " + volume.to_string() +
                                         " is that of volume " + stored.id.to_string());
  }
  return make_volume_record(stored);
}

std::vector<std::byte> encode_trashed(const TrashedVolume& trashed) {
  std::vector<std::byte> bytes(kTimesBytes);
  store_little(bytes.data(), static_cast<std::uint64_t>(trashed.since.unix_seconds));
  store_little(bytes.data() + 8, static_cast<std::uint64_t>(trashed.until.unix_seconds));
  const std::vector<std::byte> record = encode_record(trashed.record);
  bytes.insert(bytes.end(), record.begin(), record.end());
  return bytes;
}

Result<TrashedVolume> decode_trashed(const VolumeId& volume, std::span<const std::byte> bytes) {
  if (bytes.size() < kTimesBytes) {
    return Error(ErrorCode::corrupt,
                 "the record of volume " + volume.to_string() + " in the trash is cut off");
  }
  TrashedVolume trashed;
  trashed.since.unix_seconds = static_cast<std::int64_t>(load_little<std::uint64_t>(bytes.data()));
  trashed.until.unix_seconds =
      static_cast<std::int64_t>(load_little<std::uint64_t>(bytes.data() + 8));
  trashed.record = TRY(decode_record(volume, bytes.subspan(kTimesBytes)));
  return trashed;
}

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto view = as_bytes(text);
  return {view.begin(), view.end()};
}

RadosValue attribute(std::string_view name, std::string_view value) {
  return {std::string(name), bytes_of(value)};
}

}  // namespace holdfast::rados_layout
