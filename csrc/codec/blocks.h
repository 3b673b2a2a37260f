// Integers with a scale a block of values: int8 and int4 of FORMAT.md.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codec/format.h"

namespace sparsefl::codec {

// Writes the scales and integers of n floats, block_section_bytes bytes: for each block the
// smallest scale of 16 bits that is at least its largest magnitude / 127 (kInt8) or 7 (kInt4), for
// each value the integer nearest to value / scale, ties to even. Returns false where a value is not
// finite or its block has no such scale. `values` needs no alignment.
bool to_blocks(ValueMode mode, const uint8_t* values, size_t n, uint8_t block_log2, uint8_t* out);

// Writes integer times scale as n floats, exactly. Returns what is wrong, or kNone.
Reason from_blocks(ValueMode mode, const uint8_t* data, size_t n, uint8_t block_log2,
                   uint8_t* values);

}  // namespace sparsefl::codec
