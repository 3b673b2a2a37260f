// The kernels of gated_norm.h, written once for every instruction set.

#include "cpu/simd.inl"

namespace sparsefl {
namespace {

// Calls step(i, lanes) for every vector of a plane; the last may have fewer lanes.
template <class T, class Step>
inline void for_vectors(int64_t pixels, Step step) {
  constexpr int kLanes = Vec<T>::kLanes;
  int64_t i = 0;
  for (; i + kLanes <= pixels; i += kLanes) step(i, int64_t{kLanes});
  if (i < pixels) step(i, pixels - i);
}

template <class T>
inline typename Vec<T>::Type read(const T* p, int64_t lanes) {
  return lanes == Vec<T>::kLanes ? load(p) : load_some(p, lanes);
}

template <class T>
inline void write(T* p, typename Vec<T>::Type v, int64_t lanes) {
  lanes == Vec<T>::kLanes ? store(p, v) : store_some(p, v, lanes);
}

template <class T>
inline T sum_lanes(typename Vec<T>::Type v) {
  T sum = 0;
  for (int i = 0; i < Vec<T>::kLanes; ++i) sum += v[i];
  return sum;
}

template <class T>
inline void zero_plane(T* to, int64_t pixels) {
  for_vectors<T>(pixels,
                 [&](int64_t i, int64_t lanes) { write(to + i, typename Vec<T>::Type{}, lanes); });
}

template <class T>
void pool(const T* x, int64_t pixels, int64_t first, int64_t last, T* mean, uint8_t* nonzero) {
  typedef typename Vec<T>::Type V;
  for (int64_t plane = first; plane < last; ++plane) {
    const T* from = x + plane * pixels;
    V sum = {};
    auto other = V{} != V{};
    for_vectors<T>(pixels, [&](int64_t i, int64_t lanes) {
      const V v = read(from + i, lanes);
      sum += v;
      other |= v != V{};
    });
    bool any = false;
    for (int i = 0; i < Vec<T>::kLanes; ++i) any |= other[i] != 0;
    mean[plane] = sum_lanes<T>(sum) / static_cast<T>(pixels);
    nonzero[plane] = any;
  }
}

// Calls run(channel, pair, plane offset) for every pair of the samples.
template <class T, class Run>
inline void for_pairs(const GatedNormArgs<T>& a, int64_t first, int64_t last, Run run) {
  for (int64_t i = first * a.channels; i < last * a.channels; ++i) {
    run(i % a.channels, i, i * a.pixels);
  }
}

template <class T>
void moments(const GatedNormArgs<T>& a, int64_t first, int64_t last, T* mean, T* squares) {
  typedef typename Vec<T>::Type V;
  for_pairs(a, first, last, [&](int64_t, int64_t pair, int64_t at) {
    if (a.active[pair] == 0) return;
    V sum = {}, square = {};
    for_vectors<T>(a.pixels, [&](int64_t i, int64_t lanes) { sum += read(a.z + at + i, lanes); });
    const T average = sum_lanes<T>(sum) / static_cast<T>(a.pixels);
    for_vectors<T>(a.pixels, [&](int64_t i, int64_t lanes) {
      // Missing lanes are as far from zero as the average: they are not counted.
      V distance = read(a.z + at + i, lanes) - broadcast(average);
      for (int64_t j = lanes; j < Vec<T>::kLanes; ++j) distance[j] = 0;
      square += distance * distance;
    });
    mean[pair] = average;
    squares[pair] = sum_lanes<T>(square);
  });
}

// What passes the ReLU of the normalised values `t`; the gate is positive.
template <class T>
inline typename Vec<T>::Type passed(typename Vec<T>::Type t, typename Vec<T>::Type v) {
  return t > typename Vec<T>::Type{} ? v : typename Vec<T>::Type{};
}

template <class T>
void apply(const GatedNormArgs<T>& a, int64_t first, int64_t last, T* out) {
  typedef typename Vec<T>::Type V;
  for_pairs(a, first, last, [&](int64_t c, int64_t pair, int64_t at) {
    if (a.gate[pair] == 0) return zero_plane(out + at, a.pixels);
    const V scale = broadcast(a.scale[c]), shift = broadcast(a.shift[c]);
    const V gate = broadcast(a.gate[pair]);
    for_vectors<T>(a.pixels, [&](int64_t i, int64_t lanes) {
      const V t = scale * read(a.z + at + i, lanes) + shift, v = gate * t;
      // Written so that a NaN stays one.
      write(out + at + i, a.relu ? (t <= V{} ? V{} : v) : v, lanes);
    });
  });
}

template <class T>
void sums(const GatedNormArgs<T>& a, const T* grad, int64_t first, int64_t last, T* plain,
          T* centred) {
  typedef typename Vec<T>::Type V;
  for_pairs(a, first, last, [&](int64_t c, int64_t pair, int64_t at) {
    V sum = {}, product = {};
    if (a.gate[pair] != 0) {
      const V scale = broadcast(a.scale[c]), shift = broadcast(a.shift[c]);
      const V mean = broadcast(a.mean[c]);
      for_vectors<T>(a.pixels, [&](int64_t i, int64_t lanes) {
        const V z = read(a.z + at + i, lanes), g = read(grad + at + i, lanes);
        const V dv = a.relu ? passed<T>(scale * z + shift, g) : g;
        sum += dv;
        product += dv * (z - mean);
      });
    }
    plain[pair] = sum_lanes<T>(sum);
    centred[pair] = sum_lanes<T>(product);
  });
}

template <class T>
void differentiate(const GatedNormArgs<T>& a, const T* grad, const T* offset, const T* slope,
                   int64_t first, int64_t last, T* dz) {
  typedef typename Vec<T>::Type V;
  for_pairs(a, first, last, [&](int64_t c, int64_t pair, int64_t at) {
    if (a.active[pair] == 0) return zero_plane(dz + at, a.pixels);
    const V scale = broadcast(a.scale[c]), shift = broadcast(a.shift[c]);
    const V mean = broadcast(a.mean[c]), factor = broadcast(a.gate[pair] * a.scale[c]);
    const V constant = broadcast(offset[c]), linear = broadcast(slope[c]);
    const bool open = a.gate[pair] != 0;
    for_vectors<T>(a.pixels, [&](int64_t i, int64_t lanes) {
      const V z = read(a.z + at + i, lanes);
      V result = constant + linear * (z - mean);
      if (open) {
        const V g = read(grad + at + i, lanes);
        result += factor * (a.relu ? passed<T>(scale * z + shift, g) : g);
      }
      write(dz + at + i, result, lanes);
    });
  });
}

}  // namespace

#define SPARSEFL_GATED_NORM_TABLE(T) {pool<T>, moments<T>, apply<T>, sums<T>, differentiate<T>}

}  // namespace sparsefl
