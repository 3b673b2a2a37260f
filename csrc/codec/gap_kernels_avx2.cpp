#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/gap_kernels.h"

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")

namespace sparsefl::codec {
namespace {

// What has no vectors here, and what these leave over.
namespace plain {
#include "codec/gap_kernels.inl"
}  // namespace plain

// Where fewer than one bit in so many is set, words are searched for them; else each byte's places
// come from a table.
constexpr size_t kFewOneIn = 64;
constexpr size_t kEight = 8;

__m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
void store(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
__m128i load_half(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
uint64_t load_word(const void* p) {
  uint64_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

// For each byte the places of its set bits, then zeros.
struct Places {
  alignas(64) uint8_t of[256][8];
};
constexpr Places make_places() {
  Places places{};
  for (int byte = 0; byte < 256; ++byte)
    for (int bit = 0, set = 0; bit < 8; ++bit)
      if (byte >> bit & 1) places.of[byte][set++] = static_cast<uint8_t>(bit);
  return places;
}
constexpr Places kPlaces = make_places();

// Writes the positions of the set bits of a word, modulo 2^16 and from `first` on, and up to seven
// elements of no meaning. Returns their end.
inline uint16_t* put_positions(uint64_t word, uint16_t first, uint16_t* out) {
  __m128i base = _mm_set1_epi16(static_cast<short>(first));
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i, word >>= 8) {
    const auto byte = static_cast<uint8_t>(word);
    const __m128i places =
        _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces.of[byte])));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_add_epi16(places, base));
    out += _mm_popcnt_u32(byte);
    base = _mm_add_epi16(base, _mm_set1_epi16(8));
  }
  return out;
}

// Writes `count` distances less one of positions modulo 2^16, the first from the one before `at`,
// and up to 15 elements of no meaning.
inline void subtract(const uint16_t* at, size_t count, uint16_t* gaps) {
  const __m256i one = _mm256_set1_epi16(-1);
  for (size_t i = 0; i < count; i += 16) {
    const __m256i distance = _mm256_sub_epi16(load(at + i), load(at + i - 1));
    store(gaps + i, _mm256_add_epi16(distance, one));
  }
}

bool find_gaps(const uint8_t* bits, size_t n, size_t count, uint16_t* gaps) {
  if (n / (count + 1) >= kFewOneIn) return plain::find_gaps(bits, n, count, gaps);
  const size_t bytes = (n + 7) / 8;
  // Behind the last position of the block before.
  uint16_t at[1 + kIndexBlock + kGapSlack];
  at[0] = 0xFFFF;
  size_t last = ~size_t{0};  // one before position 0
  bool narrow = true;
  for (size_t b = 0; b < bytes; b += 8 * kUnaryWords) {
    const size_t here = bytes - b < 8 * kUnaryWords ? bytes - b : 8 * kUnaryWords;
    uint16_t* end = at + 1;
    size_t i = 0;
    for (; i + 8 <= here; i += 8)
      end = put_positions(load_word(bits + b + i), static_cast<uint16_t>(8 * (b + i)), end);
    if (i < here)
      end = put_positions(plain::load_tail(bits + b + i, here - i),
                          static_cast<uint16_t>(8 * (b + i)), end);
    const auto found = static_cast<size_t>(end - at) - 1;
    if (found == 0) continue;
    // A block is shorter than 2^16: positions in it are whole.
    const size_t base = 8 * b;
    const size_t from = base + static_cast<uint16_t>(at[1] - base);
    narrow &= from - last <= 65536;
    last = base + static_cast<uint16_t>(end[-1] - base);
    subtract(at + 1, found, gaps);
    gaps += found;
    at[0] = end[-1];
  }
  return narrow;
}

size_t find_quotients(const uint8_t* words, size_t count, uint32_t* before, uint16_t* out,
                      bool* wide) {
  uint16_t at[1 + kIndexBlock + kGapSlack];
  uint16_t* end = at + 1;
  for (size_t w = 0; w < count; ++w)
    end = put_positions(load_word(words + 8 * w), static_cast<uint16_t>(64 * w), end);
  const auto found = static_cast<size_t>(end - at) - 1;
  const auto bits = static_cast<uint32_t>(64 * count);
  if (found == 0) {
    *before += bits;
    return 0;
  }
  *wide |= *before + at[1] >= 65536;
  at[0] = static_cast<uint16_t>(0xFFFF - *before);
  subtract(at + 1, found, out);
  *before = bits - 1 - end[-1];
  return found;
}

// Four times 16 bits at once.
void pack_lows(const uint16_t* gaps, size_t count, int width, uint8_t* out) {
  const uint64_t mask = 0x0001000100010001 * ((uint64_t{1} << width) - 1);
  const int half = 4 * width;
  size_t i = 0;
  for (; i + kEight <= count; i += kEight, out += width) {
    const uint64_t low = _pext_u64(load_word(gaps + i), mask);
    const uint64_t high = _pext_u64(load_word(gaps + i + 4), mask);
    const uint64_t words[2] = {low | high << half, high >> (64 - half)};
    __builtin_memcpy(out, words, sizeof words);
  }
  plain::pack_lows(gaps + i, count - i, width, out);
}

// The sums of eight lanes up to each.
inline __m256i sums_of(__m256i v) {
  v = _mm256_add_epi32(v, _mm256_slli_si256(v, 4));
  v = _mm256_add_epi32(v, _mm256_slli_si256(v, 8));
  // The last sum of the lower half for all lanes of the upper.
  const __m256i lower = _mm256_permute2x128_si256(v, v, 0x08);
  return _mm256_add_epi32(v, _mm256_shuffle_epi32(lower, 0xFF));
}
inline __m256i last_of(__m256i v) { return _mm256_permutevar8x32_epi32(v, _mm256_set1_epi32(7)); }
inline __m256i widen(const uint16_t* p) { return _mm256_cvtepu16_epi32(load_half(p)); }

// How the lows of eight gaps are taken out of 16 bytes.
struct LowLanes {
  explicit LowLanes(int width) : mask(_mm256_set1_epi32((1 << width) - 1)) {
    alignas(32) uint8_t from[32];
    alignas(32) uint32_t by[8];
    for (int i = 0; i < 8; ++i) {
      by[i] = static_cast<uint32_t>(i * width % 8);
      for (int j = 0; j < 4; ++j) from[4 * i + j] = static_cast<uint8_t>(i * width / 8 + j);
    }
    bytes = load(from);
    shifts = load(by);
  }
  __m256i of(const uint8_t* lows) const {
    const __m256i all = _mm256_broadcastsi128_si256(load_half(lows));
    const __m256i words = _mm256_shuffle_epi8(all, bytes);
    return _mm256_and_si256(_mm256_srlv_epi32(words, shifts), mask);
  }
  __m256i bytes, shifts, mask;
};

uint32_t make_indices(const uint16_t* quotients, const uint8_t* lows, size_t count, int width,
                      uint32_t next, uint32_t* out) {
  if (width > kMaxPackedLow) return plain::make_indices(quotients, lows, count, width, next, out);
  const LowLanes lanes(width);
  const __m128i by = _mm_cvtsi32_si128(width);
  const __m256i one = _mm256_set1_epi32(1);
  // One less than the next index.
  __m256i before = _mm256_set1_epi32(static_cast<int>(next - 1));
  size_t i = 0;
  for (; i + kEight <= count; i += kEight, lows += width) {
    const __m256i quotient = _mm256_add_epi32(_mm256_sll_epi32(widen(quotients + i), by), one);
    const __m256i sums = sums_of(_mm256_add_epi32(quotient, lanes.of(lows)));
    store(out + i, _mm256_add_epi32(before, sums));
    before = _mm256_add_epi32(before, last_of(sums));
  }
  next = static_cast<uint32_t>(_mm256_cvtsi256_si32(before)) + 1;
  return plain::make_indices(quotients + i, lows, count - i, width, next, out + i);
}

// As positions, which vectors add up, whose bits are then set.
size_t write_unary(const uint16_t* gaps, size_t count, int shift, uint8_t* out) {
  constexpr size_t kBlock = 1024;
  const __m128i by = _mm_cvtsi32_si128(shift);
  const uint8_t no_lows[16] = {};
  uint16_t quotients[kBlock + 16];
  uint32_t at[kBlock];
  uint32_t next = 0;
  size_t cleared = 0;
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t here = count - begin < kBlock ? count - begin : kBlock;
    for (size_t i = 0; i < here; i += 16)
      store(quotients + i, _mm256_srl_epi16(load(gaps + begin + i), by));
    next = make_indices(quotients, no_lows, here, 0, next, at);
    const size_t end = (size_t{next} + 7) / 8;
    __builtin_memset(out + cleared, 0, end - cleared);
    cleared = end;
    plain::set_bits(at, here, out);
  }
  return cleared;
}

}  // namespace

const GapKernels avx2::kGapKernels = {
    find_gaps,   plain::sum_quotients, plain::clip_heads, plain::find_heads, pack_lows,
    write_unary, find_quotients,       make_indices,      plain::set_bits};
}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
