// 32 lanes as two vectors of 16-bit words, the lower and the upper halves of
// the states. Tables are looked up in registers, a gather of 16 takes longer
// than all the rest, and by bytes, of two streams in one vector.
#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/rans_kernels.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx512bitalg,popcnt,bmi2")

namespace sparsefl::codec {
namespace {

// The unmasked intrinsics of GCC 12 warn of their own uninitialised operand.
constexpr __mmask32 kAll16 = 0xFFFFFFFF;
constexpr __mmask64 kAll8 = ~uint64_t{0};

// 64 bytes in a register: an expansion from memory takes several times as long.
__m512i load_apart(const uint8_t* from) {
  __m512i loaded = _mm512_loadu_si512(from);
  asm("" : "+v"(loaded));
  return loaded;
}

struct Lanes {
  __m512i low, high;
};

Lanes load_lanes(const uint32_t* states) {
  uint16_t low[32], high[32];
  for (int i = 0; i < 32; ++i) {
    low[i] = static_cast<uint16_t>(states[i]);
    high[i] = static_cast<uint16_t>(states[i] >> 16);
  }
  return {_mm512_loadu_si512(low), _mm512_loadu_si512(high)};
}

void store_lanes(Lanes lanes, uint32_t* states) {
  uint16_t low[32], high[32];
  _mm512_storeu_si512(low, lanes.low);
  _mm512_storeu_si512(high, lanes.high);
  for (int i = 0; i < 32; ++i) states[i] = low[i] | uint32_t{high[i]} << 16;
}

// Bytes of a table of 128 or 256; `top` says which indices are 128 or more.
template <int kBytes>
[[gnu::always_inline]] inline __m512i look_up(const uint8_t* table, __m512i index, __mmask64 top) {
  const __m512i lower =
      _mm512_permutex2var_epi8(_mm512_load_si512(table), index, _mm512_load_si512(table + 64));
  if constexpr (kBytes <= 128) return lower;
  const __m512i upper = _mm512_permutex2var_epi8(_mm512_load_si512(table + 128), index,
                                                 _mm512_load_si512(table + 192));
  return _mm512_mask_mov_epi8(lower, top, upper);
}

// The even bytes of one, the odd bytes of the other.
__m512i even_odd(__m512i even, __m512i odd) {
  return _mm512_ternarylogic_epi32(_mm512_set1_epi16(0xFF), even, odd, 0xCA);
}

// Words of two looked-up bytes each: of the first stream's lanes, of the other's.
__m512i first_of(__m512i low, __m512i high) { return even_odd(low, _mm512_slli_epi16(high, 8)); }
__m512i second_of(__m512i low, __m512i high) { return even_odd(_mm512_srli_epi16(low, 8), high); }

// Which of the symbols that occur, in order, the states' lower 12 bits stand
// for: of the first stream's lanes in the even bytes, of the other's in the
// odd ones.
template <int kStreams>
[[gnu::always_inline]] inline __m512i ranks_of(const RankTable& t, const Lanes* x) {
  const __m512i low = x[0].low, other = x[kStreams - 1].low;
  const __m512i bucket = even_odd(_mm512_srli_epi16(low, 4), _mm512_slli_epi16(other, 4));
  const __m512i slot =
      _mm512_and_si512(even_odd(low, _mm512_slli_epi16(other, 8)), _mm512_set1_epi8(0xF));
  const __mmask64 top = _mm512_movepi8_mask(bucket);
  const __m512i lower = _mm512_and_si512(look_up<256>(t.starts_low, bucket, top),
                                         _mm512_shuffle_epi8(_mm512_load_si512(t.upto_low), slot));
  const __m512i upper = _mm512_and_si512(look_up<256>(t.starts_high, bucket, top),
                                         _mm512_shuffle_epi8(_mm512_load_si512(t.upto_high), slot));
  return _mm512_add_epi8(
      _mm512_add_epi8(look_up<256>(t.starts_before, bucket, top), _mm512_popcnt_epi8(lower)),
      _mm512_popcnt_epi8(upper));
}

// Advances the lanes of a stream past a symbol; `frequency` is 16 times itself,
// so that frequency * (x >> 12) has its lower word here.
[[gnu::always_inline]] inline void advance(__m512i frequency, __m512i start, Lanes* x,
                                           const uint8_t** words) {
  const __m512i slot = _mm512_and_si512(x->low, _mm512_set1_epi16(0xFFF));
  const __m512i top = _mm512_and_si512(x->low, _mm512_set1_epi16(static_cast<short>(0xF000)));
  const __m512i place =
      _mm512_add_epi16(_mm512_mulhi_epu16(frequency, top), _mm512_sub_epi16(slot, start));
  const __m512i low = _mm512_add_epi16(_mm512_mullo_epi16(frequency, x->high), place);
  const __m512i product = _mm512_mulhi_epu16(frequency, x->high);
  const __mmask32 carry = _mm512_cmplt_epu16_mask(low, place);
  const __mmask32 takes = _kandn_mask32(carry, _mm512_testn_epi16_mask(product, product));
  const __m512i high = _mm512_mask_sub_epi16(product, carry, product, _mm512_set1_epi16(-1));
  x->high = _mm512_mask_mov_epi16(high, takes, low);
  x->low = _mm512_mask_expand_epi16(low, takes, load_apart(*words));
  *words += 2 * _mm_popcnt_u32(takes);
}

// Words of a table of 64.
__m512i look_up_word(const uint16_t* table, __m512i index) {
  return _mm512_permutex2var_epi16(_mm512_load_si512(table), index, _mm512_load_si512(table + 32));
}

// One symbol of each lane.
template <int kSymbols, int kStreams>
[[gnu::always_inline]] inline void decode_group(const RankTable& t, Lanes* x, const uint8_t** words,
                                                uint8_t* symbols) {
  const __m512i rank = ranks_of<kStreams>(t, x);
  const __mmask64 top = kSymbols > 128 ? _mm512_movepi8_mask(rank) : 0;
  if constexpr (kSymbols <= 64) {
    advance(look_up_word(t.frequency, rank), look_up_word(t.start, rank), x, words);
    const __m512i other = _mm512_srli_epi16(rank, 8);
    if constexpr (kStreams == 2)
      advance(look_up_word(t.frequency, other), look_up_word(t.start, other), x + 1, words + 1);
  } else {
    const __m512i frequency_low = look_up<kSymbols>(t.frequency_low, rank, top);
    const __m512i frequency_high = look_up<kSymbols>(t.frequency_high, rank, top);
    const __m512i start_low = look_up<kSymbols>(t.start_low, rank, top);
    const __m512i start_high = look_up<kSymbols>(t.start_high, rank, top);
    advance(first_of(frequency_low, frequency_high), first_of(start_low, start_high), x, words);
    if constexpr (kStreams == 2)
      advance(second_of(frequency_low, frequency_high), second_of(start_low, start_high), x + 1,
              words + 1);
  }
  const __m512i found = look_up<kSymbols>(t.symbol, rank, top);
  if constexpr (kStreams == 1)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(symbols),
                        _mm512_maskz_cvtepi16_epi8(kAll16, found));
  else
    _mm512_storeu_si512(symbols,
                        _mm512_maskz_permutexvar_epi8(kAll8, _mm512_load_si512(t.unzip), found));
}

template <int kSymbols, int kStreams>
size_t decode(const RankTable& t, uint32_t* states, Input* in, size_t steps, uint8_t* symbols) {
  Lanes x[kStreams];
  const uint8_t* words[kStreams];
  for (int s = 0; s < kStreams; ++s) {
    x[s] = load_lanes(states + kStreamLanes * s);
    words[s] = in[s].words;
  }
  constexpr size_t kLanes = kStreamLanes * kStreams;
  size_t i = 0;
  for (; i < steps && in[0].limit - words[0] >= kStepBytes &&
         in[kStreams - 1].limit - words[kStreams - 1] >= kStepBytes;
       ++i, symbols += 2 * kLanes) {
    decode_group<kSymbols, kStreams>(t, x, words, symbols);
    decode_group<kSymbols, kStreams>(t, x, words, symbols + kLanes);
  }
  for (int s = 0; s < kStreams; ++s) {
    store_lanes(x[s], states + kStreamLanes * s);
    in[s].words = words[s];
  }
  return i;
}

}  // namespace

size_t decode_steps_avx512(const RankTable& t, uint32_t* states, size_t streams, Input* in,
                           size_t steps, uint8_t* symbols) {
  const auto kernel = streams == 1       ? decode<256, 1>
                      : t.symbols <= 64  ? decode<64, 2>
                      : t.symbols <= 128 ? decode<128, 2>
                                         : decode<256, 2>;
  return kernel(t, states, in, steps, symbols);
}

namespace {

// What a group's symbols need, of the lanes of a stream.
struct Divisors {
  // 16 times the frequency; its reciprocal; 16 times the first slot plus the
  // shift.
  __m512i frequency, reciprocal, place;
};

// Puts a symbol more into each lane, and the words that lanes give below `end`.
[[gnu::always_inline]] inline void put(const Divisors& t, __m512i iota, Lanes* x, uint8_t** end) {
  const __m512i shift = _mm512_and_si512(t.place, _mm512_set1_epi16(15));
  const __m512i d = _mm512_sllv_epi16(t.frequency, shift);

  const __mmask32 gives = _mm512_cmpge_epu16_mask(x->high, t.frequency);
  const unsigned count = _mm_popcnt_u32(gives);
  const __m512i given = _mm512_maskz_compress_epi16(gives, x->low);
  const __m512i to = _mm512_add_epi16(iota, _mm512_set1_epi16(static_cast<short>(count)));
  _mm512_storeu_si512(*end - 64, _mm512_maskz_permutexvar_epi16(kAll16, to, given));
  *end -= 2 * count;
  const __m512i low = _mm512_mask_mov_epi16(x->low, gives, x->high);
  const __m512i high = _mm512_maskz_mov_epi16(~gives, x->high);

  // high:low / f by the reciprocal of f shifted up to have its top bit set
  // (Moeller and Granlund 2011, "Improved division by invariant integers",
  // algorithm 4, but for its last step).
  const __m512i one = _mm512_set1_epi16(1);
  const __m512i u1 = _mm512_shldv_epi16(high, low, shift);
  const __m512i u0 = _mm512_sllv_epi16(low, shift);
  const __m512i q0 = _mm512_add_epi16(_mm512_mullo_epi16(t.reciprocal, u1), u0);
  const __mmask32 carry = _mm512_cmplt_epu16_mask(q0, u0);
  __m512i q = _mm512_add_epi16(_mm512_mulhi_epu16(t.reciprocal, u1), _mm512_add_epi16(u1, one));
  __m512i r = _mm512_sub_epi16(u0, _mm512_mullo_epi16(q, d));
  q = _mm512_mask_add_epi16(q, carry, q, one);
  r = _mm512_mask_sub_epi16(r, carry, r, d);
  const __mmask32 over = _mm512_cmpgt_epu16_mask(r, q0);
  q = _mm512_mask_sub_epi16(q, over, q, one);
  r = _mm512_mask_add_epi16(r, over, r, d);
  // The rest of 16 f, or more than that, is a rest of f and the lower bits of
  // the quotient.
  const __m512i d16 = _mm512_srli_epi16(d, 4);
  const __m512i wide = _mm512_or_si512(_mm512_srli_epi16(t.reciprocal, 1),
                                       _mm512_set1_epi16(static_cast<short>(0x8000)));
  __m512i digit = _mm512_srli_epi16(_mm512_mulhi_epu16(r, wide), 11);
  __m512i rest = _mm512_sub_epi16(r, _mm512_mullo_epi16(digit, d16));
  const __mmask32 more = _mm512_cmpge_epu16_mask(rest, d16);
  digit = _mm512_mask_add_epi16(digit, more, digit, one);
  rest = _mm512_mask_sub_epi16(rest, more, rest, d16);
  x->high = _mm512_add_epi16(q, _mm512_srli_epi16(digit, 4));
  x->low = _mm512_add_epi16(
      _mm512_slli_epi16(digit, 12),
      _mm512_add_epi16(_mm512_srlv_epi16(rest, shift), _mm512_srli_epi16(t.place, 4)));
}

template <int kStreams>
void encode(const DivisorTable& t, const uint8_t* symbols, size_t groups, uint32_t* states,
            uint8_t** ends) {
  Lanes x[kStreams];
  for (int s = 0; s < kStreams; ++s) x[s] = load_lanes(states + kStreamLanes * s);
  uint8_t* end[kStreams];
  for (int s = 0; s < kStreams; ++s) end[s] = ends[s];
  const __m512i iota = _mm512_load_si512(t.iota);
  const __m512i zip = _mm512_load_si512(t.zip);
  for (const uint8_t* at = symbols + kStreamLanes * kStreams * groups; at != symbols;) {
    at -= kStreamLanes * kStreams;
    // Of the first stream in the even bytes, of the other in the odd ones.
    __m512i s;
    if constexpr (kStreams == 1) {
      const __m256i loaded = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
      s = _mm512_maskz_cvtepu8_epi16(kAll16, loaded);
    } else {
      s = _mm512_maskz_permutexvar_epi8(kAll8, zip, _mm512_loadu_si512(at));
    }
    const __mmask64 top = _mm512_movepi8_mask(s);
    const __m512i frequency_low = look_up<256>(t.frequency_low, s, top);
    const __m512i frequency_high = look_up<256>(t.frequency_high, s, top);
    const __m512i reciprocal_low = look_up<256>(t.reciprocal_low, s, top);
    const __m512i reciprocal_high = look_up<256>(t.reciprocal_high, s, top);
    const __m512i place_low = look_up<256>(t.place_low, s, top);
    const __m512i place_high = look_up<256>(t.place_high, s, top);
    put({first_of(frequency_low, frequency_high), first_of(reciprocal_low, reciprocal_high),
         first_of(place_low, place_high)},
        iota, x, end);
    if constexpr (kStreams == 2)
      put({second_of(frequency_low, frequency_high), second_of(reciprocal_low, reciprocal_high),
           second_of(place_low, place_high)},
          iota, x + 1, end + 1);
  }
  for (int s = 0; s < kStreams; ++s) {
    store_lanes(x[s], states + kStreamLanes * s);
    ends[s] = end[s];
  }
}

}  // namespace

void encode_groups_avx512(const DivisorTable& table, const uint8_t* symbols, size_t groups,
                          size_t streams, uint32_t* states, uint8_t** ends) {
  if (streams == 1) return encode<1>(table, symbols, groups, states, ends);
  encode<2>(table, symbols, groups, states, ends);
}

}  // namespace sparsefl::codec

#pragma GCC pop_options
#endif
