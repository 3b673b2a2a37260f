// Votes of clients on 32 positions at a time, counted bit-sliced: plane p holds bit p of the count
// of every position.
#pragma once

#include <cstdint>

#include "cuda/host_device.h"

namespace sparsefl {

// low + 2 * high = a + b + c, bit by bit.
SPARSEFL_HOST_DEVICE void add_bits(uint32_t a, uint32_t b, uint32_t c, uint32_t* high,
                                   uint32_t* low) {
  const uint32_t odd = a ^ b;
  *high = (a & b) | (odd & c);
  *low = odd ^ c;
}

// Adds the votes of 4 clients; the counts stay below 2^kPlanes.
template <int kPlanes>
SPARSEFL_HOST_DEVICE void count_four(const uint32_t* votes, uint32_t* planes) {
  uint32_t first, second, carry;
  add_bits(planes[0], votes[0], votes[1], &first, &planes[0]);
  add_bits(planes[0], votes[2], votes[3], &second, &planes[0]);
  add_bits(planes[1], first, second, &carry, &planes[1]);
#pragma unroll
  for (int p = 2; p < kPlanes; ++p) {
    const uint32_t old = planes[p];
    planes[p] = old ^ carry;
    carry &= old;
  }
}

struct Verdict {
  uint32_t negative;  // bit by bit whether at least `least` clients voted so
  uint32_t tied;      // and whether least - 1 did
};

// `least` is 1 to 2^kPlanes.
template <int kPlanes>
SPARSEFL_HOST_DEVICE Verdict judge(const uint32_t* planes, uint32_t least) {
  Verdict verdict{0, ~uint32_t{0}};
  const uint32_t tie = least - 1;
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) {
    // The highest plane that differs from the tie decides, hence the last.
    const bool set = (tie >> p & 1) != 0;
    verdict.negative = set ? planes[p] & verdict.negative : planes[p] | verdict.negative;
    verdict.tied &= set ? planes[p] : ~planes[p];
  }
  return verdict;
}

}  // namespace sparsefl
