// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/handshake.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "base/limits.h"
#include "base/units.h"

namespace holdfast::nbd {

namespace {

// Bounds-checked big-endian cursor over an option's data; a failed read empties it for good.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> data) : data_(data) {}

  template <typename T>
  std::optional<T> get() {
    if (data_.size() < sizeof(T)) return std::nullopt;
    const T value = load_big<T>(data_.data());
    data_ = data_.subspan(sizeof(T));
    return value;
  }
  std::optional<std::string_view> get_text() {  // a 32-bit length, then so many bytes
    const auto length = get<std::uint32_t>();
    if (!length.has_value() || *length > data_.size()) return std::nullopt;
    const std::string_view text = as_text(data_.first(*length));
    data_ = data_.subspan(*length);
    return text;
  }
  std::size_t remaining() const { return data_.size(); }

 private:
  std::span<const std::byte> data_;
};

// The protocol wants a power of two between 512 and the maximum.
std::uint32_t preferred_block_bytes(const BlockDeviceInfo& info) {
  return std::bit_ceil(
      std::clamp<std::uint32_t>(info.preferred_io_bytes, kBlockBytes, limits::kNbdRequestBytesMax));
}

}  // namespace

Handshake::Handshake(const NbdExport& exported, NbdStatistics& statistics)
    : export_(exported), statistics_(statistics) {
  put(kGreetingMagic);
  put(kOptionMagic);
  put(static_cast<std::uint16_t>(kFlagFixedNewstyle | kFlagNoZeroes));
}

std::size_t Handshake::feed(std::span<const std::byte> input) {
  std::size_t consumed = 0;
  while (state_ == State::more) {
    const std::size_t count = step(input.subspan(consumed));
    if (count == 0) break;
    consumed += count;
  }
  return consumed;
}

// One message, or as much of a skipped one as is there. 0: more input is needed.
std::size_t Handshake::step(std::span<const std::byte> input) {
  if (skip_bytes_ != 0) {
    const std::size_t count = std::min<std::uint64_t>(skip_bytes_, input.size());
    skip_bytes_ -= count;
    return count;
  }
  if (!flags_received_) {
    if (input.size() < kClientFlagsBytes) return 0;
    handle_client_flags(input);
    return kClientFlagsBytes;
  }
  // The magic is checked as soon as it is there: who speaks something else gets no more of our
  // time.
  if (input.size() >= 8 && load_big<std::uint64_t>(input.data()) != kOptionMagic) {
    fail(NbdFault::bad_option_magic);
    return input.size();
  }
  if (input.size() < kOptionHeaderBytes) return 0;
  const auto option = load_big<std::uint32_t>(input.data() + 8);
  const auto length = load_big<std::uint32_t>(input.data() + 12);
  if (option_count_ == limits::kNbdOptionsPerHandshakeMax) {
    fail(NbdFault::too_many_options);
    return input.size();
  }
  if (length > limits::kNbdOptionBytesMax) {
    if (option == static_cast<std::uint32_t>(Option::export_name)) {
      fail(NbdFault::export_name_unknown);
      return input.size();
    }
    refuse(option, OptionReply::error_too_big, NbdFault::option_too_big, "option data too long");
    ++option_count_;
    skip_bytes_ = length;
    return kOptionHeaderBytes;
  }
  if (input.size() - kOptionHeaderBytes < length) return 0;
  ++option_count_;
  handle_option(option, input.subspan(kOptionHeaderBytes, length));
  return kOptionHeaderBytes + length;
}

void Handshake::handle_client_flags(std::span<const std::byte> input) {
  const auto flags = load_big<std::uint32_t>(input.data());
  if ((flags & ~static_cast<std::uint32_t>(kFlagFixedNewstyle | kFlagNoZeroes)) != 0) {
    return fail(NbdFault::bad_client_flags);
  }
  flags_received_ = true;
  fixed_newstyle_ = (flags & kFlagFixedNewstyle) != 0;
  no_zeroes_ = (flags & kFlagNoZeroes) != 0;
}

void Handshake::handle_option(std::uint32_t option, std::span<const std::byte> data) {
  const auto known = static_cast<Option>(option);
  if (!fixed_newstyle_ && known != Option::export_name) return fail(NbdFault::option_not_allowed);
  switch (known) {
    case Option::export_name:
      return handle_export_name(data);
    case Option::abort:
      reply(option, OptionReply::ack, {});
      state_ = State::closing;
      return;
    case Option::list:
      return handle_list(data);
    case Option::info:
    case Option::go:
      return handle_info(known, data);
    case Option::structured_reply:
      return handle_structured_reply(data);
    case Option::list_meta_context:
    case Option::set_meta_context:
      return handle_meta_context(known, data);
  }
  refuse(option, OptionReply::error_unsupported, NbdFault::option_unsupported,
         "option not supported");
}

void Handshake::handle_export_name(std::span<const std::byte> data) {
  const std::string_view name = as_text(data);
  if (!is_export(name)) return fail(NbdFault::export_name_unknown);
  put(export_.device.info().size_bytes);
  put(transmission_flags());
  if (!no_zeroes_) output_.resize(output_.size() + kExportNameZeroBytes);
  enter_transmission(name);
}

void Handshake::handle_list(std::span<const std::byte> data) {
  const auto option = static_cast<std::uint32_t>(Option::list);
  if (!data.empty()) {
    return refuse(option, OptionReply::error_invalid, NbdFault::option_malformed,
                  "LIST takes no data");
  }
  std::vector<std::byte> entry(sizeof(std::uint32_t));
  store_big(entry.data(), static_cast<std::uint32_t>(export_.name.size()));
  const auto append = [&entry](std::string_view text) {
    entry.insert(entry.end(), as_bytes(text).begin(), as_bytes(text).end());
  };
  append(export_.name);
  append(export_.description);
  reply(option, OptionReply::server, entry);
  reply(option, OptionReply::ack, {});
}

void Handshake::handle_info(Option known, std::span<const std::byte> data) {
  const auto option = static_cast<std::uint32_t>(known);
  Cursor cursor(data);
  const auto name = cursor.get_text();
  const auto request_count = cursor.get<std::uint16_t>();
  if (!name.has_value() || !request_count.has_value() ||
      cursor.remaining() != *request_count * sizeof(std::uint16_t)) {
    return refuse(option, OptionReply::error_invalid, NbdFault::option_malformed,
                  "malformed INFO or GO");
  }
  if (!is_export(*name)) {
    return refuse(option, OptionReply::error_unknown, NbdFault::option_export_unknown,
                  "no export of that name here");
  }
  bool wants_name = false;
  bool wants_description = false;
  while (const auto wanted = cursor.get<std::uint16_t>()) {
    if (*wanted == static_cast<std::uint16_t>(Info::name)) wants_name = true;
    if (*wanted == static_cast<std::uint16_t>(Info::description)) wants_description = true;
  }
  std::byte info[14];
  store_big(info, static_cast<std::uint16_t>(Info::export_size));
  store_big(info + 2, export_.device.info().size_bytes);
  store_big(info + 10, transmission_flags());
  reply(option, OptionReply::info, std::span(info).first(12));
  if (wants_name) reply_info(option, Info::name, export_.name);
  if (wants_description && !export_.description.empty()) {
    reply_info(option, Info::description, export_.description);
  }
  // Sent unasked, too: every size and alignment works, but whole blocks work best.
  store_big(info, static_cast<std::uint16_t>(Info::block_size));
  store_big(info + 2, std::uint32_t{1});
  store_big(info + 6, preferred_block_bytes(export_.device.info()));
  store_big(info + 10, limits::kNbdRequestBytesMax);
  reply(option, OptionReply::info, info);
  reply(option, OptionReply::ack, {});
  if (known == Option::go) enter_transmission(*name);
}

void Handshake::handle_structured_reply(std::span<const std::byte> data) {
  const auto option = static_cast<std::uint32_t>(Option::structured_reply);
  if (!data.empty()) {
    return refuse(option, OptionReply::error_invalid, NbdFault::option_malformed,
                  "STRUCTURED_REPLY takes no data");
  }
  negotiated_.structured_replies = true;
  reply(option, OptionReply::ack, {});
}

void Handshake::handle_meta_context(Option known, std::span<const std::byte> data) {
  const auto option = static_cast<std::uint32_t>(known);
  const bool is_set = known == Option::set_meta_context;
  if (is_set) negotiated_.allocation_context = false;  // also when this one fails
  Cursor cursor(data);
  const auto name = cursor.get_text();
  const auto query_count = cursor.get<std::uint32_t>();
  bool well_formed = name.has_value() && query_count.has_value();
  bool matches = well_formed && !is_set && *query_count == 0;
  for (std::uint32_t i = 0; well_formed && i < *query_count; ++i) {
    const auto query = cursor.get_text();
    well_formed = query.has_value();
    if (!well_formed) break;
    if (*query == kAllocationContext || (!is_set && *query == "base:")) matches = true;
  }
  if (!well_formed || cursor.remaining() != 0) {
    return refuse(option, OptionReply::error_invalid, NbdFault::option_malformed,
                  "malformed metadata context option");
  }
  if (!negotiated_.structured_replies) {
    return refuse(option, OptionReply::error_invalid, NbdFault::option_malformed,
                  "metadata contexts need structured replies");
  }
  if (!is_export(*name)) {
    return refuse(option, OptionReply::error_unknown, NbdFault::option_export_unknown,
                  "no export of that name here");
  }
  if (matches) {
    std::vector<std::byte> entry(sizeof(std::uint32_t));
    store_big(entry.data(), is_set ? kAllocationContextId : 0);
    entry.insert(entry.end(), as_bytes(kAllocationContext).begin(),
                 as_bytes(kAllocationContext).end());
    reply(option, OptionReply::meta_context, entry);
  }
  if (is_set) {
    negotiated_.allocation_context = matches;
    context_export_name_ = *name;
  }
  reply(option, OptionReply::ack, {});
}

void Handshake::enter_transmission(std::string_view export_name) {
  // A context counts only for the export it was selected for.
  if (export_name != context_export_name_) negotiated_.allocation_context = false;
  state_ = State::transmission;
}

bool Handshake::is_export(std::string_view name) const {
  return name.empty() || name == export_.name;
}

std::uint16_t Handshake::transmission_flags() const {
  std::uint32_t flags = kHasFlags | kSendFlush | kSendFua | kCanMultiConnect;
  if (is_read_only(export_)) {
    flags |= kReadOnly;
  } else {
    flags |= kSendTrim | kSendWriteZeroes;
  }
  if (negotiated_.structured_replies) flags |= kSendDontFragment;
  return static_cast<std::uint16_t>(flags);
}

void Handshake::fail(NbdFault fault) {
  statistics_.count(fault);
  state_ = State::failed;
}

void Handshake::refuse(std::uint32_t option, OptionReply error, NbdFault fault,
                       std::string_view message) {
  statistics_.count(fault);
  reply(option, error, as_bytes(message));
}

void Handshake::reply(std::uint32_t option, OptionReply type, std::span<const std::byte> data) {
  put(kOptionReplyMagic);
  put(option);
  put(static_cast<std::uint32_t>(type));
  put(static_cast<std::uint32_t>(data.size()));
  put_bytes(data);
}

void Handshake::reply_info(std::uint32_t option, Info info, std::string_view text) {
  std::vector<std::byte> data(sizeof(std::uint16_t));
  store_big(data.data(), static_cast<std::uint16_t>(info));
  data.insert(data.end(), as_bytes(text).begin(), as_bytes(text).end());
  reply(option, OptionReply::info, data);
}

template <typename T>
void Handshake::put(T value) {
  output_.resize(output_.size() + sizeof value);
  store_big(output_.data() + output_.size() - sizeof value, value);
}

void Handshake::put_bytes(std::span<const std::byte> bytes) {
  output_.insert(output_.end(), bytes.begin(), bytes.end());
}

}  // namespace holdfast::nbd
