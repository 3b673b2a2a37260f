// dense_weight and kept_gradient, for the layers that dense torch computes.

#include <torch/csrc/stable/library.h>

#include "bindings/arguments.h"
#include "bindings/parallel.h"
#include "cpu/dense_weight.h"

namespace sparsefl {
namespace {

// A kept position is worth so many flops of a product, an element that is only zeroed one.
constexpr int64_t kFlopsAPosition = 8;

// Calls run(row_begin, row_end) for stretches of the rows of about equal work, in parallel.
template <class Run>
void for_rows(const View& view, int64_t nnz, const Run& run) {
  const int64_t flops = kFlopsAPosition * nnz + view.rows * view.columns;
  const int64_t parts = thread_parts(flops);
  for_parts(parts, [&](int64_t p) { run(view.rows * p / parts, view.rows * (p + 1) / parts); });
}

// The sign operators' magnitudes, or none where the stored elements are the weights.
template <class T>
Weights<T> weights_of(const Tensor& stored, const Magnitudes& magnitudes, bool signs) {
  return make_weights<T>(stored, signs ? &magnitudes : nullptr);
}

void dense_weight(const Tensor& stored, const std::optional<Tensor>& magnitudes, double constant,
                  bool signs, const Tensor& begin, const Tensor& index,
                  const std::optional<Tensor>& position, const Tensor& work, int64_t block,
                  Tensor out) {
  const ViewTensors tensors{begin, index, position, work, block};
  STD_TORCH_CHECK(out.is_contiguous() && out.size(0) == tensors.rows(), "bad dense weight");
  const View view = tensors.view(out.size(1));
  with_type(stored, [&]<class T>(T*) {
    const Weights<T> weights = weights_of<T>(stored, {magnitudes, constant}, signs);
    T* dense = mutable_data<T>(out);
    for_rows(view, tensors.nnz(), [&](int64_t row_begin, int64_t row_end) {
      scatter_rows(view, weights, dense, row_begin, row_end);
    });
  });
}

Tensor kept_gradient(const Tensor& dense, const std::optional<Tensor>& magnitudes, double constant,
                     bool signs, const Tensor& begin, const Tensor& index,
                     const std::optional<Tensor>& position, const Tensor& work, int64_t block) {
  const ViewTensors tensors{begin, index, position, work, block};
  const View view = tensors.view(dense.size(1));
  Tensor gradient = empty_of(dense, {tensors.nnz()});
  with_type(dense, [&]<class T>(T*) {
    const Weights<T> weights = weights_of<T>(gradient, {magnitudes, constant}, signs);
    const T* from = data<T>(dense);
    T* to = mutable_data<T>(gradient);
    for_rows(view, tensors.nnz(), [&](int64_t row_begin, int64_t row_end) {
      gather_rows(view, weights, from, to, row_begin, row_end);
    });
  });
  return gradient;
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("dense_weight", TORCH_BOX(&dense_weight));
  m.impl("kept_gradient", TORCH_BOX(&kept_gradient));
}

}  // namespace
}  // namespace sparsefl
