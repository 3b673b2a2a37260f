#include "codec/rans.h"

#include <algorithm>

#include "codec/format.h"

namespace sparsefl::codec {
namespace {

constexpr uint32_t kSlotMask = kProbabilityOne - 1;

// What a decoder does at a slot: the symbol in bits 0-7, its frequency in 8-19, the place of the
// slot among the symbol's in 20-31.
void fill_slots(const Frequencies& frequencies, uint32_t* slots) {
  for (uint32_t s = 0; s < 256; ++s) {
    const uint32_t entry = s | uint32_t{frequencies.of[s]} << 8;
    for (uint32_t i = 0; i < frequencies.of[s]; ++i) *slots++ = entry | i << 20;
  }
}

struct EncoderSymbol {
  uint32_t frequency, start;
};

void fill_encoder(const Frequencies& frequencies, int escape, EncoderSymbol* table) {
  uint32_t start = 0;
  for (int s = 0; s < 256; ++s) {
    table[s] = {frequencies.of[s], start};
    start += frequencies.of[s];
  }
  if (escape < 0) return;
  for (int s = 0; s < 256; ++s)
    if (frequencies.of[s] == 0) table[s] = table[escape];
}

}  // namespace

uint8_t* encode_rans(const Frequencies& frequencies, int escape, const uint8_t* symbols, size_t n,
                     size_t lanes, uint32_t* states, uint8_t* end) {
  EncoderSymbol table[256];
  fill_encoder(frequencies, escape, table);
  std::fill_n(states, lanes, kLeastState);
  for (size_t i = n; i-- > 0;) {
    uint32_t& x = states[i & (lanes - 1)];
    const auto [frequency, start] = table[symbols[i]];
    if (x >> 20 >= frequency) {
      end -= 2;
      store(end, static_cast<uint16_t>(x));
      x >>= 16;
    }
    x = (x / frequency << kProbabilityBits) + x % frequency + start;
  }
  return end;
}

bool decode_rans(const Frequencies& frequencies, uint32_t* states, size_t lanes,
                 const uint8_t* words, size_t count, size_t n, uint8_t* symbols) {
  uint32_t slots[kProbabilityOne];
  fill_slots(frequencies, slots);
  const uint8_t* const end = words + 2 * count;
  for (size_t i = 0; i < n; ++i) {
    uint32_t& x = states[i & (lanes - 1)];
    const uint32_t slot = slots[x & kSlotMask];
    symbols[i] = static_cast<uint8_t>(slot);
    x = (slot >> 8 & kSlotMask) * (x >> kProbabilityBits) + (slot >> 20);
    if (x < kLeastState) {
      if (words == end) return false;
      x = x << 16 | load<uint16_t>(words);
      words += 2;
    }
  }
  return words == end &&
         std::all_of(states, states + lanes, [](uint32_t x) { return x == kLeastState; });
}

}  // namespace sparsefl::codec
