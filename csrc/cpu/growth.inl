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

template <class T>
int64_t reach(const T* x, int64_t n, T least, uint16_t* at) {
  typedef typename Magnitude<T>::Type Bits;
  typedef typename Vec<Bits>::Type V;
  constexpr int kLanes = Vec<T>::kLanes;
  const Bits bound = __builtin_bit_cast(Bits, least);
  int64_t found = 0, i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const V bits = __builtin_bit_cast(V, load(x + i)) & broadcast(Magnitude<T>::kBits);
    const V below = bits < broadcast(bound);
    bool all = true;
    for (int lane = 0; lane < kLanes; ++lane) all &= below[lane] != 0;
    if (all) continue;
    for (int lane = 0; lane < kLanes; ++lane) {
      // A lane that is below is overwritten by the next.
      at[found] = static_cast<uint16_t>(i + lane);
      found += below[lane] == 0 ? 1 : 0;
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
