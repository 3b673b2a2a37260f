// Keeps the signs that the linear kernels read beside the columns (kNegative of view.h) equal to
// those of the scores: a pass over the scores, and writes only where a sign has changed.
#pragma once

#include <cstdint>

#include "cpu/view.h"

namespace sparsefl {

// Scores of one word of signs for each of kSignLanes lanes: score k has bit
// k % kSignChunk / kSignLanes of word k / kSignChunk * kSignLanes + k % kSignLanes.
constexpr int64_t kSignLanes = 16, kSignChunk = 32 * kSignLanes;

template <class T>
struct SignCodesArgs {
  const T* scores;  // [nnz]
  int64_t nnz;
  uint32_t* negative;    // [chunks * kSignLanes] a bit a score, set where the code has kNegative
  uint16_t* stored;      // [nnz] codes in the scores' order
  uint16_t* other;       // [nnz] codes in another order
  const int32_t* place;  // [nnz] where a score's code lies in it

  [[gnu::always_inline]] int64_t chunks() const { return (nnz + kSignChunk - 1) / kSignChunk; }
};

template <class T>
struct SignCodesKernels {
  // Gives the codes of the chunks [begin, end) the signs of their scores: sgn(0) = +1, and what is
  // no number counts as negative. Returns how many changed.
  int64_t (*update)(const SignCodesArgs<T>&, int64_t begin, int64_t end);
};

template <class T>
const SignCodesKernels<T>& sign_codes_kernels();

}  // namespace sparsefl
