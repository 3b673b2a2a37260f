#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "codec/normal.h"

#pragma GCC push_options
#pragma GCC target("avx2")

namespace sparsefl {
namespace {

struct Simd {
  static constexpr int kLanes = 8;
  typedef uint32_t U32 __attribute__((vector_size(32)));
  typedef int32_t I32 __attribute__((vector_size(32)));
  typedef uint64_t U64 __attribute__((vector_size(32)));
  typedef float F32 __attribute__((vector_size(32)));

  static U64 multiply_low_halves(U64 a, U64 b) {
    return (U64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
  }
  static U64 multiply_low_halves_signed(I32 a, I32 b) {
    return (U64)_mm256_mul_epi32((__m256i)a, (__m256i)b);
  }
  static I32 merge_odd(I32 even, I32 odd) {
    return (I32)_mm256_blend_epi32((__m256i)even, (__m256i)odd, 0xAA);
  }
  // The exponent of the float: with the bit below the leading one cleared nothing rounds up to the
  // next. 0x9E = 127 + 31.
  static U32 leading_zeros(U32 odd) {
    const U32 v = odd >> 1;
    const F32 rounded = __builtin_convertvector((I32)(v & ~(v >> 1)), F32);
    return 30 + 127 - ((U32)rounded >> 23);
  }
  static I32 look_up(const int32_t* table, U32 index) {
    const __m256i row = _mm256_load_si256(reinterpret_cast<const __m256i*>(table));
    return (I32)_mm256_permutevar8x32_epi32(row, (__m256i)index);
  }
  static bool any_at_least_lanes(U32 octaves) {
    return !_mm256_testz_si256((__m256i)octaves, _mm256_set1_epi32(~(kLanes - 1)));
  }
  static void store(float* p, F32 v) { _mm256_storeu_ps(p, (__m256)v); }
};

}  // namespace

#include "codec/normal_simd.inl"

void fill_normal_groups_avx2(uint64_t seed, uint64_t stream, uint64_t groups, float scale,
                             float* out) {
  fill_groups(seed, stream, groups, scale, out);
}

void fill_word_groups_avx2(uint64_t seed, uint64_t stream, uint64_t first_group, uint64_t groups,
                           uint32_t* out) {
  fill_groups_of_words(seed, stream, first_group, groups, out);
}

}  // namespace sparsefl

#pragma GCC pop_options
#endif
