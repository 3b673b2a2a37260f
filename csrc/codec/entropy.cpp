#include "codec/entropy.h"

#include <algorithm>
#include <bit>

namespace sparsefl::codec {
namespace {

constexpr uint64_t kByte = uint64_t{8} << kEntropyFractionBits;

// log2(x) in units of 2^-16, within 10 of them, for 1 <= x < 2^32: with x = 2^e (1 + f) about
// e + f + f (1 - f) (.4427 - .2476 f + .0836 f^2).
uint64_t log2_of(uint64_t x) {
  const int e = std::bit_width(x) - 1;
  const auto f = static_cast<int64_t>(x << (32 - e) >> 16 & 0xFFFF);
  const int64_t bend = 29013 + ((-16227 + (5479 * f >> 16)) * f >> 16);
  return (static_cast<uint64_t>(e) << 16) +
         static_cast<uint64_t>(f + ((f * (65536 - f) >> 16) * bend >> 16));
}

}  // namespace

uint64_t entropy_cost(const uint32_t* counts, uint64_t n, uint64_t scale) {
  uint64_t entropy = n * log2_of(n);
  uint64_t table = 0;
  for (int s = 0; s < 256; ++s) {
    if (counts[s] == 0) continue;
    entropy -= counts[s] * log2_of(counts[s]);
    table += kByte;
  }
  return std::min(scale * entropy + table, scale * n * kByte);
}

}  // namespace sparsefl::codec
