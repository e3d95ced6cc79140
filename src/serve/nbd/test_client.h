// SPDX-License-Identifier: Apache-2.0
//
// An NBD client for tests: builds the bytes of a client, and takes apart what a server sent. It is
// the test's own reading of the protocol: it shares only the constants with the server.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "serve/nbd/protocol.h"
#include "serve/testing_bytes.h"

namespace holdfast::nbd {

template <typename T>
void put_big(Bytes& to, T value) {
  to.resize(to.size() + sizeof value);
  store_big(to.data() + to.size() - sizeof value, value);
}
inline void put_text(Bytes& to, std::string_view text) {
  const auto bytes = as_bytes(text);
  to.insert(to.end(), bytes.begin(), bytes.end());
}
inline void put_counted_text(Bytes& to, std::string_view text) {
  put_big(to, static_cast<std::uint32_t>(text.size()));
  put_text(to, text);
}
inline void append(Bytes& to, std::span<const std::byte> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

inline Bytes client_flags(std::uint32_t flags = kFlagFixedNewstyle | kFlagNoZeroes) {
  Bytes bytes;
  put_big(bytes, flags);
  return bytes;
}
inline Bytes option_bytes(std::uint32_t option, std::span<const std::byte> data = {}) {
  Bytes bytes;
  put_big(bytes, kOptionMagic);
  put_big(bytes, option);
  put_big(bytes, static_cast<std::uint32_t>(data.size()));
  append(bytes, data);
  return bytes;
}
inline Bytes option_bytes(Option option, std::span<const std::byte> data = {}) {
  return option_bytes(static_cast<std::uint32_t>(option), data);
}
// GO and INFO.
inline Bytes go_bytes(std::string_view name, std::initializer_list<Info> wanted = {},
                      Option option = Option::go) {
  Bytes data;
  put_counted_text(data, name);
  put_big(data, static_cast<std::uint16_t>(wanted.size()));
  for (const Info info : wanted) put_big(data, static_cast<std::uint16_t>(info));
  return option_bytes(option, data);
}
inline Bytes context_bytes(Option option, std::string_view name,
                           std::initializer_list<std::string_view> queries) {
  Bytes data;
  put_counted_text(data, name);
  put_big(data, static_cast<std::uint32_t>(queries.size()));
  for (const std::string_view query : queries) put_counted_text(data, query);
  return option_bytes(option, data);
}
// Flags, STRUCTURED_REPLY and SET_META_CONTEXT if wanted, GO with the default name.
inline Bytes handshake_bytes(bool structured) {
  Bytes bytes = client_flags();
  if (structured) {
    append(bytes, option_bytes(Option::structured_reply));
    append(bytes, context_bytes(Option::set_meta_context, "", {kAllocationContext}));
  }
  append(bytes, go_bytes(""));
  return bytes;
}

struct RequestOptions {
  std::uint16_t flags = 0;
  std::uint64_t cookie = 1;
  std::uint64_t offset_bytes = 0;
  std::uint32_t length_bytes = 0;
};
inline Bytes request_bytes(std::uint16_t command, const RequestOptions& options,
                           std::span<const std::byte> payload = {}) {
  Bytes bytes;
  put_big(bytes, kRequestMagic);
  put_big(bytes, options.flags);
  put_big(bytes, command);
  put_big(bytes, options.cookie);
  put_big(bytes, options.offset_bytes);
  put_big(bytes, options.length_bytes);
  append(bytes, payload);
  return bytes;
}
inline Bytes request_bytes(Command command, const RequestOptions& options,
                           std::span<const std::byte> payload = {}) {
  return request_bytes(static_cast<std::uint16_t>(command), options, payload);
}

struct OptionAnswer {
  std::uint32_t option = 0;
  OptionReply type{};
  Bytes data;
  std::uint16_t info() const {
    return data.size() < 2 ? 0xffff : load_big<std::uint16_t>(data.data());
  }
};

struct Answer {
  std::uint64_t cookie = 0;
  bool structured = false;
  bool done = false;
  Reply type = Reply::none;
  std::uint32_t error = 0;
  std::string message;
  std::uint64_t offset_bytes = 0;
  Bytes data;
  struct Extent {
    std::uint32_t length_bytes;
    std::uint32_t flags;
    bool operator==(const Extent&) const = default;
  };
  std::vector<Extent> extents;
};

// Takes a server's output apart, from the greeting on. broken() when it is not NBD.
class OutputReader {
 public:
  void add(std::span<const std::byte> bytes) {
    bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(position_));
    position_ = 0;
    append(bytes_, bytes);
  }
  // A simple reply does not say how long its data is.
  void expect_read(std::uint64_t cookie, std::uint32_t length_bytes) {
    reads_[cookie] = length_bytes;
  }

  bool take_greeting() {
    if (!has(kGreetingBytes)) return false;
    const bool good = load_big<std::uint64_t>(at(0)) == kGreetingMagic &&
                      load_big<std::uint64_t>(at(8)) == kOptionMagic &&
                      load_big<std::uint16_t>(at(16)) == (kFlagFixedNewstyle | kFlagNoZeroes);
    position_ += kGreetingBytes;
    return good;
  }
  bool take_option_answer(OptionAnswer& answer) {
    if (!has(kOptionReplyHeaderBytes)) return false;
    if (load_big<std::uint64_t>(at(0)) != kOptionReplyMagic) return fail();
    const auto length = load_big<std::uint32_t>(at(16));
    if (!has(kOptionReplyHeaderBytes + length)) return false;
    answer.option = load_big<std::uint32_t>(at(8));
    answer.type = static_cast<OptionReply>(load_big<std::uint32_t>(at(12)));
    answer.data.assign(at(kOptionReplyHeaderBytes), at(kOptionReplyHeaderBytes) + length);
    position_ += kOptionReplyHeaderBytes + length;
    return true;
  }
  // All answers to options that are there.
  std::vector<OptionAnswer> take_option_answers() {
    std::vector<OptionAnswer> answers;
    OptionAnswer answer;
    while (has(8) && load_big<std::uint64_t>(at(0)) == kOptionReplyMagic &&
           take_option_answer(answer)) {
      answers.push_back(answer);
    }
    return answers;
  }
  std::vector<Answer> take_answers() {
    std::vector<Answer> answers;
    Answer answer;
    while (take_answer(answer)) answers.push_back(std::exchange(answer, {}));
    return answers;
  }
  Bytes take_raw(std::size_t count) {
    if (!has(count)) return {};
    Bytes raw(at(0), at(0) + count);
    position_ += count;
    return raw;
  }
  std::size_t remaining() const { return bytes_.size() - position_; }
  bool broken() const { return broken_; }

 private:
  bool has(std::size_t count) const { return remaining() >= count; }
  const std::byte* at(std::size_t offset) const { return bytes_.data() + position_ + offset; }
  bool fail() {
    broken_ = true;
    return false;
  }
  bool take_answer(Answer& answer) {
    if (broken_ || !has(4)) return false;
    const auto magic = load_big<std::uint32_t>(at(0));
    if (magic == kSimpleReplyMagic) return take_simple(answer);
    if (magic == kStructuredReplyMagic) return take_structured(answer);
    return fail();
  }
  bool take_simple(Answer& answer) {
    if (!has(kSimpleReplyBytes)) return false;
    answer.error = load_big<std::uint32_t>(at(4));
    answer.cookie = load_big<std::uint64_t>(at(8));
    answer.done = true;
    const auto found = reads_.find(answer.cookie);
    const std::size_t length = found == reads_.end() || answer.error != 0 ? 0 : found->second;
    if (!has(kSimpleReplyBytes + length)) return false;
    answer.data.assign(at(kSimpleReplyBytes), at(kSimpleReplyBytes) + length);
    position_ += kSimpleReplyBytes + length;
    return true;
  }
  bool take_structured(Answer& answer) {
    if (!has(kStructuredReplyBytes)) return false;
    const auto length = load_big<std::uint32_t>(at(16));
    if (!has(kStructuredReplyBytes + length)) return false;
    answer.structured = true;
    answer.done = (load_big<std::uint16_t>(at(4)) & kReplyDone) != 0;
    answer.type = static_cast<Reply>(load_big<std::uint16_t>(at(6)));
    answer.cookie = load_big<std::uint64_t>(at(8));
    const std::span<const std::byte> payload(at(kStructuredReplyBytes), length);
    position_ += kStructuredReplyBytes + length;
    return take_payload(answer, payload) || fail();
  }
  static bool take_payload(Answer& answer, std::span<const std::byte> payload) {
    const std::byte* from = payload.data();
    switch (answer.type) {
      case Reply::none:
        return payload.empty();
      case Reply::offset_data:
        if (payload.size() <= 8) return false;
        answer.offset_bytes = load_big<std::uint64_t>(from);
        answer.data.assign(from + 8, from + payload.size());
        return true;
      case Reply::error:
        if (payload.size() < 6 || load_big<std::uint16_t>(from + 4) != payload.size() - 6)
          return false;
        answer.error = load_big<std::uint32_t>(from);
        answer.message = as_text(payload.subspan(6));
        return answer.error != 0;
      case Reply::block_status:
        if (payload.size() < 12 || payload.size() % 8 != 4) return false;
        if (load_big<std::uint32_t>(from) != kAllocationContextId) return false;
        for (std::size_t i = 4; i < payload.size(); i += 8) {
          answer.extents.push_back(
              {load_big<std::uint32_t>(from + i), load_big<std::uint32_t>(from + i + 4)});
        }
        return true;
    }
    return false;
  }

  Bytes bytes_;
  std::size_t position_ = 0;
  bool broken_ = false;
  std::map<std::uint64_t, std::uint32_t> reads_;
};

}  // namespace holdfast::nbd
