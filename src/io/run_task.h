// SPDX-License-Identifier: Apache-2.0
//
// Running a coroutine to its end from ordinary code: tests, start-up, tools.
#pragma once

#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/assert.h"
#include "io/task.h"

namespace holdfast {

namespace detail {
template <typename T>
Task<void> store_result(Task<T> task, std::optional<T>* result) {
  result->emplace(co_await task);
}
}  // namespace detail

// `run_until(predicate)` runs the executor until the predicate holds.
template <typename T>
T run_task(const std::function<void(const std::function<bool()>&)>& run_until, Task<T> task) {
  std::optional<T> result;
  TaskScope scope;
  scope.spawn(detail::store_result(std::move(task), &result));
  if (!result.has_value()) run_until([&] { return result.has_value(); });
  HOLDFAST_ASSERT(result.has_value());
  return std::move(*result);
}

}  // namespace holdfast
