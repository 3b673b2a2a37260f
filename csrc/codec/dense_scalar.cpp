#include <cstddef>
#include <cstdint>

#include "codec/dense_kernels.h"
#include "codec/words.inl"

namespace sparsefl::codec {
namespace {

// One lane, in plain C++ for every machine.
struct Lanes {
  static constexpr size_t kLanes = 1;
  static constexpr uint64_t kAll = 1;
  typedef uint32_t Keys;
  typedef uint64_t Bits;
  typedef uint32_t Nans;

  static unsigned count(uint64_t m) {
    m -= m >> 1 & 0x5555555555555555;
    m = (m & 0x3333333333333333) + (m >> 2 & 0x3333333333333333);
    m = (m + (m >> 4)) & 0x0F0F0F0F0F0F0F0F;
    return static_cast<unsigned>(m * 0x0101010101010101 >> 56);
  }
  static Keys broadcast(uint32_t key) { return key; }

  static uint64_t negatives(const float* x, Nans* nans) {
    uint64_t word = 0;
    uint32_t wrong = *nans;
    for (int j = 0; j < 64; ++j) {
      const uint32_t b = float_bits(x[j]);
      word |= uint64_t{b > kMagnitudeBits + 1u} << j;
      wrong |= (b & kMagnitudeBits) > kInfinityKey ? 1u : 0u;
    }
    *nans = wrong;
    return word;
  }
  static bool any(Nans nans) { return nans != 0; }

  template <bool>
  static void spread(uint64_t word, float scale, float* out) {
    const uint32_t positive = float_bits(scale);
    for (int j = 0; j < 64; ++j) {
      out[j] = as_float(positive ^ static_cast<uint32_t>(word >> j & 1) << 31);
    }
  }
  static void fence() {}

  static Keys keys(const float* x) { return float_bits(*x) & kMagnitudeBits; }
  static uint64_t at_least(Keys a, Keys b) { return a >= b; }
  static uint64_t below(Keys a, Keys b) { return a < b; }
  static uint64_t equal(Keys a, Keys b) { return a == b; }
  static Keys larger(Keys a, Keys b) { return a > b ? a : b; }
  static uint32_t largest(Keys a) { return a; }
  static void append(const float* x, uint64_t, float* out) { *out = *x; }
  static void append(Keys k, uint64_t, uint32_t* out) { *out = k; }
  static void add_expanded(float* to, uint64_t m, const float* values, float weight) {
    if (m != 0) *to = __builtin_fmaf(weight, *values, *to);
  }

  // sums[i] += w[c] where bit i of from[c] is set, of 8 clients and `bytes` bytes.
  static constexpr size_t kSumPositions = 8;
  static void add_weights(const uint8_t* const* from, const int32_t* w, size_t bytes,
                          int32_t* sums) {
    for (int c = 0; c < 8; ++c) {
      for (size_t i = 0; i < 8 * bytes; ++i) {
        const uint32_t bit = from[c][i / 8] >> i % 8 & 1u;
        sums[i] = static_cast<int32_t>(static_cast<uint32_t>(sums[i]) +
                                       (static_cast<uint32_t>(w[c]) & (0u - bit)));
      }
    }
  }
  static void write_means(const int32_t* sums, int32_t total, double unit, float* out) {
    for (int i = 0; i < 8; ++i) {
      const uint32_t left = static_cast<uint32_t>(total) - 2 * static_cast<uint32_t>(sums[i]);
      out[i] = static_cast<float>(static_cast<int32_t>(left) * unit);
    }
  }
};

}  // namespace
}  // namespace sparsefl::codec

#include "codec/dense_kernels.inl"

namespace sparsefl::codec {

extern const DenseKernels kDenseScalar = SPARSEFL_DENSE_TABLE;

}  // namespace sparsefl::codec
