// Rank space of a bitmap: the positions that it has set (or clear), numbered in order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/isa.h"

namespace sparsefl::codec {

// Which positions of a mask are numbered: those set, or those clear.
enum class Through : uint8_t { kMask = 0, kComplement = 1 };

// out[j] = bits[p_j], p_j being the j-th of the `count` positions that `mask`, of n positions,
// numbers. Writes ceil(count / 8) bytes, the bits past the last zero, and none beyond them whatever
// the mask is.
void compress_bits(const uint8_t* bits, const uint8_t* mask, size_t n, Through through,
                   size_t count, uint8_t* out, Isa isa = sparsefl::isa());

// out[p_j] = ranks[j], zero elsewhere: the inverse. Reads ceil(count / 8) bytes of `ranks`, and
// takes what a mask of more positions asks for as zeros; writes ceil(n / 8) bytes. `out` may be
// `mask`.
void expand_bits(const uint8_t* ranks, size_t count, const uint8_t* mask, size_t n, Through through,
                 uint8_t* out, Isa isa = sparsefl::isa());

}  // namespace sparsefl::codec
