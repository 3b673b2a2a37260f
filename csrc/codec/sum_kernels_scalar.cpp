#include "codec/sum_kernels.h"

namespace sparsefl::codec {
namespace {

struct Lanes {
  static constexpr bool kWords = false;
  static unsigned count(uint64_t word) { return static_cast<unsigned>(__builtin_popcountll(word)); }
  static unsigned lowest(uint64_t word) { return static_cast<unsigned>(__builtin_ctzll(word)); }
};

template <class T>
struct Word;

}  // namespace
}  // namespace sparsefl::codec

#include "codec/sum_kernels.inl"

namespace sparsefl::codec {

extern const AllSumKernels kSumsScalar = kTable;

}  // namespace sparsefl::codec
