// Interleaved range asymmetric numeral systems (rANS), as FORMAT.md's "Byte code" defines them:
// symbol i belongs to lane i mod lanes, a lane's state is 32 bits and at least 2^16, probabilities
// have 12 bits, and whatever lane runs out of bits takes the next 16-bit word.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsefl::codec {

inline constexpr int kProbabilityBits = 12;
inline constexpr uint32_t kProbabilityOne = 1u << kProbabilityBits;
inline constexpr uint32_t kLeastState = 1u << 16;
inline constexpr size_t kMaxLanes = 32;
// Encoders may write this many bytes below the words that they return.
inline constexpr size_t kRansSlack = 64;

// The probabilities of symbols, in units of 2^-12: each below 2^12, all together 2^12.
struct Frequencies {
  uint16_t of[256];
};

// Encodes n symbols from the last to the first; those of frequency 0 as `escape`, which is not
// needed where there are none. Sets the states [0, lanes) that a decoder starts from and writes the
// words downward from `end`, which need not be aligned. Returns where they begin. There is room for
// them and kRansSlack bytes more below.
uint8_t* encode_rans(const Frequencies& frequencies, int escape, const uint8_t* symbols, size_t n,
                     size_t lanes, uint32_t* states, uint8_t* end);

// Decodes n symbols. Returns whether the words were used up exactly and the states ended where an
// encoder starts. Changes the states. Touches nothing outside, whatever states and words are; the
// states must be at least kLeastState.
bool decode_rans(const Frequencies& frequencies, uint32_t* states, size_t lanes,
                 const uint8_t* words, size_t count, size_t n, uint8_t* symbols);

}  // namespace sparsefl::codec
