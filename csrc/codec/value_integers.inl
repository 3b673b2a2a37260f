// Rounding to integers and packing them, included by value_kernels.inl.
#include "codec/block_scale.inl"

namespace sparsefl::codec {
namespace {

// The words of the draws for values [i, i + n), n <= kPiece.
class Words {
 public:
  const uint32_t* at(const Draws& draws, size_t i, size_t n) {
    const uint64_t begin = draws.first + i;
    const uint64_t group = begin / kGroupWords;
    fill_word_groups(draws.seed, draws.stream, group, (begin + n - 1) / kGroupWords - group + 1,
                     isa(), words_);
    return words_ + begin % kGroupWords;
  }

 private:
  uint32_t words_[kPiece + 2 * kGroupWords];
};

SPARSEFL_INLINE uint32_t largest(const uint8_t* values, size_t n) {
  uint32_t most = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t magnitude = load<uint32_t>(values + 4 * i) & kMagnitudeBits;
    most = magnitude > most ? magnitude : most;
  }
  return most;
}

// The nearest multiples of the scale, ties to even, of n floats of at most max * scale. Adding and
// subtracting 1.5 * 2^23 rounds an estimate that is off by one at the most; the product of integer
// and scale has 16 bits and the remainder no bit below the float's last, so both are exact.
SPARSEFL_INLINE void round_to_nearest(const uint8_t* values, size_t n, float scale, int8_t* out) {
  constexpr float kRounder = 12582912.0f;
  const float inverse = 1.0f / scale;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = load<uint32_t>(values + 4 * i);
    const float magnitude = std::bit_cast<float>(bits & kMagnitudeBits);
    const float shifted = magnitude * inverse + kRounder;
    const int32_t estimate = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRounder);
    const float twice = 2.0f * (magnitude - (shifted - kRounder) * scale);
    const int32_t odd = estimate & 1;
    const int32_t up = (twice > scale ? 1 : 0) + (twice == scale ? odd : 0);
    const int32_t down = (twice < -scale ? 1 : 0) + (twice == -scale ? odd : 0);
    const int32_t negative = -static_cast<int32_t>(bits >> 31);
    out[i] = static_cast<int8_t>(((estimate + up - down) ^ negative) - negative);
  }
}

// One of the two multiples of the scale around each of n floats, the upper one for as many of the
// 2^32 words as make the mean of the result the float, but for one word. Doubles hold remainders
// and products exactly. The estimate may be one too small where the float is a multiple: then every
// word rounds up. Subnormals count as zero, as on machines that flush them.
SPARSEFL_INLINE void round_at_random(const uint8_t* values, size_t n, float scale,
                                     const uint32_t* words, int8_t* out) {
  const double step = scale;
  const double inverse = 1.0 / step;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = load<uint32_t>(values + 4 * i);
    const uint32_t normal = bits & kMagnitudeBits;
    // A mask: of a choice the compiler makes a branch, and then no vectors.
    const uint32_t mask = 0u - static_cast<uint32_t>(normal >= kLeastNormal);
    const double magnitude = std::bit_cast<float>(normal & mask);
    const int32_t below = static_cast<int32_t>(magnitude * inverse);
    const double rest = magnitude - below * step;
    // Conversions of signed words are instructions everywhere.
    const double word = static_cast<int32_t>(words[i] ^ 0x80000000u) + 2147483648.0;
    const int32_t up = word * step < rest * 4294967296.0 ? 1 : 0;
    const int32_t negative = -static_cast<int32_t>(bits >> 31);
    out[i] = static_cast<int8_t>(((below + up) ^ negative) - negative);
  }
}

// Adds up the magnitudes above `threshold` of n <= kPiece floats in units of 2^(exponent - 148),
// rounded down: 22 bits of those with that exponent, so that 32 bits hold the sum.
SPARSEFL_INLINE MagnitudeSum sum_above(const uint8_t* values, size_t n, uint32_t exponent,
                                       uint32_t threshold) {
  uint32_t sum = 0, count = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = load<uint32_t>(values + 4 * i) & kMagnitudeBits;
    const uint32_t shift = exponent - (bits >> 23);
    const uint32_t digits = (((bits & 0x007FFFFF) | 0x00800000) >> 2) >> (shift > 24 ? 24 : shift);
    const uint32_t magnitude = bits < kLeastNormal ? 0 : digits;
    const bool counts = magnitude > threshold;
    sum += counts ? magnitude : 0;
    count += counts ? 1 : 0;
  }
  return {sum, count};
}

MagnitudeSum sum_block(const uint8_t* values, size_t n, uint32_t exponent, uint32_t threshold) {
  MagnitudeSum all = {0, 0};
  for (size_t i = 0; i < n; i += kPiece) {
    const size_t m = n - i < kPiece ? n - i : kPiece;
    const MagnitudeSum part = sum_above(values + 4 * i, m, exponent, threshold);
    all.sum += part.sum;
    all.count += part.count;
  }
  return all;
}

// Lloyd's iteration for one free level: the mean of the magnitudes that are nearer to it than to
// zero, from that of all that are not zero. Each round makes the squared error smaller.
uint32_t ternary_scale(const uint8_t* values, size_t n, uint32_t most) {
  const uint32_t exponent = most >> 23;
  MagnitudeSum kept = sum_block(values, n, exponent, 0);
  for (int round = 0; round < kTernaryRounds; ++round) {
    const auto half = static_cast<uint32_t>(kept.sum / (2 * kept.count));
    const MagnitudeSum next = sum_block(values, n, exponent, half);
    const bool done = next.count == kept.count;
    kept = next;
    if (done) break;
  }
  return mean_scale(kept, exponent);
}

// What is above one and a half scales is one of them too.
SPARSEFL_INLINE void round_to_trits(const uint8_t* values, size_t n, float scale, int8_t* out) {
  const uint32_t half = std::bit_cast<uint32_t>(scale) - kDoubling;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = load<uint32_t>(values + 4 * i);
    const int32_t one = (bits & kMagnitudeBits) > half ? 1 : 0;
    const int32_t negative = -static_cast<int32_t>(bits >> 31);
    out[i] = static_cast<int8_t>((one ^ negative) - negative);
  }
}

// Two's complement of four bits each, the first of two in the lower half; `n` may be odd.
SPARSEFL_INLINE void pack_nibbles(const int8_t* integers, size_t n, uint8_t* out) {
  for (size_t i = 0; i < n / 2; ++i)
    out[i] = static_cast<uint8_t>((integers[2 * i] & 15) | (integers[2 * i + 1] << 4));
  if (n % 2) out[n / 2] = static_cast<uint8_t>(integers[n - 1] & 15);
}

SPARSEFL_INLINE void unpack_nibbles(const uint8_t* data, size_t n, int8_t* integers) {
  for (size_t i = 0; i < n / 2; ++i) {
    integers[2 * i] = static_cast<int8_t>(((data[i] & 15) ^ 8) - 8);
    integers[2 * i + 1] = static_cast<int8_t>(static_cast<int8_t>(data[i]) >> 4);
  }
  if (n % 2) integers[n - 1] = static_cast<int8_t>(((data[n / 2] & 15) ^ 8) - 8);
}

SPARSEFL_INLINE uint8_t digit_of(int8_t trit) { return static_cast<uint8_t>(trit < 0 ? 2 : trit); }

SPARSEFL_INLINE void pack_trit_group(const int8_t* trits, uint8_t* out) {
  for (size_t j = 0; j < kTritBytes; ++j) {
    uint8_t byte = 0;
    for (size_t k = kTritsPerByte; k-- != 0;)
      byte = static_cast<uint8_t>(3 * byte + digit_of(trits[j + k * kTritBytes]));
    out[j] = byte;
  }
}

SPARSEFL_INLINE void pack_trits(const int8_t* trits, size_t n, uint8_t* out) {
  for (; n >= kTritGroup; n -= kTritGroup, trits += kTritGroup, out += kTritBytes)
    pack_trit_group(trits, out);
  const size_t bytes = (n + kTritsPerByte - 1) / kTritsPerByte;
  for (size_t j = 0; j < bytes; ++j) {
    uint8_t byte = 0;
    for (size_t k = kTritsPerByte; k-- != 0;) {
      const size_t i = j + k * bytes;
      byte = static_cast<uint8_t>(3 * byte + (i < n ? digit_of(trits[i]) : 0));
    }
    out[j] = byte;
  }
}

// The lowest digit of a byte, which is left with the others.
SPARSEFL_INLINE int8_t take_trit(uint8_t* byte) {
  const auto third = static_cast<uint8_t>(*byte * 171 >> 9);
  const auto digit = static_cast<uint8_t>(*byte - 3 * third);
  *byte = third;
  return static_cast<int8_t>(digit == 2 ? -1 : digit);
}

SPARSEFL_INLINE void unpack_trit_group(const uint8_t* data, int8_t* trits) {
  uint8_t rest[kTritBytes];
  for (size_t j = 0; j < kTritBytes; ++j) rest[j] = data[j];
  for (size_t k = 0; k < kTritsPerByte; ++k)
    for (size_t j = 0; j < kTritBytes; ++j) trits[j + k * kTritBytes] = take_trit(&rest[j]);
}

SPARSEFL_INLINE void unpack_trits(const uint8_t* data, size_t n, int8_t* trits) {
  for (; n >= kTritGroup; n -= kTritGroup, trits += kTritGroup, data += kTritBytes)
    unpack_trit_group(data, trits);
  const size_t bytes = (n + kTritsPerByte - 1) / kTritsPerByte;
  for (size_t j = 0; j < bytes; ++j) {
    uint8_t rest = data[j];
    for (size_t i = j; i < n; i += bytes) trits[i] = take_trit(&rest);
  }
}

// Writes n floats and returns the largest magnitude of the integers.
SPARSEFL_INLINE int32_t multiply_piece(const int8_t* integers, size_t n, float scale,
                                       uint8_t* values) {
  int32_t most = 0;
  for (size_t i = 0; i < n; ++i) {
    const int32_t integer = integers[i];
    const int32_t magnitude = integer < 0 ? -integer : integer;
    most = magnitude > most ? magnitude : most;
    store(values + 4 * i, static_cast<float>(integer) * scale);
  }
  return most;
}

}  // namespace
}  // namespace sparsefl::codec
