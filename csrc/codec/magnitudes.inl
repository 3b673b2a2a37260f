// keep, collect and refine of dense_kernels.h on the vectors `Lanes` of one instruction set.

#include "codec/words.inl"

namespace sparsefl::codec {
namespace {

// Elements ahead of which memory is asked for: what is appended keeps the processor from looking so
// far itself.
constexpr size_t kAhead = 1024;

inline uint32_t key_of(float value) { return float_bits(value) & kMagnitudeBits; }

size_t keep(const float* x, size_t n, uint32_t low, uint8_t* bits, float* values) {
  const typename Lanes::Keys bound = Lanes::broadcast(low);
  const size_t whole = n / 64 * 64;
  size_t count = 0;
  for (size_t i = 0; i < whole; i += 64) {
    uint64_t word = 0;
#pragma GCC unroll 4
    for (size_t j = 0; j < 64; j += 16) __builtin_prefetch(x + i + kAhead + j);
#pragma GCC unroll 8
    for (size_t j = 0; j < 64; j += Lanes::kLanes) {
      const uint64_t m = Lanes::at_least(Lanes::keys(x + i + j), bound);
      Lanes::append(x + i + j, m, values + count);
      count += Lanes::count(m);
      word |= m << j;
    }
    store_word(bits + i / 8, word);
  }
  uint64_t word = 0;
  for (size_t i = whole; i < n; ++i) {
    if (key_of(x[i]) < low) continue;
    word |= uint64_t{1} << (i - whole);
    values[count++] = x[i];
  }
  store_some(bits + whole / 8, word, (n - whole + 7) / 8);
  return count;
}

size_t collect(const float* x, size_t n, uint32_t high, uint32_t* keys, uint32_t* largest) {
  const typename Lanes::Keys bound = Lanes::broadcast(high);
  typename Lanes::Keys top = Lanes::broadcast(*largest);
  const size_t whole = n / Lanes::kLanes * Lanes::kLanes;
  size_t count = 0;
  for (size_t i = 0; i < whole; i += Lanes::kLanes) {
    const typename Lanes::Keys k = Lanes::keys(x + i);
    const uint64_t m = Lanes::below(k, bound);
    top = Lanes::larger(top, k);
    Lanes::append(k, m, keys + count);
    count += Lanes::count(m);
  }
  *largest = Lanes::largest(top);
  for (size_t i = whole; i < n; ++i) {
    const uint32_t k = key_of(x[i]);
    *largest = k > *largest ? k : *largest;
    if (k < high) keys[count++] = k;
  }
  return count;
}

// The lowest of the tied lanes, at most *ties of them.
inline uint64_t first_ties(uint64_t tied, size_t* ties) {
  uint64_t taken = 0;
  for (; tied != 0 && *ties != 0; tied &= tied - 1, --*ties) taken |= tied & -tied;
  return taken;
}

size_t refine(const float* x, size_t n, uint32_t threshold, size_t* ties, uint8_t* bits,
              float* values) {
  const typename Lanes::Keys bound = Lanes::broadcast(threshold);
  const size_t whole = n / 64 * 64;
  size_t count = 0;
  for (size_t i = 0; i < whole; i += 64) {
    uint64_t word = 0;
#pragma GCC unroll 8
    for (size_t j = 0; j < 64; j += Lanes::kLanes) {
      const typename Lanes::Keys k = Lanes::keys(x + i + j);
      uint64_t m = Lanes::at_least(k, bound);
      const uint64_t tied = Lanes::equal(k, bound);
      if (tied != 0) m = (m & ~tied) | first_ties(tied, ties);
      Lanes::append(x + i + j, m, values + count);
      count += Lanes::count(m);
      word |= m << j;
    }
    store_word(bits + i / 8, word);
  }
  uint64_t word = 0;
  for (size_t i = whole; i < n; ++i) {
    const uint32_t k = key_of(x[i]);
    if (k < threshold || (k == threshold && *ties == 0)) continue;
    if (k == threshold) --*ties;
    word |= uint64_t{1} << (i - whole);
    values[count++] = x[i];
  }
  store_some(bits + whole / 8, word, (n - whole + 7) / 8);
  return count;
}

}  // namespace
}  // namespace sparsefl::codec
