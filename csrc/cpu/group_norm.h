// Group normalisation of batch-last memory, with what follows it: a residual that is added, and a
// ReLU. A channel is a matrix [pixels, batch] of it, and a group are channels that follow each
// other. Every sample has statistics of its own: they lie in the lanes.
#pragma once

#include <cstdint>

#include "cpu/batch_norm.h"

namespace sparsefl {

// What belongs to samples is repeated over so many columns: element i of a channel or group takes
// column i % columns. They are whole samples, and whole vectors of every instruction set; where
// that takes few, four of its vectors, which stay in registers: a power of two times the batch.
[[gnu::always_inline]] inline int64_t sample_columns(int64_t batch) {
  constexpr int64_t kVector = 16, kVectors = 4 * kVector;
  int64_t columns = batch;
  while (columns % kVector != 0) columns *= 2;
  while (columns % kVectors != 0 && columns <= 4 * kVectors) columns *= 2;
  return columns;
}

// Of every sample: mean and sum of squares about it of `count` elements, [batch] each.
struct SampleMoments {
  int64_t count;
  double *mean, *squares;
};

// What normalisation does to an element of a channel: (x - mean) * (invstd * weight) + bias, mean
// and invstd being those of its column, [columns].
template <class T>
struct SampleAffine {
  int64_t columns;
  const T *mean, *invstd;
  T weight, bias;
};

template <class T>
struct GroupNormGradient {
  Gate gate;
  SampleAffine<T> affine;  // the forward one
  const T *grad, *x;
  const T* beside;  // Gate::kSum: the residual; Gate::kOutput: the output
  // grad_x = gated * (invstd * weight) + offset + tilt * (x - mean); [columns] each
  const T *offset, *tilt;
  T* grad_x;         // or null
  T* grad_residual;  // the gated gradient, or null
};

// n is a multiple of the batch. scratch holds kGroupNormScratch * columns elements.
constexpr int64_t kGroupNormScratch = 3;

template <class T>
struct GroupNormKernels {
  // Takes n elements of one group into its moments.
  void (*moments)(const T* x, int64_t n, int64_t batch, T* scratch, SampleMoments*);
  // y = relu(affine(x) + residual) of one channel, without ReLU and with a null residual without
  // those. Passes a NaN on.
  void (*normalise)(const T* x, const T* residual, T* y, int64_t n, const SampleAffine<T>&,
                    bool relu);
  // With h the gated gradient of one channel: channel[0] = sum of h, channel[1] = sum of
  // h * (x - mean) * invstd; and for every sample adds weight * sum of h to group[sample], and
  // weight * sum of h * (x - mean) to group[batch + sample].
  void (*sums)(const GroupNormGradient<T>&, int64_t n, int64_t batch, T* scratch, double* channel,
               double* group);
  void (*gradient)(const GroupNormGradient<T>&, int64_t n);
};

template <class T>
const GroupNormKernels<T>& group_norm_kernels();

}  // namespace sparsefl
