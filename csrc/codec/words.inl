// 64-bit words of bitmaps, for the files of one instruction set.
#pragma once

namespace sparsefl::codec {
namespace {

inline uint64_t load_word(const uint8_t* p) {
  uint64_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return word;
}

inline void store_word(uint8_t* p, uint64_t word) { __builtin_memcpy(p, &word, sizeof(word)); }

// The first `bytes` bytes of a word, all of them from 8 on.
inline uint64_t load_some(const uint8_t* p, size_t bytes) {
  uint64_t word = 0;
  __builtin_memcpy(&word, p, bytes < sizeof(word) ? bytes : sizeof(word));
  return word;
}

inline void store_some(uint8_t* p, uint64_t word, size_t bytes) {
  // Memory of no bytes may have no address.
  if (bytes == 0) return;
  __builtin_memcpy(p, &word, bytes < sizeof(word) ? bytes : sizeof(word));
}

// The 64 bits from bit `at` on, all of whose bytes and the one after lie in memory.
inline uint64_t load_bits(const uint8_t* data, size_t at) {
  const uint64_t high = data[at / 8 + 8];
  return load_word(data + at / 8) >> at % 8 | high << 1 << (63 - at % 8);
}

// The same of `bytes` bytes, zeros past them.
inline uint64_t load_some_bits(const uint8_t* data, size_t bytes, size_t at) {
  const size_t byte = at / 8;
  if (byte >= bytes) return 0;
  const uint64_t low = load_some(data + byte, bytes - byte) >> at % 8;
  const uint64_t high = byte + 8 < bytes ? data[byte + 8] : 0;
  return low | high << 1 << (63 - at % 8);
}

inline uint32_t float_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float as_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace
}  // namespace sparsefl::codec
