// Words of 32 positions, of which the 32 lanes of a warp hold a block.
#pragma once

#include <cstdint>

#include "cuda/arena.h"
#include "cuda/host_device.h"

namespace sparsefl {

SPARSEFL_HOST_DEVICE int count_bits(uint32_t word) {
#ifdef __CUDA_ARCH__
  return __popc(word);
#else
  return __builtin_popcount(word);
#endif
}

// The bits below bit `lane`.
SPARSEFL_HOST_DEVICE uint32_t bits_below(int lane) { return (uint32_t{1} << lane) - 1; }

// The bits of a block's word that stand for positions.
SPARSEFL_HOST_DEVICE uint32_t valid_bits(int positions, int word) {
  const int left = positions - 32 * word;
  return left >= 32 ? ~uint32_t{0} : left <= 0 ? 0 : bits_below(left);
}

// A lane loads 4 elements at a time, so that it has bits of 8 places of the block, 4 of each: load
// j starts at position 128 * j + 4 * lane. Lanes g * 8 to g * 8 + 7 hold what goes into the words
// 4 * j + g, and exchange it, a transposition of 8 x 8 groups of 4 bits. It undoes itself.
//
// In three steps: at step s a lane has the word `theirs` of the lane whose number differs in bit s.
inline constexpr int kTransposeSteps = 3;

SPARSEFL_HOST_DEVICE uint32_t transpose_step(uint32_t own, uint32_t theirs, int step, int lane) {
  const uint32_t low = step == 0 ? 0x0F0F0F0Fu : step == 1 ? 0x00FF00FFu : 0x0000FFFFu;
  const int shift = 4 << step;
  const bool upper = (lane >> step & 1) != 0;
  return upper ? (own & ~low) | (theirs >> shift & low) : (own & low) | ((theirs & low) << shift);
}

// Which word of its block a lane holds after the exchange.
SPARSEFL_HOST_DEVICE int transposed_word(int lane) { return lane % 8 * 4 + lane / 8; }

// The inverse: which lane holds a word.
SPARSEFL_HOST_DEVICE int lane_of_word(int word) { return word % 4 * 8 + word / 4; }

// The position of the first of the 4 elements that a lane loads.
SPARSEFL_HOST_DEVICE int loaded_position(int load, int lane) { return 128 * load + 4 * lane; }

}  // namespace sparsefl
