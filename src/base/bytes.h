// SPDX-License-Identifier: Apache-2.0
//
// The only code that turns integers into bytes and back. Little-endian unless the name says big.
// ByteWriter and ByteReader are bounds-checked cursors for persisted structs and protocols: a
// writer that overruns is our bug (assertion); a reader that overruns met bad input and says so
// through ok().
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/assert.h"

namespace holdfast {

template <typename T>
inline T load_little(const std::byte* from) {
  static_assert(std::is_unsigned_v<T>);
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;  // every supported host is little-endian; checked below
}
template <typename T>
inline void store_little(std::byte* to, T value) {
  static_assert(std::is_unsigned_v<T>);
  std::memcpy(to, &value, sizeof value);
}
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "big-endian hosts are not supported");

template <typename T>
inline T swap_bytes(T value) {
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
  return value;
}
template <typename T>
inline T load_big(const std::byte* from) {
  return swap_bytes(load_little<T>(from));
}
template <typename T>
inline void store_big(std::byte* to, T value) {
  store_little(to, swap_bytes(value));
}

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class ByteWriter {
 public:
  explicit ByteWriter(std::span<std::byte> target) : target_(target) {}

  template <typename T>
  void put(T value) {
    store_little(claim(sizeof value), value);
  }
  void put_bytes(std::span<const std::byte> bytes) {
    if (!bytes.empty()) std::memcpy(claim(bytes.size()), bytes.data(), bytes.size());
  }
  void put_zeros(std::size_t count) {
    if (count != 0) std::memset(claim(count), 0, count);
  }
  // A fixed field of `field_bytes`, zero-padded; the text must fit.
  void put_text(std::string_view text, std::size_t field_bytes) {
    HOLDFAST_ASSERT(text.size() <= field_bytes);
    put_bytes(as_bytes(text));
    put_zeros(field_bytes - text.size());
  }
  void fill_rest_with_zeros() { put_zeros(target_.size() - position_); }
  std::size_t position() const { return position_; }

 private:
  std::byte* claim(std::size_t count) {
    HOLDFAST_ASSERT(count <= target_.size() - position_);
    std::byte* at = target_.data() + position_;
    position_ += count;
    return at;
  }

  std::span<std::byte> target_;
  std::size_t position_ = 0;
};

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> source) : source_(source) {}

  template <typename T>
  T get() {
    const std::byte* at = claim(sizeof(T));
    return at == nullptr ? T{0} : load_little<T>(at);
  }
  void get_bytes(std::span<std::byte> out) {
    if (out.empty()) return;
    const std::byte* at = claim(out.size());
    if (at != nullptr) std::memcpy(out.data(), at, out.size());
  }
  // A zero-padded field. Bytes behind the first zero must be zero too, else ok() turns false.
  std::string get_text(std::size_t field_bytes) {
    const std::byte* at = claim(field_bytes);
    if (at == nullptr) return {};
    const std::string_view field(reinterpret_cast<const char*>(at), field_bytes);
    const std::size_t end = field.find('\0');
    if (end == std::string_view::npos) return std::string(field);
    if (field.find_first_not_of('\0', end) != std::string_view::npos) ok_ = false;
    return std::string(field.substr(0, end));
  }
  // Reserved bytes: anything but zero turns ok() false.
  void expect_zeros(std::size_t count) {
    const std::byte* at = claim(count);
    for (std::size_t i = 0; at != nullptr && i < count; ++i) {
      if (at[i] != std::byte{0}) ok_ = false;
    }
  }
  bool ok() const { return ok_; }
  std::size_t position() const { return position_; }
  std::size_t remaining() const { return source_.size() - position_; }

 private:
  const std::byte* claim(std::size_t count) {
    if (!ok_ || count > source_.size() - position_) {
      ok_ = false;
      return nullptr;
    }
    const std::byte* at = source_.data() + position_;
    position_ += count;
    return at;
  }

  std::span<const std::byte> source_;
  std::size_t position_ = 0;
  bool ok_ = true;
};

}  // namespace holdfast
