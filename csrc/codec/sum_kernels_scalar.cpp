#include "codec/sum_kernels.h"

namespace sparsefl::codec {
namespace {

struct Lanes {
  static constexpr bool kWords = false;
  static unsigned count(uint64_t word) {
    word -= word >> 1 & 0x5555555555555555;
    word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
    word = (word + (word >> 4)) & 0x0F0F0F0F0F0F0F0F;
    return static_cast<unsigned>(word * 0x0101010101010101 >> 56);
  }
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
