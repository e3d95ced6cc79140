// SPDX-License-Identifier: Apache-2.0
//
// What the model says to people when an invariant broke.
#include <algorithm>

#include "sim/volume_model.h"

namespace holdfast::sim {
namespace {

constexpr int kSectorsReported = 6;

bool is_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

void VolumeModel::report_no_cut(std::span<const std::byte> content,
                                const std::vector<bool>& unreadable,
                                const std::vector<std::uint64_t>& cuts,
                                const std::vector<std::uint32_t>& agreeing, std::uint32_t asked) {
  const auto best = std::max_element(agreeing.begin(), agreeing.end());
  const std::uint64_t cut = cuts[static_cast<std::size_t>(best - agreeing.begin())];
  std::string text =
      std::string("after the ") + (power_was_lost_ ? "power loss" : "process's death") +
      " the content is no prefix of the log that holds all of order <= " +
      std::to_string(crash_floor_) + " (acknowledged up to " + std::to_string(last_acknowledged_) +
      ", durable up to " + std::to_string(durable_) + ")\nthe best prefix ends at order " +
      std::to_string(cut) + "; " + std::to_string(asked - *best) + " of " + std::to_string(asked) +
      " sectors contradict it:\n";
  int reported = 0;
  for (std::uint64_t sector = 0; sector < sectors_.size() && reported < kSectorsReported;
       ++sector) {
    if (!unreadable.empty() && unreadable[sector * kSectorBytes / kBlockBytes]) continue;
    const auto bytes = content.subspan(sector * kSectorBytes, kSectorBytes);
    if (explains_cut(sector, bytes, cut)) continue;
    text += describe(sector * kSectorBytes, bytes);
    ++reported;
  }
  scheduler_.fail(power_was_lost_ ? "prefix after power loss" : "acknowledged survives the process",
                  text);
}

std::string VolumeModel::describe_write(std::uint32_t number) const {
  const Write& write = writes_[number];
  if (number == 0) return "the zeros of a new volume";
  std::string text = "write " + std::to_string(number);
  if (write.kind == WriteKind::zeros) text += " (zeros)";
  if (write.kind == WriteKind::discard) text += " (discard)";
  text += " of " + std::to_string(write.length_bytes) + " bytes at " +
          std::to_string(write.offset_bytes) + ", order " + std::to_string(write.low) + ".." +
          (write.high == kNever ? std::string("?") : std::to_string(write.high)) +
          ", submitted at event " + std::to_string(write.submitted_event);
  text += write.acknowledged_event == kNever
              ? ", not acknowledged"
              : ", acknowledged at event " + std::to_string(write.acknowledged_event);
  if (write.is_dropped) text += ", lost in a crash";
  return text;
}

// Names the write that the 8-byte words of the bytes come from, run by run.
std::string VolumeModel::describe_bytes(std::uint64_t offset_bytes,
                                        std::span<const std::byte> bytes) const {
  std::string text;
  std::string last;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t count =
        std::min<std::size_t>(16 - (offset_bytes + at) % 16, bytes.size() - at);
    const auto part = bytes.subspan(at, count);
    std::string name = "bytes that no write made";
    if (is_zero(part)) {
      name = "zeros";
    } else {
      for (std::uint32_t number = 1; number < writes_.size(); ++number) {
        if (writes_[number].kind != WriteKind::data) continue;
        if (matches(number, offset_bytes + at, part)) name = describe_write(number);
      }
    }
    if (name != last) text += "\n    from byte " + std::to_string(offset_bytes + at) + ": " + name;
    last = std::move(name);
    at += count;
  }
  return text;
}

std::string VolumeModel::describe(std::uint64_t offset_bytes,
                                  std::span<const std::byte> bytes) const {
  const std::uint64_t sector = offset_bytes / kSectorBytes;
  std::string text = "  sector " + std::to_string(sector) + " (block " +
                     std::to_string(sector * kSectorBytes / kBlockBytes) + ") shows" +
                     describe_bytes(offset_bytes, bytes);
  text += "\n    its history:";
  for (const std::uint32_t entry : sectors_[sector]) {
    text += "\n      " + std::string((entry & kMaybe) != 0 ? "perhaps " : "") +
            describe_write(entry & ~kMaybe);
  }
  return text + "\n";
}

}  // namespace holdfast::sim
