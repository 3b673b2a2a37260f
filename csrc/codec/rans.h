// Interleaved range asymmetric numeral systems (rANS), as FORMAT.md's "Byte
// code" defines them: symbol i belongs to lane i mod lanes, a lane's state is
// 32 bits and at least 2^16, probabilities have 12 bits, and whatever lane runs
// out of bits takes the next 16-bit word.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sparsefl::codec {

inline constexpr int kProbabilityBits = 12;
inline constexpr uint32_t kProbabilityOne = 1u << kProbabilityBits;
inline constexpr uint32_t kLeastState = 1u << 16;
// Lanes of one stream of words; twice as many have two, the first half of each
// group's lanes one.
inline constexpr size_t kStreamLanes = 32;
inline constexpr size_t kMaxLanes = 2 * kStreamLanes;
inline constexpr size_t kMaxStreams = 2;
// Encoders may write this many bytes below the words that they return.
inline constexpr size_t kRansSlack = 64;

// The probabilities of symbols, in units of 2^-12: each below 2^12, all
// together 2^12.
struct Frequencies {
  uint16_t of[256];
};

constexpr size_t streams_of(size_t lanes) { return lanes > kStreamLanes ? 2 : 1; }

// Words of a code: where they begin, and how many belong to each stream. The
// streams follow each other.
struct CodeWords {
  const uint8_t* begin;
  size_t count[kMaxStreams];
};

// Encodes n symbols from the last to the first; those of frequency 0 as
// `escape`, which is not needed where there are none. Sets the states [0,
// lanes) that a decoder starts from. Writes the words of each stream downward
// from its end, which need not be aligned, and moves that to where they begin.
// There is room for them and kRansSlack bytes more below.
void encode_rans(const Frequencies& frequencies, int escape, const uint8_t* symbols, size_t n,
                 size_t lanes, uint32_t* states, uint8_t** ends);

// Decodes n symbols. Returns whether the words were used up exactly and the
// states ended where an encoder starts. Changes the states. Touches nothing
// outside, whatever states and words are; the states must be at least
// kLeastState.
bool decode_rans(const Frequencies& frequencies, uint32_t* states, size_t lanes,
                 const CodeWords& words, size_t n, uint8_t* symbols);

}  // namespace sparsefl::codec
