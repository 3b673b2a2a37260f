// Builds plans from supports: operators without gradients.

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "bindings/arguments.h"
#include "cpu/plan.h"

namespace sparsefl {
namespace {

int64_t segments(int64_t columns, int64_t block) {
  return columns == 0 ? 1 : (columns + block - 1) / block;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> plan_forward(const Tensor& indices, int64_t rows,
                                                        int64_t columns, int64_t block) {
  const int64_t nnz = indices.numel();
  Tensor begin = empty_of(indices, {segments(columns, block) * rows + 1}, ScalarType::Int);
  Tensor index = empty_of(indices, {nnz}, ScalarType::Short);
  Tensor order = empty_of(indices, {nnz});
  Tensor work = empty_of(indices, {rows + 1});
  build_forward_view(data<int64_t>(indices), nnz, rows, columns, block,
                     mutable_data<int32_t>(begin), mutable_data<int16_t>(index),
                     mutable_data<int64_t>(order), mutable_data<int64_t>(work));
  return {begin, index, order, work};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> plan_transposed(
    const Tensor& indices, const Tensor& order, int64_t out, int64_t in, int64_t groups,
    int64_t block, std::vector<int64_t> tap_phase, int64_t phases) {
  const int64_t nnz = indices.numel();
  const Transposed shape{out, in, groups, block, std::move(tap_phase), phases};
  const int64_t buckets = phases * segments(shape.columns(), block) * shape.rows();
  Tensor begin = empty_of(indices, {buckets + 1}, ScalarType::Int);
  Tensor index = empty_of(indices, {nnz}, ScalarType::Short);
  Tensor position = empty_of(indices, {nnz}, ScalarType::Int);
  Tensor work = empty_of(indices, {shape.rows() + 1});
  build_transposed_view(data<int64_t>(indices), data<int64_t>(order), nnz, shape,
                        mutable_data<int32_t>(begin), mutable_data<int16_t>(index),
                        mutable_data<int32_t>(position), mutable_data<int64_t>(work));
  return {begin, index, position, work};
}

STABLE_TORCH_LIBRARY_IMPL(sparsefl, CPU, m) {
  m.impl("plan_forward", TORCH_BOX(&plan_forward));
  m.impl("plan_transposed", TORCH_BOX(&plan_transposed));
}

}  // namespace
}  // namespace sparsefl
