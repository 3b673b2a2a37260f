// Adds the decoded values of a chunk to sums, for each instruction set. All of them give the same
// bits. Bitmaps and packed signs: least significant bit first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/isa.h"

namespace sparsefl::codec {

// Bytes past the last value, past the last byte of packed signs, that kernels may read.
inline constexpr size_t kSumSlack = 64;

// Increasing positions below n: as the set bits of `bits` or, where these are few, as indices.
struct KeptPositions {
  const uint8_t* bits;
  const uint32_t* indices;  // or null
  size_t n;
  size_t count;
};

// Sums of type T: float, double, or int32_t, which has signs alone.
template <class T>
struct SumKernels {
  // sum[i] = fma(weight, values[i], sum[i]), rounded once, i < n.
  void (*add)(T* sum, const float* values, size_t n, T weight);
  // The same of values[j] at the j-th position.
  void (*add_at)(T* sum, const KeptPositions& positions, const float* values, T weight);
  // sum[i] -= value where bit i of `negative` is set, else sum[i] += value.
  void (*add_signs)(T* sum, const uint8_t* negative, size_t n, T value);
  // The same of bit j at the j-th position.
  void (*add_signs_at)(T* sum, const KeptPositions& positions, const uint8_t* negative, T value);
  // sum[i] += value everywhere, and at some positions.
  void (*raise)(T* sum, size_t n, T value);
  void (*raise_at)(T* sum, const KeptPositions& positions, T value);
};

struct AllSumKernels {
  SumKernels<float> float32;
  SumKernels<double> float64;
  SumKernels<int32_t> int32;
};

const AllSumKernels& sum_kernels(Isa isa = sparsefl::isa());

}  // namespace sparsefl::codec
