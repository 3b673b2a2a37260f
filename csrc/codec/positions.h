// From what gap codes hold to positions, and where these go.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "codec/format.h"
#include "codec/gap_code.h"
#include "codec/gap_kernels.h"

namespace sparsefl::codec {

inline constexpr int kMaxParameter = 22;

constexpr size_t bytes_of(size_t bits) { return (bits + 7) / 8; }

// Lows of a code, whose last may be the last bytes that may be read.
class Lows {
 public:
  Lows(const uint8_t* data, const uint8_t* end, int width)
      : data_(data), end_(end), width_(static_cast<size_t>(width)) {}

  // The lows of the next `count` positions, with kGapSlack bytes to read behind them. `count` is a
  // multiple of 16 but for the last call.
  const uint8_t* take(size_t count) {
    const size_t bytes = bytes_of(count * width_);
    const uint8_t* const from = data_;
    data_ += bytes;
    const auto left = static_cast<size_t>(end_ - from);
    if (bytes + kGapSlack <= left) return from;
    std::memcpy(held_, from, std::min(left, bytes));
    std::memset(held_ + bytes, 0, kGapSlack);
    return held_;
  }

 private:
  const uint8_t* data_;
  const uint8_t* end_;
  size_t width_;
  uint8_t held_[(kIndexBlock + 16) * kMaxParameter / 8 + 8 + kGapSlack];
};

// Turns quotients and lows into positions, a block at a time.
class Positions {
 public:
  Positions(size_t n, int width, const PositionSink& sink) : n_(n), width_(width), sink_(sink) {}

  // Returns false where a position is not below n. `count` <= kIndexBlock + 16.
  bool put(const uint16_t* quotients, const uint8_t* lows, size_t count) {
    uint32_t* const out = sink_.indices != nullptr ? sink_.indices + done_ : held_;
    next_ = gap_kernels().make_indices(quotients, lows, count, width_, next_, out);
    return accept(out, count);
  }

  // The same of one wide quotient.
  bool put_wide(uint64_t quotient, uint32_t low) {
    uint32_t* const out = sink_.indices != nullptr ? sink_.indices + done_ : held_;
    const uint64_t at = next_ + (quotient << width_) + low;
    if (at >= n_) return false;
    *out = static_cast<uint32_t>(at);
    next_ = *out + 1;
    return accept(out, 1);
  }

 private:
  bool accept(const uint32_t* indices, size_t count) {
    done_ += count;
    if (next_ > n_) return false;
    if (sink_.bits != nullptr) gap_kernels().set_bits(indices, count, sink_.bits);
    return true;
  }

  size_t n_;
  int width_;
  PositionSink sink_;
  size_t done_ = 0;
  uint32_t next_ = 0;
  uint32_t held_[kIndexBlock + 16 + 16];
};

// Lows one by one.
class LowReader {
 public:
  LowReader(const uint8_t* data, size_t bytes, int width)
      : data_(data), bytes_(bytes), width_(width), mask_((1u << width) - 1) {}

  // A low has at most 22 bits and starts in any of 8: four bytes hold it.
  uint32_t next() {
    const size_t at = at_ >> 3;
    uint32_t word = 0;
    std::memcpy(&word, data_ + at, std::min<size_t>(sizeof word, bytes_ - at));
    const uint32_t low = (word >> (at_ & 7)) & mask_;
    at_ += static_cast<size_t>(width_);
    return low;
  }

 private:
  const uint8_t* data_;
  size_t bytes_;
  int width_;
  uint32_t mask_;
  size_t at_ = 0;
};

// Clears the bits where those are what is asked for.
inline void clear(size_t n, const PositionSink& sink) {
  if (sink.bits != nullptr) std::memset(sink.bits, 0, bytes_of(n));
}

}  // namespace sparsefl::codec
