// SPDX-License-Identifier: Apache-2.0
#include "base/rbd_stream.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/limits.h"

namespace holdfast {
namespace {

constexpr std::string_view kDiffBanner1 = "rbd diff v1\n";
constexpr std::string_view kDiffBanner2 = "rbd diff v2\n";
constexpr std::string_view kImageBanner = "rbd image v2\n";
constexpr std::string_view kDiffsBanner = "rbd image diffs v2\n";
static_assert(kDiffBanner1.size() == kDiffBanner2.size());
static_assert(kDiffBanner1.size() + 1 == kImageBanner.size());

// "'x'", or its number where it cannot be printed.
std::string shown(char tag) {
  const auto value = static_cast<unsigned char>(tag);
  if (value > 0x20 && value < 0x7f) return std::string("'") + tag + "'";
  return std::to_string(value);
}

void append(std::vector<std::byte>& out, std::string_view text) {
  const auto bytes = as_bytes(text);
  out.insert(out.end(), bytes.begin(), bytes.end());
}
template <typename T>
void append_number(std::vector<std::byte>& out, T value) {
  const std::size_t at = out.size();
  out.resize(at + sizeof value);
  store_little(out.data() + at, value);
}
void append_tag(std::vector<std::byte>& out, RbdVersion version, char tag, std::uint64_t bytes) {
  out.push_back(static_cast<std::byte>(tag));
  if (version == RbdVersion::v2) append_number(out, bytes);
}
void append_name(std::vector<std::byte>& out, RbdVersion version, char tag,
                 const std::string& name) {
  append_tag(out, version, tag, sizeof(std::uint32_t) + name.size());
  append_number(out, static_cast<std::uint32_t>(name.size()));
  append(out, name);
}

}  // namespace

// --- Reading ---

bool RbdStreamReader::is_rbd_stream(std::span<const std::byte> beginning) {
  const std::string_view text = as_text(beginning);
  return text.starts_with("rbd diff v") || text.starts_with("rbd image v");
}

Error RbdStreamReader::refuse(std::string why) const {
  return Error(ErrorCode::corrupt, "the stream makes no sense at byte " +
                                       std::to_string(position_bytes_) + ": " + std::move(why));
}

// Brings `bytes` into gathered_; false: there are not so many yet. Calls with the same number.
bool RbdStreamReader::gather(std::size_t bytes) {
  const std::size_t taken = std::min(bytes - gathered_.size(), input_.size());
  gathered_.insert(gathered_.end(), input_.begin(),
                   input_.begin() + static_cast<std::ptrdiff_t>(taken));
  input_ = input_.subspan(taken);
  position_bytes_ += taken;
  return gathered_.size() == bytes;
}

bool RbdStreamReader::skip() {
  const std::size_t taken =
      static_cast<std::size_t>(std::min<std::uint64_t>(skip_bytes_, input_.size()));
  input_ = input_.subspan(taken);
  position_bytes_ += taken;
  skip_bytes_ -= taken;
  return skip_bytes_ == 0;
}

void RbdStreamReader::expect(State state) {
  gathered_.clear();
  state_ = state;
}

Result<RbdStreamReader::Event> RbdStreamReader::next() {
  for (;;) {
    bool has_event = false;
    const Event event = TRY(step(&has_event));
    if (has_event) return event;
  }
}

// One step; `*has_event`: it is to be reported. Otherwise the state changed, which takes bytes.
Result<RbdStreamReader::Event> RbdStreamReader::step(bool* has_event) {
  const auto report = [has_event](Event event) {
    *has_event = true;
    return event;
  };
  switch (state_) {
    case State::banner:
    case State::diff_banner:
      if (!gather(kDiffBanner1.size())) return report(Event::need_input);
      TRY(read_diff_banner());
      break;
    case State::image_banner:
      if (!gather(1)) return report(Event::need_input);
      if (gathered_[0] != std::byte{'\n'}) return refuse("its first line does not end");
      expect(State::property);
      break;
    case State::property:
      if (!gather(1)) return report(Event::need_input);
      tag_ = static_cast<char>(gathered_[0]);
      expect(tag_ == 'E' ? State::diffs_banner : State::property_length);
      break;
    case State::property_length:
      if (!gather(sizeof(std::uint64_t))) return report(Event::need_input);
      skip_bytes_ = load_little<std::uint64_t>(gathered_.data());
      expect(State::skip_property);
      break;
    case State::skip_property:  // how Ceph stored it; here it is stored otherwise
      if (!skip()) return report(Event::need_input);
      expect(State::property);
      break;
    case State::diffs_banner:
      if (!gather(kDiffsBanner.size() + sizeof(std::uint64_t))) return report(Event::need_input);
      TRY(read_image_count());
      break;
    case State::tag:
      if (!gather(1)) return report(Event::need_input);
      tag_ = static_cast<char>(gathered_[0]);
      if (!is_announced_ && (tag_ == 'w' || tag_ == 'z' || tag_ == 'e')) {
        TRY(check_diff());
        is_announced_ = true;
        return report(Event::diff);  // and come back to this tag, which stays gathered
      }
      if (tag_ != 'e') {
        TRY(read_tag());
        break;
      }
      previous_to_ = diff_.to;
      ++diff_index_;
      expect(diff_index_ == diff_count_ ? State::done : State::diff_banner);
      return report(Event::diff_end);
    case State::record_length:
      if (!gather(sizeof(std::uint64_t))) return report(Event::need_input);
      TRY(read_record_length());
      break;
    case State::name_length:
      if (!gather(sizeof(std::uint32_t))) return report(Event::need_input);
      TRY(read_name_length());
      break;
    case State::name:
      if (!gather(name_bytes_)) return report(Event::need_input);
      (tag_ == 'f' ? diff_.from : diff_.to) = std::string(as_text(gathered_));
      expect(State::tag);
      break;
    case State::size:
      if (!gather(sizeof(std::uint64_t))) return report(Event::need_input);
      if (has_size_) return refuse("it gives the image's size twice");
      diff_.size_bytes = load_little<std::uint64_t>(gathered_.data());
      has_size_ = true;
      expect(State::tag);
      break;
    case State::protection:  // here a snapshot is protected while it has clones, and only then
      if (!gather(1)) return report(Event::need_input);
      expect(State::tag);
      break;
    case State::extent:
      if (!gather(2 * sizeof(std::uint64_t))) return report(Event::need_input);
      TRY(read_extent());
      if (tag_ == 'z' && length_bytes_ != 0) return report(Event::zero);
      break;
    case State::data: {
      if (left_bytes_ == 0) {
        expect(State::tag);
        break;
      }
      if (input_.empty()) return report(Event::need_input);
      const std::size_t taken =
          static_cast<std::size_t>(std::min<std::uint64_t>(left_bytes_, input_.size()));
      offset_bytes_ += length_bytes_;  // of the piece before
      length_bytes_ = taken;
      bytes_ = input_.first(taken);
      input_ = input_.subspan(taken);
      position_bytes_ += taken;
      left_bytes_ -= taken;
      return report(Event::data);
    }
    case State::skip_record:
      if (!skip()) return report(Event::need_input);
      expect(State::tag);
      break;
    case State::done:
      if (!input_.empty()) {
        return refuse("it goes on behind its end; only one diff can be in a stream");
      }
      return report(Event::end);
  }
  return Event::need_input;
}

Result<void> RbdStreamReader::read_diff_banner() {
  const std::string_view text = as_text(gathered_);
  if (text == kDiffBanner1 || text == kDiffBanner2) {
    version_ = text == kDiffBanner1 ? RbdVersion::v1 : RbdVersion::v2;
    diff_ = {};
    has_size_ = false;
    is_announced_ = false;
    expect(State::tag);
    return {};
  }
  if (state_ == State::banner && text == kImageBanner.substr(0, text.size())) {
    is_image_ = true;
    expect(State::image_banner);
    return {};
  }
  if (is_rbd_stream(gathered_)) {
    return Error(ErrorCode::unsupported,
                 "the stream is of a version that is not known here; known are 'rbd diff' v1 and "
                 "v2 and 'rbd image' v2");
  }
  if (state_ == State::diff_banner) return refuse("a diff should begin here");
  return Error(ErrorCode::corrupt,
               "this is no RBD stream: it begins neither as 'rbd export-diff' nor as 'rbd export "
               "--export-format 2' writes it");
}

Result<void> RbdStreamReader::read_image_count() {
  if (!as_text(gathered_).starts_with(kDiffsBanner)) return refuse("the diffs should begin here");
  diff_count_ = load_little<std::uint64_t>(gathered_.data() + kDiffsBanner.size());
  if (diff_count_ == 0 || diff_count_ > limits::kSnapshotsPerVolumeMax + 1) {
    return refuse("it says that it has " + std::to_string(diff_count_) + " diffs, and 1 to " +
                  std::to_string(limits::kSnapshotsPerVolumeMax + 1) + " are possible");
  }
  expect(State::diff_banner);
  return {};
}

Result<void> RbdStreamReader::read_tag() {
  if (version_ == RbdVersion::v2) {
    expect(State::record_length);
    return {};
  }
  return start_record();
}

Result<void> RbdStreamReader::read_record_length() {
  record_bytes_ = load_little<std::uint64_t>(gathered_.data());
  return start_record();
}

Result<void> RbdStreamReader::start_record() {
  switch (tag_) {
    case 'f':
    case 't':
    case 's':
    case 'p':
      if (is_announced_) return refuse("record " + shown(tag_) + " comes after data");
      if (tag_ == 's') TRY(check_record_length(sizeof(std::uint64_t)));
      // Ceph 16.2 says 8, and writes 1 byte all the same.
      if (tag_ == 'p' && record_bytes_ != 8) TRY(check_record_length(1));
      expect(tag_ == 's' ? State::size : tag_ == 'p' ? State::protection : State::name_length);
      return {};
    case 'w':
    case 'z':
      expect(State::extent);
      return {};
    default:
      break;
  }
  if (version_ == RbdVersion::v1) return refuse("there is no record " + shown(tag_));
  skip_bytes_ = record_bytes_;
  expect(State::skip_record);
  return {};
}

// Version 2 says lengths twice.
Result<void> RbdStreamReader::check_record_length(std::uint64_t expected) const {
  if (version_ == RbdVersion::v1 || record_bytes_ == expected) return {};
  return refuse("record " + shown(tag_) + " says that it has " + std::to_string(record_bytes_) +
                " bytes, but it has " + std::to_string(expected));
}

Result<void> RbdStreamReader::read_name_length() {
  const std::uint32_t bytes = load_little<std::uint32_t>(gathered_.data());
  if (bytes == 0 || bytes > limits::kRbdNameBytesMax) {
    return refuse("a snapshot's name cannot have " + std::to_string(bytes) + " bytes");
  }
  TRY(check_record_length(sizeof bytes + std::uint64_t{bytes}));
  if (!(tag_ == 'f' ? diff_.from : diff_.to).empty()) {
    return refuse("record " + shown(tag_) + " is there twice");
  }
  name_bytes_ = bytes;
  expect(State::name);
  return {};
}

Result<void> RbdStreamReader::read_extent() {
  offset_bytes_ = load_little<std::uint64_t>(gathered_.data());
  const std::uint64_t bytes = load_little<std::uint64_t>(gathered_.data() + sizeof(std::uint64_t));
  if (offset_bytes_ > diff_.size_bytes || bytes > diff_.size_bytes - offset_bytes_) {
    return refuse("it has " + std::to_string(bytes) + " bytes for offset " +
                  std::to_string(offset_bytes_) + ", but says that the image has " +
                  std::to_string(diff_.size_bytes) + " bytes");
  }
  TRY(check_record_length(2 * sizeof(std::uint64_t) + (tag_ == 'w' ? bytes : 0)));
  if (tag_ == 'z') {
    length_bytes_ = bytes;
    expect(State::tag);
    return {};
  }
  left_bytes_ = bytes;
  length_bytes_ = 0;
  expect(State::data);
  return {};
}

// All that says something of the diff has been read.
Result<void> RbdStreamReader::check_diff() const {
  if (!has_size_) return refuse("it does not give the image's size");
  if (!is_image_) return {};
  if (diff_.from != previous_to_) {
    return refuse("its diffs do not follow each other: one begins at '" + diff_.from +
                  "', the one before ends at '" + previous_to_ + "'");
  }
  if (diff_.to.empty() && diff_index_ + 1 != diff_count_) {
    return refuse("diff " + std::to_string(diff_index_ + 1) + " of " + std::to_string(diff_count_) +
                  " ends at no snapshot");
  }
  return {};
}

Result<void> RbdStreamReader::finish() const {
  if (state_ == State::done && input_.empty()) return {};
  if (position_bytes_ == 0) return Error(ErrorCode::corrupt, "the stream is empty");
  return Error(ErrorCode::corrupt, "the stream was cut off: it ends after " +
                                       std::to_string(position_bytes_) +
                                       " bytes, before its end is reached");
}

// --- Writing ---

std::vector<std::byte> encode_rbd_diff_begin(RbdVersion version, const RbdDiff& diff) {
  std::vector<std::byte> out;
  append(out, version == RbdVersion::v1 ? kDiffBanner1 : kDiffBanner2);
  if (!diff.from.empty()) append_name(out, version, 'f', diff.from);
  if (!diff.to.empty()) append_name(out, version, 't', diff.to);
  if (!diff.to.empty() && version == RbdVersion::v2) {
    append_tag(out, version, 'p', 1);
    out.push_back(std::byte{0});
  }
  append_tag(out, version, 's', sizeof diff.size_bytes);
  append_number(out, diff.size_bytes);
  return out;
}

std::vector<std::byte> encode_rbd_extent(RbdVersion version, bool is_zero,
                                         std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  std::vector<std::byte> out;
  append_tag(out, version, is_zero ? 'z' : 'w',
             2 * sizeof(std::uint64_t) + (is_zero ? 0 : length_bytes));
  append_number(out, offset_bytes);
  append_number(out, length_bytes);
  return out;
}

std::vector<std::byte> encode_rbd_diff_end() {
  return {std::byte{'e'}};
}

std::vector<std::byte> encode_rbd_image_begin(std::uint64_t diff_count) {
  std::vector<std::byte> out;
  append(out, kImageBanner);
  out.push_back(std::byte{'E'});
  append(out, kDiffsBanner);
  append_number(out, diff_count);
  return out;
}

}  // namespace holdfast
