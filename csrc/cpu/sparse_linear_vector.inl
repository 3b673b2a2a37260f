// Products with one sample, part of sparse_linear.inl: with nothing for the lanes to share, a kept
// position is worth one load of the vector, and what decides is how many loads it takes in all.

namespace sparsefl {
namespace {

// sum of the weight of k times x[column of index[k]] over k in [begin, end), in four chains.
template <class T, class R>
inline T dot(const R& weight, const uint16_t* index, int64_t begin, int64_t end, const T* x) {
  T sums[4] = {};
  int64_t k = begin;
  for (; k + 4 <= end; k += 4) {
    for (int c = 0; c < 4; ++c) {
      sums[c] += weight(k + c, index[k + c]) * x[weight.column(index[k + c])];
    }
  }
  for (; k < end; ++k) sums[0] += weight(k, index[k]) * x[weight.column(index[k])];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <class T, class R>
void spmv(const SpmmArgs<T>& a, const R weight, const Part& part) {
  const View view = a.view;
  for (int64_t row = part.row_begin; row < part.row_end; ++row) {
    T sum = a.bias == nullptr ? T{0} : a.bias[row];
    for (int64_t b = 0; b < view.blocks(); ++b) {
      const int32_t* begin = view.begin + b * view.rows + row;
      sum += dot(weight, view.index, begin[0], begin[1], a.x.data + b * view.block);
    }
    a.y.data[row] = sum;
  }
}

template <class T, class R>
void scatter(const SpmmArgs<T>& a, const R weight, const Part& part) {
  const View view = a.view;
  for (int64_t b = 0; b < view.blocks(); ++b) {
    const int32_t* begin = view.begin + b * view.rows;
    T* y = a.y.data + b * view.block;
    for (int64_t row = part.row_begin; row < part.row_end; ++row) {
      const T x = a.x.data[row];
      const int64_t end = begin[row + 1];
#pragma GCC unroll 4
      for (int64_t k = begin[row]; k < end; ++k) {
        y[weight.column(view.index[k])] += weight(k, view.index[k]) * x;
      }
    }
  }
}

template <class T>
void spmv_transposed(const SpmmArgs<T>& a, const Part& part) {
  with_linear_reader<T>(a.weights, a.view.position,
                        [&](const auto& weight) { scatter(a, weight, part); });
}

// The stored elements' gradient over k in [begin, end) is that of the weights times scale(k).
template <class T, class R, class S>
void vector_gradients(const GradientsArgs<T>& a, const R weight, const S scale, const Part& part) {
  const View view = a.view;
  for (int64_t b = 0; b < view.blocks(); ++b) {
    const int32_t* begin = view.begin + b * view.rows;
    const T* grad = a.grad.data + b * view.block;
    for (int64_t row = part.row_begin; row < part.row_end; ++row) {
      const T x = a.x.data[row];
      for (int64_t k = begin[row]; k < begin[row + 1]; ++k) {
        a.grad_values[k] = x * grad[weight.column(view.index[k])] * scale(k);
      }
      if (a.grad_x.data == nullptr) continue;
      const T sum = dot(weight, view.index, begin[row], begin[row + 1], grad);
      a.grad_x.data[row] = b == 0 ? sum : a.grad_x.data[row] + sum;
    }
  }
}

template <class T, class R>
void vector_gradients(const GradientsArgs<T>& a, const R& weight, const Part& part) {
  const Weights<T> w = a.weights;
  if (w.kind == WeightKind::kSignTensor) {
    return vector_gradients(a, weight, [=](int64_t k) { return w.magnitudes[k]; }, part);
  }
  const T constant = w.one_magnitude() ? w.constant : T{1};
  vector_gradients(a, weight, [=](int64_t) { return constant; }, part);
}

}  // namespace
}  // namespace sparsefl
