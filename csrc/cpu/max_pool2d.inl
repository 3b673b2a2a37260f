// The kernels of max_pool2d.h, written once for every instruction set.

#include <limits>

#include "cpu/simd.inl"

namespace sparsefl {
namespace {

// Vectors of samples that walk a window together.
constexpr int kUnroll = 4;

// Integers as wide as T, for a vector of T's choices.
template <class T>
struct Choice;
template <>
struct Choice<float> {
  typedef int32_t Type;
};
template <>
struct Choice<double> {
  typedef int64_t Type;
};

template <class T>
struct Taps {
  static constexpr int kLanes = Vec<T>::kLanes;
  typedef typename Vec<typename Choice<T>::Type>::Type Wide;
  typedef uint8_t Bytes __attribute__((vector_size(Vec<T>::kLanes)));
  typedef uint8_t Unaligned __attribute__((vector_size(Vec<T>::kLanes), aligned(1)));

  static void put(uint8_t* p, Wide v) {
    *reinterpret_cast<Unaligned*>(p) = __builtin_convertvector(v, Bytes);
  }
  static Wide get(const uint8_t* p) {
    const Bytes bytes = *reinterpret_cast<const Unaligned*>(p);
    return __builtin_convertvector(bytes, Wide);
  }
};

// Calls run(offset of the position in the channel's pixels, its number) for a window's positions in
// the image.
template <class Run>
inline void for_window(const PoolGeometry& g, int64_t oh, int64_t ow, const Run& run) {
  const int64_t top = oh * g.stride_h - g.padding_h, left = ow * g.stride_w - g.padding_w;
  for (int64_t r = 0; r < g.kernel_h; ++r) {
    const int64_t h = top + r * g.dilation_h;
    if (h < 0 || h >= g.height) continue;
    for (int64_t c = 0; c < g.kernel_w; ++c) {
      const int64_t w = left + c * g.dilation_w;
      if (w >= 0 && w < g.width) run(h * g.width + w, r * g.kernel_w + c);
    }
  }
}

// The greatest of a window all of which is padding, between two pixels that its dilation skips.
template <class T>
constexpr T kNoPixel = -std::numeric_limits<T>::infinity();

// Of kVectors vectors of samples.
template <class T, int kVectors>
inline void choose(const PoolGeometry& g, int64_t oh, int64_t ow, const T* x, T* y, uint8_t* taps) {
  typedef typename Vec<T>::Type V;
  typedef typename Taps<T>::Wide Wide;
  constexpr int kLanes = Vec<T>::kLanes;
  V best[kVectors];
  Wide chosen[kVectors] = {};
  for (int k = 0; k < kVectors; ++k) best[k] = kNoPixel<T> - V{};
  bool first = true;
  for_window(g, oh, ow, [&](int64_t pixel, int64_t tap) {
    const Wide number = static_cast<typename Choice<T>::Type>(tap) - Wide{};
    const T* from = x + pixel * g.batch;
    if (first) {
      for (int k = 0; k < kVectors; ++k) best[k] = load(from + k * kLanes), chosen[k] = number;
      first = false;
      return;
    }
    for (int k = 0; k < kVectors; ++k) {
      const V v = load(from + k * kLanes);
      // A NaN is chosen, and gives way to another only.
      const Wide better = (v > best[k]) | (v != v);
      best[k] = better ? v : best[k];
      chosen[k] = better ? number : chosen[k];
    }
  });
  for (int k = 0; k < kVectors; ++k) {
    store(y + k * kLanes, best[k]);
    Taps<T>::put(taps + k * kLanes, chosen[k]);
  }
}

template <class T>
inline void choose_scalar(const PoolGeometry& g, int64_t oh, int64_t ow, const T* x, T* y,
                          uint8_t* taps) {
  T best = kNoPixel<T>;
  int64_t chosen = -1;
  for_window(g, oh, ow, [&](int64_t pixel, int64_t tap) {
    const T v = x[pixel * g.batch];
    if (chosen < 0 || v > best || v != v) best = v, chosen = tap;
  });
  *y = best;
  *taps = static_cast<uint8_t>(chosen);
}

template <class T>
void forward(const PoolGeometry& g, int64_t begin, int64_t end, const T* x, T* y, uint8_t* taps) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const int64_t n = g.batch, pixels = g.out_height * g.out_width;
  for (int64_t channel = begin; channel < end; ++channel) {
    const T* from = x + channel * g.height * g.width * n;
    int64_t to = channel * pixels * n;
    for (int64_t oh = 0; oh < g.out_height; ++oh) {
      for (int64_t ow = 0; ow < g.out_width; ++ow, to += n) {
        int64_t s = 0;
        for (; s + kUnroll * kLanes <= n; s += kUnroll * kLanes) {
          choose<T, kUnroll>(g, oh, ow, from + s, y + to + s, taps + to + s);
        }
        for (; s + kLanes <= n; s += kLanes) {
          choose<T, 1>(g, oh, ow, from + s, y + to + s, taps + to + s);
        }
        if (s < n && n >= kLanes) {
          // The last vector of samples, some of them once more.
          s = n - kLanes;
          choose<T, 1>(g, oh, ow, from + s, y + to + s, taps + to + s);
          s = n;
        }
        for (; s < n; ++s) choose_scalar(g, oh, ow, from + s, y + to + s, taps + to + s);
      }
    }
  }
}

// Gives kVectors vectors of a window's gradients to the positions that they chose; kApart: no other
// window has them.
template <class T, bool kApart, int kVectors>
inline void give(const PoolGeometry& g, int64_t oh, int64_t ow, const T* grad, const uint8_t* taps,
                 T* grad_x) {
  typedef typename Vec<T>::Type V;
  typedef typename Taps<T>::Wide Wide;
  constexpr int kLanes = Vec<T>::kLanes;
  V gradient[kVectors], zero = {};
  Wide chosen[kVectors];
  for (int k = 0; k < kVectors; ++k) gradient[k] = load(grad + k * kLanes);
  for (int k = 0; k < kVectors; ++k) chosen[k] = Taps<T>::get(taps + k * kLanes);
  for_window(g, oh, ow, [&](int64_t pixel, int64_t tap) {
    const Wide number = static_cast<typename Choice<T>::Type>(tap) - Wide{};
    T* to = grad_x + pixel * g.batch;
    for (int k = 0; k < kVectors; ++k) {
      const V given = chosen[k] == number ? gradient[k] : zero;
      store(to + k * kLanes, kApart ? given : load(to + k * kLanes) + given);
    }
  });
}

template <class T, bool kApart>
inline void give_window(const PoolGeometry& g, int64_t oh, int64_t ow, const T* grad,
                        const uint8_t* taps, T* grad_x) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  int64_t s = 0;
  for (; s + kUnroll * kLanes <= g.batch; s += kUnroll * kLanes) {
    give<T, kApart, kUnroll>(g, oh, ow, grad + s, taps + s, grad_x + s);
  }
  for (; s + kLanes <= g.batch; s += kLanes) {
    give<T, kApart, 1>(g, oh, ow, grad + s, taps + s, grad_x + s);
  }
  if (s == g.batch) return;
  for_window(g, oh, ow, [&](int64_t pixel, int64_t tap) {
    T* to = grad_x + pixel * g.batch;
    for (int64_t i = s; i < g.batch; ++i) {
      const T given = taps[i] == tap ? grad[i] : 0;
      to[i] = kApart ? given : to[i] + given;
    }
  });
}

template <class T>
void backward(const PoolGeometry& g, int64_t begin, int64_t end, const T* grad, const uint8_t* taps,
              T* grad_x) {
  const int64_t plane = g.height * g.width * g.batch;
  const bool apart = g.dilation_h == 1 && g.dilation_w == 1 && g.kernel_h <= g.stride_h &&
                     g.kernel_w <= g.stride_w;
  // Windows that lie beside each other and fill the image write all of it.
  const bool covers = apart && g.kernel_h == g.stride_h && g.kernel_w == g.stride_w &&
                      g.out_height * g.stride_h - g.padding_h >= g.height &&
                      g.out_width * g.stride_w - g.padding_w >= g.width;
  for (int64_t channel = begin; channel < end; ++channel) {
    T* to = grad_x + channel * plane;
    int64_t from = channel * g.out_height * g.out_width * g.batch;
    if (!covers) {
      for (int64_t i = 0; i < plane; ++i) to[i] = 0;
    }
    for (int64_t oh = 0; oh < g.out_height; ++oh) {
      for (int64_t ow = 0; ow < g.out_width; ++ow, from += g.batch) {
        apart ? give_window<T, true>(g, oh, ow, grad + from, taps + from, to)
              : give_window<T, false>(g, oh, ow, grad + from, taps + from, to);
      }
    }
  }
}

}  // namespace

#define SPARSEFL_MAX_POOL2D_TABLE(T) {forward<T>, backward<T>}

}  // namespace sparsefl
