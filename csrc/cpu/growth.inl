// The kernel of growth.h, written once for every instruction set.

#include "cpu/simd.inl"

namespace sparsefl {
namespace {

template <class T>
int64_t reach(const T* x, int64_t n, T least, uint16_t* at) {
  typedef typename Vec<T>::Type V;
  constexpr int kLanes = Vec<T>::kLanes;
  const V bound = broadcast(least);
  int64_t found = 0, i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const V v = load(x + i);
    const auto below = (v < bound) & (-v < bound);
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
    found += x[i] < least && -x[i] < least ? 0 : 1;
  }
  return found;
}

}  // namespace

#define SPARSEFL_GROWTH_TABLE(T) {reach<T>}

}  // namespace sparsefl
