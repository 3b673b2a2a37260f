// The kernel of growth.h, written once for every instruction set.

#include "cpu/simd.inl"

namespace sparsefl {
namespace {

// Integers as wide as T: magnitudes are in the order of their bits, and a NaN is above all,
// whatever a compiler may assume of floating-point numbers.
template <class T>
struct Magnitude;
template <>
struct Magnitude<float> {
  typedef int32_t Type;
  static constexpr Type kBits = 0x7fffffff;
};
template <>
struct Magnitude<double> {
  typedef int64_t Type;
  static constexpr Type kBits = 0x7fffffffffffffff;
};

// Vectors that are passed over together where all of their elements are below.
constexpr int kTogether = 4;

template <class T>
int64_t reach(const T* x, int64_t n, T least, uint16_t* at) {
  typedef typename Magnitude<T>::Type Bits;
  typedef typename Vec<Bits>::Type V;
  typedef typename Vec<int64_t>::Type Words;
  constexpr int kLanes = Vec<T>::kLanes, kStep = kTogether * kLanes;
  const Bits bound = __builtin_bit_cast(Bits, least);
  int64_t found = 0, i = 0;
  for (; i + kStep <= n; i += kStep) {
    V below[kTogether], all = V{} - 1;
    for (int k = 0; k < kTogether; ++k) {
      const V bits = __builtin_bit_cast(V, load(x + i + k * kLanes));
      below[k] = (bits & broadcast(Magnitude<T>::kBits)) < broadcast(bound);
      all &= below[k];
    }
    const Words words = __builtin_bit_cast(Words, all);
    int64_t every = -1;
    for (int word = 0; word < Vec<int64_t>::kLanes; ++word) every &= words[word];
    if (every == -1) continue;
    for (int k = 0; k < kTogether; ++k) {
      for (int lane = 0; lane < kLanes; ++lane) {
        // A lane that is below is overwritten by the next.
        at[found] = static_cast<uint16_t>(i + k * kLanes + lane);
        found += below[k][lane] == 0 ? 1 : 0;
      }
    }
  }
  for (; i < n; ++i) {
    at[found] = static_cast<uint16_t>(i);
    found += (__builtin_bit_cast(Bits, x[i]) & Magnitude<T>::kBits) < bound ? 0 : 1;
  }
  return found;
}

}  // namespace

#define SPARSEFL_GROWTH_TABLE(T) {reach<T>}

}  // namespace sparsefl
