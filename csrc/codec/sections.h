// The sections of a chunk that are codes of bit strings: supports, their changes, signs.
#pragma once

#include <cstdint>
#include <vector>

#include "codec/bit_code.h"
#include "codec/format.h"

namespace sparsefl::codec {

// The positions of a chunk as bit strings of its `span`; `row` is the length of a row in positions,
// 0 where rows do not begin with the chunk.
struct Span {
  uint64_t positions;
  uint64_t count;
  uint64_t row;
};

// Appends the support section of mode kSent. Returns its coder.
uint8_t append_sent(const uint8_t* bits, const Span& span, Profile profile, Scratch* scratch,
                    std::vector<uint8_t>* out);

// Appends the support section of mode kChanges: what `base` keeps and `bits` does not in the rank
// space of `base`, what `bits` keeps and `base` does not in that of its complement.
void append_changes(const uint8_t* bits, const uint8_t* base, const Span& span, Profile profile,
                    Scratch* scratch, std::vector<uint8_t>* out);

// Writes the bitmap of a chunk of mode kChanges.
Reason read_changes(const uint8_t* section, size_t bytes, const uint8_t* base, const Span& span,
                    Profile profile, Scratch* scratch, uint8_t* bits);

// Appends the value section of mode kSign, or of kFlips where there are signs of a base. Returns
// its coder. What is no sign is written as +1: `valid` turns false.
uint8_t append_signs(const int8_t* signs, const int8_t* base, uint64_t count, Profile profile,
                     Scratch* scratch, std::vector<uint8_t>* out, bool* valid);

// Writes the signs packed: ceil(count / 8) bytes whose bit i is set where the i-th sign is -1, the
// bits past the last zero. `base` has the signs of mode kFlips, null for kSign.
Reason read_packed_signs(uint8_t coder, const uint8_t* section, size_t bytes, const int8_t* base,
                         uint64_t count, Profile profile, Scratch* scratch, uint8_t* negative);

}  // namespace sparsefl::codec
