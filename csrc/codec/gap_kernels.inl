// The kernels in plain words; compiled for the base set, and for AVX2 what its vectors leave over.

inline uint64_t load_tail(const uint8_t* data, size_t bytes) {
  uint64_t word = 0;
  __builtin_memcpy(&word, data, bytes < 8 ? bytes : 8);
  return word;
}

bool find_gaps(const uint8_t* bits, size_t n, size_t, uint16_t* gaps) {
  const size_t bytes = (n + 7) / 8;
  uint32_t next = 0;
  uint32_t all = 0;
  for (size_t w = 0; 8 * w < bytes; ++w) {
    for (uint64_t word = load_tail(bits + 8 * w, bytes - 8 * w); word != 0; word &= word - 1) {
      const uint32_t at =
          static_cast<uint32_t>(64 * w) + static_cast<uint32_t>(__builtin_ctzll(word));
      *gaps++ = static_cast<uint16_t>(at - next);
      all |= at - next;
      next = at + 1;
    }
  }
  return all < 65536;
}

void sum_quotients(const uint16_t* gaps, size_t count, int shift, uint64_t* sums) {
  uint32_t sum[3] = {};
  for (size_t i = 0; i < count; ++i) {
    const uint32_t quotient = static_cast<uint32_t>(gaps[i]) >> shift;
    sum[0] += quotient;
    sum[1] += quotient >> 1;
    sum[2] += quotient >> 2;
  }
  for (int j = 0; j < 3; ++j) sums[j] = sum[j];
}

void clip_heads(const uint16_t* gaps, size_t count, int shift, uint16_t most, uint16_t* out) {
  for (size_t i = 0; i < count; ++i) {
    const auto head = static_cast<uint16_t>(gaps[i] >> shift);
    out[i] = head < most ? head : most;
  }
}

void find_heads(const uint16_t* gaps, size_t count, int shift, uint8_t* out) {
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(gaps[i] >> shift);
}

void pack_lows(const uint16_t* gaps, size_t count, int width, uint8_t* out) {
  const uint32_t mask = (1u << width) - 1;
  uint64_t held = 0;
  int fill = 0;
  for (size_t i = 0; i < count; ++i) {
    held |= uint64_t{gaps[i] & mask} << fill;
    fill += width;
    if (fill < 32) continue;
    __builtin_memcpy(out, &held, 4);
    out += 4;
    held >>= 32;
    fill -= 32;
  }
  __builtin_memcpy(out, &held, 8);
}

size_t write_unary(const uint16_t* gaps, size_t count, int shift, uint8_t* out) {
  const uint8_t* begin = out;
  uint64_t held = 0;
  int fill = 0;
  for (size_t i = 0; i < count; ++i) {
    int zeros = gaps[i] >> shift;
    // `fill` is below 8 here.
    for (; zeros >= 48; zeros -= 48) {
      __builtin_memcpy(out, &held, 8);
      fill += 48;
      out += fill / 8;
      held = 0;
      fill %= 8;
    }
    held |= uint64_t{1} << (fill + zeros);
    fill += zeros + 1;
    __builtin_memcpy(out, &held, 8);
    out += fill / 8;
    held = fill >= 64 ? 0 : held >> (fill & ~7);
    fill %= 8;
  }
  return static_cast<size_t>(out - begin) + (fill != 0);
}

size_t find_quotients(const uint8_t* words, size_t count, uint32_t* before, uint16_t* out,
                      bool* wide) {
  uint32_t clear = *before;
  size_t found = 0;
  for (size_t w = 0; w < count; ++w) {
    uint64_t word;
    __builtin_memcpy(&word, words + 8 * w, 8);
    uint32_t used = 0;
    for (; word != 0; word &= word - 1) {
      const uint32_t at = static_cast<uint32_t>(__builtin_ctzll(word));
      const uint32_t quotient = clear + at - used;
      *wide |= quotient >= 65536;
      out[found++] = static_cast<uint16_t>(quotient);
      clear = 0;
      used = at + 1;
    }
    clear += 64 - used;
  }
  *before = clear;
  return found;
}

uint32_t make_indices(const uint16_t* quotients, const uint8_t* lows, size_t count, int width,
                      uint32_t next, uint32_t* out) {
  const uint32_t mask = (1u << width) - 1;
  size_t at = 0;
  for (size_t i = 0; i < count; ++i, at += static_cast<size_t>(width)) {
    uint32_t word;
    __builtin_memcpy(&word, lows + at / 8, 4);
    const uint32_t low = (word >> (at % 8)) & mask;
    out[i] = next + (uint32_t{quotients[i]} << width) + low;
    next = out[i] + 1;
  }
  return next;
}

#include "codec/set_bits.inl"

constexpr GapKernels kTable = {find_gaps,   sum_quotients,  clip_heads,   find_heads, pack_lows,
                               write_unary, find_quotients, make_indices, set_bits};
