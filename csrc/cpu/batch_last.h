// Transposition between sample-major and feature-major (batch-last) memory, and sums over a batch.
#pragma once

#include <cstdint>

namespace sparsefl {

template <class T>
struct BatchLastKernels {
  // to[c * ld_to + r] = from[r * ld_from + c] for r in [0, rows), c in [begin, end).
  void (*transpose)(const T* from, int64_t ld_from, T* to, int64_t ld_to, int64_t rows,
                    int64_t begin, int64_t end);
  // x[0] + ... + x[n - 1], in double between stretches, so that a long sum loses no precision.
  double (*sum)(const T* x, int64_t n);
};

template <class T>
const BatchLastKernels<T>& batch_last_kernels();

}  // namespace sparsefl
