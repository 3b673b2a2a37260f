// The same random numbers on every machine, and those that programs get wrong.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsefl::fuzz {

// Knuth's MMIX generator.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) { next(); }

  uint32_t next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 32);
  }
  uint64_t next64() { return uint64_t{next()} << 32 | next(); }
  // Less than n, which is not 0.
  size_t below(size_t n) { return next64() % n; }
  bool one_in(size_t n) { return below(n) == 0; }
  uint8_t byte() { return static_cast<uint8_t>(next() >> 8); }

  // A number near a power of two or an end of a field.
  uint64_t hostile() {
    switch (below(4)) {
      case 0:
        return below(4);
      case 1:
        return (uint64_t{1} << below(64)) + below(3) - 1;
      case 2:
        return ~uint64_t{0} - below(3);
      default:
        return next64() >> below(64);
    }
  }

 private:
  uint64_t state_;
};

}  // namespace sparsefl::fuzz
