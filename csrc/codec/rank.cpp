#include "codec/rank.h"

#include <bit>

#include "codec/rank_words.h"

namespace {

// Bit by bit: no slower than six rounds of shifts up to half of the mask's bits.
struct Word {
  static uint64_t extract(uint64_t x, uint64_t m) {
    uint64_t out = 0;
    for (uint64_t bit = 1; m != 0; m &= m - 1, bit <<= 1) out |= (x & m & -m) != 0 ? bit : 0;
    return out;
  }
  static uint64_t deposit(uint64_t x, uint64_t m) {
    uint64_t out = 0;
    for (; m != 0; m &= m - 1, x >>= 1) out |= (x & 1) != 0 ? m & -m : 0;
    return out;
  }
  static unsigned count(uint64_t m) { return static_cast<unsigned>(std::popcount(m)); }
};

}  // namespace

#include "codec/rank.inl"

namespace sparsefl::codec {
namespace {

uint64_t flip_of(Through through) { return through == Through::kMask ? 0 : ~uint64_t{0}; }

#if defined(__x86_64__)
// The instructions are there and are no microcode of hundreds of cycles, as in AMD's first two Zen.
bool has_bmi2(Isa isa) {
  static const bool has = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt") &&
           !__builtin_cpu_is("znver1") && !__builtin_cpu_is("znver2");
  }();
  return has && isa != Isa::kScalar;
}
#endif

}  // namespace

void compress_bits(const uint8_t* bits, const uint8_t* mask, size_t n, Through through,
                   size_t count, uint8_t* out, Isa isa) {
#if defined(__x86_64__)
  if (has_bmi2(isa)) return compress_words_bmi2(bits, mask, n, flip_of(through), count, out);
#endif
  (void)isa;
  compress_words(bits, mask, n, flip_of(through), count, out);
}

void expand_bits(const uint8_t* ranks, size_t count, const uint8_t* mask, size_t n, Through through,
                 uint8_t* out, Isa isa) {
#if defined(__x86_64__)
  if (has_bmi2(isa)) return expand_words_bmi2(ranks, count, mask, n, flip_of(through), out);
#endif
  (void)isa;
  expand_words(ranks, count, mask, n, flip_of(through), out);
}

}  // namespace sparsefl::codec
