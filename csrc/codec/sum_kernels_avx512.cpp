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
};

// Lanes of type T: what Word<T> is made of.
template <class T>
struct Vector;

template <>
struct Vector<float> {
  typedef __m512 Type;
  typedef __mmask16 Mask;
  static Type all(float value) { return _mm512_set1_ps(value); }
  static Type load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Type v) { _mm512_storeu_ps(to, v); }
  static Type expand(Mask kept, const float* values) {
    return _mm512_maskz_expand_ps(kept, _mm512_loadu_ps(values));
  }
  static Type multiply_add(Type a, Type b, Type c, Mask kept) {
    return _mm512_mask3_fmadd_ps(a, b, c, kept);
  }
  static Type add(Type a, Type b, Mask kept) { return _mm512_mask_add_ps(a, kept, a, b); }
  static Type blend(Mask second, Type a, Type b) { return _mm512_mask_blend_ps(second, a, b); }
};

template <>
struct Vector<double> {
  typedef __m512d Type;
  typedef __mmask8 Mask;
  static Type all(double value) { return _mm512_set1_pd(value); }
  static Type load(const double* from) { return _mm512_loadu_pd(from); }
  static void store(double* to, Type v) { _mm512_storeu_pd(to, v); }
  static Type expand(Mask kept, const float* values) {
    return _mm512_maskz_cvtps_pd(0xFF, _mm256_maskz_expand_ps(kept, _mm256_loadu_ps(values)));
  }
  static Type multiply_add(Type a, Type b, Type c, Mask kept) {
    return _mm512_mask3_fmadd_pd(a, b, c, kept);
  }
  static Type add(Type a, Type b, Mask kept) { return _mm512_mask_add_pd(a, kept, a, b); }
  static Type blend(Mask second, Type a, Type b) { return _mm512_mask_blend_pd(second, a, b); }
};

template <>
struct Vector<int32_t> {
  typedef __m512i Type;
  typedef __mmask16 Mask;
  static Type all(int32_t value) { return _mm512_set1_epi32(value); }
  static Type load(const int32_t* from) { return _mm512_loadu_si512(from); }
  static void store(int32_t* to, Type v) { _mm512_storeu_si512(to, v); }
  static Type add(Type a, Type b, Mask kept) { return _mm512_mask_add_epi32(a, kept, a, b); }
  static Type blend(Mask second, Type a, Type b) { return _mm512_mask_blend_epi32(second, a, b); }
};

// Elements that are not kept stay as they are, a negative zero too.
template <class T>
struct Word {
  typedef Vector<T> V;
  typedef typename V::Mask Mask;
  static constexpr int kLanes = 64 / sizeof(T);

  static void add(T* sum, uint64_t word, const float* values, T weight) {
    const auto w = V::all(weight);
#pragma GCC unroll 8
    for (int j = 0; j < 64; j += kLanes) {
      const auto kept = static_cast<Mask>(word >> j);
      const auto v = V::expand(kept, values);
      V::store(sum + j, V::multiply_add(v, w, V::load(sum + j), kept));
      values += Lanes::count(kept);
    }
  }
  static void add_signs(T* sum, uint64_t word, uint64_t negative, T value) {
    const auto plus = V::all(value), minus = V::all(-value);
#pragma GCC unroll 8
    for (int j = 0; j < 64; j += kLanes) {
      const auto v = V::blend(static_cast<Mask>(negative >> j), plus, minus);
      V::store(sum + j, V::add(V::load(sum + j), v, static_cast<Mask>(word >> j)));
    }
  }
  // Packed signs from `rank` on, one at each set bit of `word`.
  static uint64_t deposit(const uint8_t* signs, size_t rank, uint64_t word) {
    uint64_t low;
    __builtin_memcpy(&low, signs + rank / 8, sizeof(low));
    const uint64_t high = signs[rank / 8 + 8];
    return _pdep_u64(low >> rank % 8 | high << 1 << (63 - rank % 8), word);
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
