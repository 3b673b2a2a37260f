// The weights of a support as a dense matrix, for the layers that dense torch computes, and the
// gradient of such a matrix back on the support.
#pragma once

#include <cstdint>

#include "cpu/view.h"

namespace sparsefl {

// dense[row, column] = the weight kept there, 0 elsewhere, for the rows [row_begin, row_end) of a
// row-major [view.rows, view.columns] matrix. The view has no phases, and the stored elements lie
// in its order.
template <class T>
void scatter_rows(const View& view, const Weights<T>& weights, T* dense, int64_t row_begin,
                  int64_t row_end);

// gradient[p] = dense[row, column] of the p-th stored element, times its magnitude for signs; of
// these rows. The values of `weights` are not read.
template <class T>
void gather_rows(const View& view, const Weights<T>& weights, const T* dense, T* gradient,
                 int64_t row_begin, int64_t row_end);

}  // namespace sparsefl
