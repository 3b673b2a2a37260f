// Transposition between sample-major and feature-major (batch-last) memory.
#pragma once

#include <cstdint>

namespace sparsefl {

template <class T>
struct BatchLastKernels {
  // to[c * ld_to + r] = from[r * ld_from + c] for r in [0, rows), c in [begin, end).
  void (*transpose)(const T* from, int64_t ld_from, T* to, int64_t ld_to, int64_t rows,
                    int64_t begin, int64_t end);
};

template <class T>
const BatchLastKernels<T>& batch_last_kernels();

}  // namespace sparsefl
