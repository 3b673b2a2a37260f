#if defined(__x86_64__)
#include <immintrin.h>

#include <array>

#include "codec/rans_kernels.h"

#pragma GCC push_options
#pragma GCC target("avx2,popcnt")

namespace sparsefl::codec {
namespace {

// kPlaces[m][j]: which of the next words lane j takes where the lanes of mask m
// take one each.
struct Places {
  alignas(64) uint8_t of[256][8];
};
constexpr Places make_places() {
  Places places{};
  for (int mask = 0; mask < 256; ++mask)
    for (int j = 0, next = 0; j < 8; ++j)
      if (mask >> j & 1) places.of[mask][j] = static_cast<uint8_t>(next++);
  return places;
}
constexpr Places kPlaces = make_places();

__m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

// The table's entries of eight slots. Loads one by one take half the time of a
// gather.
__m256i look_up(const SlotTable& t, __m256i slots) {
  alignas(32) uint32_t at[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(at), slots);
  const auto four = [&](const uint32_t* of) {
    __m128i entries = _mm_cvtsi32_si128(static_cast<int>(t.slots[of[0]]));
    entries = _mm_insert_epi32(entries, static_cast<int>(t.slots[of[1]]), 1);
    entries = _mm_insert_epi32(entries, static_cast<int>(t.slots[of[2]]), 2);
    return _mm_insert_epi32(entries, static_cast<int>(t.slots[of[3]]), 3);
  };
  return _mm256_set_m128i(four(at + 4), four(at));
}

// One symbol of each of eight lanes: returns the table's entries.
__m256i decode_eight(const SlotTable& t, __m256i* x, const uint8_t** words) {
  const __m256i twelve = _mm256_set1_epi32(0xFFF);
  const __m256i entry = look_up(t, _mm256_and_si256(*x, twelve));
  const __m256i frequency = _mm256_and_si256(_mm256_srli_epi32(entry, 8), twelve);
  const __m256i next = _mm256_add_epi32(_mm256_mullo_epi32(frequency, _mm256_srli_epi32(*x, 12)),
                                        _mm256_srli_epi32(entry, 20));
  const __m256i takes = _mm256_cmpeq_epi32(_mm256_srli_epi32(next, 16), _mm256_setzero_si256());
  const int mask = _mm256_movemask_ps(_mm256_castsi256_ps(takes));
  const __m256i given =
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(*words)));
  const __m256i place =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces.of[mask])));
  const __m256i taken =
      _mm256_or_si256(_mm256_slli_epi32(next, 16), _mm256_permutevar8x32_epi32(given, place));
  *x = _mm256_blendv_epi8(next, taken, takes);
  *words += 2 * _mm_popcnt_u32(static_cast<unsigned>(mask));
  return entry;
}

// The symbols of four times eight entries, in order.
__m256i symbols_of(const __m256i* entry) {
  const __m256i byte = _mm256_set1_epi32(0xFF);
  const __m256i lower =
      _mm256_packus_epi32(_mm256_and_si256(entry[0], byte), _mm256_and_si256(entry[1], byte));
  const __m256i upper =
      _mm256_packus_epi32(_mm256_and_si256(entry[2], byte), _mm256_and_si256(entry[3], byte));
  return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(lower, upper),
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

template <size_t kStreams>
size_t decode(const SlotTable& table, uint32_t* states, Input* in, size_t steps, uint8_t* symbols) {
  __m256i x[4 * kStreams];
  const uint8_t* words[kStreams];
  for (size_t j = 0; j < 4 * kStreams; ++j) x[j] = load(states + 8 * j);
  for (size_t s = 0; s < kStreams; ++s) words[s] = in[s].words;
  size_t i = 0;
  for (; i < steps && in[0].limit - words[0] >= kStepBytes &&
         in[kStreams - 1].limit - words[kStreams - 1] >= kStepBytes;
       ++i) {
    for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 2
      for (size_t s = 0; s < kStreams; ++s, symbols += kStreamLanes) {
        __m256i entry[4];
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; ++j) entry[j] = decode_eight(table, x + 4 * s + j, words + s);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(symbols), symbols_of(entry));
      }
    }
  }
  for (size_t s = 0; s < kStreams; ++s) in[s].words = words[s];
  for (size_t j = 0; j < 4 * kStreams; ++j)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(states + 8 * j), x[j]);
  return i;
}

// kGiven.of[m]: brings the words of the lanes of mask m to the end of eight.
struct Given {
  alignas(64) uint8_t of[256][16];
};
constexpr Given make_given() {
  Given given{};
  for (int mask = 0; mask < 256; ++mask)
    for (int j = 7, next = 7; j >= 0; --j)
      if (mask >> j & 1) {
        given.of[mask][2 * next] = static_cast<uint8_t>(2 * j);
        given.of[mask][2 * next + 1] = static_cast<uint8_t>(2 * j + 1);
        --next;
      }
  return given;
}
constexpr Given kGiven = make_given();

// What eight symbols need, in the lanes of two vectors.
struct Quotients {
  __m256i place;  // frequency, and the first slot 16 bits up
  __m256 reciprocal;
};

Quotients look_up(const QuotientTable& t, const uint8_t* s) {
  const auto two = [&](int i) {
    const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(&t.of[s[i]]));
    const auto* const second = reinterpret_cast<const double*>(&t.of[s[i + 1]]);
    return _mm_loadh_pd(_mm_castsi128_pd(first), second);
  };
  const __m256 even = _mm256_castpd_ps(_mm256_set_m128d(two(4), two(0)));
  const __m256 odd = _mm256_castpd_ps(_mm256_set_m128d(two(6), two(2)));
  return {_mm256_castps_si256(_mm256_shuffle_ps(even, odd, 0x88)),
          _mm256_shuffle_ps(even, odd, 0xDD)};
}

// Puts a symbol more into each of eight lanes, and the words they give below
// `end`.
__m256i encode_eight(const QuotientTable& t, const uint8_t* symbols, __m256i x, uint8_t** end) {
  const Quotients s = look_up(t, symbols);
  const __m256i f = _mm256_and_si256(s.place, _mm256_set1_epi32(0xFFFF));
  const __m256i start = _mm256_srli_epi32(s.place, 16);
  const __m256i keeps = _mm256_cmpgt_epi32(f, _mm256_srli_epi32(x, 20));
  const int mask = 0xFF ^ _mm256_movemask_ps(_mm256_castsi256_ps(keeps));
  const __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(0xFFFF));
  const __m128i words =
      _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
  const __m128i given =
      _mm_shuffle_epi8(words, _mm_load_si128(reinterpret_cast<const __m128i*>(kGiven.of[mask])));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(*end - 16), given);
  *end -= 2 * _mm_popcnt_u32(static_cast<unsigned>(mask));
  x = _mm256_blendv_epi8(_mm256_srli_epi32(x, 16), x, keeps);

  // A float of x, that of a signed number and 2^32 where that is negative. The
  // reciprocal is so much too small that the quotient is right or one less.
  const __m256 wrapped =
      _mm256_and_ps(_mm256_castsi256_ps(_mm256_srai_epi32(x, 31)), _mm256_set1_ps(4294967296.0f));
  const __m256 real = _mm256_add_ps(_mm256_cvtepi32_ps(x), wrapped);
  const __m256i q = _mm256_cvttps_epi32(_mm256_mul_ps(real, s.reciprocal));
  const __m256i r = _mm256_sub_epi32(x, _mm256_mullo_epi32(q, f));
  const __m256i right = _mm256_cmpgt_epi32(f, r);
  const __m256i more =
      _mm256_andnot_si256(right, _mm256_sub_epi32(_mm256_set1_epi32(kProbabilityOne), f));
  return _mm256_add_epi32(_mm256_add_epi32(_mm256_slli_epi32(q, kProbabilityBits), r),
                          _mm256_add_epi32(start, more));
}

template <size_t kStreams>
void encode(const QuotientTable& t, const uint8_t* symbols, size_t groups, uint32_t* states,
            uint8_t** ends) {
  __m256i x[4 * kStreams];
  uint8_t* end[kStreams];
  for (size_t j = 0; j < 4 * kStreams; ++j) x[j] = load(states + 8 * j);
  for (size_t s = 0; s < kStreams; ++s) end[s] = ends[s];
  for (const uint8_t* at = symbols + kStreamLanes * kStreams * groups; at != symbols;) {
    at -= kStreamLanes * kStreams;
#pragma GCC unroll 4
    for (size_t back = 1; back <= 4; ++back) {
      const size_t j = 4 - back;
#pragma GCC unroll 2
      for (size_t s = 0; s < kStreams; ++s)
        x[4 * s + j] = encode_eight(t, at + kStreamLanes * s + 8 * j, x[4 * s + j], end + s);
    }
  }
  for (size_t s = 0; s < kStreams; ++s) ends[s] = end[s];
  for (size_t j = 0; j < 4 * kStreams; ++j)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(states + 8 * j), x[j]);
}

}  // namespace

size_t decode_steps_avx2(const SlotTable& table, uint32_t* states, size_t streams, Input* in,
                         size_t steps, uint8_t* symbols) {
  if (streams == 1) return decode<1>(table, states, in, steps, symbols);
  return decode<2>(table, states, in, steps, symbols);
}

void encode_groups_avx2(const QuotientTable& table, const uint8_t* symbols, size_t groups,
                        size_t streams, uint32_t* states, uint8_t** ends) {
  if (streams == 1) return encode<1>(table, symbols, groups, states, ends);
  encode<2>(table, symbols, groups, states, ends);
}

}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
