// relu for torch's CPU backend, on operands of any shape whose elements lie without gaps.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>

#include "bindings/norm.h"
#include "bindings/parallel.h"
#include "cpu/relu.h"

namespace sparsefl {
namespace {

int64_t spans_of(int64_t elements) { return (elements + kReluSpan - 1) / kReluSpan; }

// Uninitialised, with the strides of `x`, which have to be those of a permuted contiguous tensor.
// Torch's own memory: what the pool keeps would outweigh what the bits spare.
Tensor empty_alike(const Tensor& x) {
  Tensor made = torch::stable::empty_like(x);
  for (int64_t d = 0; d < x.dim(); ++d) {
    STD_TORCH_CHECK(x.numel() == 0 || x.size(d) == 1 || made.stride(d) == x.stride(d),
                    "the operand has gaps or overlaps");
  }
  return made;
}

// Calls run(first element, elements) for stretches of whole spans.
template <class Run>
void for_spans(int64_t elements, const Run& run) {
  const int64_t spans = spans_of(elements);
  const int64_t parts =
      std::max<int64_t>(1, std::min(spans, thread_parts(kFlopsAnElement * elements)));
  for_parts(parts, [&](int64_t p) {
    const int64_t first = spans * p / parts * kReluSpan;
    run(first, std::min(elements, spans * (p + 1) / parts * kReluSpan) - first);
  });
}

// max(x, 0), and a bit an element.
std::tuple<Tensor, Tensor> relu(const Tensor& x) {
  Tensor y = empty_alike(x);
  Tensor passed = empty_of(x, {spans_of(x.numel()) * kReluSpanBytes}, ScalarType::Byte);
  with_type(x, [&]<class T>(T*) {
    const T* from = static_cast<const T*>(x.const_data_ptr());
    T* to = static_cast<T*>(y.mutable_data_ptr());
    uint8_t* bits = mutable_data<uint8_t>(passed);
    for_spans(x.numel(), [&](int64_t first, int64_t n) {
      relu_kernels<T>().forward(from + first, n, to + first, bits + first / 8);
    });
  });
  return {y, passed};
}

Tensor relu_backward(const Tensor& grad, const Tensor& passed) {
  Tensor grad_x = empty_alike(grad);
  STD_TORCH_CHECK(passed.numel() == spans_of(grad.numel()) * kReluSpanBytes, "bad bits");
  with_type(grad, [&]<class T>(T*) {
    const T* from = static_cast<const T*>(grad.const_data_ptr());
    T* to = static_cast<T*>(grad_x.mutable_data_ptr());
    const uint8_t* bits = data<uint8_t>(passed);
    for_spans(grad.numel(), [&](int64_t first, int64_t n) {
      relu_kernels<T>().backward(from + first, bits + first / 8, n, to + first);
    });
  });
  return grad_x;
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("relu", TORCH_BOX(&relu));
  m.impl("relu_backward", TORCH_BOX(&relu_backward));
}

}  // namespace
}  // namespace sparsefl
