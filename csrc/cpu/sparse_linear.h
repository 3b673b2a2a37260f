// Sparse times dense, and the gradients of both factors, with the batch in the lanes.
//
// Operands and results lie feature-major or row-major, without padding; the kernels turn the latter
// in their caches. A batch of one is a plain vector: feature-major, all leading dimensions 1.
#pragma once

#include <cstdint>

#include "cpu/view.h"

namespace sparsefl {

// Samples of features: sample n of feature f lies at data[f * ld + n], or at data[n * ld + f] where
// row_major.
template <class T>
struct Panel {
  T* data;
  int64_t ld;
  bool row_major;

  // Whether it is one sample. Always inlined: the files of all instruction sets would share it.
  [[gnu::always_inline]] bool is_vector() const { return ld == 1 && !row_major; }
};

template <class T>
struct SpmmArgs {
  View view;
  Weights<T> weights;
  const T* bias;     // [rows], or null
  Panel<const T> x;  // of view.columns features
  Panel<T> y;        // of view.rows features, must not alias x
  int64_t batch;
};

// The gradients of y = weight * x in one walk of the transposed view, in whose order the weights
// are stored (position is null): a row of grad that a kept position meets is loaded once for its
// two products.
template <class T>
struct GradientsArgs {
  View view;  // rows: of x, columns: of grad
  Weights<T> weights;
  Panel<const T> grad;  // of view.columns features
  Panel<const T> x;     // of view.rows features
  Panel<T> grad_x;      // of view.rows features; its data may be null: grad_values alone
  T* grad_values;       // [nnz], every element of the part's rows is written
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
  // y[c] += sum_r weight[r, c] * x[r] over the kept c of the rows r of a part: the product of one
  // sample with the matrix that the view is the transpose of, in the order of the stored elements.
  // Reading them in another would wait for memory. Bias and leading dimensions are not read.
  void (*spmv_transposed)(const SpmmArgs<T>&, const Part&);
  // grad_x[c, n] = sum_r weight[r, c] * grad[r, n] over the kept r of column c, and
  // grad_values[k] = sum_n grad[r(k), n] * x[c(k), n], times the magnitude for signs; for the rows
  // of a part, which covers the whole batch, of at least one sample. scratch: gradients_scratch
  // elements, 64-byte aligned.
  void (*gradients)(const GradientsArgs<T>&, const Part&, T* scratch);
  int64_t (*gradients_scratch)(const GradientsArgs<T>&, const Part&);
  // sums[f] = sum_n x[f, n] for features f in [begin, end).
  void (*feature_sums)(const Panel<const T>& x, int64_t batch, int64_t begin, int64_t end,
                       double* sums);
};

template <class T>
const SparseLinearKernels<T>& sparse_linear_kernels();

}  // namespace sparsefl
