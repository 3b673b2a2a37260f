// Max pooling of batch-last memory: a channel is [height, width, batch] of it, and the samples lie
// in the lanes.
#pragma once

#include <cstdint>

namespace sparsefl {

struct PoolGeometry {
  int64_t batch, height, width, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
};

// Positions of a window are numbered row by row, and have to fit a byte.
constexpr int64_t kMostTaps = 256;

template <class T>
struct MaxPool2dKernels {
  // For the channels [begin, end): y = the greatest of each window, or its last NaN; taps = its
  // first position in the window (a NaN's last), [channels, out_height, out_width, batch] both. No
  // window lies outside the image.
  void (*forward)(const PoolGeometry&, int64_t begin, int64_t end, const T* x, T* y, uint8_t* taps);
  // grad_x = the sum of the gradients of the windows that chose the position.
  void (*backward)(const PoolGeometry&, int64_t begin, int64_t end, const T* grad,
                   const uint8_t* taps, T* grad_x);
};

template <class T>
const MaxPool2dKernels<T>& max_pool2d_kernels();

}  // namespace sparsefl
