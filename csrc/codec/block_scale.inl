// Scales of blocks of integers: sixteen bits, those of a float from its exponent down to the eighth
// bit of its mantissa. Chosen by integers alone.
#define SPARSEFL_INLINE inline __attribute__((always_inline))

namespace sparsefl::codec {
namespace {

constexpr uint32_t kMagnitudeBits = 0x7FFFFFFF;
// Of 2^-126, the least float that no machine flushes to zero, and what doubles a float.
constexpr uint32_t kLeastNormal = 0x00800000;
constexpr uint32_t kDoubling = 0x00800000;
// Scales below 2^-125 would make subnormals. Of that scale half is 2^-126: what is not larger
// counts as zero.
constexpr uint32_t kMinScale = 0x0200;
constexpr uint32_t kZeroBits = kLeastNormal;
// Bits of a scale's mantissa, and those of a float's that it leaves out.
constexpr int kScaleMantissaBits = 8;
constexpr int kDroppedBits = 23 - kScaleMantissaBits;
constexpr uint32_t kDigitsEnd = 2u << kScaleMantissaBits;
// The block of int4, whose loops are compiled for that length.
constexpr size_t kSmallBlock = 64;
constexpr int kTernaryRounds = 8;
constexpr uint32_t kLastTernaryScale = 0xFEFF;
// Of five trits a byte.
constexpr uint8_t kTritValues = 243;

struct MagnitudeSum {
  uint64_t sum;
  uint64_t count;
};

SPARSEFL_INLINE float scale_value(uint32_t scale) {
  return std::bit_cast<float>(scale << kDroppedBits);
}

// The scale of `digits`, 256 to 511, and the exponent of a float; at least kMinScale.
SPARSEFL_INLINE uint32_t make_scale(int32_t exponent, uint32_t digits) {
  if (exponent < static_cast<int32_t>(kMinScale >> kScaleMantissaBits)) return kMinScale;
  return (static_cast<uint32_t>(exponent) << kScaleMantissaBits) + digits - kDigitsEnd / 2;
}

// The smallest scale that is at least magnitude / Width::kMax, of a magnitude that is normal.
template <class Width>
SPARSEFL_INLINE uint32_t least_scale(uint32_t magnitude) {
  const uint32_t mantissa = (magnitude & 0x007FFFFF) | 0x00800000;
  // The scale is `digits` times 2^(shift + exponent - 150).
  int32_t shift = Width::kShift;
  uint32_t digits = (mantissa + (static_cast<uint32_t>(Width::kMax) << shift) - 1) /
                    (uint32_t{Width::kMax} << shift);
  if (digits >= kDigitsEnd) {
    ++shift;
    digits = (mantissa + (static_cast<uint32_t>(Width::kMax) << shift) - 1) /
             (uint32_t{Width::kMax} << shift);
  }
  // The bias drops out: a float counts its 24 digits from the top, a scale its 9.
  return make_scale(static_cast<int32_t>(magnitude >> 23) + shift - kDroppedBits, digits);
}

// The scale nearest to the mean of magnitudes in units of 2^(exponent - 148), the larger one of
// two; at most the last.
SPARSEFL_INLINE uint32_t mean_scale(const MagnitudeSum& kept, uint32_t exponent) {
  constexpr int kFraction = 20;
  const uint64_t mean = (kept.sum << kFraction) / kept.count;
  const int length = 64 - __builtin_clzll(mean);
  const int shift = length - kScaleMantissaBits - 1;
  auto digits = static_cast<uint32_t>((mean + (uint64_t{1} << (shift - 1))) >> shift);
  auto position = static_cast<int32_t>(exponent) + length - kFraction - 22;
  if (digits == kDigitsEnd) {
    digits /= 2;
    ++position;
  }
  const uint32_t scale = make_scale(position, digits);
  return scale < kLastTernaryScale ? scale : kLastTernaryScale;
}

}  // namespace
}  // namespace sparsefl::codec
