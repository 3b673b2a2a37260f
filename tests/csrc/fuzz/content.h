// Random content for messages: bit strings and values of the kinds that coders tell apart.
#pragma once

#include <cstdint>

#include "case.h"
#include "codec/format.h"
#include "random.h"

namespace sparsefl::fuzz {

enum class BitStyle { kEven, kRuns, kRows, kTiles, kFar, kTrivial, kSquares, kWide };
inline constexpr size_t kBitStyles = 8;

// ceil(n / 8) bytes, the bits past n zero; rows of `row` bits, 0 for none.
Bytes random_bits(BitStyle style, size_t n, size_t row, Random* random);

enum class ValueStyle { kNormal, kConstant, kFew, kMostlyZero, kAnyBits, kGeometric };
inline constexpr size_t kValueStyles = 6;

// n values in memory, as memory_item_bytes has them of a mode that is not of signs; finite ones.
Bytes random_values(ValueStyle style, codec::ValueMode mode, codec::Dtype dtype, size_t n,
                    Random* random);

}  // namespace sparsefl::fuzz
