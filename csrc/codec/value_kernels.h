// The loops behind value sections, one table of them an instruction set. All write the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codec/draws.h"
#include "codec/format.h"
#include "cpu/isa.h"

namespace sparsefl::codec {

// Values that are quantised or multiplied in one go: they and the words that round them stay in the
// first cache. A multiple of it, kStaged, is whole groups of nibbles and of trits.
inline constexpr size_t kPiece = 1024;
inline constexpr size_t kStaged = 5 * kPiece;

// A group of kTritGroup trits takes kTritBytes bytes, a shorter last one of m of them p = ceil(m /
// 5): byte j holds trits j, j + p, j + 2 p, j + 3 p and j + 4 p.
inline constexpr size_t kTritsPerByte = 5;
inline constexpr size_t kTritBytes = 64;
inline constexpr size_t kTritGroup = kTritsPerByte * kTritBytes;

// What the scales and integers of blocks of 2^block_log2 of n floats are made of.
struct BlockSource {
  const uint8_t* values;
  size_t n;
  uint8_t block_log2;
  const Draws* draws;  // null: to nearest
};

// Where scales lie, as bytes `stride` apart, and the integers.
struct BlockTarget {
  uint8_t* exponents;
  uint8_t* mantissas;
  size_t stride;
  uint8_t* integers;
};

struct BlockView {
  const uint8_t* exponents;
  const uint8_t* mantissas;
  size_t stride;
  const uint8_t* integers;
};

struct ValueKernels {
  // Writes scales and integers. False where a value is not finite or its block has no scale.
  bool (*quantise)(ValueMode mode, const BlockSource& source, const BlockTarget& target);
  // Writes n floats. Says what is wrong with the scales or the integers, or kNone.
  Reason (*multiply)(ValueMode mode, const BlockView& view, size_t n, uint8_t block_log2,
                     uint8_t* values);
  // Rounds n floats to bfloat16. False where one, or what it may be rounded to, is not finite.
  bool (*to_bf16)(const uint8_t* values, size_t n, const Draws* draws, uint8_t* out);
  // Widens n bfloat16 to float. False where one is not finite.
  bool (*from_bf16)(const uint8_t* data, size_t n, uint8_t* values);
  // Copies n words of 2, 4 or 8 bytes; false where one has all bits of `exponent` set.
  bool (*copy_finite)(const uint8_t* from, size_t n, size_t item, uint64_t exponent, uint8_t* to);
  // Takes n words of `item` bytes apart: plane j holds byte j of each, the most significant first.
  // Floats, whose `exponent` is not 0, are turned left by a bit before, so that the sign comes last
  // and plane 0 has the exponent; false where one has all bits of the exponent set.
  bool (*split)(const uint8_t* from, size_t n, size_t item, uint64_t exponent, uint8_t* planes);
  bool (*join)(const uint8_t* planes, size_t n, size_t item, uint64_t exponent, uint8_t* to);
};

extern const ValueKernels kValuesScalar;
#if defined(__x86_64__)
extern const ValueKernels kValuesAvx2, kValuesAvx512;

inline const ValueKernels& value_kernels() {
  return pick(kValuesScalar, kValuesAvx2, kValuesAvx512);
}
#else
inline const ValueKernels& value_kernels() { return kValuesScalar; }
#endif

}  // namespace sparsefl::codec
