// The kernels of gated_norm.h, written once for every instruction set.

#include "cpu/simd.inl"

namespace sparsefl {
namespace {

// Reads and writes a vector, or one element behind the last of them. With few pixels a plane is
// mostly those: as vectors of some lanes they cost three times as much.
template <class V, class T>
inline V read(const T* p) {
  if constexpr (sizeof(V) == sizeof(T)) {
    return *p;
  } else {
    return load(p);
  }
}

template <class V, class T>
inline void write(T* p, V v) {
  if constexpr (sizeof(V) == sizeof(T)) {
    *p = v;
  } else {
    store(p, v);
  }
}

// Calls step(i, V{}) for every vector V of a plane, then for every element T behind the last.
template <class T, class Step>
inline void for_vectors(int64_t pixels, const Step& step) {
  constexpr int kLanes = Vec<T>::kLanes;
  int64_t i = 0;
  for (; i + kLanes <= pixels; i += kLanes) step(i, typename Vec<T>::Type{});
  for (; i < pixels; ++i) step(i, T{});
}

// A sum of vectors and elements.
template <class T>
struct Sum {
  typename Vec<T>::Type vector = {};
  T rest = 0;

  void add(typename Vec<T>::Type v) { vector += v; }
  void add(T v) { rest += v; }
  T total() const { return sum_halves<Vec<T>::kLanes>(vector) + rest; }

 private:
  // Of the first `kCount` lanes, as a tree.
  template <int kCount>
  static T sum_halves(typename Vec<T>::Type v) {
    if constexpr (kCount == 1) {
      return v[0];
    } else {
      return sum_halves<kCount / 2>(v + upper<kCount / 2>(v, typename FirstLanes<kLanes>::Type{}));
    }
  }
  static constexpr int kLanes = Vec<T>::kLanes;
  template <int kBy, int... I>
  static typename Vec<T>::Type upper(typename Vec<T>::Type v, Lanes<I...>) {
    return __builtin_shufflevector(v, v, ((I + kBy) % kLanes)...);
  }
};

template <class T>
inline void zero_plane(T* to, int64_t pixels) {
  for_vectors<T>(pixels, [&](int64_t i, auto zero) { write(to + i, zero); });
}

template <class T>
void pool(const T* x, int64_t pixels, int64_t first, int64_t last, T* mean, uint8_t* nonzero) {
  typedef typename Vec<T>::Type V;
  for (int64_t plane = first; plane < last; ++plane) {
    const T* from = x + plane * pixels;
    Sum<T> sum;
    auto other = V{} != V{};
    bool any = false;
    for_vectors<T>(pixels, [&]<class U>(int64_t i, U zero) {
      const U v = read<U>(from + i);
      sum.add(v);
      if constexpr (sizeof(U) == sizeof(T)) {
        any |= v != zero;
      } else {
        other |= v != zero;
      }
    });
    if (pixels >= Vec<T>::kLanes) {
      for (int i = 0; i < Vec<T>::kLanes; ++i) any |= other[i] != 0;
    }
    mean[plane] = sum.total() / static_cast<T>(pixels);
    nonzero[plane] = any;
  }
}

// Calls run(channel, pair, plane offset) for every pair of the samples.
template <class T, class Run>
inline void for_pairs(const GatedNormArgs<T>& a, int64_t first, int64_t last, Run run) {
  for (int64_t n = first; n < last; ++n) {
    for (int64_t c = 0; c < a.channels; ++c) {
      run(c, n * a.channels + c, (n * a.channels + c) * a.pixels);
    }
  }
}

template <class T>
void moments(const GatedNormArgs<T>& a, int64_t first, int64_t last, T* mean, T* squares) {
  for_pairs(a, first, last, [&](int64_t, int64_t pair, int64_t at) {
    if (a.active[pair] == 0) return;
    Sum<T> sum, square;
    for_vectors<T>(a.pixels, [&]<class V>(int64_t i, V) { sum.add(read<V>(a.z + at + i)); });
    const T average = sum.total() / static_cast<T>(a.pixels);
    for_vectors<T>(a.pixels, [&]<class V>(int64_t i, V) {
      const V distance = read<V>(a.z + at + i) - average;
      square.add(distance * distance);
    });
    mean[pair] = average;
    squares[pair] = square.total();
  });
}

// What passes the ReLU of the normalised values `t`; the gate is positive.
template <class V>
inline V passed(bool relu, V t, V zero, V v) {
  return relu ? (t > zero ? v : zero) : v;
}

template <class T>
void apply(const GatedNormArgs<T>& a, int64_t first, int64_t last, T* out) {
  for_pairs(a, first, last, [&](int64_t c, int64_t pair, int64_t at) {
    if (a.gate[pair] == 0) return zero_plane(out + at, a.pixels);
    const T scale = a.scale[c], shift = a.shift[c], gate = a.gate[pair];
    for_vectors<T>(a.pixels, [&]<class V>(int64_t i, V zero) {
      const V t = scale * read<V>(a.z + at + i) + shift, v = gate * t;
      // Written so that a NaN stays one.
      write(out + at + i, a.relu ? (t <= zero ? zero : v) : v);
    });
  });
}

template <class T>
void sums(const GatedNormArgs<T>& a, const T* grad, int64_t first, int64_t last, T* plain,
          T* centred) {
  for_pairs(a, first, last, [&](int64_t c, int64_t pair, int64_t at) {
    Sum<T> sum, product;
    if (a.gate[pair] != 0) {
      const T scale = a.scale[c], shift = a.shift[c], mean = a.mean[c];
      for_vectors<T>(a.pixels, [&]<class V>(int64_t i, V zero) {
        const V z = read<V>(a.z + at + i), g = read<V>(grad + at + i);
        const V dv = passed(a.relu, scale * z + shift, zero, g);
        sum.add(dv);
        product.add(dv * (z - mean));
      });
    }
    plain[pair] = sum.total();
    centred[pair] = product.total();
  });
}

template <class T>
void differentiate(const GatedNormArgs<T>& a, const T* grad, const T* offset, const T* slope,
                   int64_t first, int64_t last, T* dz) {
  for_pairs(a, first, last, [&](int64_t c, int64_t pair, int64_t at) {
    if (a.active[pair] == 0) return zero_plane(dz + at, a.pixels);
    const T scale = a.scale[c], shift = a.shift[c], mean = a.mean[c];
    const T constant = offset[c], linear = slope[c], factor = a.gate[pair] * scale;
    const bool open = a.gate[pair] != 0;
    for_vectors<T>(a.pixels, [&]<class V>(int64_t i, V zero) {
      const V z = read<V>(a.z + at + i);
      V result = constant + linear * (z - mean);
      if (open) {
        const V g = read<V>(grad + at + i);
        result += factor * passed(a.relu, scale * z + shift, zero, g);
      }
      write(dz + at + i, result);
    });
  });
}

}  // namespace

#define SPARSEFL_GATED_NORM_TABLE(T) {pool<T>, moments<T>, apply<T>, sums<T>, differentiate<T>}

}  // namespace sparsefl
