// Conversion to and from bfloat16, and the check that values are finite.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codec/format.h"

namespace sparsefl::codec {

// Rounds n floats to the nearest bfloat16, ties to even. Returns false where an input or its
// rounding is not finite. `values` and `out` need no alignment.
bool to_bf16(const uint8_t* values, size_t n, uint8_t* out);

// Widens n bfloat16 to float. Returns false where one is not finite.
bool from_bf16(const uint8_t* data, size_t n, uint8_t* values);

// Copies n elements of the dtype. Returns false where a floating one is not finite, or a bool is
// neither 0 nor 1.
bool copy_checked(Dtype dtype, const uint8_t* from, size_t n, uint8_t* to);

}  // namespace sparsefl::codec
