// Sparse times dense, and the gradients of both factors, with the batch in the lanes.
//
// Operands are feature-major: x[column * ldx + sample]. The batch is padded: every row of x and
// grad can be read up to the next multiple of kLanePadding samples, and what lies there is zero. A
// batch of one is a plain vector instead: all leading dimensions are 1.
#pragma once

#include <cstdint>

#include "cpu/view.h"

namespace sparsefl {

template <class T>
struct SpmmArgs {
  View view;
  Weights<T> weights;
  const T* bias;  // [rows], or null
  const T* x;     // [columns, ldx]
  int64_t ldx;
  T* y;  // [rows, ldy], must not alias x
  int64_t ldy;
  int64_t batch;
};

// The gradients of y = weight * x in one walk of the transposed view, in whose order the weights
// are stored (position is null): a row of grad that a kept position meets is loaded once for its
// two products.
template <class T>
struct GradientsArgs {
  View view;  // rows: of x, columns: of grad
  Weights<T> weights;
  const T* grad;  // [columns, ldg]
  int64_t ldg;
  const T* x;  // [rows, ldx]
  int64_t ldx;
  T* grad_x;  // [rows, ld_grad_x], or null: grad_values alone
  int64_t ld_grad_x;
  T* grad_values;  // [nnz], every element is written
  int64_t batch;
  bool adds;  // to what grad_values holds; for batches of more than one
};

// A rectangle of work: rows [row_begin, row_end) and samples [lane_begin, lane_end), the latter a
// multiple of kLanePadding but for the batch's end.
struct Part {
  int64_t row_begin, row_end, lane_begin, lane_end;
};

template <class T>
struct SparseLinearKernels {
  // y[m, n] = bias[m] + sum_k weight[m, k] * x[k, n] over the kept k of row m. Rows without kept
  // positions get the bias. scratch: spmm_scratch elements, 64-byte aligned.
  void (*spmm)(const SpmmArgs<T>&, const Part&, T* scratch);
  int64_t (*spmm_scratch)(const SpmmArgs<T>&, const Part&);
  // y[c] += sum_r weight[r, c] * x[r] over the kept c of the rows r of a part: the product of one
  // sample with the matrix that the view is the transpose of, in the order of the stored elements.
  // Reading them in another would wait for memory. Bias and leading dimensions are not read.
  void (*spmv_transposed)(const SpmmArgs<T>&, const Part&);
  // grad_x[c, n] = sum_r weight[r, c] * grad[r, n] over the kept r of column c, and
  // grad_values[k] = sum_n grad[r(k), n] * x[c(k), n], times the magnitude for signs; for the rows
  // of a part, which covers the whole batch, of at least one sample. scratch: gradients_scratch
  // elements, 64-byte aligned.
  void (*gradients)(const GradientsArgs<T>&, const Part&, T* scratch);
  int64_t (*gradients_scratch)(const GradientsArgs<T>&);
  // sums[r] = sum_n x[r, n] for rows r in [begin, end).
  void (*row_sums)(const T* x, int64_t ld, int64_t batch, int64_t begin, int64_t end, T* sums);
};

template <class T>
const SparseLinearKernels<T>& sparse_linear_kernels();

}  // namespace sparsefl
