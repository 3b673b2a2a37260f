// What symbols cost by how often they occur, in integers: the same on every machine.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsefl::codec {

// Costs count in units of 2^-16 bits.
inline constexpr int kEntropyFractionBits = 16;

// About what `scale` times n symbols below 256, counts[s] of them s, take as a byte code: their
// entropy and a byte of a table for each that occurs, or a byte each. n >= 1, scale * n < 2^40.
uint64_t entropy_cost(const uint32_t* counts, uint64_t n, uint64_t scale);

}  // namespace sparsefl::codec
