// max_pool2d for torch's CPU backend, on operands [N, C, H, W] in batch-last memory.

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "bindings/norm.h"
#include "bindings/parallel.h"
#include "cpu/max_pool2d.h"

namespace sparsefl {
namespace {

// kernel, stride, padding and dilation, of height and width each.
PoolGeometry geometry_of(int64_t batch, int64_t height, int64_t width, int64_t out_height,
                         int64_t out_width, const std::vector<int64_t>& window) {
  STD_TORCH_CHECK(window.size() == 8 && window[0] * window[1] <= kMostTaps, "bad window");
  return {batch,     height,    width,     out_height, out_width, window[0], window[1],
          window[2], window[3], window[4], window[5],  window[6], window[7]};
}

// Calls run(begin, end) for stretches of the channels.
template <class Run>
void for_channels(int64_t channels, int64_t elements, const Run& run) {
  if (elements == 0) return;
  const int64_t parts = thread_parts(kFlopsAnElement * elements);
  for_parts(parts, [&](int64_t p) { run(channels * p / parts, channels * (p + 1) / parts); });
}

// The pooled image, and which position of its window each element comes from.
std::tuple<Tensor, Tensor> max_pool2d(const Tensor& x, int64_t out_height, int64_t out_width,
                                      std::vector<int64_t> window) {
  const int64_t batch = x.size(0), channels = x.size(1);
  const auto g = geometry_of(batch, x.size(2), x.size(3), out_height, out_width, window);
  Tensor y = empty_batch_last(x, {batch, channels, out_height, out_width});
  Tensor taps = empty_of(x, {channels, out_height, out_width, batch}, ScalarType::Byte);
  with_type(x, [&]<class T>(T*) {
    const T* from = rows<T>(x);
    T* to = mutable_data<T>(y);
    uint8_t* chosen = mutable_data<uint8_t>(taps);
    for_channels(channels, x.numel(), [&](int64_t begin, int64_t end) {
      max_pool2d_kernels<T>().forward(g, begin, end, from, to, chosen);
    });
  });
  return {y, taps};
}

// The gradient of the image.
Tensor max_pool2d_backward(const Tensor& grad, const Tensor& taps, int64_t height, int64_t width,
                           std::vector<int64_t> window) {
  const int64_t batch = grad.size(0), channels = grad.size(1);
  const auto g = geometry_of(batch, height, width, grad.size(2), grad.size(3), window);
  Tensor grad_x = empty_batch_last(grad, {batch, channels, height, width});
  with_type(grad, [&]<class T>(T*) {
    const T* from = rows<T>(grad);
    T* to = mutable_data<T>(grad_x);
    const uint8_t* chosen = data<uint8_t>(taps);
    for_channels(channels, grad_x.numel(), [&](int64_t begin, int64_t end) {
      max_pool2d_kernels<T>().backward(g, begin, end, from, chosen, to);
    });
  });
  return grad_x;
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("max_pool2d", TORCH_BOX(&max_pool2d));
  m.impl("max_pool2d_backward", TORCH_BOX(&max_pool2d_backward));
}

}  // namespace
}  // namespace sparsefl
