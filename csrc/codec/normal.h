// Normals from random words by integer arithmetic: the same bits on every machine, compiler and
// instruction set. Host and device.
#pragma once

#include <cstdint>

#include "codec/normal_table.h"
#include "codec/philox.h"
#include "cpu/isa.h"

namespace sparsefl {

// normal_fixed counts in units of 2^-21 standard deviations: the largest result, 6.34 deviations,
// still converts to float32 without rounding.
inline constexpr int kNormalFractionBits = 21;
inline constexpr int kNormalRoundingBits = 7;

SPARSEFL_HOST_DEVICE inline int leading_zeros(uint32_t nonzero) {
#if defined(__CUDA_ARCH__)
  return __clz(static_cast<int>(nonzero));
#else
  return __builtin_clz(nonzero);
#endif
}

SPARSEFL_HOST_DEVICE inline int32_t multiply_high(int32_t a, int32_t b) {
  return static_cast<int32_t>((int64_t{a} * b) >> 32);
}

// The octave of a word's tail probability: see tools/make_normal_table.py.
SPARSEFL_HOST_DEVICE inline int normal_octave(uint32_t bits) {
  const uint32_t upper_half = 0u - (bits >> 31);
  return leading_zeros(2 * (bits ^ upper_half) + 1);
}

// The (bits + 1/2) / 2^32 quantile of N(0, 1), within 2.6e-7, in units of 2^-21.
// normal_fixed(~bits) == -normal_fixed(bits). table: kNormalTable, or its copy in device memory.
SPARSEFL_HOST_DEVICE inline int32_t normal_fixed(uint32_t bits,
                                                 const int32_t (*table)[kNormalOctaves]) {
  const uint32_t upper_half = 0u - (bits >> 31);
  // The tail probability is odd * 2^-33.
  const uint32_t odd = 2 * (bits ^ upper_half) + 1;
  const int octave = leading_zeros(odd);
  // Position in the octave from -1 to 1, in units of 2^-31.
  const int32_t s = static_cast<int32_t>((odd << octave << 1) ^ 0x80000000u);
  int32_t z = table[kNormalDegree][octave];
  for (int k = kNormalDegree - 1; k >= 0; --k) z = table[k][octave] + multiply_high(z, s);
  z = (z + (1 << (kNormalRoundingBits - 1))) >> kNormalRoundingBits;
  return static_cast<int32_t>((static_cast<uint32_t>(z) ^ ~upper_half) - ~upper_half);
}

// Units of 2^-21 deviations to float32: one exact conversion and one rounded multiplication.
// scale = std * 2^-21, exact for 2^-100 <= std <= 2^100.
SPARSEFL_HOST_DEVICE inline float normal_scaled(int32_t fixed, float scale) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(static_cast<float>(fixed), scale);
#else
  return static_cast<float>(fixed) * scale;
#endif
}

// out[i] = word i of the stream, i < n.
void fill_words(uint64_t seed, uint64_t stream, uint64_t n, uint32_t* out);

// Words of whole groups of a stream: out[64 * groups). `isa` must be one that this machine has.
void fill_word_groups(uint64_t seed, uint64_t stream, uint64_t first_group, uint64_t groups,
                      Isa isa, uint32_t* out);

// out[i] = normal_fixed(word i of the stream) * std / 2^21, i < n; 2^-100 <= std <= 2^100 or 0.
// The result does not depend on `isa`, which must be one that this machine has.
void fill_normal(uint64_t seed, uint64_t stream, uint64_t n, float std, Isa isa, float* out);

// The SIMD variants of the loops above: out[0, 64 * groups).
void fill_word_groups_avx2(uint64_t seed, uint64_t stream, uint64_t first_group, uint64_t groups,
                           uint32_t* out);
void fill_word_groups_avx512(uint64_t seed, uint64_t stream, uint64_t first_group, uint64_t groups,
                             uint32_t* out);
void fill_normal_groups_avx2(uint64_t seed, uint64_t stream, uint64_t groups, float scale,
                             float* out);
void fill_normal_groups_avx512(uint64_t seed, uint64_t stream, uint64_t groups, float scale,
                               float* out);

}  // namespace sparsefl
