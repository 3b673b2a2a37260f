// Bitmaps and packed signs, least significant bit first.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsefl::codec {

// Number of set bits of `bytes` bytes.
uint64_t popcount(const uint8_t* data, size_t bytes);

// Writes ceil(n / 8) bytes whose bit i is set where signs[i] is -1; the bits past n are zero.
// Returns false where a sign is neither +1 nor -1.
bool pack_signs(const int8_t* signs, size_t n, uint8_t* out);

// Writes n signs, the inverse of pack_signs.
void unpack_signs(const uint8_t* data, size_t n, int8_t* signs);

// As pack_signs, with bit i set where signs[i] is not base[i]; the signs of `base` are +1 or -1.
bool pack_flips(const int8_t* signs, const int8_t* base, size_t n, uint8_t* out);

// Turns bits [0, n) of packed signs round where base[i] is -1.
void flip_signs(const int8_t* base, size_t n, uint8_t* bits);

// Sets bits [0, n) of `out` and clears those that fill its last byte.
void fill_bits(size_t n, uint8_t* out);

// Whether the bits of the last of ceil(n / 8) bytes that lie past n are zero.
inline bool tail_is_zero(const uint8_t* data, size_t n) {
  return n % 8 == 0 || (data[n / 8] >> (n % 8)) == 0;
}

}  // namespace sparsefl::codec
