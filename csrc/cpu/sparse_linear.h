// Sparse times dense, and the gradient of the sparse factor's values, with the batch in the lanes.
//
// Operands are feature-major: x[column * ldx + sample]. The batch is padded: every row of x and
// grad can be read up to the next multiple of kLanePadding samples, and what lies there is zero.
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

template <class T>
struct SddmmArgs {
  View view;
  Weights<T> weights;  // kValues: only the kind is read
  const T* grad;       // [rows, ldg]
  int64_t ldg;
  const T* x;  // [columns, ldx]
  int64_t ldx;
  T* grad_values;  // [nnz], every element is written
  int64_t batch;
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
  // grad_values[k] = sum_n grad[row(k), n] * x[column(k), n], times the magnitude for signs. The
  // view is the forward one (position is null); a part covers the whole batch.
  void (*sddmm)(const SddmmArgs<T>&, const Part&);
};

template <class T>
const SparseLinearKernels<T>& sparse_linear_kernels();

}  // namespace sparsefl
