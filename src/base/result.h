// SPDX-License-Identifier: Apache-2.0
//
// Result<T>: a value or an Error. The control path returns it; nothing of ours throws.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/assert.h"

namespace holdfast {

// Closed set: a code exists only because some caller branches on it.
enum class ErrorCode {
  invalid_argument,  // what was asked for makes no sense; asking again will not help
  not_found,
  already_exists,
  busy,          // somebody holds it now; later it may work
  lease_held,    // the volume belongs to another host, whose lease says so
  no_space,      // the storage is full (ENOSPC, EDQUOT)
  path_failure,  // the storage cannot be reached now (EIO, ETIMEDOUT, ESTALE, ENODEV, ...)
  corrupt,       // bytes failed their check
  unsupported,   // a newer format or an unknown feature
  read_only,
  internal,
};

std::string_view error_code_name(ErrorCode code);

class [[nodiscard]] Error {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

  ErrorCode code() const { return code_; }
  // One line for a person: what happened, why, what to do next.
  const std::string& message() const { return message_; }
  // "<what>: <message>", added at layer boundaries.
  Error context(std::string_view what) && {
    message_.insert(0, ": ").insert(0, what);
    return std::move(*this);
  }

 private:
  ErrorCode code_;
  std::string message_;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}           // NOLINT(google-explicit-constructor)
  Result(Error error) : error_(std::move(error)) {}       // NOLINT(google-explicit-constructor)

  bool ok() const { return value_.has_value(); }
  explicit operator bool() const { return ok(); }
  T& value() & {
    HOLDFAST_ASSERT(ok());
    return *value_;
  }
  const T& value() const& {
    HOLDFAST_ASSERT(ok());
    return *value_;
  }
  T&& value() && {
    HOLDFAST_ASSERT(ok());
    return std::move(*value_);
  }
  T& operator*() & { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const {
    HOLDFAST_ASSERT(!ok());
    return *error_;
  }
  Error take_error() {
    HOLDFAST_ASSERT(!ok());
    return std::move(*error_);
  }
  Result context(std::string_view what) && {
    if (!ok()) return std::move(*error_).context(what);
    return std::move(*this);
  }

 private:
  std::optional<T> value_;
  std::optional<Error> error_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const {
    HOLDFAST_ASSERT(!ok());
    return *error_;
  }
  Error take_error() {
    HOLDFAST_ASSERT(!ok());
    return std::move(*error_);
  }
  Result context(std::string_view what) && {
    if (!ok()) return std::move(*error_).context(what);
    return {};
  }

 private:
  std::optional<Error> error_;
};

}  // namespace holdfast

#define HOLDFAST_CONCAT_INNER(a, b) a##b
#define HOLDFAST_CONCAT(a, b) HOLDFAST_CONCAT_INNER(a, b)

// In functions: `T value = TRY(call());`, `TRY(void_call());`.
#define TRY(expression)                                       \
  ({                                                          \
    auto try_result_ = (expression);                          \
    if (!try_result_.ok()) return try_result_.take_error();   \
    ::holdfast::detail::take_value(std::move(try_result_));   \
  })

// In coroutines (a statement expression that contains co_await crashes g++ 12):
//   CO_TRY_ASSIGN(T value, co_await call());
//   CO_TRY(co_await void_call());
#define CO_TRY(expression) \
  HOLDFAST_CO_TRY_INNER(HOLDFAST_CONCAT(co_try_result_, __LINE__), expression)
#define HOLDFAST_CO_TRY_INNER(name, expression) \
  auto name = (expression);                     \
  if (!name.ok()) co_return name.take_error()
#define CO_TRY_ASSIGN(declaration, expression) \
  HOLDFAST_CO_TRY_ASSIGN_INNER(HOLDFAST_CONCAT(co_try_result_, __LINE__), declaration, expression)
#define HOLDFAST_CO_TRY_ASSIGN_INNER(name, declaration, expression) \
  auto name = (expression);                                         \
  if (!name.ok()) co_return name.take_error();                      \
  declaration = std::move(name).value()

namespace holdfast::detail {
template <typename T>
T take_value(Result<T>&& result) {
  return std::move(result).value();
}
inline void take_value(Result<void>&&) {}
}  // namespace holdfast::detail
