// The k elements of largest magnitude of several arrays together, ties to the lowest index: exact,
// and the same on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cpu/isa.h"

namespace sparsefl::codec {

// An array of which elements are kept.
struct TopKPart {
  const float* x;
  size_t n;
  uint8_t* bits;     // ceil(n / 8) bytes: set where x is kept
  size_t count = 0;  // of the elements kept, a result
};

// How large a buffer top_k needs for k of n elements, in floats.
size_t top_k_capacity(size_t n, size_t k);

// Fills the parts' bitmaps and counts, and values[0, k) with the kept elements in order. k is at
// most the number of all elements. Returns false where an element is NaN; infinities are kept
// first.
//
// A sample of the magnitudes gives two bounds that hold the k-th largest between them, all but
// surely. One pass keeps what reaches the lower bound, a pass over that the few between the bounds,
// among which the threshold lies. Where the bounds fail, a histogram gives it: the sample decides
// how long it takes, never the result.
bool top_k(std::span<TopKPart> parts, size_t k, float* values, Isa isa);

}  // namespace sparsefl::codec
