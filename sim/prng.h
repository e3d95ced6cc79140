// SPDX-License-Identifier: Apache-2.0
//
// The simulator's one source of randomness: xoshiro256** seeded by splitmix64. Everything random in
// a run is drawn from generators derived from the run's seed, in a fixed order, so a seed replays.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/assert.h"
#include "base/time.h"

namespace holdfast::sim {

constexpr std::uint64_t splitmix64(std::uint64_t& state) {
  state += 0x9E3779B97F4A7C15ull;
  std::uint64_t value = state;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ull;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBull;
  return value ^ (value >> 31);
}

// A good mix of two numbers; used for hashes of events and stamps of sectors.
constexpr std::uint64_t mix64(std::uint64_t a, std::uint64_t b) {
  std::uint64_t state = a ^ std::rotl(b * 0x9E3779B97F4A7C15ull, 29);
  return splitmix64(state);
}

class Prng {
 public:
  explicit Prng(std::uint64_t seed) {
    for (std::uint64_t& word : state_) word = splitmix64(seed);
  }

  std::uint64_t next() {
    const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }
  // Uniform in [0, bound); bound > 0. The bias of the modulus does not matter here.
  std::uint64_t below(std::uint64_t bound) {
    HOLDFAST_ASSERT(bound > 0);
    return next() % bound;
  }
  // Uniform in [low, high], both included.
  std::uint64_t between(std::uint64_t low, std::uint64_t high) {
    HOLDFAST_ASSERT(low <= high);
    return low + below(high - low + 1);
  }
  Duration between(Duration low, Duration high) {
    return Duration(static_cast<std::int64_t>(between(static_cast<std::uint64_t>(low.count()),
                                                      static_cast<std::uint64_t>(high.count()))));
  }
  bool chance(double probability) {
    return static_cast<double>(next() >> 11) * 0x1.0p-53 < probability;
  }
  // One of the given values.
  template <typename T, std::size_t kCount>
  T pick(const T (&values)[kCount]) {
    return values[below(kCount)];
  }
  // An independent generator.
  Prng fork() { return Prng(next()); }

 private:
  std::array<std::uint64_t, 4> state_{};
};

}  // namespace holdfast::sim
