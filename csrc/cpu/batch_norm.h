// Batch normalisation of a channel's row of memory, with what follows it: a residual that is added,
// and a ReLU.
#pragma once

#include <cstdint>

namespace sparsefl {

// Mean and sum of squares about it of `count` elements.
struct Moments {
  int64_t count;
  double mean, squares;
};

// What normalisation does to an element: (x - mean) * scale + shift.
template <class T>
struct Affine {
  T mean, scale, shift;
};

// Where the ReLU let a gradient through: everywhere (there is none), where the affine map of x is
// above zero, where the sum of it and the residual is, or where the output is.
enum class Gate { kOpen, kInput, kSum, kOutput };

template <class T>
struct NormGradient {
  Gate gate;
  Affine<T> affine;  // kInput and kSum: the forward one; else only the mean is read
  const T *grad, *x;
  const T* beside;  // kSum: the residual; kOutput: the output
  // grad_x = slope * gated + offset + tilt * (x - mean)
  T slope, offset, tilt;
  T* grad_x;         // or null
  T* grad_residual;  // the gated gradient, or null
};

template <class T>
struct BatchNormKernels {
  Moments (*moments)(const T* x, int64_t n);
  // y = relu(affine(x) + residual), without ReLU and with a null residual without those. Passes a
  // NaN on.
  void (*normalise)(const T* x, const T* residual, T* y, int64_t n, const Affine<T>&, bool relu);
  // sums[0] = sum of the gated gradient, sums[1] = sum of it times (x - mean).
  void (*sums)(const NormGradient<T>&, int64_t n, double* sums);
  void (*gradient)(const NormGradient<T>&, int64_t n);
};

template <class T>
const BatchNormKernels<T>& batch_norm_kernels();

}  // namespace sparsefl
