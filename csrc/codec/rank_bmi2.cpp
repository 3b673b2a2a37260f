#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/rank_words.h"

#pragma GCC push_options
#pragma GCC target("bmi,bmi2,popcnt")

namespace {

struct Word {
  static uint64_t extract(uint64_t x, uint64_t m) { return _pext_u64(x, m); }
  static uint64_t deposit(uint64_t x, uint64_t m) { return _pdep_u64(x, m); }
  static unsigned count(uint64_t m) { return static_cast<unsigned>(__builtin_popcountll(m)); }
};

}  // namespace

#include "codec/rank.inl"

namespace sparsefl::codec {

void compress_words_bmi2(const uint8_t* bits, const uint8_t* mask, size_t n, uint64_t flip,
                         size_t count, uint8_t* out) {
  compress_words(bits, mask, n, flip, count, out);
}

void expand_words_bmi2(const uint8_t* ranks, size_t count, const uint8_t* mask, size_t n,
                       uint64_t flip, uint8_t* out) {
  expand_words(ranks, count, mask, n, flip, out);
}

}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
