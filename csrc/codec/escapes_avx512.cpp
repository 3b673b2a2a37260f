#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/escapes.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")

namespace sparsefl::codec {

size_t gather_marked_avx512(const uint8_t* symbols, size_t n, const uint8_t* marks,
                            uint8_t** list) {
  const __m512i a = _mm512_loadu_si512(marks), b = _mm512_loadu_si512(marks + 64);
  const __m512i c = _mm512_loadu_si512(marks + 128), d = _mm512_loadu_si512(marks + 192);
  uint8_t* to = *list;
  size_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m512i s = _mm512_loadu_si512(symbols + i);
    const __m512i lower = _mm512_permutex2var_epi8(a, s, b);
    const __m512i upper = _mm512_permutex2var_epi8(c, s, d);
    const __mmask64 marked =
        _mm512_movepi8_mask(_mm512_mask_mov_epi8(lower, _mm512_movepi8_mask(s), upper));
    // To memory it would take a hundred cycles.
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi8(marked, s));
    to += _mm_popcnt_u64(marked);
  }
  *list = to;
  return i;
}

size_t count_escapes_avx512(const uint8_t* symbols, size_t n, uint8_t escape, size_t* count) {
  const __m512i wanted = _mm512_set1_epi8(static_cast<char>(escape));
  size_t i = 0;
  for (; i + 64 <= n; i += 64)
    *count += _mm_popcnt_u64(_mm512_cmpeq_epi8_mask(_mm512_loadu_si512(symbols + i), wanted));
  return i;
}

size_t put_escaped_avx512(const uint8_t** list, size_t n, uint8_t escape, uint8_t* symbols) {
  const __m512i wanted = _mm512_set1_epi8(static_cast<char>(escape));
  const uint8_t* from = *list;
  size_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m512i s = _mm512_loadu_si512(symbols + i);
    const __mmask64 escaped = _mm512_cmpeq_epi8_mask(s, wanted);
    // In a register: an expansion from memory takes several times as long.
    __m512i next = _mm512_loadu_si512(from);
    asm("" : "+v"(next));
    _mm512_storeu_si512(symbols + i, _mm512_mask_expand_epi8(s, escaped, next));
    from += _mm_popcnt_u64(escaped);
  }
  *list = from;
  return i;
}

}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
