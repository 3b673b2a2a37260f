// The kernels behind rans.h: tables in the form that each takes, and their
// loops over whole groups of kStreamLanes symbols. All of them give the same
// states, words and symbols.
#pragma once

#include <cstddef>
#include <cstdint>

#include "codec/rans.h"

namespace sparsefl::codec {

// What a decoder does at each slot: the symbol in bits 0-7, its frequency in
// 8-19, the place of the slot among the symbol's in 20-31.
struct alignas(64) SlotTable {
  uint32_t slots[kProbabilityOne];
};

// The same in 3 KB, for look-ups in registers. A rank counts the symbols that
// occur, in order.
struct alignas(64) RankTable {
  // For 16 slots: a bit where a symbol starts, but at slot 0, and how many do
  // in the slots before.
  uint8_t starts_low[256], starts_high[256];
  uint8_t starts_before[256];
  // By rank: 16 times the frequency, the first slot, the symbol.
  uint8_t frequency_low[256], frequency_high[256];
  uint8_t start_low[256], start_high[256];
  uint8_t symbol[256];
  // The first 64 of these whole.
  uint16_t frequency[64], start[64];
  // Constants: bits 0 to i of 16, for i mod 16; even bytes, then odd ones.
  uint8_t upto_low[64], upto_high[64];
  uint8_t unzip[64];
  int symbols;
};

// What an encoder needs of each symbol.
struct alignas(64) DivisorTable {
  // 16 times the frequency; with s its number of leading zeros, floor((2^32 -
  // 1) / (it << s)) - 2^16; its first slot times 16 plus s.
  uint8_t frequency_low[256], frequency_high[256];
  uint8_t reciprocal_low[256], reciprocal_high[256];
  uint8_t place_low[256], place_high[256];
  // Constants: 0, 1, ...; the bytes of the halves of 64 in turn.
  uint16_t iota[32];
  uint8_t zip[64];
};

// The same for lanes of 32 bits.
struct alignas(64) QuotientTable {
  struct Symbol {
    uint16_t frequency, start;
    // 1 / frequency, less 2^-21 of it: a quotient below 2^20 that this gives
    // after three more roundings is right or one less.
    float reciprocal;
  };
  Symbol of[256];
};

#if defined(__x86_64__)
// Whether this process uses the kernels of AVX-512. They take more than the
// sets that Isa::kAvx512 stands for: VBMI, VBMI2 and BITALG too.
bool has_wide_kernels();

// A stream of words and how far beyond it may be read.
struct Input {
  const uint8_t* words;
  const uint8_t* limit;
};
// A step takes at most this many bytes of words of each stream.
inline constexpr ptrdiff_t kStepBytes = 128;

// Decodes steps of two groups of 32 symbols a stream as long as kStepBytes may
// be read; returns how many. Advances states and words.
size_t decode_steps_avx2(const SlotTable& table, uint32_t* states, size_t streams, Input* in,
                         size_t steps, uint8_t* symbols);
size_t decode_steps_avx512(const RankTable& table, uint32_t* states, size_t streams, Input* in,
                           size_t steps, uint8_t* symbols);

// Encodes groups of 32 symbols a stream from the last to the first, as
// encode_rans does, downward from the ends of the streams, which it moves.
void encode_groups_avx2(const QuotientTable& table, const uint8_t* symbols, size_t groups,
                        size_t streams, uint32_t* states, uint8_t** ends);
void encode_groups_avx512(const DivisorTable& table, const uint8_t* symbols, size_t groups,
                          size_t streams, uint32_t* states, uint8_t** ends);
#endif

}  // namespace sparsefl::codec
