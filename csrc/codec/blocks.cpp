#include "codec/blocks.h"

#include <algorithm>
#include <cstring>

namespace sparsefl::codec {
namespace {

constexpr uint32_t kInfinityBits = 0x7F800000;
constexpr uint32_t kMagnitudeBits = 0x7FFFFFFF;
// Scales below 2^-125 would make subnormals, which some machines flush to zero. Of that scale, half
// is a float of these bits, 2^-126: what is not larger counts as zero.
constexpr uint16_t kMinScale = 0x0200;
constexpr uint32_t kZeroBits = 0x00800000;
// Bits of a scale's mantissa, and those of a float's that it leaves out.
constexpr int kScaleMantissaBits = 8;
constexpr int kDroppedBits = 23 - kScaleMantissaBits;
// Values are worked on in pieces that stay in the first cache.
constexpr size_t kPiece = 256;

// What tells int8 and int4 apart.
struct Width {
  int32_t max;
  uint16_t max_scale;  // the last whose product with max is finite
};
constexpr Width kInt8 = {127, 0xF802};
constexpr Width kInt4 = {7, 0xFC24};

constexpr Width width_of(ValueMode mode) { return mode == ValueMode::kInt8 ? kInt8 : kInt4; }

float scale_value(uint16_t scale) { return std::bit_cast<float>(uint32_t{scale} << kDroppedBits); }

// The largest magnitude, as the bits of a float; at least kInfinityBits where one is not finite.
uint32_t largest(const uint8_t* values, size_t n) {
  uint32_t most = 0;
  for (size_t i = 0; i < n; ++i)
    most = std::max(most, load<uint32_t>(values + 4 * i) & kMagnitudeBits);
  return most;
}

// The smallest scale that is at least magnitude / max, by integers alone.
uint32_t choose_scale(uint32_t magnitude, int32_t max) {
  const uint32_t exponent = magnitude >> 23;
  if (magnitude <= kZeroBits) return 0;
  const uint32_t mantissa = (magnitude & 0x007FFFFF) | 0x00800000;
  // The scale is `digits` of 9 bits times 2^(shift + exponent - 150).
  constexpr uint32_t kDigitsEnd = 2u << kScaleMantissaBits;
  uint32_t shift = max == kInt8.max ? 8 : 12;
  uint32_t digits = kDigitsEnd;
  for (; digits >= kDigitsEnd; ++shift) {
    const uint32_t divisor = static_cast<uint32_t>(max) << shift;
    digits = (mantissa + divisor - 1) / divisor;
  }
  // The exponent's bias drops out: a float counts its 24 digits from the top, the scale its 9.
  const int32_t biased = static_cast<int32_t>(exponent + shift) - 1 - kDroppedBits;
  if (biased < (kMinScale >> kScaleMantissaBits)) return kMinScale;
  return (static_cast<uint32_t>(biased) << kScaleMantissaBits) +
         (digits - (1u << kScaleMantissaBits));
}

// Rounds n values, whose magnitudes are at most max * scale, to the nearest multiple of the scale,
// ties to even. No step but the estimate rounds: doubles hold the remainders exactly, and the
// estimate is off by at most one, which the remainder makes good.
void quantise(const uint8_t* values, size_t n, float scale, int8_t* out) {
  const double step = scale;
  const double inverse = 1.0 / step;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = load<uint32_t>(values + 4 * i);
    const double magnitude = std::bit_cast<float>(bits & kMagnitudeBits);
    const int32_t below = static_cast<int32_t>(magnitude * inverse);
    const double excess = 2 * (magnitude - below * step) - step;
    const int32_t up =
        static_cast<int32_t>(excess > 0) | (static_cast<int32_t>(excess == 0) & below);
    const int32_t negative = -static_cast<int32_t>(bits >> 31);
    out[i] = static_cast<int8_t>(((below + (up & 1)) ^ negative) - negative);
  }
}

// Two's complement of four bits each, the first of two in the lower half; `n` may be odd.
void pack_nibbles(const int8_t* integers, size_t n, uint8_t* out) {
  for (size_t i = 0; i + 1 < n; i += 2)
    out[i / 2] = static_cast<uint8_t>((integers[i] & 15) | (integers[i + 1] << 4));
  if (n % 2) out[n / 2] = static_cast<uint8_t>(integers[n - 1] & 15);
}

void unpack_nibbles(const uint8_t* data, size_t n, int8_t* integers) {
  for (size_t i = 0; i + 1 < n; i += 2) {
    integers[i] = static_cast<int8_t>(((data[i / 2] & 15) ^ 8) - 8);
    integers[i + 1] = static_cast<int8_t>(((data[i / 2] >> 4) ^ 8) - 8);
  }
  if (n % 2) integers[n - 1] = static_cast<int8_t>(((data[n / 2] & 15) ^ 8) - 8);
}

// Returns the largest magnitude.
int32_t multiply(const int8_t* integers, size_t n, float scale, uint8_t* values) {
  int32_t most = 0;
  for (size_t i = 0; i < n; ++i) {
    const int32_t integer = integers[i];
    most = std::max(most, integer < 0 ? -integer : integer);
    store(values + 4 * i, static_cast<float>(integer) * scale);
  }
  return most;
}

}  // namespace

bool to_blocks(ValueMode mode, const uint8_t* values, size_t n, uint8_t block_log2, uint8_t* out) {
  const Width width = width_of(mode);
  const size_t block = size_t{1} << block_log2;
  uint8_t* integers = out + 2 * blocks_of(n, block_log2);
  for (size_t begin = 0; begin < n; begin += block, out += 2) {
    const size_t end = std::min(n, begin + block);
    const uint32_t most = largest(values + 4 * begin, end - begin);
    if (most >= kInfinityBits) return false;
    const uint32_t scale = choose_scale(most, width.max);
    if (scale > width.max_scale) return false;
    store(out, static_cast<uint16_t>(scale));
    int8_t piece[kPiece] = {};
    for (size_t i = begin; i < end; i += kPiece) {
      const size_t m = std::min(kPiece, end - i);
      if (scale != 0) quantise(values + 4 * i, m, scale_value(static_cast<uint16_t>(scale)), piece);
      if (mode == ValueMode::kInt8)
        std::memcpy(integers + i, piece, m);
      else
        pack_nibbles(piece, m, integers + i / 2);
    }
  }
  return true;
}

Reason from_blocks(ValueMode mode, const uint8_t* data, size_t n, uint8_t block_log2,
                   uint8_t* values) {
  const Width width = width_of(mode);
  const size_t block = size_t{1} << block_log2;
  const uint8_t* integers = data + 2 * blocks_of(n, block_log2);
  if (mode == ValueMode::kInt4 && n % 2 && integers[n / 2] >> 4) return Reason::kPadding;
  for (size_t begin = 0; begin < n; begin += block, data += 2) {
    const size_t end = std::min(n, begin + block);
    const uint16_t scale = load<uint16_t>(data);
    if (scale > width.max_scale || (scale != 0 && scale < kMinScale)) return Reason::kScale;
    int32_t most = 0;
    int8_t piece[kPiece];
    for (size_t i = begin; i < end; i += kPiece) {
      const size_t m = std::min(kPiece, end - i);
      if (mode == ValueMode::kInt8)
        std::memcpy(piece, integers + i, m);
      else
        unpack_nibbles(integers + i / 2, m, piece);
      most = std::max(most, multiply(piece, m, scale_value(scale), values + 4 * i));
    }
    if (most > width.max || (most == 0) != (scale == 0)) return Reason::kValue;
  }
  return Reason::kNone;
}

}  // namespace sparsefl::codec
