#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/dense_kernels.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,popcnt")

namespace sparsefl::codec {
namespace {

// For each byte the places of its set bits in order, then those of the clear ones: what compresses
// 8 lanes; and its inverse, which expands them.
struct Places {
  alignas(64) uint8_t compress[256][8];
  alignas(64) uint8_t expand[256][8];
  constexpr Places() : compress(), expand() {
    for (int byte = 0; byte < 256; ++byte) {
      int set = 0;
      for (int i = 0; i < 8; ++i) {
        if ((byte >> i & 1) == 0) continue;
        compress[byte][set] = static_cast<uint8_t>(i);
        expand[byte][i] = static_cast<uint8_t>(set++);
      }
    }
  }
};
constexpr Places kPlaces;

struct Lanes {
  static constexpr size_t kLanes = 8;
  static constexpr uint64_t kAll = 0xFF;
  typedef __m256i Keys;
  typedef uint64_t Bits __attribute__((vector_size(32)));
  typedef __m256 Nans;

  static unsigned count(uint64_t m) { return static_cast<unsigned>(__builtin_popcountll(m)); }
  static Keys broadcast(uint32_t key) { return _mm256_set1_epi32(static_cast<int>(key)); }
  static __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static uint64_t bits_of(__m256i lanes) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(lanes)));
  }

  // Minus zero is the one with a sign that b - 1 has not.
  static uint64_t negatives(const float* x, Nans* nans) {
    uint64_t word = 0;
#pragma GCC unroll 8
    for (int j = 0; j < 64; j += 8) {
      const __m256i b = load(x + j);
      word |= bits_of(_mm256_and_si256(b, _mm256_add_epi32(b, _mm256_set1_epi32(-1)))) << j;
    }
#pragma GCC unroll 4
    for (int j = 0; j < 64; j += 16) {
      const __m256 a = _mm256_loadu_ps(x + j), b = _mm256_loadu_ps(x + j + 8);
      *nans = _mm256_or_ps(*nans, _mm256_cmp_ps(a, b, _CMP_UNORD_Q));
    }
    return word;
  }
  static bool any(Nans nans) { return _mm256_movemask_ps(nans) != 0; }

  // All bits of lane i where bit i of the byte is set.
  static __m256i lanes_of(uint64_t byte) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i all = _mm256_set1_epi32(static_cast<int>(byte & 0xFF));
    return _mm256_cmpeq_epi32(_mm256_and_si256(all, bit), bit);
  }
  template <bool kStreaming>
  static void spread(uint64_t word, float scale, float* out) {
    const __m256 positive = _mm256_set1_ps(scale), negative = _mm256_set1_ps(-scale);
#pragma GCC unroll 8
    for (int j = 0; j < 64; j += 8) {
      const __m256 v =
          _mm256_blendv_ps(positive, negative, _mm256_castsi256_ps(lanes_of(word >> j)));
      if (kStreaming) {
        _mm256_stream_ps(out + j, v);
      } else {
        _mm256_storeu_ps(out + j, v);
      }
    }
  }
  static void fence() { _mm_sfence(); }

  static Keys keys(const float* x) { return _mm256_and_si256(load(x), broadcast(kMagnitudeBits)); }
  static uint64_t at_least(Keys a, Keys b) {
    return bits_of(_mm256_cmpeq_epi32(_mm256_max_epu32(a, b), a));
  }
  static uint64_t below(Keys a, Keys b) { return ~at_least(a, b) & kAll; }
  static uint64_t equal(Keys a, Keys b) { return bits_of(_mm256_cmpeq_epi32(a, b)); }
  static Keys larger(Keys a, Keys b) { return _mm256_max_epu32(a, b); }
  static uint32_t largest(Keys a) {
    uint32_t key[8], most = 0;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(key), a);
    for (uint32_t k : key) most = k > most ? k : most;
    return most;
  }
  static __m256i places(const uint8_t (&table)[256][8], uint64_t m) {
    const auto* row = reinterpret_cast<const __m128i*>(table[m & 0xFF]);
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(row));
  }
  static void append(const float* x, uint64_t m, float* out) {
    const __m256 v = _mm256_loadu_ps(x);
    _mm256_storeu_ps(out, _mm256_permutevar8x32_ps(v, places(kPlaces.compress, m)));
  }
  static void append(Keys k, uint64_t m, uint32_t* out) {
    const __m256i v = _mm256_permutevar8x32_epi32(k, places(kPlaces.compress, m));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), v);
  }
  static void add_expanded(float* to, uint64_t m, const float* values, float weight) {
    const __m256i from = places(kPlaces.expand, m);
    const __m256 v = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values), from);
    const __m256 old = _mm256_loadu_ps(to);
    const __m256 sum = _mm256_fmadd_ps(v, _mm256_set1_ps(weight), old);
    // Elements that are not kept stay as they are, a negative zero too.
    _mm256_storeu_ps(to, _mm256_blendv_ps(old, sum, _mm256_castsi256_ps(lanes_of(m))));
  }

  // sums[i] += w[c] where bit i of from[c] is set, of 8 clients and `bytes` bytes.
  static constexpr size_t kSumPositions = 8;
  static void add_weights(const uint8_t* const* from, const int32_t* w, size_t bytes,
                          int32_t* sums) {
    for (size_t at = 0; at < bytes; ++at) {
      __m256i sum = load(sums + 8 * at);
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c) {
        const __m256i weight = _mm256_set1_epi32(w[c]);
        sum = _mm256_add_epi32(sum, _mm256_and_si256(lanes_of(from[c][at]), weight));
      }
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + 8 * at), sum);
    }
  }
  static void write_means(const int32_t* sums, int32_t total, double unit, float* out) {
    const __m256i sum = load(sums);
    const __m256i left = _mm256_sub_epi32(_mm256_set1_epi32(total), _mm256_add_epi32(sum, sum));
    store_half(_mm256_castsi256_si128(left), unit, out);
    store_half(_mm256_extracti128_si256(left, 1), unit, out + 4);
  }
  static void store_half(__m128i left, double unit, float* out) {
    const __m256d mean = _mm256_mul_pd(_mm256_cvtepi32_pd(left), _mm256_set1_pd(unit));
    _mm_storeu_ps(out, _mm256_cvtpd_ps(mean));
  }
};

}  // namespace
}  // namespace sparsefl::codec

#include "codec/dense_kernels.inl"

namespace sparsefl::codec {

extern const DenseKernels kDenseAvx2 = SPARSEFL_DENSE_TABLE;

}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
