// ReLU whose backward needs one bit an element: whether it let the element pass.
#pragma once

#include <cstdint>

namespace sparsefl {

// Elements whose bits lie together, in an order of the instruction set's own, and their bytes.
constexpr int64_t kReluSpan = 512;
constexpr int64_t kReluSpanBytes = kReluSpan / 8;

// Both take `n` elements from the start of a span on; of the last span, bits behind the elements
// are neither said nor read.
template <class T>
struct ReluKernels {
  // y = max(x, 0), and which of x are not <= 0: a NaN passes.
  void (*forward)(const T* x, int64_t n, T* y, uint8_t* passed);
  // grad_x = grad where the element passed, 0 elsewhere.
  void (*backward)(const T* grad, const uint8_t* passed, int64_t n, T* grad_x);
};

template <class T>
const ReluKernels<T>& relu_kernels();

}  // namespace sparsefl
