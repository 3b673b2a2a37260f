// Signs and magnitudes of float32 by their bits, and the search for the k-th largest magnitude
// digit by digit.
#pragma once

#include <cstdint>

#include "cuda/host_device.h"

namespace sparsefl {

inline constexpr uint32_t kSignBit = 0x80000000;
inline constexpr uint32_t kInfinity = 0x7F800000;

// Below 0: zeros of either sign are not, denormals are by their sign. A NaN's answer means nothing.
SPARSEFL_HOST_DEVICE bool is_negative(uint32_t bits) { return bits > kSignBit; }

// An integer of the same order as the magnitude; a NaN's is above kInfinity.
SPARSEFL_HOST_DEVICE uint32_t magnitude_key(uint32_t bits) { return bits & ~kSignBit; }

// A key in 3 digits, the highest first, of 11, 10 and 10 bits.
inline constexpr int kDigits = 3;
inline constexpr int kBins = 1 << 11;

SPARSEFL_HOST_DEVICE int digit_shift(int digit) { return 20 - 10 * digit; }

SPARSEFL_HOST_DEVICE uint32_t digit_of(uint32_t key, int digit) {
  return key >> digit_shift(digit) & (digit == 0 ? kBins - 1 : kBins / 2 - 1);
}

// What is known of the k-th largest key after some digits.
struct Search {
  uint32_t prefix;  // these digits of it, at their places in the key
  uint64_t wanted;  // which of the keys that have them it is, from 1 on
};

// Whether a key has the digits before `digit` that were found.
SPARSEFL_HOST_DEVICE bool has_prefix(uint32_t key, int digit, const Search& search) {
  return digit == 0 || key >> digit_shift(digit - 1) == search.prefix >> digit_shift(digit - 1);
}

// The search after a digit: `bin` is that of the k-th largest, `above` keys lie in higher ones.
SPARSEFL_HOST_DEVICE Search narrowed(const Search& search, int digit, int bin, uint64_t above) {
  return {search.prefix | static_cast<uint32_t>(bin) << digit_shift(digit), search.wanted - above};
}

// Of the keys equal to the k-th largest, the first `wanted` are kept: where `seen` of them come
// before.
SPARSEFL_HOST_DEVICE bool is_kept(uint32_t key, const Search& search, uint64_t seen) {
  return key > search.prefix || (key == search.prefix && seen < search.wanted);
}

// How many of `tied` keys equal to the k-th largest are kept.
SPARSEFL_HOST_DEVICE uint64_t kept_ties(uint64_t tied, const Search& search) {
  return tied < search.wanted ? tied : search.wanted;
}

}  // namespace sparsefl
