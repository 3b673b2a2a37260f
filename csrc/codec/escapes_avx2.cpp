#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/escapes.h"

#pragma GCC push_options
#pragma GCC target("avx2,bmi,popcnt")

namespace sparsefl::codec {
namespace {

__m256i load(const uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

}  // namespace

size_t gather_marked_avx2(const uint8_t* symbols, size_t n, const uint8_t* marks, uint8_t** list) {
  // By the lower four bits: a bit for each of the upper ones, 0 to 7 and 8 to 15.
  alignas(32) uint8_t rows[2][32] = {};
  for (int s = 0; s < 256; ++s) {
    if (marks[s] == 0) continue;
    rows[s >> 7][s & 15] |= static_cast<uint8_t>(1 << (s >> 4 & 7));
    rows[s >> 7][16 + (s & 15)] = rows[s >> 7][s & 15];
  }
  const __m256i lower = load(rows[0]), upper = load(rows[1]), nibble = _mm256_set1_epi8(15);
  const __m256i bits = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i s = load(symbols + i);
    const __m256i low = _mm256_and_si256(s, nibble);
    const __m256i row =
        _mm256_blendv_epi8(_mm256_shuffle_epi8(lower, low), _mm256_shuffle_epi8(upper, low), s);
    const __m256i bit =
        _mm256_shuffle_epi8(bits, _mm256_and_si256(_mm256_srli_epi16(s, 4), nibble));
    const __m256i marked = _mm256_cmpeq_epi8(_mm256_and_si256(row, bit), bit);
    auto mask = static_cast<uint32_t>(_mm256_movemask_epi8(marked));
    for (; mask != 0; mask &= mask - 1) *(*list)++ = symbols[i + _tzcnt_u32(mask)];
  }
  return i;
}

size_t count_escapes_avx2(const uint8_t* symbols, size_t n, uint8_t escape, size_t* count) {
  const __m256i wanted = _mm256_set1_epi8(static_cast<char>(escape));
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i escaped = _mm256_cmpeq_epi8(load(symbols + i), wanted);
    const auto mask = static_cast<uint32_t>(_mm256_movemask_epi8(escaped));
    *count += static_cast<size_t>(_mm_popcnt_u32(mask));
  }
  return i;
}

size_t put_escaped_avx2(const uint8_t** list, size_t n, uint8_t escape, uint8_t* symbols) {
  const __m256i wanted = _mm256_set1_epi8(static_cast<char>(escape));
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i escaped = _mm256_cmpeq_epi8(load(symbols + i), wanted);
    auto mask = static_cast<uint32_t>(_mm256_movemask_epi8(escaped));
    // The first of 32 is put, or goes nowhere, without a branch, which would not be foretold.
    uint8_t nowhere;
    uint8_t* const first = mask == 0 ? &nowhere : symbols + i + _tzcnt_u32(mask);
    *first = **list;
    *list += mask != 0;
    for (mask &= mask - 1; mask != 0; mask &= mask - 1) symbols[i + _tzcnt_u32(mask)] = *(*list)++;
  }
  return i;
}

}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
