#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "codec/normal.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512cd,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")

namespace sparsefl {
namespace {

struct Simd {
  static constexpr int kLanes = 16;
  typedef uint32_t U32 __attribute__((vector_size(64)));
  typedef int32_t I32 __attribute__((vector_size(64)));
  typedef uint64_t U64 __attribute__((vector_size(64)));
  typedef float F32 __attribute__((vector_size(64)));

  // The unmasked intrinsics of GCC 12 warn of their own uninitialised operand; the instruction is
  // the same.
  static constexpr __mmask8 kAll64 = 0xFF;
  static constexpr __mmask16 kAll32 = 0xFFFF;

  static U64 multiply_low_halves(U64 a, U64 b) {
    return (U64)_mm512_maskz_mul_epu32(kAll64, (__m512i)a, (__m512i)b);
  }
  static U64 multiply_low_halves_signed(I32 a, I32 b) {
    return (U64)_mm512_maskz_mul_epi32(kAll64, (__m512i)a, (__m512i)b);
  }
  static I32 merge_odd(I32 even, I32 odd) {
    return (I32)_mm512_mask_blend_epi32(0xAAAA, (__m512i)even, (__m512i)odd);
  }
  // AVX512CD, which every processor with AVX512BW has.
  static U32 leading_zeros(U32 odd) { return (U32)_mm512_lzcnt_epi32((__m512i)odd); }
  static I32 look_up(const int32_t* table, U32 index) {
    return (I32)_mm512_maskz_permutexvar_epi32(kAll32, (__m512i)index, _mm512_load_si512(table));
  }
  static bool any_at_least_lanes(U32 octaves) {
    return _mm512_test_epi32_mask((__m512i)octaves, _mm512_set1_epi32(~(kLanes - 1))) != 0;
  }
  static void store(float* p, F32 v) { _mm512_storeu_ps(p, (__m512)v); }
};

}  // namespace

#include "codec/normal_simd.inl"

void fill_normal_groups_avx512(uint64_t seed, uint64_t stream, uint64_t groups, float scale,
                               float* out) {
  fill_groups(seed, stream, groups, scale, out);
}

void fill_word_groups_avx512(uint64_t seed, uint64_t stream, uint64_t first_group, uint64_t groups,
                             uint32_t* out) {
  fill_groups_of_words(seed, stream, first_group, groups, out);
}

}  // namespace sparsefl

#pragma GCC pop_options
#endif
