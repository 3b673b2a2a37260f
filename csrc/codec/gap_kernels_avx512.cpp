#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/gap_kernels.h"

#pragma GCC push_options
#pragma GCC target( \
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512bitalg,bmi,bmi2,popcnt")

namespace sparsefl::codec {
namespace {

#include "codec/gap_positions_avx512.inl"
#include "codec/set_bits.inl"

constexpr __mmask32 kAllLanes = ~__mmask32{0};

__m512i shifted(__m512i gaps, __m128i by) { return _mm512_maskz_srl_epi16(kAllLanes, gaps, by); }

uint64_t sum_of_lanes(__m512i sums) {
  uint32_t each[16];
  store(each, sums);
  uint64_t sum = 0;
  for (const uint32_t lane : each) sum += lane;
  return sum;
}

void sum_quotients(const uint16_t* gaps, size_t count, int shift, uint64_t* sums) {
  const __m128i by = _mm_cvtsi32_si128(shift);
  const __m512i ones = _mm512_set1_epi16(1);
  __m512i sum[3] = {zeros(), zeros(), zeros()};
  size_t i = 0;
  // A quotient has fewer than 16 bits: its sign is clear.
  const auto add = [&](__m512i g) {
    const __m512i q = shifted(g, by);
    sum[0] = _mm512_add_epi32(sum[0], _mm512_madd_epi16(q, ones));
    sum[1] = _mm512_add_epi32(sum[1], _mm512_madd_epi16(_mm512_srli_epi16(q, 1), ones));
    sum[2] = _mm512_add_epi32(sum[2], _mm512_madd_epi16(_mm512_srli_epi16(q, 2), ones));
  };
  for (; i + kLanes <= count; i += kLanes) add(load(gaps + i));
  if (i < count) add(_mm512_maskz_loadu_epi16((1u << (count - i)) - 1, gaps + i));
  for (int j = 0; j < 3; ++j) sums[j] = sum_of_lanes(sum[j]);
}

void clip_heads(const uint16_t* gaps, size_t count, int shift, uint16_t most, uint16_t* out) {
  const __m128i by = _mm_cvtsi32_si128(shift);
  const __m512i limit = _mm512_set1_epi16(static_cast<short>(most));
  for (size_t i = 0; i < count; i += kLanes)
    store(out + i, _mm512_maskz_min_epu16(kAllLanes, shifted(load(gaps + i), by), limit));
}

void find_heads(const uint16_t* gaps, size_t count, int shift, uint8_t* out) {
  const __m128i by = _mm_cvtsi32_si128(shift);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    store(out + i, _mm512_maskz_cvtepi16_epi8(kAllLanes, shifted(load(gaps + i), by)));
  for (; i < count; ++i) out[i] = static_cast<uint8_t>(gaps[i] >> shift);
}

// Bytes [0, 4 width) of the lows of 32 gaps, zeros after them or anything.
struct Packer {
  explicit Packer(int width)
      : mask(_mm512_set1_epi16(static_cast<short>((1 << width) - 1))),
        scale(_mm512_set1_epi32(1 | 1 << (16 + width))),
        two(_mm_cvtsi32_si128(32 - 2 * width)),
        four(_mm_cvtsi32_si128(4 * width)),
        rest(_mm_cvtsi32_si128(64 - 4 * width)) {
    uint8_t index[64];
    for (int j = 0; j < 64; ++j)
      index[j] = static_cast<uint8_t>(j < 4 * width ? 16 * (j / width) + j % width : 0);
    order = load(index);
  }

  __m512i operator()(__m512i gaps) const {
    // Pairs in 32 bits, quads in 64, eights in 128, each from the lowest bit up.
    const __m512i pair = _mm512_madd_epi16(_mm512_and_si512(gaps, mask), scale);
    const __m512i upper = _mm512_maskz_srl_epi64(
        0xFF, _mm512_and_si512(pair, _mm512_set1_epi64(static_cast<long long>(0xFFFFFFFF00000000))),
        two);
    const __m512i quad =
        _mm512_or_si512(upper, _mm512_and_si512(pair, _mm512_set1_epi64(0xFFFFFFFF)));
    const __m512i swapped = _mm512_maskz_shuffle_epi32(0xFFFF, quad, _MM_PERM_BADC);
    const __m512i lower = _mm512_or_si512(quad, _mm512_maskz_sll_epi64(0xFF, swapped, four));
    const __m512i eight = _mm512_mask_srl_epi64(lower, 0xAA, quad, rest);
    return _mm512_maskz_permutexvar_epi8(kAll, order, eight);
  }

  __m512i mask, scale, order;
  __m128i two, four, rest;
};

void pack_lows(const uint16_t* gaps, size_t count, int width, uint8_t* out) {
  const Packer pack(width);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes, out += 4 * width) store(out, pack(load(gaps + i)));
  if (i < count) store(out, pack(_mm512_maskz_loadu_epi16((1u << (count - i)) - 1, gaps + i)));
}

// A string of bits from the lowest up, of which fewer than 8 wait for more.
struct Writer {
  uint8_t* out;
  uint64_t held;
  uint64_t fill;

  // 1 <= length <= 64
  __attribute__((always_inline)) void put(uint64_t bits, uint64_t length) {
    if (__builtin_expect(fill + length > 64, 0)) {
      put_few(bits & 0xFFFFFFFF, 32);
      bits >>= 32;
      length -= 32;
    }
    put_few(bits, length);
  }
  __attribute__((always_inline)) void put_few(uint64_t bits, uint64_t length) {
    held |= bits << fill;
    __builtin_memcpy(out, &held, sizeof held);
    fill += length;
    out += fill >> 3;
    held = fill >= 64 ? 0 : held >> (fill & 56);
    fill &= 7;
  }
  void put_unary(uint32_t zeros) {
    for (; zeros >= 48; zeros -= 48) put(0, 48);
    put(uint64_t{1} << zeros, zeros + 1);
  }
};

// Appends the unary codes of 32 quotients below 8: a byte each, the bits that count pushed
// together.
inline void put_short_group(__m512i quotients, Writer* writer) {
  const __m256i q = _mm512_maskz_cvtepi16_epi8(~__mmask32{0}, quotients);
  alignas(32) uint64_t codes[4], masks[4];
  store(codes, _mm256_shuffle_epi8(load_half(kTables.ones), q));
  store(masks, _mm256_shuffle_epi8(load_half(kTables.masks), q));
  for (int j = 0; j < 4; j += 2) {
    const auto length = static_cast<uint64_t>(__builtin_popcountll(masks[j]));
    const auto length2 = static_cast<uint64_t>(__builtin_popcountll(masks[j + 1]));
    const uint64_t bits = _pext_u64(codes[j], masks[j]);
    const uint64_t bits2 = _pext_u64(codes[j + 1], masks[j + 1]);
    if (__builtin_expect(length + length2 <= 57, 1)) {
      writer->put_few(bits | bits2 << length, length + length2);
    } else {
      writer->put(bits, length);
      writer->put(bits2, length2);
    }
  }
}

// Appends the unary codes of 32 quotients. A quotient of 15 ends 16 bits, so that four take 64 at
// most; eight that take more, few at a good parameter, go one by one.
inline void put_unary_group(__m512i quotients, Writer* writer) {
  const __m512i ones = _mm512_set1_epi16(1);
  const __m512i lower32 = _mm512_set1_epi64(0xFFFFFFFF);
  const __m512i bits = _mm512_sllv_epi16(ones, quotients);
  const __m512i lengths = _mm512_add_epi16(quotients, ones);
  const __m512i lower16 = _mm512_set1_epi32(0xFFFF);
  const __m512i pair_shift = _mm512_and_si512(lengths, lower16);
  const __m512i pairs = _mm512_or_si512(
      _mm512_and_si512(bits, lower16),
      _mm512_maskz_sllv_epi32(0xFFFF, _mm512_maskz_srli_epi32(0xFFFF, bits, 16), pair_shift));
  const __m512i pair_lengths = _mm512_madd_epi16(lengths, ones);
  const __m512i quad_shift = _mm512_and_si512(pair_lengths, lower32);
  const __m512i quads = _mm512_or_si512(
      _mm512_and_si512(pairs, lower32),
      _mm512_maskz_sllv_epi64(0xFF, _mm512_maskz_srli_epi64(0xFF, pairs, 32), quad_shift));
  const __m512i quad_lengths =
      _mm512_add_epi64(quad_shift, _mm512_maskz_srli_epi64(0xFF, pair_lengths, 32));
  const __m512i swapped = _mm512_maskz_shuffle_epi32(0xFFFF, quads, _MM_PERM_BADC);
  const __m512i eights =
      _mm512_or_si512(quads, _mm512_maskz_sllv_epi64(0xFF, swapped, quad_lengths));
  const __m512i eight_lengths = _mm512_add_epi64(
      quad_lengths, _mm512_maskz_shuffle_epi32(0xFFFF, quad_lengths, _MM_PERM_BADC));
  const bool long_codes = _mm512_cmpgt_epu16_mask(quotients, _mm512_set1_epi16(15)) != 0 ||
                          _mm512_cmpgt_epu64_mask(eight_lengths, _mm512_set1_epi64(64)) != 0;
  if (__builtin_expect(long_codes, 0)) {
    uint16_t each[kLanes];
    store(each, quotients);
    for (const uint16_t q : each) writer->put_unary(q);
    return;
  }
  alignas(64) uint64_t codes[8], sizes[8];
  store(codes, eights);
  store(sizes, eight_lengths);
  for (int j = 0; j < 8; j += 2) writer->put(codes[j], sizes[j]);
}

size_t write_unary(const uint16_t* gaps, size_t count, int shift, uint8_t* out) {
  const __m128i by = _mm_cvtsi32_si128(shift);
  Writer writer{out, 0, 0};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m512i q = _mm512_maskz_srl_epi16(~__mmask32{0}, load(gaps + i), by);
    if (__builtin_expect(_mm512_test_epi16_mask(q, _mm512_set1_epi16(-8)) == 0, 1))
      put_short_group(q, &writer);
    else
      put_unary_group(q, &writer);
  }
  for (; i < count; ++i) writer.put_unary(static_cast<uint32_t>(gaps[i] >> shift));
  return static_cast<size_t>(writer.out - out) + (writer.fill != 0);
}

size_t find_quotients(const uint8_t* words, size_t count, uint32_t* before, uint16_t* out,
                      bool* wide) {
  uint16_t held[32 + kIndexBlock + kGapSlack];
  uint16_t* positions = held + 32;
  const size_t found = find_positions<false>(words, count, 0, positions);
  const uint32_t total = static_cast<uint32_t>(64 * count);
  if (found == 0) {
    *before += total;
    return 0;
  }
  *wide |= *before + positions[0] >= 65536;
  positions[-1] = static_cast<uint16_t>(~*before);  // -1 - before
  *before = total - 1 - positions[found - 1];
  for (size_t i = 0; i < found; i += kLanes) {
    const __m512i last = _mm512_xor_si512(load(positions + i - 1), _mm512_set1_epi32(-1));
    store(out + i, _mm512_add_epi16(load(positions + i), last));
  }
  return found;
}

// The sums of lanes 0 to i, in lane i.
inline __m512i prefix_sums(__m512i v) {
  const __m512i last_of_row = _mm512_set_epi32(11, 11, 11, 11, 0, 0, 0, 0, 3, 3, 3, 3, 0, 0, 0, 0);
  v = _mm512_add_epi32(v, _mm512_bslli_epi128(v, 4));
  v = _mm512_add_epi32(v, _mm512_bslli_epi128(v, 8));
  v = _mm512_add_epi32(v, _mm512_maskz_permutexvar_epi32(0xF0F0, last_of_row, v));
  return _mm512_add_epi32(v, _mm512_maskz_permutexvar_epi32(0xFF00, _mm512_set1_epi32(7), v));
}

uint32_t make_indices(const uint16_t* quotients, const uint8_t* lows, size_t count, int width,
                      uint32_t next, uint32_t* out) {
  uint8_t bytes[64];
  uint32_t shifts[16];
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 4; ++j) bytes[4 * i + j] = static_cast<uint8_t>(i * width / 8 + j);
    shifts[i] = static_cast<uint32_t>(i * width % 8);
  }
  const __m512i order = load(bytes);
  const __m512i shift = load(shifts);
  const __m512i mask = _mm512_set1_epi32((1 << width) - 1);
  const __m128i by = _mm_cvtsi32_si128(width);
  const __m512i ones = _mm512_set1_epi32(1);
  const __m512i last_lane = _mm512_set1_epi32(15);
  __m512i before = _mm512_set1_epi32(static_cast<int>(next - 1));
  for (size_t i = 0; i < count; i += 16, lows += 2 * width) {
    const __m512i q = _mm512_maskz_cvtepu16_epi32(
        0xFFFF, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quotients + i)));
    const __m512i spread = _mm512_maskz_permutexvar_epi8(kAll, order, load(lows));
    const __m512i low = _mm512_and_si512(_mm512_maskz_srlv_epi32(0xFFFF, spread, shift), mask);
    const __m512i gap = _mm512_or_si512(_mm512_maskz_sll_epi32(0xFFFF, q, by), low);
    const __m512i at = _mm512_add_epi32(prefix_sums(_mm512_add_epi32(gap, ones)), before);
    if (count - i >= 16) {
      store(out + i, at);
    } else {
      _mm512_mask_storeu_epi32(out + i, static_cast<__mmask16>((1u << (count - i)) - 1), at);
      uint32_t each[16];
      store(each, at);
      return each[count - i - 1] + 1;
    }
    before = _mm512_maskz_permutexvar_epi32(0xFFFF, last_lane, at);
  }
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm256_castsi256_si128(lower_half(before)))) + 1;
}

}  // namespace

const GapKernels avx512::kGapKernels = {find_gaps,      sum_quotients, clip_heads,
                                        find_heads,     pack_lows,     write_unary,
                                        find_quotients, make_indices,  set_bits};

bool avx512::has_gap_kernels() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
         __builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("bmi2");
}

}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
