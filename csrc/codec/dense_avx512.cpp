#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/dense_kernels.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,bmi,bmi2,popcnt,fma,prefer-vector-width=512")

namespace sparsefl::codec {
namespace {

struct Lanes {
  static constexpr size_t kLanes = 16;
  static constexpr uint64_t kAll = 0xFFFF;
  typedef __m512i Keys;
  typedef uint64_t Bits __attribute__((vector_size(64)));
  typedef __mmask16 Nans;

  static unsigned count(uint64_t m) { return static_cast<unsigned>(__builtin_popcountll(m)); }
  static Keys broadcast(uint32_t key) { return _mm512_set1_epi32(static_cast<int>(key)); }

  // Not by comparing floats: where the process flushes denormals, those would be zeros.
  static uint64_t negatives(const float* x, Nans* nans) {
    const Keys zero = broadcast(kMagnitudeBits + 1u);
    const Keys b0 = _mm512_loadu_si512(x), b1 = _mm512_loadu_si512(x + 16);
    const Keys b2 = _mm512_loadu_si512(x + 32), b3 = _mm512_loadu_si512(x + 48);
    *nans |= _mm512_cmp_ps_mask((__m512)b0, (__m512)b1, _CMP_UNORD_Q) |
             _mm512_cmp_ps_mask((__m512)b2, (__m512)b3, _CMP_UNORD_Q);
    // Put together as masks: as integers it takes 1.15 times as long.
    const __mmask32 low =
        _mm512_kunpackw(_mm512_cmpgt_epu32_mask(b1, zero), _mm512_cmpgt_epu32_mask(b0, zero));
    const __mmask32 high =
        _mm512_kunpackw(_mm512_cmpgt_epu32_mask(b3, zero), _mm512_cmpgt_epu32_mask(b2, zero));
    return _mm512_kunpackd(high, low);
  }
  static bool any(Nans nans) { return nans != 0; }

  template <bool kStreaming>
  static void spread(uint64_t word, float scale, float* out) {
    const __m512 positive = _mm512_set1_ps(scale), negative = _mm512_set1_ps(-scale);
#pragma GCC unroll 4
    for (int j = 0; j < 64; j += 16) {
      const __m512 v = _mm512_mask_blend_ps(static_cast<__mmask16>(word >> j), positive, negative);
      if (kStreaming) {
        _mm512_stream_ps(out + j, v);
      } else {
        _mm512_storeu_ps(out + j, v);
      }
    }
  }
  static void fence() { _mm_sfence(); }

  static Keys keys(const float* x) {
    return _mm512_and_si512(_mm512_loadu_si512(x), broadcast(kMagnitudeBits));
  }
  static uint64_t at_least(Keys a, Keys b) { return _mm512_cmpge_epu32_mask(a, b); }
  static uint64_t below(Keys a, Keys b) { return _mm512_cmplt_epu32_mask(a, b); }
  static uint64_t equal(Keys a, Keys b) { return _mm512_cmpeq_epu32_mask(a, b); }
  static Keys larger(Keys a, Keys b) { return _mm512_maskz_max_epu32(0xFFFF, a, b); }
  static uint32_t largest(Keys a) {
    uint32_t key[16], most = 0;
    _mm512_storeu_si512(key, a);
    for (uint32_t k : key) most = k > most ? k : most;
    return most;
  }
  // Through a register: compressing to memory is microcode, 25 to 70 times slower on Zen 4.
  static void append(const float* x, uint64_t m, float* out) {
    const __m512 v = _mm512_loadu_ps(x);
    _mm512_storeu_ps(out, _mm512_maskz_compress_ps(static_cast<__mmask16>(m), v));
  }
  static void append(Keys k, uint64_t m, uint32_t* out) {
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(static_cast<__mmask16>(m), k));
  }
  static void add_expanded(float* to, uint64_t m, const float* values, float weight) {
    const auto mask = static_cast<__mmask16>(m);
    const __m512 v = _mm512_maskz_expand_ps(mask, _mm512_loadu_ps(values));
    const __m512 old = _mm512_loadu_ps(to);
    // Elements that are not kept stay as they are, a negative zero too.
    _mm512_storeu_ps(to, _mm512_mask3_fmadd_ps(v, _mm512_set1_ps(weight), old, mask));
  }

  // sums[i] += w[c] where bit i of from[c] is set, of 8 clients and `bytes` bytes.
  static constexpr size_t kSumPositions = 16;
  static void add_weights(const uint8_t* const* from, const int32_t* w, size_t bytes,
                          int32_t* sums) {
    for (size_t at = 0; at < bytes; at += 2) {
      __m512i sum = _mm512_load_si512(sums + 8 * at);
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c) {
        uint16_t m;
        __builtin_memcpy(&m, from[c] + at, sizeof(m));
        sum = _mm512_mask_add_epi32(sum, m, sum, _mm512_set1_epi32(w[c]));
      }
      _mm512_store_si512(sums + 8 * at, sum);
    }
  }
  static void write_means(const int32_t* sums, int32_t total, double unit, float* out) {
    const __m512i sum = _mm512_load_si512(sums);
    const __m512i left = _mm512_maskz_sub_epi32(0xFFFF, _mm512_set1_epi32(total),
                                                _mm512_maskz_add_epi32(0xFFFF, sum, sum));
    store_half(_mm512_maskz_extracti64x4_epi64(0xF, left, 0), unit, out);
    store_half(_mm512_maskz_extracti64x4_epi64(0xF, left, 1), unit, out + 8);
  }
  static void store_half(__m256i left, double unit, float* out) {
    const __m512d mean = _mm512_maskz_cvtepi32_pd(0xFF, left) * unit;
    _mm256_storeu_ps(out, _mm512_maskz_cvtpd_ps(0xFF, mean));
  }
};

inline void add_bits(Lanes::Bits a, Lanes::Bits b, Lanes::Bits c, Lanes::Bits* high,
                     Lanes::Bits* low) {
  const auto x = (__m512i)a, y = (__m512i)b, z = (__m512i)c;
  *high = (Lanes::Bits)_mm512_ternarylogic_epi64(x, y, z, 0xE8);
  *low = (Lanes::Bits)_mm512_ternarylogic_epi64(x, y, z, 0x96);
}

}  // namespace
}  // namespace sparsefl::codec

#include "codec/dense_kernels.inl"

namespace sparsefl::codec {

extern const DenseKernels kDenseAvx512 = SPARSEFL_DENSE_TABLE;

}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
