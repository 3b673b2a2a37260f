// The loops of gap codes, one table an instruction set; all give the same results.
//
// Gaps are 16 bits wide here: bit strings that have a longer one, rare at any density worth coding,
// take the plain loops of rice_code.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsefl::codec {

// Elements that a kernel may write past the last of gaps, or bytes past the last of a code.
inline constexpr size_t kGapSlack = 64;
// Lows of more bits are not packed by pack_lows.
inline constexpr int kMaxPackedLow = 14;
inline constexpr size_t kUnaryWords = 64;
// At most this many set bits are found at once, and indices are made in groups of 16.
inline constexpr size_t kIndexBlock = 64 * kUnaryWords;

struct GapKernels {
  // Writes the gaps between the `count` set bits of [0, n): how many positions lie before each one
  // and after the one before it. Returns false where one needs more than 16 bits. `gaps` has room
  // for count + kGapSlack.
  bool (*find_gaps)(const uint8_t* bits, size_t n, size_t count, uint16_t* gaps);

  // Writes the sums of gaps[i] >> shift, of those >> shift + 1 and of those >> shift + 2, each
  // below 2^32. shift >= 1.
  void (*sum_quotients)(const uint16_t* gaps, size_t count, int shift, uint64_t* sums);

  // Writes gaps[i] >> shift, or `most` where that is more. `out` has room for kGapSlack more.
  void (*clip_heads)(const uint16_t* gaps, size_t count, int shift, uint16_t most, uint16_t* out);

  // Writes gaps[i] >> shift, below 256.
  void (*find_heads)(const uint16_t* gaps, size_t count, int shift, uint8_t* out);

  // Writes the lower `width` <= kMaxPackedLow bits of each gap, the first in the lowest bits: ceil
  // (count * width / 8) bytes, whose last bits are zero, and kGapSlack bytes of no meaning.
  void (*pack_lows)(const uint16_t* gaps, size_t count, int width, uint8_t* out);

  // Writes gaps[i] >> shift clear bits and a set one for each gap, then zeros that fill the last
  // byte, and kGapSlack bytes of no meaning. Returns the bytes but for those.
  size_t (*write_unary)(const uint16_t* gaps, size_t count, int shift, uint8_t* out);

  // Writes the distances less one between the set bits of up to kUnaryWords words, the first from
  // `before` clear bits ago, as 16 bits each, or more where *wide turns true. Returns their number
  // and leaves in *before the clear bits after the last. `out` has room for kIndexBlock + 64.
  size_t (*find_quotients)(const uint8_t* words, size_t count, uint32_t* before, uint16_t* out,
                           bool* wide);

  // Writes indices: next + (quotients[i] << width) + low i, `next` then being one more. `lows` has
  // room to read kGapSlack bytes past those of the last; `out` is exactly `count` long. `count` is
  // a multiple of 16 but for the last call. Returns the next `next`.
  uint32_t (*make_indices)(const uint16_t* quotients, const uint8_t* lows, size_t count, int width,
                           uint32_t next, uint32_t* out);

  // Sets bits at indices.
  void (*set_bits)(const uint32_t* indices, size_t count, uint8_t* bits);
};

const GapKernels& gap_kernels();

namespace avx512 {
extern const GapKernels kGapKernels;
// Whether this machine has what the kernels need beyond the base set.
bool has_gap_kernels();
}  // namespace avx512
namespace avx2 {
extern const GapKernels kGapKernels;
}

}  // namespace sparsefl::codec
