// The kernels of batch_norm.h, written once for every instruction set.

#include "cpu/simd.inl"

namespace sparsefl {
namespace {

// Elements whose sum is kept in lanes of T; longer sums are in double. They stay in the L1 cache
// for their second reading.
constexpr int64_t kStretch = 2048;
constexpr int kUnroll = 4;

// Hardware stops prefetching at a page's end and while the cache is read. So a stretch's second
// reading fetches the next stretch, and a row's second reading the next row, where that fits into
// the L2 cache beside this one: a third less time at 64 rows of 256 KB that lie in memory, seen on
// Zen 4 (more streams than one: rows of 64 KB).
constexpr int64_t kNextRowBytes = 256 << 10, kNextRowsBytes = 64 << 10;
constexpr int64_t kAheadBytes = 2048;

template <class T>
inline double sum_lanes(typename Vec<T>::Type v) {
  double total = 0;
  for (int i = 0; i < Vec<T>::kLanes; ++i) total += v[i];
  return total;
}

// Calls vector(i) for the vectors of [0, n), kUnroll of them in a row with lane u of the unrolling,
// then scalar(i) for the rest.
template <class T, class Vector, class Scalar>
inline void for_elements(int64_t n, const Vector& vector, const Scalar& scalar) {
  constexpr int kLanes = Vec<T>::kLanes;
  int64_t i = 0;
  for (; i + kUnroll * kLanes <= n; i += kUnroll * kLanes) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) vector(i + u * kLanes, u);
  }
  for (; i + kLanes <= n; i += kLanes) vector(i, 0);
  for (; i < n; ++i) scalar(i);
}

template <class T>
inline double sum_of(const typename Vec<T>::Type* v, double rest) {
  static_assert(kUnroll == 4);
  return sum_lanes<T>((v[0] + v[1]) + (v[2] + v[3])) + rest;
}

// About a centre that is near the mean, and corrected for its distance.
template <class T>
Moments stretch_moments(const T* x, int64_t n) {
  typedef typename Vec<T>::Type V;
  V sums[kUnroll] = {}, squares[kUnroll] = {};
  double sum = 0, square = 0;
  for_elements<T>(
      n, [&](int64_t i, int u) { sums[u] += load(x + i); }, [&](int64_t i) { sum += x[i]; });
  const double count = static_cast<double>(n);
  const T centre = static_cast<T>(sum_of<T>(sums, sum) / count);
  const V centres = broadcast<T>(centre);
  for (V& lanes : sums) lanes = V{};
  sum = 0;
  for_elements<T>(
      n,
      [&](int64_t i, int u) {
        __builtin_prefetch(x + i + kStretch);
        const V d = load(x + i) - centres;
        sums[u] += d;
        squares[u] += d * d;
      },
      [&](int64_t i) {
        const double d = x[i] - centre;
        sum += d;
        square += d * d;
      });
  const double off = sum_of<T>(sums, sum) / count;
  return {n, centre + off, sum_of<T>(squares, square) - off * off * count};
}

template <class T>
Moments moments(const T* x, int64_t n) {
  double count = 0, mean = 0, squares = 0;
  for (int64_t begin = 0; begin < n; begin += kStretch) {
    const Moments m = stretch_moments(x + begin, n - begin < kStretch ? n - begin : kStretch);
    const double more = static_cast<double>(m.count), delta = m.mean - mean;
    const double share = more / (count + more);
    squares += m.squares + delta * delta * share * count;
    mean += delta * share;
    count += more;
  }
  return {n, mean, squares > 0 || squares != squares ? squares : 0};
}

template <class T, bool kResidual, bool kRelu>
void normalise_row(const T* x, const T* residual, T* y, int64_t n, const Affine<T>& a) {
  typedef typename Vec<T>::Type V;
  const V mean = broadcast<T>(a.mean), scale = broadcast<T>(a.scale), shift = broadcast<T>(a.shift);
  const V zero = {};
  const int64_t next = n * int64_t{sizeof(T)} <= kNextRowBytes ? n : 0;
  for_elements<T>(
      n,
      [&](int64_t i, int) {
        __builtin_prefetch(x + i + next, 0, 2);
        V v = (load(x + i) - mean) * scale + shift;
        if constexpr (kResidual) v += load(residual + i);
        if constexpr (kRelu) v = v < zero ? zero : v;
        store(y + i, v);
      },
      [&](int64_t i) {
        T v = (x[i] - a.mean) * a.scale + a.shift;
        if constexpr (kResidual) v += residual[i];
        if constexpr (kRelu) v = v < 0 ? 0 : v;
        y[i] = v;
      });
}

template <class T>
void normalise(const T* x, const T* residual, T* y, int64_t n, const Affine<T>& a, bool relu) {
  if (residual != nullptr) {
    relu ? normalise_row<T, true, true>(x, residual, y, n, a)
         : normalise_row<T, true, false>(x, residual, y, n, a);
  } else {
    relu ? normalise_row<T, false, true>(x, residual, y, n, a)
         : normalise_row<T, false, false>(x, residual, y, n, a);
  }
}

// The gradient as the ReLU let it through.
template <class T, Gate kGate>
struct Gated {
  typedef typename Vec<T>::Type V;
  const NormGradient<T>& g;
  V mean = broadcast<T>(g.affine.mean);
  V scale = broadcast<T>(g.affine.scale);
  V shift = broadcast<T>(g.affine.shift);

  V vector(int64_t i, V centred) const {
    const V grad = load(g.grad + i), zero = {};
    if constexpr (kGate == Gate::kInput) return centred * scale + shift <= zero ? zero : grad;
    if constexpr (kGate == Gate::kSum) {
      return centred * scale + shift + load(g.beside + i) <= zero ? zero : grad;
    }
    if constexpr (kGate == Gate::kOutput) return load(g.beside + i) <= zero ? zero : grad;
    return grad;
  }
  T scalar(int64_t i, T centred) const {
    if constexpr (kGate == Gate::kInput) {
      return centred * g.affine.scale + g.affine.shift <= 0 ? 0 : g.grad[i];
    }
    if constexpr (kGate == Gate::kSum) {
      return centred * g.affine.scale + g.affine.shift + g.beside[i] <= 0 ? 0 : g.grad[i];
    }
    if constexpr (kGate == Gate::kOutput) return g.beside[i] <= 0 ? 0 : g.grad[i];
    return g.grad[i];
  }
};

template <class T, Gate kGate>
void gated_sums(const NormGradient<T>& g, int64_t n, double* out) {
  typedef typename Vec<T>::Type V;
  constexpr int64_t kAhead = kAheadBytes / sizeof(T);
  const Gated<T, kGate> gated{g};
  out[0] = out[1] = 0;
  for (int64_t begin = 0; begin < n; begin += kStretch) {
    const int64_t size = n - begin < kStretch ? n - begin : kStretch;
    V sums[kUnroll] = {}, products[kUnroll] = {};
    double sum = 0, product = 0;
    for_elements<T>(
        size,
        [&](int64_t i, int u) {
          __builtin_prefetch(g.x + begin + i + kAhead);
          __builtin_prefetch(g.grad + begin + i + kAhead);
          const V centred = load(g.x + begin + i) - gated.mean;
          const V grad = gated.vector(begin + i, centred);
          sums[u] += grad;
          products[u] += grad * centred;
        },
        [&](int64_t i) {
          const T centred = g.x[begin + i] - g.affine.mean;
          const T grad = gated.scalar(begin + i, centred);
          sum += grad;
          product += static_cast<double>(grad) * centred;
        });
    out[0] += sum_of<T>(sums, sum);
    out[1] += sum_of<T>(products, product);
  }
}

template <class T, Gate kGate, bool kInput, bool kResidual>
void gradient_row(const NormGradient<T>& g, int64_t n) {
  typedef typename Vec<T>::Type V;
  const Gated<T, kGate> gated{g};
  const V slope = broadcast<T>(g.slope), offset = broadcast<T>(g.offset),
          tilt = broadcast<T>(g.tilt);
  const int64_t next = n * int64_t{sizeof(T)} <= kNextRowsBytes ? n : 0;
  for_elements<T>(
      n,
      [&](int64_t i, int) {
        __builtin_prefetch(g.x + i + next, 0, 2);
        __builtin_prefetch(g.grad + i + next, 0, 2);
        const V centred = load(g.x + i) - gated.mean;
        const V grad = gated.vector(i, centred);
        if constexpr (kResidual) store(g.grad_residual + i, grad);
        if constexpr (kInput) store(g.grad_x + i, grad * slope + (centred * tilt + offset));
      },
      [&](int64_t i) {
        const T centred = g.x[i] - g.affine.mean;
        const T grad = gated.scalar(i, centred);
        if constexpr (kResidual) g.grad_residual[i] = grad;
        if constexpr (kInput) g.grad_x[i] = grad * g.slope + (centred * g.tilt + g.offset);
      });
}

template <class T, Gate kGate>
void gated_gradient(const NormGradient<T>& g, int64_t n) {
  if (g.grad_residual == nullptr) {
    gradient_row<T, kGate, true, false>(g, n);
  } else if (g.grad_x == nullptr) {
    gradient_row<T, kGate, false, true>(g, n);
  } else {
    gradient_row<T, kGate, true, true>(g, n);
  }
}

template <class T>
void sums(const NormGradient<T>& g, int64_t n, double* out) {
  if (g.gate == Gate::kInput) return gated_sums<T, Gate::kInput>(g, n, out);
  if (g.gate == Gate::kSum) return gated_sums<T, Gate::kSum>(g, n, out);
  if (g.gate == Gate::kOutput) return gated_sums<T, Gate::kOutput>(g, n, out);
  gated_sums<T, Gate::kOpen>(g, n, out);
}

template <class T>
void gradient(const NormGradient<T>& g, int64_t n) {
  if (g.gate == Gate::kInput) return gated_gradient<T, Gate::kInput>(g, n);
  if (g.gate == Gate::kSum) return gated_gradient<T, Gate::kSum>(g, n);
  if (g.gate == Gate::kOutput) return gated_gradient<T, Gate::kOutput>(g, n);
  gated_gradient<T, Gate::kOpen>(g, n);
}

}  // namespace

#define SPARSEFL_BATCH_NORM_TABLE(T) {moments<T>, normalise<T>, sums<T>, gradient<T>}

}  // namespace sparsefl
