// The kernels of group_norm.h, written once for every instruction set.

#include "cpu/simd.inl"

namespace sparsefl {
namespace {

// About so many elements are summed in lanes of T; longer sums are in double.
constexpr int64_t kStretch = 8192;
constexpr int kUnroll = 4;

template <int N>
struct Count {
  static constexpr int kValue = N;
};

inline int64_t stretch_of(int64_t columns) {
  return columns > kStretch ? columns : kStretch / columns * columns;
}

// Walks n elements in rows of `columns` from their first, i: block(column, i, rows, Count<U>) for
// every U vectors of columns, for the last row, which may be shorter, again, and scalar(column, i)
// for those of it that fill no vector.
template <class T, class Block, class Scalar>
inline void for_columns(int64_t n, int64_t columns, const Block& block, const Scalar& scalar) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const int64_t rows = n / columns, last = rows * columns;
  int64_t c = 0;
  if (rows > 0) {
    for (; c + kUnroll * kLanes <= columns; c += kUnroll * kLanes) {
      block(c, c, rows, Count<kUnroll>{});
    }
    for (; c < columns; c += kLanes) block(c, c, rows, Count<1>{});
  }
  for (c = 0; last + c + kLanes <= n; c += kLanes) block(c, last + c, int64_t{1}, Count<1>{});
  for (; last + c < n; ++c) scalar(c, last + c);
}

template <class T>
inline void clear(T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = 0;
}

template <class T, class V>
inline void add_to(T* p, V v) {
  store(p, load(p) + v);
}

// Sums the columns of each sample into its first. They are batch times a power of two.
template <class T>
inline void fold(T* sums, int64_t batch, int64_t columns) {
  for (int64_t half = columns / 2; half >= batch; half /= 2) {
#pragma GCC ivdep
    for (int64_t c = 0; c < half; ++c) sums[c] += sums[half + c];
  }
}

// Repeats the first column of every sample.
template <class T>
inline void repeat(T* x, int64_t batch, int64_t columns) {
  for (int64_t done = batch; done < columns; done *= 2) {
#pragma GCC ivdep
    for (int64_t c = 0; c < done; ++c) x[done + c] = x[c];
  }
}

// The means of the samples in n elements, [columns].
template <class T>
void find_centres(const T* x, int64_t n, int64_t batch, int64_t columns, T* centres) {
  typedef typename Vec<T>::Type V;
  constexpr int kLanes = Vec<T>::kLanes;
  clear(centres, columns);
  for_columns<T>(
      n, columns,
      [&](int64_t c, int64_t i, int64_t rows, auto u) {
        V sum[u.kValue] = {};
        for (int64_t row = 0; row < rows; ++row, i += columns) {
#pragma GCC unroll 4
          for (int k = 0; k < u.kValue; ++k) sum[k] += load(x + i + k * kLanes);
        }
        for (int k = 0; k < u.kValue; ++k) add_to(centres + c + k * kLanes, sum[k]);
      },
      [&](int64_t c, int64_t i) { centres[c] += x[i]; });
  fold(centres, batch, columns);
  const T share = 1 / static_cast<T>(n / batch);
  for (int64_t s = 0; s < batch; ++s) centres[s] *= share;
}

// Sums of the distances to centres, and of their squares, of the samples in n elements.
template <class T>
void sum_about(const T* centres, const T* x, int64_t n, int64_t batch, int64_t columns, T* sums,
               T* squares) {
  typedef typename Vec<T>::Type V;
  constexpr int kLanes = Vec<T>::kLanes;
  clear(sums, columns);
  clear(squares, columns);
  for_columns<T>(
      n, columns,
      [&](int64_t c, int64_t i, int64_t rows, auto u) {
        V centre[u.kValue], sum[u.kValue] = {}, square[u.kValue] = {};
        for (int k = 0; k < u.kValue; ++k) centre[k] = load(centres + c + k * kLanes);
        for (int64_t row = 0; row < rows; ++row, i += columns) {
#pragma GCC unroll 4
          for (int k = 0; k < u.kValue; ++k) {
            const V d = load(x + i + k * kLanes) - centre[k];
            sum[k] += d;
            square[k] += d * d;
          }
        }
        for (int k = 0; k < u.kValue; ++k) add_to(sums + c + k * kLanes, sum[k]);
        for (int k = 0; k < u.kValue; ++k) add_to(squares + c + k * kLanes, square[k]);
      },
      [&](int64_t c, int64_t i) {
        const T d = x[i] - centres[c];
        sums[c] += d;
        squares[c] += d * d;
      });
  fold(sums, batch, columns);
  fold(squares, batch, columns);
}

// Stretch by stretch, put together as in Chan, Golub and LeVeque 1983. A stretch's sums are taken
// about the mean of what came before it: where that is far from its own, the distance is most of
// the variance, and an error of the rest is small beside it.
template <class T>
void moments(const T* x, int64_t n, int64_t batch, T* scratch, SampleMoments* running) {
  const int64_t columns = sample_columns(batch), stretch = stretch_of(columns);
  T *centres = scratch, *sums = scratch + columns, *squares = sums + columns;
  double *mean = running->mean, *total = running->squares;
  for (; n > 0; x += stretch, n -= stretch) {
    const int64_t size = n < stretch ? n : stretch;
    if (running->count == 0) {
      find_centres(x, size, batch, columns, centres);
    } else {
      for (int64_t s = 0; s < batch; ++s) centres[s] = static_cast<T>(mean[s]);
    }
    repeat(centres, batch, columns);
    sum_about(centres, x, size, batch, columns, sums, squares);
    const double more = static_cast<double>(size / batch), inverse = 1 / more;
    const double known = static_cast<double>(running->count), share = more / (known + more);
    for (int64_t s = 0; s < batch; ++s) {
      const double off = sums[s] * inverse, delta = centres[s] + off - mean[s];
      total[s] += squares[s] - off * off * more + delta * delta * share * known;
      mean[s] += delta * share;
    }
    running->count += size / batch;
  }
}

template <class T, bool kResidual, bool kRelu>
void normalise_channel(const T* x, const T* residual, T* y, int64_t n, const SampleAffine<T>& a) {
  typedef typename Vec<T>::Type V;
  constexpr int kLanes = Vec<T>::kLanes;
  const V weight = broadcast<T>(a.weight), bias = broadcast<T>(a.bias), zero = {};
  const int64_t columns = a.columns, stretch = stretch_of(columns);
  for (int64_t begin = 0; begin < n; begin += stretch) {
    for_columns<T>(
        n - begin < stretch ? n - begin : stretch, columns,
        [&](int64_t c, int64_t i, int64_t rows, auto u) {
          V mean[u.kValue], scale[u.kValue];
          for (int k = 0; k < u.kValue; ++k) mean[k] = load(a.mean + c + k * kLanes);
          for (int k = 0; k < u.kValue; ++k) scale[k] = load(a.invstd + c + k * kLanes) * weight;
          i += begin;
          for (int64_t row = 0; row < rows; ++row, i += columns) {
#pragma GCC unroll 4
            for (int k = 0; k < u.kValue; ++k) {
              V v = (load(x + i + k * kLanes) - mean[k]) * scale[k] + bias;
              if constexpr (kResidual) v += load(residual + i + k * kLanes);
              if constexpr (kRelu) v = v < zero ? zero : v;
              store(y + i + k * kLanes, v);
            }
          }
        },
        [&](int64_t c, int64_t i) {
          i += begin;
          const T scale = a.invstd[c] * a.weight;
          T v = (x[i] - a.mean[c]) * scale + a.bias;
          if constexpr (kResidual) v += residual[i];
          if constexpr (kRelu) v = v < 0 ? 0 : v;
          y[i] = v;
        });
  }
}

template <class T>
void normalise(const T* x, const T* residual, T* y, int64_t n, const SampleAffine<T>& a,
               bool relu) {
  if (residual != nullptr) {
    relu ? normalise_channel<T, true, true>(x, residual, y, n, a)
         : normalise_channel<T, true, false>(x, residual, y, n, a);
  } else {
    relu ? normalise_channel<T, false, true>(x, residual, y, n, a)
         : normalise_channel<T, false, false>(x, residual, y, n, a);
  }
}

// The sum of x times the factors over the columns.
template <class T, class Factor>
inline double total(const T* x, int64_t columns, const Factor& factor) {
  typedef typename Vec<T>::Type V;
  constexpr int kLanes = Vec<T>::kLanes;
  V sums[kUnroll] = {};
  int64_t c = 0;
  for (; c + kUnroll * kLanes <= columns; c += kUnroll * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < kUnroll; ++k) {
      sums[k] += load(x + c + k * kLanes) * factor(c + k * kLanes);
    }
  }
  for (; c < columns; c += kLanes) sums[0] += load(x + c) * factor(c);
  static_assert(kUnroll == 4);
  const V sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double all = 0;
  for (int lane = 0; lane < kLanes; ++lane) all += sum[lane];
  return all;
}

// The gradient as the ReLU let it through.
template <class T, Gate kGate>
struct Gated {
  typedef typename Vec<T>::Type V;
  const GroupNormGradient<T>& g;
  V bias = broadcast<T>(g.affine.bias);

  V vector(int64_t i, V centred, V scale) const {
    const V grad = load(g.grad + i), zero = {};
    if constexpr (kGate == Gate::kInput) return centred * scale + bias <= zero ? zero : grad;
    if constexpr (kGate == Gate::kSum) {
      return centred * scale + bias + load(g.beside + i) <= zero ? zero : grad;
    }
    if constexpr (kGate == Gate::kOutput) return load(g.beside + i) <= zero ? zero : grad;
    return grad;
  }
  T scalar(int64_t i, T centred, T scale) const {
    if constexpr (kGate == Gate::kInput) {
      return centred * scale + g.affine.bias <= 0 ? 0 : g.grad[i];
    }
    if constexpr (kGate == Gate::kSum) {
      return centred * scale + g.affine.bias + g.beside[i] <= 0 ? 0 : g.grad[i];
    }
    if constexpr (kGate == Gate::kOutput) return g.beside[i] <= 0 ? 0 : g.grad[i];
    return g.grad[i];
  }
};

template <class T, Gate kGate>
void gated_sums(const GroupNormGradient<T>& g, int64_t n, int64_t batch, T* scratch,
                double* channel, double* group) {
  typedef typename Vec<T>::Type V;
  constexpr int kLanes = Vec<T>::kLanes;
  const SampleAffine<T>& a = g.affine;
  const Gated<T, kGate> gated{g};
  const V weight = broadcast<T>(a.weight);
  const int64_t columns = a.columns, stretch = stretch_of(columns);
  T *sums = scratch, *products = scratch + columns;
  channel[0] = channel[1] = 0;
  for (int64_t begin = 0; begin < n; begin += stretch) {
    clear(sums, 2 * columns);
    for_columns<T>(
        n - begin < stretch ? n - begin : stretch, columns,
        [&](int64_t c, int64_t i, int64_t rows, auto u) {
          V mean[u.kValue], scale[u.kValue], sum[u.kValue] = {}, product[u.kValue] = {};
          for (int k = 0; k < u.kValue; ++k) mean[k] = load(a.mean + c + k * kLanes);
          for (int k = 0; k < u.kValue; ++k) scale[k] = load(a.invstd + c + k * kLanes) * weight;
          i += begin;
          for (int64_t row = 0; row < rows; ++row, i += columns) {
#pragma GCC unroll 4
            for (int k = 0; k < u.kValue; ++k) {
              const V centred = load(g.x + i + k * kLanes) - mean[k];
              const V grad = gated.vector(i + k * kLanes, centred, scale[k]);
              sum[k] += grad;
              product[k] += grad * centred;
            }
          }
          for (int k = 0; k < u.kValue; ++k) add_to(sums + c + k * kLanes, sum[k]);
          for (int k = 0; k < u.kValue; ++k) add_to(products + c + k * kLanes, product[k]);
        },
        [&](int64_t c, int64_t i) {
          i += begin;
          const T scale = a.invstd[c] * a.weight, centred = g.x[i] - a.mean[c];
          const T grad = gated.scalar(i, centred, scale);
          sums[c] += grad;
          products[c] += grad * centred;
        });
    channel[0] += total<T>(sums, columns, [](int64_t) { return broadcast<T>(1); });
    channel[1] += total<T>(products, columns, [&](int64_t c) { return load(a.invstd + c); });
    fold(sums, batch, columns);
    fold(products, batch, columns);
    const double scale = a.weight;
    for (int64_t s = 0; s < batch; ++s) {
      group[s] += scale * sums[s];
      group[batch + s] += scale * products[s];
    }
  }
}

template <class T, Gate kGate, bool kInput, bool kResidual>
void gradient_channel(const GroupNormGradient<T>& g, int64_t n) {
  typedef typename Vec<T>::Type V;
  constexpr int kLanes = Vec<T>::kLanes;
  const SampleAffine<T>& a = g.affine;
  const Gated<T, kGate> gated{g};
  const V weight = broadcast<T>(a.weight);
  const int64_t columns = a.columns, stretch = stretch_of(columns);
  for (int64_t begin = 0; begin < n; begin += stretch) {
    for_columns<T>(
        n - begin < stretch ? n - begin : stretch, columns,
        [&](int64_t c, int64_t i, int64_t rows, auto u) {
          V mean[u.kValue], scale[u.kValue], offset[u.kValue], tilt[u.kValue];
          for (int k = 0; k < u.kValue; ++k) {
            mean[k] = load(a.mean + c + k * kLanes);
            scale[k] = load(a.invstd + c + k * kLanes) * weight;
            offset[k] = load(g.offset + c + k * kLanes);
            tilt[k] = load(g.tilt + c + k * kLanes);
          }
          i += begin;
          for (int64_t row = 0; row < rows; ++row, i += columns) {
#pragma GCC unroll 4
            for (int k = 0; k < u.kValue; ++k) {
              const int64_t at = i + k * kLanes;
              const V centred = load(g.x + at) - mean[k];
              const V grad = gated.vector(at, centred, scale[k]);
              if constexpr (kResidual) store(g.grad_residual + at, grad);
              if constexpr (kInput) {
                store(g.grad_x + at, grad * scale[k] + (centred * tilt[k] + offset[k]));
              }
            }
          }
        },
        [&](int64_t c, int64_t i) {
          i += begin;
          const T scale = a.invstd[c] * a.weight, centred = g.x[i] - a.mean[c];
          const T grad = gated.scalar(i, centred, scale);
          if constexpr (kResidual) g.grad_residual[i] = grad;
          if constexpr (kInput) g.grad_x[i] = grad * scale + (centred * g.tilt[c] + g.offset[c]);
        });
  }
}

template <class T, Gate kGate>
void gated_gradient(const GroupNormGradient<T>& g, int64_t n) {
  if (g.grad_residual == nullptr) {
    gradient_channel<T, kGate, true, false>(g, n);
  } else if (g.grad_x == nullptr) {
    gradient_channel<T, kGate, false, true>(g, n);
  } else {
    gradient_channel<T, kGate, true, true>(g, n);
  }
}

template <class T>
void sums(const GroupNormGradient<T>& g, int64_t n, int64_t batch, T* scratch, double* channel,
          double* group) {
  switch (g.gate) {
    case Gate::kInput:
      return gated_sums<T, Gate::kInput>(g, n, batch, scratch, channel, group);
    case Gate::kSum:
      return gated_sums<T, Gate::kSum>(g, n, batch, scratch, channel, group);
    case Gate::kOutput:
      return gated_sums<T, Gate::kOutput>(g, n, batch, scratch, channel, group);
    default:
      return gated_sums<T, Gate::kOpen>(g, n, batch, scratch, channel, group);
  }
}

template <class T>
void gradient(const GroupNormGradient<T>& g, int64_t n) {
  if (g.gate == Gate::kInput) return gated_gradient<T, Gate::kInput>(g, n);
  if (g.gate == Gate::kSum) return gated_gradient<T, Gate::kSum>(g, n);
  if (g.gate == Gate::kOutput) return gated_gradient<T, Gate::kOutput>(g, n);
  gated_gradient<T, Gate::kOpen>(g, n);
}

}  // namespace

#define SPARSEFL_GROUP_NORM_TABLE(T) {moments<T>, normalise<T>, sums<T>, gradient<T>}

}  // namespace sparsefl
