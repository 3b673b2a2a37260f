// Codes of bit strings: supports, their changes, signs, flips. FORMAT.md, "Bit code", defines them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec/flat_code.h"
#include "codec/format.h"

namespace sparsefl::codec {

// Positions of the longest bit string.
inline constexpr size_t kMaxBits = size_t{1} << 22;

// Appends the code of the `count` set bits of `bits` [0, n), ceil(n / 8) bytes whose bits past n
// are zero, that is the smallest that the profile allows, the first of equals. n <= kMaxBits;
// `row` is the length of a row of positions, 0 where there are none.
BitCoder append_bit_code(const uint8_t* bits, size_t n, size_t count, size_t row, Profile profile,
                         Scratch* scratch, std::vector<uint8_t>* out);

// As append_bit_code, by the given coder. Returns false and appends nothing where the coder has no
// code of these bits.
bool append_bit_code_as(BitCoder coder, const uint8_t* bits, size_t n, size_t count, size_t row,
                        Profile profile, Scratch* scratch, std::vector<uint8_t>* out);

// Writes the ceil(n / 8) bytes of the bits that the `bytes` bytes of a code of the profile stand
// for: exactly `count` of [0, n) are set, and none past n. Touches nothing outside `data` and
// `bits` whatever the bytes are, in time and memory linear in n; where the reason is not kNone,
// `bits` holds nothing of use. n <= kMaxBits, count <= n.
Reason read_bit_code(BitCoder coder, const uint8_t* data, size_t bytes, size_t n, size_t count,
                     size_t row, Profile profile, Scratch* scratch, uint8_t* bits);

// As read_bit_code, the `count` positions in increasing order as indices.
Reason read_bit_indices(BitCoder coder, const uint8_t* data, size_t bytes, size_t n, size_t count,
                        size_t row, Profile profile, Scratch* scratch, uint32_t* indices);

}  // namespace sparsefl::codec
