#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/sum_kernels.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,popcnt")

namespace sparsefl::codec {
namespace {

// There is no expansion by a mask: positions are changed one by one at every density.
struct Lanes {
  static constexpr bool kWords = false;
  static unsigned count(uint64_t word) { return static_cast<unsigned>(_mm_popcnt_u64(word)); }
  static unsigned lowest(uint64_t word) { return static_cast<unsigned>(_tzcnt_u64(word)); }
};

template <class T>
struct Word;

}  // namespace
}  // namespace sparsefl::codec

#include "codec/sum_kernels.inl"

namespace sparsefl::codec {

extern const AllSumKernels kSumsAvx2 = kTable;

}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
