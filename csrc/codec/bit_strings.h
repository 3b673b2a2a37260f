// Pieces of bit strings that begin at any bit.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sparsefl::codec {

// Bits [at, at + width) of `bytes` bytes, 1 <= width <= 56, all of them there.
inline uint64_t get_bits(const uint8_t* data, size_t bytes, size_t at, size_t width) {
  uint64_t word = 0;
  std::memcpy(&word, data + at / 8, std::min<size_t>(8, bytes - at / 8));
  return (word >> (at % 8)) & ((uint64_t{1} << width) - 1);
}

// Sets those of the bits from `at` on that are set in `value`, 1 <= width <= 56.
inline void or_bits(uint8_t* data, size_t bytes, size_t at, size_t width, uint64_t value) {
  const size_t touched = std::min<size_t>((at % 8 + width + 7) / 8, bytes - at / 8);
  uint64_t word = 0;
  std::memcpy(&word, data + at / 8, touched);
  word |= value << (at % 8);
  std::memcpy(data + at / 8, &word, touched);
}

inline constexpr size_t kPieceBits = 56;

// Copies bits to clear ones.
inline void copy_bits(const uint8_t* from, size_t from_bytes, size_t from_at, size_t width,
                      uint8_t* to, size_t to_bytes, size_t to_at) {
  for (size_t i = 0; i < width; i += kPieceBits) {
    const size_t piece = std::min(kPieceBits, width - i);
    or_bits(to, to_bytes, to_at + i, piece, get_bits(from, from_bytes, from_at + i, piece));
  }
}

// Sets bits [at, at + width).
inline void set_run(uint8_t* data, size_t bytes, size_t at, size_t width) {
  for (size_t i = 0; i < width; i += kPieceBits) {
    const size_t piece = std::min(kPieceBits, width - i);
    or_bits(data, bytes, at + i, piece, (uint64_t{1} << piece) - 1);
  }
}

}  // namespace sparsefl::codec
