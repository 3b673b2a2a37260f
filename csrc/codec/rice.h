// Golomb-Rice codes of increasing positions, as FORMAT.md defines them: lows of a fixed width, then
// the rest of each gap in unary, which is a bitmap.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsefl::codec {

// Writes the gaps between the set bits of `bits` [0, n), ceil(n / 8) bytes whose bits past n are
// zero: how many positions lie before each one and after the one before it. Returns their number;
// `gaps` has room for all.
size_t gaps_of(const uint8_t* bits, size_t n, uint32_t* gaps);

// Gaps of positions below 2^22 have no bit at or above it.
inline constexpr uint8_t kMaxRiceParameter = 22;

struct RiceChoice {
  uint8_t parameter;
  uint64_t bytes;
};

// The parameter whose code takes the fewest bits, the smallest of equals, and the code's bytes.
// count >= 1; the gaps are those of positions below 2^22.
RiceChoice choose_rice(const uint32_t* gaps, size_t count);

// Writes the code, choose_rice's `bytes` bytes.
void write_rice(const uint32_t* gaps, size_t count, RiceChoice choice, uint8_t* out);

// Fewest bytes that a code of `count` positions takes.
constexpr uint64_t min_rice_bytes(uint64_t count, uint8_t parameter) {
  return (count * parameter + 7) / 8 + (count + 7) / 8;
}

enum class RiceStatus { kOk, kWrongCode, kPadding };

// Sets the bits of `bits` [0, n), which are clear, that the `bytes` bytes of a code stand for.
// count >= 1, 1 <= parameter <= 22, bytes >= min_rice_bytes and below 2^32. Touches nothing outside
// `data` and `bits` whatever the bytes are; where the status is not kOk, `bits` holds nothing of
// use.
RiceStatus read_rice(const uint8_t* data, size_t bytes, size_t count, uint8_t parameter, size_t n,
                     uint8_t* bits);

}  // namespace sparsefl::codec
