// The kernels of sign_codes.h, written once for every instruction set.

#include "cpu/simd.inl"

namespace sparsefl {
namespace {

// The signs of a chunk that differ from those of its codes, a word a lane.
template <class T>
inline void changed_signs(const SignCodesArgs<T>& a, int64_t chunk, uint32_t* changed) {
  constexpr int kLanes = Vec<T>::kLanes, kVectors = kSignLanes / kLanes;
  const T* scores = a.scores + chunk * kSignChunk;
  const uint32_t* known = a.negative + chunk * kSignLanes;
  const int64_t left = a.nnz - chunk * kSignChunk;
  if (left < kSignChunk) {
    for (int64_t lane = 0; lane < kSignLanes; ++lane) {
      uint32_t word = 0;
      for (int64_t k = lane; k < left; k += kSignLanes) {
        word |= uint32_t{!(scores[k] >= 0)} << k / kSignLanes;
      }
      changed[lane] = word ^ known[lane];
    }
    return;
  }
  for (int v = 0; v < kVectors; ++v) {
    const typename Vec<T>::Type zero = {};
    auto words = zero != zero;
    using Word = __typeof__(words[0] + 0);
    for (int bit = 0; bit < 32; ++bit) {
      const auto positive = load(scores + bit * kSignLanes + v * kLanes) >= zero;
      words |= ~positive & static_cast<Word>(uint32_t{1} << bit);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      changed[v * kLanes + lane] = static_cast<uint32_t>(words[lane]) ^ known[v * kLanes + lane];
    }
  }
}

template <class T>
int64_t update_signs(const SignCodesArgs<T>& a, int64_t begin, int64_t end) {
  int64_t count = 0;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    uint32_t changed[kSignLanes];
    changed_signs(a, chunk, changed);
    for (int64_t lane = 0; lane < kSignLanes; ++lane) {
      a.negative[chunk * kSignLanes + lane] ^= changed[lane];
      for (uint32_t word = changed[lane]; word != 0; word &= word - 1) {
        const int64_t k = chunk * kSignChunk + __builtin_ctz(word) * kSignLanes + lane;
        a.stored[k] ^= kNegative;
        a.other[a.place[k]] ^= kNegative;
        ++count;
      }
    }
  }
  return count;
}

}  // namespace

#define SPARSEFL_SIGN_CODES_TABLE(T) {update_signs<T>}

}  // namespace sparsefl
