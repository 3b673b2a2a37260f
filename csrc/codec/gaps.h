// The gaps of a bit string: how many positions lie before each set bit and after the one before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sparsefl::codec {

// The gaps are in `narrow`, or in `wide` where one of them needs more than 16 bits. The vectors are
// longer than `count`, as kernels want it.
struct Gaps {
  size_t count = 0;
  uint64_t sum = 0;
  bool is_wide = false;
  std::vector<uint16_t> narrow;
  std::vector<uint32_t> wide;

  uint32_t at(size_t i) const { return is_wide ? wide[i] : narrow[i]; }
};

// Finds the gaps of the `count` set bits of `bits` [0, n), whose bits past n are zero.
void find_gaps(const uint8_t* bits, size_t n, size_t count, Gaps* gaps);

// Writes the positions of the set bits in increasing order.
void indices_of(const uint8_t* bits, size_t n, uint32_t* indices);

// Writes the sums of the gaps shifted right by `shift` >= 1 and by one and two more.
void sum_quotients(const Gaps& gaps, int shift, uint64_t* sums);

// Appends the lower `width` bits of each gap, the first in the lowest bits: whole bytes.
void append_lows(const Gaps& gaps, int width, std::vector<uint8_t>* out);

}  // namespace sparsefl::codec
