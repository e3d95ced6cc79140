// SPDX-License-Identifier: Apache-2.0
//
// Assertions that stay on in every build: they guard our own invariants. Never used on bytes that
// came from a disk, a guest, a client or a peer; those are errors (result.h), counted and named.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace holdfast {

[[noreturn]] inline void assertion_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "holdfast: assertion failed: %s (%s:%d)\n", expression, file, line);
  std::fflush(stderr);
  std::abort();
}

}  // namespace holdfast

#define HOLDFAST_ASSERT(expression)                                       \
  (static_cast<bool>(expression)                                          \
       ? static_cast<void>(0)                                             \
       : ::holdfast::assertion_failed(#expression, __FILE__, __LINE__))
