#include "cpu/dense_weight.h"

#include <algorithm>

#include "cpu/weights.inl"

namespace sparsefl {
namespace {

// Calls run(row, first column, columns, first position, last position) for a stretch of rows, block
// by block: so the stored elements and indices are read in their order.
template <class Run>
inline void for_block_rows(const View& view, int64_t row_begin, int64_t row_end, const Run& run) {
  for (int64_t b = 0; b < view.blocks(); ++b) {
    const int64_t column = b * view.block;
    const int64_t width = std::min(view.block, view.columns - column);
    for (int64_t row = row_begin; row < row_end; ++row) {
      const int32_t* begin = view.begin + b * view.rows + row;
      run(row, column, width, begin[0], begin[1]);
    }
  }
}

// dL/dscore from dL/dweight: straight-through, times the magnitude.
template <class T>
inline void scale(const Weights<T>& weights, T* gradient, int64_t begin, int64_t end) {
  if (weights.kind == WeightKind::kValues) return;
  const bool constant = weights.kind == WeightKind::kSignConstant;
  for (int64_t k = begin; k < end; ++k) {
    gradient[k] *= constant ? weights.constant : weights.magnitudes[k];
  }
}

}  // namespace

template <class T>
void scatter_rows(const View& view, const Weights<T>& weights, T* dense, int64_t row_begin,
                  int64_t row_end) {
  with_reader(weights, view.position, [&](const auto& weight) {
    const uint16_t* index = view.index;
    for_block_rows(view, row_begin, row_end,
                   [&](int64_t row, int64_t column, int64_t width, int64_t k, int64_t end) {
                     T* to = dense + row * view.columns + column;
                     std::fill_n(to, width, T{0});
                     for (; k < end; ++k) to[index[k]] = weight(k, index[k]);
                   });
  });
}

template <class T>
void gather_rows(const View& view, const Weights<T>& weights, const T* dense, T* gradient,
                 int64_t row_begin, int64_t row_end) {
  const uint16_t* index = view.index;
  for_block_rows(view, row_begin, row_end,
                 [&](int64_t row, int64_t column, int64_t, int64_t begin, int64_t end) {
                   const T* from = dense + row * view.columns + column;
                   for (int64_t k = begin; k < end; ++k) gradient[k] = from[index[k]];
                   scale(weights, gradient, begin, end);
                 });
}

template void scatter_rows(const View&, const Weights<float>&, float*, int64_t, int64_t);
template void scatter_rows(const View&, const Weights<double>&, double*, int64_t, int64_t);
template void gather_rows(const View&, const Weights<float>&, const float*, float*, int64_t,
                          int64_t);
template void gather_rows(const View&, const Weights<double>&, const double*, double*, int64_t,
                          int64_t);

}  // namespace sparsefl
