// Batch norm, gate and ReLU of the gated convolution, and what they need of whole planes. A plane
// is one channel of one sample, `pixels` elements; a pair is its (sample, channel).
#pragma once

#include <cstdint>

namespace sparsefl {

// out = relu(gate[n, c] * (scale[c] * z + shift[c])) of the planes with a gate; zero elsewhere.
template <class T>
struct GatedNormArgs {
  int64_t channels, pixels;
  const T* z;
  const T* gate;                  // [samples, channels], 0: closed
  const uint8_t* active;          // [samples, channels], the pairs that the statistics are of
  const T *scale, *shift, *mean;  // [channels]
  bool relu;
};

template <class T>
struct GatedNormKernels {
  // mean[i] of every plane, and whether any element of it is not zero (NaN is not zero).
  void (*pool)(const T* x, int64_t pixels, int64_t first, int64_t last, T* mean, uint8_t* nonzero);
  // Of the active planes of the samples [first, last): the mean and the sum of squared distances
  // from it, [samples, channels].
  void (*moments)(const GatedNormArgs<T>&, int64_t first, int64_t last, T* mean, T* squares);
  void (*apply)(const GatedNormArgs<T>&, int64_t first, int64_t last, T* out);
  // Of the planes with a gate, dv being grad where the ReLU let the value pass, and 0 elsewhere:
  // the sums of dv and of dv * (z - mean[c]), [samples, channels]; zero for the other planes.
  void (*sums)(const GatedNormArgs<T>&, const T* grad, int64_t first, int64_t last, T* plain,
               T* centred);
  // dz = gate * scale * dv + offset[c] + slope[c] * (z - mean[c]) of the active planes; zero
  // elsewhere.
  void (*differentiate)(const GatedNormArgs<T>&, const T* grad, const T* offset, const T* slope,
                        int64_t first, int64_t last, T* dz);
};

template <class T>
const GatedNormKernels<T>& gated_norm_kernels();

}  // namespace sparsefl
