#include "codec/bits.h"

#include <bit>
#include <cstring>

#include "codec/format.h"
#include "cpu/isa.h"

namespace sparsefl::codec {
namespace {

constexpr uint64_t kOnes = 0x0101010101010101;

// Gathers the low bits of eight bytes into one byte, byte 0 lowest: byte i, times 2^(56 - 7i),
// lands on bit 56 + i, and no other product touches the top byte or carries into it.
uint8_t gather_low_bits(uint64_t bytes) {
  return static_cast<uint8_t>(((bytes & kOnes) * 0x0102040810204080) >> 56);
}

// Spreads the bits of a byte over eight bytes of 0 or 1, the inverse of gather_low_bits: byte i
// keeps only bit i, and adding 0x80 - 2^i carries it to the byte's top.
uint64_t spread_bits(uint8_t bits) {
  const uint64_t apart = (bits * kOnes) & 0x8040201008040201;
  return ((apart + 0x00406070787C7E7F) >> 7) & kOnes;
}

// A byte of 0 or 1 becomes +1 or -1 as int8: 1 or 0xFF. No byte carries into its neighbour.
uint64_t to_signs(uint64_t negative) { return kOnes + negative * 0xFE; }

// The number of set bits of each byte, in that byte.
uint64_t byte_counts(uint64_t word) {
  word -= (word >> 1) & 0x5555555555555555;
  word = (word & 0x3333333333333333) + ((word >> 2) & 0x3333333333333333);
  return (word + (word >> 4)) & 0x0F0F0F0F0F0F0F0F;
}

// 16 words of at most 8 set bits a byte: their sum does not overflow a byte.
constexpr size_t kBlockBytes = 16 * 8;
constexpr uint64_t kEvenBytes = 0x00FF00FF00FF00FF;
constexpr uint64_t kEvenOnes = 0x0001000100010001;

uint64_t popcount_of_words(const uint8_t* data, size_t bytes) {
  uint64_t total = 0;
  size_t i = 0;
  for (; i + kBlockBytes <= bytes; i += kBlockBytes) {
    uint64_t counts = 0;
    for (size_t j = 0; j < kBlockBytes; j += 8) counts += byte_counts(load<uint64_t>(data + i + j));
    total += ((counts & kEvenBytes) + ((counts >> 8) & kEvenBytes)) * kEvenOnes >> 48;
  }
  for (; i < bytes; ++i) total += static_cast<uint64_t>(std::popcount(data[i]));
  return total;
}

#if defined(__x86_64__)
// Every other instruction set than scalar has it. Four sums, as an addition waits for the last.
__attribute__((target("popcnt"))) uint64_t popcount_by_instruction(const uint8_t* data,
                                                                   size_t bytes) {
  uint64_t sums[4] = {};
  size_t i = 0;
  for (; i + 32 <= bytes; i += 32)
    for (size_t j = 0; j < 4; ++j)
      sums[j] += static_cast<uint64_t>(__builtin_popcountll(load<uint64_t>(data + i + 8 * j)));
  for (; i < bytes; ++i) sums[0] += static_cast<uint64_t>(__builtin_popcount(data[i]));
  return sums[0] + sums[1] + sums[2] + sums[3];
}
#endif

}  // namespace

// Plain 64-bit words in one path for all machines: 7 G signs/s packed or unpacked on one Zen 4
// core, more than a message's other passes over memory allow.

uint64_t popcount(const uint8_t* data, size_t bytes) {
#if defined(__x86_64__)
  if (isa() != Isa::kScalar) return popcount_by_instruction(data, bytes);
#endif
  return popcount_of_words(data, bytes);
}

bool pack_signs(const int8_t* signs, size_t n, uint8_t* out) {
  uint64_t wrong = 0;
  const auto* bytes = reinterpret_cast<const uint8_t*>(signs);
  const auto pack = [&wrong](uint64_t eight) {
    const uint64_t negative = (eight >> 7) & kOnes;
    wrong |= eight ^ to_signs(negative);
    return gather_low_bits(negative);
  };
  size_t i = 0;
  for (; i + 8 <= n; i += 8) out[i / 8] = pack(load<uint64_t>(bytes + i));
  if (i < n) {
    uint64_t rest = kOnes;
    std::memcpy(&rest, bytes + i, n - i);
    out[i / 8] = pack(rest);
  }
  return wrong == 0;
}

void unpack_signs(const uint8_t* data, size_t n, int8_t* signs) {
  auto* bytes = reinterpret_cast<uint8_t*>(signs);
  size_t i = 0;
  for (; i + 8 <= n; i += 8) store(bytes + i, to_signs(spread_bits(data[i / 8])));
  if (i < n) {
    const uint64_t rest = to_signs(spread_bits(data[i / 8]));
    std::memcpy(bytes + i, &rest, n - i);
  }
}

bool pack_flips(const int8_t* signs, const int8_t* base, size_t n, uint8_t* out) {
  const bool sound = pack_signs(signs, n, out);
  flip_signs(base, n, out);
  return sound;
}

void flip_signs(const int8_t* base, size_t n, uint8_t* bits) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(base);
  const auto negative = [](uint64_t eight) { return gather_low_bits((eight >> 7) & kOnes); };
  size_t i = 0;
  for (; i + 8 <= n; i += 8) bits[i / 8] ^= negative(load<uint64_t>(bytes + i));
  if (i < n) {
    uint64_t rest = 0;
    std::memcpy(&rest, bytes + i, n - i);
    bits[i / 8] ^= negative(rest);
  }
}

void fill_bits(size_t n, uint8_t* out) {
  std::memset(out, 0xFF, n / 8);
  if (n % 8) out[n / 8] = static_cast<uint8_t>((1u << (n % 8)) - 1);
}

}  // namespace sparsefl::codec
