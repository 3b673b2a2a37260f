#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/sum_kernels.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,bmi,bmi2,popcnt")
#pragma GCC target("prefer-vector-width=512")

namespace sparsefl::codec {
namespace {

struct Lanes {
  static constexpr bool kWords = true;
  static unsigned count(uint64_t word) { return static_cast<unsigned>(_mm_popcnt_u64(word)); }
  static unsigned lowest(uint64_t word) { return static_cast<unsigned>(_tzcnt_u64(word)); }

  // Appends the words with a set bit of bits [*i, end) and where they begin, as far as there are
  // eight of them. Through registers: compressing to memory is microcode on Zen 4.
  static size_t filled(const uint8_t* bits, size_t* i, size_t end, uint64_t* words,
                       uint32_t* begins) {
    size_t filled = 0;
    const __m256i step = _mm256_setr_epi32(0, 64, 128, 192, 256, 320, 384, 448);
    for (; *i + 512 <= end; *i += 512) {
      const __m512i eight = _mm512_loadu_si512(bits + *i / 8);
      const __mmask8 some = _mm512_test_epi64_mask(eight, eight);
      const __m256i at = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(*i)), step);
      _mm512_storeu_si512(words + filled, _mm512_maskz_compress_epi64(some, eight));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(begins + filled),
                          _mm256_maskz_compress_epi32(some, at));
      filled += count(some);
    }
    return filled;
  }
};

struct PackedSigns {
  // Packed signs from `rank` on, one at each set bit of `word`.
  static uint64_t deposit(const uint8_t* signs, size_t rank, uint64_t word) {
    uint64_t low;
    __builtin_memcpy(&low, signs + rank / 8, sizeof(low));
    const uint64_t high = signs[rank / 8 + 8];
    return _pdep_u64(low >> rank % 8 | high << 1 << (63 - rank % 8), word);
  }
};

template <class T>
struct Word;

// Elements that are not kept stay as they are, a negative zero too.
template <>
struct Word<float> : PackedSigns {
  static void add(float* sum, uint64_t word, const float* values, float weight) {
    const __m512 w = _mm512_set1_ps(weight);
#pragma GCC unroll 4
    for (int j = 0; j < 64; j += 16) {
      const auto kept = static_cast<__mmask16>(word >> j);
      const __m512 v = _mm512_maskz_expand_ps(kept, _mm512_loadu_ps(values));
      _mm512_storeu_ps(sum + j, _mm512_mask3_fmadd_ps(v, w, _mm512_loadu_ps(sum + j), kept));
      values += Lanes::count(kept);
    }
  }
  static void add_signs(float* sum, uint64_t word, uint64_t negative, float value) {
    const __m512 plus = _mm512_set1_ps(value), minus = _mm512_set1_ps(-value);
#pragma GCC unroll 4
    for (int j = 0; j < 64; j += 16) {
      const auto below = static_cast<__mmask16>(negative >> j);
      const __m512 v = _mm512_mask_blend_ps(below, plus, minus);
      const __m512 old = _mm512_loadu_ps(sum + j);
      const auto kept = static_cast<__mmask16>(word >> j);
      _mm512_storeu_ps(sum + j, _mm512_mask_add_ps(old, kept, old, v));
    }
  }
};

template <>
struct Word<double> : PackedSigns {
  static void add(double* sum, uint64_t word, const float* values, double weight) {
    const __m512d w = _mm512_set1_pd(weight);
#pragma GCC unroll 8
    for (int j = 0; j < 64; j += 8) {
      const auto kept = static_cast<__mmask8>(word >> j);
      const __m256 v = _mm256_maskz_expand_ps(kept, _mm256_loadu_ps(values));
      const __m512d wide = _mm512_maskz_cvtps_pd(0xFF, v);
      _mm512_storeu_pd(sum + j, _mm512_mask3_fmadd_pd(wide, w, _mm512_loadu_pd(sum + j), kept));
      values += Lanes::count(kept);
    }
  }
  static void add_signs(double* sum, uint64_t word, uint64_t negative, double value) {
    const __m512d plus = _mm512_set1_pd(value), minus = _mm512_set1_pd(-value);
#pragma GCC unroll 8
    for (int j = 0; j < 64; j += 8) {
      const auto below = static_cast<__mmask8>(negative >> j);
      const __m512d v = _mm512_mask_blend_pd(below, plus, minus);
      const __m512d old = _mm512_loadu_pd(sum + j);
      const auto kept = static_cast<__mmask8>(word >> j);
      _mm512_storeu_pd(sum + j, _mm512_mask_add_pd(old, kept, old, v));
    }
  }
};

template <>
struct Word<int32_t> : PackedSigns {
  static void add_signs(int32_t* sum, uint64_t word, uint64_t negative, int32_t value) {
    const __m512i plus = _mm512_set1_epi32(value), minus = _mm512_set1_epi32(-value);
#pragma GCC unroll 4
    for (int j = 0; j < 64; j += 16) {
      const auto below = static_cast<__mmask16>(negative >> j);
      const __m512i v = _mm512_mask_blend_epi32(below, plus, minus);
      const __m512i old = _mm512_loadu_si512(sum + j);
      const auto kept = static_cast<__mmask16>(word >> j);
      _mm512_storeu_si512(sum + j, _mm512_mask_add_epi32(old, kept, old, v));
    }
  }
};

}  // namespace
}  // namespace sparsefl::codec

#include "codec/sum_kernels.inl"

namespace sparsefl::codec {

extern const AllSumKernels kSumsAvx512 = kTable;

}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
